-- The history of runs: searching for runs, the timeline of one run, and forgetting old ones.

create or replace function notika._mentions(event json, key jsonb)
  returns boolean
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns jsonb;
  v_values jsonb;
begin
  select jsonb_agg(v.key order by v.key), jsonb_agg(v.value order by v.key)
    into v_columns, v_values
    from jsonb_each_text(_mentions.key) as v;
  return notika._values(event, v_columns) = v_values
      or notika._values(json_build_object('old', event -> 'old'), v_columns) = v_values;
exception when data_exception or program_limit_exceeded then
  return false;
end;
$$;

comment on function notika._mentions(json, jsonb) is
  'Whether an event is about a row with these values, before or after the change.';

create or replace function notika.history(
  workflow text default null,
  state text default null,
  since timestamptz default null,
  table_name text default null,
  key jsonb default null,
  max_runs integer default 100,
  only_ended boolean default false
)
  returns setof notika.runs
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  -- Few runs are wanted: a join must not read the whole log to find that they are not in it, and a
  -- scan must not read the whole ring for events that are not dispatched.
  set enable_hashjoin = off
  set enable_mergejoin = off
  set enable_seqscan = off
  set jit = off
as $$
declare
  v_workflows text[] := case when history.workflow is not null then array[history.workflow] end;
  v_runs bigint[];
  v_needle text;
begin
  if history.max_runs is null or history.max_runs < 0 then
    raise exception 'max_runs is not a number of runs: %', coalesce(history.max_runs::text, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'For example: select * from notika.history(max_runs => 100);';
  end if;
  if jsonb_typeof(history.key) <> 'object' then
    raise exception 'key is not an object: %', history.key
      using errcode = 'invalid_parameter_value',
            hint = 'For example: select * from notika.history(key => ''{"id": 7}'');';
  end if;
  if history.table_name is not null then
    v_workflows := array(
      select w.name
        from notika.workflow as w
       where coalesce(notika._quoted(w.relation), w.table_name) = history.table_name
         and (history.workflow is null or w.name = history.workflow)
    );
  end if;
  if history.key is not null then
    -- Most events are excluded without extracting their values.
    select btrim(to_json(v.value)::text, '"') into v_needle
      from jsonb_each_text(history.key) as v
     order by length(v.value) desc
     limit 1;
    v_runs := array(
      select e.event_id
        from notika._event as e
        join notika.workflow as w on w.workflow_id = e.workflow_id
       where (v_workflows is null or w.name = any (v_workflows))
         and strpos(concat(e.new, e.old), v_needle) > 0
         and notika._mentions(json_build_object('new', e.new, 'old', e.old), history.key)
      union
      select l.run_id
        from notika.run_log as l
       where l.state <> 'done' and l.retried_at is null
         and (v_workflows is null or l.workflow = any (v_workflows))
         and strpos(l.event::text, v_needle) > 0
         and notika._mentions(l.event, history.key)
      union
      select j.key::bigint
        from notika._job as j
       where j.key is not null
         and strpos(j.payload::text, v_needle) > 0
         and notika._mentions(j.payload, history.key)
    );
  end if;

  -- Runs that have ended and those that have not are each found by their own indexes, and a filter
  -- that was not given is left out of the query.
  return query execute format(
    $history$
    with ended as (
      select l.run_id, l.workflow, l.state, l.attempts::integer as attempts, l.event, l.error,
             l.created_at, null::timestamptz as wake_at, l.started_at, l.finished_at
        from notika.run_log as l
       where l.retried_at is null %1$s %2$s %3$s %4$s
       order by l.run_id desc
       limit $5
    ), chosen as materialized (
      %5$s
    ), alive as (
      select l.*
        from notika.runs as l
       where l.finished_at is null and l.run_id = any (array(select c.run_id from chosen as c))
    ), latest as (
      select * from ended
      union all
      select * from alive
       order by run_id desc
       limit $5
    )
    select l.run_id, l.workflow, l.state, l.attempts, coalesce(l.event, r.event), l.error,
           l.created_at, l.wake_at, l.started_at, l.finished_at
      from latest as l
      left join lateral (
        select notika._payload(e, w.name, coalesce(notika._quoted(w.relation), w.table_name)) as event
          from notika._event as e
          join notika.workflow as w on w.workflow_id = e.workflow_id
         where e.event_id = l.run_id
      ) as r on true
     order by l.run_id desc
    $history$,
    case when v_workflows is not null then 'and l.workflow = any ($1)' end,
    case when history.state is not null then 'and l.state = $2' end,
    case when history.since is not null then 'and l.finished_at >= $3' end,
    case when v_runs is not null then 'and l.run_id = any ($4)' end,
    -- Only the columns that are compared: the others are expensive.
    case
      when history.only_ended or history.state in ('done', 'failed', 'cancelled', 'expired')
        then 'select null::bigint as run_id'
      when history.state is not null or v_runs is not null or v_workflows is not null then format(
        'select l.run_id from notika.runs as l where l.finished_at is null %s %s %s
          order by l.run_id desc limit $5',
        case when v_workflows is not null then 'and l.workflow = any ($1)' end,
        case when history.state is not null then 'and l.state = $2' end,
        case when v_runs is not null then 'and l.run_id = any ($4)' end)
      else
        '(select j.key::bigint as run_id from notika._job as j
           where j.key is not null order by 1 desc limit $5)
         union
         (select e.event_id from notika._event as e
           where e.event_id > notika._bound(notika._position()) order by 1 desc limit $5)'
    end
  )
    using v_workflows, history.state, history.since, v_runs, history.max_runs;
