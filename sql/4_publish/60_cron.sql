-- When a schedule is due. Times are those of the wall clock of a time zone. A time that is skipped
-- when the clock is put forward runs later by as much; a time that occurs twice when it is put
-- back runs the first time. A schedule of every hour keeps its rhythm and runs both times.

create or replace function notika._refuse_cron(cron text, field text, problem text, hint text)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '% of cron "%" %', _refuse_cron.field, _refuse_cron.cron, _refuse_cron.problem
    using errcode = 'invalid_parameter_value',
          detail = 'A schedule has five fields: minute (0-59), hour (0-23), day (1-31), month (1-12 '
                   'or jan-dec), weekday (0-7 or sun-sat); each is *, numbers, ranges, or steps.',
          hint = _refuse_cron.hint;
end;
$$;

comment on function notika._refuse_cron(text, text, text, text) is
  'Raises an error that says what is wrong with a field of a schedule.';

create or replace function notika._cron_values(
  cron text,
  name text,
  field text,
  low integer,
  high integer,
  names text[]
)
  returns integer[]
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_item text;
  v_parts text[];
  v_text text;
  v_bounds integer[];
  v_step integer;
  v_values integer[] := array[]::integer[];
begin
  foreach v_item in array string_to_array(lower(field), ',') loop
    v_parts := regexp_match(v_item, '^(\*|[0-9]+|[a-z]+)(?:-([0-9]+|[a-z]+))?(?:/([0-9]+))?$');
    if v_parts is null or v_parts[1] = '*' and v_parts[2] is not null then
      perform notika._refuse_cron(
        cron, name, format('has "%s", which is no number, range or step', v_item),
        format('For example: *, %1$s, %1$s-%2$s, %1$s,%2$s, */2 or %1$s-%2$s/2.', low, high));
    end if;

    v_bounds := array[]::integer[];
    foreach v_text in array v_parts[1:2] loop
      v_bounds := v_bounds || case
        when v_text ~ '^[0-9]{1,4}$' then v_text::integer
        when v_text ~ '[0-9]' then high + 1
        else array_position(names, v_text) - 1 + low
      end;
      if v_text = '*' then
        v_bounds := array[low, high];
        exit;
      end if;
      exit when v_text is null;
      if v_bounds[cardinality(v_bounds)] is null then
        perform notika._refuse_cron(
          cron, name, format('has "%s", which is no number or name', v_text),
          case when names is null then format('Write a number from %s to %s.', low, high)
               else format('The names are %s.', array_to_string(names, ', ')) end);
      end if;
      if v_bounds[cardinality(v_bounds)] not between low and high then
        perform notika._refuse_cron(
          cron, name, format('has %s, which is not between %s and %s', v_text, low, high),
          format('Write a number from %s to %s.', low, high));
      end if;
    end loop;

    if v_parts[1] <> '*' and v_parts[2] is null then
      if v_parts[3] is not null then
        perform notika._refuse_cron(
          cron, name, format('has "%s", a step without a range', v_item),
          format('Write %s-%s/%s.', v_bounds[1], high, v_parts[3]));
      end if;
      v_bounds[2] := v_bounds[1];
    elsif v_parts[2] = 'sun' then
      v_bounds[2] := high; -- at the end of a range, Sunday is the seventh day
    end if;
    if v_bounds[1] > v_bounds[2] then
      perform notika._refuse_cron(
        cron, name, format('has "%s", a range that runs backwards', v_item),
        format('Write %s-%s,%s-%s.', v_parts[1], high - (high = 7)::integer, low, v_parts[2]));
    end if;

    v_step := case when v_parts[3] ~ '^[0-9]{1,4}$' then v_parts[3]::integer
                   when v_parts[3] is null then 1 else 0 end;
    if v_step not between 1 and high then
      perform notika._refuse_cron(
        cron, name, format('has "%s", a step that is not between 1 and %s', v_item, high),
        format('For example: */2.'));
    end if;
    v_values := v_values || array(select generate_series(v_bounds[1], v_bounds[2], v_step));
  end loop;

  return array(select distinct case when high = 7 then v.value % 7 else v.value end
                 from unnest(v_values) as v (value) order by 1);
end;
$$;

comment on function notika._cron_values(text, text, text, integer, integer, text[]) is
  'The numbers that a field of a schedule stands for, or an error that names the field.';

