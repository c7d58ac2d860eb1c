-- dispatch: makes jobs of graphile-worker from events, in one transaction at a time.

create or replace function notika._start_scheduled(is_idle boolean)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return notika._keep_times()
         + case when _start_scheduled.is_idle then notika._backfill_all() else 0 end;
end;
$$;

comment on function notika._start_scheduled(boolean) is
  'Starts the runs that no row change starts, and returns the number of their events. is_idle: '
  'all captured events have been dispatched. Requires the lock of _lock_dispatch.';

create or replace function notika.dispatch(max_events integer default 1000)
  returns integer
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- A chunk is the front of an index. Segments have no statistics, and without them a planner may
  -- prefer to read and sort the whole ring.
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set jit = off -- compilation would take longer than the plans run
  set lock_timeout = '2s' -- then others may turn the ring, and a later call tries again
as $$
declare
  v_horizon bigint;
  v_here notika.position;
  v_snapshot pg_snapshot;
  v_last_id bigint;
  v_resumed boolean;
  v_moved boolean := false;
  v_handed_over integer := 0;
  v_share integer;
  v_done record;
  v_now timestamptz;
  v_placed notika.position;
begin
  perform notika._refuse_old_snapshot();
  if dispatch.max_events is null or dispatch.max_events not between 1 and 100000 then
    raise exception 'max_events must be between 1 and 100000'
      using errcode = 'invalid_parameter_value',
            hint = 'For example: select notika.dispatch(1000);';
  end if;

  -- In a transaction that has an xid already this comes too late, and the older horizon stays.
  if pg_current_xact_id_if_assigned() is null then
    v_horizon := notika._last_event_id();
  end if;
  if not notika._lock_dispatch() then
    return null;
  end if;

  v_here := notika._position();
  if v_here.snapshot is null then
    raise exception 'notika is not installed completely: the cursor has no position'
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Run: npx notika install, or: select * from notika.install();';
  end if;
  if notika._is_foreign(v_here) then
    perform notika._rebase(v_here);
    return 0;
  end if;
  if not notika._is_this_database() then
    perform notika._begin_copy();
  end if;

  -- The workflows that were set aside get what the others leave, but at least half.
  v_share := case when v_here.burst_ids = '{}' then dispatch.max_events
                  else (dispatch.max_events + 1) / 2 end;
  loop
    v_resumed := v_here.window_snapshot is not null;
    if not v_resumed then
      v_snapshot := notika._snapshot();
      v_last_id := notika._last_event_id(); -- after the snapshot, so that it is no lower

      -- There is nothing new, and no transaction that was running has ended: an idle poll writes
      -- nothing.
      exit when v_last_id = v_here.low and not exists (
        select from unnest(v_here.pending_xids) as p (xid)
         where pg_visible_in_snapshot(p.xid, v_snapshot)
      );
      v_here := notika._open_window(v_here, v_snapshot, v_last_id);
    end if;

    v_now := clock_timestamp();
    v_here := notika._find_heads(v_here, v_now);
    -- Positions are not written in this block: a copy is recognised by their xmin, which a block
    -- changes.
    begin
      v_done := notika._hand_over(v_here, v_share, aside => false);
      v_handed_over := v_done.handed_over;
      v_here := v_done.reached;
    exception when lock_not_available then
      return null; -- nothing was done; notika.lag names the session that holds the lock
    end;
    if v_handed_over < v_share then
      v_here := notika._close_window(v_here);
    end if;
    v_moved := true;
    exit when v_handed_over > 0 or not v_resumed;
  end loop;

  if v_here.burst_ids = '{}' then
    if v_handed_over = v_share then
      v_here := notika._begin_burst(v_here);
    end if;
  else
    if v_now is null then
      v_now := clock_timestamp();
      v_here := notika._find_heads(v_here, v_now);
    end if;
    v_done := notika._hand_over_burst(v_here, greatest(dispatch.max_events - v_handed_over, 1));
    v_moved := v_moved or v_done.moved;
    v_handed_over := v_handed_over + v_done.handed_over;
    v_here := v_done.reached;
  end if;

  -- Last, because a session that holds jobs must not wait for a lock on signals or queues.
  if cardinality(v_here.flow_ids) > 1 then
    if v_now is null then
      v_now := clock_timestamp();
      v_here := notika._find_heads(v_here, v_now);
    end if;
    -- Only if new events have waited for more than a second; otherwise their turn comes soon.
    if (select min(p) from unnest(v_here.flow_places) as p) < v_now - interval '1 second' then
      v_placed := notika._place_due(v_here, v_now);
      if v_placed.snapshot is not null then
        v_here := v_placed;
        v_moved := true;
      end if;
    end if;
  end if;

  if v_moved then
    v_here.horizon := greatest(v_horizon, v_here.horizon);
    perform notika._move(v_here);
  end if;
  if v_handed_over > 0 then
    perform notika._set_asleep(false);
  end if;
  return v_handed_over + notika._start_scheduled(
    v_handed_over < dispatch.max_events and v_here.burst_ids = '{}');
end;
$$;

comment on function notika.dispatch(integer) is
  'Dispatches up to max_events captured events to graphile-worker, in the order of their ids, '
  'starts what is due by time, and returns the number of events. 0: there was nothing to do; '
  'null: another session is dispatching, or a lock was not free within two seconds and nothing '
  'was done. Requires READ COMMITTED.';

create or replace function notika._doze()
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not notika._lock_dispatch() then
    return false; -- another runner is dispatching, so not all of them sleep
  end if;
  perform notika._set_asleep(true);

  -- A writer that has read the bit before it was set, and so will not notify, keeps a lock on the
  -- sequence until its transaction ends. Where transactions may be prepared there is no NOTIFY.
  return current_setting('max_prepared_transactions') = '0' and not exists (
    select from pg_locks as k
     where k.locktype = 'relation' and k.granted and k.mode = 'RowExclusiveLock'
       and k.database = (select d.oid from pg_database as d where d.datname = current_database())
       and (k.relation = 'notika.control_seq'::regclass and k.pid <> pg_backend_pid()
            or k.relation in (
              'notika.event_log_0'::regclass, 'notika.event_log_1'::regclass,
              'notika.event_log_2'::regclass
            ))
  );
end;
$$;

comment on function notika._doze() is
  'Asks the next writer for a NOTIFY. True: every event that the next dispatch does not find will '
  'be notified. False: ask again soon, because a transaction that has already written may not '
  'notify.';
