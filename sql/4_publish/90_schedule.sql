-- Schedules: workflows that start at given times, with or without a table. notika.dispatch finds
-- those that are due, under its lock, so that each time starts one run, with any number of
-- dispatchers.

create or replace view notika.schedules as
select w.name as workflow,
       s.cron,
       s.time_zone,
       s.missed,
       s.next_at,
       s.last_at,
       s.error
  from notika.schedule as s
  join notika.workflow as w on w.workflow_id = s.workflow_id;

comment on view notika.schedules is 'The workflows that start by time, and when.';

comment on column notika.schedules.workflow is 'The workflow that is started.';

comment on column notika.schedules.cron is 'Minute, hour, day, month and weekday.';

comment on column notika.schedules.time_zone is 'The time zone of these fields.';

comment on column notika.schedules.missed is
  'What happens to times that passed without a run, because no runner was there or the workflow '
  'was paused: skip, catch up.';

comment on column notika.schedules.next_at is
  'When it is due; a time in the past waits for a dispatcher, or for the workflow to be resumed.';

comment on column notika.schedules.last_at is 'The time of its last run, as planned.';

comment on column notika.schedules.error is
  'Why no run could be started when it was due; it is tried again, and no time is lost.';

create or replace function notika._plan_by_time(workflow text, options jsonb)
  returns table (statement text, lock text)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_before jsonb;
  v_after jsonb;
  v_schedule jsonb;
begin
  perform notika._check_scheduled_name(_plan_by_time.workflow);
  select w.* into v_spec
    from notika.workflow as w
   where w.name = _plan_by_time.workflow and w.unpublished_at is null;
  v_spec.name := _plan_by_time.workflow;
  v_before := coalesce(v_spec.options, '{}');
  v_after := notika._check_options(v_spec, coalesce(_plan_by_time.options, '{}'));
  v_schedule := v_after -> 'schedule';

  if v_schedule is distinct from v_before -> 'schedule' and v_schedule is not null then
    return query
      select format('select notika.schedule(%L, %L, %L, %L);', v_spec.name, v_schedule ->> 'cron',
                    v_schedule ->> 'timeZone', v_schedule ->> 'missed'), null::text;
    v_before := v_before || jsonb_build_object('schedule', v_schedule);
  end if;
  if v_after <> v_before then
    return query select format('select notika.configure(%L, %L);', v_spec.name, v_after), null::text;
  end if;
end;
$$;

comment on function notika._plan_by_time(text, jsonb) is
  'What _publish_by_time would do with the same arguments, like plan for publish.';

create or replace function notika._publish_by_time(workflow text, options jsonb)
  returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_outcome text;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  v_outcome := notika._submit_request('_publish_by_time', jsonb_build_object(
    'workflow', _publish_by_time.workflow, 'options', _publish_by_time.options)) #>> '{}';
  perform set_config('lock_timeout', v_before, true);
  return v_outcome;
end;
$$;

comment on function notika._publish_by_time(text, jsonb) is
  'Configures a workflow, which is published without a table if it is not published yet. Returns '
  'published, changed or unchanged.';

create or replace function notika._do_publish_by_time(caller name, workflow text, options jsonb)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_new boolean;
begin
  perform notika._check_scheduled_name(_do_publish_by_time.workflow);

  -- A workflow without a table has a row too: it is paused, resumed, shown.
  insert into notika.workflow as w
    (name, operations, guard, on_rename, definition, is_pinned, published_by, publisher_id)
  select _do_publish_by_time.workflow, '{}', 'off', 'follow', '{}', false, r.rolname, r.oid
    from pg_roles as r
   where r.rolname = _do_publish_by_time.caller
  on conflict (name) do update
    set table_name = null, operations = '{}', columns = null, column_names = null, watch = null,
        condition = null, condition_sql = null, condition_uses = null, guard = 'off',
        is_pinned = false, paused_at = null, options = '{}', published_at = clock_timestamp(),
        published_by = excluded.published_by, publisher_id = excluded.publisher_id,
        unpublished_at = null
    where w.unpublished_at is not null;
  v_is_new := found;

  return case notika._do_configure(
           _do_publish_by_time.caller, _do_publish_by_time.workflow,
           coalesce(nullif(_do_publish_by_time.options, 'null'), '{}'))
           when 'unchanged' then 'unchanged'
           else case when v_is_new then 'published' else 'changed' end
         end;
end;
$$;

comment on function notika._do_publish_by_time(name, text, jsonb) is
  'Carries out _publish_by_time for a caller.';

