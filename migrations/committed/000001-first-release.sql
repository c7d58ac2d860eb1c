--! Previous: -
--! Hash: sha1:096fb86d541a20696f485a8534586865864c14a9
--! Message: first release

--! split: 1-current.sql
--! Included 10_schema.sql
-- Notika: the schema, its version and its settings.
-- Names: a plain verb is public; a leading underscore is private; tables are singular, views plural.
-- Every function pins its search_path to pg_catalog, pg_temp and writes every other name in full.

do $$
begin
  -- `create schema if not exists` asks for CREATE on the database even where the schema exists.
  if to_regnamespace('notika') is null then
    create schema notika;
  end if;
end;
$$;

comment on schema notika is
  'Notika: runs workflows from row changes. Start with notika.publish(workflow, table).';

create or replace function notika.version()
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select '0.1.0';
$$;

comment on function notika.version() is
  'The version of the SQL that is installed; the runner of the same version expects it.';

create table if not exists notika.setting (
  only_row boolean not null default true,
  segment_age interval not null default '8 hours',
  segment_bytes bigint not null default 1073741824,
  payload_bytes integer not null default 1048576,
  max_depth smallint not null default 16,
  max_attempts smallint not null default 12,
  constraint setting_pkey primary key (only_row),
  constraint setting_only_row_check check (only_row),
  constraint setting_segment_age_check check (segment_age > interval '0'),
  constraint setting_segment_bytes_check check (segment_bytes > 0),
  constraint setting_payload_bytes_check check (payload_bytes between 1024 and 1048576),
  constraint setting_max_depth_check check (max_depth > 0),
  constraint setting_max_attempts_check check (max_attempts > 0)
);

comment on table notika.setting is 'Limits of this installation: one row, changed by update.';
comment on column notika.setting.only_row is 'Always true: there is one row.';
comment on column notika.setting.segment_age is
  'The ring turns when the oldest event of its current segment is older than this.';
comment on column notika.setting.segment_bytes is
  'The ring turns when its current segment is larger than this, in bytes.';
comment on column notika.setting.payload_bytes is
  'An old or new row above this many bytes is cut down to its key; in force at the next publish.';
comment on column notika.setting.max_depth is
  'How many runs may wake each other in a chain before the next one fails.';
comment on column notika.setting.max_attempts is
  'How often a run is tried unless its task says otherwise.';

insert into notika.setting default values
  on conflict do nothing;

create or replace function notika._caller()
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case current_setting('role')
           when 'none' then session_user
           else current_setting('role')::name
         end;
$$;

comment on function notika._caller() is
  'The role that called a security definer function: the last SET ROLE, or else the login.';
--! EndIncluded 10_schema.sql
--! Included 20_workflow.sql
-- Workflows, what became of their runs, and the runners that are alive.
-- A workflow keeps its row, and with it its id, when it is unpublished: events and runs name it.

create table if not exists notika.workflow (
  workflow_id integer generated always as identity,
  name text not null,
  relation regclass,
  table_name text not null,
  operations text[] not null,
  columns text[],
  column_names text[],
  watch text[],
  condition text,
  capture text not null default 'row',
  guard text not null,
  on_rename text not null,
  definition text[] not null,
  is_pinned boolean not null default true,
  broken_reason text,
  published_at timestamptz not null default clock_timestamp(),
  published_by name not null default session_user,
  unpublished_at timestamptz,
  paused_at timestamptz,
  constraint workflow_pkey primary key (workflow_id),
  constraint workflow_name_key unique (name),
  constraint workflow_name_check check (name ~ '^[A-Za-z_][A-Za-z0-9_-]{0,62}$'),
  constraint workflow_capture_check check (capture in ('row')),
  constraint workflow_guard_check check (guard in ('block', 'warn', 'off')),
  constraint workflow_on_rename_check check (on_rename in ('follow', 'block'))
);

comment on table notika.workflow is
  'What was published: the contract of each workflow. See the view notika.workflows.';
comment on column notika.workflow.workflow_id is
  'Names what publish generates: trigger notika_12_insert, function notika.payload_12.';
comment on column notika.workflow.name is 'The workflow''s name, and its task module''s.';
comment on column notika.workflow.relation is 'The table; regclass, so that it follows renames.';
comment on column notika.workflow.table_name is 'The table as it was called at the last publish.';
comment on column notika.workflow.operations is 'Any of insert, update, delete.';
comment on column notika.workflow.columns is
  'What an event carries, as published, which are its keys; null: the whole row.';
comment on column notika.workflow.column_names is
  'The same columns as they are called now: renames are followed, the keys stay.';
comment on column notika.workflow.watch is
  'An update counts only when one of these columns changes; null: any update.';
comment on column notika.workflow.condition is 'SQL over new and old, the triggers'' WHEN.';
comment on column notika.workflow.capture is 'The form of the triggers: row.';
comment on column notika.workflow.guard is 'What DDL against the contract meets: block, warn, off.';
comment on column notika.workflow.on_rename is 'What a rename meets: follow, block.';
comment on column notika.workflow.definition is
  'The statements that made its functions and triggers; publish compares with them.';
comment on column notika.workflow.is_pinned is
  'Whether they pin the columns they read: not while a migration is let through, nor when it is broken.';
comment on column notika.workflow.broken_reason is 'Why it cannot capture; null: it can.';
comment on column notika.workflow.published_at is 'When it was last published or changed.';
comment on column notika.workflow.published_by is 'Who published it.';
comment on column notika.workflow.unpublished_at is
  'When it was unpublished; null: it is published.';
comment on column notika.workflow.paused_at is 'Since when its runs are held; null: they are not.';

create or replace view notika.workflows as
select w.name as workflow,
       case when c.oid is null then w.table_name
            else format('%I.%I', n.nspname, c.relname) end as table_name,
       w.operations,
       w.columns,
       w.watch,
       w.condition,
       w.capture,
       w.guard,
       w.on_rename,
       case
         when w.broken_reason is not null then 'broken'
         when w.paused_at is not null then 'paused'
         else 'published'
       end as state,
       w.broken_reason as reason,
       w.published_at,
       w.published_by
  from notika.workflow as w
  left join pg_catalog.pg_class as c on c.oid = w.relation
  left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 where w.unpublished_at is null;

comment on view notika.workflows is 'The published workflows.';
comment on column notika.workflows.workflow is 'Its name.';
comment on column notika.workflows.table_name is 'The table, as it is called now.';
comment on column notika.workflows.operations is 'Any of insert, update, delete.';
comment on column notika.workflows.columns is 'What an event carries; null: the whole row.';
comment on column notika.workflows.watch is 'Columns of which one must change in an update.';
comment on column notika.workflows.condition is 'SQL over new and old.';
comment on column notika.workflows.capture is 'The form of its triggers: row.';
comment on column notika.workflows.guard is 'block, warn or off.';
comment on column notika.workflows.on_rename is 'follow or block.';
comment on column notika.workflows.state is
  'published, paused (changes are captured, runs are held) or broken.';
comment on column notika.workflows.reason is 'Why it is broken.';
comment on column notika.workflows.published_at is 'When it was last published or changed.';
comment on column notika.workflows.published_by is 'Who published it.';

create table if not exists notika.run_log (
  run_id bigint not null,
  workflow text not null,
  state text not null,
  attempts smallint not null,
  event json,
  error text,
  stack text,
  created_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz not null default clock_timestamp(),
  retried_at timestamptz,
  constraint run_log_state_check check (state in ('done', 'failed', 'cancelled', 'expired'))
);
-- The first outcome of a run stands: a runner that lost its lock cannot change history.
create unique index if not exists run_log_run_id_idx
  on notika.run_log (run_id) where retried_at is null;
create index if not exists run_log_finished_at_idx on notika.run_log (finished_at);
create index if not exists run_log_cancelled_idx
  on notika.run_log (run_id) where state = 'cancelled';

comment on table notika.run_log is
  'What became of each run, appended when it ends. See the view notika.runs.';
comment on column notika.run_log.run_id is 'The id of the run, which is that of its event.';
comment on column notika.run_log.workflow is 'The name of the workflow.';
comment on column notika.run_log.state is 'done, failed, cancelled or expired.';
comment on column notika.run_log.attempts is 'How often it was tried.';
comment on column notika.run_log.event is
  'The event, kept with runs that are not done, because the ring forgets it.';
comment on column notika.run_log.error is 'The message of the last error.';
comment on column notika.run_log.stack is 'Where the last error came from.';
comment on column notika.run_log.created_at is 'When the event was captured.';
comment on column notika.run_log.started_at is 'When the last attempt began.';
comment on column notika.run_log.finished_at is 'When the run ended.';
comment on column notika.run_log.retried_at is
  'When notika.retry made it run again; the row is history from then on.';

create table if not exists notika.runner (
  runner_id text not null,
  host text not null,
  pid integer not null,
  tasks text[] not null,
  started_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp(),
  constraint runner_pkey primary key (runner_id)
) with (fillfactor = 50);

comment on table notika.runner is
  'The runners that are alive: each writes here every ten seconds and leaves when it stops.';
comment on column notika.runner.runner_id is 'The id of its worker pool, which locks its jobs.';
comment on column notika.runner.host is 'The machine it runs on.';
comment on column notika.runner.pid is 'Its process on that machine.';
comment on column notika.runner.tasks is 'The workflows it has a task for.';
comment on column notika.runner.started_at is 'When it started.';
comment on column notika.runner.seen_at is 'When it was last heard of.';
--! EndIncluded 20_workflow.sql
--! Included 30_event_log.sql
-- The ring: three segments that captured changes are appended to, never updated or deleted.
-- A writer that could pick a segment from a table would, at REPEATABLE READ, write to one that is
-- already being retired; a sequence is not subject to MVCC, so the pointer lives in one.  The xid
-- comes first: every event has its transaction's xid before it has its event_id.
-- After PgQ's rotating tables.

create sequence if not exists notika.event_id_seq as bigint minvalue 0 start 0 cache 1;
comment on sequence notika.event_id_seq is
  'Numbers the events. cache 1: the order of the changes of one row is the order of their ids.';

-- 2 * number of turns + 1 if the dispatcher is asleep.
create sequence if not exists notika.control_seq as bigint minvalue 0 start 0 cache 1;
comment on sequence notika.control_seq is
  'Its last value is twice the number of turns of the ring, plus one while the dispatcher sleeps.';

do $$
begin
  -- A sequence that was never used shows its first value as its last: use it.
  if pg_sequence_last_value('notika.event_id_seq') is null then
    perform setval('notika.event_id_seq', 0);
  end if;
  if pg_sequence_last_value('notika.control_seq') is null then
    perform setval('notika.control_seq', 0);
  end if;
end;
$$;

create table if not exists notika.event_log_0 (
  event_id bigint not null default nextval('notika.event_id_seq'),
  xid xid8 not null default pg_current_xact_id(),
  captured_at timestamptz not null default clock_timestamp(),
  cause_id bigint,
  workflow_id integer not null,
  depth smallint not null default 0,
  truncated boolean not null default false,
  operation text not null,
  new json,
  old json
) with (autovacuum_enabled = off); -- nothing here ever dies; segments leave by truncate
create index if not exists event_log_0_event_id_idx on notika.event_log_0 (event_id);

comment on table notika.event_log_0 is 'A segment of the ring. See the view notika.event_log.';
comment on column notika.event_log_0.event_id is 'The id of the event and of the run it causes.';
comment on column notika.event_log_0.xid is 'The transaction that made the change.';
comment on column notika.event_log_0.captured_at is 'When the change was captured.';
comment on column notika.event_log_0.cause_id is 'The run whose write this is; null: not a run''s.';
comment on column notika.event_log_0.workflow_id is 'The workflow it is addressed to.';
comment on column notika.event_log_0.depth is
  'How many runs stand between it and a write of no run.';
comment on column notika.event_log_0.truncated is 'Whether old and new were cut down to the key.';
comment on column notika.event_log_0.operation is 'insert, update, delete, or another start.';
comment on column notika.event_log_0.new is 'The row after the change; null after a delete.';
comment on column notika.event_log_0.old is 'The row before the change; null before an insert.';

create table if not exists notika.event_log_1 (
  like notika.event_log_0 including defaults including indexes including comments
) with (autovacuum_enabled = off);
create table if not exists notika.event_log_2 (
  like notika.event_log_0 including defaults including indexes including comments
) with (autovacuum_enabled = off);
comment on table notika.event_log_1 is 'A segment of the ring. See the view notika.event_log.';
comment on table notika.event_log_2 is 'A segment of the ring. See the view notika.event_log.';

create or replace view notika._event as
select * from notika.event_log_0
union all
select * from notika.event_log_1
union all
select * from notika.event_log_2;

comment on view notika._event is 'The three segments as one.';
comment on column notika._event.event_id is 'The id of the event and of the run it causes.';
comment on column notika._event.xid is 'The transaction that made the change.';
comment on column notika._event.captured_at is 'When the change was captured.';
comment on column notika._event.cause_id is 'The run whose write this is; null: not a run''s.';
comment on column notika._event.workflow_id is 'The workflow it is addressed to.';
comment on column notika._event.depth is 'How many runs stand between it and a write of no run.';
comment on column notika._event.truncated is 'Whether old and new were cut down to the key.';
comment on column notika._event.operation is 'insert, update, delete, or another start.';
comment on column notika._event.new is 'The row after the change; null after a delete.';
comment on column notika._event.old is 'The row before the change; null before an insert.';

create or replace function notika._append(workflow_id integer, operation text, new json)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_event_id bigint;
  v_run text;