end;
$$;

comment on function notika.history(
  text, text, timestamptz, text, jsonb, integer, boolean
) is
  'The latest runs, newest first: of a workflow, in a state, ended since a time or not ended at '
  'all, of a table, about a row with these values ({"id": 7}). A run is found by the values of '
  'its event as long as the event is remembered; that of a run that is done is remembered by the '
  'ring only.';

create or replace function notika.timeline(run_id bigint)
  returns table (
    at timestamptz,
    entry text,
    name text,
    state text,
    attempts integer,
    took interval,
    detail text
  )
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_run notika.runs;
begin
  select r.* into v_run from notika.runs as r where r.run_id = timeline.run_id;
  if not found then
    raise exception 'there is no run %', timeline.run_id
      using errcode = 'undefined_object',
            hint = 'The ids are in: select * from notika.history();';
  end if;

  return query
    with told (place, at, entry, name, state, attempts, took, detail) as (
      select 1, v_run.created_at, 'event', v_run.workflow,
             substring(v_run.event::text from '"operation" : "([a-z]+)"'), null::integer,
             null::interval,
             coalesce(v_run.event::text, 'forgotten: the run is done, and the ring has gone on')
      union all
      select 2, l.finished_at, 'outcome', null, l.state, l.attempts, l.finished_at - l.created_at,
             l.error
        from notika.run_log as l
       where l.run_id = timeline.run_id and l.retried_at is not null
      union all
      select 3, l.retried_at, 'retry', null, null, null, null, null
        from notika.run_log as l
       where l.run_id = timeline.run_id and l.retried_at is not null
      union all
      select 4, v_run.started_at, 'attempt', null,
             case when v_run.state = 'running' then 'running' end, v_run.attempts,
             coalesce(v_run.finished_at, case when v_run.state = 'running' then clock_timestamp() end)
             - v_run.started_at,
             null
       where v_run.started_at is not null
      union all
      select 5, s.started_at, 'step', s.name, s.state, s.attempts, s.finished_at - s.started_at,
             coalesce(s.error, s.result::text)
        from notika.step as s
       where s.run_id = timeline.run_id
      union all
      select 6, w.created_at, 'wait', w.name, 'waiting', null, clock_timestamp() - w.created_at,
             case when w.wake_at < 'infinity' then format('until %s', w.wake_at) end
        from notika.wait as w
       where w.run_id = timeline.run_id
      union all
      select 7, coalesce(v_run.finished_at, v_run.wake_at), 'outcome', null, v_run.state,
             v_run.attempts, v_run.finished_at - v_run.created_at,
             concat_ws(E'\n', v_run.error, (
               select l.stack
                 from notika.run_log as l
                where l.run_id = timeline.run_id and l.retried_at is null
             ))
       where v_run.finished_at is not null
      union all
      select 8, v_run.wake_at, 'next', null, v_run.state, v_run.attempts, null, v_run.error
       where v_run.finished_at is null
    )
    select t.at, t.entry, t.name, t.state, t.attempts, t.took, nullif(t.detail, '')
      from told as t
     -- What comes next comes last; infinity: the time is not known.
     order by t.place = 8, t.at nulls first, t.place;
end;
$$;

comment on function notika.timeline(bigint) is
  'The history of a run: its event, its last attempt, its steps and waits with their durations, '
  'errors, earlier outcomes, how it ended or what comes next, and when.';

create or replace function notika._remembered()
  returns table (workflow text, step text, runs bigint, run_id bigint)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select t.workflow, s.name, count(*), min(s.run_id)
    from (
      select s.run_id, s.name from notika.step as s
      union all
      select w.run_id, w.name from notika.wait as w
    ) as s
    join notika._job as j on j.key = s.run_id::text
    join notika._task as t on t.task_id = j.task_id
   group by t.workflow, s.name
   order by t.workflow, min(s.run_id), s.name;
$$;

comment on function notika._remembered() is
  'The steps that unfinished runs remember or wait in, the number of these runs, and the first of '
  'them.';

create or replace function notika._forget_runs(max_runs integer default 10000)
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant timestamptz :=
    clock_timestamp() - (select s.runs_kept from notika.setting as s);
  v_runs bigint[];
begin
  with old as (
    select l.ctid
      from notika.run_log as l
     where l.finished_at < v_before
     order by l.finished_at
     limit _forget_runs.max_runs
  ), gone as (
    delete from notika.run_log as l using old as o where l.ctid = o.ctid
    returning l.run_id
  )
  select array_agg(g.run_id) into v_runs from gone as g;
  if v_runs is null then
    return;
  end if;

  -- Something of a run that was retried may still be needed, or remembered.
  v_runs := array(
    select r.run_id
      from unnest(v_runs) as r (run_id)
     where not exists (
             select from notika._job as j where j.key = r.run_id::text
           )
       and not exists (select from notika.run_log as l where l.run_id = r.run_id)
  );
  delete from notika.step as s where s.run_id = any (v_runs);
  return next format('%s runs that ended before %s are forgotten', cardinality(v_runs),
                     date_trunc('second', v_before));
end;
$$;

comment on function notika._forget_runs(integer) is
  'Forgets the oldest of the runs that ended longer ago than notika.setting keeps them, at most '
  'the given number.';
