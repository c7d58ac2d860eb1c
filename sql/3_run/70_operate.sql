-- What users do to runs and workflows: emit, pause, resume, cancel, retry.

create or replace function notika._short_size(document text)
  returns bigint
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_rest text := regexp_replace(_short_size.document, $re$"(?:[^"\\]|\\.)*"$re$, '', 'g');
begin
  return octet_length(_short_size.document) - octet_length(v_rest) -- the strings
    -- 1e100 is written with a hundred zeros behind the 1, and 1e-100 with as many before it.
    + octet_length(regexp_replace(replace(v_rest, ' ', ''), $re$0\.0+|0{3,}$re$, 'e9', 'g'));
end;
$body$;

comment on function notika._short_size(text) is
  'The smallest number of bytes that the text of a jsonb can have had, before jsonb added spaces '
  'and wrote its numbers out.';

create or replace function notika.emit(workflow text, payload jsonb default '{}')
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit constant integer := (select s.payload_bytes from notika.setting as s);
  v_workflow_id integer := notika._published(emit.workflow);
  v_size bigint;
  v_text text;
begin
  -- In its stored form, whose size is known without reading it, a number takes up to six times its
  -- text.
  v_size := pg_column_size(emit.payload);
  if v_size <= 6 * v_limit::bigint then
    v_text := emit.payload::text;
    v_size := octet_length(v_text);
    -- The given text may have been shorter.
    if v_size > v_limit and v_size <= 32 * v_limit::bigint then
      v_size := notika._short_size(v_text);
    end if;
  end if;
  if v_size > v_limit then
    raise exception 'the payload for workflow "%" is too big: % bytes, and at most % are allowed',
        emit.workflow, v_size, v_limit
      using errcode = 'program_limit_exceeded',
            hint = 'Emit a key, and read the other values in the task.';
  end if;
  return notika._append(v_workflow_id, 'emit', emit.payload::json);
end;
$$;

comment on function notika.emit(text, jsonb) is
  'Adds an event by hand, in the current transaction, with payload as its new, and returns its '
  'id. The payload may have payload_bytes (see notika.setting) bytes when it is written without '
  'spaces and with its numbers as short as possible, and 32 times that with its numbers written '
  'out.';

