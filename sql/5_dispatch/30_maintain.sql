-- What has to happen from time to time: the ring turns, the cursor's old positions go, jobs of
-- runners that died are freed.  The runner calls it every ten seconds; pg_cron may as well.

create or replace function notika.maintain()
  returns setof text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
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
    -- Not as an attempt: a copy is known by the xmin of its position, which a block changes.
    return query select * from notika._forget_positions();
  end if;
end;
$$;

comment on function notika.maintain() is
  'Turns the ring when it is due, frees the jobs of runners that died, forgets old runs, and says '
  'what it did.';

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
  'Does a part of maintain, or says that a lock has stopped it, which then does not stop the rest.';

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
    -- When it reached its size is not known.
    when pg_table_size(v_current) >= v_setting.segment_bytes then v_oldest
    when v_oldest <= clock_timestamp() - v_setting.segment_age then v_oldest + v_setting.segment_age
  end;
end;
$$;

comment on function notika._turn_due_at() is 'Since when the ring is due to turn; null: it is not.';

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

  -- Whoever reads the oldest segment, a pg_dump say, keeps it a little longer; writers never wait.
  begin
    execute format('lock table %s in access exclusive mode nowait', v_next);
  exception when lock_not_available then
    return next format('the ring is due to turn, but %s is in use', v_next);
    return;
  end;

  -- Under the lock nobody has written to it and not committed, so what can be seen is all there is.
  -- Each event is asked, because an idle transaction holds the bound back for as long as it likes.
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
  -- Not undone by a rollback, which is harmless: writers then append to a segment that was read.
  v_control := pg_sequence_last_value('notika.control_seq');
  perform setval('notika.control_seq', v_control + 2);
  return next format('the ring turned to %s', v_next);
end;
$$;

comment on function notika._turn() is
  'Makes the oldest segment the current one, if it is time and all its events are handed over. '
  'Needs the right of _lock_dispatch.';

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
  'Keeps only the newest position, by truncate, so that a held snapshot leaves nothing dead.';
