-- What a run remembers: its steps, and its waits. The first outcome of a step stands, whichever
-- session writes it: a runner that lost its job cannot change history. A run that waits is a job
-- in the future; one that is woken too early notices that and waits again, so waking a run does no
-- harm.

create or replace function notika._enter(job_id bigint, run_id bigint)
  returns json
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if notika._has_ended(_enter.run_id) then
    perform notika._settled(array[_enter.run_id]);
    return json_build_object('ended', true);
  end if;

  with over as (
    delete from notika.wait as w
     where w.run_id = _enter.run_id and w.wake_at <= clock_timestamp() and w.source_id is null
    returning w.name, w.created_at, w.wake_at
  )
  insert into notika.step (run_id, name, state, started_at, finished_at)
  select _enter.run_id, o.name, 'done', o.created_at, o.wake_at
    from over as o
   order by o.wake_at
  on conflict do nothing;
  perform notika._time_out(_enter.run_id);
  -- Last: where both locks are taken, that of the signals comes before that of the line.
  if not notika._admit(_enter.job_id, _enter.run_id) then
    return json_build_object('ended', false, 'admitted', false);
  end if;

  return json_build_object(
    'ended', false,
    'admitted', true,
    'events', (
      select json_agg(e.event order by e.event_id)
        from notika.batch_event as e
       where e.run_id = _enter.run_id
    ),
    'steps', (
      select coalesce(json_agg(
               json_build_object(
                 'name', s.name, 'state', s.state, 'result', s.result, 'error', s.error
               ) order by s.step_id
             ), '[]')
        from notika.step as s
       where s.run_id = _enter.run_id and s.state <> 'retrying'
    )
  );
end;
$$;

comment on function notika._enter(bigint, bigint) is
  'What a run has to know if it has run before, or may have to wait for its turn: whether it has '
  'ended, whether it is admitted (if not, it is put back), the events of its batch, and its steps '
  'in the order in which they ended.';

create or replace function notika._exit(run_id bigint)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if notika._has_ended(_exit.run_id) then
    perform notika._settled(array[_exit.run_id]);
  else
    perform notika._free_slot(_exit.run_id);
  end if;
end;
$$;

comment on function notika._exit(bigint) is
  'The attempt of a run that had to be admitted has ended without an outcome: other runs may '
  'continue.';

