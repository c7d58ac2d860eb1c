-- Chunks of events: read, collected into batches, put into queues, and made into jobs. What each
-- dispatch calls is plpgsql: before version 18, a function in SQL is planned at each call.

create or replace function notika._take_chunk(
  here notika.position,
  max_events integer,
  straight boolean,
  aside boolean,
  out handed_over integer,
  out last_id bigint,
  out runs bigint,
  out jobs notika._new_job[],
  out signals bigint[],
  out listeners bigint[],
  out flow_ids integer[],
  out flow_priorities smallint[],
  out flow_places timestamptz[]
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan -- a better plan is not worth its planning time
  set enable_nestloop = off -- the planner expects two events and two workflows
as $$
declare
  -- No chunk has more events than this has microseconds.
  v_latest timestamptz := clock_timestamp() - interval '0.1 seconds';
  v_setting notika.setting;
  v_jobs notika._new_job[]; -- the linter takes a parameter of a type it cannot see for a record
begin
  select s.* into v_setting from notika.setting as s;

  with chunk as materialized (
    select row_number() over (partition by c.flow order by c.event_id) as turn, c.*
      -- The limit is in the subquery: row_number would look for the event after the last one.
      from (
        select v.*,
               case when v.operation in ('backfill', 'replay') then -v.workflow_id
                    else v.workflow_id end as flow
          from notika._event as v
         where v.event_id > here.window_at
           and v.event_id <= here.window_high
           and pg_visible_in_snapshot(v.xid, here.window_snapshot)
           and not pg_visible_in_snapshot(v.xid, here.snapshot)
           and (v.workflow_id = any (here.burst_ids)) = _take_chunk.aside
         order by v.event_id
         limit _take_chunk.max_events
      ) as c
  ), event as not materialized (
    -- Assembled where it is read: keeping the columns costs less than keeping the event as one
    -- value.
    select c.turn, c.event_id, c.flow,
           row(c.event_id, c.xid, c.captured_at, c.cause_id, c.workflow_id, c.depth, c.truncated,
               c.operation, c.new, c.old, c.snapshot)::notika._event as event
      from chunk as c
  ), target as materialized (
    select t.*,
           -- The place of its runs in the queue: see _head.
           case when t.held_until is null and not t.is_source then
             least(greatest(t.placed_until, l.place, coalesce(h.place, v_latest)), v_latest)
           end as place
      from (
        select k.flow, k.events, w.workflow_id, w.name, w.placed_until,
               coalesce(notika._quoted(w.relation), w.table_name) as table_name,
               case when w.paused_at is not null or w.broken_reason is not null
                    then 'infinity'::timestamptz end as held_until,
               _take_chunk.straight
                 and not (w.options ? 'key' or notika._has_lines(w.options)) as is_straight,
               notika._workflow_of(w.name) is not null as is_source,
               notika._has_sources(w.name) as has_sources,
               (coalesce((w.options ->> 'priority')::integer, 0)
                -- Behind new events.
                + case when k.flow < 0 then 10 else 0 end)::smallint as priority,
               case when notika._workflow_of(w.name) is null then notika._task_id(w.name)
               end as task_id
          from (
            select c.flow, max(c.turn) as events from chunk as c group by c.flow
          ) as k
          join notika.workflow as w on w.workflow_id = abs(k.flow)
      ) as t
      left join unnest(here.flow_ids, here.flow_priorities, here.flow_places)
                as l (id, priority, place)
        on l.id = t.workflow_id and l.priority = t.priority
      left join unnest(here.flow_ids, here.flow_priorities, here.flow_places)
                as h (id, priority, place)
        on h.id = 0 and h.priority = t.priority
  ), placed as materialized (
    -- The new place of a workflow is behind its previous one.
    select p.id, p.priority, max(p.place) as place
      from (
        select t.workflow_id as id, t.priority, t.place + t.events * interval '1 microsecond' as place
          from target as t
         where t.place is not null
        union all
        select l.id, l.priority, l.place
          from unnest(here.flow_ids, here.flow_priorities, here.flow_places)
               as l (id, priority, place)
      ) as p
     group by p.id, p.priority
  ), too_deep as (
    insert into notika.run_log (run_id, workflow, state, attempts, event, error, created_at)
    select c.event_id, t.name, 'failed', 0, notika._payload(c.event, t.name, t.table_name),
           format('stopped at depth %s: runs wake each other in a loop (the run before is %s)',
                  (c.event).depth, coalesce((c.event).cause_id::text, 'unknown')),
           (c.event).captured_at
      from event as c
      join target as t on t.flow = c.flow
     where (c.event).depth > v_setting.max_depth and not t.is_source
    on conflict do nothing
  ), run as not materialized (
    select t.task_id, t.name, t.is_straight, c.event_id::text as key,
           notika._payload(c.event, t.name, t.table_name) as payload,
           -- Equal values of run_at have no order, so events are numbered in microseconds.
           coalesce(t.held_until, t.place + c.turn * interval '1 microsecond') as run_at,
           t.priority
      from event as c
      join target as t on t.flow = c.flow
     where (c.event).depth <= v_setting.max_depth
       and not t.is_source
       -- All cancelled runs are looked up at once: a look-up for each event would cost as much as
       -- reading it.
       and c.event_id not in (
         select l.run_id
           from notika.run_log as l
          where l.run_id > here.window_at and l.run_id <= (select max(k.event_id) from chunk as k)
            and l.state = 'cancelled'
       )
  ), made as (
    insert into notika._job (task_id, payload, run_at, max_attempts, key, priority)
    select r.task_id, r.payload, r.run_at, v_setting.max_attempts, r.key, r.priority
      from run as r
     where r.is_straight
  )
  select count(*), max(c.event_id), count(t.task_id),
         (select array_agg(row(r.name, r.payload, r.run_at, v_setting.max_attempts, r.key, r.priority,
                               null)::notika._new_job)
            from run as r
           where not r.is_straight),
         array_agg(c.event_id) filter (where t.is_source),
         array_agg(c.event_id) filter (where t.has_sources),
         (select array_agg(p.id) from placed as p),
         (select array_agg(p.priority) from placed as p),
         (select array_agg(p.place) from placed as p)
    into handed_over, last_id, runs, v_jobs, signals, listeners, flow_ids, flow_priorities,
         flow_places
    from chunk as c
    left join target as t on t.flow = c.flow;
  jobs := v_jobs;
end;
$$;

comment on function notika._take_chunk(notika.position, integer, boolean, boolean) is
  'The next events of the open window. Makes jobs of the events that no option affects, if '
  'straight allows it, and returns the jobs to make of the others, and which of the events are '
  'signals or listened to. Reads either only the workflows that were set aside, or only the '
  'others.';

create or replace function notika._lock_for_chunk(
  here notika.position,
  max_events integer,
  aside boolean
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_workflow_ids integer[];
begin
  -- Usually no workflow needs a lock, and then no event has to be read.
  select array_agg(w.workflow_id) into v_workflow_ids
    from notika.workflow as w
   where notika._has_lines(w.options) or notika._workflow_of(w.name) is not null;
  if v_workflow_ids is null then
    return;
  end if;

  select array_agg(distinct c.workflow_id) into v_workflow_ids
    from (
      select v.workflow_id
        from notika._event as v
       where v.event_id > here.window_at
         and v.event_id <= here.window_high
         and pg_visible_in_snapshot(v.xid, here.window_snapshot)
         and not pg_visible_in_snapshot(v.xid, here.snapshot)
         and (v.workflow_id = any (here.burst_ids)) = _lock_for_chunk.aside
       order by v.event_id
       limit _lock_for_chunk.max_events
    ) as c
   where c.workflow_id = any (v_workflow_ids);
  if exists (
    select from notika.workflow as w
     where w.workflow_id = any (v_workflow_ids) and notika._workflow_of(w.name) is not null
  ) then
    perform notika._lock_signals(for_hand_over => true);
    perform notika._lock_lines();
  elsif v_workflow_ids is not null then
    perform notika._lock_lines(v_workflow_ids);
  end if;
end;
$$;

comment on function notika._lock_for_chunk(notika.position, integer, boolean) is
  'Takes the locks that the next events of the open window need, before any row is written: if a '
  'lock is not free, all rows written before it would be dead.';

create or replace function notika._hand_over(
  here notika.position,
  max_events integer,
  aside boolean,
  out handed_over integer,
  out reached notika.position
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_chunk record;
  v_last_id bigint;
begin
  perform notika._lock_for_chunk(here, _hand_over.max_events, _hand_over.aside);
  begin
    select c.* into v_chunk
      from notika._take_chunk(
             here, _hand_over.max_events, straight => true, aside => _hand_over.aside) as c;
  exception
    when unique_violation then
      -- The id of a run is already that of a job, as in a copy without its sequences. That job
      -- stays. Looking for it each time would make all jobs a third more expensive.
      select c.* into v_chunk
        from notika._take_chunk(
               here, _hand_over.max_events, straight => false, aside => _hand_over.aside) as c;
  end;
  handed_over := v_chunk.handed_over;
  v_last_id := v_chunk.last_id;
  reached := here;
  reached.flow_ids := v_chunk.flow_ids;
  reached.flow_priorities := v_chunk.flow_priorities;
  reached.flow_places := v_chunk.flow_places;
  reached.window_at := v_last_id;

  if v_chunk.signals is not null then
    perform notika._deliver_signals(v_chunk.signals);
  end if;
  if v_chunk.jobs is not null then
    perform notika._add_jobs(notika._apply_options(v_chunk.jobs));
  end if;
  if v_chunk.runs > 0 then
    perform notika._announce_jobs(v_chunk.runs);
  end if;
  if v_chunk.listeners is not null then
    perform notika._register_listeners(v_chunk.listeners);
  end if;
  if exists (select from notika.backfill as b where b.finished_at is null) then
    perform notika._note_live(_hand_over.here, v_last_id);
  end if;
end;
$$;

comment on function notika._hand_over(notika.position, integer, boolean) is
  'Makes jobs of the next events of the open window, or signals of events of sources: of the '
  'workflows that were set aside, or of the others. Returns the number of events that it has '
  'read, and the position after them.';

create or replace function notika._hand_over_burst(
  here notika.position,
  max_events integer,
  out handed_over integer,
  out moved boolean,
  out reached notika.position
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_done record;
  v_aside notika.position;
begin
  handed_over := 0;
  moved := false;
  reached := here;
  loop
    reached := notika._follow_cursor(reached);
    moved := moved or reached.burst_ids = '{}';
    exit when reached.burst_window_snapshot is null or handed_over >= _hand_over_burst.max_events;
    v_done := notika._hand_over(
      notika._burst_cursor(reached),
      _hand_over_burst.max_events - handed_over, aside => true);
    v_aside := v_done.reached;
    if v_done.handed_over < _hand_over_burst.max_events - handed_over then
      v_aside := notika._close_window(v_aside);
    end if;
    reached := notika._with_burst_cursor(reached, v_aside);
    moved := true;
    handed_over := handed_over + v_done.handed_over;
  end loop;
exception when lock_not_available then
  handed_over := 0;
  moved := false;
  reached := here; -- the progress of the other cursor stays
end;
$$;

comment on function notika._hand_over_burst(notika.position, integer) is
  'Dispatches events of the workflows that were set aside, at most the given number. Returns the '
  'number of events that it has read, and the position of both cursors after them.';