create or replace function notika._cron(
  cron text,
  out minutes integer[],
  out hours integer[],
  out days integer[],
  out months integer[],
  out weekdays integer[],
  out any_day boolean
)
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_fields text[] := regexp_split_to_array(btrim(coalesce(_cron.cron, ''), E' \t'), '[ \t]+');
begin
  if cardinality(v_fields) = 1 and v_fields[1] ~ '^@' then
    v_fields := string_to_array(case lower(v_fields[1])
      when '@hourly' then '0 * * * *'
      when '@daily' then '0 0 * * *'
      when '@midnight' then '0 0 * * *'
      when '@weekly' then '0 0 * * 0'
      when '@monthly' then '0 0 1 * *'
      when '@yearly' then '0 0 1 1 *'
      when '@annually' then '0 0 1 1 *'
    end, ' ');
    if v_fields is null then
      perform notika._refuse_cron(
        cron, 'name', 'is not known',
        'The names are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually.');
    end if;
  end if;
  if cardinality(v_fields) <> 5 then
    perform notika._refuse_cron(
      coalesce(cron, 'null'), 'number of fields',
      format('is %s instead of five',
             case when v_fields = '{""}' then 0 else cardinality(v_fields) end),
      case when cardinality(v_fields) = 6 then 'There are no seconds: leave the first field out.'
           else 'For example, each day at half past seven: 30 7 * * *.' end);
  end if;

  minutes := notika._cron_values(cron, 'minute', v_fields[1], 0, 59, null);
  hours := notika._cron_values(cron, 'hour', v_fields[2], 0, 23, null);
  days := notika._cron_values(cron, 'day', v_fields[3], 1, 31, null);
  months := notika._cron_values(cron, 'month', v_fields[4], 1, 12,
    '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
  weekdays := notika._cron_values(cron, 'weekday', v_fields[5], 0, 7,
    '{sun,mon,tue,wed,thu,fri,sat}');
  -- As in cron: if day and weekday are both restricted, either is enough.
  any_day := v_fields[3] !~ '^\*' and v_fields[5] !~ '^\*';

  if not any_day and not exists (
    select from unnest(days) as d (day), unnest(months) as m (month)
     where d.day <= ('{31,29,31,30,31,30,31,31,30,31,30,31}'::integer[])[m.month]
  ) then
    perform notika._refuse_cron(
      cron, 'day', format('is never due: no month of %s has it', v_fields[4]),
      'For the end of a month: 28 is in all of them.');
  end if;
end;
$$;

comment on function notika._cron(text) is
  'What the fields of a schedule stand for. any_day: day or weekday is enough, instead of day and '
  'weekday.';

create or replace function notika._local_instants(
  local timestamp,
  time_zone text,
  is_repeated boolean
)
  returns setof timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- Postgres reads a time that is skipped by the clock before the change, and of two times the
  -- second.
  v_last timestamptz := _local_instants.local at time zone _local_instants.time_zone;
  v_day_before timestamptz := v_last - interval '24 hours';
  v_first timestamptz := _local_instants.local at time zone 'UTC' - (
    v_day_before at time zone _local_instants.time_zone - v_day_before at time zone 'UTC'
  );
begin
  if v_first < v_last and v_first at time zone _local_instants.time_zone = local then
    return next v_first;
    if not is_repeated then
      return;
    end if;
  end if;
  return next v_last;
end;
$$;

comment on function notika._local_instants(timestamp, text, boolean) is
  'The instants at which a clock shows a time: one; if the clock is put back, the first, or both '
  'if asked for; if the clock skips the time, an instant that is later by as much.';

create or replace function notika._is_clock_set(time_zone text, instant timestamptz)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select (instant + interval '24 hours') at time zone time_zone
         <> (instant - interval '24 hours') at time zone time_zone + interval '48 hours';
$$;

comment on function notika._is_clock_set(text, timestamptz) is
  'Whether a clock is put forward or back within a day of an instant.';

create or replace function notika._next_time(cron text, time_zone text, after timestamptz)
  returns timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_cron record;
  v_from timestamp := date_trunc('minute', after at time zone time_zone);
  v_day date;
  v_last_day date;
  v_first timestamp;
  v_next timestamptz;
  -- Clocks are changed by less.
  v_leap constant interval := interval '3 hours';
begin
  select c.*, cardinality(c.hours) = 24 as is_hourly into v_cron
    from notika._cron(_next_time.cron) as c;
  v_from := v_from + case when notika._is_clock_set(time_zone, after) then -v_leap
                          else interval '1 minute' end;
  v_day := v_from::date;
  -- The twenty-ninth of February falls on a given weekday once in forty years.
  v_last_day := v_day + 366 * 41;

  while v_day < v_last_day loop
    while extract(month from v_day) = any (v_cron.months)
      and case when v_cron.any_day
               then extract(day from v_day) = any (v_cron.days)
                 or extract(dow from v_day) = any (v_cron.weekdays)
               else extract(day from v_day) = any (v_cron.days)
                and extract(dow from v_day) = any (v_cron.weekdays) end
    loop
      select min(v_day + make_time(h.hour, m.minute, 0)) into v_first
        from unnest(v_cron.hours) as h (hour), unnest(v_cron.minutes) as m (minute)
       where v_day + make_time(h.hour, m.minute, 0) >= v_from;
      exit when v_first is null;
      v_next := v_first at time zone time_zone;
      if v_next > after and not notika._is_clock_set(time_zone, v_next) then
        return v_next;
      end if;

      -- Around a change of the clock a later time may come first.
      select min(i.instant) into v_next
        from unnest(v_cron.hours) as h (hour)
       cross join unnest(v_cron.minutes) as m (minute)
       cross join lateral (select v_day + make_time(h.hour, m.minute, 0)) as l (local)
       cross join lateral
             notika._local_instants(l.local, time_zone, v_cron.is_hourly) as i (instant)
       where l.local between v_first and v_first + 2 * v_leap
         and i.instant > after;
      if v_next is not null then
        return v_next;
      end if;
      v_from := least(v_first + 2 * v_leap + interval '1 minute', v_day + interval '1 day');
    end loop;
    v_day := v_day + 1;
  end loop;
  return null;
end;
$$;

comment on function notika._next_time(text, text, timestamptz) is
  'When a schedule is first due after an instant; null if it is not due within forty years.';
