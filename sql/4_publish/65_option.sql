-- The options of a workflow: how its events become runs, if not each at once. They are kept in
-- their normal form: a list where a single column may be given. Everything that dispatch reads in
-- them is checked here, because an error there would stop the dispatch of all workflows.

create or replace function notika._check_schedule(workflow text, schedule jsonb)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_example constant text :=
    '{"schedule": {"cron": "30 2 * * *", "timeZone": "Europe/Berlin", "missed": "skip"}}';
  v_checked jsonb;
  v_unknown text;
begin
  if jsonb_typeof(_check_schedule.schedule) <> 'object' then
    perform notika._refuse_option(
      workflow, 'schedule', 'is not an object with cron, timeZone and missed', v_example,
      detail => format('It is %s.', _check_schedule.schedule));
  end if;
  select k into v_unknown
    from jsonb_object_keys(_check_schedule.schedule) as k
   where k not in ('cron', 'timeZone', 'missed')
   limit 1;
  if found then
    perform notika._refuse_option(
      workflow, 'schedule', format('has no setting "%s"', v_unknown), v_example,
      detail => 'Its settings are cron, timeZone and missed.');
  end if;

  v_checked := jsonb_build_object(
    'cron', schedule ->> 'cron',
    'timeZone', coalesce(schedule ->> 'timeZone', 'UTC'),
    'missed', coalesce(schedule ->> 'missed', 'skip')
  );
  perform notika._check_time_zone(v_checked ->> 'timeZone');
  if v_checked ->> 'missed' not in ('skip', 'catch up') then
    perform notika._refuse_option(
      workflow, 'schedule.missed', 'is not skip or catch up', v_example,
      detail => 'It says what happens to times that passed without a run.');
  end if;
  if notika._next_time(v_checked ->> 'cron', v_checked ->> 'timeZone', clock_timestamp()) is null
  then
    perform notika._refuse_cron(v_checked ->> 'cron', 'day', 'is not due in the next forty years',
                                'Leave the day or the weekday open.');
  end if;
  return v_checked;
end;
$$;

comment on function notika._check_schedule(text, jsonb) is
  'A schedule {cron, timeZone, missed} in its normal form, or an error.';

create or replace function notika._set_schedule(workflow_id integer, schedule jsonb)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _set_schedule.schedule is null then
    delete from notika.schedule as s where s.workflow_id = _set_schedule.workflow_id;
    return;
  end if;

  -- A schedule that does not change keeps the times that it still has to catch up with.
  insert into notika.schedule as s (workflow_id, cron, time_zone, missed, next_at)
  select _set_schedule.workflow_id, g.cron, g."timeZone", g.missed,
         notika._next_time(g.cron, g."timeZone", clock_timestamp())
    from jsonb_to_record(_set_schedule.schedule) as g (cron text, "timeZone" text, missed text)
  on conflict on constraint schedule_pkey do update
    set cron = excluded.cron, time_zone = excluded.time_zone, missed = excluded.missed,
        next_at = excluded.next_at, error = null, tried_at = null
    where (s.cron, s.time_zone, s.missed) is distinct from
          (excluded.cron, excluded.time_zone, excluded.missed)
       or s.error is not null;
end;
$$;

comment on function notika._set_schedule(integer, jsonb) is
  'Makes a checked {cron, timeZone, missed} the schedule of a workflow; null removes it.';

create or replace function notika._check_scheduled_name(workflow text)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _check_scheduled_name.workflow ~ '^[A-Za-z][A-Za-z0-9_-]{0,62}$' then
    return;
  end if;
  raise exception 'workflow name "%" is not valid', coalesce(_check_scheduled_name.workflow, 'null')
    using errcode = 'invalid_name',
          detail = 'It is the name of the task''s file: up to 63 letters, digits, _ and -, '
                   'of which the first is a letter: a file whose name begins with _ is no task.',
          hint = 'For example: select notika.schedule(''nightly_report'', ''30 2 * * *'');';