create or replace function notika.schedule(
  workflow text,
  cron text,
  time_zone text default 'UTC',
  missed text default 'skip'
)
  returns timestamptz
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_due timestamptz;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  v_due := (notika._submit_request('schedule', jsonb_build_object(
    'workflow', schedule.workflow, 'cron', schedule.cron, 'time_zone', schedule.time_zone,
    'missed', schedule.missed)) #>> '{}')::timestamptz;
  perform set_config('lock_timeout', v_before, true);
  return v_due;
end;
$$;

comment on function notika.schedule(text, text, text, text) is
  'Starts a workflow at times: cron is minute, hour, day, month and weekday on the clock of '
  'time_zone; missed: skip or catch up. The workflow need not be published on a table. Returns '
  'when it is next due.';

create or replace function notika._do_schedule(
  caller name,
  workflow text,
  cron text,
  time_zone text,
  missed text
)
  returns timestamptz
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._do_publish_by_time(_do_schedule.caller, _do_schedule.workflow, coalesce((
    select w.options
      from notika.workflow as w
     where w.name = _do_schedule.workflow and w.unpublished_at is null
  ), '{}') || jsonb_build_object('schedule', jsonb_build_object(
    'cron', _do_schedule.cron, 'timeZone', _do_schedule.time_zone, 'missed', _do_schedule.missed
  )));
  return (select s.next_at from notika.schedules as s where s.workflow = _do_schedule.workflow);
end;
$$;

comment on function notika._do_schedule(name, text, text, text, text) is
  'Carries out schedule for a caller.';

create or replace function notika.unschedule(workflow text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  perform notika._submit_request('unschedule', jsonb_build_object('workflow', unschedule.workflow));
  perform set_config('lock_timeout', v_before, true);
end;
$$;

comment on function notika.unschedule(text) is
  'Removes the schedule of a workflow; a workflow without a table is then no longer published.';

create or replace function notika._do_unschedule(caller name, workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_do_unschedule.workflow);
begin
  perform notika._do_configure(_do_unschedule.caller, w.name, w.options - 'schedule')
     from notika.workflow as w
    where w.workflow_id = v_workflow_id;
  update notika.workflow as w
     set unpublished_at = clock_timestamp()
   where w.workflow_id = v_workflow_id and w.table_name is null;
end;
$$;

comment on function notika._do_unschedule(name, text) is 'Carries out unschedule for a caller.';

create or replace function notika._keep_time(due notika.schedule, now timestamptz)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_grace constant interval := (select s.missed_after from notika.setting as s);
  v_at timestamptz := due.next_at;
  v_next timestamptz;
  v_started integer := 0;
begin
  -- A time that could not run was not missed: a runner was there.
  if due.missed = 'skip' and due.error is null and v_at < _keep_time.now - v_grace then
    v_at := notika._next_time(due.cron, due.time_zone, _keep_time.now - v_grace);
  end if;
  -- A few at a time: the rest is due at the next dispatch.
  while v_at <= _keep_time.now and v_started < 100 loop
    v_next := coalesce(notika._next_time(due.cron, due.time_zone, v_at), 'infinity');
    if due.missed = 'catch up' or v_next > _keep_time.now then
      perform notika._append(due.workflow_id, 'schedule', json_build_object('planned_at',
        to_char(v_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')));
      v_started := v_started + 1;
      due.last_at := v_at;
    end if;
    v_at := v_next;
  end loop;

  update notika.schedule as s
     set next_at = v_at, last_at = due.last_at, error = null, tried_at = null
   where s.workflow_id = due.workflow_id;
  return v_started;
exception when others then
  -- One schedule must not stop the dispatch of everything. It stays due.
  begin
    update notika.schedule as s
       set error = sqlerrm, tried_at = _keep_time.now
     where s.workflow_id = due.workflow_id;
  exception when others then
    null; -- the same cause may keep this from being written
  end;
  return 0;
end;
$$;

comment on function notika._keep_time(notika.schedule, timestamptz) is
  'Starts the runs of a schedule that is due, and returns their number. Requires the lock of '
  '_lock_dispatch.';

create or replace function notika._keep_times()
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A paused workflow does not run at its times.
  return (
    select coalesce(sum(notika._keep_time(d.due, clock_timestamp())), 0)::integer
      from (
        select s as due
          from notika.schedule as s
          join notika.workflow as w on w.workflow_id = s.workflow_id
         where s.next_at <= clock_timestamp()
           and (s.tried_at is null or s.tried_at < clock_timestamp() - interval '1 second')
           and w.unpublished_at is null and w.paused_at is null and w.broken_reason is null
           for update of s skip locked -- a schedule that is being changed must not stop the others
      ) as d
  );
end;
$$;

comment on function notika._keep_times() is
  'Starts the runs of all schedules that are due, and returns their number. Requires the lock of '
  '_lock_dispatch.';
