-- The places of runs in the queue. graphile-worker takes jobs by priority and run_at, so the
-- run_at of a run that may start is its place. This is start-time fair queueing: a run is placed
-- one microsecond behind the last one of its workflow, or at the head of the queue if its workflow
-- has none there. So the runs of a burst take turns with those of other workflows, and a single
-- event of another workflow is next. Places lie in the past and advance more slowly than the
-- clock: what becomes due later has a run_at behind all of them, until _place_due moves it to the
-- head.

create or replace function notika._find_heads(here notika.position, now timestamptz)
  returns notika.position
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position := _find_heads.here;
begin
  with place as materialized (
    select f.id, f.priority, f.place
      from unnest(here.flow_ids, here.flow_priorities, here.flow_places) as f (id, priority, place)
  ), head as materialized (
    select p.priority,
           notika._head(
             p.priority,
             (select f.place from place as f where f.id = 0 and f.priority = p.priority),
             _find_heads.now
           ) as place
      from (select 0::smallint union select f.priority from place as f) as p (priority)
  ), kept as (
    select f.*
      from place as f
      join head as h on h.priority = f.priority
     where f.id <> 0 and f.place >= h.place
  ), found as (
    select 0 as id, h.priority, h.place
      from head as h
     where h.priority = 0 or h.place < _find_heads.now - interval '0.1 seconds'
        or h.priority in (select k.priority from kept as k)
    union all
    select k.* from kept as k
  )
  select array_agg(f.id), array_agg(f.priority), array_agg(f.place)
    into v_next.flow_ids, v_next.flow_priorities, v_next.flow_places
    from found as f;
  return v_next;
end;
$$;

comment on function notika._find_heads(notika.position, timestamptz) is
  'A position with the places at which the queue begins now, without the places that the queue '
  'has passed.';

create or replace function notika._with_places(
  here notika.position,
  ids integer[],
  priorities smallint[],
  places timestamptz[]
)
  returns notika.position
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position := _with_places.here;
begin
  with given as materialized (
    select g.* from unnest(ids, priorities, places) as g (id, priority, place)
  ), placed as (
    select g.* from given as g
    union all
    select f.*
      from unnest(here.flow_ids, here.flow_priorities, here.flow_places) as f (id, priority, place)
     where (f.id, f.priority) not in (select g.id, g.priority from given as g)
  )
  select coalesce(array_agg(p.id), '{}'), coalesce(array_agg(p.priority), '{}'),
         coalesce(array_agg(p.place), '{}')
    into v_next.flow_ids, v_next.flow_priorities, v_next.flow_places
    from placed as p;
  return v_next;
end;
$$;

comment on function notika._with_places(notika.position, integer[], smallint[], timestamptz[]) is
  'A position with these as the last places of their workflows.';

create or replace function notika._place_due(here notika.position, now timestamptz)
  returns notika.position
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position;
  v_class record;
  v_ids integer[];
  v_places timestamptz[];
begin
  for v_class in
    select h.priority, h.place as head,
           greatest(max(f.place), (select max(w.placed_until) from notika.workflow as w)) as last
      from unnest(here.flow_ids, here.flow_priorities, here.flow_places) as h (id, priority, place)
      join unnest(here.flow_ids, here.flow_priorities, here.flow_places) as f (id, priority, place)
        on f.priority = h.priority and f.id <> 0
     where h.id = 0 and h.place < _place_due.now - interval '1 second'
     group by h.priority, h.place
    having max(f.place) filter (where f.id > 0) >= h.place
  loop
    with due as materialized (
      select j.*
        from notika._lock_jobs(v_class.priority, v_class.last, _place_due.now, 1000) as j
    ), turn as materialized (
      -- As if they were a workflow of their own, so that neither they nor new runs have to wait.
      select d.job_id, -w.workflow_id as flow_id,
             row_number() over (partition by w.workflow_id order by d.run_at) as turn
        from due as d
        join notika._task as t on t.task_id = d.task_id
        join notika.workflow as w on w.name = t.workflow
    ), moved as (
      update notika._job as j
         set run_at = least(
               greatest(v_class.head, (
                 select f.place
                   from unnest(here.flow_ids, here.flow_priorities, here.flow_places)
                        as f (id, priority, place)
                  where f.id = t.flow_id and f.priority = v_class.priority
               )), _place_due.now - interval '0.1 seconds'
             ) + t.turn * interval '1 microsecond'
        from turn as t
       where j.job_id = t.job_id
      returning t.flow_id, j.run_at
    ), last as (
      select m.flow_id, max(m.run_at) as place from moved as m group by m.flow_id
    )
    select array_agg(l.flow_id), array_agg(l.place) into v_ids, v_places from last as l;
    if v_ids is not null then
      v_next := notika._with_places(
        coalesce(v_next, here), v_ids, array_fill(v_class.priority, array[cardinality(v_ids)]),
        v_places);
    end if;
  end loop;
  return v_next;
