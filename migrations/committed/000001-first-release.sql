--! Previous: -
--! Hash: sha1:d1d47058580cba34de5adf279115851530634511
--! Message: first release

--! split: 1-current.sql
-- The first release: all of sql/0_tables.
--! Included 10_workflow.sql
-- Tables of what is published: the settings of this installation, workflows, schedules, backfills,
-- and the roles that were given a part.
-- To change a table, edit it here and write the ALTER in migrations/current.  New columns go last.
-- An unpublished workflow keeps its row and its id, because events and runs refer to it.

create table notika.migration (
  name text not null,
  hash text not null,
  applied_at timestamptz not null default now(),
  constraint migration_pkey primary key (name)
);

comment on table notika.migration is
  'The migrations that created the tables of this database, and the code that was loaded last.';
comment on column notika.migration.name is
  'The file name of the migration without its ending; code for all files except those of the '
  'tables.';
comment on column notika.migration.hash is
  'The SHA-256 of the file. A released migration never changes.';
comment on column notika.migration.applied_at is
  'When the migration was applied or the code was loaded.';

create or replace function notika._relation(schema_name text, name text)
  returns oid
  language sql
  stable
begin atomic
  -- A subquery, not a join: a join may start with every relation of that name, one for each schema.
  select c.oid
    from pg_class as c
   where c.relnamespace = (select n.oid from pg_namespace as n where n.nspname = schema_name)
     and c.relname = name;
end;

comment on function notika._relation(text, text) is
  'The oid of the relation with that name in that schema; null: there is none.';

create or replace function notika._table(name text)
  returns regclass
  language sql
  -- A generated column requires IMMUTABLE, but the result depends on the catalog: in a
  -- restored copy the oid is another one.  A restore relies on that: it computes the column again.
  -- Nothing else may rely on the label.
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select c.oid
    from pg_class as c
   where c.oid = notika._relation((parse_ident(_table.name))[1], (parse_ident(_table.name))[2])
     and c.relkind in ('r', 'p');
$$;

comment on function notika._table(text) is
  'The table with that qualified name; null: there is none.';

create table notika.setting (
  only_row boolean not null default true,
  segment_age interval not null default '8 hours',
  segment_bytes bigint not null default 1073741824,
  payload_bytes integer not null default 1048576,
  max_depth smallint not null default 16,
  max_attempts smallint not null default 12,
  missed_after interval not null default '10 minutes',
  runs_kept interval not null default '30 days',
  installation uuid,
  database_id oid,
  blocked_for interval not null default '15 minutes',
  constraint setting_pkey primary key (only_row),
  constraint setting_only_row_check check (only_row),
  constraint setting_segment_age_check check (segment_age > interval '0'),
  constraint setting_segment_bytes_check check (segment_bytes > 0),
  constraint setting_payload_bytes_check check (payload_bytes between 1024 and 1048576),
  constraint setting_max_depth_check check (max_depth > 0),
  constraint setting_max_attempts_check check (max_attempts > 0),
  constraint setting_missed_after_check check (missed_after >= interval '0'),
  constraint setting_runs_kept_check check (runs_kept >= interval '0'),
  constraint setting_blocked_for_check check (blocked_for >= interval '0')
);

comment on table notika.setting is
  'The limits and the name of this installation. One row; change a limit with UPDATE.';
comment on column notika.setting.only_row is 'Always true, so that the table has one row.';
comment on column notika.setting.segment_age is
  'The ring turns when the oldest event in its current segment is older than this.';
comment on column notika.setting.segment_bytes is
  'The ring turns when its current segment is larger than this number of bytes.';
comment on column notika.setting.payload_bytes is
  'An old or new row larger than this number of bytes is reduced to its key. A change applies to a '
  'workflow when it is next published.';
comment on column notika.setting.max_depth is
  'The longest chain of runs that start each other; the next run fails.';
comment on column notika.setting.max_attempts is
  'The number of attempts of a run, unless its task sets another.';
comment on column notika.setting.missed_after is
  'A schedule with missed => skip still starts a run for a time that is at most this long ago.';
comment on column notika.setting.runs_kept is 'How long finished runs are kept.';
comment on column notika.setting.installation is
  'Part of the idempotency keys of steps, so that a copy of the database uses other keys. Null '
  'until a runner first needs it.';
comment on column notika.setting.database_id is
  'The oid of the database that got the name in installation. In a database with another oid, a '
  'copy, installation is set again.';
comment on column notika.setting.blocked_for is
  'How long a runner counts as alive while a task blocks its event loop. After that, other runners '
  'take over its runs.';

insert into notika.setting default values;

create table notika.workflow (
  workflow_id integer generated always as identity,
  name text not null,
  table_name text,
  operations text[] not null,
  columns text[],
  column_names text[],
  watch text[],
  condition text,
  condition_sql text,
  condition_uses jsonb,
  capture text not null default 'row',
  guard text not null,
  on_rename text not null,
  definition text[] not null,
  is_pinned boolean not null default true,
  broken_reason text,
  published_at timestamptz not null default clock_timestamp(),
  published_by name not null default current_user,
  publisher_id oid,
  unpublished_at timestamptz,
  paused_at timestamptz,
  relation regclass generated always as (
    case when unpublished_at is null then notika._table(table_name) end
  ) stored,
  options jsonb not null default '{}',
  match text[],
  given jsonb not null default '[]',
  fires_always boolean not null default false,
  placed_until timestamptz,
  resumed_at timestamptz,
  made_by text,
  constraint workflow_pkey primary key (workflow_id),
  constraint workflow_name_key unique (name),
  constraint workflow_name_check check (
    name ~ '^[A-Za-z][A-Za-z0-9_-]{0,62}(:[A-Za-z][A-Za-z0-9_-]{0,62})?$'
  ),
  constraint workflow_capture_check check (capture in ('row', 'statement')),
  constraint workflow_guard_check check (guard in ('block', 'warn', 'off')),
  constraint workflow_on_rename_check check (on_rename in ('follow', 'block'))
);
create index workflow_table_name_idx on notika.workflow (table_name);
create index workflow_loose_idx on notika.workflow (workflow_id)
  where not is_pinned and broken_reason is null;
