-- Batches: one run for many events of a workflow with debounce or digest. The first event creates
-- the run, which sleeps until the batch closes; later events join it. A batch closes when its run
-- starts, which is not before its time, or when it is full: then later events open the next one.
-- Both sides hold the workflow's line lock, so that an event is in exactly one batch and the run
-- of that batch sees it.
--
-- _apply_options is what dispatch does for workflows with options, between reading a chunk and
-- creating its jobs: it drops doubles, collects events into batches, and puts runs into lines.
-- Other events of a chunk do not get here.

create or replace function notika._apply_options(jobs notika._new_job[])
  returns notika._new_job[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not notika._lock_lines(array(
    select w.workflow_id
      from notika.workflow as w
     where w.name in (select j.workflow from unnest(_apply_options.jobs) as j)
  )) then
    return notika._drop_doubles(_apply_options.jobs);
  end if;
  return notika._line_up(notika._gather(notika._drop_doubles(_apply_options.jobs)));
end;
$$;

comment on function notika._apply_options(notika._new_job[]) is
  'The jobs of a chunk for workflows with options, after these have been applied.';

create or replace function notika._gather(jobs notika._new_job[])
  returns notika._new_job[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_events notika.batch_event[];
  v_batches notika.batch[];
  v_full bigint[];
  v_opened jsonb;
begin
  with setting as materialized (
    select w.workflow_id, w.name, g.option -> 'by' as columns, g.wait,
           v_now + coalesce(g.longest, 10 * g.wait) as hard_close_at,
           coalesce(g.events, 10000) as most, w.options ? 'debounce' as is_debounced
      from notika.workflow as w
     cross join lateral (
       select coalesce(w.options -> 'debounce', w.options -> 'digest') as option,
              coalesce(w.options #>> '{debounce,window}', w.options #>> '{digest,window}')::interval
                as wait,
              case when w.options ? 'digest' then w.options #>> '{digest,window}'
                   else w.options #>> '{debounce,max}' end::interval as longest,
              (w.options #>> '{digest,max}')::integer as events
     ) as g
     where w.options ?| '{debounce,digest}'::text[]
       and w.name in (select j.workflow from unnest(_gather.jobs) as j)
  ), incoming as materialized (
    select s.workflow_id, notika._index_key(notika._values(j.payload, s.columns)) as batch_key,
           j.key::bigint as event_id, j.payload
      from unnest(_gather.jobs) as j
      join setting as s on s.name = j.workflow
  ), counted as (
    select i.*, s.most, b.run_id as open_id,
           -- There is room in an open batch, even if most was lowered meanwhile.
           (least(coalesce(b.events, 0), s.most - 1)
            + row_number() over (partition by i.workflow_id, i.batch_key order by i.event_id) - 1
           ) / s.most as nth
      from incoming as i
      join setting as s on s.workflow_id = i.workflow_id
      left join notika.batch as b
        on b.workflow_id = i.workflow_id and b.batch_key = i.batch_key and b.closed_at is null
  ), placed as materialized (
    select case when c.nth = 0 and c.open_id is not null then c.open_id
                else min(c.event_id) over (partition by c.workflow_id, c.batch_key, c.nth)
           end as run_id, c.*
      from counted as c
  ), touched as (
    select p.run_id, p.workflow_id, p.batch_key, coalesce(b.events, 0) + count(*) as events,
           coalesce(b.opened_at, v_now) as opened_at, b.closes_at,
           coalesce(b.hard_close_at, s.hard_close_at) as hard_close_at, s.wait, s.is_debounced,
           coalesce(b.events, 0) + count(*) >= s.most as is_full
      from placed as p
      join setting as s on s.workflow_id = p.workflow_id
      left join notika.batch as b on b.run_id = p.run_id
     group by p.run_id, p.workflow_id, p.batch_key, b.run_id, s.most, s.hard_close_at, s.wait,
              s.is_debounced
  )
  select (select array_agg(row(p.run_id, p.event_id, p.payload)::notika.batch_event)
            from placed as p),
         (select array_agg(row(
                   t.run_id, t.workflow_id, t.batch_key, t.events, t.opened_at,
                   case when t.is_full then v_now
                        when t.is_debounced then least(v_now + t.wait, t.hard_close_at)
                        else coalesce(t.closes_at, t.hard_close_at) end,
                   t.hard_close_at,
                   case when t.is_full then v_now end
                 )::notika.batch)
            from touched as t)
    into v_events, v_batches;
  if v_events is null then
    return _gather.jobs;
  end if;

  -- Full batches first: there is one open batch for each key.
  with grown as (
    update notika.batch as b
       set events = n.events, closes_at = n.closes_at, closed_at = n.closed_at
      from unnest(v_batches) as n
     where b.run_id = n.run_id
    returning b.run_id, b.closed_at
  )
  select array_agg(g.run_id) into v_full from grown as g where g.closed_at is not null;
  with opened as (
    insert into notika.batch
    select n.*
      from unnest(v_batches) as n
     where not exists (select from notika.batch as b where b.run_id = n.run_id)
    returning run_id, case when closed_at is null then closes_at end as starts_at
  )
  select coalesce(jsonb_object_agg(o.run_id, o.starts_at), '{}') into v_opened from opened as o;
  insert into notika.batch_event select e.* from unnest(v_events) as e;
  perform notika._wake_runs(v_full);

  return array(
    select row(j.workflow, j.payload,
               greatest(j.run_at, (v_opened ->> j.key)::timestamptz),
               j.max_attempts, j.key, j.priority, j.flags)::notika._new_job
      from unnest(_gather.jobs) as j
      join notika.workflow as w on w.name = j.workflow
     where v_opened ? j.key or not w.options ?| '{debounce,digest}'::text[]
  );
end;
$$;

comment on function notika._gather(notika._new_job[]) is
  'The jobs, with one job for the events of each batch, which are stored.';

create or replace function notika._forget_batches()
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from notika.batch as b
     where b.run_id = any (array(
       select o.run_id
         from notika.batch as o
        where o.opened_at < clock_timestamp() - (select s.runs_kept from notika.setting as s)
          and not exists (select from notika.run_log as l where l.run_id = o.run_id)
          and not exists (
            select from notika._job as j where j.key = o.run_id::text
          )
        order by o.opened_at
        limit 1000
     ))
    returning b.run_id
  )
  delete from notika.batch_event as e using gone as g where e.run_id = g.run_id;
$$;

comment on function notika._forget_batches() is 'Forgets batches whose runs are forgotten.';

create or replace function notika._forget()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._forget_keys();
  perform notika._forget_batches();
end;
$$;

comment on function notika._forget() is 'Forgets old keys and batches; returns no rows.';
