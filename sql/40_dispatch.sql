-- The cursor, and the hand-over of events to graphile-worker.
-- Commit order is not event_id order, so the cursor is a snapshot, after PgQ: a window is what the
-- new snapshot sees and the last one did not, in the order of event_id, read in chunks.
-- A snapshot's xmax is the latest *completed* xid + 1: transactions from there on may be running,
-- unlisted.  So a bound on event_id is safe only if it was read before an xid below that xmax was
-- assigned: a dispatch keeps as its `horizon` what it read before its own xid, for those after it.
-- What each dispatch calls is plpgsql: before version 18 a function in SQL is planned at each call.

create table if not exists notika.position (
  position_id bigint generated always as identity,
  taken_at timestamptz not null default clock_timestamp(),
  xid xid8 not null default pg_current_xact_id(),
  system_identifier bigint not null,
  snapshot pg_snapshot not null,
  high bigint not null default 0,
  low bigint not null,
  pending_xids xid8[] not null default '{}',
  pending_lows bigint[] not null default '{}',
  window_snapshot pg_snapshot,
  window_low bigint,
  window_high bigint,
  window_at bigint,
  horizon bigint not null,
  flow_ids integer[] not null default '{}',
  flow_priorities smallint[] not null default '{}',
  flow_places timestamptz[] not null default '{}',
  aside_ids integer[] not null default '{}',
  aside_snapshot pg_snapshot,
  aside_high bigint,
  aside_low bigint,
  aside_pending_xids xid8[],
  aside_pending_lows bigint[],
  aside_window_snapshot pg_snapshot,
  aside_window_low bigint,
  aside_window_high bigint,
  aside_window_at bigint,
  constraint position_pkey primary key (position_id)
);

comment on table notika.position is
  'Where the dispatcher stands: appended at each dispatch, the newest row counts.';
comment on column notika.position.position_id is 'Its order.';
comment on column notika.position.taken_at is 'When it was taken.';
comment on column notika.position.xid is 'The transaction that took it.';
comment on column notika.position.system_identifier is
  'The cluster whose transactions it speaks of.';
comment on column notika.position.snapshot is 'Every event that this snapshot sees is handed over.';
comment on column notika.position.high is
  'The snapshot sees no event beyond this id; in a restored copy it would seem to see new ones.';
comment on column notika.position.low is
  'Transactions that the snapshot does not know have written no event up to this id.';
comment on column notika.position.pending_xids is
  'Transactions that were running in the newest snapshot, the window''s if one is open.';
comment on column notika.position.pending_lows is
  'For each of them: it has written no event up to this id.';
comment on column notika.position.window_snapshot is
  'The snapshot that is being worked off; null: no window is open.';
comment on column notika.position.window_low is 'What low becomes when the window is done.';
comment on column notika.position.window_high is 'The last event id of the window.';
comment on column notika.position.window_at is 'The window is handed over up to this id.';
comment on column notika.position.horizon is
  'The last event id before xid was assigned, so that later transactions write beyond it.';
comment on column notika.position.flow_ids is
  'Whose places in the queue follow: 0, the first run that may start; the id of a workflow, its last '
  'new run that waits; the same with a minus, its last run that has fallen due.';
comment on column notika.position.flow_priorities is 'For each of them: its priority.';
comment on column notika.position.flow_places is
  'For each of them: its place. See notika._head.';

comment on column notika.position.aside_ids is
  'The workflows whose events a cursor of their own hands over, because a burst of theirs was set '
  'aside; empty: there is none.';
comment on column notika.position.aside_snapshot is 'snapshot of that cursor.';
comment on column notika.position.aside_high is 'high of that cursor.';
comment on column notika.position.aside_low is 'low of that cursor.';
comment on column notika.position.aside_pending_xids is 'pending_xids of that cursor.';
comment on column notika.position.aside_pending_lows is 'pending_lows of that cursor.';
comment on column notika.position.aside_window_snapshot is 'window_snapshot of that cursor.';
comment on column notika.position.aside_window_low is 'window_low of that cursor.';
comment on column notika.position.aside_window_high is 'window_high of that cursor.';
comment on column notika.position.aside_window_at is 'window_at of that cursor.';

create or replace function notika._payload(
  event notika._event,
  workflow text,
  table_name text
)
  returns json
  language sql
  stable
