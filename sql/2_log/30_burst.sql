-- A burst is dispatched in turns with the events that follow it. A window that is longer than its
-- first chunk is set aside, for the workflows that still have events in it, with a cursor of its
-- own; the main cursor continues with the events of all other workflows. So each event belongs to
-- one cursor, by its workflow: both are exact for the same reasons, and the events of a workflow
-- stay in order. The cursor that was set aside follows the main one from snapshot to snapshot, and
-- ends when it has caught up.

create or replace function notika._burst_cursor(here notika.position)
  returns notika.position
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_aside notika.position := _burst_cursor.here;
begin
  v_aside.snapshot := here.burst_snapshot;
  v_aside.high := here.burst_high;
  v_aside.low := here.burst_low;
  v_aside.pending_xids := here.burst_pending_xids;
  v_aside.pending_lows := here.burst_pending_lows;
  v_aside.window_snapshot := here.burst_window_snapshot;
  v_aside.window_low := here.burst_window_low;
  v_aside.window_high := here.burst_window_high;
  v_aside.window_at := here.burst_window_at;
  return v_aside;
end;
$$;

comment on function notika._burst_cursor(notika.position) is
  'The cursor that was set aside, as if it were the main one.';

create or replace function notika._with_burst_cursor(here notika.position, aside notika.position)
  returns notika.position
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position := _with_burst_cursor.here;
begin
  v_next.burst_snapshot := aside.snapshot;
  v_next.burst_high := aside.high;
  v_next.burst_low := aside.low;
  v_next.burst_pending_xids := aside.pending_xids;
  v_next.burst_pending_lows := aside.pending_lows;
  v_next.burst_window_snapshot := aside.window_snapshot;
  v_next.burst_window_low := aside.window_low;
  v_next.burst_window_high := aside.window_high;
  v_next.burst_window_at := aside.window_at;
  v_next.flow_ids := coalesce(aside.flow_ids, here.flow_ids);
  v_next.flow_priorities := coalesce(aside.flow_priorities, here.flow_priorities);
  v_next.flow_places := coalesce(aside.flow_places, here.flow_places);
  return v_next;
end;
$$;

comment on function notika._with_burst_cursor(notika.position, notika.position) is
  'A position whose cursor set aside is the given one.';

create or replace function notika._begin_burst(here notika.position)
  returns notika.position
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position;
  v_ids integer[];
begin
  -- Finding the workflows that have events in a window takes a pass over it: too expensive for a
  -- short window, and too long for one call if it is huge.
  if here.window_snapshot is null or here.window_high - here.window_at not between 10000 and 3000000
  then
    return here;
  end if;
  select array_agg(f.workflow_id) into v_ids
    from (
      -- Together with the sources of a workflow, whose events are signals for its runs.
      select m.workflow_id
        from (
          select e.workflow_id
            from notika._event as e
           where e.event_id > here.window_at and e.event_id <= here.window_high
             and pg_visible_in_snapshot(e.xid, here.window_snapshot)
             and not pg_visible_in_snapshot(e.xid, here.snapshot)
           group by e.workflow_id
        ) as r
        join notika.workflow as w on w.workflow_id = r.workflow_id
        join notika.workflow as m on split_part(m.name, ':', 1) = split_part(w.name, ':', 1)
       group by m.workflow_id
    ) as f;
  if v_ids is null then
    return here;
  end if;

  v_next := notika._with_burst_cursor(notika._close_window(here), here);
  v_next.burst_ids := v_ids;
  return v_next;
end;
$$;

comment on function notika._begin_burst(notika.position) is
  'Sets the rest of a long window aside. The other workflows have no events in it, so their '
  'window is complete.';

create or replace function notika._follow_cursor(here notika.position)
  returns notika.position
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_aside notika.position;
begin
  if here.burst_window_snapshot is not null then
    return here;
  end if;
  if here.burst_snapshot::text = here.snapshot::text and here.burst_high = here.high then
    -- It has caught up. While the main cursor has a window open it waits: its own events are not
    -- in that one.
    if here.window_snapshot is null then
      here := notika._with_burst_cursor(here, null);
      here.burst_ids := '{}';
    end if;
    return here;
  end if;

  v_aside := notika._open_window(notika._burst_cursor(here), here.snapshot, here.high);
  -- The events that the main cursor's snapshot does not see are those that this one does not see:
  -- it is the same snapshot.
  v_aside.window_low := here.low;
  return notika._with_burst_cursor(here, v_aside);
end;
$$;

comment on function notika._follow_cursor(notika.position) is
  'If the cursor that was set aside has no window open, opens one for what the main cursor has '
  'seen since, or ends it if there is nothing.';