create index workflow_source_idx on notika.workflow (split_part(name, ':', 1))
  where strpos(name, ':') > 0;

comment on table notika.workflow is
  'The contract of each workflow: what was published. See the view notika.workflows.';
comment on column notika.workflow.workflow_id is
  'Part of the names of the objects that publish creates, such as trigger notika_12_insert and '
  'function notika.payload_12.';
comment on column notika.workflow.name is
  'The name of the workflow and of its task module; for a source, workflow:source.';
comment on column notika.workflow.table_name is
  'The qualified name of the table at the last publish; null: the workflow has no table.';
comment on column notika.workflow.operations is
  'The captured operations, any of insert, update, delete.';
comment on column notika.workflow.columns is
  'The columns in the payload by their names at publication, which stay the payload''s keys; null: '
  'the whole row.';
comment on column notika.workflow.column_names is
  'The current names of these columns. A rename changes them, not the keys of the payload.';
comment on column notika.workflow.watch is
  'An update is captured only when one of these columns changes; null: every update is.';
comment on column notika.workflow.condition is
  'SQL over new and old, as the caller wrote it; only changes that meet it are captured.';
comment on column notika.workflow.condition_sql is
  'The condition as Postgres prints it, with qualified names; the WHEN clause of the triggers.';
comment on column notika.workflow.condition_uses is
  'The objects that the condition depends on, and what its names referred to: see notika._uses.';
comment on column notika.workflow.capture is
  'The kind of trigger that publish chose: row, or statement where that captures the same changes.';
comment on column notika.workflow.guard is
  'What the guard does about DDL that breaks the contract: block, warn or off.';
comment on column notika.workflow.on_rename is
  'What the guard does about the rename of a column or table: follow or block.';
comment on column notika.workflow.definition is
  'The statements that created the workflow''s functions and triggers. publish compares them with '
  'those it would run now.';
comment on column notika.workflow.is_pinned is
  'Whether the functions depend on the columns they read, so that Postgres refuses to drop one. '
  'False during a permitted migration and while the workflow is broken.';
comment on column notika.workflow.broken_reason is
  'Why no changes can be captured; null: the workflow is not broken.';
comment on column notika.workflow.published_at is
  'When the workflow was last published or changed.';
comment on column notika.workflow.published_by is
  'The role that published the workflow; its members may change the workflow.';
comment on column notika.workflow.publisher_id is
  'The oid of that role, which stays when the role is renamed.';
comment on column notika.workflow.unpublished_at is
  'When the workflow was unpublished; null: it is published.';
comment on column notika.workflow.paused_at is
  'When the workflow was paused, which holds its runs; null: it is not paused.';
comment on column notika.workflow.relation is
  'The table. Computed from table_name when the row is written, also when a dump is restored; as '
  'an oid it is unaffected by renames.';
comment on column notika.workflow.options is
  'How its events are dispatched, such as key and concurrency: see notika.configure.';
comment on column notika.workflow.match is
  'For a source, the payload keys that waits compare. For workflow:cancel an item a=b also names '
  'the key of the run''s own event. Null: not a source.';
comment on column notika.workflow.given is
  'The rights that publish granted to the owner of Notika for this workflow; unpublish revokes '
  'them.';
comment on column notika.workflow.fires_always is
  'Whether the table''s owner has enabled the triggers for replicated changes (ENABLE ALWAYS). The '
  'workflow then keeps row triggers until it is unpublished.';
comment on column notika.workflow.placed_until is
  'The last place in the queue that a run got when the workflow was resumed; new runs are placed '
  'behind it.';
comment on column notika.workflow.resumed_at is
  'When the workflow was last resumed after a pause; null: never.';
comment on column notika.workflow.made_by is
  'The hash of the code that created the functions and triggers, or last found them unchanged: see '
  'notika._code.';

create table notika.schedule (
  workflow_id integer not null,
  cron text not null,
  time_zone text not null,
  missed text not null,
  next_at timestamptz not null,
  last_at timestamptz,
  error text,
  tried_at timestamptz,
  constraint schedule_pkey primary key (workflow_id),
  constraint schedule_missed_check check (missed in ('skip', 'catch up'))
) with (fillfactor = 50);
create index schedule_next_at_idx on notika.schedule (next_at);

comment on table notika.schedule is
  'The schedules of workflows that start by time. See the view notika.schedules.';
comment on column notika.schedule.workflow_id is 'The workflow that the schedule starts.';
comment on column notika.schedule.cron is
  'A cron expression: minute, hour, day of month, month, day of week.';
comment on column notika.schedule.time_zone is
  'The time zone in which the cron expression is read, a name of pg_timezone_names.';