begin atomic
  -- As json_build_object writes it, which like format() looks up the type of each argument for each
  -- event.  No name of a workflow or an operation needs escapes.
  select (
    '{"id" : "' || (event).event_id::text || '", "workflow" : "' || workflow
    || '", "operation" : "' || (event).operation
    || '", "table" : ' || coalesce(to_json(table_name)::text, 'null')
    || ', "at" : "'
    || to_char((event).captured_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    || '", "new" : ' || coalesce((event).new::text, 'null')
    || ', "old" : ' || coalesce((event).old::text, 'null')
    || ', "truncated" : ' || coalesce((event).truncated::text, 'null')
    || ', "depth" : ' || coalesce((event).depth::text, 'null') || '}'
  )::json;
end;

comment on function notika._payload(notika._event, text, text) is
  'The event as a task gets it.';

create or replace function notika._captured_at(payload json)
  returns timestamptz
  language sql
  stable
begin atomic
  -- Not with ->>, which refuses a payload that holds \u0000, nor by a pattern, at six times the price.
  select nullif(split_part(split_part(payload::text, '"at" : "', 2), '"', 1), '')::timestamptz;
end;

comment on function notika._captured_at(json) is 'When the event was captured that a task gets.';

create or replace function notika._last_event_id()
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return pg_sequence_last_value('notika.event_id_seq');
end;
$$;

comment on function notika._last_event_id() is 'The last event id that was drawn.';

create or replace function notika._bound(here notika.position)
  returns bigint
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select least(
    case when (here).window_snapshot is null then (here).low
         else least((here).window_at, (here).window_low) end,
    (select min(l.low) from unnest((here).pending_lows) as l (low)),
    case when (here).aside_window_snapshot is null then (here).aside_low
         else least((here).aside_window_at, (here).aside_window_low) end,
    (select min(l.low) from unnest((here).aside_pending_lows) as l (low))
  );
$$;

comment on function notika._bound(notika.position) is
  'Every event up to this id has been handed over, or was rolled back.';

create or replace function notika._dispatched(
  event_id bigint,
  xid xid8,
  workflow_id integer,
  here notika.position
)
  returns boolean
  language sql
  stable
begin atomic
  select workflow_id <> all ((here).aside_ids)
         and (event_id <= (here).high and pg_visible_in_snapshot(xid, (here).snapshot)
              or coalesce(
                   event_id <= (here).window_at
                     and pg_visible_in_snapshot(xid, (here).window_snapshot),
                   false
                 ))
      or workflow_id = any ((here).aside_ids)
         and (event_id <= (here).aside_high and pg_visible_in_snapshot(xid, (here).aside_snapshot)
              or coalesce(
                   event_id <= (here).aside_window_at
                     and pg_visible_in_snapshot(xid, (here).aside_window_snapshot),
                   false
                 ));
end;

comment on function notika._dispatched(bigint, xid8, integer, notika.position) is
  'Whether an event has been handed over.';

create or replace function notika._position()
  returns notika.position
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (select p from notika.position as p order by p.position_id desc limit 1);
end;
$$;

comment on function notika._position() is 'The newest position.';

create or replace function notika._move(here notika.position)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.position (
    position_id, system_identifier, snapshot, high, low, pending_xids, pending_lows,
    window_snapshot, window_low, window_high, window_at, horizon,
    flow_ids, flow_priorities, flow_places,
    aside_ids, aside_snapshot, aside_high, aside_low, aside_pending_xids, aside_pending_lows,
    aside_window_snapshot, aside_window_low, aside_window_high, aside_window_at
  )
  overriding system value
  select
    -- In a copy whose sequences were left behind it would come before the position that it follows.
    greatest(nextval('notika.position_position_id_seq'),
             (select max(p.position_id) + 1 from notika.position as p)),
    here.system_identifier, here.snapshot, here.high, here.low,
    here.pending_xids, here.pending_lows,
    here.window_snapshot, here.window_low, here.window_high, here.window_at, here.horizon,
    coalesce(here.flow_ids, '{}'), coalesce(here.flow_priorities, '{}'),
    coalesce(here.flow_places, '{}'),
    coalesce(here.aside_ids, '{}'), here.aside_snapshot, here.aside_high, here.aside_low,
    here.aside_pending_xids, here.aside_pending_lows,
    here.aside_window_snapshot, here.aside_window_low, here.aside_window_high,
    here.aside_window_at;
end;
$$;

comment on function notika._move(notika.position) is 'Appends a position.';

create or replace function notika._refuse_old_snapshot()
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    raise exception 'cannot move the cursor in a % transaction',
      current_setting('transaction_isolation')
      using errcode = 'invalid_transaction_state',
            detail = 'An old snapshot sees an old cursor, and events would be handed over twice.',
            hint = 'Begin with: begin isolation level read committed;';
  end if;
end;
$$;

comment on function notika._refuse_old_snapshot() is
  'An error in a transaction whose snapshot may be older than the newest position.';

create or replace function notika._snapshot()
  returns pg_snapshot
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_snapshot pg_snapshot := pg_current_snapshot();
  v_xid xid8 := pg_current_xact_id_if_assigned();
begin
  -- A snapshot never lists its own transaction, which may write more events yet.
  if v_xid < pg_snapshot_xmax(v_snapshot) then
    v_snapshot := format(
      '%s:%s:%s', pg_snapshot_xmin(v_snapshot), pg_snapshot_xmax(v_snapshot),
      (select string_agg(x.xid::text, ',' order by x.xid)
         from (select pg_snapshot_xip(v_snapshot) union select v_xid) as x (xid))
    )::pg_snapshot;
  end if;
  return v_snapshot;
end;
$$;

comment on function notika._snapshot() is
  'What is committed now, without what this transaction has done.';

create or replace function notika._open_window(
  here notika.position,
  snapshot pg_snapshot,
  last_id bigint
)
  returns notika.position
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position := _open_window.here;
begin
  v_next.window_snapshot := _open_window.snapshot;
  v_next.window_low := case
    when here.xid < pg_snapshot_xmax(_open_window.snapshot) then here.horizon
    else here.low -- taken in this very transaction
  end;
  v_next.window_high := _open_window.last_id;

  -- Whoever was running before and has finished since may have written earlier ids.
  select least(here.low, min(p.low)) into v_next.window_at
    from unnest(here.pending_xids, here.pending_lows) as p (xid, low)
   where pg_visible_in_snapshot(p.xid, _open_window.snapshot);

  -- Whoever runs now and is not known yet was unknown to the old snapshot too.
  select coalesce(array_agg(x.xid), '{}'), coalesce(array_agg(coalesce(p.low, here.low)), '{}')
    into v_next.pending_xids, v_next.pending_lows
    from pg_snapshot_xip(_open_window.snapshot) as x (xid)
    left join unnest(here.pending_xids, here.pending_lows) as p (xid, low) on p.xid = x.xid;

  return v_next;
end;
$$;

comment on function notika._open_window(notika.position, pg_snapshot, bigint) is
  'A position at the start of the window between the last snapshot and this one.';

create or replace function notika._close_window(here notika.position)
  returns notika.position
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position := _close_window.here;
begin
  v_next.snapshot := here.window_snapshot;
  v_next.high := here.window_high;
  v_next.low := here.window_low;
  v_next.window_snapshot := null;
  v_next.window_low := null;
  v_next.window_high := null;
  v_next.window_at := null;
  return v_next;
end;
$$;

comment on function notika._close_window(notika.position) is
  'A position behind the window, which is handed over completely.';

create or replace function notika._task_id(workflow text)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_task_id integer;
begin
  loop
    select t.id into v_task_id
      from notika_worker._private_tasks as t
     where t.identifier = _task_id.workflow;
    exit when found;
    insert into notika_worker._private_tasks (identifier)
    values (_task_id.workflow)
    on conflict do nothing; -- somebody else may just have done so
  end loop;
  return v_task_id;
end;
$$;

comment on function notika._task_id(text) is
  'The number that graphile-worker knows the task of a workflow by.';

create or replace function notika._announce_jobs(count bigint)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify(
    'jobs:insert', json_build_object('r', random()::text, 'count', _announce_jobs.count)::text);
end;
$$;

comment on function notika._announce_jobs(bigint) is
  'Wakes graphile-worker, as its own add_jobs does.';

create or replace function notika._add_jobs(jobs notika_worker.job_spec[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika_worker._private_jobs
    (task_id, payload, run_at, max_attempts, key, priority, flags)
  select t.id, j.payload, j.run_at, j.max_attempts, j.job_key, j.priority,
         case when j.flags is not null then (
           select jsonb_object_agg(f.flag, true) from unnest(j.flags) as f (flag)
         ) end
    from unnest(_add_jobs.jobs) as j
    join notika_worker._private_tasks as t on t.identifier = j.identifier
  on conflict (key) do nothing;
end;
$$;

comment on function notika._add_jobs(notika_worker.job_spec[]) is
  'What graphile-worker''s add_jobs does, for runs that are new: it need not look for jobs to '
  'replace, nor return them.';

create or replace function notika._take_chunk(
  here notika.position,
  max_events integer,
  straight boolean,
  aside boolean,
  out handed_over integer,
  out last_id bigint,
  out runs bigint,
  out jobs notika_worker.job_spec[],
  out signals bigint[],
  out listeners bigint[],
  out flow_ids integer[],
  out flow_priorities smallint[],
  out flow_places timestamptz[]
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan -- a better one is not worth planning for each chunk
  set enable_nestloop = off -- the planner thinks of two events and two workflows
as $$
declare
  -- No chunk has more events than this has microseconds.
  v_latest timestamptz := clock_timestamp() - interval '0.1 seconds';
  v_setting notika.setting;
  v_jobs notika_worker.job_spec[]; -- sql:check takes a parameter of a type it cannot see for a record
begin
  select s.* into v_setting from notika.setting as s;

  with chunk as materialized (
    select row_number() over (partition by c.flow order by c.event_id) as turn, c.*
      -- The limit is inside: row_number would look for the event after the last one.
      from (
        select v.*,
               case when v.operation in ('backfill', 'replay') then -v.workflow_id
                    else v.workflow_id end as flow
          from notika._event as v
         where v.event_id > here.window_at
           and v.event_id <= here.window_high
           and pg_visible_in_snapshot(v.xid, here.window_snapshot)
           and not pg_visible_in_snapshot(v.xid, here.snapshot)
           and (v.workflow_id = any (here.aside_ids)) = _take_chunk.aside
         order by v.event_id
         limit _take_chunk.max_events
      ) as c
  ), event as not materialized (
    -- Put together where it is read: to keep the columns costs less than to keep them as one.
    select c.turn, c.event_id, c.flow,
           row(c.event_id, c.xid, c.captured_at, c.cause_id, c.workflow_id, c.depth, c.truncated,
               c.operation, c.new, c.old, c.snapshot)::notika._event as event
      from chunk as c
  ), target as materialized (
    select t.*,
           -- Where its runs come in the queue: see _head.
           case when t.held_until is null and not t.is_source then
             least(greatest(t.placed_until, l.place, coalesce(h.place, v_latest)), v_latest)
           end as place
      from (
        select k.flow, k.events, w.workflow_id, w.name, w.placed_until,
               coalesce(notika._quoted(w.relation), w.table_name) as table_name,
               case when w.paused_at is not null or w.broken_reason is not null
                    then 'infinity'::timestamptz end as held_until,
               _take_chunk.straight
                 and not (w.options ? 'key' or notika._is_gated(w.options)) as is_straight,
               notika._workflow_of(w.name) is not null as is_source,
               notika._has_sources(w.name) as has_sources,
               (coalesce((w.options ->> 'priority')::integer, 0)
                -- Behind what is new.
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
    -- The new place of a workflow is behind the one that it had.
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
           -- Ties in run_at have no order, so it counts the events in microseconds.
           coalesce(t.held_until, t.place + c.turn * interval '1 microsecond') as run_at,
           t.priority
      from event as c
      join target as t on t.flow = c.flow
     where (c.event).depth <= v_setting.max_depth
       and not t.is_source
       -- All that were cancelled are looked up at once: event by event costs as much as to read it.
       and c.event_id not in (
         select l.run_id
           from notika.run_log as l
          where l.run_id > here.window_at and l.run_id <= (select max(k.event_id) from chunk as k)
            and l.state = 'cancelled'
       )
  ), made as (
    insert into notika_worker._private_jobs (task_id, payload, run_at, max_attempts, key, priority)
    select r.task_id, r.payload, r.run_at, v_setting.max_attempts, r.key, r.priority
      from run as r
     where r.is_straight
  )
  select count(*), max(c.event_id), count(t.task_id),
         (select array_agg(row(r.name, r.payload, null, r.run_at, v_setting.max_attempts, r.key,
                               r.priority, null)::notika_worker.job_spec)
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
  'The next events of the open window: makes jobs of those that no option has a say in, where it is '
  'to go straight, and gives what shall be jobs of the others, and which are signals or listened to. '
  'Only those of the workflows that were set aside, or only those of the others.';

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
   where notika._is_gated(w.options) or notika._workflow_of(w.name) is not null;
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
         and (v.workflow_id = any (here.aside_ids)) = _lock_for_chunk.aside
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
  'Takes the locks that the next events of the open window need, before any row is written: a lock '
  'that is not free would leave all of them dead.';

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
      -- The id of a run is a job's already, as in a copy whose sequences were left behind.  Such a
      -- job stays; to look each time whether there is one would make all jobs dearer by a third.
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
    perform notika._hear(v_chunk.signals);
  end if;
  if v_chunk.jobs is not null then
    perform notika._add_jobs(notika._control(v_chunk.jobs));
  end if;
  if v_chunk.runs > 0 then
    perform notika._announce_jobs(v_chunk.runs);
  end if;
  if v_chunk.listeners is not null then
    perform notika._welcome(v_chunk.listeners);
  end if;
  if exists (select from notika.backfill as b where b.finished_at is null) then
    perform notika._note_live(_hand_over.here, v_last_id);
  end if;
end;
$$;

comment on function notika._hand_over(notika.position, integer, boolean) is
  'Makes jobs of the next events of the open window, or signals of those of sources: of the workflows '
  'that were set aside, or of the others. Says how many events it saw, and where it stands then.';

create or replace function notika._cluster()
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if has_function_privilege('pg_catalog.pg_control_system()', 'execute') then
    return (select c.system_identifier from pg_control_system() as c);
  end if;
  return 0; -- some managed servers keep it to themselves: then transaction ids alone tell a copy
end;
$$;

comment on function notika._cluster() is
  'The identifier of this cluster, by which a copy in another one is told; 0: it is not to be read.';

create or replace function notika._is_foreign(here notika.position)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_cluster constant bigint := notika._cluster();
begin
  return here.system_identifier <> v_cluster and 0 not in (here.system_identifier, v_cluster)
      or pg_snapshot_xmax(coalesce(here.window_snapshot, here.snapshot))
         > pg_snapshot_xmax(pg_current_snapshot());
end;
$$;

comment on function notika._is_foreign(notika.position) is
  'Whether a position speaks of the transactions of another cluster: this is a restored copy.';

create or replace function notika._allow_updates(segment regclass)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A publication FOR ALL TABLES refuses updates of what has no key.  The lock is not waited for:
  -- writers would wait behind.
  if exists (
    select from pg_publication_tables as t
      join pg_class as c on c.oid = _allow_updates.segment and c.relreplident <> 'f'
     where t.schemaname = 'notika' and t.tablename = c.relname
  ) then
    execute format('lock table %s in access exclusive mode nowait', segment);
    execute format('alter table %s replica identity full', segment);
  end if;
end;
$$;

comment on function notika._allow_updates(regclass) is
  'Makes a segment one that can be updated, which it is only in a copy.';

create or replace function notika._begin_copy()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._rebind_copy();
  update notika.setting as s
     set installation = gen_random_uuid(),
         database_id = (select d.oid from pg_database as d where d.datname = current_database());
end;
$$;

comment on function notika._begin_copy() is
  'Makes a copy, or a new database, an installation of its own: with the objects of this database '
  'and a name that no other has.';

create or replace function notika._is_here()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select s.database_id is not distinct from d.oid
    from notika.setting as s
    join pg_database as d on d.datname = current_database();
$$;

comment on function notika._is_here() is
  'Whether the installation is that of this database; false in a copy within the cluster.';

create or replace function notika._installation()
  returns uuid
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '10s' -- a hand-over is shorter
as $$
begin
  if not notika._is_here() or notika._is_foreign(notika._position()) then
    perform notika._lock_dispatch(waits => true);
    if notika._is_foreign(notika._position()) then
      perform notika._rebase(notika._position());
    elsif not notika._is_here() then
      perform notika._begin_copy();
    end if;
  end if;
  return (select s.installation from notika.setting as s);
end;
$$;

comment on function notika._installation() is
  'The name of this installation, for idempotency keys; a copy gets its own first. A runner asks '
  'before it runs anything.';

create or replace function notika._rebase(here notika.position)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position;
  v_waiting bigint;
  v_low bigint;
begin
  perform notika._allow_updates(s::regclass)
     from unnest('{notika.event_log_0,notika.event_log_1,notika.event_log_2}'::text[]) as s;
  perform notika._forget_load();
  perform notika._advance_sequences();
  -- The xids of the copied events mean nothing here.  What was handed over gets one that the new
  -- snapshot sees; what was not gets this transaction's, and so does what was committed here since,
  -- which is not handed over either.
  for v_segment in 0..2 loop
    execute format(
      'update notika.event_log_%s as e
          set xid = case when notika._dispatched(e.event_id, e.xid, e.workflow_id, $1) then ''3''::xid8
                         else pg_current_xact_id() end',
      v_segment)
      using _rebase.here;
  end loop;
  select count(*), min(e.event_id) - 1 into v_waiting, v_low
    from notika._event as e
   where e.xid = pg_current_xact_id();
  update notika.listener as l set xid = null, snapshot = null;
  update notika.signal as s set xid = '3';

  v_next.system_identifier := notika._cluster();
  v_next.snapshot := '4:4:'; -- no transaction of this cluster
  v_next.high := greatest(here.high, here.window_high);
  -- Below the bound are those that were captured here before the sequence was advanced.
  v_next.low := least(notika._bound(here), v_low);
  v_next.pending_xids := '{}';
  v_next.pending_lows := '{}';
  v_next.horizon := v_next.low;
  -- The jobs have come along with their places.
  v_next.flow_ids := here.flow_ids;
  v_next.flow_priorities := here.flow_priorities;
  v_next.flow_places := here.flow_places;
  perform notika._move(v_next);
  perform notika._begin_copy();
  -- What has changed since their start can no longer be told.
  perform notika._end_backfill(b.backfill_id, 'cancelled')
     from notika.backfill as b
    where b.finished_at is null;

  raise warning 'notika: this database was restored from another cluster; the cursor was rebased'
    using detail = format('%s events were not handed over yet and will be now.', v_waiting),
          hint = 'Where the original goes on running too, its runs happen twice: see notika.runs.';
end;
$$;

comment on function notika._rebase(notika.position) is
  'Starts a new cursor in a restored copy, at what was not handed over when it was copied.';

create or replace function notika._start_others(is_idle boolean)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return notika._keep_times()
         + case when _start_others.is_idle then notika._backfill_all() else 0 end;
end;
$$;

comment on function notika._start_others(boolean) is
  'Starts what no change of a row starts, and says how many events that were; is_idle: all that was '
  'captured is handed over. Needs the right of _lock_dispatch.';

create or replace function notika.dispatch(max_events integer default 1000)
  returns integer
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- A chunk is the front of an index.  Segments have no statistics, and without them a planner
  -- may prefer to read and sort the whole ring.
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set jit = off -- which would compile such plans for longer than they run
  set lock_timeout = '2s' -- then others may turn the ring, and a later call tries again
as $$
declare
  v_horizon bigint;
  v_here notika.position;
  v_snapshot pg_snapshot;
  v_last_id bigint;
  v_resumed boolean;
  v_moved boolean := false;
  v_handed_over integer := 0;
  v_share integer;
  v_done record;
  v_now timestamptz;
  v_placed notika.position;
begin
  perform notika._refuse_old_snapshot();
  if dispatch.max_events is null or dispatch.max_events not between 1 and 100000 then
    raise exception 'max_events must be between 1 and 100000'
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: select notika.dispatch(1000);';
  end if;

  -- In a transaction that has an xid already this comes too late, and the older horizon stays.
  if pg_current_xact_id_if_assigned() is null then
    v_horizon := notika._last_event_id();
  end if;
  if not notika._lock_dispatch() then
    return null;
  end if;

  v_here := notika._position();
  if v_here.snapshot is null then
    raise exception 'notika is not installed completely: the cursor has no position'
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Run: npx notika install, or: select * from notika.install();';
  end if;
  if notika._is_foreign(v_here) then
    perform notika._rebase(v_here);
    return 0;
  end if;
  if not notika._is_here() then
    perform notika._begin_copy();
  end if;

  -- What is set aside gets what the rest leaves, but at least half.
  v_share := case when v_here.aside_ids = '{}' then dispatch.max_events
                  else (dispatch.max_events + 1) / 2 end;
  loop
    v_resumed := v_here.window_snapshot is not null;
    if not v_resumed then
      v_snapshot := notika._snapshot();
      v_last_id := notika._last_event_id(); -- after the snapshot, so that it is no lower

      -- Nothing new, and nobody who was running has finished: an idle poll writes nothing.
      exit when v_last_id = v_here.low and not exists (
        select from unnest(v_here.pending_xids) as p (xid)
         where pg_visible_in_snapshot(p.xid, v_snapshot)
      );
      v_here := notika._open_window(v_here, v_snapshot, v_last_id);
    end if;

    v_now := clock_timestamp();
    v_here := notika._find_heads(v_here, v_now);
    -- Positions are not written in here: a copy is known by their xmin, which a block changes.
    begin
      v_done := notika._hand_over(v_here, v_share, aside => false);
      v_handed_over := v_done.handed_over;
      v_here := v_done.reached;
    exception when lock_not_available then
      return null; -- nothing was done; notika.lag names the session that holds the lock
    end;
    if v_handed_over < v_share then
      v_here := notika._close_window(v_here);
    end if;
    v_moved := true;
    exit when v_handed_over > 0 or not v_resumed;
  end loop;

  if v_here.aside_ids = '{}' then
    if v_handed_over = v_share then
      v_here := notika._set_burst_aside(v_here);
    end if;
  else
    if v_now is null then
      v_now := clock_timestamp();
      v_here := notika._find_heads(v_here, v_now);
    end if;
    v_done := notika._hand_over_aside(v_here, greatest(dispatch.max_events - v_handed_over, 1));
    v_moved := v_moved or v_done.moved;
    v_handed_over := v_handed_over + v_done.handed_over;
    v_here := v_done.reached;
  end if;

  -- Last, because who holds jobs must not wait for a lock on signals or lines.
  if cardinality(v_here.flow_ids) > 1 then
    if v_now is null then
      v_now := clock_timestamp();
      v_here := notika._find_heads(v_here, v_now);
    end if;
    -- Only where what is new waits for more than a second: else it is its turn soon.
    if (select min(p) from unnest(v_here.flow_places) as p) < v_now - interval '1 second' then
      v_placed := notika._place_due(v_here, v_now);
      if v_placed.snapshot is not null then
        v_here := v_placed;
        v_moved := true;
      end if;
    end if;
  end if;

  if v_moved then
    v_here.horizon := greatest(v_horizon, v_here.horizon);
    perform notika._move(v_here);
  end if;
  if v_handed_over > 0 then
    perform notika._set_asleep(false);
  end if;
  return v_handed_over + notika._start_others(
    v_handed_over < dispatch.max_events and v_here.aside_ids = '{}');
end;
$$;

comment on function notika.dispatch(integer) is
  'Hands over up to max_events captured events to graphile-worker, in the order of their ids, '
  'starts what is due by time, and returns how many events that were. 0: there was nothing; '
  'null: another session is at it, or a lock was not free within two seconds and nothing was done. '
  'READ COMMITTED only.';

create or replace function notika._set_asleep(asleep boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_control bigint := pg_sequence_last_value('notika.control_seq');
begin
  if (v_control & 1 = 1) <> _set_asleep.asleep then
    perform setval('notika.control_seq', v_control # 1);
  end if;
end;
$$;

comment on function notika._set_asleep(boolean) is
  'Sets the bit on which writers notify. Needs the right of _lock_dispatch.';

create or replace function notika._doze()
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not notika._lock_dispatch() then
    return false; -- somebody is dispatching, so not everybody sleeps
  end if;
  perform notika._set_asleep(true);

  -- Whoever has read the bit before, and so will not notify, keeps a lock on its sequence until
  -- his transaction ends.  Nobody notifies where transactions may be prepared.
  return current_setting('max_prepared_transactions') = '0' and not exists (
    select from pg_locks as k
     where k.locktype = 'relation' and k.granted and k.mode = 'RowExclusiveLock'
       and k.database = (select d.oid from pg_database as d where d.datname = current_database())
       and (k.relation = 'notika.control_seq'::regclass and k.pid <> pg_backend_pid()
            or k.relation in (
              'notika.event_log_0'::regclass, 'notika.event_log_1'::regclass,
              'notika.event_log_2'::regclass
            ))
  );
end;
$$;

comment on function notika._doze() is
  'Asks the next writer for a NOTIFY. True: every event that the next dispatch does not find will '
  'be notified; false: ask again soon, a transaction that has written already may not notify.';
