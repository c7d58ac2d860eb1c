-- graphile-worker's jobs.  No other file names its tables, types and functions: the others use the
-- views _job and _task, and call the functions below.
-- The flags of a job hold marks until the run parks or ends: `begun` means that the last attempt
-- that the task allows has begun, and `lost` is the number of attempts that did not count because
-- the runner lost its connection.

-- Each view reads one table, so that a query of the view, including UPDATE and FOR UPDATE, has the
-- plan of the same query on the table.
create or replace view notika._task as
select t.id as task_id, t.identifier as workflow
  from notika_worker._private_tasks as t;

comment on view notika._task is
  'The tasks of graphile-worker. Join it to filter many jobs by their workflow.';

comment on column notika._task.task_id is 'The number by which jobs refer to the task.';

comment on column notika._task.workflow is 'The workflow whose runs the task executes.';

create or replace view notika._job as
select j.id as job_id,
       j.task_id,
       -- Not a join: FOR UPDATE would lock the task too.
       (select t.identifier from notika_worker._private_tasks as t where t.id = j.task_id)
         as workflow,
       j.key,
       j.payload,
       j.run_at,
       j.attempts,
       j.max_attempts,
       j.priority,
       j.flags,
       j.is_available,
       j.locked_at,
       j.last_error,
       j.updated_at
  from notika_worker._private_jobs as j;

comment on view notika._job is
  'The jobs of graphile-worker: one for each unfinished run that was dispatched.';

comment on column notika._job.job_id is 'The id of the job, which differs from that of the run.';

comment on column notika._job.task_id is 'The number of the task of the job. See notika._task.';

comment on column notika._job.workflow is
  'The workflow. It is looked up for each job, and no index covers it: to filter or join many '
  'jobs by it, join notika._task.';

comment on column notika._job.key is
  'The id of the run, as text; null if the run continues as another job, or was cancelled.';

comment on column notika._job.payload is 'The event, in the form that the task receives.';

comment on column notika._job.run_at is
  'The place in the queue, or when the run starts; infinity: it waits to be woken.';

comment on column notika._job.attempts is 'The number of attempts that have begun.';

comment on column notika._job.max_attempts is 'The number of attempts that the run may have.';

comment on column notika._job.priority is 'Runs with a lower number start first.';

comment on column notika._job.flags is
  'The marks of the job, each true, except lost, which is a number; null: none.';

comment on column notika._job.is_available is
  'Whether the job is not locked and has an attempt left.';

comment on column notika._job.locked_at is 'When a runner locked the job; null if none has.';

comment on column notika._job.last_error is 'The message of the last error.';

comment on column notika._job.updated_at is 'When the job was last changed.';

create or replace function notika._task_id(workflow text)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_task_id integer;
begin
  loop
    select t.id into v_task_id
      from notika_worker._private_tasks as t
     where t.identifier = _task_id.workflow;
    exit when found;
    insert into notika_worker._private_tasks (identifier)
    values (_task_id.workflow)
    on conflict do nothing; -- another session may have just done so
  end loop;
  return v_task_id;
end;
$$;

comment on function notika._task_id(text) is
  'The number of the task that executes the runs of a workflow; it is created if there is none.';

create or replace function notika._announce_jobs(count bigint)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify(
    'jobs:insert', json_build_object('r', random()::text, 'count', _announce_jobs.count)::text);
end;
$$;

comment on function notika._announce_jobs(bigint) is
  'Wakes graphile-worker, as its own add_jobs does.';

