-- An attempt of a run, as its runner tells the database about it.  Two marks stand in the flags of a
-- job until the run parks or ends: `begun`, the last attempt that the task allows has begun, and
-- `lost`, how many attempts did not count because the runner's connection was lost.

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
  'Notes for jobs, an array of ids, that the last attempt which their task allows begins now. A '
  'claim alone does not say so: a runner may die with jobs that it had not begun.';

create or replace function notika._is_own(job_id bigint, attempts integer)
  returns boolean
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A job that was freed and claimed again has one attempt more.
  return exists (
    select from notika_worker._private_jobs as j
     where j.id = _is_own.job_id and j.attempts = _is_own.attempts and j.locked_at is not null
  );
end;
$$;

comment on function notika._is_own(bigint, integer) is
  'Whether a job is still locked for this attempt. A runner that was away asks before it goes on.';

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
    return true; -- others have it
  end if;
  -- A run whose own statements end its connection must not go on for ever.
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
  'Puts a job back whose attempt failed because its runner lost the connection to the database: the '
  'attempt does not count. False: that has happened five times since the run began or woke, so that '
  'this one counts, and nothing was done.';

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
    (select j.payload from notika_worker._private_jobs as j where j.key = event.run_id::text),
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
  'The event of a run, or another one of those that a debounced or digested run is for, with every '
  'number as it was written; JavaScript rounds what a task gets. Null: it is not remembered.';
