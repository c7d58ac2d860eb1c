-- Periodic work: turning the ring, removing old positions of the cursor, freeing the jobs of dead
-- runners. The runner calls it every ten seconds; pg_cron may call it too.

create or replace function notika.maintain()
  returns setof text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
  set lock_timeout = '2s'
as $$
begin
  perform notika._refuse_old_snapshot();
  return query select * from notika._attempt('_free_jobs');
  return query select * from notika._attempt('_fail_dead_jobs');
  return query select * from notika._attempt('_repair_lines');
  return query select * from notika._attempt('_hold_jobs');
  return query select * from notika._attempt('_place_late');
  return query select * from notika._attempt('_forget');
  if notika._lock_dispatch() then
    return query select * from notika._attempt('_turn');
    return query select * from notika._attempt('_forget_signals');
    return query select * from notika._attempt('_forget_runs');
    -- Not by _attempt: a copy is recognised by the xmin of its position, which a block changes.
    return query select * from notika._forget_positions();
  end if;
end;
$$;

comment on function notika.maintain() is
  'Turns the ring if it is due, frees the jobs of runners that died, forgets old runs, and '
  'returns what it did.';

create or replace function notika._attempt(task text)
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query execute format('select * from notika.%I()', _attempt.task);
exception when lock_not_available then
  return next format('%s was skipped: a lock was not free within two seconds', _attempt.task);
end;
$$;

comment on function notika._attempt(text) is
  'Does one part of maintain. If a lock stops it, says so, and lets the other parts continue.';

create or replace function notika._turn_due_at()
  returns timestamptz
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting notika.setting;
  v_current regclass := format('notika.event_log_%s', notika._segment(0));
  v_oldest timestamptz;
begin
  select s.* into v_setting from notika.setting as s;
  execute format('select e.captured_at from %s as e order by e.event_id limit 1', v_current)
    into v_oldest;
  return case
    -- When the segment reached its size is not known.
    when pg_table_size(v_current) >= v_setting.segment_bytes then v_oldest
    when v_oldest <= clock_timestamp() - v_setting.segment_age then v_oldest + v_setting.segment_age
  end;
end;
$$;

comment on function notika._turn_due_at() is
  'When the ring became due to turn; null if it is not due.';

create or replace function notika._turn()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next regclass := format('notika.event_log_%s', notika._segment(1));
  v_here notika.position := notika._position();
  v_waits boolean;
  v_control bigint;
begin
  if notika._turn_due_at() is null then
    return;
  end if;

  -- A session that reads the oldest segment, such as pg_dump, keeps it a little longer; writers
  -- never wait.
  begin
    execute format('lock table %s in access exclusive mode nowait', v_next);
  exception when lock_not_available then
    return next format('the ring is due to turn, but %s is in use', v_next);
    return;
  end;

  -- Under the lock no transaction has uncommitted writes in it, so all of its events can be seen.
  -- Each event is checked, because an idle transaction may hold the bound back for any time.
  execute format(
    'select exists (
       select from %s as e
        where e.event_id > $1 and not notika._dispatched(e.event_id, e.xid, e.workflow_id, $2)
     )', v_next)
    into v_waits
    using notika._bound(v_here), v_here;
  if v_waits then
    return next format('the ring is due to turn, but %s holds events that wait', v_next);
    return;
  end if;

  execute format('truncate %s', v_next);
  -- Not undone by a rollback, which is harmless: writers then append to a segment that has been
  -- read.
  v_control := pg_sequence_last_value('notika.control_seq');
  perform setval('notika.control_seq', v_control + 2);
  return next format('the ring turned to %s', v_next);
end;
$$;

comment on function notika._turn() is
  'Makes the oldest segment the current one, if the ring is due to turn and all events of the '
  'segment have been dispatched. Requires the lock of _lock_dispatch.';

create or replace function notika._forget_positions()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_here notika.position := notika._position();
begin
  if v_here.position_id - (select min(p.position_id) from notika.position as p) < 10000 then
    return;
  end if;

  begin
    lock table notika.position in access exclusive mode nowait;
  exception when lock_not_available then
    return;
  end;
  truncate notika.position;
  perform notika._move(v_here);
  return next 'old positions of the cursor are gone';
end;
$$;

comment on function notika._forget_positions() is
  'Keeps only the newest position, by TRUNCATE, so that a held snapshot leaves no dead rows.';
