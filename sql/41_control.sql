-- What hand-over does for workflows with options, between the chunk and its jobs: doubles are
-- dropped, events gathered, runs lined up.  The rest of a chunk does not come here at all.
-- Whoever decides which run of a workflow goes next holds the workflow's line lock until commit.

create or replace function notika._is_gated(options jsonb)
  returns boolean
  language sql
  immutable
begin atomic
  select options ?| '{concurrency,order,debounce,digest}'::text[];
end;

comment on function notika._is_gated(jsonb) is
  'Whether runs with these options must be admitted at the start of each attempt.';

create or replace function notika._flags(workflow text)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg('gated'::text)
    from notika.workflow as w
   where w.name = _flags.workflow and notika._is_gated(w.options);
$$;

comment on function notika._flags(text) is
  'The flags of a workflow''s jobs: gated, if its runs must be admitted; or null.';

create or replace function notika._values(event json, columns jsonb)
  returns jsonb
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_event json := _values.event;
  v_row json;
begin
  -- A json column may hold what Postgres' operators refuse, \u0000 or half a pair of surrogates.
  if strpos(v_event::text, '\u') > 0 then
    v_event := regexp_replace(v_event::text, '(?<!\\)((?:\\\\)*)\\u', '\1\\\\u', 'g')::json;
  end if;
  v_row := v_event -> 'new';
  if coalesce(json_typeof(v_row), 'null') = 'null' then
    v_row := v_event -> 'old'; -- a delete, also when it is replayed
  end if;
  return coalesce(
    (select jsonb_agg(v_row ->> c.name order by c.place)
       from jsonb_array_elements_text(_values.columns) with ordinality as c (name, place)),
    '[]'
  );
end;
$$;

comment on function notika._values(json, jsonb) is
  'What an event has in these columns, as text, null where it has none.';

create or replace function notika._short(key jsonb)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when octet_length(key::text) <= 500 then key::text
    else left(key::text, 50) || '... ' || encode(sha256(convert_to(key::text, 'UTF8')), 'hex')
  end;
$$;

comment on function notika._short(jsonb) is
  'Values as one text that an index can hold, different for different values.';

create or replace function notika._control(jobs notika_worker.job_spec[])
  returns notika_worker.job_spec[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not notika._lock_lines(array(
    select w.workflow_id
      from notika.workflow as w
     where w.name in (select j.identifier from unnest(_control.jobs) as j)
  )) then
    return notika._drop_doubles(_control.jobs);
  end if;
  return notika._line_up(notika._gather(notika._drop_doubles(_control.jobs)));
end;
$$;

comment on function notika._control(notika_worker.job_spec[]) is
  'The jobs of a chunk for workflows with options, as these want them.';

create table if not exists notika.run_key (
  workflow_id integer not null,
  key text not null,
  run_id bigint not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint run_key_pkey primary key (workflow_id, key)
);
create index if not exists run_key_created_at_idx on notika.run_key (created_at);

comment on table notika.run_key is
  'For workflows with a key: the run of each, while it is remembered. See notika.configure.';
comment on column notika.run_key.workflow_id is 'The workflow.';
comment on column notika.run_key.key is 'The values of the key''s columns.';
comment on column notika.run_key.run_id is 'The run that had them first.';
comment on column notika.run_key.created_at is 'When it was handed over.';

create or replace function notika._drop_doubles(jobs notika_worker.job_spec[])
  returns notika_worker.job_spec[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys notika.run_key[];
  v_doubles jsonb;
begin
  select array_agg(
           row(k.workflow_id, notika._short(k.values), k.run_id, clock_timestamp())::notika.run_key
         )
    into v_keys
    from (
      select w.workflow_id, notika._values(j.payload, w.options -> 'key') as values,
             j.job_key::bigint as run_id
        from unnest(_drop_doubles.jobs) as j
        join notika.workflow as w on w.name = j.identifier and w.options ? 'key'
       -- Whoever replays events wants them to run again.
       where substring(j.payload::text from '"operation" : "([a-z]+)"') <> 'replay'
      offset 0 -- values are taken from an event once
    ) as k
   where not k.values @> '[null]'; -- as in a unique constraint, null is like nothing else
  if v_keys is null then
    return _drop_doubles.jobs;
  end if;

  insert into notika.run_key
  select distinct on (k.workflow_id, k.key) k.*
    from unnest(v_keys) as k
   order by k.workflow_id, k.key, k.run_id
  on conflict on constraint run_key_pkey do nothing;

  -- By key, because a planner would compare each job with each double.
  select jsonb_object_agg(k.run_id, f.run_id) into v_doubles
    from unnest(v_keys) as k
    join notika.run_key as f on f.workflow_id = k.workflow_id and f.key = k.key
   where f.run_id <> k.run_id;
  if v_doubles is null then
    return _drop_doubles.jobs;
  end if;

  insert into notika.run_log (run_id, workflow, state, attempts, event, error, created_at)
  select j.job_key::bigint, j.identifier, 'cancelled', 0, j.payload,
         format('run %s has the same key', v_doubles ->> j.job_key),
         notika._captured_at(j.payload)
    from unnest(_drop_doubles.jobs) as j
   where v_doubles ? j.job_key
  on conflict do nothing;
  return array(select j from unnest(_drop_doubles.jobs) as j where not v_doubles ? j.job_key);
end;
$$;

comment on function notika._drop_doubles(notika_worker.job_spec[]) is
  'The jobs without those whose workflow has had a run of the same key, which are logged.';

create or replace function notika._forget_keys()
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  delete from notika.run_key as k
   where k.ctid = any (array(
     select o.ctid
       from notika.run_key as o
      where o.created_at < clock_timestamp() - (select s.runs_kept from notika.setting as s)
      order by o.created_at
      limit 10000
        for update skip locked
   ));
$$;

comment on function notika._forget_keys() is
  'Forgets keys that are as old as runs that are forgotten.';