end;
$$;

comment on function notika._check_scheduled_name(text) is
  'Refuses a name that a workflow cannot have, or that is a source''s, which has no schedule.';

create or replace function notika._refuse_option(
  workflow text,
  option text,
  problem text,
  example text,
  code text default 'invalid_parameter_value',
  detail text default null
)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '% of workflow "%" %', _refuse_option.option, workflow, problem
    using errcode = _refuse_option.code,
          detail = coalesce(_refuse_option.detail, ''),
          hint = format('For example: select notika.configure(%L, %L);', workflow, example);
end;
$$;

comment on function notika._refuse_option(text, text, text, text, text, text) is
  'Raises an error that says what is wrong with an option, with a correct example.';

create or replace function notika._option_columns(
  workflow text,
  option text,
  value jsonb,
  known text[],
  example text
)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns jsonb := _option_columns.value;
  v_unknown text;
begin
  if jsonb_typeof(v_columns) = 'string' then
    v_columns := jsonb_build_array(v_columns);
  end if;
  if jsonb_typeof(v_columns) <> 'array' or v_columns = '[]'
     or exists (select from jsonb_array_elements(v_columns) as c where jsonb_typeof(c) <> 'string')
  then
    perform notika._refuse_option(
      workflow, option, 'is not a column or a list of columns', _option_columns.example,
      detail => format('It is %s.', _option_columns.value));
  end if;

  select c.name into v_unknown
    from jsonb_array_elements_text(v_columns) with ordinality as c (name, place)
   where c.name <> all (_option_columns.known)
   order by c.place
   limit 1;
  if found then
    perform notika._refuse_option(
      workflow, option, format('names "%s", which its events do not carry', v_unknown),
      _option_columns.example, 'undefined_column',
      format('They carry %s.', array_to_string(_option_columns.known, ', ')));
  end if;
  return v_columns;
end;
$$;

comment on function notika._option_columns(text, text, jsonb, text[], text) is
  'The columns that an option names, as a list, or an error.';

