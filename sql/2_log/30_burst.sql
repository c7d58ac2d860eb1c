-- A burst is handed over in turns with what comes after it.  A window that is not through with its
-- first chunk is set aside, for the workflows that still have events in it, with a cursor of its own;
-- the cursor itself goes on with the events of all others.  So each event is one cursor's, by its
-- workflow: both are exact for the same reasons, and the order of a workflow's events stays.  The
-- cursor aside follows from snapshot to snapshot of the other, and ends when it has caught up.

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
  'The cursor aside, as if it were the cursor.';

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
  'A position whose cursor aside stands where this one does.';

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
  -- To see who has events there costs a pass over the window: not worth it for a short one, and too
  -- long for one call where it is huge.
  if here.window_snapshot is null or here.window_high - here.window_at not between 10000 and 3000000
  then
    return here;
  end if;
  select array_agg(f.workflow_id) into v_ids
    from (
      -- With the sources of a workflow, whose events are signals for its runs.
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
  'Sets what is left of a long window aside; the others have nothing in it, and are through with it.';

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
    -- It has caught up.  While the cursor has a window open it waits: its events are not in that one.
    if here.window_snapshot is null then
      here := notika._with_burst_cursor(here, null);
      here.burst_ids := '{}';
    end if;
    return here;
  end if;

  v_aside := notika._open_window(notika._burst_cursor(here), here.snapshot, here.high);
  -- What is known of those that the cursor's snapshot does not know holds here, too: it is the same.
  v_aside.window_low := here.low;
  return notika._with_burst_cursor(here, v_aside);
end;
$$;

comment on function notika._follow_cursor(notika.position) is
  'Lets the cursor aside, when it has no window open, go for what the cursor has seen since, or end '
  'when that is nothing.';