comment on column notika.schedule.missed is
  'What happens to times at which no dispatcher was running: skip or catch up.';
comment on column notika.schedule.next_at is
  'The next time to start a run; infinity: there is none.';
comment on column notika.schedule.last_at is 'The last planned time for which a run was started.';
comment on column notika.schedule.error is
  'Why the run that is due could not be started; the schedule is tried again until it can.';
comment on column notika.schedule.tried_at is
  'When the failed start was last tried; null: there is no failure.';

create table notika.backfill (
  backfill_id integer generated always as identity,
  workflow_id integer not null,
  condition text,
  condition_sql text,
  condition_uses jsonb,
  state text not null default 'running',
  snapshot pg_snapshot not null,
  ends jsonb not null,
  keys jsonb not null,
  part oid,
  last_key text[],
  last_runs bigint[] not null default '{}',
  rows_seen bigint not null default 0,
  events bigint not null default 0,
  started_at timestamptz not null default clock_timestamp(),
  started_by name not null,
  finished_at timestamptz,
  error text,
  error_code text,
  constraint backfill_pkey primary key (backfill_id),
  constraint backfill_state_check check (state in ('running', 'failed', 'done', 'cancelled'))
) with (fillfactor = 50);
create unique index backfill_unfinished_idx
  on notika.backfill (workflow_id) where finished_at is null;

comment on table notika.backfill is
  'The backfills that were started. See the view notika.backfills.';
comment on column notika.backfill.backfill_id is
  'The number of the backfill, in the order in which they were started.';
comment on column notika.backfill.workflow_id is 'The workflow whose runs the backfill creates.';
comment on column notika.backfill.condition is
  'Limits the rows in addition to the workflow''s own condition, as the caller wrote it; null: all '
  'rows.';
comment on column notika.backfill.condition_sql is 'The condition with qualified names.';
comment on column notika.backfill.condition_uses is
  'The objects that the condition depends on, and what its names referred to: see notika._uses.';
comment on column notika.backfill.state is 'running, failed, done or cancelled.';
comment on column notika.backfill.snapshot is
  'The snapshot at the start. A row changed after it may have started a run of its own; it is then '
  'skipped.';
comment on column notika.backfill.ends is
  'For each table of the family, by its oid, the last key at the start.';
comment on column notika.backfill.keys is
  'For each of these tables, its key columns at the start. Pages are read only while they are the '
  'same.';
comment on column notika.backfill.part is
  'The oid of the table, of the family, that is being read; null: none has been started.';
comment on column notika.backfill.last_key is
  'The last key that was read in that table; null: none.';
comment on column notika.backfill.last_runs is 'The runs that the last page created.';
comment on column notika.backfill.rows_seen is 'The number of rows that were read.';
comment on column notika.backfill.events is 'The number of runs that were created.';
comment on column notika.backfill.started_at is 'When the backfill was started.';
comment on column notika.backfill.started_by is 'The role that started the backfill.';
comment on column notika.backfill.finished_at is
  'When the backfill was done or cancelled. Null while it runs or has failed, because a failed '
  'backfill can be continued.';
comment on column notika.backfill.error is
  'The message of the error with which it failed; it may quote values of rows.';
comment on column notika.backfill.error_code is
  'The SQLSTATE of that error, with the column and table if they are known.';

create table notika.backfill_key (
  backfill_id integer not null,
  key text not null,
  constraint backfill_key_pkey primary key (backfill_id, key)
);

comment on table notika.backfill_key is
  'The rows that started the workflow by a change of their own since its backfill started.';
comment on column notika.backfill_key.backfill_id is 'The backfill that skips the row.';
comment on column notika.backfill_key.key is 'The key of the row, as text.';

create table notika.grantee (
  role_id oid not null,
  role_name name not null,
  part text not null,
  granted_at timestamptz not null default clock_timestamp(),
  granted_by name not null default current_user,
  constraint grantee_pkey primary key (role_name, part),
  constraint grantee_part_check check (part in ('publisher', 'runner', 'reader', 'monitor'))
);

comment on table notika.grantee is
  'The roles that were made publishers, runners, readers or monitors. Their rights are listed by '
  'notika._rights().';
comment on column notika.grantee.role_id is
  'The oid of the role. A regrole would make the restore of a dump fail where the role is missing.';
comment on column notika.grantee.role_name is
  'The name of the role, by which a restored copy finds it.';
comment on column notika.grantee.part is
  'The part of the role: publisher, runner, reader or monitor.';
comment on column notika.grantee.granted_at is 'When the part was granted.';
comment on column notika.grantee.granted_by is 'The role that granted the part.';
--! EndIncluded 10_workflow.sql
--! Included 20_log.sql
-- Tables of the ring, which holds the captured events, and of the cursor that dispatches them.
-- A sequence holds the number of the current segment, because sequences are not subject to MVCC.  A
-- writer at REPEATABLE READ could read an old number from a table, and append to a segment that is
-- being retired.

create sequence notika.event_id_seq as bigint minvalue 0 start 0 cache 1;
comment on sequence notika.event_id_seq is
  'Numbers the events. cache 1 keeps the ids of the changes of one row in the order of the '
  'changes.';

create sequence notika.control_seq as bigint minvalue 0 start 0 cache 1;
comment on sequence notika.control_seq is
  'Its last value is twice the number of turns of the ring, plus one while the dispatcher sleeps.';