create or replace function notika._add_jobs(jobs notika._new_job[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika_worker._private_jobs
    (task_id, payload, run_at, max_attempts, key, priority, flags)
  select t.id, j.payload, j.run_at, j.max_attempts, j.key, j.priority,
         case when j.flags is not null then (
           select jsonb_object_agg(f.flag, true) from unnest(j.flags) as f (flag)
         ) end
    from unnest(_add_jobs.jobs) as j
    join notika_worker._private_tasks as t on t.identifier = j.workflow
  on conflict (key) do nothing;
end;
$$;

comment on function notika._add_jobs(notika._new_job[]) is
  'Does what graphile-worker''s add_jobs does, for new runs: there are no jobs to replace, and '
  'none to return.';

create or replace function notika._replace_job(
  workflow text,
  payload json,
  run_id bigint,
  run_at timestamptz,
  max_attempts integer,
  priority integer,
  flags text[]
)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select j.id
      from notika_worker.add_job(
             _replace_job.workflow, _replace_job.payload,
             job_key => _replace_job.run_id::text, run_at => _replace_job.run_at,
             max_attempts => _replace_job.max_attempts, priority => _replace_job.priority,
             flags => _replace_job.flags
           ) as j
  );
end;
$$;

comment on function notika._replace_job(
  text, json, bigint, timestamptz, integer, integer, text[]
) is
  'Creates the job of a run and returns its id. An existing job of the run is changed. If that '
  'one is locked, it loses its key to a new job, and ends when its task returns.';

create or replace function notika._complete_jobs(job_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika_worker.complete_jobs(_complete_jobs.job_ids);
end;
$$;

comment on function notika._complete_jobs(bigint[]) is 'Deletes jobs that no runner has locked.';

create or replace function notika._remove_jobs(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika_worker.remove_job(r.run_id::text) from unnest(_remove_jobs.run_ids) as r (run_id);
end;
$$;

comment on function notika._remove_jobs(bigint[]) is
  'Deletes the jobs of runs. A locked job loses its key and is not retried.';

create or replace function notika._suspend_jobs(job_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika_worker.reschedule_jobs(_suspend_jobs.job_ids, run_at => 'infinity');
end;
$$;

comment on function notika._suspend_jobs(bigint[]) is
  'Keeps jobs that no runner has locked from starting until they are woken.';

create or replace function notika._lock_jobs(
  priority smallint,
  after timestamptz,
  until timestamptz,
  most integer
)
  returns table (job_id bigint, task_id integer, run_at timestamptz)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select j.id, j.task_id, j.run_at
      from notika_worker._private_jobs as j
     where j.is_available and j.job_queue_id is null
       and j.priority = _lock_jobs.priority
       and j.run_at > _lock_jobs.after and j.run_at <= _lock_jobs.until
     order by j.priority, j.run_at
     limit _lock_jobs.most
       for update skip locked;
end;
$$;

comment on function notika._lock_jobs(smallint, timestamptz, timestamptz, integer) is
  'Locks the first jobs of a priority with a place in the queue between two times, at most the '
  'given number. Skips jobs that other sessions have locked.';

create or replace function notika._head(priority smallint, before timestamptz, now timestamptz)
  returns timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_idle constant timestamptz := _head.now - interval '0.1 seconds';
  v_first timestamptz;
begin
  -- Jobs for which no runner has a task stay at the front of the queue, and the queue continues
  -- behind them.
  select j.run_at into v_first
    from (
      select n.run_at, n.task_id
        from notika_worker._private_jobs as n
       where n.is_available and n.job_queue_id is null
         and n.priority = _head.priority and n.run_at <= _head.now
       order by n.priority, n.run_at
       limit 1000
    ) as j
   where not exists (select from notika.runner)
      or exists (
           select from notika_worker._private_tasks as t
             join notika.runner as r on t.identifier = any (r.tasks)
            where t.id = j.task_id
         )
   limit 1;
  if v_first is null and not exists (
    select from notika_worker._private_jobs as n
     where n.is_available and n.job_queue_id is null
       and n.priority = _head.priority and n.run_at <= _head.now
  ) then
    return v_idle;
  end if;
  -- It never goes back, or the events of a workflow would change their order: the last place of a
  -- workflow is forgotten when the head has passed it. If the clock was set back there is no other
  -- way.
  return least(greatest(_head.before, v_first), v_idle);
end;
$$;

comment on function notika._head(smallint, timestamptz, timestamptz) is
  'The place of the first run of a priority that may start, or the previous head if that is '
  'later; a moment ago if there is none.';

create or replace function notika._wake_runs(run_ids bigint[])
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
begin
  -- As reschedule_jobs does, but each run at its own time. A run that was in a queue gets the
  -- place that it had: behind everything that came meanwhile, a queue would advance only once in
  -- each backlog.
  update notika_worker._private_jobs as j
     set run_at = least((
           select coalesce(l.run_at, s.run_at)
             from (select j.key::bigint as run_id) as r
             left join notika.lane as l on l.run_id = r.run_id
             left join notika.slot as s on s.run_id = r.run_id
         ), clock_timestamp()),
         updated_at = clock_timestamp()
    from notika_worker._private_tasks as t
    join notika.workflow as w on w.name = t.identifier
   where t.id = j.task_id
     and j.key = any (array(select r::text from unnest(_wake_runs.run_ids) as r))
     and j.run_at > clock_timestamp() and j.locked_at is null
     and w.paused_at is null and w.broken_reason is null;
  get diagnostics v_count = row_count;
  if v_count > 0 then
    perform notika._announce_jobs(v_count); -- as add_jobs does
  end if;
  return v_count;
end;
$$;

comment on function notika._wake_runs(bigint[]) is
  'Lets sleeping runs start, unless their workflow is held; returns their number.';

create or replace function notika._requeue(job_id bigint, run_at timestamptz)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_job notika._job;
  v_new_id bigint;
begin
  select j.* into v_job from notika._job as j where j.job_id = _requeue.job_id;
  if v_job.key is null then
    return;
  end if;

  v_new_id := notika._replace_job(
    v_job.workflow, v_job.payload, run_id => v_job.key::bigint, run_at => _requeue.run_at,
    max_attempts => v_job.max_attempts, priority => v_job.priority,
    flags => array(select jsonb_object_keys(v_job.flags))
  );
  if v_job.last_error is not null then
    perform notika_worker.permanently_fail_jobs(array[v_new_id], v_job.last_error);
  end if;
  -- A run that did not begin has made no attempt.
  perform notika_worker.reschedule_jobs(array[v_new_id], attempts => v_job.attempts - 1);
end;
$$;

comment on function notika._requeue(bigint, timestamptz) is
  'Puts a run whose job has just started back until a later time, as if it had not started.';

create or replace function notika._free_jobs()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_silent text[];
begin
  -- Runners send a heartbeat and call this every ten seconds: within a minute of a runner's death
  -- its jobs are free. A runner has to be silent in two calls, because all of them seem silent
  -- after the clock was set or the server was away, and live ones send a heartbeat before the
  -- second call.
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
      -- The runner died before its first heartbeat.
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
  'Unlocks the jobs of runners that stopped sending heartbeats; graphile-worker would do so after '
  'four hours.';

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
     -- Not those that sleep longer: the time at which they wake would be lost.
     and j.run_at < clock_timestamp() + interval '1 minute' and j.locked_at is null;

  if v_jobs is not null then
    perform notika._suspend_jobs(v_jobs);
    return next format('%s runs of paused workflows are held', cardinality(v_jobs));
  end if;
end;
$$;

comment on function notika._hold_jobs() is 'Keeps the runs of paused workflows from starting.';

create or replace function notika._beat(
  runner_id text,
  host text,
  pid integer,
  tasks text[],
  blocked_for interval default null
)
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _beat.blocked_for > (select s.blocked_for from notika.setting as s) then
    return false;
  end if;
  insert into notika.runner as r (runner_id, host, pid, tasks, blocked_since)
  values (_beat.runner_id, _beat.host, _beat.pid, _beat.tasks,
          clock_timestamp() - _beat.blocked_for)
  on conflict on constraint runner_pkey do update
    set seen_at = clock_timestamp(), tasks = excluded.tasks, suspected_at = null,
        blocked_since = excluded.blocked_since;
  return true;
end;
$$;

comment on function notika._beat(text, text, integer, text[], interval) is
  'Records a heartbeat of a runner. After a minute without one its jobs are given to others. '
  'False: a task has blocked the runner''s event loop for so long that this heartbeat does not '
  'count.';

create or replace function notika._leave(runner_id text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.runner as r where r.runner_id = _leave.runner_id;
  perform notika_worker.force_unlock_workers(array[_leave.runner_id]);
end;
$$;

comment on function notika._leave(text) is
  'A runner stops: the jobs that it still holds are free immediately.';

create or replace function notika._claim(
  runner_id text,
  task_ids integer[],
  most integer,
  version text default notika.version()
)
  returns table (
    id bigint,
    job_queue_id integer,
    task_id integer,
    payload json,
    attempts smallint,
    max_attempts smallint,
    key text,
    flags jsonb
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- The next jobs are the front of an index. A planner has no statistics of a table that fills and
  -- empties within seconds, and would sort the whole backlog for each few of them.
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
begin
  if _claim.version <> notika.version() then
    raise exception 'the database has notika %, this runner is notika %', notika.version(), _claim.version
      using errcode = 'NK013',
            hint = format('It takes no more runs. Start one of the installed version: npm install notika@%s',
                          notika.version());
  end if;
  return query
  with next as materialized (
    select j.id
      from notika_worker._private_jobs as j
     where j.is_available and j.job_queue_id is null
       and j.run_at <= now()
       and j.task_id = any (_claim.task_ids)
     order by j.priority, j.run_at
     limit _claim.most
       for update skip locked
  )
  update notika_worker._private_jobs as j
     set attempts = j.attempts + 1, locked_by = _claim.runner_id, locked_at = now()
    from next as n
   where j.id = n.id
  returning j.id, j.job_queue_id, j.task_id, j.payload, j.attempts, j.max_attempts, j.key, j.flags;
end;
$$;

comment on function notika._claim(text, integer[], integer, text) is
  'Locks the next jobs of these tasks for a runner, at most the given number, and begins an '
  'attempt of each. version is that of the runner. If the database has another version it raises '
  'NK013, so that an old runner takes no more runs.';

create or replace function notika._begin(jobs json)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika_worker._private_jobs as j
     set flags = coalesce(j.flags, '{}') || '{"begun": true}'
   where j.id = any (array(
           select g.job::bigint from json_array_elements_text(_begin.jobs) as g (job)
         ))
     and j.locked_at is not null;
end;
$$;

comment on function notika._begin(json) is
  'Records for jobs, given as an array of ids, that the last attempt that their task allows '
  'begins now. A claim alone does not mean that: a runner may die with jobs that it has not '
  'begun.';

create or replace function notika._is_own(job_id bigint, attempts integer)
  returns boolean
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A job that was freed and claimed again has made one more attempt.
  return exists (
    select from notika_worker._private_jobs as j
     where j.id = _is_own.job_id and j.attempts = _is_own.attempts and j.locked_at is not null
  );
end;
$$;

comment on function notika._is_own(bigint, integer) is
  'Whether a job is still locked for this attempt. A runner that was away asks before it '
  'continues.';

create or replace function notika._give_back(job_id bigint, attempts integer, error text)
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_lost integer;
begin
  select case jsonb_typeof(j.flags -> 'lost') when 'number' then (j.flags ->> 'lost')::integer else 0 end
    into v_lost
    from notika_worker._private_jobs as j
   where j.id = _give_back.job_id and j.attempts = _give_back.attempts and j.locked_at is not null
     for update;
  if not found then
    return true; -- another runner has it
  end if;
  -- A run whose own statements end its connection must not be repeated without end.
  if v_lost >= 5 then
    return false;
  end if;
  update notika_worker._private_jobs as j
     set attempts = j.attempts - 1, locked_by = null, locked_at = null,
         last_error = _give_back.error,
         run_at = clock_timestamp() + interval '1 second' * 2 ^ v_lost,
         flags = coalesce(j.flags, '{}') - 'begun' || jsonb_build_object('lost', v_lost + 1)
   where j.id = _give_back.job_id;
  return true;
end;
$$;

comment on function notika._give_back(bigint, integer, text) is
  'Puts a job back whose attempt failed because its runner lost the connection to the database: '
  'the attempt does not count. False: this has happened five times since the run began or woke; '
  'this attempt counts, and nothing was changed.';
