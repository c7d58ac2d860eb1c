-- Keys: a key starts one run of a workflow, however many events have it.

create or replace function notika._drop_doubles(jobs notika._new_job[])
  returns notika._new_job[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys notika.run_key[];
  v_doubles jsonb;
begin
  select array_agg(
           row(k.workflow_id, notika._index_key(k.values), k.run_id, clock_timestamp())::notika.run_key
         )
    into v_keys
    from (
      select w.workflow_id, notika._values(j.payload, w.options -> 'key') as values,
             j.key::bigint as run_id
        from unnest(_drop_doubles.jobs) as j
        join notika.workflow as w on w.name = j.workflow and w.options ? 'key'
       -- Replayed events are meant to run again.
       where substring(j.payload::text from '"operation" : "([a-z]+)"') <> 'replay'
      offset 0 -- so that values are extracted from an event once
    ) as k
   where not k.values @> '[null]'; -- as in a unique constraint, nulls are distinct
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
  select j.key::bigint, j.workflow, 'cancelled', 0, j.payload,
         format('run %s has the same key', v_doubles ->> j.key),
         notika._captured_at(j.payload)
    from unnest(_drop_doubles.jobs) as j
   where v_doubles ? j.key
  on conflict do nothing;
  return array(select j from unnest(_drop_doubles.jobs) as j where not v_doubles ? j.key);
end;
$$;

comment on function notika._drop_doubles(notika._new_job[]) is
  'The jobs, without those whose workflow has had a run of the same key; those are logged as '
  'cancelled.';

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
  'Forgets keys that are as old as the runs that are forgotten.';