-- Before its first use a sequence shows its start value as its last value, so use each once.
do $$
begin
  perform setval('notika.event_id_seq', 0);
  perform setval('notika.control_seq', 0);
end;
$$;

create table notika.event_log_0 (
  event_id bigint not null default nextval('notika.event_id_seq'),
  xid xid8 not null default pg_current_xact_id(),
  captured_at timestamptz not null default clock_timestamp(),
  cause_id bigint,
  workflow_id integer not null,
  depth smallint not null default 0,
  truncated boolean not null default false,
  operation text not null,
  new json,
  old json,
  snapshot pg_snapshot
) with (autovacuum_enabled = off); -- rows are never updated or deleted; TRUNCATE empties a segment
create index event_log_0_event_id_idx on notika.event_log_0 (event_id);

comment on table notika.event_log_0 is 'A segment of the ring. See the view notika.event_log.';
comment on column notika.event_log_0.event_id is 'The id of the event, and of the run it starts.';
comment on column notika.event_log_0.xid is 'The transaction that made the change.';
comment on column notika.event_log_0.captured_at is 'When the trigger captured the change.';
comment on column notika.event_log_0.cause_id is 'The run that made the change; null: no run did.';
comment on column notika.event_log_0.workflow_id is 'The workflow that receives the event.';
comment on column notika.event_log_0.depth is
  'The number of runs in the chain that led to the change; 0: no run did.';
comment on column notika.event_log_0.truncated is
  'Whether old and new were reduced to the key because a row was too large.';
comment on column notika.event_log_0.operation is
  'insert, update, delete, or another way to start a run.';
comment on column notika.event_log_0.new is 'The row after the change; null after a delete.';
comment on column notika.event_log_0.old is 'The row before the change; null before an insert.';
comment on column notika.event_log_0.snapshot is
  'The snapshot of the change, if its run may wait for later changes; otherwise null.';

create table notika.event_log_1 (
  like notika.event_log_0 including defaults including indexes including comments
) with (autovacuum_enabled = off);
create table notika.event_log_2 (
  like notika.event_log_0 including defaults including indexes including comments
) with (autovacuum_enabled = off);

comment on table notika.event_log_1 is 'A segment of the ring. See the view notika.event_log.';
comment on table notika.event_log_2 is 'A segment of the ring. See the view notika.event_log.';

-- It has no column, and so no index: through brin_summarize_range() on an index any role can lock
-- the table in this mode for a moment.
create table notika.dispatch_lock () with (autovacuum_enabled = off);

comment on table notika.dispatch_lock is
  'Always empty. Its lock in SHARE UPDATE EXCLUSIVE mode is the right to move the cursor.';

-- For a publication FOR ALL TABLES; the table is never changed.
alter table notika.dispatch_lock replica identity full;

create table notika.position (
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
  burst_ids integer[] not null default '{}',
  burst_snapshot pg_snapshot,
  burst_high bigint,
  burst_low bigint,
  burst_pending_xids xid8[],
  burst_pending_lows bigint[],
  burst_window_snapshot pg_snapshot,
  burst_window_low bigint,
  burst_window_high bigint,
  burst_window_at bigint,
  constraint position_pkey primary key (position_id)
);

comment on table notika.position is
  'The positions of the dispatcher. Each dispatch appends a row; the newest one counts.';
comment on column notika.position.position_id is
  'The number of the position; the greatest one counts.';
comment on column notika.position.taken_at is 'When the position was appended.';
comment on column notika.position.xid is 'The transaction that appended the position.';
comment on column notika.position.system_identifier is
  'The cluster that the transaction ids in this row belong to.';
comment on column notika.position.snapshot is
  'Every event that this snapshot sees has been dispatched.';
comment on column notika.position.high is
  'The snapshot sees no event with a greater id. In a restored copy, new events could otherwise '
  'look dispatched.';
comment on column notika.position.low is
  'Transactions that the snapshot does not see have written no event with an id up to this one.';
comment on column notika.position.pending_xids is
  'The transactions that were running in the newest snapshot: the window''s if a window is open.';
comment on column notika.position.pending_lows is
  'For each of these transactions, the id up to which it has written no event.';
comment on column notika.position.window_snapshot is
  'The snapshot whose events are being dispatched in chunks; null: no window is open.';
comment on column notika.position.window_low is 'The value that low gets when the window is done.';
comment on column notika.position.window_high is 'The last event id of the window.';
comment on column notika.position.window_at is
  'The events of the window are dispatched up to this id.';
comment on column notika.position.horizon is
  'The last event id before xid was assigned. Later transactions write greater ids.';
comment on column notika.position.flow_ids is
  'What the places in flow_places belong to. 0: the first run that may start. The id of a '
  'workflow: its last new run that waits. The same negated: its last run that has become due.';
comment on column notika.position.flow_priorities is 'For each item of flow_ids, its priority.';
comment on column notika.position.flow_places is
  'For each item of flow_ids, its place in the queue. See notika._head.';
comment on column notika.position.burst_ids is
  'The workflows that a second cursor dispatches, because a burst of their events was set aside. '
  'Empty: there is no such cursor.';