end;
$$;

comment on function notika._place_due(notika.position, timestamptz) is
  'Moves runs that became due behind a backlog, such as retries and sleepers, to the head of the '
  'queue. Returns the position after that, or null if there were none.';

create or replace function notika._place_held(workflow text, waits boolean default true)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_here notika.position := notika._find_heads(notika._position(), v_now);
  v_workflow_id integer;
  v_last timestamptz;
begin
  with held as materialized (
    select j.job_id, j.priority, w.workflow_id, w.placed_until,
           row_number() over (partition by j.priority order by j.key::bigint) as turn,
           count(*) over (partition by j.priority) as runs
      from notika._job as j
      join notika._task as t on t.task_id = j.task_id
      join notika.workflow as w on w.name = t.workflow
     where t.workflow = _place_held.workflow
       and j.run_at = 'infinity' and j.locked_at is null
       -- A run that waits and is woken too early notices that: it may have been held as well.
       and (_place_held.waits
            or not exists (select from notika.wait as v where v.run_id = j.key::bigint))
       and not notika._is_behind(j.key::bigint)
       and not exists (
         select from notika.slot as s where s.run_id = j.key::bigint and s.taken_at is null
       )
  ), base as materialized (
    select h.priority, least(
             greatest(max(h.placed_until), max(f.place), (
               select o.place
                 from unnest(v_here.flow_ids, v_here.flow_priorities, v_here.flow_places)
                      as o (id, priority, place)
                where o.id = 0 and o.priority = h.priority
             )),
             v_now - interval '0.1 seconds' - max(h.runs) * interval '1 microsecond'
           ) as place
      from held as h
      left join unnest(v_here.flow_ids, v_here.flow_priorities, v_here.flow_places)
                as f (id, priority, place)
        on f.id = h.workflow_id and f.priority = h.priority
     group by h.priority
  ), placed as (
    update notika._job as j
       set run_at = b.place + h.turn * interval '1 microsecond', updated_at = v_now
      from held as h
      join base as b on b.priority = h.priority
     where j.job_id = h.job_id and j.locked_at is null
    returning h.workflow_id, j.run_at
  )
  select max(p.workflow_id), max(p.run_at) into v_workflow_id, v_last from placed as p;

  -- Not as a position, which only dispatch changes.
  update notika.workflow as w
     set placed_until = greatest(w.placed_until, v_last)
   where w.workflow_id = v_workflow_id;
end;
$$;

comment on function notika._place_held(text, boolean) is
  'Gives places in the queue to the runs of a workflow that were held, in the order of their '
  'events. Without waits, those that wait for something are left alone.';

create or replace function notika._place_late()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Runs that were dispatched while their workflow was being resumed, by a dispatch that did not
  -- see that.
  perform notika._place_held(w.name, waits => false)
     from notika.workflow as w
    where w.resumed_at > clock_timestamp() - interval '1 minute'
      and w.paused_at is null and w.broken_reason is null;
end;
$$;

comment on function notika._place_late() is
  'Starts runs that are still held by a pause that is over; returns no rows.';