create or replace function notika.pause(workflow text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('pause', jsonb_build_object('workflow', pause.workflow));
end;
$$;

comment on function notika.pause(text) is
  'Holds the runs of a workflow until resume. Changes are still captured.';

create or replace function notika._do_pause(caller name, workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_do_pause.workflow);
begin
  perform notika._expect_decider(w, _do_pause.caller, or_runner => true)
     from notika.workflow as w
    where w.workflow_id = v_workflow_id;
  if notika._workflow_of(_do_pause.workflow) is not null then
    raise exception 'source "%" has no runs to hold', _do_pause.workflow
      using errcode = 'invalid_parameter_value',
            hint = format('Pause its workflow: select notika.pause(%L);',
                          notika._workflow_of(_do_pause.workflow));
  end if;
  update notika.workflow as w
     set paused_at = clock_timestamp()
   where w.workflow_id = v_workflow_id and w.paused_at is null;
  perform notika._hold_jobs();
end;
$$;

comment on function notika._do_pause(name, text) is 'Carries out pause for a caller.';

create or replace function notika.resume(workflow text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('resume', jsonb_build_object('workflow', resume.workflow));
end;
$$;

comment on function notika.resume(text) is 'Starts the runs that pause has held.';

create or replace function notika._do_resume(caller name, workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._expect_decider(w, _do_resume.caller, or_runner => true)
     from notika.workflow as w
    where w.workflow_id = notika._published(_do_resume.workflow);
  perform notika._resume(_do_resume.workflow);
end;
$$;

comment on function notika._do_resume(name, text) is 'Carries out resume for a caller.';

create or replace function notika._resume(workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_resume.workflow);
begin
  update notika.workflow as w
     set paused_at = null, resumed_at = clock_timestamp()
   where w.workflow_id = v_workflow_id;

  perform notika._place_held(_resume.workflow);
  perform notika._advance(v_workflow_id);
end;
$$;

comment on function notika._resume(text) is 'Starts the runs of a workflow that were held.';

create or replace function notika.retry(run_id bigint, from_start boolean default false)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('retry', jsonb_build_object(
    'run_id', retry.run_id, 'from_start', retry.from_start));
end;
$$;

comment on function notika.retry(bigint, boolean) is
  'Runs a run that has ended again. It continues from the step that failed; with from_start it '
  'forgets its steps.';

create or replace function notika.retry(
  workflow text,
  since timestamptz,
  from_start boolean default false
)
  returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._submit_request('retry_failed', jsonb_build_object(
    'workflow', retry.workflow, 'since', retry.since, 'from_start', retry.from_start)) #>> '{}')::integer;
end;
$$;

comment on function notika.retry(text, timestamptz, boolean) is
  'Retries the runs of a workflow that have failed since the given time, and returns their '
  'number.';

create or replace function notika._do_retry(caller name, run_id bigint, from_start boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.run_log;
begin
  -- The lock keeps two users from retrying the same run twice.
  select l.* into v_run
    from notika.run_log as l
   where l.run_id = _do_retry.run_id and l.retried_at is null
     for update;
  perform notika._expect_decider(w, _do_retry.caller, or_runner => true)
     from notika.workflow as w
    where w.name = coalesce(v_run.workflow, (
      select r.workflow from notika.runs as r where r.run_id = _do_retry.run_id
    ));
  if v_run.run_id is null then
    perform notika._alive(_do_retry.run_id);
  end if;

  v_run.event := coalesce(v_run.event, (
    select r.event from notika.runs as r where r.run_id = _do_retry.run_id
  ));
  if v_run.event is null then
    raise exception 'the event of run % is gone', _do_retry.run_id
      using errcode = 'no_data_found',
            detail = 'The run is done, and the ring no longer has its event.',
            hint = format('Start a new run: select notika.emit(%L, ''{...}'');', v_run.workflow);
  end if;

  perform notika._revive(v_run, _do_retry.from_start);
  perform notika._hold_jobs();
end;
$$;

comment on function notika._do_retry(name, bigint, boolean) is 'Carries out retry for a caller.';

create or replace function notika._do_retry(
  caller name,
  workflow text,
  since timestamptz,
  from_start boolean
)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.run_log;
  v_count integer := 0;
begin
  if not exists (select from notika.workflow as w where w.name = _do_retry.workflow) then
    perform notika._published(_do_retry.workflow);
  end if;
  perform notika._expect_decider(w, _do_retry.caller, or_runner => true)
     from notika.workflow as w
    where w.name = _do_retry.workflow;
  for v_run in
    select l.*
      from notika.run_log as l
     where l.workflow = _do_retry.workflow and l.state = 'failed' and l.retried_at is null
       and l.finished_at >= _do_retry.since
     order by l.run_id
       for update
  loop
    perform notika._revive(v_run, _do_retry.from_start);
    v_count := v_count + 1;
  end loop;
  perform notika._hold_jobs();
  return v_count;
end;
$$;

comment on function notika._do_retry(name, text, timestamptz, boolean) is
  'Carries out retry of failed runs for a caller.';

create or replace function notika._revive(ended notika.run_log, from_start boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.run_log as l
     set retried_at = clock_timestamp()
   where l.run_id = ended.run_id and l.retried_at is null;
  delete from notika.step as s
   where s.run_id = ended.run_id and (s.state <> 'done' or _revive.from_start);
  perform notika._replace_job(
    ended.workflow, ended.event, run_id => ended.run_id,
    run_at => clock_timestamp(), -- so that no two of them have the same place
    priority => coalesce((
      select (w.options ->> 'priority')::integer
        from notika.workflow as w
       where w.name = ended.workflow
    ), 0),
    max_attempts => (select s.max_attempts from notika.setting as s),
    flags => array['resumed'] || notika._flags(ended.workflow)
  );
  perform notika._listen_again(ended.run_id);
end;
$$;

comment on function notika._revive(notika.run_log, boolean) is
  'Makes a job again of a run that has ended, and whose event is known.';

create or replace function notika.cancel(run_id bigint)
  returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._submit_request('cancel', jsonb_build_object('run_id', cancel.run_id)) #>> '{}')::boolean;
end;
$$;

comment on function notika.cancel(bigint) is
  'Ends a run that has not ended, and returns true. False: it has ended already, and nothing was '
  'changed.';

create or replace function notika._do_cancel(caller name, run_id bigint)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.runs;
  v_cancelled boolean;
begin
  if not exists (
    select from notika._job as j where j.key = _do_cancel.run_id::text
  ) then
    -- Its event may not be dispatched yet: waits until it has become a job, or keeps it from
    -- becoming one.
    perform notika._lock_dispatch(waits => true);
  end if;
  select r.* into v_run from notika.runs as r where r.run_id = _do_cancel.run_id;
  if not found then
    raise exception 'there is no run %', _do_cancel.run_id
      using errcode = 'undefined_object',
            hint = 'The ids are in: select * from notika.runs;';
  end if;
  perform notika._expect_decider(w, _do_cancel.caller, or_runner => true)
     from notika.workflow as w
    where w.name = v_run.workflow;
  if v_run.state in ('done', 'failed', 'cancelled', 'expired') then
    return false;
  end if;

  insert into notika.run_log
    (run_id, workflow, state, attempts, event, error, created_at, started_at)
  values
    (v_run.run_id, v_run.workflow, 'cancelled', v_run.attempts, v_run.event, v_run.error,
     v_run.created_at, v_run.started_at)
  on conflict do nothing;
  v_cancelled := found; -- or it has ended at this moment
  perform notika._cancelled(array[_do_cancel.run_id]);
  -- A running job is not stopped, but it is not retried either, and its outcome does not count.
  perform notika._remove_jobs(array[_do_cancel.run_id]);
  return v_cancelled;
end;
$$;

comment on function notika._do_cancel(name, bigint) is 'Carries out cancel for a caller.';
