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
  return query select * from notika._attempt('_bury_jobs');
  return query select * from notika._attempt('_tend_lines');
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

create or replace function notika._forget()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._forget_keys();
  perform notika._forget_batches();
end;
$$;

comment on function notika._forget() is 'Forgets old keys and batches; returns no rows.';

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

create or replace function notika._free_jobs()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_silent text[];
begin
  -- Runners beat and look here every ten seconds: within a minute of its death its jobs are free.
  -- Two looks, because all seem silent when the clock was set or the server was away, and whoever
  -- is alive is heard before the second.
  update notika.runner as r
     set suspected_at = clock_timestamp()
   where r.seen_at < clock_timestamp() - interval '25 seconds' and r.suspected_at is null;
  with gone as (
    delete from notika.runner as r
     where r.suspected_at < clock_timestamp() - interval '15 seconds'
    returning r.runner_id
  )
  select array_agg(s.runner_id) into v_silent
    from (
      select g.runner_id from gone as g
      union
      -- Died before its first sign of life.
      select j.locked_by
        from notika_worker._private_jobs as j
       where j.locked_at < clock_timestamp() - interval '45 seconds'
         and not exists (select from notika.runner as r where r.runner_id = j.locked_by)
    ) as s;

  if v_silent is not null then
    perform notika_worker.force_unlock_workers(v_silent);
    return next format('%s silent runners were given up, their jobs freed', cardinality(v_silent));
  end if;
end;
$$;

comment on function notika._free_jobs() is
  'Unlocks what runners hold that fell silent; graphile-worker would wait four hours.';

create or replace function notika._bury_jobs()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_jobs bigint[];
  v_runs bigint[];
begin
  -- A run that has parked goes on as another job; what is left of one whose runner died just then
  -- is of no use.
  select array_agg(j.id) into v_jobs
    from notika_worker._private_jobs as j
   where j.attempts >= j.max_attempts and j.locked_at is null and j.key is null;
  if v_jobs is not null then
    perform notika_worker.complete_jobs(v_jobs);
  end if;

  -- A job ends with its last attempt without a word only when the runner died in the middle.
  with dead as (
    select j.id, j.key::bigint as run_id, t.identifier as workflow, j.attempts, j.payload,
           j.last_error, j.created_at, j.updated_at
      from notika_worker._private_jobs as j
      join notika_worker._private_tasks as t on t.id = j.task_id
     where j.attempts >= j.max_attempts and j.locked_at is null and j.key is not null
     for update of j skip locked
  ), logged as (
    insert into notika.run_log
      (run_id, workflow, state, attempts, event, error, created_at, started_at)
    select d.run_id, d.workflow, 'failed', d.attempts, d.payload,
           coalesce(d.last_error, 'the runner died during the last attempt'),
           notika._captured_at(d.payload), d.updated_at
      from dead as d
    on conflict do nothing
  )
  select array_agg(d.id), array_agg(d.run_id) into v_jobs, v_runs from dead as d;

  if v_jobs is not null then
    perform notika_worker.complete_jobs(v_jobs);
    perform notika._settled(v_runs);
    return next format('%s runs failed because their runner died each time', cardinality(v_jobs));
  end if;
end;
$$;

comment on function notika._bury_jobs() is
  'Records runs as failed whose last attempt ended without an outcome.';

create or replace function notika._hold_jobs()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_jobs bigint[];
begin
  select array_agg(j.id) into v_jobs
    from notika_worker._private_jobs as j
    join notika_worker._private_tasks as t on t.id = j.task_id
    join notika.workflow as w on w.name = t.identifier
   where (w.paused_at is not null or w.broken_reason is not null)
     -- Not those that sleep longer: they would forget until when.
     and j.run_at < clock_timestamp() + interval '1 minute' and j.locked_at is null;

  if v_jobs is not null then
    perform notika_worker.reschedule_jobs(v_jobs, run_at => 'infinity');
    return next format('%s runs of paused workflows are held', cardinality(v_jobs));
  end if;
end;
$$;

comment on function notika._hold_jobs() is 'Keeps the runs of paused workflows from starting.';
