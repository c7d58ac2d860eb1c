-- Runs: events that wait for dispatch, jobs, and outcomes that are logged.

create or replace function notika._fail_dead_jobs()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_jobs bigint[];
  v_runs bigint[];
begin
  -- A run that has parked continues as another job; the rest of one whose runner died at that
  -- moment is not needed.
  select array_agg(j.job_id) into v_jobs
    from notika._job as j
   where j.attempts >= j.max_attempts and j.locked_at is null and j.key is null;
  if v_jobs is not null then
    perform notika._complete_jobs(v_jobs);
  end if;

  -- A job ends with its last attempt and no outcome only if the runner died during that attempt.
  with dead as (
    select j.job_id, j.key::bigint as run_id, j.workflow, j.attempts, j.payload, j.last_error,
           j.updated_at
      from notika._job as j
     where j.attempts >= j.max_attempts and j.locked_at is null and j.key is not null
       for update skip locked
  ), logged as (
    insert into notika.run_log
      (run_id, workflow, state, attempts, event, error, created_at, started_at)
    select d.run_id, d.workflow, 'failed', d.attempts, d.payload,
           coalesce(d.last_error, 'the runner died during the last attempt'),
           notika._captured_at(d.payload), d.updated_at
      from dead as d
    on conflict do nothing
  )
  select array_agg(d.job_id), array_agg(d.run_id) into v_jobs, v_runs from dead as d;

  if v_jobs is not null then
    perform notika._complete_jobs(v_jobs);
    perform notika._settled(v_runs);
    return next format('%s runs failed because their runner died each time', cardinality(v_jobs));
  end if;
end;
$$;

comment on function notika._fail_dead_jobs() is
  'Records runs as failed whose last attempt ended without an outcome.';

create or replace function notika._has_ended(run_id bigint)
  returns boolean
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from notika.run_log as l where l.run_id = _has_ended.run_id and l.retried_at is null
  );
$$;

comment on function notika._has_ended(bigint) is 'Whether a run has an outcome.';