comment on column notika.position.burst_snapshot is 'snapshot of the second cursor.';
comment on column notika.position.burst_high is 'high of the second cursor.';
comment on column notika.position.burst_low is 'low of the second cursor.';
comment on column notika.position.burst_pending_xids is 'pending_xids of the second cursor.';
comment on column notika.position.burst_pending_lows is 'pending_lows of the second cursor.';
comment on column notika.position.burst_window_snapshot is 'window_snapshot of the second cursor.';
comment on column notika.position.burst_window_low is 'window_low of the second cursor.';
comment on column notika.position.burst_window_high is 'window_high of the second cursor.';
comment on column notika.position.burst_window_at is 'window_at of the second cursor.';
--! EndIncluded 20_log.sql
--! Included 30_run.sql
-- Tables of runs: their outcomes, steps and waits, the lines they queue in, and the runners.
-- Jobs are kept by graphile-worker, not here.

create table notika.run_log (
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
) with (autovacuum_vacuum_scale_factor = 0.05); -- rows are deleted as fast as new ones are added
-- Only the first outcome of a run is kept: a runner that lost its lock cannot change it.
create unique index run_log_run_id_idx
  on notika.run_log (run_id) where retried_at is null;
create index run_log_finished_at_idx on notika.run_log (finished_at);
create index run_log_workflow_idx on notika.run_log (workflow, run_id);
create index run_log_bad_end_idx on notika.run_log (run_id)
  where state <> 'done' and retried_at is null;
create index run_log_cancelled_idx
  on notika.run_log (run_id) where state = 'cancelled';

comment on table notika.run_log is
  'The outcome of each run, appended when it ends. See the view notika.runs.';
comment on column notika.run_log.run_id is 'The id of the run, equal to the id of its event.';
comment on column notika.run_log.workflow is 'The name of the workflow.';
comment on column notika.run_log.state is 'done, failed, cancelled or expired.';
comment on column notika.run_log.attempts is 'The number of attempts that were made.';
comment on column notika.run_log.event is
  'The event. Kept for runs that did not succeed, because the ring drops it; null for others.';
comment on column notika.run_log.error is 'The message of the last error.';
comment on column notika.run_log.stack is 'The stack trace of the last error.';
comment on column notika.run_log.created_at is 'When the event was captured.';
comment on column notika.run_log.started_at is 'When the last attempt began.';
comment on column notika.run_log.finished_at is 'When the run ended.';
comment on column notika.run_log.retried_at is
  'When notika.retry started the run again. The row is then history.';

create type notika._new_job as (
  workflow text,
  payload json,
  run_at timestamptz,
  max_attempts smallint,
  key text,
  priority smallint,
  flags text[]
);

comment on type notika._new_job is 'A run for which a job is to be added. See notika._add_jobs.';
comment on column notika._new_job.workflow is 'The name of the workflow.';
comment on column notika._new_job.payload is 'The event that the task receives.';
comment on column notika._new_job.run_at is
  'The place of the run in the queue; infinity: it waits until it is woken.';
comment on column notika._new_job.max_attempts is 'The number of attempts.';
comment on column notika._new_job.key is 'The id of the run, as text.';
comment on column notika._new_job.priority is 'Jobs with lower numbers start first.';
comment on column notika._new_job.flags is 'The flags of the job; null: none.';

create table notika.runner (
  runner_id text not null,
  host text not null,
  pid integer not null,
  tasks text[] not null,
  started_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp(),
  suspected_at timestamptz,
  blocked_since timestamptz,
  constraint runner_pkey primary key (runner_id)
) with (fillfactor = 50);

comment on table notika.runner is
  'The runners that are alive. Each updates its row every ten seconds and deletes it when it '
  'stops.';
comment on column notika.runner.runner_id is
  'The id of the runner''s worker pool, which graphile-worker writes into the jobs it locks.';
comment on column notika.runner.host is 'The host name of the machine.';
comment on column notika.runner.pid is 'The process id on that machine.';
comment on column notika.runner.tasks is 'The workflows that the runner has a task for.';
comment on column notika.runner.started_at is 'When the runner started.';
comment on column notika.runner.seen_at is 'When the runner last sent a heartbeat.';
comment on column notika.runner.suspected_at is
  'When the runner was first suspected to be dead; it is taken for dead if it stays silent. Null: '
  'it is not suspected.';
comment on column notika.runner.blocked_since is
  'When a task began to block the runner''s event loop, so that nothing else runs there; null: '
  'none does.';

-- Without a primary key, a publication FOR ALL TABLES refuses updates and deletes otherwise.
alter table notika.run_log replica identity full;

create table notika.signal_lock (
  place integer not null,
  constraint signal_lock_pkey primary key (place),
  constraint signal_lock_place_check check (place between 0 and 31)
);

comment on table notika.signal_lock is
  'Rows to lock, never changed: a session in which a wait begins locks one of them, the delivery '
  'of signals locks all.';
comment on column notika.signal_lock.place is
  'The number of the row. A session locks the row that is its process id modulo 32.';

insert into notika.signal_lock select generate_series(0, 31);

create table notika.line_lock (
  workflow_id integer not null,
  constraint line_lock_pkey primary key (workflow_id)
);

comment on table notika.line_lock is
  'Rows to lock, never changed: one for each workflow with lines.';
comment on column notika.line_lock.workflow_id is 'The workflow whose lines the row locks.';

create table notika.run_key (
  workflow_id integer not null,
  key text not null,
  run_id bigint not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint run_key_pkey primary key (workflow_id, key)
);
create index run_key_created_at_idx on notika.run_key (created_at);