create or replace function notika._option_interval(
  workflow text,
  option text,
  value jsonb,
  example text
)
  returns interval
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_interval interval;
begin
  begin
    v_interval := case jsonb_typeof(_option_interval.value)
                    when 'string' then (value #>> '{}')::interval end;
  exception when data_exception then
    v_interval := null;
  end;
  if v_interval is null or v_interval <= interval '0' or v_interval > interval '1 year' then
    perform notika._refuse_option(
      workflow, option, 'is not an interval of up to a year', _option_interval.example,
      detail => case when _option_interval.value is null then 'It is missing.'
                     else format('It is %s.', _option_interval.value) end);
  end if;
  return v_interval;
end;
$$;

comment on function notika._option_interval(text, text, jsonb, text) is
  'The length of time that an option gives, or an error.';

create or replace function notika._option_number(
  workflow text,
  option text,
  value jsonb,
  at_least integer,
  at_most integer,
  example text
)
  returns integer
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_number numeric := case jsonb_typeof(_option_number.value)
                        when 'number' then (value #>> '{}')::numeric end;
begin
  if v_number is null or v_number <> trunc(v_number)
     or v_number not between _option_number.at_least and _option_number.at_most
  then
    perform notika._refuse_option(
      workflow, option,
      format('is not a whole number from %s to %s', _option_number.at_least, _option_number.at_most),
      _option_number.example, detail => format('It is %s.', _option_number.value));
  end if;
  return v_number;
end;
$$;

comment on function notika._option_number(text, text, jsonb, integer, integer, text) is
  'The number that an option gives, or an error.';

create or replace function notika._option_choice(
  workflow text,
  option text,
  value jsonb,
  choices text[],
  example text
)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_typeof(value) <> 'string' or value #>> '{}' <> all (choices) then
    perform notika._refuse_option(
      workflow, option, format('is not one of %s', array_to_string(choices, ', ')), example,
      detail => format('It is %s.', value));
  end if;
  return value;
end;
$$;

comment on function notika._option_choice(text, text, jsonb, text[], text) is
  'The word that an option gives, or an error.';

create or replace function notika._gathering_options(
  workflow text,
  option text,
  value jsonb,
  known text[]
)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_example constant text := jsonb_build_object(option, jsonb_build_object(
    'by', known[1], 'window', '5 minutes',
    'max', case option when 'debounce' then to_jsonb('1 hour'::text) else to_jsonb(100) end));
  v_unknown text;
  v_window interval;
  v_gathering jsonb;
begin
  if jsonb_typeof(_gathering_options.value) <> 'object' then
    perform notika._refuse_option(
      workflow, option, 'is not an object with by, window and max', v_example,
      detail => format('It is %s.', _gathering_options.value));
  end if;
  select k into v_unknown
    from jsonb_object_keys(_gathering_options.value) as k
   where k not in ('by', 'window', 'max')
   limit 1;
  if found then
    perform notika._refuse_option(
      workflow, option, format('has no setting "%s"', v_unknown), v_example,
      detail => 'Its settings are by, window and max.');
  end if;

  v_window := notika._option_interval(workflow, option || '.window', value -> 'window', v_example);
  v_gathering := jsonb_build_object('window', value -> 'window');
  if value ? 'by' then
    v_gathering := v_gathering || jsonb_build_object(
      'by', notika._option_columns(workflow, option || '.by', value -> 'by', known, v_example));
  end if;
  if not value ? 'max' then
    return v_gathering;
  end if;

  if option = 'digest' then
    return v_gathering || jsonb_build_object(
      'max', notika._option_number(workflow, 'digest.max', value -> 'max', 1, 10000, v_example));
  end if;
  if notika._option_interval(workflow, 'debounce.max', value -> 'max', v_example) < v_window then
    perform notika._refuse_option(
      workflow, 'debounce.max', 'is shorter than its window', v_example,
      detail => 'After max the run starts, even while events still come.');
  end if;
  return v_gathering || jsonb_build_object('max', value -> 'max');
end;
$$;

comment on function notika._gathering_options(text, text, jsonb, text[]) is
  'The settings of debounce or digest in their normal form, or an error.';

create or replace function notika._check_options(spec notika.workflow, options jsonb)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_known constant text[] := notika._payload_keys(_check_options.spec);
  v_example text;
  v_option text;
  v_value jsonb;
  v_checked jsonb := '{}'::jsonb;
begin
  if jsonb_typeof(_check_options.options) is distinct from 'object' then
    raise exception 'options of workflow "%" are not an object', spec.name
      using errcode = 'invalid_parameter_value',
            detail = format('They are %s.', coalesce(_check_options.options::text, 'null')),
            hint = format('For example: select notika.configure(%L, ''{"concurrency": 5}'');',
                          spec.name);
  end if;

  if notika._workflow_of(spec.name) is not null and _check_options.options <> '{}' then
    raise exception 'options of source "%" have no meaning', spec.name
      using errcode = 'invalid_parameter_value',
            hint = format('Give them to its workflow: select notika.configure(%L, %L);',
                          notika._workflow_of(spec.name), _check_options.options);
  end if;
  for v_option, v_value in
    select o.key, o.value from jsonb_each(_check_options.options) as o where o.value <> 'null'
  loop
    v_example := jsonb_build_object(
      v_option, case v_option when 'concurrency' then to_jsonb(5) when 'priority' then to_jsonb(10)
                     else to_jsonb(v_known[1]) end);
    v_checked := v_checked || jsonb_build_object(v_option, case
      when v_option in ('key', 'order') then
        notika._option_columns(spec.name, v_option, v_value, v_known, v_example)
      when v_option = 'concurrency' then
        to_jsonb(notika._option_number(spec.name, v_option, v_value, 1, 10000, v_example))
      when v_option = 'truncate' then notika._option_choice(
        spec.name, v_option, v_value, '{record,warn,refuse}', '{"truncate": "refuse"}')
      when v_option in ('debounce', 'digest') then
        notika._gathering_options(spec.name, v_option, v_value, v_known)
      when v_option = 'schedule' then notika._check_schedule(spec.name, v_value)
      when v_option = 'priority' then
        to_jsonb(notika._option_number(spec.name, v_option, v_value, -1000, 1000, v_example))
    end);
    if v_checked -> v_option = 'null' then
      raise exception 'workflow "%" has no option "%"', spec.name, v_option
        using errcode = 'invalid_parameter_value',
              detail = 'The options are key, concurrency, order, debounce, digest, schedule, truncate and '
                       'priority.',
              hint = format('For example: select notika.configure(%L, ''{"concurrency": 5}'');',
                            spec.name);
    end if;
  end loop;

  if v_checked ? 'debounce' and v_checked ? 'digest' then
    perform notika._refuse_option(
      spec.name, 'debounce', 'excludes its digest',
      jsonb_build_object('digest', v_checked -> 'digest')::text,
      detail => 'Both collect events into one run: debounce until no more come, '
                'digest for a fixed time.');
  end if;
  for v_option in select unnest('{debounce,digest}'::text[]) loop
    continue when not v_checked ? v_option or not v_checked ? 'order'
      or v_checked -> 'order' <@ coalesce(v_checked #> array[v_option, 'by'], '[]');
    perform notika._refuse_option(
      spec.name, 'order', format('has columns that %s.by has not', v_option),
      (v_checked || jsonb_build_object(
        v_option, (v_checked -> v_option) || jsonb_build_object('by', v_checked -> 'order')))::text,
      detail => 'One run gets all events of its ' || v_option || ', which must be of one order.');
  end loop;
  return v_checked;
end;
$$;

comment on function notika._check_options(notika.workflow, jsonb) is
  'The options of a workflow in their normal form, or an error.';

create or replace function notika.configure(workflow text, options jsonb)
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
  v_outcome := notika._submit_request_quietly('configure', jsonb_build_object(
    'workflow', configure.workflow, 'options', configure.options)) #>> '{}';
  perform set_config('lock_timeout', v_before, true);
  return v_outcome;
exception when lock_not_available then
  raise exception 'cannot configure workflow "%": another session is changing it', configure.workflow
    using errcode = 'lock_not_available',
          detail = format('Gave up after %s.', notika._lock_timeout('3s')),
          hint = 'Try again. Which sessions may hold it: select pid, query from pg_stat_activity '
                 'where state = ''idle in transaction'';';
end;
$$;

comment on function notika.configure(text, jsonb) is
  'Sets the options of a workflow; they replace all earlier ones. key: one run for each value; '
  'concurrency: the greatest number of runs at a time; order: runs of the same value one after '
  'the other; debounce, digest: {by, window, max}, one run for many events; schedule: {cron, '
  'timeZone, missed}, as in notika.schedule; truncate: record, warn or refuse, for a TRUNCATE if '
  'deletes start the workflow; priority: a whole number, default 0: runs with a smaller one start '
  'before all others. Returns changed or unchanged.';

create or replace function notika._do_configure(caller name, workflow text, options jsonb)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_do_configure.workflow);
  v_before notika.workflow;
  v_options jsonb;
begin
  select w.* into v_before
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  perform notika._expect_decider(v_before, _do_configure.caller);
  v_options := notika._check_options(v_before, nullif(_do_configure.options, 'null'));
  perform notika._set_schedule(v_workflow_id, v_options -> 'schedule');
  if v_options = v_before.options then
    return 'unchanged';
  end if;

  update notika.workflow as w set options = v_options where w.workflow_id = v_workflow_id;
  perform notika._advance(v_workflow_id);
  return 'changed';
end;
$$;

comment on function notika._do_configure(name, text, jsonb) is
  'Carries out configure for a caller.';