create or replace function notika._remember(steps json)
  returns table (run_id text, name text, ended boolean, state text, result json, error text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_lost json;
begin
  with given as materialized (
    select distinct on (g.run_id, g.name) g.*
      from json_to_recordset(_remember.steps) as g (
             run_id bigint, name text, state text, result text, error text, ms double precision
           )
     order by g.run_id, g.name
  ), kept as (
    insert into notika.step as s (run_id, name, state, result, error, started_at)
    select g.run_id, g.name, g.state, g.result::json, g.error,
           clock_timestamp() - g.ms * interval '1 millisecond'
      from given as g
     where not notika._has_ended(g.run_id)
    on conflict on constraint step_pkey do update
      set state = excluded.state, result = excluded.result, error = excluded.error,
          attempts = s.attempts + 1, step_id = nextval('notika.step_id_seq'),
          started_at = excluded.started_at, finished_at = clock_timestamp()
      where s.state = 'retrying'
    returning s.run_id, s.name
  )
  select json_agg(json_build_object('run_id', g.run_id, 'name', g.name)) into v_lost
    from given as g
   where (g.run_id, g.name) not in (select k.run_id, k.name from kept as k);

  -- Rows that _begin_step has left of a run that was ended meanwhile.
  delete from notika.step as s
   using json_to_recordset(v_lost) as l (run_id bigint, name text)
   where s.run_id = l.run_id and s.name = l.name and s.attempts = 0;
  -- A statement of its own: it sees what other sessions have committed during the first one.
  return query
  select l.run_id::text, l.name, notika._has_ended(l.run_id), s.state, s.result, s.error
    from json_to_recordset(v_lost) as l (run_id bigint, name text)
    left join notika.step as s on s.run_id = l.run_id and s.name = l.name;
end;
$$;

comment on function notika._remember(json) is
  'Keeps steps, given as an array of objects {run_id, name, state, result, error, ms}. Returns '
  'those that were not kept, because the run has ended or another session was first, with the '
  'outcome that stands.';

create or replace function notika._begin_step(run_id bigint, depth integer, name text)
  returns table (ended boolean, state text, result json, error text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_ended boolean;
begin
  perform set_config('notika.run', format('%s/%s', _begin_step.run_id, _begin_step.depth), true);
  -- Two runners that run the same step, one of them by mistake, run it one after the other: its
  -- row exists from the start, or was left by an earlier attempt.
  insert into notika.step (run_id, name, state, attempts, started_at)
  values (_begin_step.run_id, _begin_step.name, 'retrying', 0, clock_timestamp())
  on conflict on constraint step_pkey do nothing;
  if not found then
    perform from notika.step as s
      where s.run_id = _begin_step.run_id and s.name = _begin_step.name and s.state = 'retrying'
        for update;
  end if;

  v_ended := notika._has_ended(_begin_step.run_id);
  if v_ended then
    delete from notika.step as s
     where s.run_id = _begin_step.run_id and s.name = _begin_step.name and s.attempts = 0;
  end if;
  return query
  select v_ended, s.state, s.result, s.error
    from (select) as one
    left join notika.step as s
      on s.run_id = _begin_step.run_id and s.name = _begin_step.name and s.state <> 'retrying';
end;
$$;

comment on function notika._begin_step(bigint, integer, text) is
  'Begins a step that is remembered in the transaction that runs it: until it commits no other '
  'session can run the step. Returns the outcome that stands already, if there is one.';

create or replace function notika._wake_at(wait json)
  returns timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set timezone = 'UTC'
  set datestyle = 'ISO, YMD'
as $$
declare
  v_zone text := coalesce(_wake_at.wait ->> 'time_zone', 'UTC');
  v_now timestamptz := clock_timestamp();
  v_today date;
  v_wake_at timestamptz;
  v_hint text;
begin
  perform notika._check_time_zone(v_zone);
  v_today := (v_now at time zone v_zone)::date;
  case
    when _wake_at.wait ->> 'for' is not null then
      return v_now + (_wake_at.wait ->> 'for')::interval;
    when _wake_at.wait ->> 'time' is not null then
      v_wake_at := (v_today + (_wake_at.wait ->> 'time')::time) at time zone v_zone;
      if v_wake_at <= v_now then
        v_wake_at := (v_today + 1 + (_wake_at.wait ->> 'time')::time) at time zone v_zone;
      end if;
      return v_wake_at;
    when _wake_at.wait ->> 'at' is not null then
      -- A time with an offset is complete; without one it is local time in the zone. In any other
      -- form Postgres would ignore a zone in the text.
      if _wake_at.wait ->> 'at' !~* '^\d{4}-\d\d-\d\d([t ]\d\d?:\d\d(:\d\d(\.\d+)?)? ?(z|[+-]\d\d(:?\d\d)?)?)?$' then
        raise exception 'not a time as ISO 8601 writes it: "%"', _wake_at.wait ->> 'at'
          using errcode = 'invalid_datetime_format',
                hint = 'For example: "2027-07-01 12:00" with { timeZone: "America/New_York" }, or '
                       '"2027-07-01T12:00:00Z".';
      end if;
      if _wake_at.wait ->> 'at' ~ '([Zz]|[+-]\d\d(:?\d\d)?)$' and _wake_at.wait ->> 'at' ~ ':' then
        return (_wake_at.wait ->> 'at')::timestamptz;
      end if;
      return (_wake_at.wait ->> 'at')::timestamp at time zone v_zone;
    else
      return timestamptz 'infinity';
  end case;
exception when data_exception then
  get stacked diagnostics v_hint = pg_exception_hint;
  raise exception 'step "%": %', _wake_at.wait ->> 'name', sqlerrm
    using errcode = 'invalid_parameter_value',
          hint = coalesce(nullif(v_hint, ''),
                          'For example: step.sleep(name, "3 days"), step.sleepUntil(name, "09:00", '
                          '{ timeZone: "Europe/Vienna" }).');
end;
$$;

comment on function notika._wake_at(json) is
  'When a wait is over: {for: interval}, {at: timestamp, time_zone}, {time: time of day, '
  'time_zone}, by the clock of the database.';

create or replace function notika._park(job_id bigint, waits json, wake json default null)
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run_id bigint;
  v_job notika._job;
  v_wake_at timestamptz := notika._wake_at(coalesce(_park.wake, '{}'));
begin
  perform notika._lock_signals(for_hand_over => false);
  select j.* into v_job
    from notika._job as j
   where j.job_id = _park.job_id and j.key is not null
     for update;
  if not found then
    return false;
  end if;
  v_run_id := v_job.key::bigint;

  insert into notika.wait as w (run_id, name, wake_at, source_id, match_values)
  select v_run_id, g.wait ->> 'name', notika._wake_at(g.wait), s.source_id, s.match_values
    from json_array_elements(_park.waits) as g (wait)
    left join lateral notika._find_source(v_job.workflow, g.wait) as s on true
  on conflict on constraint wait_pkey do update
    -- Of the time with which the wait began.
    set source_id = excluded.source_id, match_values = excluded.match_values
    where (w.source_id, w.match_values)
          is distinct from (excluded.source_id, excluded.match_values);
  perform notika._match_past_signals(v_run_id);

  select least(v_wake_at, min(w.wake_at)) into v_wake_at
    from notika.wait as w
   where w.run_id = v_run_id;
  -- A wait may have ended while the run was about to park.
  if exists (
    select from json_array_elements(_park.waits) as g (wait)
      join notika.step as s on s.run_id = v_run_id and s.name = g.wait ->> 'name'
     where s.state <> 'retrying'
  ) then
    v_wake_at := clock_timestamp();
  end if;

  -- Many runs may sleep until the same time, and then get places one behind the other.
  if v_wake_at > clock_timestamp() and v_wake_at < 'infinity' then
    v_wake_at := v_wake_at + (v_run_id % 100000) * interval '1 microsecond';
  end if;
  -- The running job loses its key to this one, and ends as if its run were done.
  perform notika._replace_job(
    v_job.workflow, v_job.payload, run_id => v_run_id, run_at => v_wake_at,
    max_attempts => v_job.max_attempts, priority => v_job.priority,
    -- The count of attempts starts again.
    flags => array(
      select k from jsonb_object_keys(coalesce(v_job.flags, '{}')) as k where k not in ('begun', 'lost')
      union select 'resumed'
    )
  );
  perform notika._free_slot(v_run_id);
  return true;
end;
$$;

comment on function notika._park(bigint, json, json) is
  'Lets the run of a running job wait, until the first of its waits is over or until wake, and '
  'then continue as a new job. False: the job no longer belongs to the run.';