comment on table notika.run_key is
  'For workflows with a key: the run that each key started, while the key is remembered. See '
  'notika.configure.';
comment on column notika.run_key.workflow_id is 'The workflow with the option key.';
comment on column notika.run_key.key is 'The values of the key''s columns, as one text.';
comment on column notika.run_key.run_id is
  'The first run with these values; later events with them start none.';
comment on column notika.run_key.created_at is 'When the event of that run was dispatched.';

create table notika.batch (
  run_id bigint not null,
  workflow_id integer not null,
  batch_key text not null,
  events integer not null,
  opened_at timestamptz not null,
  closes_at timestamptz not null,
  hard_close_at timestamptz not null,
  closed_at timestamptz,
  constraint batch_pkey primary key (run_id)
);
create unique index batch_open_idx
  on notika.batch (workflow_id, batch_key) where closed_at is null;
create index batch_opened_at_idx on notika.batch (opened_at);

comment on table notika.batch is
  'Runs that receive several events (debounce, digest), kept as long as the run. See '
  'notika.configure.';
comment on column notika.batch.run_id is 'The run; its id is that of the first event.';
comment on column notika.batch.workflow_id is 'The workflow of the run.';
comment on column notika.batch.batch_key is
  'The values that the events of the batch have in common, as one text.';
comment on column notika.batch.events is 'The number of events in the batch.';
comment on column notika.batch.opened_at is 'When the first event of the batch was dispatched.';
comment on column notika.batch.closes_at is 'When the run is to start.';
comment on column notika.batch.hard_close_at is 'The latest value that closes_at can reach.';
comment on column notika.batch.closed_at is
  'When the batch was closed to further events; null: it is open.';

create table notika.batch_event (
  run_id bigint not null,
  event_id bigint not null,
  event json not null,
  constraint batch_event_pkey primary key (run_id, event_id)
);

comment on table notika.batch_event is 'The events of batches, until the run has ended.';
comment on column notika.batch_event.run_id is 'The run that receives the event.';
comment on column notika.batch_event.event_id is 'The id of the event.';
comment on column notika.batch_event.event is 'The event in the form a task receives it.';

create table notika.lane (
  run_id bigint not null,
  workflow_id integer not null,
  lane text not null,
  place bigint generated always as identity,
  run_at timestamptz,
  constraint lane_pkey primary key (run_id)
) with (fillfactor = 50);
create index lane_place_idx on notika.lane (workflow_id, lane, place);

comment on table notika.lane is
  'For workflows with an order: the runs that have not ended. The first run of each lane may '
  'start.';
comment on column notika.lane.run_id is 'The id of the run.';
comment on column notika.lane.workflow_id is 'The workflow with the option order.';
comment on column notika.lane.lane is
  'The values of the columns that the option order names, as one text.';
comment on column notika.lane.place is
  'The place in the lane. A run that is retried by hand goes to the end.';
comment on column notika.lane.run_at is
  'The place in the queue of all runs that the run gets when it becomes the first of its lane. See '
  'notika._head.';

create table notika.slot (
  run_id bigint not null,
  workflow_id integer not null,
  taken_at timestamptz,
  run_at timestamptz,
  constraint slot_pkey primary key (run_id)
) with (fillfactor = 50);
create index slot_taken_idx on notika.slot (workflow_id) where taken_at is not null;
create index slot_next_idx
  on notika.slot (workflow_id, run_id) where taken_at is null;

comment on table notika.slot is
  'For workflows with a concurrency: the runs that are running or ready to. Runs that sleep or '
  'wait for a retry are not here.';
comment on column notika.slot.run_id is 'The id of the run.';
comment on column notika.slot.workflow_id is 'The workflow with the option concurrency.';
comment on column notika.slot.taken_at is 'When the run was allowed to start; null: it waits.';
comment on column notika.slot.run_at is
  'The place in the queue of all runs that the run gets when it may start. See notika._head.';

create table notika.signal (
  event_id bigint not null,
  source_id integer not null,
  xid xid8 not null,
  cause_id bigint,
  match_values text not null,
  event json not null,
  constraint signal_pkey primary key (event_id)
);
create index signal_match_idx
  on notika.signal (source_id, match_values, event_id);

comment on table notika.signal is
  'Dispatched events of sources, kept while an unfinished run may wait for them.';
comment on column notika.signal.event_id is 'The id of the event.';
comment on column notika.signal.source_id is 'The source, a row of notika.workflow.';
comment on column notika.signal.xid is 'The transaction that made the change.';
comment on column notika.signal.cause_id is 'The run that made the change; null: no run did.';
comment on column notika.signal.match_values is 'The values that waits compare, as one text.';
comment on column notika.signal.event is 'The event in the form a task receives it.';

create table notika.listener (
  run_id bigint not null,
  workflow_id integer not null,
  xid xid8,
  snapshot pg_snapshot,
  cancel_id integer,
  cancel_values text,
  constraint listener_pkey primary key (run_id)
);
create index listener_workflow_idx on notika.listener (workflow_id, run_id);
create index listener_xmin_idx
  on notika.listener (workflow_id, pg_snapshot_xmin(snapshot));
create index listener_cancel_idx
  on notika.listener (cancel_id, cancel_values) where cancel_values is not null;

comment on table notika.listener is 'The unfinished runs of workflows that have sources.';
comment on column notika.listener.run_id is 'The id of the run.';
comment on column notika.listener.workflow_id is 'The workflow of the run.';
comment on column notika.listener.xid is
  'The transaction that started the run; null: it is not known, and only events with greater ids '
  'count.';