create or replace function notika._settled(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._forget_waits(_settled.run_ids);
  perform notika._leave_lines(_settled.run_ids);
end;
$$;

comment on function notika._settled(bigint[]) is
  'Called when runs have ended: removes what only an unfinished run has, and wakes the next runs '
  'in line.';

create or replace function notika._cancelled(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._forget_waits(_cancelled.run_ids);
  perform notika._leave_lines(array(
    select r.run_id
      from unnest(_cancelled.run_ids) as r (run_id)
     where not exists (
       select from notika._job as j
        where j.key = r.run_id::text and j.locked_at is not null
     )
  ));
end;
$$;

comment on function notika._cancelled(bigint[]) is
  'Called when runs were cancelled and still have their jobs: like _settled, but a run whose '
  'attempt is running keeps its place in line until the attempt ends.';

create or replace function notika._forget_waits(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.wait as w where w.run_id = any (_forget_waits.run_ids);
  delete from notika.listener as l where l.run_id = any (_forget_waits.run_ids);
end;
$$;

comment on function notika._forget_waits(bigint[]) is
  'Removes the waits and the listeners of runs.';

create or replace view notika.runs as
select l.run_id,
       l.workflow,
       l.state,
       l.attempts::integer as attempts,
       coalesce(l.event, (
         select notika._payload(e, l.workflow, w.table_name)
           from notika._event as e
           join notika.workflow as w on w.workflow_id = e.workflow_id
          where e.event_id = l.run_id
       )) as event,
       l.error,
       l.created_at,
       null::timestamptz as wake_at,
       l.started_at,
       l.finished_at
  from notika.run_log as l
 where l.retried_at is null
union all
select j.key::bigint,
       t.workflow,
       case
         when j.locked_at is not null then 'running'
         when j.run_at <= clock_timestamp() then 'ready'
         when j.run_at = 'infinity' then case
           when w.paused_at is not null or w.broken_reason is not null then 'held'
           else 'waiting'
         end
         when exists (select from notika.wait as w where w.run_id = j.key::bigint) then 'waiting'
         when j.attempts > 0 or j.flags ? 'resumed' then 'retrying'
         else 'waiting'
       end,
       j.attempts::integer,
       j.payload,
       j.last_error,
       notika._captured_at(j.payload),
       case when j.run_at > clock_timestamp() then j.run_at end,
       j.locked_at,
       null::timestamptz
  from notika._job as j
  join notika._task as t on t.task_id = j.task_id
  left join notika.workflow as w on w.name = t.workflow
 where j.key ~ '^[0-8]?[0-9]{1,18}$' -- a runner may have added a key that is not a bigint
   -- Between the outcome and the end of its job a run is in both places.
   and not exists (
     select from notika.run_log as l where l.run_id = j.key::bigint and l.retried_at is null
   )
union all
select e.event_id,
       w.name,
       'ready',
       0,
       notika._payload(e, w.name, w.table_name),
       null,
       e.captured_at,
       null,
       null,
       null
  from notika._event as e
  join notika.workflow as w on w.workflow_id = e.workflow_id
 cross join (
   select q as p from notika.position as q order by q.position_id desc limit 1
 ) as newest
 where e.event_id > notika._bound(p)
   -- Events of a source start no run. Not by _workflow_of, for which the planner estimates almost
   -- no rows.
   and w.name not like '%:%'
   and not notika._dispatched(e.event_id, e.xid, e.workflow_id, p)
   and not exists (
     select from notika.run_log as l where l.run_id = e.event_id and l.retried_at is null
   );

comment on view notika.runs is 'Every run that waits, runs, or has ended and is remembered.';

comment on column notika.runs.run_id is 'The id of the run, which is that of its event.';

comment on column notika.runs.workflow is 'The workflow that the run is for.';

comment on column notika.runs.state is
  'ready, running, waiting, retrying, held, done, failed, cancelled or expired.';

comment on column notika.runs.attempts is 'The number of attempts that have begun.';

comment on column notika.runs.event is
  'The event, in the form that the task receives; for a run that is done, only as long as the '
  'ring remembers it.';

comment on column notika.runs.error is 'The message of the last error.';

comment on column notika.runs.created_at is 'When the event was captured.';

comment on column notika.runs.wake_at is
  'When the run continues; infinity: when it is its turn, or its workflow is resumed.';

comment on column notika.runs.started_at is 'When the last attempt began.';

comment on column notika.runs.finished_at is 'When the run ended.';

create or replace view notika.run_counts as
select r.workflow, r.state, count(*) as runs
  from notika.runs as r
 group by r.workflow, r.state;

comment on view notika.run_counts is 'The number of runs of each workflow in each state.';

comment on column notika.run_counts.workflow is 'The workflow that the runs are for.';

comment on column notika.run_counts.state is
  'ready, running, waiting, retrying, held, done, failed, cancelled or expired.';

comment on column notika.run_counts.runs is 'The number of runs in this state that are remembered.';

create or replace function notika._alive(run_id bigint)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_state text;
begin
  select r.state into v_state from notika.runs as r where r.run_id = _alive.run_id;
  if found then
    raise exception 'run % has not ended: it is %', _alive.run_id, v_state
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Wait for it, or end it first: select notika.cancel(%s);', _alive.run_id);
  end if;
  raise exception 'there is no run %', _alive.run_id
    using errcode = 'undefined_object',
          hint = 'The ids are in: select * from notika.runs;';
end;
$$;

comment on function notika._alive(bigint) is
  'Raises an error that says why a run cannot be retried.';

create or replace function notika._finish(outcomes json)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.run_log
    (run_id, workflow, state, attempts, event, error, stack, created_at, started_at)
  select o.run_id, o.workflow, o.state, o.attempts,
         -- The ring forgets the event; the job still has it.
         case when o.state <> 'done' then (
           select j.payload from notika._job as j where j.key = o.run_id::text
         ) end,
         o.error, o.stack, o.created_at, o.started_at
    from json_to_recordset(_finish.outcomes) as o (
           run_id bigint, workflow text, state text, attempts smallint, error text, stack text,
           created_at timestamptz, started_at timestamptz
         )
   order by o.run_id
  on conflict do nothing;
  perform notika._settled(array_agg(o.run_id))
     from json_to_recordset(_finish.outcomes) as o (run_id bigint);
end;
$$;

comment on function notika._finish(json) is
  'Appends the outcomes of runs, given as an array of objects with the columns of run_log.';

create or replace function notika._next_due(tasks text[])
  returns timestamptz
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select least(
    (select min(j.run_at)
       from notika._job as j
       join notika._task as t on t.task_id = j.task_id
      where t.workflow = any (_next_due.tasks)
        and j.is_available and j.run_at < 'infinity'),
    (select min(greatest(s.next_at, s.tried_at + interval '1 second'))
       from notika.schedule as s
       join notika.workflow as w on w.workflow_id = s.workflow_id
      where w.name = any (_next_due.tasks)
        and w.unpublished_at is null and w.paused_at is null and w.broken_reason is null
        and s.next_at < 'infinity'),
    -- Not from notika.lag, which takes longer to plan than everything else here.
    (select min(e.captured_at)
       from (
         select q as p from notika.position as q order by q.position_id desc limit 1
       ) as newest
       join notika._event as e on e.event_id > notika._bound(p)
      where not notika._dispatched(e.event_id, e.xid, e.workflow_id, p))
  );
$$;

comment on function notika._next_due(text[]) is
  'When the next job for these tasks is due; null if none is, unless a row changes.';

create or replace function notika.event(run_id bigint, event_id bigint default null)
  returns json
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if event.event_id is not null and event.event_id <> event.run_id then
    return (
      select b.event from notika.batch_event as b
       where b.run_id = event.run_id and b.event_id = event.event_id
    );
  end if;
  return coalesce(
    (select j.payload from notika._job as j where j.key = event.run_id::text),
    (select l.event from notika.run_log as l
      where l.run_id = event.run_id and l.retried_at is null),
    (select notika._payload(e, w.name, coalesce(notika._quoted(w.relation), w.table_name))
       from notika._event as e
       join notika.workflow as w on w.workflow_id = e.workflow_id
      where e.event_id = event.run_id)
  );
end;
$$;

comment on function notika.event(bigint, bigint) is
  'The event of a run, or another event of a debounced or digested run, with every number as it '
  'was written; JavaScript rounds the numbers that a task receives. Null if it is not remembered.';
