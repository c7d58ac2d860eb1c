-- The cursor: which events have been dispatched. Commit order is not the order of event_id, so the
-- cursor is a snapshot, after PgQ. A window is what the new snapshot sees and the last one did
-- not, in the order of event_id, read in chunks. A snapshot's xmax is the latest *completed* xid +
-- 1: transactions from there on may be running without being listed. So a bound on event_id is
-- safe only if it was read before an xid below that xmax was assigned. A dispatch keeps as its
-- `horizon` what it read before its own xid was assigned, for the dispatches that follow.

create or replace function notika._bound(here notika.position)
  returns bigint
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select least(
    case when (here).window_snapshot is null then (here).low
         else least((here).window_at, (here).window_low) end,
    (select min(l.low) from unnest((here).pending_lows) as l (low)),
    case when (here).burst_window_snapshot is null then (here).burst_low
         else least((here).burst_window_at, (here).burst_window_low) end,
    (select min(l.low) from unnest((here).burst_pending_lows) as l (low))
  );
$$;

comment on function notika._bound(notika.position) is
  'Every event up to this id has been dispatched, or was rolled back.';

create or replace function notika._dispatched(
  event_id bigint,
  xid xid8,
  workflow_id integer,
  here notika.position
)
  returns boolean
  language sql
  stable
begin atomic
  select workflow_id <> all ((here).burst_ids)
         and (event_id <= (here).high and pg_visible_in_snapshot(xid, (here).snapshot)
              or coalesce(
                   event_id <= (here).window_at
                     and pg_visible_in_snapshot(xid, (here).window_snapshot),
                   false
                 ))
      or workflow_id = any ((here).burst_ids)
         and (event_id <= (here).burst_high and pg_visible_in_snapshot(xid, (here).burst_snapshot)
              or coalesce(
                   event_id <= (here).burst_window_at
                     and pg_visible_in_snapshot(xid, (here).burst_window_snapshot),
                   false
                 ));
end;

comment on function notika._dispatched(bigint, xid8, integer, notika.position) is
  'Whether an event has been dispatched.';

create or replace function notika._position()
  returns notika.position
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (select p from notika.position as p order by p.position_id desc limit 1);
end;
$$;

comment on function notika._position() is 'The newest position.';

create or replace function notika._move(here notika.position)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.position (
    position_id, system_identifier, snapshot, high, low, pending_xids, pending_lows,
    window_snapshot, window_low, window_high, window_at, horizon,
    flow_ids, flow_priorities, flow_places,
    burst_ids, burst_snapshot, burst_high, burst_low, burst_pending_xids, burst_pending_lows,
    burst_window_snapshot, burst_window_low, burst_window_high, burst_window_at
  )
  overriding system value
  select
    -- In a copy without its sequences, the new number would come before the position that it
    -- follows.
    greatest(nextval('notika.position_position_id_seq'),
             (select max(p.position_id) + 1 from notika.position as p)),
    here.system_identifier, here.snapshot, here.high, here.low,
    here.pending_xids, here.pending_lows,
    here.window_snapshot, here.window_low, here.window_high, here.window_at, here.horizon,
    coalesce(here.flow_ids, '{}'), coalesce(here.flow_priorities, '{}'),
    coalesce(here.flow_places, '{}'),
    coalesce(here.burst_ids, '{}'), here.burst_snapshot, here.burst_high, here.burst_low,
    here.burst_pending_xids, here.burst_pending_lows,
    here.burst_window_snapshot, here.burst_window_low, here.burst_window_high,
    here.burst_window_at;
end;
$$;

comment on function notika._move(notika.position) is 'Appends a position.';

create or replace function notika._snapshot()
  returns pg_snapshot
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_snapshot pg_snapshot := pg_current_snapshot();
  v_xid xid8 := pg_current_xact_id_if_assigned();
begin
  -- A snapshot never lists its own transaction, which may still write events.
  if v_xid < pg_snapshot_xmax(v_snapshot) then
    v_snapshot := format(
      '%s:%s:%s', pg_snapshot_xmin(v_snapshot), pg_snapshot_xmax(v_snapshot),
      (select string_agg(x.xid::text, ',' order by x.xid)
         from (select pg_snapshot_xip(v_snapshot) union select v_xid) as x (xid))
    )::pg_snapshot;
  end if;
  return v_snapshot;
end;
$$;

comment on function notika._snapshot() is
  'What is committed now, without the changes of this transaction.';

create or replace function notika._open_window(
  here notika.position,
  snapshot pg_snapshot,
  last_id bigint
)
  returns notika.position
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position := _open_window.here;
begin
  v_next.window_snapshot := _open_window.snapshot;
  v_next.window_low := case
    when here.xid < pg_snapshot_xmax(_open_window.snapshot) then here.horizon
    else here.low -- taken in this transaction
  end;
  v_next.window_high := _open_window.last_id;

  -- Transactions that were running before and have ended since may have written lower ids.
  select least(here.low, min(p.low)) into v_next.window_at
    from unnest(here.pending_xids, here.pending_lows) as p (xid, low)
   where pg_visible_in_snapshot(p.xid, _open_window.snapshot);

  -- Transactions that run now and are not listed yet were not known to the old snapshot either.
  select coalesce(array_agg(x.xid), '{}'), coalesce(array_agg(coalesce(p.low, here.low)), '{}')
    into v_next.pending_xids, v_next.pending_lows
    from pg_snapshot_xip(_open_window.snapshot) as x (xid)
    left join unnest(here.pending_xids, here.pending_lows) as p (xid, low) on p.xid = x.xid;

  return v_next;
end;
$$;

comment on function notika._open_window(notika.position, pg_snapshot, bigint) is
  'A position at the start of the window between the last snapshot and this one.';

create or replace function notika._close_window(here notika.position)
  returns notika.position
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position := _close_window.here;
begin
  v_next.snapshot := here.window_snapshot;
  v_next.high := here.window_high;
  v_next.low := here.window_low;
  v_next.window_snapshot := null;
  v_next.window_low := null;
  v_next.window_high := null;
  v_next.window_at := null;
  return v_next;
end;
$$;

comment on function notika._close_window(notika.position) is
  'A position behind the window, which has been dispatched completely.';

create or replace function notika._cluster()
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if has_function_privilege('pg_catalog.pg_control_system()', 'execute') then
    return (select c.system_identifier from pg_control_system() as c);
  end if;
  return 0; -- some managed servers do not reveal it; then transaction ids alone identify a copy
end;
$$;

comment on function notika._cluster() is
  'The identifier of this cluster, which differs in a copy in another cluster; 0 if it cannot be '
  'read.';

create or replace function notika._is_foreign(here notika.position)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_cluster constant bigint := notika._cluster();
begin
  return here.system_identifier <> v_cluster and 0 not in (here.system_identifier, v_cluster)
      or pg_snapshot_xmax(coalesce(here.window_snapshot, here.snapshot))
         > pg_snapshot_xmax(pg_current_snapshot());
end;
$$;

comment on function notika._is_foreign(notika.position) is
  'Whether a position refers to transactions of another cluster: this is a restored copy.';