comment on column notika.listener.snapshot is 'The snapshot of that transaction.';
comment on column notika.listener.cancel_id is
  'The source that cancels the run; null: there is none.';
comment on column notika.listener.cancel_values is
  'The values that a signal of that source must have to cancel the run; null: no signal can.';

create sequence notika.step_id_seq as bigint;
comment on sequence notika.step_id_seq is 'Numbers the steps in the order in which they ended.';

create table notika.step (
  run_id bigint not null,
  name text not null,
  step_id bigint not null default nextval('notika.step_id_seq'),
  state text not null,
  result json,
  attempts smallint not null default 1,
  error text,
  started_at timestamptz not null,
  finished_at timestamptz not null default clock_timestamp(),
  event_id bigint,
  constraint step_pkey primary key (run_id, name),
  constraint step_state_check check (state in ('done', 'failed', 'retrying'))
) with (autovacuum_vacuum_scale_factor = 0.05);

comment on table notika.step is 'The steps of runs, and their outcomes.';
comment on column notika.step.run_id is 'The run that the step belongs to.';
comment on column notika.step.name is
  'The name of the step in the task. The second step of that name is name#2; an item of each is '
  'name/key.';
comment on column notika.step.step_id is 'Orders the steps of a run by when they ended.';
comment on column notika.step.state is
  'done, failed (permanently: every attempt of the run gets the error) or retrying.';
comment on column notika.step.result is 'The value that the step returned, as json.';
comment on column notika.step.attempts is
  'The number of attempts; 0 only within the transaction that takes the step.';
comment on column notika.step.error is 'The message of the last error.';
comment on column notika.step.started_at is 'When the last attempt, or the wait, began.';
comment on column notika.step.finished_at is 'When the last attempt, or the wait, ended.';
comment on column notika.step.event_id is 'The event that ended the wait; null: none did.';

create table notika.wait (
  run_id bigint not null,
  name text not null,
  wake_at timestamptz not null,
  created_at timestamptz not null default clock_timestamp(),
  source_id integer,
  match_values text,
  constraint wait_pkey primary key (run_id, name)
);
create index wait_match_idx
  on notika.wait (source_id, match_values) where source_id is not null;

comment on table notika.wait is 'The waits of unfinished runs. A wait that is over becomes a step.';
comment on column notika.wait.run_id is 'The run that waits.';
comment on column notika.wait.name is 'The name of the step that waits.';
comment on column notika.wait.wake_at is
  'When the wait ends at the latest; infinity: time does not end it.';
comment on column notika.wait.created_at is 'When the wait began.';
comment on column notika.wait.source_id is
  'The source whose next matching change ends the wait, a row of notika.workflow; null: only time '
  'ends it.';
comment on column notika.wait.match_values is 'The values that the change must have, as one text.';
--! EndIncluded 30_run.sql
--! Included 40_guard.sql
-- Tables of the guard: the objects a workflow depends on, and what the guard found and did.

create table notika.contract (
  workflow_id integer not null,
  column_name text not null,
  attnum smallint not null,
  type_name text not null,
  type oid not null,
  typmod integer not null,
  labels text[],
  label_ids oid[],
  attributes text[],
  constraint contract_pkey primary key (workflow_id, column_name),
  constraint contract_workflow_id_fkey foreign key (workflow_id) references notika.workflow
);
create index contract_type_idx on notika.contract (type);

comment on table notika.contract is
  'The columns that each workflow depends on through its payload, watch or condition.';
comment on column notika.contract.workflow_id is 'The workflow that depends on the column.';
comment on column notika.contract.column_name is 'The current name of the column.';
comment on column notika.contract.attnum is
  'The column''s attnum in the published table; 0: the table has no such column now.';
comment on column notika.contract.type_name is
  'The column''s type at publication, as format_type() prints it.';
comment on column notika.contract.type is 'The oid of the column''s type.';
comment on column notika.contract.typmod is 'The type modifier of the column.';
comment on column notika.contract.labels is
  'The labels of the enums in the type; null: there are none.';
comment on column notika.contract.label_ids is
  'The oids of these labels, which a rename keeps; null: another type has replaced the type since.';
comment on column notika.contract.attributes is
  'The attributes of the composite types in the type; null: there are none.';

create table notika.contract_key (
  workflow_id integer not null,
  place integer not null,
  column_name text not null,
  attnum smallint not null,
  type oid not null,
  constraint contract_key_pkey primary key (workflow_id, place),
  constraint contract_key_workflow_id_fkey foreign key (workflow_id) references notika.workflow
);

comment on table notika.contract_key is
  'The key of each workflow''s table, which is what remains of a row that is too large. When the '
  'key changes, the capture functions are created again.';
comment on column notika.contract_key.workflow_id is 'The workflow that is published on the table.';
comment on column notika.contract_key.place is 'The place of the column in the key, from 1.';
comment on column notika.contract_key.column_name is 'The name of the column.';
comment on column notika.contract_key.attnum is 'The column''s attnum in the published table.';
comment on column notika.contract_key.type is 'The oid of the column''s type.';

create table notika.contract_table (
  workflow_id integer not null,
  relation oid not null,
  constraint contract_table_pkey primary key (workflow_id, relation),
  constraint contract_table_workflow_id_fkey
    foreign key (workflow_id) references notika.workflow
);
create index contract_table_relation_idx on notika.contract_table (relation);