begin
  -- As in a capture function: whoever sets it must be a member of the owner.
  if current_setting('notika.run', true) <> '' and pg_has_role(session_user, current_user, 'member')
  then
    v_run := substring(current_setting('notika.run', true) from '^[0-9]{1,18}/[0-9]{1,4}$');
  end if;

  perform pg_current_xact_id(); -- before the id is drawn and the segment read: see above
  v_event_id := nextval('notika.event_id_seq');

  execute format('insert into notika.event_log_%s
                    (event_id, workflow_id, operation, new, cause_id, depth)
                  values ($1, $2, $3, $4, $5, $6)', notika._segment(0))
    using v_event_id, _append.workflow_id, _append.operation, _append.new,
          split_part(v_run, '/', 1)::bigint, coalesce(split_part(v_run, '/', 2)::smallint + 1, 0);

  perform notika._wake();
  return v_event_id;
end;
$$;

comment on function notika._append(integer, text, json) is
  'Appends an event that no trigger captured and returns its id.';

create or replace function notika._segment(turns_ahead integer)
  returns integer
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  select (((pg_sequence_last_value('notika.control_seq') >> 1) + turns_ahead) % 3)::integer;
$$;

comment on function notika._segment(integer) is
  'The number of the segment that is written to now, or will be after so many turns of the ring.';

create or replace function notika._wake()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Read after the insert: a dispatcher that falls asleep before sees the row, one that falls
  -- asleep after is seen.  Where two-phase commit is in use nobody notifies, because
  -- PREPARE TRANSACTION refuses a transaction that did; the dispatcher's polling finds the event.
  if pg_sequence_last_value('notika.control_seq') & 1 = 1
     and current_setting('max_prepared_transactions') = '0'
  then
    perform pg_notify('notika', '');
  end if;
end;
$$;

comment on function notika._wake() is
  'Notifies channel notika, at commit, if the dispatcher said that it is asleep.';
--! EndIncluded 30_event_log.sql
--! Included 40_dispatch.sql
-- The cursor, and the hand-over of events to graphile-worker.
-- Commit order is not event_id order, so the cursor is a snapshot, after PgQ: a window is what the
-- new snapshot sees and the last one did not, in the order of event_id, read in chunks.
-- A snapshot's xmax is the latest *completed* xid + 1: transactions from there on may be running,
-- unlisted.  So a bound on event_id is safe only if it was read before an xid below that xmax was
-- assigned: a dispatch keeps as its `horizon` what it read before its own xid, for those after it.

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

create or replace function notika._payload(
  event notika._event,
  workflow text,
  table_name text
)
  returns json
  language sql
  stable
begin atomic
  select json_build_object(
    'id', (event).event_id::text,
    'workflow', workflow,
    'operation', (event).operation,
    'table', table_name,
    'at', to_char((event).captured_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'new', (event).new,
    'old', (event).old,
    'truncated', (event).truncated,
    'depth', (event).depth
  );
end;

comment on function notika._payload(notika._event, text, text) is
  'The event as a task gets it.';

create or replace function notika._last_event_id()
  returns bigint
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  select pg_sequence_last_value('notika.event_id_seq');
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
    (select min(l.low) from unnest((here).pending_lows) as l (low))
  );
$$;

comment on function notika._bound(notika.position) is
  'Every event up to this id has been handed over, or was rolled back.';

create or replace function notika._dispatched(event_id bigint, xid xid8, here notika.position)
  returns boolean
  language sql
  stable
begin atomic
  select event_id <= (here).high and pg_visible_in_snapshot(xid, (here).snapshot)
      or coalesce(
           event_id <= (here).window_at and pg_visible_in_snapshot(xid, (here).window_snapshot),
           false
         );
end;

comment on function notika._dispatched(bigint, xid8, notika.position) is
  'Whether an event has been handed over.';

create or replace function notika._position()
  returns notika.position
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select p from notika.position as p order by p.position_id desc limit 1;
$$;

comment on function notika._position() is 'The newest position.';

create or replace function notika._move(here notika.position)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.position (
    system_identifier, snapshot, high, low, pending_xids, pending_lows,
    window_snapshot, window_low, window_high, window_at, horizon
  )
  values (
    (here).system_identifier, (here).snapshot, (here).high, (here).low,
    (here).pending_xids, (here).pending_lows,
    (here).window_snapshot, (here).window_low, (here).window_high, (here).window_at, (here).horizon
  );
$$;

comment on function notika._move(notika.position) is 'Appends a position.';

create or replace function notika._lock_dispatch()
  returns boolean
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  select pg_try_advisory_xact_lock(hashtextextended('notika.dispatch', 0));
$$;

comment on function notika._lock_dispatch() is
  'Takes the right to move the cursor, turn the ring and set the sleep bit, until commit.';

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

create or replace function notika._hand_over(
  here notika.position,
  max_events integer,
  out handed_over integer,
  out last_id bigint
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_setting notika.setting;
  v_jobs notika_worker.job_spec[];
begin
  select s.* into v_setting from notika.setting as s;

  with chunk as materialized (
    select v as event, v.event_id, v.workflow_id
      from notika._event as v
     where v.event_id > here.window_at
       and v.event_id <= here.window_high
       and pg_visible_in_snapshot(v.xid, here.window_snapshot)
       and not pg_visible_in_snapshot(v.xid, here.snapshot)
     order by v.event_id
     limit _hand_over.max_events
  ), target as materialized (
    select w.workflow_id, w.name,
           coalesce(notika._quoted(w.relation), w.table_name) as table_name,
           w.paused_at is not null or w.broken_reason is not null as is_held
      from notika.workflow as w
     where w.workflow_id in (select c.workflow_id from chunk as c)
  ), too_deep as (
    insert into notika.run_log (run_id, workflow, state, attempts, event, error, created_at)
    select c.event_id, t.name, 'failed', 0, notika._payload(c.event, t.name, t.table_name),
           format('stopped at depth %s: runs wake each other in a loop (the run before is %s)',
                  (c.event).depth, coalesce((c.event).cause_id::text, 'unknown')),
           (c.event).captured_at
      from chunk as c
      join target as t on t.workflow_id = c.workflow_id
     where (c.event).depth > v_setting.max_depth
    on conflict do nothing
  )
  select count(*), max(c.event_id),
         array_agg(
           row(
             t.name,
             notika._payload(c.event, t.name, t.table_name),
             null,
             -- Ties in run_at have no order, so it counts the events in microseconds, in the past.
             case when t.is_held then 'infinity'
                  else v_now - (100000 - c.place) * interval '1 microsecond' end,
             v_setting.max_attempts,
             c.event_id::text,
             null,
             null
           )::notika_worker.job_spec
           order by c.event_id
         ) filter (
           where (c.event).depth <= v_setting.max_depth
             and not exists (
               select from notika.run_log as l
                where l.run_id = c.event_id and l.state = 'cancelled'
             )
         )
    into handed_over, last_id, v_jobs
    -- Not in the chunk: there row_number would look for the event after the last one.
    from (select row_number() over (order by c.event_id) as place, c.* from chunk as c) as c
    left join target as t on t.workflow_id = c.workflow_id;

  if v_jobs is not null then
    perform notika_worker.add_jobs(v_jobs);
  end if;
end;
$$;

comment on function notika._hand_over(notika.position, integer) is
  'Makes jobs of the next events of the open window; says how many events it saw, and the last.';

create or replace function notika._is_foreign(here notika.position)
  returns boolean
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  select (here).system_identifier <> (select c.system_identifier from pg_control_system() as c)
      or pg_snapshot_xmax(coalesce((here).window_snapshot, (here).snapshot))
         > pg_snapshot_xmax(pg_current_snapshot());
$$;

comment on function notika._is_foreign(notika.position) is
  'Whether a position speaks of the transactions of another cluster: this is a restored copy.';

create or replace function notika._rebase(here notika.position)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position;
  v_waiting bigint;
begin
  -- The xids of the copied events mean nothing here.  What was handed over gets one that the new
  -- snapshot sees; what was not gets this transaction's, and so does what was committed here since,
  -- which is not handed over either.  The only update the log ever gets.
  for v_segment in 0..2 loop
    execute format(
      'update notika.event_log_%s as e
          set xid = case when notika._dispatched(e.event_id, e.xid, $1) then ''3''::xid8
                         else pg_current_xact_id() end',
      v_segment)
      using _rebase.here;
  end loop;
  select count(*) into v_waiting from notika._event as e where e.xid = pg_current_xact_id();

  select c.system_identifier into v_next.system_identifier from pg_control_system() as c;
  v_next.snapshot := '4:4:'; -- no transaction of this cluster
  v_next.high := greatest(here.high, here.window_high);
  v_next.low := notika._bound(here);
  v_next.pending_xids := '{}';
  v_next.pending_lows := '{}';
  v_next.horizon := v_next.low;
  perform notika._move(v_next);

  raise warning 'notika: this database was restored from another cluster; the cursor was rebased'
    using detail = format('%s events were not handed over yet and will be now.', v_waiting),
          hint = 'Where the original goes on running too, its runs happen twice: see notika.runs.';
end;
$$;

comment on function notika._rebase(notika.position) is
  'Starts a new cursor in a restored copy, at what was not handed over when it was copied.';

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
as $$
declare
  v_horizon bigint;
  v_here notika.position;
  v_snapshot pg_snapshot;
  v_last_id bigint;
  v_resumed boolean;
  v_moved boolean := false;
  v_handed_over integer := 0;
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
            hint = 'Run: select * from notika.install();';
  end if;
  if notika._is_foreign(v_here) then
    perform notika._rebase(v_here);
    return 0;
  end if;

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

    select h.handed_over, h.last_id into v_handed_over, v_here.window_at
      from notika._hand_over(v_here, dispatch.max_events) as h;
    if v_handed_over < dispatch.max_events then
      v_here := notika._close_window(v_here);
    end if;
    v_moved := true;
    exit when v_handed_over > 0 or not v_resumed;
  end loop;

  if v_moved then
    v_here.horizon := greatest(v_horizon, v_here.horizon);
    perform notika._move(v_here);
  end if;
  if v_handed_over > 0 then
    perform notika._set_asleep(false);
  end if;
  return v_handed_over;
end;
$$;

comment on function notika.dispatch(integer) is
  'Hands over up to max_events captured events to graphile-worker, in the order of their ids, and '
  'returns how many. 0: there was nothing; null: somebody else is at it. READ COMMITTED only.';

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

  -- Whoever has written and not committed yet may have looked before and will not notify; nor does
  -- anybody where transactions may be prepared.
  return current_setting('max_prepared_transactions') = '0' and not exists (
    select from pg_locks as k
     where k.locktype = 'relation' and k.granted and k.mode = 'RowExclusiveLock'
       and k.database = (select d.oid from pg_database as d where d.datname = current_database())
       and k.relation in (
         'notika.event_log_0'::regclass, 'notika.event_log_1'::regclass,
         'notika.event_log_2'::regclass
       )
  );
end;
$$;

comment on function notika._doze() is
  'Asks the next writer for a NOTIFY. True: every event that the next dispatch does not find will '
  'be notified; false: ask again soon, a transaction that has written already may not notify.';
--! EndIncluded 40_dispatch.sql
--! Included 45_maintain.sql
-- What has to happen from time to time: the ring turns, the cursor's old positions go, jobs of
-- runners that died are freed.  The runner calls it every ten seconds; pg_cron may as well.

create or replace function notika.maintain()
  returns setof text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._refuse_old_snapshot();
  return query select * from notika._free_jobs();
  return query select * from notika._bury_jobs();
  return query select * from notika._hold_jobs();
  if notika._lock_dispatch() then
    return query select * from notika._turn();
    return query select * from notika._forget_positions();
  end if;
end;
$$;

comment on function notika.maintain() is
  'Turns the ring when it is due, frees the jobs of runners that died, and says what it did.';

create or replace function notika._turn()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting notika.setting;
  v_current regclass := format('notika.event_log_%s', notika._segment(0));
  v_next regclass := format('notika.event_log_%s', notika._segment(1));
  v_here notika.position := notika._position();
  v_oldest timestamptz;
  v_waits boolean;
  v_control bigint;
begin
  select s.* into v_setting from notika.setting as s;
  execute format('select e.captured_at from %s as e order by e.event_id limit 1', v_current)
    into v_oldest;
  if v_oldest is null
     or v_oldest > clock_timestamp() - v_setting.segment_age
        and pg_table_size(v_current) < v_setting.segment_bytes
  then
    return;
  end if;

  -- Whoever reads the oldest segment, a pg_dump say, keeps it a little longer; writers never wait.
  begin
    execute format('lock table %s in access exclusive mode nowait', v_next);
  exception when lock_not_available then
    return next format('the ring is due to turn, but %s is in use', v_next);
    return;
  end;

  -- Under the lock nobody has written to it and not committed, so what can be seen is all there is.
  -- Each event is asked, because an idle transaction holds the bound back for as long as it likes.
  execute format(
    'select exists (
       select from %s as e
        where e.event_id > $1 and not notika._dispatched(e.event_id, e.xid, $2)
     )', v_next)
    into v_waits
    using notika._bound(v_here), v_here;
  if v_waits then
    return next format('the ring is due to turn, but %s holds events that wait', v_next);
    return;
  end if;

  execute format('truncate %s', v_next);
  -- Not undone by a rollback, which is harmless: writers then append to a segment that was read.
  v_control := pg_sequence_last_value('notika.control_seq');
  perform setval('notika.control_seq', v_control + 2);
  return next format('the ring turned to %s', v_next);
end;
$$;

comment on function notika._turn() is
  'Makes the oldest segment the current one, if it is time and all its events are handed over. '
  'Needs the right of _lock_dispatch.';

create or replace function notika._forget_positions()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_here notika.position := notika._position();
begin
  if v_here.position_id - (select min(p.position_id) from notika.position as p) < 10000 then
    return;
  end if;

  begin
    lock table notika.position in access exclusive mode nowait;
  exception when lock_not_available then
    return;
  end;
  truncate notika.position;
  perform notika._move(v_here);
  return next 'old positions of the cursor are gone';
end;
$$;

comment on function notika._forget_positions() is
  'Keeps only the newest position, by truncate, so that a held snapshot leaves nothing dead.';

create or replace function notika._free_jobs()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_silent text[];
begin
  with gone as (
    delete from notika.runner as r
     where r.seen_at < clock_timestamp() - interval '60 seconds'
    returning r.runner_id
  )
  select array_agg(s.runner_id) into v_silent
    from (
      select g.runner_id from gone as g
      union
      -- Died before its first sign of life.
      select j.locked_by
        from notika_worker._private_jobs as j
       where j.locked_at < clock_timestamp() - interval '60 seconds'
         and not exists (select from notika.runner as r where r.runner_id = j.locked_by)
    ) as s;

  if v_silent is not null then
    perform notika_worker.force_unlock_workers(v_silent);
    return next format('%s silent runners were given up, their jobs freed', cardinality(v_silent));
  end if;
end;
$$;

comment on function notika._free_jobs() is
  'Unlocks what runners hold that were silent for a minute; graphile-worker would wait four hours.';

create or replace function notika._bury_jobs()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_jobs bigint[];
begin
  -- A job ends with its last attempt without a word only when the runner died in the middle.
  with dead as (
    select j.id, j.key::bigint as run_id, t.identifier as workflow, j.attempts, j.payload,
           j.last_error, j.created_at, j.updated_at
      from notika_worker._private_jobs as j
      join notika_worker._private_tasks as t on t.id = j.task_id
     where j.attempts >= j.max_attempts and j.locked_at is null and j.key is not null
     for update of j skip locked
  ), logged as (
    insert into notika.run_log
      (run_id, workflow, state, attempts, event, error, created_at, started_at)
    select d.run_id, d.workflow, 'failed', d.attempts, d.payload,
           coalesce(d.last_error, 'the runner died during the last attempt'),
           substring(d.payload::text from '"at" : "([^"]+)"')::timestamptz, d.updated_at
      from dead as d
    on conflict do nothing
  )
  select array_agg(d.id) into v_jobs from dead as d;

  if v_jobs is not null then
    perform notika_worker.complete_jobs(v_jobs);
    return next format('%s runs failed because their runner died each time', cardinality(v_jobs));
  end if;
end;
$$;

comment on function notika._bury_jobs() is
  'Records runs as failed whose last attempt ended without an outcome.';

create or replace function notika._hold_jobs()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_jobs bigint[];
begin
  select array_agg(j.id) into v_jobs
    from notika_worker._private_jobs as j
    join notika_worker._private_tasks as t on t.id = j.task_id
    join notika.workflow as w on w.name = t.identifier
   where (w.paused_at is not null or w.broken_reason is not null)
     and j.run_at < 'infinity' and j.locked_at is null;

  if v_jobs is not null then
    perform notika_worker.reschedule_jobs(v_jobs, run_at => 'infinity');
    return next format('%s runs of paused workflows are held', cardinality(v_jobs));
  end if;
end;
$$;

comment on function notika._hold_jobs() is 'Keeps the runs of paused workflows from starting.';
--! EndIncluded 45_maintain.sql
--! Included 50_run.sql
-- Runs: events that wait, jobs that live, outcomes that are logged; and what people do to them.

create or replace view notika.event_log as
select e.event_id,
       w.name as workflow,
       e.operation,
       case when c.oid is null then w.table_name
            else format('%I.%I', n.nspname, c.relname) end as table_name,
       e.captured_at as at,
       e.new,
       e.old,
       e.truncated,
       e.depth,
       notika._dispatched(e.event_id, e.xid, p) as dispatched,
       e.cause_id
  from notika._event as e
  join notika.workflow as w on w.workflow_id = e.workflow_id
  left join pg_catalog.pg_class as c on c.oid = w.relation
  left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 cross join (
   select q as p from notika.position as q order by q.position_id desc limit 1
 ) as newest;

comment on view notika.event_log is
  'The ring: captured events, those handed over included, until their segment is used again.';
comment on column notika.event_log.event_id is 'The id of the event and of its run.';
comment on column notika.event_log.workflow is 'The workflow it is addressed to.';
comment on column notika.event_log.operation is
  'insert, update or delete; emit, schedule, backfill or replay for other starts.';
comment on column notika.event_log.table_name is 'The table, as it is called now.';
comment on column notika.event_log.at is 'When it was captured.';
comment on column notika.event_log.new is
  'The published columns after the change, as json: text that jsonb refuses was not refused.';
comment on column notika.event_log.old is 'The published columns before the change.';
comment on column notika.event_log.truncated is 'Whether new and old were cut down to the key.';
comment on column notika.event_log.depth is 'How many runs stand between it and a write of no run.';
comment on column notika.event_log.dispatched is 'Whether it was handed over to graphile-worker.';
comment on column notika.event_log.cause_id is 'The run whose write this is; null: not a run''s.';

create or replace view notika.runs as
select l.run_id,
       l.workflow,
       l.state,
       l.attempts::integer as attempts,
       coalesce(l.event, (
         select notika._payload(e, l.workflow, w.table_name)
           from notika._event as e
           join notika.workflow as w on w.workflow_id = e.workflow_id
          where e.event_id = l.run_id
       )) as event,
       l.error,
       l.created_at,
       null::timestamptz as wake_at,
       l.started_at,
       l.finished_at
  from notika.run_log as l
 where l.retried_at is null
union all
select j.key::bigint,
       t.identifier,
       case
         when j.locked_at is not null then 'running'
         when j.run_at = 'infinity' then 'held'
         when j.attempts > 0 and j.run_at > clock_timestamp() then 'retrying'
         when j.run_at > clock_timestamp() then 'waiting'
         else 'ready'
       end,
       j.attempts::integer,
       j.payload,
       j.last_error,
       -- Not with ->>, which refuses a payload that holds \u0000.
       substring(j.payload::text from '"at" : "([^"]+)"')::timestamptz,
       case when j.run_at > clock_timestamp() then j.run_at end,
       j.locked_at,
       null::timestamptz
  from notika_worker._private_jobs as j
  join notika_worker._private_tasks as t on t.id = j.task_id
 where j.key is not null
   -- Between the outcome and the end of its job a run is in both places.
   and not exists (
     select from notika.run_log as l where l.run_id = j.key::bigint and l.retried_at is null
   )
union all
select e.event_id,
       w.name,
       'ready',
       0,
       notika._payload(e, w.name, w.table_name),
       null,
       e.captured_at,
       null,
       null,
       null
  from notika._event as e
  join notika.workflow as w on w.workflow_id = e.workflow_id
 cross join (
   select q as p from notika.position as q order by q.position_id desc limit 1
 ) as newest
 where e.event_id > notika._bound(p)
   and not notika._dispatched(e.event_id, e.xid, p)
   and not exists (
     select from notika.run_log as l where l.run_id = e.event_id and l.retried_at is null
   );

comment on view notika.runs is 'Every run that waits, lives, or has ended and is remembered.';
comment on column notika.runs.run_id is 'Its id, which is that of its event.';
comment on column notika.runs.workflow is 'Its workflow.';
comment on column notika.runs.state is
  'ready, running, waiting, retrying, held, done, failed, cancelled or expired.';
comment on column notika.runs.attempts is 'How often it was tried.';
comment on column notika.runs.event is
  'What its task gets; of a run that is done only while the ring remembers it.';
comment on column notika.runs.error is 'The message of the last error.';
comment on column notika.runs.created_at is 'When its event was captured.';
comment on column notika.runs.wake_at is 'When it goes on; infinity: when its workflow is resumed.';
comment on column notika.runs.started_at is 'When its last attempt began.';
comment on column notika.runs.finished_at is 'When it ended.';

create or replace view notika.lag as
select waiting.events as events_waiting,
       waiting.oldest as oldest_waiting,
       pg_catalog.pg_table_size('notika.event_log_0')
         + pg_catalog.pg_table_size('notika.event_log_1')
         + pg_catalog.pg_table_size('notika.event_log_2') as ring_bytes,
       blocker.sessions as blocked_by,
       (select max(r.seen_at) from notika.runner as r) as dispatcher_seen_at
  from (
    select q as p from notika.position as q order by q.position_id desc limit 1
  ) as newest
 cross join lateral (
   select count(*) as events, min(e.captured_at) as oldest
     from notika._event as e
    where e.event_id > notika._bound(p)
      and not notika._dispatched(e.event_id, e.xid, p)
 ) as waiting
 cross join lateral (
   select array_agg(
            format('pid %s (%s): %s', a.pid, coalesce(nullif(a.application_name, ''), a.usename),
                   b.holds)
            order by a.pid
          ) as sessions
     from pg_catalog.pg_stat_activity as a
    cross join lateral (
      select 'uncommitted writes since ' || a.xact_start as holds
       where a.backend_xid::text::bigint in (
               -- backend_xid has 32 bits
               select x.xid::text::bigint & 4294967295 from unnest((p).pending_xids) as x (xid)
             )
         and a.datname = pg_catalog.current_database()
      union all
      select format('a lock on %s since %s', k.relation::pg_catalog.regclass, a.xact_start)
        from pg_catalog.pg_locks as k
       where k.pid = a.pid
         and k.relation = pg_catalog.to_regclass(
               format('notika.event_log_%s', notika._segment(1)))
    ) as b
    where a.pid <> pg_catalog.pg_backend_pid()
 ) as blocker;

comment on view notika.lag is 'How far the hand-over is behind, and what holds it or the ring up.';
comment on column notika.lag.events_waiting is 'Committed events that are not handed over yet.';
comment on column notika.lag.oldest_waiting is 'When the oldest of them was captured.';
comment on column notika.lag.ring_bytes is 'The size of the three segments, in bytes.';
comment on column notika.lag.blocked_by is
  'Sessions with uncommitted writes, which may hold events, or with a lock on the oldest segment, '
  'which keeps the ring from turning; null: none.';
comment on column notika.lag.dispatcher_seen_at is 'When a runner was last heard of.';

create or replace function notika.emit(workflow text, payload jsonb default '{}')
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(emit.workflow);
begin
  return notika._append(v_workflow_id, 'emit', emit.payload::json);
end;
$$;

comment on function notika.emit(text, jsonb) is
  'Adds an event by hand, in the current transaction, with payload as its new, and returns its id.';

create or replace function notika._published(workflow text)
  returns integer
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  select w.workflow_id into v_workflow_id
    from notika.workflow as w
   where w.name = _published.workflow and w.unpublished_at is null;
  if not found then
    raise exception 'workflow "%" is not published', _published.workflow
      using errcode = 'undefined_object',
            hint = format('Publish it first: select notika.publish(%L, ''<schema>.<table>'');',
                          _published.workflow);
  end if;
  return v_workflow_id;
end;
$$;

comment on function notika._published(text) is 'The id of a published workflow, or an error.';

create or replace function notika.pause(workflow text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(pause.workflow);
begin
  update notika.workflow as w
     set paused_at = clock_timestamp()
   where w.workflow_id = v_workflow_id and w.paused_at is null;
  perform notika._hold_jobs();
end;
$$;

comment on function notika.pause(text) is
  'Holds the runs of a workflow. Its changes are captured all the same; resume lets them run.';

create or replace function notika.resume(workflow text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(resume.workflow);
  v_jobs bigint[];
begin
  update notika.workflow as w
     set paused_at = null
   where w.workflow_id = v_workflow_id;

  select array_agg(j.id) into v_jobs
    from notika_worker._private_jobs as j
    join notika_worker._private_tasks as t on t.id = j.task_id
   where t.identifier = resume.workflow and j.run_at = 'infinity';
  if v_jobs is not null then
    perform notika_worker.reschedule_jobs(v_jobs, run_at => now());
  end if;
end;
$$;

comment on function notika.resume(text) is 'Lets the runs go on that pause held, all at once.';

create or replace function notika.retry(run_id bigint)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.run_log;
begin
  -- The lock keeps two people from retrying the same run twice.
  select l.* into v_run
    from notika.run_log as l
   where l.run_id = retry.run_id and l.retried_at is null
     for update;
  if not found then
    perform notika._alive(retry.run_id);
  end if;

  v_run.event := coalesce(v_run.event, (
    select r.event from notika.runs as r where r.run_id = retry.run_id
  ));
  if v_run.event is null then
    raise exception 'the event of run % is gone', retry.run_id
      using errcode = 'no_data_found',
            detail = 'The run was done, and the ring has forgotten its event since.',
            hint = format('Start a new run: select notika.emit(%L, ''{…}'');', v_run.workflow);
  end if;

  update notika.run_log as l
     set retried_at = clock_timestamp()
   where l.run_id = retry.run_id and l.retried_at is null;
  perform notika_worker.add_job(
    v_run.workflow, v_run.event, job_key => retry.run_id::text,
    max_attempts => (select s.max_attempts from notika.setting as s)
  );
  perform notika._hold_jobs();
end;
$$;

comment on function notika.retry(bigint) is 'Makes a run that has ended run again, from the start.';

create or replace function notika._alive(run_id bigint)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_state text;
begin
  select r.state into v_state from notika.runs as r where r.run_id = _alive.run_id;
  if found then
    raise exception 'run % has not ended: it is %', _alive.run_id, v_state
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Wait for it, or end it first: select notika.cancel(%s);', _alive.run_id);
  end if;
  raise exception 'there is no run %', _alive.run_id
    using errcode = 'undefined_object',
          hint = 'The ids are in: select * from notika.runs;';
end;
$$;

comment on function notika._alive(bigint) is 'Says why a run cannot be retried, as an error.';

create or replace function notika.cancel(run_id bigint)
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.runs;
  v_cancelled boolean;
begin
  if not exists (
    select from notika_worker._private_jobs as j where j.key = cancel.run_id::text
  ) then
    -- Its event may be on the way: wait until it has become a job, or keep it from that.
    perform pg_advisory_xact_lock(hashtextextended('notika.dispatch', 0));
  end if;
  select r.* into v_run from notika.runs as r where r.run_id = cancel.run_id;
  if not found then
    raise exception 'there is no run %', cancel.run_id
      using errcode = 'undefined_object',
            hint = 'The ids are in: select * from notika.runs;';
  end if;
  if v_run.state in ('done', 'failed', 'cancelled', 'expired') then
    return false;
  end if;

  insert into notika.run_log
    (run_id, workflow, state, attempts, event, error, created_at, started_at)
  values
    (v_run.run_id, v_run.workflow, 'cancelled', v_run.attempts, v_run.event, v_run.error,
     v_run.created_at, v_run.started_at)
  on conflict do nothing;
  v_cancelled := found; -- or it has ended in this very moment
  -- A running job is not stopped, but neither is it tried again, nor does its outcome count.
  perform notika_worker.remove_job(cancel.run_id::text);
  return v_cancelled;
end;
$$;

comment on function notika.cancel(bigint) is
  'Ends a run that has not ended: true; one that has is left alone: false.';

create or replace function notika._finish(outcomes json)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.run_log
    (run_id, workflow, state, attempts, event, error, stack, created_at, started_at)
  select o.run_id, o.workflow, o.state, o.attempts,
         -- The ring forgets it; the job still has it.
         case when o.state <> 'done' then (
           select j.payload from notika_worker._private_jobs as j where j.key = o.run_id::text
         ) end,
         o.error, o.stack, o.created_at, o.started_at
    from json_to_recordset(_finish.outcomes) as o (
           run_id bigint, workflow text, state text, attempts smallint, error text, stack text,
           created_at timestamptz, started_at timestamptz
         )
  on conflict do nothing;
$$;

comment on function notika._finish(json) is
  'Appends the outcomes of runs, an array of objects with the columns of run_log.';

create or replace function notika._beat(runner_id text, host text, pid integer, tasks text[])
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.runner as r (runner_id, host, pid, tasks)
  values (_beat.runner_id, _beat.host, _beat.pid, _beat.tasks)
  on conflict (runner_id) do update
    set seen_at = clock_timestamp(), tasks = excluded.tasks;
$$;

comment on function notika._beat(text, text, integer, text[]) is
  'A runner''s sign of life; without one for a minute its jobs are given to others.';

create or replace function notika._leave(runner_id text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.runner as r where r.runner_id = _leave.runner_id;
  perform notika_worker.force_unlock_workers(array[_leave.runner_id]);
end;
$$;

comment on function notika._leave(text) is 'A runner stops: what it still holds is free at once.';
--! EndIncluded 50_run.sql
--! Included 60_capture.sql
-- What publish generates for a workflow: a payload function that Postgres itself keeps in step with
-- the table, one trigger function, and a trigger an operation with the filter as its WHEN.
-- Values are turned into json by Postgres' own functions only: the trigger function runs with the
-- owner's rights, and a cast that the owner of a type wrote must not.
-- What runs at a write is parsed in the writer's session: a backslash is only safe in E''.

create or replace function notika._base_type(type oid)
  returns oid
  language sql
  stable
  strict
  set search_path = pg_catalog, pg_temp
as $$
  with recursive chain as (
    select t.oid, t.typbasetype from pg_type as t where t.oid = _base_type.type
    union all
    select t.oid, t.typbasetype
      from chain as c
      join pg_type as t on t.oid = c.typbasetype
  )
  select c.oid from chain as c where c.typbasetype = 0;
$$;

comment on function notika._base_type(oid) is 'The type under a domain, or the type itself.';

create or replace function notika._leaf_types(type oid)
  returns setof oid
  language sql
  stable
  strict
  set search_path = pg_catalog, pg_temp
as $$
  with recursive part as (
    select notika._base_type(_leaf_types.type) as oid
    union
    select notika._base_type(inner_type.oid)
      from part as p
      join pg_type as t on t.oid = p.oid
     cross join lateral (
       select t.typelem as oid where t.typcategory = 'A'
       union all
       select a.atttypid from pg_attribute as a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
     ) as inner_type
  )
  select p.oid
    from part as p
    join pg_type as t on t.oid = p.oid
   where t.typcategory <> 'A' and t.typtype <> 'c';
$$;

comment on function notika._leaf_types(oid) is
  'The types of the single values in a type, through arrays, composites and domains.';

create or replace function notika._settings(types oid[])
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Each setting costs every row a little, so only those that the types need; a type that is not
  -- listed may hold any of the others.
  with plain (type) as (
    select unnest(
      '{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,uuid,json,jsonb,xml,date,time,timetz,
        timestamp,inet,cidr,macaddr,macaddr8,bit,varbit,oid,tsvector}'::regtype[]
    )
  ), dependent (type, setting) as (
    values ('timestamptz'::regtype, 'timezone = ''UTC'''),
           (null, 'datestyle = ''ISO, YMD'''),
           ('interval', 'intervalstyle = ''iso_8601'''),
           ('bytea', 'bytea_output = ''hex'''),
           ('float4', 'extra_float_digits = ''1'''),
           ('float8', 'extra_float_digits = ''1'''),
           ('money', 'lc_monetary = ''C'''),
           (null, 'quote_all_identifiers = off')
  ), leaf (type) as (
    select distinct l.type
      from unnest(_settings.types) as given (type)
     cross join lateral notika._leaf_types(given.type) as l (type)
      join pg_type as t on t.oid = l.type and t.typtype <> 'e'
  )
  select coalesce(string_agg(distinct format(E'\n  set %s', d.setting), ''), '')
    from leaf as l
    join dependent as d
      on d.type = l.type
      or l.type not in (select p.type from plain as p)
     and l.type not in (select k.type from dependent as k where k.type is not null);
$$;

comment on function notika._settings(oid[]) is
  'The SET clauses under which values of these types look the same in every session.';

create or replace function notika._object_expression(names text[], expressions text[])
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when count(*) <= 50 then format(
             'pg_catalog.json_build_object(%s)',
             string_agg(format('%L, %s', u.name, u.expression), ', ' order by u.place)
           )
           -- A function has at most a hundred arguments.
           else format(
             '(select pg_catalog.row_to_json(o) from (select %s) as o)',
             string_agg(format('%s as %I', u.expression, u.name), ', ' order by u.place)
           )
         end
    from unnest(_object_expression.names, _object_expression.expressions)
         with ordinality as u (name, expression, place);
$$;

comment on function notika._object_expression(text[], text[]) is
  'An SQL expression for a json object with these keys and values.';

create or replace function notika._fold(elements json[], shape anyarray)
  returns json
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[] := array(
    select coalesce(e.value::text, 'null')
      from unnest(elements) with ordinality as e (value, place)
     order by e.place
  );
begin
  -- The innermost dimension first; what remains at the end is one array.
  for v_dimension in reverse coalesce(array_ndims(shape), 0)..1 loop
    v_parts := array(
      select format('[%s]', string_agg(p.part, ', ' order by p.place))
        from unnest(v_parts) with ordinality as p (part, place)
       group by (p.place - 1) / array_length(shape, v_dimension)
       order by (p.place - 1) / array_length(shape, v_dimension)
    );
  end loop;
  return coalesce(v_parts[1], '[]')::json;
end;
$$;

comment on function notika._fold(json[], anyarray) is
  'The elements of an array as a json array that is nested as deep as the array is.';

create or replace function notika._has_json_cast(type oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Only a superuser makes functions in C; anybody else's would run with the owner's rights.
  select exists (
    select from pg_cast as c
      join pg_proc as p on p.oid = c.castfunc
      join pg_language as l on l.oid = p.prolang and l.lanname in ('c', 'internal')
     where c.castsource = _has_json_cast.type and c.casttarget = 'json'::regtype
       and has_function_privilege(p.oid, 'execute')
  );
$$;

comment on function notika._has_json_cast(oid) is
  'Whether an extension says how values of its type look as json.';

create or replace function notika._json_expression(path text, type oid, depth integer default 0)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_base pg_type;
  v_array text := format('a%s', _json_expression.depth);
  v_index text := format('i%s', _json_expression.depth);
begin
  select t.* into v_base from pg_type as t where t.oid = notika._base_type(_json_expression.type);

  -- JavaScript would round them.
  if v_base.oid in ('int8'::regtype, 'numeric'::regtype) then
    return format('%s::pg_catalog.text', path);
  end if;
  if v_base.oid in ('int8[]'::regtype, 'numeric[]'::regtype) then
    return format('%s::pg_catalog.text[]', path);
  end if;

  if v_base.typcategory = 'A' and v_base.typelem >= 16384 then
    -- Postgres would call the casts of the elements' type.
    return format(
      'case when %1$s is not null then notika._fold(array(select pg_catalog.to_json(%2$s)'
      ' from (select array(select pg_catalog.unnest(%1$s))) as %3$s (elements),'
      ' pg_catalog.generate_subscripts(%3$s.elements, 1) as %4$s order by %4$s), %1$s) end',
      path,
      notika._json_expression(format('(%s.elements[%s])', v_array, v_index), v_base.typelem,
                              depth + 1),
      v_array,
      v_index
    );
  end if;
  if v_base.oid < 16384 then
    return path;
  end if;

  if v_base.typtype = 'c' then
    return (
      select format(
               'case when pg_catalog.num_nonnulls(%s) = 1 then %s end',
               path,
               notika._object_expression(
                 array_agg(a.attname::text order by a.attnum),
                 array_agg(
                   notika._json_expression(format('(%s).%I', path, a.attname), a.atttypid, depth)
                   order by a.attnum
                 )
               )
             )
        from pg_attribute as a
       where a.attrelid = v_base.typrelid and a.attnum > 0 and not a.attisdropped
    );
  end if;

  if notika._has_json_cast(v_base.oid) then
    return format('%s::pg_catalog.json', path);
  end if;
  return format('case when %1$s is not null then pg_catalog.format(''%%s'', %1$s) end', path);
end;
$$;

comment on function notika._json_expression(text, oid, integer) is
  'An SQL expression for a value of this type as an argument of json_build_object.';

create or replace function notika._size_expression(path text, type oid, typmod integer)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when t.typlen <> -1 or t.oid = 'numeric'::regtype then null
           when t.oid in ('varchar'::regtype, 'bpchar'::regtype)
            and _size_expression.typmod between 0 and 1024 then null
           -- The size before compression, told without reading the value.
           when t.oid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype)
             then format('coalesce(pg_catalog.octet_length(%s), 0)', _size_expression.path)
           else format('coalesce(pg_catalog.pg_column_size(%s), 0)', _size_expression.path)
         end
    from pg_type as t
   where t.oid = notika._base_type(_size_expression.type);
$$;

comment on function notika._size_expression(text, oid, integer) is
  'An SQL expression for the size of a value in bytes; null for a type that is always small.';

create or replace function notika._key_columns(relation regclass)
  returns smallint[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
           select k.attnum
             from unnest(i.indkey) with ordinality as k (attnum, place)
            where k.place <= i.indnkeyatts -- the others are included columns
            order by k.place
         )
    from pg_index as i
   where i.indrelid = _key_columns.relation and (i.indisprimary or i.indisreplident)
   order by i.indisprimary desc
   limit 1;
$$;

comment on function notika._key_columns(regclass) is
  'The columns of the primary key, or else of the replica identity; null: there is neither.';

create or replace function notika._pick(changed anyelement, relation regclass, columns smallint[])
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
  set lc_monetary = 'C'
  set quote_all_identifiers = off
as $$
declare
  v_picked json;
  v_object text;
begin
  select notika._object_expression(
           array_agg(a.attname::text order by a.place, a.attnum),
           array_agg(
             notika._json_expression(format('($1).%I', a.attname), a.atttypid)
             order by a.place, a.attnum
           )
         )
    into v_object
    from (
      select t.*, array_position(_pick.columns, t.attnum) as place
        from pg_attribute as t
       where t.attrelid = _pick.relation and t.attnum > 0 and not t.attisdropped
    ) as a
   where _pick.columns is null or a.place is not null;

  execute format('select %s', v_object)
    into v_picked
    using _pick.changed;
  return v_picked;
end;
$$;

comment on function notika._pick(anyelement, regclass, smallint[]) is
  'Some columns of a row as json, or all: slow, and right whatever they hold.';

create or replace function notika._key(changed anyelement, relation regclass)
  returns json
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select notika._pick(
    _key.changed, _key.relation, coalesce(notika._key_columns(_key.relation), '{}')
  );
$$;

comment on function notika._key(anyelement, regclass) is
  'The key columns of a row as json: what is left of a row that is too big for an event.';

create or replace function notika._whole_row(changed anyelement, relation regclass)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_row json;
begin
  -- Looked up for each row, so that it is right after any DDL.
  if exists (
    select from pg_attribute as a
      join pg_type as t on t.oid = a.atttypid
      left join pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
     where a.attrelid = _whole_row.relation and a.attnum > 0 and not a.attisdropped
       and a.atttypid >= 16384
       and (
         -- These may have int8 and numeric in them.
         coalesce(e.typtype, t.typtype) in ('c', 'd')
         -- to_json would call a cast that somebody wrote, with the owner's rights.
         or exists (
           select from pg_cast as c
            where c.castsource = coalesce(e.oid, t.oid) and c.casttarget = 'json'::regtype
         ) and not notika._has_json_cast(coalesce(e.oid, t.oid))
       )
  ) then
    return notika._pick(_whole_row.changed, _whole_row.relation, null);
  end if;

  v_row := to_json(_whole_row.changed);
  -- json columns may hold escapes that Postgres keeps but refuses to read.
  if strpos(v_row::text, E'\\u') > 0 and v_row::text ~* E'\\\\u(0000|d[89a-f])' then
    return notika._pick(_whole_row.changed, _whole_row.relation, null);
  end if;

  return (
    select coalesce(
             json_object_agg(
               f.key,
               case
                 when a.atttypid in ('int8'::regtype, 'numeric'::regtype)
                   then to_json(f.value #>> '{}')
                 when a.atttypid is not null -- an array: its strings, such as "NaN", have no digits
                   then regexp_replace(f.value::text, '(-?[0-9][0-9.]*)', E'"\\1"', 'g')::json
                 else f.value
               end
               order by f.place
             ),
             '{}'
           )
      from json_each(v_row) with ordinality as f (key, value, place)
      left join pg_attribute as a
        on a.attrelid = _whole_row.relation and a.attname = f.key
       and a.atttypid in ('int8'::regtype, 'numeric'::regtype, 'int8[]'::regtype,
                          'numeric[]'::regtype)
  );
end;
$$;

comment on function notika._whole_row(anyelement, regclass) is
  'A whole row as json, its int8 and numeric numbers as strings.';

create or replace function notika._quoted(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
  select format('%I.%I', n.nspname, c.relname)
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
   where c.oid = _quoted.relation;
$$;

comment on function notika._quoted(regclass) is 'The name of a table with its schema.';

create or replace function notika._expect_columns(relation regclass, names text[])
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column text;
begin
  select k.name into v_column
    from unnest(_expect_columns.names) as k (name)
   where not exists (
     select from pg_attribute as a
      where a.attrelid = _expect_columns.relation
        and a.attname = k.name and a.attnum > 0 and not a.attisdropped
   );
  if found then
    raise exception 'column "%" of table % is not there any more',
      v_column, notika._quoted(_expect_columns.relation)
      using errcode = 'undefined_column',
            detail = 'It was dropped or renamed since the workflow was published.',
            hint = 'Publish the workflow again with the columns that the table has now.';
  end if;
end;
$$;

comment on function notika._expect_columns(regclass, text[]) is
  'Refuses to generate code that would leave out a published column in silence.';

create or replace function notika._payload_definition(
  workflow_id integer,
  relation regclass,
  columns text[],
  column_names text[]
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_object text;
  v_size text;
begin
  perform notika._expect_columns(
    _payload_definition.relation, _payload_definition.column_names);

  select notika._object_expression(
           array_agg(k.key order by k.place),
           array_agg(
             notika._json_expression(format('(r).%I', k.name), a.atttypid) order by k.place
           )
         ),
         string_agg(
           notika._size_expression(format('(r).%I', k.name), a.atttypid, a.atttypmod),
           ' + ' order by k.place
         )
    into v_object, v_size
    from unnest(_payload_definition.columns, _payload_definition.column_names)
           with ordinality as k (key, name, place)
    join pg_attribute as a
      on a.attrelid = _payload_definition.relation and a.attname = k.name;

  return format(
    E'create or replace function notika.payload_%s(r %s)\n'
    '  returns pg_catalog.json\n'
    '  language sql\n'
    '  stable\n'
    'begin atomic\n'
    '  select %s;\n'
    'end',
    _payload_definition.workflow_id,
    notika._quoted(_payload_definition.relation),
    case
      when v_size is null then v_object
      -- A few big values are more than an integer holds.
      else format('case when 0::pg_catalog.int8 + %s <= %s then %s end',
                  v_size, (select s.payload_bytes from notika.setting as s), v_object)
    end
  );
end;
$$;

comment on function notika._payload_definition(integer, regclass, text[], text[]) is
  'The statement that makes the payload function: begin atomic, so that Postgres records what it '
  'reads, refuses to drop it and follows renames. It gives null for a row that is too big.';

create or replace function notika._capture_definition(
  workflow_id integer,
  relation regclass,
  columns text[],
  watch text[] default null,
  is_pinned boolean default true
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_limit integer := (select s.payload_bytes from notika.setting as s);
  v_settings text;
  v_image text;
  v_filter text := '';
  v_append text;
begin
  if not is_pinned then
    v_settings := notika._settings(array['point'::regtype]);
    v_image := format($$
    if pg_column_size(%%1$s) <= %1$s then
      v_%%1$s := notika._loose_image(%%1$s, tg_relid, %2$s);
    end if;$$, v_limit, _capture_definition.workflow_id);
    if _capture_definition.watch is not null then
      v_filter := format($$
  if tg_op = 'UPDATE' then
    if not notika._is_watched_change(new, old, tg_relid, %s) then
      return null;
    end if;
  end if;
$$, _capture_definition.workflow_id);
    end if;
  elsif _capture_definition.columns is null then
    -- Any type may be added later.
    v_settings := notika._settings(array['point'::regtype]);
    v_image := format($$
    if pg_column_size(%%1$s) <= %1$s then
      v_%%1$s := notika._whole_row(%%1$s, tg_relid);
    end if;$$, v_limit);
  else
    select notika._settings(array_agg(a.atttypid)) into v_settings
      from pg_attribute as a
     where a.attrelid = _capture_definition.relation
       and a.attname = any (_capture_definition.columns);
    v_image := format($$
    v_%%1$s := notika.payload_%1$s(%%1$s);$$, _capture_definition.workflow_id);
  end if;
  v_image := v_image || format($$
    if v_%%1$s is null or octet_length(v_%%1$s::text) > %1$s then
      v_%%1$s := notika._key(%%1$s, tg_relid);
      v_truncated := true;
    end if;$$, v_limit);

  v_append := format($$
    insert into notika.event_log_%%s
      (workflow_id, operation, new, old, truncated, cause_id, depth)
    values
      (%s, lower(tg_op), v_new, v_old, v_truncated, v_cause_id, v_depth);$$,
    _capture_definition.workflow_id);

  return format($template$create or replace function notika._capture_%1$s()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp%2$s
as $capture$
declare
  v_new json;
  v_old json;
  v_truncated boolean := false;
  v_run text;
  v_cause_id bigint;
  v_depth smallint := 0;
  v_segment integer;
begin
  -- Anybody may set these, so they count only in sessions of the owner's members.
  if concat(current_setting('notika.mute', true), current_setting('notika.run', true)) <> ''
     and pg_has_role(session_user, current_user, 'member')
  then
    if current_setting('notika.mute', true) in ('on', 'true', '1', 'yes') then
      return null;
    end if;
    v_run := substring(current_setting('notika.run', true) from '^[0-9]{1,18}/[0-9]{1,4}$');
    v_cause_id := split_part(v_run, '/', 1);
    v_depth := coalesce(split_part(v_run, '/', 2)::smallint + 1, 0);
  end if;
%8$s
  if tg_op <> 'DELETE' then%3$s
  end if;
  if tg_op <> 'INSERT' then%4$s
  end if;

  -- The row that was written gave the transaction its xid before this is read.
  v_segment := (pg_sequence_last_value('notika.control_seq') >> 1) %% 3;
  if v_segment = 0 then%5$s
  elsif v_segment = 1 then%6$s
  else%7$s
  end if;

  -- After the insert: before it, a dispatcher could fall asleep in between.
  if pg_sequence_last_value('notika.control_seq') & 1 = 1 then
    perform notika._wake();
  end if;
  return null; -- an after trigger; the result is ignored
end;
$capture$$template$,
    _capture_definition.workflow_id,
    v_settings,
    format(v_image, 'new'),
    format(v_image, 'old'),
    format(v_append, 0),
    format(v_append, 1),
    format(v_append, 2),
    v_filter
  );
end;
$body$;

comment on function notika._capture_definition(integer, regclass, text[], text[], boolean) is
  'The statement that makes the trigger function of a workflow.';

create or replace function notika._changed_expression(
  column_name text,
  type oid,
  collation_id oid default 0
)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format(
           case
             when t.oid >= 16384 or not exists (
               select from pg_opclass as o
                where o.opcdefault
                  and o.opcmethod = (select m.oid from pg_am as m where m.amname = 'btree')
                  and (
                    o.opcintype = coalesce(e.oid, t.oid)
                    or t.typtype = 'r' and o.opcintype = 'anyrange'::regtype
                    or t.typtype = 'm' and o.opcintype = 'anymultirange'::regtype
                    or exists (
                      select from pg_cast as c
                       where c.castsource = coalesce(e.oid, t.oid)
                         and c.casttarget = o.opcintype
                         and c.castmethod = 'b' and c.castcontext = 'i'
                    )
                  )
             )
             -- json has no equality, and comparing it would fail the user's update.
             then 'pg_catalog.format(''%%s'', old.%1$I) is distinct from '
                  'pg_catalog.format(''%%s'', new.%1$I)'
             -- A collation may find values equal that are not the same.
             when not l.collisdeterministic
             then 'old.%1$I collate "C" is distinct from new.%1$I collate "C"'
             else 'old.%1$I is distinct from new.%1$I'
           end,
           _changed_expression.column_name
         )
    from pg_type as t
    left join pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
    left join pg_collation as l on l.oid = _changed_expression.collation_id
   where t.oid = notika._base_type(_changed_expression.type);
$$;

comment on function notika._changed_expression(text, oid, oid) is
  'SQL over new and old that is true when the column changed, whatever its type.';

create or replace function notika._trigger_definition(
  workflow_id integer,
  relation regclass,
  operation text,
  columns text[],
  watch text[],
  condition text,
  is_pinned boolean default true
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_filters text[];
begin
  if not is_pinned then
    return format(
      E'create or replace trigger notika_%1$s_%2$s\n'
      '  after %2$s on %3$s\n'
      '  for each row%4$s\n'
      '  execute function notika._capture_%1$s()',
      workflow_id, operation, notika._quoted(relation),
      case when condition is not null then format(
        E'\n  when (notika._passes_%s(%s, %s))', workflow_id,
        case operation when 'delete' then 'null' else 'new.*' end,
        case operation when 'insert' then 'null' else 'old.*' end
      ) end
    );
  end if;
  if operation = 'update' and watch is not null then
    perform notika._expect_columns(relation, watch);
    v_filters := v_filters || (
      select format('(%s)', string_agg(
               notika._changed_expression(w.name, a.atttypid, a.attcollation), ' or '
               order by w.place))
        from unnest(_trigger_definition.watch) with ordinality as w (name, place)
        join pg_attribute as a
          on a.attrelid = _trigger_definition.relation and a.attname = w.name
    );
  end if;
  if condition is not null then
    v_filters := v_filters || format('(%s)', condition);
  end if;
  if columns is not null then
    -- Never evaluated, but a dependency: what takes the payload function away with CASCADE takes
    -- the trigger away too, instead of leaving one that fails the user's writes.
    v_filters := v_filters || format(
      '(true or notika.payload_%s(%s.*) is null)', -- .*: a column may be called new
      workflow_id, case operation when 'delete' then 'old' else 'new' end
    );
  end if;

  return format(
    E'create or replace trigger notika_%1$s_%2$s\n'
    '  after %2$s on %3$s\n'
    '  for each row%4$s\n'
    '  execute function notika._capture_%1$s()',
    workflow_id,
    operation,
    notika._quoted(relation),
    E'\n  when (' || array_to_string(v_filters, E'\n    and ') || ')'
  );
end;
$$;

comment on function notika._trigger_definition(integer, regclass, text, text[], text[], text, boolean) is
  'The statement that makes the trigger of a workflow for one operation.';
--! EndIncluded 60_capture.sql
--! Included 62_loose.sql
-- The form of a workflow's functions and triggers that pins nothing: while a migration is let
-- through, while a workflow is broken, and where a guard that only warns has no event triggers.
-- Slower than the pinned form, and never the reason why a write fails: a column is found by its
-- name or else by its number, and one that is gone is left out.

create or replace function notika._present_columns(workflow_id integer, names text[], part regclass)
  returns table (place bigint, name text, type oid, attnum smallint)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Numbers are those of the published table, a part of it may have others.
  return query
    select k.place, a.attname::text, a.atttypid, a.attnum
      from unnest(_present_columns.names) with ordinality as k (name, place)
      join notika.workflow as w on w.workflow_id = _present_columns.workflow_id
      left join notika.contract as c on c.workflow_id = w.workflow_id and c.column_name = k.name
      left join pg_attribute as n
        on n.attrelid = w.relation and n.attname = k.name and n.attnum > 0 and not n.attisdropped
      left join pg_attribute as r
        on r.attrelid = w.relation and r.attnum = c.attnum and not r.attisdropped
      join pg_attribute as a
        on a.attrelid = _present_columns.part
       and a.attname = coalesce(n.attname, r.attname) and a.attnum > 0 and not a.attisdropped;
end;
$$;

comment on function notika._present_columns(integer, text[], regclass) is
  'Which of these columns of a workflow are still there, and as what.';

create or replace function notika._loose_image(changed anyelement, part regclass, workflow_id integer)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
  set lc_monetary = 'C'
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow;
  v_object text;
  v_image json;
begin
  select w.* into v_spec from notika.workflow as w where w.workflow_id = _loose_image.workflow_id;
  if v_spec.columns is null then
    return notika._whole_row(changed, part);
  end if;

  select notika._object_expression(
           array_agg(v_spec.columns[p.place] order by p.place),
           array_agg(
             notika._json_expression(format('($1).%I', p.name), p.type) order by p.place
           )
         )
    into v_object
    from notika._present_columns(v_spec.workflow_id, v_spec.column_names, part) as p;
  execute format('select %s', v_object)
    into v_image
    using changed;
  return v_image;
end;
$$;

comment on function notika._loose_image(anyelement, regclass, integer) is
  'What an event carries of a row, as far as the columns are still there.';

create or replace function notika._is_watched_change(
  new_row anyelement,
  old_row anyelement,
  part regclass,
  workflow_id integer
)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns smallint[];
begin
  select array_agg(p.attnum) into v_columns
    from notika.workflow as w
   cross join notika._present_columns(w.workflow_id, w.watch, part) as p
   where w.workflow_id = _is_watched_change.workflow_id;
  -- Rather an event too many than one too few.
  return v_columns is null
      or notika._pick(new_row, part, v_columns)::text
         is distinct from notika._pick(old_row, part, v_columns)::text;
end;
$$;

comment on function notika._is_watched_change(anyelement, anyelement, regclass, integer) is
  'Whether an update changed one of the watched columns that are still there.';

create or replace function notika._passes_definition(workflow_id integer, condition text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $body$
  -- With the writer's rights, like the condition of a trigger.
  select format($template$create or replace function notika._passes_%s(new record, old record)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $passes$
begin
  return %s;
exception when others then
  return true; -- what it reads is not there any more: rather an event too many than one too few
end;
$passes$$template$, _passes_definition.workflow_id, _passes_definition.condition);
$body$;

comment on function notika._passes_definition(integer, text) is
  'The statement that makes a function of the condition, which is read anew in each session.';

create or replace function notika._has_event_triggers()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 3 = (
    select count(*) from pg_event_trigger as e
     where e.evtname in ('notika_guard_start', 'notika_guard_drop', 'notika_guard_end')
       and e.evtenabled in ('O', 'A')
       and coalesce(current_setting('event_triggers', true), 'on') = 'on'
  );
$$;

comment on function notika._has_event_triggers() is
  'Whether the guard judges at commit; otherwise only the pins refuse.';
--! EndIncluded 62_loose.sql
--! Included 65_publish.sql
-- publish, plan, unpublish: the only functions that do DDL on somebody's table.
-- plan and publish share everything up to the list of steps; publish then executes it, under a lock
-- timeout.  The condition is text that becomes part of a statement, so it is taken apart first.

create or replace function notika._call(spec notika.workflow)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select notika.publish(%L, %L%s%s%s%s%s%s);',
    (spec).name,
    (spec).table_name,
    ', operations => ' || quote_literal((spec).operations::text),
    ', columns => ' || quote_literal((spec).columns::text),
    ', watch => ' || quote_literal((spec).watch::text),
    ', condition => ' || quote_literal((spec).condition),
    case when (spec).guard <> 'block' then ', guard => ' || quote_literal((spec).guard) end,
    case when (spec).on_rename <> 'follow'
         then ', on_rename => ' || quote_literal((spec).on_rename) end
  );
$$;

comment on function notika._call(notika.workflow) is 'The call of publish that has this meaning.';

create or replace function notika._is_reserved(namespace oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select n.nspname ~ '^(pg_.*|information_schema|notika|notika_worker)$'
    from pg_namespace as n
   where n.oid = _is_reserved.namespace;
$$;

comment on function notika._is_reserved(oid) is
  'Whether a schema is Postgres'' own or Notika''s: its tables are not published.';

create or replace function notika._find_table(spec notika.workflow)
  returns regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[];
  v_class pg_class;
  v_kind text;
  v_instead text;
  v_corrected notika.workflow := _find_table.spec;
begin
  begin
    v_parts := parse_ident(spec.table_name);
  exception when invalid_parameter_value or null_value_not_allowed then
    v_parts := null;
  end;

  if cardinality(v_parts) = 2 then
    select c.* into v_class
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     where n.nspname = v_parts[1] and c.relname = v_parts[2];
  end if;

  if v_class.oid is null then
    select notika._quoted(c.oid) into v_instead
      from pg_class as c
     where c.relkind in ('r', 'p')
       and c.relpersistence <> 't'
       and not notika._is_reserved(c.relnamespace)
       and left(translate(lower(c.relname), '_', ''), 4)
           = left(translate(lower(v_parts[cardinality(v_parts)]), '_', ''), 4)
     order by lower(c.relname) <> lower(v_parts[cardinality(v_parts)]),
              abs(length(c.relname) - length(v_parts[cardinality(v_parts)])), c.relname
     limit 1;
    v_corrected.table_name := coalesce(v_instead, '<schema>.<table>');

    if v_parts is null or cardinality(v_parts) <> 2 then
      raise exception 'table name "%" does not name a schema and a table', spec.table_name
        using errcode = 'invalid_name',
              detail = 'Names are not looked up on the search path.',
              hint = 'Write: ' || notika._call(v_corrected);
    end if;
    raise exception 'table "%" does not exist', spec.table_name
      using errcode = 'undefined_table',
            hint = case when v_instead is null
                        then 'The tables of a schema: select * from pg_tables where schemaname = '
                             || quote_literal(v_parts[1]) || ';'
                        else 'Did you mean: ' || notika._call(v_corrected) end;
  end if;

  v_kind := case v_class.relkind
              when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
              when 'S' then 'sequence' when 'c' then 'composite type'
              when 'i' then 'index' when 'I' then 'index' when 't' then 'toast table'
            end;
  if v_kind is not null then
    select notika._quoted(t.oid) into v_instead
      from pg_rewrite as r
      join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
       and d.refclassid = 'pg_class'::regclass and d.refobjid <> v_class.oid
      join pg_class as t on t.oid = d.refobjid and t.relkind in ('r', 'p')
     where r.ev_class = v_class.oid and not notika._is_reserved(t.relnamespace)
     order by 1
     limit 1;
    v_corrected.table_name := coalesce(v_instead, '<schema>.<table>');
    raise exception 'cannot publish on % "%"', v_kind, spec.table_name
      using errcode = 'wrong_object_type',
            detail = 'Only the rows of a table have triggers for each row.',
            hint = 'Publish on a table: ' || notika._call(v_corrected);
  end if;

  if v_class.relpersistence = 't' or notika._is_reserved(v_class.relnamespace) then
    raise exception 'cannot publish on "%"', spec.table_name
      using errcode = 'wrong_object_type',
            detail = 'System tables, temporary tables and Notika''s own are not published.',
            hint = 'Publish on a table of the application.';
  end if;
  return v_class.oid;
end;
$$;

comment on function notika._find_table(notika.workflow) is 'The table to publish on, or an error.';

create or replace function notika._check_columns(spec notika.workflow, what text, names text[])
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column text;
  v_known text[];
  v_corrected notika.workflow := _check_columns.spec;
begin
  select array_agg(a.attname order by a.attnum) into v_known
    from pg_attribute as a
   where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped;

  foreach v_column in array coalesce(names, '{}') loop
    continue when v_column = any (v_known);
    names := array(select k from unnest(names) as k where k = any (v_known));
    if what = 'columns' then
      v_corrected.columns := nullif(names, '{}');
    else
      v_corrected.watch := nullif(names, '{}');
    end if;
    raise exception 'column "%" of table % does not exist',
      coalesce(v_column, 'null'), spec.table_name
      using errcode = 'undefined_column',
            detail = format('Its columns are %s.', array_to_string(v_known, ', ')),
            hint = format('Correct %s, for instance: %s', what, notika._call(v_corrected));
  end loop;

  if names = '{}' then
    raise exception '% of workflow "%" is empty', what, spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'Leave it out for '
                   || case what when 'columns' then 'the whole row: ' else 'any update: ' end
                   || notika._call(v_corrected);
  end if;

  -- They are computed when they are read, and a trigger gets the row as it is stored.
  if what = 'columns' and current_setting('server_version_num')::integer >= 180000 then
    for v_column in
      select a.attname
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attgenerated = 'v' and not a.attisdropped
         and (names is null or a.attname = any (names))
    loop
      raise warning 'column "%" of table % is virtual and always null in events',
        v_column, spec.table_name
        using hint = 'Publish the columns it is computed from, or make it stored.';
    end loop;
  end if;
end;
$$;

comment on function notika._check_columns(notika.workflow, text, text[]) is
  'Refuses columns that the table does not have.';

create or replace function notika._check_condition(spec notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_bare text;
  v_depth integer := 0;
  v_sign text;
  v_problem text;
  v_operation text;
  v_has_subquery boolean;
  v_role name;
  v_function regprocedure;
  v_state text;
  v_message text;
  v_hint text;
  v_corrected notika.workflow := _check_condition.spec;
begin
  -- What is left without strings and quoted names must not end the expression it stands in.
  v_bare := regexp_replace(spec.condition, $re$'(?:[^']|'')*'|"(?:[^"]|"")*"$re$, '''''', 'g');
  for v_sign in select m[1] from regexp_matches(v_bare, '[()]', 'g') as m loop
    v_depth := v_depth + case v_sign when '(' then 1 else -1 end;
    exit when v_depth < 0;
  end loop;

  v_problem := case
    when spec.condition !~ '\S' then 'it is empty'
    when v_depth <> 0 then 'its parentheses do not match'
    when replace(v_bare, '''''', '') ~ $re$['"]$re$ then 'a quote is not closed'
    when v_bare ~ ';' then 'it is more than one expression'
    when v_bare ~ '--|/\*' then 'it has a comment'
    when v_bare ~ '\$' then 'it has a dollar sign outside of quotes'
    -- A backslash in them may hide a quote.
    when v_bare ~* $re$(^|[^a-z0-9_])e'|u&'$re$ then 'it has a string with escapes'
  end;
  if v_problem is not null then
    v_corrected.condition := 'new.<column> is not null';
    raise exception 'condition of workflow "%" is not valid: %', spec.name, v_problem
      using errcode = 'syntax_error',
            detail = format('The condition is: %s', spec.condition),
            hint = 'Write one expression over new and old, for instance: '
                   || notika._call(v_corrected);
  end if;

  -- Postgres judges it as an expression over two rows, then over those that the operation has.
  -- What it refuses in a WHERE it refuses in a trigger's WHEN, which it refuses subqueries in too.
  foreach v_operation in array '{update}'::text[] || array_remove(spec.operations, 'update') loop
    begin
      execute format(
        'create function notika._condition_%s() returns boolean language sql '
        'begin atomic select true from %s where (%s); end',
        pg_backend_pid(),
        case v_operation
          when 'insert' then format('%s as new', notika._quoted(spec.relation))
          when 'delete' then format('%s as old', notika._quoted(spec.relation))
          else format('%1$s as new, %1$s as old', notika._quoted(spec.relation))
        end,
        spec.condition
      );
      select p.prosqlbody::text ~ '\{SUBLINK ' into v_has_subquery
        from pg_proc as p
       where p.oid = to_regprocedure(format('notika._condition_%s()', pg_backend_pid()));
      -- A trigger's WHEN is evaluated with the rights of whoever writes.
      select r.rolname, d.refobjid into v_role, v_function
        from pg_depend as d
        join pg_roles as r
          on r.rolname !~ '^pg_' -- its members are judged themselves
         and (has_any_column_privilege(r.oid, spec.relation, 'insert, update')
              or has_table_privilege(r.oid, spec.relation, 'delete'))
       where d.classid = 'pg_proc'::regclass
         and d.objid = to_regprocedure(format('notika._condition_%s()', pg_backend_pid()))
         and d.refclassid = 'pg_proc'::regclass
         and not has_function_privilege(r.oid, d.refobjid, 'execute')
       order by r.rolname, d.refobjid
       limit 1;
      raise exception 'undo' using errcode = 'NKUND';
    exception
      when sqlstate 'NKUND' then
        v_message := null;
      when lock_not_available or deadlock_detected then
        raise;
      when others then
        get stacked diagnostics
          v_state = returned_sqlstate, v_message = message_text, v_hint = pg_exception_hint;
    end;

    if v_message is not null and v_operation <> 'update' then
      v_corrected.operations := coalesce(
        nullif(array_remove(spec.operations, v_operation), '{}'), '{update}');
      raise exception 'condition of workflow "%" refers to %, but % row', spec.name,
        case v_operation when 'insert' then 'old' else 'new' end,
        case v_operation when 'insert' then 'an insert has no old' else 'a delete has no new' end
        using errcode = 'invalid_column_reference',
              detail = format('The condition is: %s', spec.condition),
              hint = format('Publish it without %s, and a second workflow for that: %s',
                            v_operation, notika._call(v_corrected));
    end if;
    if v_message is null and v_role is not null then
      v_state := 'insufficient_privilege';
      v_message := format('role "%s" writes to the table and may not execute function %s',
                          v_role, v_function);
      v_hint := format('Run: grant execute on function %s to %I;', v_function, v_role);
    end if;
    if v_message is null and v_has_subquery then
      v_state := 'feature_not_supported';
      v_message := 'it has a subquery, which a trigger''s WHEN cannot have';
      v_hint := 'Publish without it, and let the task look.';
    end if;
    if v_message is not null then
      raise exception 'condition of workflow "%" is not valid: %', spec.name,
        replace(replace(v_message, 'argument of WHERE', 'it'), ' in WHERE', ' in a condition')
        using errcode = v_state,
              detail = format('The condition is: %s', spec.condition),
              hint = coalesce(
                nullif(v_hint, ''),
                case v_state
                  when '42P01' then 'Columns are written new.<column> and old.<column>.'
                  when '42703' then 'The columns of the table: ' || (
                    select string_agg(a.attname, ', ' order by a.attnum)
                      from pg_attribute as a
                     where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
                  ) || '.'
                  when '42702' then 'Write new.<column> or old.<column>.'
                  when '42804' then 'Compare with something, as in: new.<column> = ''x''.'
                  else 'Write one expression over new and old, for instance: '
                       || 'new.<column> is not null.'
                end
              );
    end if;
  end loop;
end;
$$;

comment on function notika._check_condition(notika.workflow) is
  'Refuses a condition that is not one boolean expression over the rows its operations have.';

create or replace function notika._family(relation regclass)
  returns setof regclass
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Partitions get their parent's triggers from Postgres, inheritance children do not.
  with recursive family as (
    select _family.relation::oid as oid
    union
    select i.inhrelid
      from family as f
      join pg_inherits as i on i.inhparent = f.oid
      join pg_class as c on c.oid = i.inhrelid and not c.relispartition and c.relpersistence <> 't'
  )
  select f.oid::regclass from family as f;
$$;

comment on function notika._family(regclass) is
  'A table and its inheritance children: those that need triggers of their own.';

create or replace function notika._check_rights(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_caller name := notika._caller();
  v_role name;
  v_table regclass;
  v_columns text;
begin
  foreach v_role in array array[current_user, v_caller] loop
    if not has_schema_privilege(v_role, (
      select c.relnamespace from pg_class as c where c.oid = spec.relation
    ), 'usage') then
      raise exception 'role "%" may not use the schema of table %', v_role, spec.table_name
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant usage on schema %I to %I;',
                            (parse_ident(spec.table_name))[1], v_role);
    end if;

    -- The caller's right is to the table; to make triggers takes a right to each part of it.
    for v_table in
      select f.relation
        from (
          select spec.relation
          union
          select f from notika._family(spec.relation) as f where v_role = current_user
          union
          select p.relid from pg_partition_tree(spec.relation) as p where v_role = current_user
        ) as f (relation)
       order by f.relation <> spec.relation, f.relation
    loop
      if not has_table_privilege(v_role, v_table, 'trigger') then
        raise exception 'role "%" may not create triggers on table %',
          v_role, notika._quoted(v_table)
          using errcode = 'insufficient_privilege',
                hint = format('Run: grant trigger on %s to %I;', notika._quoted(v_table), v_role);
      end if;
    end loop;
  end loop;

  -- Publishing shows the rows to whoever reads events: only for those who may read them anyway.
  if spec.columns is null then
    if not has_table_privilege(v_caller, spec.relation, 'select') then
      raise exception 'role "%" may not read table %', v_caller, spec.table_name
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant select on %s to %I;', spec.table_name, v_caller);
    end if;
  else
    select string_agg(format('%I', k.name), ', ') into v_columns
      from unnest(spec.columns || spec.watch) as k (name)
     where not has_column_privilege(v_caller, spec.relation, k.name, 'select');
    if v_columns is not null then
      raise exception 'role "%" may not read % of table %', v_caller, v_columns, spec.table_name
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant select (%s) on %s to %I;', v_columns, spec.table_name,
                            v_caller);
    end if;
  end if;
end;
$$;

comment on function notika._check_rights(notika.workflow) is
  'Refuses to publish a table for a caller who could not attach a trigger to it, or read it.';

create or replace function notika._wants_pins(guard text)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- A pin refuses, which a guard that only warns is not there for: event triggers see to that.
  select _wants_pins.guard = 'block' or notika._has_event_triggers();
$$;

comment on function notika._wants_pins(text) is
  'Whether the functions of a workflow that is whole pin its columns.';

create or replace function notika._specify(
  workflow text,
  table_name text,
  operations text[],
  columns text[],
  watch text[],
  condition text,
  guard text,
  on_rename text
)
  returns notika.workflow
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_corrected notika.workflow;
begin
  v_spec.name := _specify.workflow;
  v_spec.table_name := _specify.table_name;
  v_spec.condition := nullif(btrim(_specify.condition), '');
  v_spec.guard := _specify.guard;
  v_spec.on_rename := _specify.on_rename;
  v_spec.capture := 'row';
  select array_agg(k.name order by k.place) into v_spec.columns
    from (
      select u.name, min(u.place) as place
        from unnest(_specify.columns) with ordinality as u (name, place)
       group by u.name
    ) as k;
  select array_agg(distinct u.name) into v_spec.watch from unnest(_specify.watch) as u (name);
  select array_agg(o.name order by o.place) into v_spec.operations
    from unnest('{insert,update,delete}'::text[]) with ordinality as o (name, place)
   where o.name = any (select lower(btrim(u)) from unnest(_specify.operations) as u);

  v_corrected := v_spec;
  if v_spec.name is null or v_spec.name !~ '^[A-Za-z_][A-Za-z0-9_-]{0,62}$' then
    v_corrected.name := coalesce(
      nullif(btrim(regexp_replace(left(v_spec.name, 63), '[^A-Za-z0-9_-]+', '_', 'g'), '_'), ''),
      'my_workflow');
    if v_corrected.name ~ '^[^A-Za-z_]' then
      v_corrected.name := left('w' || v_corrected.name, 63);
    end if;
    raise exception 'workflow name "%" is not valid', coalesce(v_spec.name, 'null')
      using errcode = 'invalid_name',
            detail = 'It is the name of the task''s file: up to 63 letters, digits, _ and -, '
                     'of which the first is a letter or _.',
            hint = 'For instance: ' || notika._call(v_corrected);
  end if;

  if v_spec.operations is null
     or exists (
       select from unnest(_specify.operations) as u
        where coalesce(lower(btrim(u)) <> all ('{insert,update,delete}'), true)
     )
  then
    v_corrected.operations := coalesce(v_spec.operations, '{insert}');
    raise exception 'operations % of workflow "%" are not valid',
      coalesce(_specify.operations::text, 'null'), v_spec.name
      using errcode = 'invalid_parameter_value',
            detail = 'At least one of insert, update and delete is needed; truncate has no rows.',
            hint = 'For instance: ' || notika._call(v_corrected);
  end if;
  if v_spec.guard is null or v_spec.guard not in ('block', 'warn', 'off') then
    v_corrected.guard := 'block';
    raise exception 'guard "%" is not block, warn or off', coalesce(v_spec.guard, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: ' || notika._call(v_corrected);
  end if;
  if v_spec.on_rename is null or v_spec.on_rename not in ('follow', 'block') then
    v_corrected.on_rename := 'follow';
    raise exception 'on_rename "%" is not follow or block', coalesce(v_spec.on_rename, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: ' || notika._call(v_corrected);
  end if;

  v_spec.relation := notika._find_table(v_spec);
  v_spec.table_name := notika._quoted(v_spec.relation);

  perform notika._check_columns(v_spec, 'columns', coalesce(v_spec.columns, _specify.columns));
  perform notika._check_columns(v_spec, 'watch', coalesce(v_spec.watch, _specify.watch));
  if v_spec.watch is not null and 'update' <> all (v_spec.operations) then
    v_corrected := v_spec;
    v_corrected.operations := v_spec.operations || '{update}';
    raise exception 'watch of workflow "%" has no meaning without update', v_spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'Add update, or leave watch out: ' || notika._call(v_corrected);
  end if;
  perform notika._check_rights(v_spec);
  if v_spec.condition is not null then
    perform notika._check_condition(v_spec);
  end if;
  v_spec.column_names := v_spec.columns;
  v_spec.is_pinned := notika._wants_pins(v_spec.guard);
  return v_spec;
end;
$$;

comment on function
  notika._specify(text, text, text[], text[], text[], text, text, text) is
  'Makes a workflow''s row of what publish is given, or says what would be right instead.';

create or replace function notika._statements(spec notika.workflow)
  returns table (statement text, lock text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
  with family (relation, name) as (
    select f.relation, notika._quoted(f.relation)
      from notika._family((spec).relation) as f (relation)
  )
  select s.statement, s.lock
    from (
      -- One for each table of the family: a child that leaves it goes on by itself.
      select 1, f.name,
             notika._payload_definition((spec).workflow_id, f.relation, (spec).columns,
                                        (spec).column_names),
             'access share on ' || f.name
        from family as f
       where (spec).columns is not null and (spec).is_pinned
      union all
      select 2, f.name,
             format('revoke execute on function notika.payload_%s(%s) from public',
                    (spec).workflow_id, f.name),
             null
        from family as f
       where (spec).columns is not null and (spec).is_pinned
      union all
      select 3, null,
             notika._capture_definition((spec).workflow_id, (spec).relation,
                                        (spec).column_names, (spec).watch, (spec).is_pinned),
             null
      union all
      select 4, null,
             format('revoke execute on function notika._capture_%s() from public',
                    (spec).workflow_id),
             null
      union all
      select 5, null,
             notika._passes_definition((spec).workflow_id, (spec).condition),
             null
       where (spec).condition is not null and not (spec).is_pinned
      union all
      select 6, f.name || o.name,
             notika._trigger_definition((spec).workflow_id, f.relation, o.name, (spec).columns,
                                        (spec).watch, (spec).condition, (spec).is_pinned),
             'share row exclusive on ' || f.name
        from family as f
       cross join unnest((spec).operations) as o (name)
    ) as s (place, name, statement, lock)
   order by s.place, s.name;
$$;

comment on function notika._statements(notika.workflow) is
  'The statements that make what a workflow consists of, and the locks they take.';

create or replace function notika._definition(spec notika.workflow)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array(select s.statement from notika._statements(_definition.spec) as s);
$$;

comment on function notika._definition(notika.workflow) is
  'The statements that make what a workflow consists of.';

create or replace function notika._captures(spec notika.workflow)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_and(exists (
           select from pg_trigger as t
            where t.tgrelid = f.relation
              and t.tgname = format('notika_%s_%s', (spec).workflow_id, o.name)
              and t.tgfoid = to_regprocedure(format('notika._capture_%s()', (spec).workflow_id))
              and t.tgenabled in ('O', 'A')
         )), false)
    from notika._family((spec).relation) as f (relation)
   cross join unnest((spec).operations) as o (name);
$$;

comment on function notika._captures(notika.workflow) is
  'Whether all triggers of a workflow are there and enabled.';

create or replace function notika._generated(workflow_id integer)
  returns setof regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select p.oid::regprocedure
    from pg_proc as p
   where p.pronamespace = 'notika'::regnamespace
     and p.proname in (format('_capture_%s', _generated.workflow_id),
                       format('_passes_%s', _generated.workflow_id),
                       format('payload_%s', _generated.workflow_id))
   order by p.proname, p.oid;
$$;

comment on function notika._generated(integer) is 'The functions that publish made for a workflow.';

create or replace function notika._payload_function(workflow_id integer, relation oid)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Not by its name: that asks for rights to the schema of the table.
  select p.oid::regprocedure
    from pg_proc as p
    join pg_type as t on t.oid = p.proargtypes[0]
   where p.pronamespace = 'notika'::regnamespace
     and p.proname = format('payload_%s', _payload_function.workflow_id)
     and t.typrelid = _payload_function.relation;
$$;

comment on function notika._payload_function(integer, oid) is
  'The function that makes the payload of a workflow from the rows of a table.';

create or replace function notika._triggers(workflow_id integer)
  returns table (relation regclass, name name)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- pg_trigger has no index by function.
  select t.tgrelid, t.tgname
    from pg_depend as d
    join pg_trigger as t on t.oid = d.objid
   where d.refclassid = 'pg_proc'::regclass
     and d.refobjid = to_regprocedure(format('notika._capture_%s()', _triggers.workflow_id))
     and d.classid = 'pg_trigger'::regclass
     and t.tgparentid = 0 and t.tgfoid = d.refobjid;
$$;

comment on function notika._triggers(integer) is
  'The triggers that publish made for a workflow, without those of partitions.';

create or replace function notika._steps(before notika.workflow, after notika.workflow)
  returns table (statement text, lock text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_function regprocedure;
  v_table regclass;
  v_left regclass[] := array[]::regclass[];
  v_trigger record;
begin
  if before.relation = after.relation and before.definition = after.definition
     and notika._captures(before)
  then
    return;
  end if;

  -- What is left on tables that are not, or not any more, those of the workflow.  Only the owner of
  -- a table may drop a trigger on it, but whoever owns a function may drop it with its triggers.
  for v_function, v_table in
    select p.oid::regprocedure, t.typrelid::regclass
      from notika._generated(after.workflow_id) as g (function)
      join pg_proc as p on p.oid = g.function and p.proname = format('payload_%s', after.workflow_id)
      join pg_type as t on t.oid = p.proargtypes[0]
     where t.typrelid not in (select f from notika._family(after.relation) as f)
  loop
    statement := format('drop function %s cascade', v_function);
    lock := 'access exclusive on ' || notika._quoted(v_table);
    return next;
    v_left := v_left || v_table;
  end loop;
  for v_trigger in
    select t.relation, t.name, c.relowner
      from notika._triggers(after.workflow_id) as t
      join pg_class as c on c.oid = t.relation
     where t.relation <> all (v_left)
       and (t.relation, t.name) not in (
         select f.relation, format('notika_%s_%s', after.workflow_id, o.name)
           from notika._family(after.relation) as f (relation)
          cross join unnest(after.operations) as o (name)
       )
  loop
    if not pg_has_role(v_trigger.relowner, 'usage') then
      return query
        select format('drop function %s cascade', g.function),
               'access exclusive on ' || (
                 select string_agg(distinct notika._quoted(t.relation), ', ')
                   from notika._triggers(after.workflow_id) as t
               )
          from notika._generated(after.workflow_id) as g (function)
         where g.function = to_regprocedure(format('notika._capture_%s()', after.workflow_id));
      exit;
    end if;
    statement := format('drop trigger %I on %s', v_trigger.name, notika._quoted(v_trigger.relation));
    lock := 'access exclusive on ' || notika._quoted(v_trigger.relation);
    return next;
  end loop;

  return query select * from notika._statements(after);

  return query
    select format('drop function %s', g.function), null::text
      from notika._generated(after.workflow_id) as g (function)
      join pg_proc as p on p.oid = g.function
     where p.proname = format('_passes_%s', after.workflow_id)
       and (after.is_pinned or after.condition is null)
        or p.proname = format('payload_%s', after.workflow_id)
       and (not after.is_pinned or after.columns is null)
       and (
         select t.typrelid from pg_type as t where t.oid = p.proargtypes[0]
       ) <> all (v_left);
end;
$$;

comment on function notika._steps(notika.workflow, notika.workflow) is
  'The statements that lead from one definition of a workflow to another; none if they are equal.';

create or replace function notika._apply(before notika.workflow, after notika.workflow)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set client_min_messages = warning -- what is dropped along is what was meant
as $$
declare
  v_statement text;
  v_count integer := 0;
  v_message text;
  v_detail text;
  v_hint text;
begin
  for v_statement in select s.statement from notika._steps(before, after) as s loop
    execute v_statement;
    v_count := v_count + 1;
  end loop;
  return v_count;
exception
  when lock_not_available or deadlock_detected then
    raise;
  when others then
    get stacked diagnostics
      v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    raise exception 'cannot publish workflow "%" on %: %', after.name, after.table_name, v_message
      using errcode = sqlstate,
            detail = concat_ws(E'\n', nullif(v_detail, ''), 'Statement: ' || v_statement),
            hint = coalesce(
              nullif(v_hint, ''),
              'See what it would do: ' || replace(
                notika._call(after), 'select notika.publish(', 'select * from notika.plan(')
            );
end;
$$;

comment on function notika._apply(notika.workflow, notika.workflow) is
  'Takes the steps from one definition of a workflow to another and says how many there were.';

create or replace function notika._refuse_locked(what text, workflow text, table_name text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'cannot % workflow "%": table % is locked', what, workflow, table_name
    using errcode = 'lock_not_available',
          detail = 'It was waited for three seconds; longer would hold up the application.',
          hint = format('Try again. Who holds it: select pid, mode from pg_locks '
                        'where relation = %L::regclass and granted;', table_name);
end;
$$;

comment on function notika._refuse_locked(text, text, text) is
  'Says that a table, or the workflow itself, was locked for too long, as an error.';

create or replace function notika.plan(
  workflow text,
  table_name text,
  operations text[] default '{insert}',
  columns text[] default null,
  watch text[] default null,
  condition text default null,
  guard text default 'block',
  on_rename text default 'follow'
)
  returns table (statement text, lock text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
  set lock_timeout = '3s'
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow;
begin
  v_after := notika._specify(
    plan.workflow, plan.table_name, plan.operations, plan.columns, plan.watch, plan.condition,
    plan.guard, plan.on_rename
  );
  select w.* into v_before from notika.workflow as w where w.name = plan.workflow;
  v_after.workflow_id := coalesce(
    v_before.workflow_id,
    -- The id that publish would draw now.
    coalesce(pg_sequence_last_value(
      pg_get_serial_sequence('notika.workflow', 'workflow_id')::regclass), 0) + 1
  );
  v_after.definition := notika._definition(v_after);
  return query select s.statement || ';', s.lock from notika._steps(v_before, v_after) as s;
exception when lock_not_available then
  perform notika._refuse_locked('plan', plan.workflow, plan.table_name);
end;
$$;

comment on function
  notika.plan(text, text, text[], text[], text[], text, text, text) is
  'What publish would do with the same arguments: its statements and the locks they take. '
  'Changes nothing; no rows: publish would have nothing to do.';

create or replace function notika.publish(
  workflow text,
  table_name text,
  operations text[] default '{insert}',
  columns text[] default null,
  watch text[] default null,
  condition text default null,
  guard text default 'block',
  on_rename text default 'follow'
)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
  set lock_timeout = '3s'
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow;
  v_is_changed boolean;
begin
  v_after := notika._specify(
    publish.workflow, publish.table_name, publish.operations, publish.columns, publish.watch,
    publish.condition, publish.guard, publish.on_rename
  );

  -- One publisher of a workflow at a time; the row also hands out the id.
  insert into notika.workflow
    (name, table_name, operations, guard, on_rename, definition, unpublished_at)
  select v_after.name, v_after.table_name, v_after.operations, v_after.guard, v_after.on_rename,
         '{}', clock_timestamp()
   where not exists (select from notika.workflow as w where w.name = publish.workflow)
  on conflict (name) do nothing;
  select w.* into v_before from notika.workflow as w where w.name = publish.workflow for update;
  v_after.workflow_id := v_before.workflow_id;
  v_after.definition := notika._definition(v_after);
  perform notika._set_busy(true);
  v_is_changed := notika._apply(v_before, v_after) > 0;
  perform notika._set_busy(false);

  update notika.workflow as w
     set relation = v_after.relation,
         table_name = v_after.table_name,
         operations = v_after.operations,
         columns = v_after.columns,
         column_names = v_after.column_names,
         watch = v_after.watch,
         condition = v_after.condition,
         guard = v_after.guard,
         on_rename = v_after.on_rename,
         definition = v_after.definition,
         is_pinned = v_after.is_pinned,
         broken_reason = null,
         unpublished_at = null,
         published_at = clock_timestamp(),
         published_by = notika._caller()
   where w.workflow_id = v_after.workflow_id
     and (v_is_changed
          or w.broken_reason is not null
          or (w.definition, w.guard, w.on_rename, w.table_name, w.columns, w.watch, w.condition)
             is distinct from
             (v_after.definition, v_after.guard, v_after.on_rename, v_after.table_name,
              v_after.columns, v_after.watch, v_after.condition));
  v_is_changed := found;
  -- What this transaction did to the table before is settled by this, and a migration whose
  -- snapshot is older than this must not judge.
  perform notika._bind(v_after.workflow_id);
  delete from notika.guard_pending as p where p.workflow_id = v_after.workflow_id;
  update notika.guard_state as s set publications = s.publications + 1;

  -- The runs of a broken workflow are held.
  if v_before.broken_reason is not null and v_before.paused_at is null then
    perform notika.resume(publish.workflow);
  end if;

  return case
    when v_before.unpublished_at is not null then 'published'
    when v_is_changed then 'changed'
    else 'unchanged'
  end;
exception when lock_not_available then
  return notika._refuse_locked('publish', publish.workflow, publish.table_name);
end;
$$;

comment on function
  notika.publish(text, text, text[], text[], text[], text, text, text) is
  'Wakes workflow on changes of table_name (schema.table). operations: of insert, update, delete; '
  'columns: what an event carries, null for the whole row; watch: an update counts when one of '
  'these changes; condition: SQL over new and old; guard: block, warn, off; on_rename: follow, '
  'block. Says published, changed or unchanged. Waits three seconds for its locks.';

create or replace function notika.unpublish(workflow text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning -- the triggers that go along are what was meant
  set lock_timeout = '3s'
as $$
declare
  v_workflow_id integer := notika._published(unpublish.workflow);
  v_workflow notika.workflow;
begin
  select w.* into v_workflow
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  perform notika.resume(unpublish.workflow);

  perform notika._unpin(v_workflow_id);
  delete from notika.contract as c where c.workflow_id = v_workflow_id;
  delete from notika.contract_table as c where c.workflow_id = v_workflow_id;
  delete from notika.guard_pending as p where p.workflow_id = v_workflow_id;

  update notika.workflow as w
     set relation = null, definition = '{}', broken_reason = null,
         unpublished_at = clock_timestamp()
   where w.workflow_id = v_workflow_id;
exception when lock_not_available then
  perform notika._refuse_locked('unpublish', unpublish.workflow, v_workflow.table_name);
end;
$$;

comment on function notika.unpublish(text) is
  'Takes the triggers and functions of a workflow away. What was captured before still runs.';
--! EndIncluded 65_publish.sql
--! Included 70_guard.sql
-- The guard: no migration breaks a workflow without a word.
-- The payload functions and the triggers' conditions pin what they read, so Postgres by itself
-- refuses to drop or retype it.  Where event triggers can be created there is more: a command that
-- would be refused is let through, and the state that the transaction leaves is judged at COMMIT,
-- so that dropping and adding again, or swapping tables, passes when what it leaves is sound.
-- A failure of the guard itself is a warning, never somebody's failed migration.

create table if not exists notika.contract (
  workflow_id integer not null,
  column_name text not null,
  attnum smallint not null,
  type_name text not null,
  type regtype not null,
  typmod integer not null,
  labels text[],
  attributes text[],
  constraint contract_pkey primary key (workflow_id, column_name),
  constraint contract_workflow_id_fkey foreign key (workflow_id) references notika.workflow
);
create index if not exists contract_type_idx on notika.contract (type);

comment on table notika.contract is
  'The columns that each workflow depends on, by its payload, its watch or its condition.';
comment on column notika.contract.workflow_id is 'The workflow.';
comment on column notika.contract.column_name is 'The column, as it is called now.';
comment on column notika.contract.attnum is 'Its number in the published table.';
comment on column notika.contract.type_name is 'Its type when it was published, written out.';
comment on column notika.contract.type is 'The same without its modifier, for the catalog.';
comment on column notika.contract.typmod is 'The type''s modifier.';
comment on column notika.contract.labels is 'The labels of the enums in it.';
comment on column notika.contract.attributes is 'The attributes of the composite types in it.';

create table if not exists notika.contract_table (
  workflow_id integer not null,
  relation regclass not null,
  constraint contract_table_pkey primary key (workflow_id, relation),
  constraint contract_table_workflow_id_fkey
    foreign key (workflow_id) references notika.workflow
);
create index if not exists contract_table_relation_idx on notika.contract_table (relation);

comment on table notika.contract_table is
  'The tables whose rows each workflow captures: the published one, its partitions and children.';
comment on column notika.contract_table.workflow_id is 'The workflow.';
comment on column notika.contract_table.relation is 'A table.';

create table if not exists notika.guard_log (
  guard_log_id bigint generated always as identity,
  at timestamptz not null default clock_timestamp(),
  xid xid8 not null default pg_current_xact_id(),
  workflow text,
  verdict text not null,
  kind text,
  object text,
  expected text,
  actual text,
  statement text,
  reason text,
  done_by name not null default session_user,
  constraint guard_log_pkey primary key (guard_log_id),
  constraint guard_log_verdict_check check (verdict in (
    'followed', 'healed', 'warned', 'allowed', 'ignored', 'broken', 'repaired', 'released',
    'maintenance begun', 'maintenance ended'
  ))
);
create index if not exists guard_log_xid_idx on notika.guard_log (xid);
create index if not exists guard_log_workflow_idx on notika.guard_log (workflow, at);

comment on table notika.guard_log is
  'What the guard saw and did, and who let what through. A refusal leaves no trace: it rolls back.';
comment on column notika.guard_log.guard_log_id is 'Its order.';
comment on column notika.guard_log.at is 'When.';
comment on column notika.guard_log.xid is 'In which transaction.';
comment on column notika.guard_log.workflow is 'The workflow; null: all of them.';
comment on column notika.guard_log.verdict is
  'followed (a rename), healed, warned, allowed, ignored (guard off), broken, repaired, released, '
  'maintenance begun or ended.';
comment on column notika.guard_log.kind is 'What was found, for instance column_dropped.';
comment on column notika.guard_log.object is 'The table, column or trigger.';
comment on column notika.guard_log.expected is 'What the contract says.';
comment on column notika.guard_log.actual is 'What the catalog says.';
comment on column notika.guard_log.statement is 'The statement that led to it.';
comment on column notika.guard_log.reason is 'What the caller gave as the reason.';
comment on column notika.guard_log.done_by is 'The login.';

create table if not exists notika.maintenance (
  maintenance_id bigint generated always as identity,
  reason text not null,
  begun_at timestamptz not null default clock_timestamp(),
  begun_by name not null default session_user,
  ends_at timestamptz not null,
  ended_at timestamptz,
  constraint maintenance_pkey primary key (maintenance_id)
);

comment on table notika.maintenance is
  'Windows in which the guard only takes notes, for tools that do not use one transaction.';
comment on column notika.maintenance.maintenance_id is 'Its id.';
comment on column notika.maintenance.reason is 'What it is for.';
comment on column notika.maintenance.begun_at is 'Since when.';
comment on column notika.maintenance.begun_by is 'Whose it is.';
comment on column notika.maintenance.ends_at is 'When it ends by itself.';
comment on column notika.maintenance.ended_at is 'When end_maintenance ended it.';

create table if not exists notika.guard_pending (
  pending_id bigint generated always as identity,
  workflow_id integer not null,
  tag text not null,
  statement text not null,
  dropped text,
  constraint guard_pending_pkey primary key (pending_id)
);

comment on table notika.guard_pending is
  'Workflows that are to be judged when the transaction commits; empty between transactions.';
comment on column notika.guard_pending.pending_id is 'Its order.';
comment on column notika.guard_pending.workflow_id is 'The workflow.';
comment on column notika.guard_pending.tag is 'The command.';
comment on column notika.guard_pending.statement is 'The beginning of what the client sent.';
comment on column notika.guard_pending.dropped is
  'A trigger or function of the workflow that was dropped by name.';

create table if not exists notika.guard_state (
  only_row boolean not null default true,
  publications bigint not null default 0,
  workflow_table oid not null,
  constraint guard_state_pkey primary key (only_row),
  constraint guard_state_only_row_check check (only_row)
);
insert into notika.guard_state (workflow_table)
values ('notika.workflow'::regclass::oid)
on conflict do nothing;

comment on table notika.guard_state is 'One row by which the guard tells what it cannot see.';
comment on column notika.guard_state.only_row is 'Always true: there is one row.';
comment on column notika.guard_state.publications is
  'Counted up by publish: a migration with an older snapshot must not judge by what it sees.';
comment on column notika.guard_state.workflow_table is
  'The oid of notika.workflow, as a number: another one means that this is a restored copy.';

create table if not exists notika.guard_busy (
  pid integer not null
);

comment on table notika.guard_busy is
  'Has a row, which nobody else ever sees, while Notika itself does DDL.';
comment on column notika.guard_busy.pid is 'The session.';

create or replace function notika._set_busy(busy boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if busy then
    insert into notika.guard_busy (pid) values (pg_backend_pid());
  else
    -- One of them: whoever called is busy still.
    delete from notika.guard_busy as b where b.ctid = (select max(o.ctid) from notika.guard_busy as o);
  end if;
end;
$$;

comment on function notika._set_busy(boolean) is
  'Tells the guard that the DDL that follows is Notika''s own. A setting would do, could not anybody set it.';

create or replace function notika._labels(type oid)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg(e.enumlabel::text order by e.enumtypid, e.enumsortorder)
    from notika._leaf_types(_labels.type) as l (oid)
    join pg_enum as e on e.enumtypid = l.oid
   where _labels.type >= 16384;
$$;

comment on function notika._labels(oid) is 'The labels of the enums in a type; null: there are none.';

create or replace function notika._part_types(type oid)
  returns setof oid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with recursive part as (
    select notika._base_type(_part_types.type) as oid
    union
    select notika._base_type(inner_type.oid)
      from part as p
      join pg_type as t on t.oid = p.oid
     cross join lateral (
       select t.typelem as oid where t.typcategory = 'A'
       union all
       select a.atttypid from pg_attribute as a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
     ) as inner_type
  )
  select p.oid from part as p;
$$;

comment on function notika._part_types(oid) is
  'A type with those of its elements and attributes, all of them without domains.';

create or replace function notika._attributes(type oid)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod))
                   order by a.attrelid, a.attnum)
    from notika._part_types(_attributes.type) as p (oid)
    join pg_type as t on t.oid = p.oid and t.typtype = 'c'
    join pg_attribute as a on a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
   where _attributes.type >= 16384;
$$;

comment on function notika._attributes(oid) is
  'The attributes of the composite types in a type; null: there are none.';

create or replace function notika._tables(relation regclass)
  returns setof regclass
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select f from notika._family(_tables.relation) as f
  union
  select p.relid from pg_partition_tree(_tables.relation) as p;
$$;

comment on function notika._tables(regclass) is 'A table with its partitions and children.';

create or replace function notika._bind(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
begin
  select w.* into v_spec from notika.workflow as w where w.workflow_id = _bind.workflow_id;
  delete from notika.contract as c where c.workflow_id = _bind.workflow_id;
  delete from notika.contract_table as c where c.workflow_id = _bind.workflow_id;

  insert into notika.contract
    (workflow_id, column_name, attnum, type_name, type, typmod, labels, attributes)
  select v_spec.workflow_id, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod),
         a.atttypid, a.atttypmod, notika._labels(a.atttypid),
         notika._attributes(a.atttypid)
    from pg_attribute as a
   where a.attrelid = v_spec.relation and a.attnum > 0 and not a.attisdropped
     and (
       a.attname = any (v_spec.column_names || v_spec.watch)
       or not v_spec.is_pinned
          and notika._rename_in(v_spec.condition, a.attname, a.attname || ' ') <> v_spec.condition
       -- What the condition reads, Postgres has written down.
       or exists (
         select from pg_depend as d
           join notika._triggers(v_spec.workflow_id) as t (relation, name) on true
           join pg_trigger as g on g.tgrelid = t.relation and g.tgname = t.name
          where d.classid = 'pg_trigger'::regclass and d.objid = g.oid
            and d.refclassid = 'pg_class'::regclass and d.refobjid = v_spec.relation
            and d.refobjsubid = a.attnum
       )
     );
  insert into notika.contract_table (workflow_id, relation)
  select v_spec.workflow_id, t from notika._tables(v_spec.relation) as t;
end;
$$;

comment on function notika._bind(integer) is
  'Writes down what a workflow depends on, as the catalog says it now.';

create or replace function notika._rename_in(condition text, old_name text, new_name text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- Strings stay as they are; new.name and old.name do not, quoted or not.
  select string_agg(
           case when t.token[1] like '''%' then t.token[1]
                else regexp_replace(
                  t.token[1],
                  '\m(new|old)(\s*\)?\s*\.\s*)('
                    || regexp_replace(quote_ident(old_name), '([^\w\s])', '\\\1', 'g') || '|"'
                    || regexp_replace(old_name, '([^\w\s])', '\\\1', 'g') || '")(?![\w$])',
                  '\1\2' || replace(quote_ident(new_name), '\', '\\'), 'gi')
           end, '' order by t.place)
    from regexp_matches(condition, '''(?:[^'']|'''')*''|[^'']+', 'g')
         with ordinality as t (token, place);
$$;

comment on function notika._rename_in(text, text, text) is
  'A condition with a column under its new name.';

create or replace function notika._holds_as_much(
  type oid,
  typmod integer,
  old_type oid,
  old_typmod integer
)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when type = old_type then typmod = -1 or old_typmod <> -1 and typmod >= old_typmod
           -- Only where events look the same: an int8 is a string in json.
           else typmod = -1 and (old_type, type) in (
             ('varchar'::regtype, 'text'::regtype),
             ('int2'::regtype, 'int4'::regtype),
             ('float4'::regtype, 'float8'::regtype)
           )
         end;
$$;

comment on function notika._holds_as_much(oid, integer, oid, integer) is
  'Whether a type holds whatever another one holds, and looks the same in an event.';

create or replace function notika._findings(spec notika.workflow)
  returns table (kind text, object text, expected text, actual text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_quoted text := notika._quoted(spec.relation);
begin
  if v_quoted is null then
    return query select 'table_dropped', spec.table_name, 'a table', null::text;
    return;
  end if;
  if v_quoted <> spec.table_name then
    return query select 'table_renamed', spec.table_name, spec.table_name, v_quoted;
  end if;

  return query
    select k.kind,
           format('%s.%I', spec.table_name, c.column_name),
           case k.kind when 'column_renamed' then c.column_name
                       when 'label_renamed' then c.labels::text
                       when 'type_changed' then coalesce(k.attributes, k.labels, c.type_name)
                       else c.type_name end,
           case k.kind when 'column_renamed' then a.attname::text
                       when 'label_renamed' then notika._labels(a.atttypid)::text
                       when 'column_dropped' then null
                       when 'type_changed' then coalesce(
                         case when k.attributes is not null
                              then notika._attributes(a.atttypid)::text end,
                         case when k.labels is not null
                              then notika._labels(a.atttypid)::text end,
                         format_type(a.atttypid, a.atttypmod))
                       else format_type(a.atttypid, a.atttypmod) end
      from notika.contract as c
      left join pg_attribute as a
        on a.attrelid = spec.relation and a.attnum = c.attnum and not a.attisdropped
     cross join lateral (
       select case
                when a.attnum is null then 'column_dropped'
                when a.atttypid <> c.type or a.atttypmod <> c.typmod then
                  case when notika._holds_as_much(a.atttypid, a.atttypmod, c.type, c.typmod)
                       then 'type_widened' else 'type_changed' end
                when case when c.attributes is not null
                          then not c.attributes <@ coalesce(notika._attributes(a.atttypid), '{}') end
                  then 'type_changed'
                when a.attname <> c.column_name then 'column_renamed'
                when case when c.labels is not null
                          then not c.labels <@ coalesce(notika._labels(a.atttypid), '{}') end
                  then 'label_renamed'
              end,
              case when a.atttypid = c.type and a.atttypmod = c.typmod then c.attributes::text end,
              -- Another type of the same name is told by its labels.
              case when format_type(a.atttypid, a.atttypmod) = c.type_name then c.labels::text end
     ) as k (kind, attributes, labels)
     where c.workflow_id = spec.workflow_id and k.kind is not null;

  return query
    select case
             when t.oid is null and f.relation not in (
               select c.relation from notika.contract_table as c where c.workflow_id = spec.workflow_id
             ) then 'part_not_captured'
             when t.oid is null then 'trigger_dropped'
             when t.tgenabled not in ('O', 'A') then 'trigger_disabled'
             else 'trigger_replaced'
           end,
           format('%I on %s', format('notika_%s_%s', spec.workflow_id, o.name),
                  notika._quoted(f.relation)),
           'enabled',
           case t.tgenabled when 'D' then 'disabled' when 'R' then 'enabled for replicas only'
                            else pg_get_triggerdef(t.oid) end
      from notika._family(spec.relation) as f (relation)
     cross join unnest(spec.operations) as o (name)
      left join pg_trigger as t
        on t.tgrelid = f.relation and t.tgname = format('notika_%s_%s', spec.workflow_id, o.name)
     where t.oid is null or t.tgenabled not in ('O', 'A')
        or t.tgfoid is distinct from
           to_regprocedure(format('notika._capture_%s()', spec.workflow_id))
        -- Its condition tells a trigger that somebody else made.
        or spec.is_pinned and spec.columns is not null and not exists (
          select from pg_depend as d
           where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
             and d.refclassid = 'pg_proc'::regclass
             and d.refobjid = notika._payload_function(spec.workflow_id, f.relation)
        );

  return query
    select 'function_replaced', format('notika._capture_%s()', spec.workflow_id), 'as published',
           'another body, owner or setting'
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
     where p.oid = to_regprocedure(format('notika._capture_%s()', spec.workflow_id))
       and (not p.prosecdef or p.proowner <> n.nspowner or not exists (
         select from unnest(spec.definition) as d (statement)
          where strpos(d.statement, p.prosrc) > 0
       ));

  return query
    select 'partition_detached', notika._quoted(c.relation),
           format('a part of %s', spec.table_name), 'a table of its own'
      from notika.contract_table as c
     where c.workflow_id = spec.workflow_id
       and notika._quoted(c.relation) is not null
       and c.relation not in (select t from notika._tables(spec.relation) as t);

  return query
    select 'part_not_captured', notika._quoted(p.relid), 'an enabled trigger', null::text
      from pg_partition_tree(spec.relation) as p
     cross join unnest(spec.operations) as o (name)
     where p.level > 0 and not exists (
       select from pg_trigger as t
        where t.tgrelid = p.relid and t.tgenabled in ('O', 'A')
          and t.tgfoid = to_regprocedure(format('notika._capture_%s()', spec.workflow_id))
          and (t.tgtype & case o.name when 'insert' then 4 when 'delete' then 8 else 16 end) > 0
     );

  return query
    select 'rule', format('%I on %s', r.rulename, spec.table_name), 'no rule instead of writes',
           pg_get_ruledef(r.oid)
      from pg_rewrite as r
     where r.ev_class = spec.relation and r.is_instead;
end;
$$;

comment on function notika._findings(notika.workflow) is
  'How the catalog differs from what a workflow was published with.';

create or replace function notika._suspects()
  returns setof integer
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with published as materialized (
    select w.workflow_id, w.relation, w.table_name, w.operations, w.definition, w.broken_reason,
           format('notika_%s_', w.workflow_id) as prefix
      from notika.workflow as w
     where w.unpublished_at is null
  )
  select w.workflow_id
    from published as w
    left join pg_class as c on c.oid = w.relation
    left join pg_namespace as n on n.oid = c.relnamespace
   where w.broken_reason is not null
      or w.table_name is distinct from quote_ident(n.nspname) || '.' || quote_ident(c.relname)
      or c.relhasrules
  union
  select c.workflow_id
    from published as w
    join notika.contract as c on c.workflow_id = w.workflow_id
    left join pg_attribute as a on a.attrelid = w.relation and a.attnum = c.attnum
   where a.attnum is null or a.attisdropped or a.attname <> c.column_name
      or a.atttypid <> c.type or a.atttypmod <> c.typmod
      or c.labels is not null or c.attributes is not null
  union
  select w.workflow_id
    from published as w
    join notika.contract_table as c on c.workflow_id = w.workflow_id
   cross join unnest(w.operations) as o (name)
    left join pg_trigger as t on t.tgrelid = c.relation and t.tgname = (w.prefix || o.name)::name
   where t.oid is null or t.tgenabled not in ('O', 'A')
      or c.relation <> w.relation and not exists (
        select from pg_inherits as i where i.inhrelid = c.relation
      )
  union
  -- A part that is new.
  select c.workflow_id
    from notika.contract_table as c
    join pg_inherits as i on i.inhparent = c.relation
   where not exists (
     select from notika.contract_table as o
      where o.workflow_id = c.workflow_id and o.relation = i.inhrelid
   )
  union
  select w.workflow_id
    from published as w
    left join pg_proc as p
      on p.proname = format('_capture_%s', w.workflow_id)
     and p.pronamespace = 'notika'::regnamespace
    left join pg_namespace as n on n.oid = p.pronamespace
   where p.oid is null or not p.prosecdef or p.proowner <> n.nspowner
      or not exists (
        select from unnest(w.definition) as d (statement) where strpos(d.statement, p.prosrc) > 0
      );
$$;

comment on function notika._suspects() is
  'The workflows that are worth a closer look, found by few queries over all of them.';

create or replace function notika._is_breaking(kind text)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select kind in ('table_dropped', 'column_dropped', 'type_changed', 'trigger_dropped');
$$;

comment on function notika._is_breaking(text) is
  'Whether a workflow cannot go on after a finding of this kind.';

create or replace function notika._is_rename(kind text)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select kind in ('table_renamed', 'column_renamed', 'label_renamed');
$$;

comment on function notika._is_rename(text) is 'Whether a finding is a matter of on_rename.';

create or replace function notika._is_complete(spec notika.workflow)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with expected (relation, name) as (
    select f.relation::oid, format('notika_%s_%s', (spec).workflow_id, o.name)
      from notika._family((spec).relation) as f (relation)
     cross join unnest((spec).operations) as o (name)
  ), there (relation, name) as (
    select t.relation::oid, t.name::text from notika._triggers((spec).workflow_id) as t
  )
  select to_regprocedure(format('notika._capture_%s()', (spec).workflow_id)) is not null
     and not exists (
       (select e.relation, e.name from expected as e except select t.relation, t.name from there as t)
       union all
       (select t.relation, t.name from there as t except select e.relation, e.name from expected as e)
     )
     and (not (spec).is_pinned or (spec).columns is null or not exists (
       select e.relation from expected as e
       except
       select t.typrelid
         from pg_proc as p
         join pg_type as t on t.oid = p.proargtypes[0]
        where p.pronamespace = 'notika'::regnamespace
          and p.proname = format('payload_%s', (spec).workflow_id)
     ));
$$;

comment on function notika._is_complete(notika.workflow) is
  'Whether all functions and triggers of a workflow are there, and nowhere else.';

create or replace function notika._has_all_it_needs(spec notika.workflow)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (select from pg_class as t where t.oid = (spec).relation)
     and not exists (
       select from notika.contract as c
         left join pg_attribute as a
           on a.attrelid = (spec).relation and a.attnum = c.attnum and not a.attisdropped
        where c.workflow_id = (spec).workflow_id
          and (a.attnum is null
               or (a.atttypid <> c.type or a.atttypmod <> c.typmod)
                  and not notika._holds_as_much(a.atttypid, a.atttypmod, c.type, c.typmod)
               or case when c.attributes is not null
                       then not c.attributes <@ coalesce(notika._attributes(a.atttypid), '{}') end)
     );
$$;

comment on function notika._has_all_it_needs(notika.workflow) is
  'Whether its table and the columns it was published with are there.';

create or replace function notika._bring_into_form(before notika.workflow, after notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _bring_into_form.after;
begin
  v_after.definition := notika._definition(v_after);
  perform notika._set_busy(true);
  perform notika._apply(before, v_after);
  perform notika._set_busy(false);
  update notika.workflow as w
     set definition = v_after.definition, is_pinned = v_after.is_pinned
   where w.workflow_id = v_after.workflow_id;
end;
$$;

comment on function notika._bring_into_form(notika.workflow, notika.workflow) is
  'Makes the functions and triggers of a workflow anew, with or without pins.';

create or replace function notika._loosen(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow;
begin
  select w.* into v_before from notika.workflow as w where w.workflow_id = _loosen.workflow_id;
  if notika._quoted(v_before.relation) is null
     or not v_before.is_pinned and notika._is_complete(v_before)
  then
    return;
  end if;
  v_after := v_before;
  v_after.is_pinned := false;
  perform notika._bring_into_form(v_before, v_after);
end;
$$;

comment on function notika._loosen(integer) is
  'Takes the pins of a workflow away; it captures on, as far as what it reads is there.';

create or replace function notika._reconcile(
  workflow_id integer,
  statement text,
  settled boolean,
  may_alter boolean default true
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_after notika.workflow;
  v_table regclass;
  v_column record;
  v_label record;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = _reconcile.workflow_id and w.unpublished_at is null;
  if not found then
    return;
  end if;
  v_after := v_spec;

  -- By name first: what has taken the place of a table or column that was dropped or renamed away
  -- is what the workflow is published on from now on.
  select c.oid into v_table
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
   where array[n.nspname, c.relname]::text[] = parse_ident(v_spec.table_name);
  if v_table <> v_spec.relation and may_alter
     and (settled or notika._quoted(v_spec.relation) is null)
     and (select c.relkind in ('r', 'p') from pg_class as c where c.oid = v_table)
  then
    v_after.relation := v_table;
    perform notika._record(v_spec, 'healed', 'table_replaced', v_spec.table_name, statement);
    update notika.workflow as w
       set relation = v_table
     where w.workflow_id = v_spec.workflow_id;
    delete from notika.contract_table as c where c.workflow_id = v_spec.workflow_id;
    insert into notika.contract_table (workflow_id, relation)
    select v_spec.workflow_id, t from notika._tables(v_table) as t;
  end if;
  for v_column in
    update notika.contract as c
       set attnum = coalesce(a.attnum, 0), -- 0: another table, which does not have it
           -- Another enum of that name will do if it has all labels.
           type = case when format_type(a.atttypid, a.atttypmod) = c.type_name
                        and (c.labels is null or c.labels <@ notika._labels(a.atttypid))
                       then a.atttypid else c.type end
      from notika.contract as o
      left join pg_attribute as a
        on a.attrelid = v_after.relation and a.attname = o.column_name and not a.attisdropped
     where c.workflow_id = v_spec.workflow_id
       and o.workflow_id = c.workflow_id and o.column_name = c.column_name
       and (
         v_after.relation <> v_spec.relation or a.attnum <> c.attnum
         or a.atttypid <> c.type and format_type(a.atttypid, a.atttypmod) = c.type_name
       )
       and (settled or v_after.relation <> v_spec.relation or a.attnum = c.attnum
            or not exists (
         select from pg_attribute as p
          where p.attrelid = v_after.relation and p.attnum = c.attnum and not p.attisdropped
       ))
    returning c.column_name, format_type(a.atttypid, a.atttypmod) = c.type_name as is_same_type
  loop
    continue when v_after.relation <> v_spec.relation or not v_column.is_same_type;
    perform notika._record(v_spec, 'healed', 'column_replaced',
                           format('%s.%I', v_spec.table_name, v_column.column_name), statement);
  end loop;

  -- Then by number: what is left under another name was renamed.  All at once, because names may
  -- have gone from one column to another.
  for v_column in
    select c.column_name as old_name, a.attname::text as new_name
      from notika.contract as c
      join pg_attribute as a on a.attrelid = v_after.relation and a.attnum = c.attnum
     where c.workflow_id = v_spec.workflow_id and not a.attisdropped
       and a.attname <> c.column_name
       and v_after.relation = v_spec.relation
  loop
    v_after.column_names :=
      array_replace(v_after.column_names, v_column.old_name, v_column.new_name);
    v_after.watch := array_replace(v_after.watch, v_column.old_name, v_column.new_name);
    v_after.condition :=
      notika._rename_in(v_after.condition, v_column.old_name, v_column.new_name);
    continue when not settled or v_spec.on_rename <> 'follow';

    update notika.contract as c
       set column_name = v_column.new_name
     where c.workflow_id = v_spec.workflow_id and c.column_name = v_column.old_name;
    perform notika._record(v_spec, 'followed', 'column_renamed',
                           format('%s.%I', v_spec.table_name, v_column.old_name), statement,
                           v_column.old_name, v_column.new_name);
  end loop;

  -- Put back what was taken away to let the command through, if what it needs is there.
  if notika._has_all_it_needs(v_after) then
    v_after.is_pinned := case when may_alter then notika._wants_pins(v_spec.guard)
                              else v_spec.is_pinned end;
    -- Only what is missing: a trigger that somebody disabled stays disabled.
    if may_alter
       and (not notika._is_complete(v_after) or v_after.is_pinned <> v_spec.is_pinned)
    then
      perform notika._bring_into_form(v_spec, v_after);
    elsif v_after.is_pinned and (v_after.column_names, v_after.watch, v_after.condition)
          is distinct from (v_spec.column_names, v_spec.watch, v_spec.condition)
    then
      -- Postgres has renamed in them what was renamed.
      update notika.workflow as w
         set definition = notika._definition(v_after)
       where w.workflow_id = v_spec.workflow_id;
    end if;
  elsif may_alter then
    perform notika._loosen(v_spec.workflow_id);
  end if;
  if not settled or v_spec.on_rename <> 'follow' then
    return;
  end if;

  for v_column in
    select c.column_name, c.labels as old_labels, notika._labels(a.atttypid) as new_labels
      from notika.contract as c
      join pg_attribute as a
        on a.attrelid = v_after.relation and a.attnum = c.attnum and a.atttypid = c.type
     where c.workflow_id = v_spec.workflow_id
       and case when c.labels is not null then c.labels <> notika._labels(a.atttypid) end
  loop
    update notika.contract as c
       set labels = v_column.new_labels
     where c.workflow_id = v_spec.workflow_id and c.column_name = v_column.column_name;
    continue when v_column.old_labels <@ v_column.new_labels;
    perform notika._record(v_spec, 'followed', 'label_renamed',
                           format('%s.%I', v_spec.table_name, v_column.column_name), statement,
                           v_column.old_labels::text, v_column.new_labels::text);
    -- A renamed label keeps its place.
    continue when cardinality(v_column.old_labels) <> cardinality(v_column.new_labels);
    for v_label in
      select l.old_label, l.new_label
        from unnest(v_column.old_labels, v_column.new_labels) as l (old_label, new_label)
       where l.old_label <> l.new_label
    loop
      v_after.condition := replace(
        v_after.condition, quote_literal(v_label.old_label), quote_literal(v_label.new_label));
    end loop;
  end loop;

  -- Without the right to alter, another table that took the name is for somebody to decide about.
  if v_table is null or v_table = v_after.relation then
    v_after.table_name := coalesce(notika._quoted(v_after.relation), v_spec.table_name);
  end if;
  if v_after.table_name <> v_spec.table_name then
    perform notika._record(v_spec, 'followed', 'table_renamed', v_spec.table_name, statement,
                           v_spec.table_name, v_after.table_name);
  end if;
  update notika.workflow as w
     set table_name = v_after.table_name, watch = v_after.watch,
         condition = v_after.condition, column_names = v_after.column_names
   where w.workflow_id = v_spec.workflow_id
     and (w.table_name, w.watch, w.condition, w.column_names)
         is distinct from
         (v_after.table_name, v_after.watch, v_after.condition, v_after.column_names);
  -- A new partition that has its trigger is part of the contract.
  insert into notika.contract_table (workflow_id, relation)
  select v_spec.workflow_id, t from notika._tables(v_after.relation) as t
   where may_alter
  on conflict do nothing;
end;
$$;

comment on function notika._reconcile(integer, text, boolean, boolean) is
  'Binds what was replaced by something of the same name and type, follows what was renamed, and '
  'puts triggers and functions back where everything they need is there. Not settled: in the '
  'middle of a transaction, when a name that is gone may come back. may_alter: whether to do DDL.';

create or replace function notika._record(
  spec notika.workflow,
  verdict text,
  kind text,
  object text,
  statement text,
  expected text default null,
  actual text default null
)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.guard_log (workflow, verdict, kind, object, expected, actual, statement)
  values ((_record.spec).name, _record.verdict, _record.kind, _record.object, _record.expected,
          _record.actual, _record.statement);
$$;

comment on function
  notika._record(notika.workflow, text, text, text, text, text, text) is
  'Writes down in guard_log what the guard saw or did.';
--! EndIncluded 70_guard.sql
--! Included 71_command.sql
-- Which tables a command is about, told from its text: Postgres does not say before it has been run.
-- Good enough to let a command through, not for a verdict: a table that is not recognised stays
-- pinned, and one that the command is not about must never be taken for it.

create or replace function notika._commands(script text)
  returns text[]
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_token text;
  v_end text; -- what ends the string, name or comment that this is in
  v_depth integer;
  v_has_escapes boolean;
  v_last text := '';
  v_command text := '';
  v_commands text[] := array[]::text[];
begin
  for v_token in
    select m[1]
      from regexp_matches(
             script,
             $re$(--|/\*|\*/|''|'|"|\$(?:[[:alpha:]_][[:alnum:]_]*)?\$|;|\n|\\.|[[:alpha:]_][[:alnum:]_]*|[[:digit:] ,.()=<>:]+|.)$re$,
             'g') as m
  loop
    if v_end is null then
      if v_token = '--' then
        v_end := E'\n';
      elsif v_token = '/*' then
        v_end := '*/';
        v_depth := 1;
      elsif v_token = '''' then
        v_end := '''';
        v_has_escapes := lower(v_last) = 'e';
      elsif v_token like '$%$' and v_last !~ '^[[:alpha:]_]' then
        v_end := v_token;
      elsif v_token = ';' then
        v_commands := v_commands || v_command;
        v_command := '';
      else
        if v_token = '"' then
          v_end := '"';
        end if;
        v_command := v_command || v_token;
      end if;
    elsif v_end = '"' then
      v_command := v_command || v_token;
      if v_token = '"' then
        v_end := null;
      end if;
    elsif v_end = '*/' then
      v_depth := v_depth + case v_token when '/*' then 1 when '*/' then -1 else 0 end;
      if v_depth = 0 then
        v_end := null;
        v_command := v_command || ' ';
      end if;
    elsif v_token = v_end or v_end = '''' and v_token = '\''' and not v_has_escapes then
      v_command := v_command || case v_end when E'\n' then v_end else ''''' ' end;
      v_end := null;
    end if;
    v_last := v_token;
  end loop;
  return v_commands || v_command;
end;
$body$;

comment on function notika._commands(text) is
  'The commands in a text, without comments and with empty strings.';

create or replace function notika._current_command(query text, context text)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_commands text[];
  v_moment text := statement_timestamp()::text;
  v_last text[];
  v_place integer := 1;
begin
  -- The innermost context comes first; a statement in a function is there word for word.
  if context <> '' then
    return (
      select c
        from unnest(notika._commands(
               substring(context from E'^SQL statement "(.*?)"\n(?:PL/pgSQL|SQL|extension)'))) as c
       limit 1
    );
  end if;

  select array_agg(u.command order by u.place) into v_commands
    from unnest(notika._commands(query)) with ordinality as u (command, place)
   where u.command ~* '^\s*(alter\s+table|drop\s+table|alter\s+type)\M';
  if cardinality(v_commands) > 1 then
    -- Several in one text are run one after the other, and this is called for each.
    v_last := regexp_match(current_setting('notika.command', true), '^(.*) #([0-9]+)$');
    if v_last[1] = v_moment then
      v_place := v_last[2]::integer + 1;
    end if;
    perform set_config('notika.command', format('%s #%s', v_moment, v_place), false);
  end if;
  return v_commands[v_place];
end;
$body$;

comment on function notika._current_command(text, text) is
  'The ALTER TABLE, DROP TABLE or ALTER TYPE that is about to be run; null: it cannot be told.';

create or replace function notika._named_tables(command text, path text)
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_name constant text := $re$(?:"(?:[^"]|"")+"|[[:alpha:]_][\w$]*)$re$;
  v_list text := substring(
    command from '(?i)^\s*(?:alter\s+table|drop\s+table|alter\s+type)\s+(?:if\s+exists\s+)?(?:only\s+)?(.*)$');
  v_match text[];
  v_parts text[];
  v_schema text;
  v_relation oid;
begin
  loop
    v_match := regexp_match(
      v_list, format('^\s*(%1$s(?:\s*\.\s*%1$s)*)\s*(\*?)\s*(.*)$', v_name));
    exit when v_match is null;
    v_parts := parse_ident(v_match[1]);
    v_relation := null;
    if cardinality(v_parts) = 1 then
      foreach v_schema in array notika._schemas(path) loop
        select c.oid into v_relation
          from pg_class as c
          join pg_namespace as n on n.oid = c.relnamespace
         where n.nspname = v_schema and c.relname = v_parts[1];
        exit when v_relation is not null;
      end loop;
    else
      select c.oid into v_relation
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
       where n.nspname = v_parts[cardinality(v_parts) - 1]
         and c.relname = v_parts[cardinality(v_parts)];
    end if;
    if v_relation is not null then
      return next v_relation;
    end if;
    exit when command !~* '^\s*drop' or v_match[3] !~ '^,';
    v_list := substr(v_match[3], 2);
  end loop;
end;
$body$;

comment on function notika._named_tables(text, text) is
  'The tables or type that such a command is about, found on this search path.';

create or replace function notika._schemas(path text)
  returns name[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
  -- Temporary tables first; "$user" is not the owner of the function that asks.
  select array(
           select n.nspname from pg_namespace as n where n.oid = pg_my_temp_schema()
         )
         || array(
           select case (parse_ident(m[1]))[1]
                    when '$user' then notika._caller() else (parse_ident(m[1]))[1] end
             from regexp_matches(_schemas.path, '("(?:[^"]|"")+"|[^", ]+)', 'g') with ordinality as p (m, place)
            order by p.place
         )::name[];
$body$;

comment on function notika._schemas(text) is 'The schemas on a search path, in the caller''s eyes.';
--! EndIncluded 71_command.sql
--! Included 72_judge.sql
-- The guard's judgement: event triggers find out which workflows a command touched, and a deferred
-- constraint trigger judges what the transaction leaves when it commits.

create or replace function notika._unpin(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning
as $$
declare
  v_function text;
begin
  perform notika._set_busy(true);
  for v_function in
    -- By the name alone where there is one: to name its argument asks for rights to that schema.
    select case when count(*) over (partition by p.proname) = 1
                then format('notika.%I', p.proname) else g::text end
      from notika._generated(_unpin.workflow_id) as g
      join pg_proc as p on p.oid = g
     order by 1
  loop
    execute format('drop function %s cascade', v_function);
  end loop;
  perform notika._set_busy(false);
end;
$$;

comment on function notika._unpin(integer) is
  'Takes the functions and triggers of a workflow away.';

create or replace function notika._summon(
  workflow_ids integer[],
  tag text,
  statement text,
  dropped text default null
)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.guard_pending (workflow_id, tag, statement, dropped)
  select s.workflow_id, _summon.tag, coalesce(left(_summon.statement, 400), ''), _summon.dropped
    from unnest(_summon.workflow_ids) as s (workflow_id)
   where not exists (
     select from notika.guard_pending as p
      where p.workflow_id = s.workflow_id
        and (p.dropped = _summon.dropped or _summon.dropped is null)
   );
$$;

comment on function notika._summon(integer[], text, text, text) is
  'Has workflows judged when the transaction commits.';

create or replace function notika._see_publications()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- With an old snapshot a workflow that was published since is not seen, and its table looks free.
  -- publish updates the row, so this fails with 40001 where that happened.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from notika.guard_state for share;
  end if;
end;
$$;

comment on function notika._see_publications() is
  'Fails in a transaction whose snapshot is older than the last publish.';

create or replace function notika._may_alter(relation regclass, context text)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_class as c
     where c.oid = _may_alter.relation
       and (
         pg_has_role(notika._caller(), c.relowner, 'usage')
         -- Or on behalf of somebody, in a function with its owner's rights.
         or exists (
           select from regexp_matches(_may_alter.context, 'PL/pgSQL function (\S+\(.*?\)) line', 'g') as m
             join pg_proc as p on p.oid = to_regprocedure(m[1]) and p.prosecdef
            where pg_has_role(p.proowner, c.relowner, 'usage')
         )
       )
  );
$$;

comment on function notika._may_alter(regclass, text) is
  'Whether the caller may alter a table: if not, the command is about to fail and locks nothing.';

create or replace function notika._let_through(tag text, context text, path text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning -- what is dropped along is not what the caller did
as $$
declare
  v_command text;
  v_table regclass;
  v_workflow_id integer;
  v_function regprocedure;
  v_parts regclass[];
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._see_publications();
  context := regexp_replace(context, '^.*?\n', ''); -- the guard's own line
  if context !~ E'\n' then
    context := '';
  end if;
  if context = '' and current_query() !~* '\m(drop|type)\M' then
    return; -- nothing that a pin would refuse
  end if;
  v_command := notika._current_command(current_query(), context);
  if v_command !~* '\m(drop|type)\M' then
    return;
  end if;

  if tag = 'ALTER TYPE' then
    -- Its attributes are pinned too.  The tables that have it are not locked by the command.
    for v_workflow_id in
      select distinct c.workflow_id
        from notika._named_tables(v_command, path) as t
        join pg_class as k on k.oid = t and k.relkind = 'c'
        join notika.contract as c on c.attributes is not null
        join notika.workflow as w on w.workflow_id = c.workflow_id and w.is_pinned
       where exists (
         select from pg_depend as d
           join notika._generated(c.workflow_id) as g (function) on g.function = d.objid
          where d.classid = 'pg_proc'::regclass
            and d.refclassid = 'pg_class'::regclass and d.refobjid = k.oid
       )
       order by 1
    loop
      perform notika._loosen(v_workflow_id);
    end loop;
    return;
  end if;

  for v_table in
    select t from notika._named_tables(v_command, path) as t where notika._may_alter(t, context)
  loop
    v_parts := array(select d from notika._tables(v_table) as d);
    continue when not exists (
      select from notika.contract_table as t where t.relation = any (v_parts)
    );
    if tag = 'DROP TABLE' then
      for v_function in
        select notika._payload_function(t.workflow_id, t.relation)
          from notika.contract_table as t
         where t.relation = any (v_parts)
      loop
        continue when v_function is null;
        perform notika._set_busy(true);
        execute format('drop function %s cascade', v_function);
        perform notika._set_busy(false);
      end loop;
      continue;
    end if;

    for v_workflow_id in
      select w.workflow_id
        from notika.workflow as w
       where w.is_pinned
         and w.workflow_id in (
           select t.workflow_id from notika.contract_table as t where t.relation = any (v_parts)
         )
         -- Any mention will do, also by the name it was given in this transaction: at worst its
         -- pins are taken away and put back.
         and exists (
           select from notika.contract as c
             left join pg_attribute as a on a.attrelid = w.relation and a.attnum = c.attnum
            where c.workflow_id = w.workflow_id
              and (strpos(lower(v_command), lower(c.column_name)) > 0
                   or strpos(lower(v_command), lower(a.attname)) > 0)
         )
       order by w.workflow_id
    loop
      -- At once the lock that the command takes: from a weaker one to it there are deadlocks.
      begin
        execute format('lock table %s in access exclusive mode', notika._quoted(v_table));
      exception when insufficient_privilege then
        null;
      end;
      perform notika._loosen(v_workflow_id);
    end loop;
  end loop;
end;
$$;

comment on function notika._let_through(text, text, text) is
  'Takes away the pins that would refuse a command, for the judgement at commit.';

create or replace function notika._guard_start()
  returns event_trigger
  language plpgsql
  security definer
  -- No search_path of its own: the names in the command are found on the caller's.  So here every
  -- name is written in full, and there are no operators.
as $$
declare
  v_context text;
begin
  get diagnostics v_context = pg_context;
  perform notika._let_through(tg_tag, v_context, pg_catalog.current_setting('search_path'));
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %: % (%)', tg_tag, sqlerrm, sqlstate
      using hint = 'The command goes on. See what it left: select * from notika.check();';
end;
$$;

comment on function notika._guard_start() is
  'Event trigger: lets a command through that the pins would refuse, for the judgement at commit.';

create or replace function notika._guard_drop()
  returns event_trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_touched record;
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._see_publications();

  for v_touched in
    select t.workflow_id, max(t.dropped) as dropped
      from (
        select c.workflow_id, null::text as dropped
          from pg_event_trigger_dropped_objects() as d
          join notika.contract_table as c on c.relation = d.objid
         where d.classid = 'pg_class'::regclass
        union all
        select substring(n.name from '[0-9]+')::integer,
               case when d.original then d.object_identity end
          from pg_event_trigger_dropped_objects() as d
         cross join lateral (select d.address_names[cardinality(d.address_names)]) as n (name)
         where d.classid = 'pg_trigger'::regclass
           and n.name ~ '^notika_[0-9]{1,9}_(insert|update|delete)$'
        union all
        select substring(d.address_names[2] from '[0-9]+')::integer,
               case when d.original then d.object_identity end
          from pg_event_trigger_dropped_objects() as d
         where d.classid = 'pg_proc'::regclass and d.address_names[1] = 'notika'
           and d.address_names[2] ~ '^(_capture|_passes|payload)_[0-9]{1,9}$'
      ) as t
      join notika.workflow as w on w.workflow_id = t.workflow_id and w.unpublished_at is null
     group by t.workflow_id
  loop
    perform notika._summon(array[v_touched.workflow_id], tg_tag, current_query(), v_touched.dropped);
  end loop;
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %: % (%)', tg_tag, sqlerrm, sqlstate
      using hint = 'The command goes on. See what it left: select * from notika.check();';
end;
$$;

comment on function notika._guard_drop() is
  'Event trigger: notes the workflows whose tables, columns, triggers or functions were dropped.';

create or replace function notika._guard_end()
  returns event_trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_touched record;
  v_is_dropped boolean;
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._see_publications();

  for v_touched in
    with command as materialized (
      select d.classid, d.objid from pg_event_trigger_ddl_commands() as d where d.objid is not null
    ), relation (oid) as (
      select d.objid from command as d where d.classid = 'pg_class'::regclass
      union
      select t.tgrelid from command as d
        join pg_trigger as t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid
      union
      select r.ev_class from command as d
        join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    )
    select t.workflow_id, max(t.replaced) as replaced
      from (
        select c.workflow_id, null::text as replaced
          from relation as r
          join notika.contract_table as c on c.relation = r.oid
        union all
        -- A partition or child that was attached.
        select c.workflow_id, null
          from relation as r
          join pg_inherits as i on i.inhrelid = r.oid
          join notika.contract_table as c on c.relation = i.inhparent
        union all
        -- A table that takes a published name.
        select w.workflow_id, null
          from relation as r
          join pg_class as k on k.oid = r.oid
          join pg_namespace as n on n.oid = k.relnamespace
          join notika.workflow as w on w.table_name = format('%I.%I', n.nspname, k.relname)
        union all
        select c.workflow_id, null
          from (select distinct o.type from notika.contract as o where o.type >= 16384) as u
          join notika.contract as c on c.type = u.type
         where exists (
           select from command as d
             left join pg_class as k on d.classid = 'pg_class'::regclass and k.oid = d.objid
             join notika._part_types(u.type) as p (oid) on p.oid = coalesce(k.reltype, d.objid)
            where d.classid = 'pg_type'::regclass or k.relkind = 'c'
         )
        union all
        select substring(t.tgname::text from '[0-9]+')::integer,
               format('%I on %s', t.tgname, notika._quoted(t.tgrelid))
          from command as d
          join pg_trigger as t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid
         where t.tgname ~ '^notika_[0-9]{1,9}_(insert|update|delete)$'
        union all
        select substring(p.proname::text from '[0-9]+')::integer, null
          from command as d
          join pg_proc as p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
         where p.pronamespace = 'notika'::regnamespace
           and p.proname ~ '^(_capture|_passes|payload)_[0-9]{1,9}$'
        union all
        select w.workflow_id, null
          from command as d
          join pg_class as k on d.classid = 'pg_namespace'::regclass and k.relnamespace = d.objid
          join notika.workflow as w on w.relation = k.oid
        union all
        select p.workflow_id, null from notika.guard_pending as p
      ) as t
      join notika.workflow as w on w.workflow_id = t.workflow_id and w.unpublished_at is null
     group by t.workflow_id
  loop
    select coalesce(bool_or(p.dropped is not null), false) into v_is_dropped
      from notika.guard_pending as p
     where p.workflow_id = v_touched.workflow_id;
    -- What was dropped by name was meant.
    if not v_is_dropped then
      perform notika._reconcile(v_touched.workflow_id, left(current_query(), 400), false);
    end if;
    if v_touched.replaced is not null then
      perform notika._note(w, 'warned', 'trigger_replaced', v_touched.replaced, 'as published',
                           'created by hand', left(current_query(), 400))
         from notika.workflow as w
        where w.workflow_id = v_touched.workflow_id;
    end if;
    perform notika._summon(array[v_touched.workflow_id], tg_tag, current_query());
  end loop;
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %: % (%)', tg_tag, sqlerrm, sqlstate
      using hint = 'The command goes on. See what it left: select * from notika.check();';
end;
$$;

comment on function notika._guard_end() is
  'Event trigger: keeps a workflow working in the middle of a transaction, as far as it goes, and '
  'notes that it is to be judged.';

create or replace function notika._guard_at_commit()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_dropped boolean;
begin
  -- One judgement for all that was noted about a workflow.
  if not exists (select from notika.guard_pending as p where p.pending_id = new.pending_id) then
    return null;
  end if;
  begin
    with judged as (
      delete from notika.guard_pending as p
       where p.workflow_id = new.workflow_id
      returning p.dropped
    )
    select bool_or(j.dropped is not null) into v_is_dropped from judged as j;
    if exists (
      select from notika.guard_state as s where s.workflow_table <> 'notika.workflow'::regclass::oid
    ) then
      return null; -- a restored copy: check() binds it first
    end if;
    if not v_is_dropped then
      perform notika._reconcile(new.workflow_id, new.statement, true);
    end if;
    perform notika._judge(new.workflow_id, new.statement, 'commit');
  exception
    when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
      raise;
    when others then
      raise warning 'notika could not check %: % (%)', new.tag, sqlerrm, sqlstate
        using hint = 'The command goes on. See what it left: select * from notika.check();';
  end;
  delete from notika.guard_pending as p where p.workflow_id = new.workflow_id;
  return null;
end;
$$;

comment on function notika._guard_at_commit() is
  'Judges what a transaction leaves of a workflow''s contract, when it commits.';

drop trigger if exists guard_at_commit on notika.guard_pending;
create constraint trigger guard_at_commit
  after insert on notika.guard_pending
  deferrable initially deferred
  for each row
  execute function notika._guard_at_commit();
-- Like the event triggers: also under session_replication_role = replica.
alter table notika.guard_pending enable always trigger guard_at_commit;

create or replace function notika._judge(workflow_id integer, statement text, occasion text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_finding record;
  v_verdict text;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = _judge.workflow_id and w.unpublished_at is null;
  if not found then
    return;
  end if;

  if v_spec.broken_reason is not null then
    if not exists (
      select from notika._findings(v_spec) as f
       where notika._is_breaking(f.kind) or notika._is_rename(f.kind)
    ) then
      update notika.workflow as w set broken_reason = null where w.workflow_id = v_spec.workflow_id;
      perform notika._record(v_spec, 'repaired', null, v_spec.table_name, statement);
      if v_spec.paused_at is null then
        perform notika.resume(v_spec.name);
      end if;
    end if;
    return;
  end if;

  for v_finding in
    with found as materialized (select f.* from notika._findings(v_spec) as f)
    select f.*
      from found as f
     -- That is only a consequence.
     where f.kind <> 'trigger_dropped' or not exists (
       select from found as o where notika._is_breaking(o.kind) and o.kind <> 'trigger_dropped'
     )
     order by f.kind = 'trigger_dropped', notika._is_breaking(f.kind) desc
  loop
    v_verdict := case
      when occasion = 'commit' then notika._verdict(v_spec, v_finding.kind)
      when notika._is_breaking(v_finding.kind) then 'broken'
      else 'warned'
    end;
    if v_verdict = 'blocked' then
      perform notika._refuse(v_spec, v_finding.kind, v_finding.object, v_finding.expected,
                             v_finding.actual, statement);
    end if;
    perform notika._note(v_spec, v_verdict, v_finding.kind, v_finding.object,
                         v_finding.expected, v_finding.actual, statement);
  end loop;
end;
$$;

comment on function notika._judge(integer, text, text) is
  'Compares a workflow with its contract. At commit it may refuse; later it marks what is broken, '
  'and what is whole again.';

create or replace function notika._verdict(spec notika.workflow, kind text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when exists (
             select from notika.maintenance as m
              where m.ended_at is null and m.ends_at > clock_timestamp()
           ) or exists (
             select from notika.guard_log as l
              where l.xid = pg_current_xact_id_if_assigned()
                and l.workflow = (spec).name and l.verdict = 'allowed' and l.reason is not null
           ) then 'allowed'
           when not notika._is_breaking(kind) and not notika._is_rename(kind) then 'warned'
           when notika._is_rename(kind) and (spec).on_rename = 'follow' then 'followed'
           when (spec).guard = 'off' then 'ignored'
           when (spec).guard = 'warn' then 'warned'
           else 'blocked'
         end;
$$;

comment on function notika._verdict(notika.workflow, text) is
  'What a finding of this kind means for a workflow, here and now.';

create or replace function notika._refuse(
  spec notika.workflow,
  kind text,
  object text,
  expected text,
  actual text,
  statement text
)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column text := case when kind in ('column_dropped', 'column_renamed', 'type_changed', 'label_renamed')
                        then replace(object, spec.table_name || '.', '') end;
begin
  raise exception '%', case kind
      when 'table_dropped' then format('cannot drop table %s', object)
      when 'table_renamed' then format('cannot rename table %s to %s', object, actual)
      when 'column_dropped' then format('cannot drop column "%s" of table %s', v_column, spec.table_name)
      when 'column_renamed' then format('cannot rename column "%s" of table %s to "%s"',
                                        v_column, spec.table_name, actual)
      when 'type_changed' then format('cannot change the type of column "%s" of table %s from %s to %s',
                                      v_column, spec.table_name, expected, actual)
      when 'label_renamed' then format('cannot rename a label of the type of column "%s" of table %s',
                                       v_column, spec.table_name)
      else format('cannot drop trigger %s', object)
    end || format(' because workflow "%s" uses it', spec.name)
    using errcode = 'NK001',
          detail = format(E'Workflow "%s" is published on %s for %s%s.\nStatement: %s',
                     spec.name, spec.table_name, array_to_string(spec.operations, ', '),
                     coalesce(format(' with the columns %s', array_to_string(spec.columns, ', ')), ''),
                     statement),
          hint = format('In the same transaction publish it anew, or run notika.unpublish(%1$L), or '
                        'notika.allow_breaking_change(%1$L, ''<reason>''). Tools without '
                        'transactions: notika.begin_maintenance(''<reason>'').', spec.name),
          table = spec.table_name,
          column = coalesce(v_column, '');
end;
$$;

comment on function notika._refuse(notika.workflow, text, text, text, text, text) is
  'Refuses what breaks a workflow, and names the ways out.';

create or replace function notika._note(
  spec notika.workflow,
  verdict text,
  kind text,
  object text,
  expected text,
  actual text,
  statement text
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- What was said since it was published need not be said again.
  if exists (
    select from notika.guard_log as l
     where l.workflow = spec.name and l.at > spec.published_at
       and (l.kind, l.object, l.actual) is not distinct from (_note.kind, _note.object, _note.actual)
  ) then
    return;
  end if;

  insert into notika.guard_log (workflow, verdict, kind, object, expected, actual, statement)
  values (spec.name, _note.verdict, _note.kind, _note.object, _note.expected, _note.actual,
          _note.statement);
  if verdict = 'warned' then
    raise warning 'workflow "%": % %', spec.name, replace(kind, '_', ' '), object
      using detail = format('Expected %s, found %s.', coalesce(expected, 'nothing'),
                            coalesce(actual, 'nothing')),
            hint = format('See: select * from notika.health where workflow = %L;', spec.name);
  end if;

  if notika._is_breaking(kind) or notika._is_rename(kind) and verdict <> 'followed' then
    perform notika._break(spec.workflow_id, format('%s: %s', replace(kind, '_', ' '), object));
  elsif kind = 'type_widened' then
    update notika.contract as c
       set type_name = format_type(a.atttypid, a.atttypmod), type = a.atttypid, typmod = a.atttypmod
      from pg_attribute as a
     where c.workflow_id = spec.workflow_id and a.attrelid = spec.relation and a.attnum = c.attnum;
  end if;
end;
$$;

comment on function notika._note(notika.workflow, text, text, text, text, text, text) is
  'Writes a finding down, says it if it is a warning, and marks the workflow if it cannot go on.';

create or replace function notika._break(workflow_id integer, reason text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.workflow as w
     set broken_reason = coalesce(w.broken_reason, _break.reason)
   where w.workflow_id = _break.workflow_id;
  perform notika._hold_jobs();
end;
$$;

comment on function notika._break(integer, text) is
  'Marks a workflow as broken: its runs are held. What captures its changes goes on.';
--! EndIncluded 72_judge.sql
--! Included 75_ways_out.sql
-- The ways past the guard, each with a name and a reason on record, and the questions one can ask it.

create or replace function notika._owned(workflow text)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_owner oid;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = notika._published(_owned.workflow);
  select c.relowner into v_owner from pg_class as c where c.oid = v_spec.relation;

  if not pg_has_role(notika._caller(), current_user, 'member')
     and not coalesce(pg_has_role(notika._caller(), v_owner, 'member'), false)
  then
    raise exception 'role "%" may not decide about workflow "%"', notika._caller(), v_spec.name
      using errcode = 'insufficient_privilege',
            detail = 'That is for the owner of its table and for members of the owner of notika.',
            hint = format('Run: grant %I to %I;', coalesce(v_owner::regrole::text, current_user::text),
                          notika._caller());
  end if;
  return v_spec;
end;
$$;

comment on function notika._owned(text) is
  'A published workflow that the caller may decide about, or an error.';

create or replace function notika._check_reason(reason text)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if reason is null or reason !~ '\S' then
    raise exception 'a reason is needed'
      using errcode = 'invalid_parameter_value',
            hint = 'It is kept in notika.guard_log, for whoever asks later.';
  end if;
end;
$$;

comment on function notika._check_reason(text) is 'Refuses an empty reason.';

create or replace function notika._let_go(workflow_id integer, tag text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- An early verdict that was asked for would put the pins back at once.
  set constraints notika.guard_at_commit deferred;
  perform notika._summon(array[_let_go.workflow_id], _let_go.tag, current_query());
  perform notika._loosen(_let_go.workflow_id);
end;
$$;

comment on function notika._let_go(integer, text) is
  'Takes the pins of a workflow away until this transaction commits.';

create or replace function notika.allow_breaking_change(workflow text, reason text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := notika._owned(allow_breaking_change.workflow);
begin
  perform notika._check_reason(reason);
  insert into notika.guard_log (workflow, verdict, statement, reason)
  values (v_spec.name, 'allowed', left(current_query(), 400), allow_breaking_change.reason);
  -- Where there are no event triggers nobody else lets the command through.
  if not notika._has_event_triggers() then
    perform notika._let_go(v_spec.workflow_id, 'ALLOW');
  end if;
end;
$$;

comment on function notika.allow_breaking_change(text, text) is
  'Lets this transaction break a workflow, on record. It is marked as broken and its runs are held.';

create or replace function notika.release(workflow text, reason text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := notika._owned(release.workflow);
begin
  perform notika._check_reason(reason);
  insert into notika.guard_log (workflow, verdict, statement, reason)
  values (v_spec.name, 'released', left(current_query(), 400), release.reason);
  perform notika._let_go(v_spec.workflow_id, 'RELEASE');
end;
$$;

comment on function notika.release(text, text) is
  'Takes the pins of a workflow away until this transaction commits, when what it left is judged: '
  'the way to alter a pinned column where there are no event triggers.';

create or replace function notika.begin_maintenance(reason text, ttl interval default '15 minutes')
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_id bigint;
begin
  perform notika._check_reason(reason);
  if ttl is null or ttl not between interval '1 second' and interval '1 day' then
    raise exception 'ttl must be between a second and a day'
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: select notika.begin_maintenance(''<reason>'', ''15 minutes'');';
  end if;
  if not pg_has_role(notika._caller(), current_user, 'member') then
    raise exception 'role "%" may not begin maintenance', notika._caller()
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant %I to %I;', current_user, notika._caller());
  end if;
  insert into notika.maintenance (reason, ends_at)
  values (begin_maintenance.reason, clock_timestamp() + begin_maintenance.ttl)
  returning maintenance_id into v_id;
  insert into notika.guard_log (verdict, reason) values ('maintenance begun', begin_maintenance.reason);
  return v_id;
end;
$$;

comment on function notika.begin_maintenance(text, interval) is
  'Opens a window in which the guard refuses nothing and takes notes; ends by itself after ttl.';

create or replace function notika.end_maintenance()
  returns table (workflow text, state text, reason text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  if not pg_has_role(notika._caller(), current_user, 'member') then
    raise exception 'role "%" may not end maintenance', notika._caller()
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant %I to %I;', current_user, notika._caller());
  end if;
  update notika.maintenance as m
     set ended_at = clock_timestamp()
   where m.ended_at is null;
  insert into notika.guard_log (verdict) values ('maintenance ended');

  for v_workflow_id in
    select w.workflow_id from notika.workflow as w where w.unpublished_at is null
  loop
    perform notika._reconcile(v_workflow_id, 'end_maintenance', true);
    perform notika._judge(v_workflow_id, 'end_maintenance', 'maintenance');
  end loop;
  return query select w.workflow, w.state, w.reason from notika.workflows as w;
end;
$$;

comment on function notika.end_maintenance() is
  'Closes the window, puts back what it can, and says in what state it leaves each workflow.';

create or replace function notika._rebind_copy()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.guard_state as s
     set workflow_table = 'notika.workflow'::regclass::oid
   where s.workflow_table <> 'notika.workflow'::regclass::oid;
  if not found then
    return;
  end if;

  -- Tables were restored by their names; numbers of columns and types were not.
  update notika.contract as c
     set attnum = a.attnum, type = a.atttypid, typmod = a.atttypmod
    from notika.workflow as w, pg_attribute as a
   where w.workflow_id = c.workflow_id and a.attrelid = w.relation
     and a.attname = c.column_name and not a.attisdropped
     and format_type(a.atttypid, a.atttypmod) = c.type_name;
  raise warning 'notika: this is a restored copy; workflows were bound to its tables by name'
    using hint = 'What could not be bound: select * from notika.health;';
end;
$$;

comment on function notika._rebind_copy() is
  'Binds contracts to the tables of a restored copy.';

create or replace function notika.check()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  perform notika._rebind_copy();
  for v_workflow_id in
    select s from notika._suspects() as s order by s
  loop
    begin
      perform notika._reconcile(v_workflow_id, 'check', true, false);
      perform notika._judge(v_workflow_id, 'check', 'check');
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others then
        raise warning 'notika could not check workflow %: % (%)', v_workflow_id, sqlerrm, sqlstate
          using hint = 'The others were checked.';
    end;
  end loop;
  return query select h.* from notika.health as h where h.severity <> 'ok';
end;
$$;

comment on function notika.check() is
  'Compares every contract with the catalog, marks what is broken and what is whole again, and '
  'gives what is not ok of notika.health. Does no DDL.';

create or replace function notika._health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if notika._has_event_triggers() then
    return query select 'guard', 'ok', null::text, 'judges migrations when they commit', null::text;
  else
    return query select 'guard', 'warning', null::text,
      'only pins protect: DROP … CASCADE is not refused, and pinned columns need a release first',
      'select * from notika.install(); it creates the event triggers or says why it cannot';
  end if;
  return query
    select f.kind,
           case when notika._is_breaking(f.kind) or w.broken_reason is not null then 'error'
                else 'warning' end,
           w.name,
           format('%s: expected %s, found %s', f.object, coalesce(f.expected, 'nothing'),
                  coalesce(f.actual, 'nothing')),
           case f.kind
             when 'trigger_disabled' then format('alter table %s enable trigger %s;',
               split_part(f.object, ' on ', 2), split_part(f.object, ' on ', 1))
             when 'part_not_captured' then 'select * from notika.install();'
             when 'function_replaced' then 'select * from notika.install();'
             else notika._call(w)
           end
      from notika._suspects() as s (workflow_id)
      join notika.workflow as w on w.workflow_id = s.workflow_id and w.unpublished_at is null
     cross join lateral notika._findings(w) as f;
  return query
    select 'broken', 'error', w.name, w.broken_reason, notika._call(w)
      from notika.workflow as w
     where w.unpublished_at is null and w.broken_reason is not null;
  return query
    select 'ring', case when l.oldest_waiting < clock_timestamp() - interval '1 minute'
                        then 'warning' else 'ok' end,
           null::text,
           format('%s events wait, the oldest since %s; the ring has %s', l.events_waiting,
                  coalesce(l.oldest_waiting::text, 'now'), pg_size_pretty(l.ring_bytes)),
           case when l.oldest_waiting < clock_timestamp() - interval '1 minute'
                then 'Is a runner alive? npx notika run' end
      from notika.lag as l;
end;
$$;

comment on function notika._health() is 'What notika.health shows.';

create or replace view notika.health as
select h.finding, h.severity, h.workflow, h.detail, h.remedy from notika._health() as h;

comment on view notika.health is 'What is well and what is not, with the call that mends it.';
comment on column notika.health.finding is 'What was looked at or found.';
comment on column notika.health.severity is 'ok, warning or error.';
comment on column notika.health.workflow is 'The workflow; null: all of them.';
comment on column notika.health.detail is 'What it is about.';
comment on column notika.health.remedy is 'What mends it.';
--! EndIncluded 75_ways_out.sql
--! Included 77_check_ddl.sql
-- check_ddl: what a migration would do to the workflows, found out by running it and undoing it.

create or replace function notika._split(sql text)
  returns table (line integer, statement text)
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_start integer := 1;
  v_at integer := 1;
  v_sign text;
  v_tag text;
  v_end integer;
begin
  -- Only what may hide a semicolon is recognised: strings, quoted names, comments, SQL bodies.
  while v_at <= length(sql) + 1 loop
    v_at := nullif(regexp_instr(sql, $re$['";$]|--|/\*$re$, v_at), 0);
    v_sign := case when v_at is null then ';' else substr(sql, v_at, 1) end;
    v_at := coalesce(v_at, length(sql) + 1);
    v_end := null;
    case
      when v_sign = '''' and substr(sql, greatest(v_at - 2, 1), least(v_at - 1, 2)) ~* '(^|\W)e$' then
        v_end := regexp_instr(sql, $re$'(?:[^'\\]|\\.|'')*'$re$, v_at, 1, 1);
      when v_sign = '''' then
        v_end := regexp_instr(sql, $re$'(?:[^']|'')*'$re$, v_at, 1, 1);
      when v_sign = '"' then
        v_end := regexp_instr(sql, $re$"(?:[^"]|"")*"$re$, v_at, 1, 1);
      when v_sign = '-' then
        v_end := regexp_instr(sql, '\n', v_at);
      when v_sign = '/' then
        v_end := strpos(substr(sql, v_at), '*/');
        v_end := case when v_end > 0 then v_at + v_end + 1 end;
      when v_sign = '$' then
        v_tag := substring(substr(sql, v_at, 70) from '^\$(?:[A-Za-z_]\w*)?\$');
        v_end := strpos(substr(sql, v_at + length(v_tag)), v_tag);
        v_end := case when v_tag is null then v_at + 1
                      when v_end > 0 then v_at + v_end + 2 * length(v_tag) - 1 end;
      else
        statement := substr(sql, v_start, v_at - v_start);
        if statement ~* '\mbegin\s+atomic\M' and statement !~* '\mend\s*$' and v_at <= length(sql) then
          v_end := v_at + 1; -- a semicolon inside a body
        else
          -- Its line is that of its first word.
          v_end := length(substring(statement from '^(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*'));
          line := 1 + length(regexp_replace(substr(sql, 1, v_start + v_end - 1), '[^\n]', '', 'g'));
          statement := rtrim(substr(statement, v_end + 1), E' \t\r\n');
          if statement <> '' then
            return next;
          end if;
          v_start := v_at + 1;
          v_end := v_at + 1;
        end if;
    end case;
    v_at := case when coalesce(v_end, 0) = 0 then length(sql) + 1 else v_end end;
    exit when v_start > length(sql) + 1;
  end loop;
end;
$$;

comment on function notika._split(text) is
  'The statements of an SQL text and the lines that they begin on.';

create or replace function notika._undoable(statement text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when statement ~* '\mconcurrently\M' then 'CONCURRENTLY cannot run in a transaction'
           when statement ~* '^(vacuum|cluster|reindex\s+(database|system)|(create|drop)\s+(database|'
             'tablespace|subscription)|alter\s+(system|database))\M'
             then format('%s cannot be undone', upper(substring(statement from '^\w+(?:\s+\w+)?')))
           when statement ~* '^(commit|rollback|end|abort|savepoint|release|prepare\s+transaction)\M'
             and statement !~* '^(commit|end)\s*(work|transaction)?$'
             then 'a transaction inside cannot be followed'
           when statement ~* '^copy\M.*\mfrom\s+stdin\M' or statement like '\\%'
             then 'that is for psql, not for the server'
         end;
$$;

comment on function notika._undoable(text) is
  'Why a statement cannot be tried and undone; null: it can.';

create or replace function notika._foresee(settled boolean)
  returns table (workflow text, kind text, object text, verdict text, expected text, actual text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  for v_workflow_id in
    select distinct p.workflow_id from notika.guard_pending as p
  loop
    if not exists (
      select from notika.guard_pending as p
       where p.workflow_id = v_workflow_id and p.dropped is not null
    ) then
      perform notika._reconcile(v_workflow_id, 'check_ddl', _foresee.settled);
    end if;
    return query
      select w.name, f.kind, f.object, notika._verdict(w, f.kind), f.expected, f.actual
        from notika.workflow as w
       cross join lateral notika._findings(w) as f
       where w.workflow_id = v_workflow_id and w.unpublished_at is null
         -- That is only a consequence of the others.
         and (f.kind <> 'trigger_dropped' or not exists (
           select from notika._findings(w) as o
            where notika._is_breaking(o.kind) and o.kind <> 'trigger_dropped'
         ));
  end loop;
  return query
    select l.workflow, l.kind, l.object, l.verdict, l.expected, l.actual
      from notika.guard_log as l
     where l.xid = pg_current_xact_id() and l.verdict in ('followed', 'healed')
       -- Some is noted while the statements run.
       and l.at >= statement_timestamp();
end;
$$;

comment on function notika._foresee(boolean) is
  'What the guard would find now, about the workflows that this transaction has touched.';

create or replace function notika._foresee_pinned(sql text, path text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  if notika._has_event_triggers() then
    return;
  end if;
  for v_workflow_id in
    select distinct w.workflow_id
      from unnest(notika._commands(_foresee_pinned.sql)) as c (command)
     cross join lateral notika._named_tables(c.command, _foresee_pinned.path) as n (relation)
     cross join lateral notika._tables(n.relation) as d (relation)
      join notika.contract_table as t on t.relation = d.relation
      join notika.workflow as w on w.workflow_id = t.workflow_id and w.unpublished_at is null
  loop
    perform notika._summon(array[v_workflow_id], 'CHECK', 'check_ddl');
    perform notika._loosen(v_workflow_id);
  end loop;
end;
$$;

comment on function notika._foresee_pinned(text, text) is
  'Where only pins protect: takes those away that would hide what the migration does.';

create or replace function notika.check_ddl(sql text)
  returns table (
    statement_number integer,
    line integer,
    statement text,
    workflow text,
    verdict text,
    problem text,
    remedy text
  )
  language plpgsql
  volatile
  security invoker -- it runs somebody's DDL, so as them, and on their search_path
  set lock_timeout = '500ms'
as $$
declare
  v_statement record;
  v_reason text;
  v_message text;
  v_detail text;
  v_hint text;
  v_seen jsonb[] := array[]::jsonb[]; -- what was found after each statement
  v_lines integer[] := array[]::integer[];
  v_texts text[] := array[]::text[];
  v_last jsonb;
begin
  begin
    perform notika._foresee_pinned(sql, pg_catalog.current_setting('search_path'));
    for v_statement in select s.line, s.statement from notika._split(check_ddl.sql) as s loop
      continue when v_statement.statement ~* '^(begin|start\s+transaction|commit|end)\s*(work|transaction)?$';
      v_lines := v_lines || v_statement.line;
      v_texts := v_texts || v_statement.statement;
      v_reason := notika._undoable(v_statement.statement);
      if v_reason is not null then
        statement_number := cardinality(v_texts);
        line := v_statement.line;
        statement := v_statement.statement;
        verdict := 'unknown';
        problem := format('cannot be tried: %s', v_reason);
        remedy := 'Check the rest without it.';
        return next;
        v_seen := v_seen || coalesce(v_seen[cardinality(v_seen)], '[]');
        continue;
      end if;

      begin
        execute v_statement.statement;
      exception when others then
        get stacked diagnostics
          v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
        statement_number := cardinality(v_texts);
        line := v_statement.line;
        statement := v_statement.statement;
        verdict := case when sqlstate in ('NK001', '2BP01', '0A000') then 'breaks' else 'error' end;
        problem := concat_ws(E'\n', v_message, nullif(v_detail, ''));
        remedy := nullif(v_hint, '');
        return next;
        exit; -- what follows would be judged on a state that will not be
      end;
      v_seen := v_seen || (
        select coalesce(jsonb_agg(jsonb_build_array(f.workflow, f.kind, f.object)), '[]')
          from notika._foresee(false) as f
      );
    end loop;
    select coalesce(jsonb_agg(to_jsonb(f)), '[]') into v_last from notika._foresee(true) as f;
    raise exception 'undo' using errcode = 'NKUND';
  exception when sqlstate 'NKUND' then
    null;
  end;

  return query
    select b.number, v_lines[b.number], v_texts[b.number], f.workflow,
           case f.verdict when 'blocked' then 'breaks' when 'warned' then 'warns'
                          when 'ignored' then 'breaks unguarded' else f.verdict end,
           format('%s %s%s', replace(f.kind, '_', ' '), f.object,
                  case when f.actual is not null
                       then format(': %s instead of %s', f.actual, f.expected) else '' end),
           case when f.verdict = 'blocked' then format(
             'Publish %1$s anew in the same transaction, or select notika.allow_breaking_change(%1$L, ''<reason>'');',
             f.workflow) end
      from jsonb_to_recordset(v_last) as f (
             workflow text, kind text, object text, verdict text, expected text, actual text)
     cross join lateral (
       -- The first statement after which it was so until the end.
       select coalesce(max(s.place) filter (
                where not s.seen @> jsonb_build_array(jsonb_build_array(f.workflow, f.kind, f.object))
              ), 0)::integer + 1 as number
         from unnest(v_seen) with ordinality as s (seen, place)
     ) as n
     cross join lateral (select least(n.number, cardinality(v_texts)) as number) as b
     order by 1, 4, 6;
end;
$$;

comment on function notika.check_ddl(text) is
  'What a migration would do to the workflows, statement by statement: breaks, warns, followed, '
  'healed, error or unknown. Runs it with the rights of the caller and undoes it; waits half a '
  'second for each lock. No rows: no workflow would notice. Sequences and session locks stay moved.';
--! EndIncluded 77_check_ddl.sql
--! Included 80_install.sql
-- install(): puts right whatever is derived, and says what it did; as often as one likes.

create or replace function notika._install_guard()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  step := 'guard';
  if notika._has_event_triggers() then
    outcome := 'ok';
    detail := 'judges migrations when they commit';
    return next;
    return;
  end if;

  begin
    drop event trigger if exists notika_guard_start;
    drop event trigger if exists notika_guard_drop;
    drop event trigger if exists notika_guard_end;
    create event trigger notika_guard_start on ddl_command_start
      when tag in ('ALTER TABLE', 'DROP TABLE', 'ALTER TYPE')
      execute function notika._guard_start();
    create event trigger notika_guard_drop on sql_drop
      execute function notika._guard_drop();
    create event trigger notika_guard_end on ddl_command_end
      when tag in (
        'ALTER TABLE', 'DROP TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO',
        'CREATE TRIGGER', 'ALTER TRIGGER', 'DROP TRIGGER', 'CREATE RULE', 'ALTER TYPE',
        'DROP TYPE', 'ALTER DOMAIN', 'DROP DOMAIN', 'ALTER SCHEMA', 'DROP SCHEMA', 'CREATE FUNCTION',
        'ALTER FUNCTION', 'DROP FUNCTION', 'DROP OWNED', 'DROP EXTENSION'
      )
      execute function notika._guard_end();
    -- Also under session_replication_role = replica.
    alter event trigger notika_guard_start enable always;
    alter event trigger notika_guard_drop enable always;
    alter event trigger notika_guard_end enable always;
    outcome := 'created';
    detail := 'judges migrations when they commit';
  exception when insufficient_privilege then
    outcome := 'limited';
    detail := format('role "%s" may not create event triggers: only pins protect. Columns in use '
                     'cannot be dropped or retyped without notika.release(workflow, reason)',
                     current_user);
  end;
  return next;
end;
$$;

comment on function notika._install_guard() is
  'Creates the event triggers, or says why it could not.';

create or replace function notika.install()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '3s'
as $$
declare
  v_workflow notika.workflow;
  v_after notika.workflow;
  v_statement text;
  v_count integer;
begin
  return query select 'version', 'ok', format('notika %s on PostgreSQL %s', notika.version(),
                                               current_setting('server_version'));

  -- A dump without data restores sequences that were never used, and show their first value as last.
  if pg_sequence_last_value('notika.event_id_seq') is null then
    perform setval('notika.event_id_seq', 0);
  end if;
  if pg_sequence_last_value('notika.control_seq') is null then
    perform setval('notika.control_seq', 0);
  end if;

  step := 'cursor';
  if not exists (select from notika.position) then
    insert into notika.position (system_identifier, snapshot, low, horizon)
    select c.system_identifier, notika._snapshot(), notika._last_event_id(), 0
      from pg_control_system() as c;
    outcome := 'created';
    detail := 'events are handed over from now on';
  else
    outcome := 'ok';
    detail := format('%s events wait', (select l.events_waiting from notika.lag as l));
  end if;
  return next;

  select count(*) into v_count from notika_worker.migrations;
  return query
    select 'worker', 'ok', format('graphile-worker in schema notika_worker, revision %s', v_count);

  perform notika._rebind_copy();
  return query select * from notika._install_guard();

  for v_workflow in
    select w.* from notika.workflow as w where w.unpublished_at is null order by w.name
  loop
    step := format('workflow %s', v_workflow.name);
    begin
      v_after := v_workflow;
      v_after.is_pinned := notika._has_all_it_needs(v_workflow)
                           and notika._wants_pins(v_workflow.guard);
      v_after.definition := notika._definition(v_after);
      if exists (
        select from notika._findings(v_workflow) as f
         where f.kind in ('trigger_dropped', 'trigger_disabled', 'trigger_replaced',
                          'function_replaced', 'part_not_captured')
      ) then
        v_workflow.definition := '{}';
      end if;
      perform notika._set_busy(true);
      v_count := notika._apply(v_workflow, v_after);
      perform notika._set_busy(false);
      update notika.workflow as w
         set definition = v_after.definition, is_pinned = v_after.is_pinned
       where w.workflow_id = v_workflow.workflow_id and v_count > 0;
      outcome := case when v_count > 0 then 'repaired' else 'ok' end;
      detail := format('captures on %s', notika._quoted(v_workflow.relation));
    exception when others then
      outcome := 'failed';
      detail := format('%s; publish it again: %s', sqlerrm, notika._call(v_workflow));
    end;
    return next;
  end loop;

  -- What an earlier workflow may have left behind.
  for v_statement in
    select format('drop function %s cascade', p.oid::regprocedure)
      from pg_proc as p
     where p.pronamespace = 'notika'::regnamespace
       and p.proname ~ '^(_capture|_passes|payload)_[0-9]+$'
       and not exists (
         select from notika.workflow as w
          where w.unpublished_at is null
            and w.workflow_id = substring(p.proname from '[0-9]+$')::integer
       )
  loop
    perform notika._set_busy(true);
    execute v_statement;
    perform notika._set_busy(false);
    return query select 'orphan', 'removed', v_statement;
  end loop;
end;
$$;

comment on function notika.install() is
  'Creates what is missing and puts right what is not as it should be; says what it did and what it '
  'could not. Idempotent.';
--! EndIncluded 80_install.sql
--! Included 90_grants.sql
-- Runs last.  Nobody but the owner may do anything until somebody is granted it: default
-- privileges would give EXECUTE on every function to everybody, and `alter default privileges`
-- in a schema cannot take that away.

revoke all on schema notika from public;
revoke all on all tables in schema notika from public;
revoke all on all sequences in schema notika from public;
revoke execute on all functions in schema notika from public;

-- But for the conditions of workflows without pins: a trigger evaluates them as whoever writes.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid
      from pg_catalog.pg_proc as p
     where p.pronamespace = 'notika'::pg_catalog.regnamespace and p.proname ~ '^_passes_[0-9]+$'
  loop
    execute pg_catalog.format('grant execute on function %s to public', v_function);
  end loop;
end;
$$;
--! EndIncluded 90_grants.sql