comment on table notika.contract_table is
  'The tables whose rows each workflow captures: the published table, its partitions and its '
  'inheritance children.';
comment on column notika.contract_table.workflow_id is 'The workflow that captures the rows.';
comment on column notika.contract_table.relation is
  'The oid of the table. With a regclass the restore of a dump would fail where a table is '
  'missing.';

create table notika.guard_log (
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
    'followed', 'healed', 'warned', 'allowed', 'ignored', 'broken', 'repaired', 'released', 'recorded',
    'maintenance begun', 'maintenance ended'
  ))
);
create index guard_log_xid_idx on notika.guard_log (xid);
create index guard_log_workflow_idx on notika.guard_log (workflow, at);
create index guard_log_not_judged_idx on notika.guard_log (workflow, at)
  where kind = 'not_judged';

comment on table notika.guard_log is
  'What the guard found and did, and who permitted breaking changes. A refused command leaves no '
  'row, because it is rolled back.';
comment on column notika.guard_log.guard_log_id is
  'The number of the entry, in the order of writing.';
comment on column notika.guard_log.at is 'When the entry was written.';
comment on column notika.guard_log.xid is 'The transaction that wrote the entry.';
comment on column notika.guard_log.workflow is
  'The name of the workflow; null: the entry is about all of them.';
comment on column notika.guard_log.verdict is
  'followed (a rename), healed, warned, allowed, ignored (guard => off), broken, repaired, '
  'released, recorded (a TRUNCATE), maintenance begun or maintenance ended.';
comment on column notika.guard_log.kind is
  'The kind of finding, for example column_dropped; null: the entry is not about one.';
comment on column notika.guard_log.object is
  'The table, column or trigger that the finding is about.';
comment on column notika.guard_log.expected is 'The state according to the contract.';
comment on column notika.guard_log.actual is 'The state in the catalog.';
comment on column notika.guard_log.statement is
  'The command that led to the finding, with the contents of strings removed and without other '
  'commands that were sent with it.';
comment on column notika.guard_log.reason is 'The reason that the caller gave.';
comment on column notika.guard_log.done_by is 'The login role, or the caller of the verb.';

create table notika.maintenance (
  maintenance_id bigint generated always as identity,
  reason text not null,
  begun_at timestamptz not null default clock_timestamp(),
  begun_by name not null default session_user,
  ends_at timestamptz not null,
  ended_at timestamptz,
  constraint maintenance_pkey primary key (maintenance_id)
);

comment on table notika.maintenance is
  'Maintenance windows, in which the guard records findings but refuses nothing; for tools that do '
  'not use one transaction.';
comment on column notika.maintenance.maintenance_id is 'The number of the window.';
comment on column notika.maintenance.reason is 'The reason that the caller gave.';
comment on column notika.maintenance.begun_at is 'When the window was opened.';
comment on column notika.maintenance.begun_by is 'The role that opened the window.';
comment on column notika.maintenance.ends_at is 'When the window ends by itself.';
comment on column notika.maintenance.ended_at is
  'When end_maintenance closed the window; null: it did not.';

create table notika.guard_pending (
  pending_id bigint generated always as identity,
  workflow_id integer not null,
  tag text not null,
  statement text not null,
  dropped text,
  found text[],
  constraint guard_pending_pkey primary key (pending_id)
);
create index guard_pending_workflow_idx on notika.guard_pending (workflow_id);

comment on table notika.guard_pending is
  'Workflows to judge when the transaction commits, with the commands that changed what the guard '
  'would find. Empty between transactions.';
comment on column notika.guard_pending.pending_id is
  'The number of the entry, in the order of the commands.';
comment on column notika.guard_pending.workflow_id is 'The workflow to judge.';
comment on column notika.guard_pending.tag is 'The command tag.';
comment on column notika.guard_pending.statement is
  'The command, with the contents of strings removed.';
comment on column notika.guard_pending.dropped is
  'A trigger or function of the workflow that was dropped by name; null: none was.';
comment on column notika.guard_pending.found is
  'What the guard would have refused or followed after this command: each kind and object. Null '
  'while the command is still running.';

create table notika.guard_state (
  only_row boolean not null default true,
  publications bigint not null default 0,
  workflow_table oid not null,
  constraint guard_state_pkey primary key (only_row),
  constraint guard_state_only_row_check check (only_row)
);

insert into notika.guard_state (workflow_table)
values ('notika.workflow'::regclass::oid);

comment on table notika.guard_state is
  'One row that lets the guard detect a stale snapshot and a restored copy.';
comment on column notika.guard_state.only_row is 'Always true, so that the table has one row.';
comment on column notika.guard_state.publications is
  'Incremented by publish. A migration with an older snapshot fails instead of judging by what it '
  'sees.';
comment on column notika.guard_state.workflow_table is
  'The oid of notika.workflow, stored as a number. In a restored copy the table has another oid.';

create table notika.guard_busy (
  pid integer not null
);

comment on table notika.guard_busy is
  'Has a row while Notika itself runs DDL. It is deleted in the same transaction, so no other '
  'session ever sees it.';
comment on column notika.guard_busy.pid is 'The process id of the session.';

-- Without a primary key, a publication FOR ALL TABLES refuses deletes otherwise.
alter table notika.guard_busy replica identity full;
--! EndIncluded 40_guard.sql
