--! Previous: -
--! Hash: sha1:254a65a46c11b00fe5d5433315a60c12d46dadfe
--! Message: first release

--! split: 1-current.sql
-- The first release: all of sql/0_tables.
--! Included 10_workflow.sql
-- Tables of what is published: this installation and its settings, workflows, schedules,
-- backfills, and who may do what.
-- A table changes by a migration: edit it here and write the ALTER in migrations/current.  New
-- columns go last.
-- A workflow keeps its row, and with it its id, when it is unpublished: events and runs name it.

create table notika.migration (
  name text not null,
  hash text not null,
  applied_at timestamptz not null default now(),
  constraint migration_pkey primary key (name)
);

comment on table notika.migration is
  'The migrations that made the tables of this database, and the code that was loaded last.';
comment on column notika.migration.name is
  'The name of the file, without its ending; code: all files but those of the tables.';
comment on column notika.migration.hash is
  'Its SHA-256. The file of a migration never changes once it is released.';
comment on column notika.migration.applied_at is 'When it was applied, or loaded.';

create or replace function notika._relation(schema_name text, name text)
  returns oid
  language sql
  stable
begin atomic
  -- In two steps: a join may begin with all that has the name, once in each tenant's schema.
  select c.oid
    from pg_class as c
   where c.relnamespace = (select n.oid from pg_namespace as n where n.nspname = schema_name)
     and c.relname = name;
end;

comment on function notika._relation(text, text) is
  'What pg_class has under that name in that schema; null: nothing.';

create or replace function notika._table(name text)
  returns regclass
  language sql
  -- As a generated column asks for.  It is not: the oid is another one in a copy, which a dump relies
  -- on, because the column is made anew when its rows are loaded; nothing else may trust the label.
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select c.oid
    from pg_class as c
   where c.oid = notika._relation((parse_ident(_table.name))[1], (parse_ident(_table.name))[2])
     and c.relkind in ('r', 'p');
$$;

comment on function notika._table(text) is 'The table of that name; null: there is none.';

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
  'This installation: its limits, which are changed by update, and its name. One row.';
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
comment on column notika.setting.missed_after is
  'A schedule that skips what it missed keeps a time that is no later than this.';
comment on column notika.setting.runs_kept is
  'How long runs that have ended are remembered.';
comment on column notika.setting.installation is
  'Stands in the idempotency keys of steps, so that a copy of a database has keys of its own. Null '
  'until a runner needs it.';
comment on column notika.setting.database_id is
  'The oid of the database that has the name above: another one is a copy, and gets another name.';
comment on column notika.setting.blocked_for is
  'How long a runner counts as alive while a task blocks its event loop; then others take its runs.';

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
  'What was published: the contract of each workflow. See the view notika.workflows.';
comment on column notika.workflow.workflow_id is
  'Names what publish generates: trigger notika_12_insert, function notika.payload_12.';
comment on column notika.workflow.name is
  'The workflow''s name, and its task module''s; of a source of a workflow: workflow:source.';
comment on column notika.workflow.table_name is
  'The table as it was called at the last publish; null: the workflow is published on none.';
comment on column notika.workflow.operations is 'Any of insert, update, delete.';
comment on column notika.workflow.columns is
  'What an event carries, as published, which are its keys; null: the whole row.';
comment on column notika.workflow.column_names is
  'The same columns as they are called now: renames are followed, the keys stay.';
comment on column notika.workflow.watch is
  'An update counts only when one of these columns changes; null: any update.';
comment on column notika.workflow.condition is
  'SQL over new and old, as it was given: a later change must meet it.';
comment on column notika.workflow.condition_sql is
  'The same as Postgres prints it, with every name in full: the triggers'' WHEN.';
comment on column notika.workflow.condition_uses is
  'What it uses and what the names of that meant: see notika._uses.';
comment on column notika.workflow.capture is
  'The form of its triggers, which publish chooses: row, or statement where that sees the same.';
comment on column notika.workflow.guard is 'What DDL against the contract meets: block, warn, off.';
comment on column notika.workflow.on_rename is 'What a rename meets: follow, block.';
comment on column notika.workflow.definition is
  'The statements that made its functions and triggers; publish compares with them.';
comment on column notika.workflow.is_pinned is
  'Whether they pin the columns they read: not while a migration is let through, nor when it is broken.';
comment on column notika.workflow.broken_reason is 'Why it cannot capture; null: it can.';
comment on column notika.workflow.published_at is 'When it was last published or changed.';
comment on column notika.workflow.published_by is
  'The role that published it: its members may change it.';
comment on column notika.workflow.publisher_id is
  'The same as a number, which stays when the role is renamed.';
comment on column notika.workflow.unpublished_at is
  'When it was unpublished; null: it is published.';
comment on column notika.workflow.paused_at is 'Since when its runs are held; null: they are not.';
comment on column notika.workflow.relation is
  'The table, found by its name when that is written, and so when a dump is loaded; follows renames.';
comment on column notika.workflow.options is
  'What it asks of its hand-over: see notika.configure.';
comment on column notika.workflow.match is
  'Of a source: the payload keys that waits compare; of workflow:cancel those of the run, too: a=b.';
comment on column notika.workflow.given is
  'What publish has granted to the owner of Notika for it, which unpublish takes back.';
comment on column notika.workflow.fires_always is
  'Whether the owner of the table has enabled its triggers for changes that replication brings: it is '
  'captured by the row until it is unpublished.';
comment on column notika.workflow.placed_until is
  'The last place in the queue that a run of it got when it was resumed: new runs come behind it.';
comment on column notika.workflow.resumed_at is 'When its runs were last let go after a pause.';
comment on column notika.workflow.made_by is
  'The code that made its functions and triggers, or found them as it makes them: see notika._code.';

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

comment on table notika.schedule is 'When workflows start by time. See the view notika.schedules.';
comment on column notika.schedule.workflow_id is 'The workflow.';
comment on column notika.schedule.cron is 'Minute, hour, day, month and weekday.';
comment on column notika.schedule.time_zone is 'Whose clock they are read from.';
comment on column notika.schedule.missed is
  'What becomes of times that nobody was there to keep: skip, catch up.';
comment on column notika.schedule.next_at is 'When it is due; infinity: never again.';
comment on column notika.schedule.last_at is 'The last time that it was kept, as planned.';
comment on column notika.schedule.error is
  'Why it could not be kept when it was due; it is tried again until it can.';
comment on column notika.schedule.tried_at is
  'When that was last tried; null: nothing has gone wrong.';

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

comment on table notika.backfill is 'See the view notika.backfills.';
comment on column notika.backfill.backfill_id is 'Its order.';
comment on column notika.backfill.workflow_id is 'The workflow that gets the runs.';
comment on column notika.backfill.condition is
  'Of which rows, besides the workflow''s own condition, as it was given.';
comment on column notika.backfill.condition_sql is 'The same with every name in full.';
comment on column notika.backfill.condition_uses is
  'What it uses and what the names of that meant: see notika._uses.';
comment on column notika.backfill.state is 'running, failed, done or cancelled.';
comment on column notika.backfill.snapshot is 'What was committed when it started.';
comment on column notika.backfill.ends is
  'For each table of the family, by its number, the last key when it started.';
comment on column notika.backfill.keys is
  'For each of these tables, what its key was then: a page is taken as long as it is the same.';
comment on column notika.backfill.part is 'The table it is at; null: before the first.';
comment on column notika.backfill.last_key is 'The last key that it has seen there; null: none.';
comment on column notika.backfill.last_runs is 'The runs of its last page.';
comment on column notika.backfill.rows_seen is 'How many rows it has looked at.';
comment on column notika.backfill.events is 'How many runs it has made.';
comment on column notika.backfill.started_at is 'When it started.';
comment on column notika.backfill.started_by is 'Who started it.';
comment on column notika.backfill.finished_at is
  'When it was done or cancelled; one that failed can go on.';
comment on column notika.backfill.error is 'Why it failed; it may quote values of rows.';
comment on column notika.backfill.error_code is
  'The SQLSTATE of that, and the column and table where they are known.';

create table notika.backfill_key (
  backfill_id integer not null,
  key text not null,
  constraint backfill_key_pkey primary key (backfill_id, key)
);

comment on table notika.backfill_key is
  'The rows that woke a workflow by themselves since its backfill started.';
comment on column notika.backfill_key.backfill_id is 'The backfill.';
comment on column notika.backfill_key.key is 'The key of the row.';

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
  'The roles that were made publishers, runners, readers or monitors. Their rights follow from '
  'notika._rights().';
comment on column notika.grantee.role_id is
  'The role, as a number: with a regrole a dump could not be restored where the role is missing.';
comment on column notika.grantee.role_name is 'Its name, by which a restored copy finds it.';
comment on column notika.grantee.part is 'publisher, runner, reader or monitor.';
comment on column notika.grantee.granted_at is 'Since when.';
comment on column notika.grantee.granted_by is 'Who granted it.';
--! EndIncluded 10_workflow.sql
--! Included 20_log.sql
-- Tables of the ring and its cursor.
-- A writer that could pick a segment from a table would, at REPEATABLE READ, write to one that is
-- already being retired; a sequence is not subject to MVCC, so the pointer lives in one.

create sequence notika.event_id_seq as bigint minvalue 0 start 0 cache 1;
comment on sequence notika.event_id_seq is
  'Numbers the events. cache 1: the order of the changes of one row is the order of their ids.';

-- 2 * number of turns + 1 if the dispatcher is asleep.
create sequence notika.control_seq as bigint minvalue 0 start 0 cache 1;
comment on sequence notika.control_seq is
  'Its last value is twice the number of turns of the ring, plus one while the dispatcher sleeps.';

-- A sequence that was never used shows its first value as its last: it is used.
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
) with (autovacuum_enabled = off); -- nothing here ever dies; segments leave by truncate
create index event_log_0_event_id_idx on notika.event_log_0 (event_id);

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
comment on column notika.event_log_0.snapshot is
  'What the change could see, where it starts a run that later changes may count for.';

create table notika.event_log_1 (
  like notika.event_log_0 including defaults including indexes including comments
) with (autovacuum_enabled = off);
create table notika.event_log_2 (
  like notika.event_log_0 including defaults including indexes including comments
) with (autovacuum_enabled = off);

comment on table notika.event_log_1 is 'A segment of the ring. See the view notika.event_log.';
comment on table notika.event_log_2 is 'A segment of the ring. See the view notika.event_log.';

-- No column, and so no index: with brin_summarize_range() of an index anybody can lock its table in
-- this mode for a moment.
create table notika.dispatch_lock () with (autovacuum_enabled = off);

comment on table notika.dispatch_lock is
  'Always empty. Its lock in SHARE UPDATE EXCLUSIVE mode is the right to move the cursor.';

-- Where a publication FOR ALL TABLES has it; nobody changes anything in it.
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
comment on column notika.position.burst_ids is
  'The workflows whose events a cursor of their own hands over, because a burst of theirs was set '
  'aside; empty: there is none.';
comment on column notika.position.burst_snapshot is 'snapshot of that cursor.';
comment on column notika.position.burst_high is 'high of that cursor.';
comment on column notika.position.burst_low is 'low of that cursor.';
comment on column notika.position.burst_pending_xids is 'pending_xids of that cursor.';
comment on column notika.position.burst_pending_lows is 'pending_lows of that cursor.';
comment on column notika.position.burst_window_snapshot is 'window_snapshot of that cursor.';
comment on column notika.position.burst_window_low is 'window_low of that cursor.';
comment on column notika.position.burst_window_high is 'window_high of that cursor.';
comment on column notika.position.burst_window_at is 'window_at of that cursor.';
--! EndIncluded 20_log.sql
--! Included 30_run.sql
-- Tables of runs: what became of them, what they remember and wait for, and the lines they wait in.
-- Jobs are not here: they are graphile-worker's.

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
) with (autovacuum_vacuum_scale_factor = 0.05); -- what is old is deleted as fast as new comes
-- The first outcome of a run stands: a runner that lost its lock cannot change history.
create unique index run_log_run_id_idx
  on notika.run_log (run_id) where retried_at is null;
create index run_log_finished_at_idx on notika.run_log (finished_at);
create index run_log_workflow_idx on notika.run_log (workflow, run_id);
create index run_log_bad_end_idx on notika.run_log (run_id)
  where state <> 'done' and retried_at is null;
create index run_log_cancelled_idx
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

create type notika._new_job as (
  workflow text,
  payload json,
  run_at timestamptz,
  max_attempts smallint,
  key text,
  priority smallint,
  flags text[]
);

comment on type notika._new_job is 'A run that is to become a job. See notika._add_jobs.';
comment on column notika._new_job.workflow is 'Its workflow.';
comment on column notika._new_job.payload is 'The event that its task gets.';
comment on column notika._new_job.run_at is 'Its place in the queue; infinity: it waits to be woken.';
comment on column notika._new_job.max_attempts is 'How often it is tried.';
comment on column notika._new_job.key is 'The id of the run, as text.';
comment on column notika._new_job.priority is 'Lower numbers start first.';
comment on column notika._new_job.flags is 'The marks of the job; null: none.';

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
  'The runners that are alive: each writes here every ten seconds and leaves when it stops.';
comment on column notika.runner.runner_id is 'The id of its worker pool, which locks its jobs.';
comment on column notika.runner.host is 'The machine it runs on.';
comment on column notika.runner.pid is 'Its process on that machine.';
comment on column notika.runner.tasks is 'The workflows it has a task for.';
comment on column notika.runner.started_at is 'When it started.';
comment on column notika.runner.seen_at is 'When it was last heard of.';
comment on column notika.runner.suspected_at is
  'Since when it is taken for dead if it stays silent; null: it is not.';
comment on column notika.runner.blocked_since is
  'Since when a task blocks its event loop, so that nothing else runs there; null: none does.';

-- What has no primary key can be updated all the same where a publication FOR ALL TABLES has it.
alter table notika.run_log replica identity full;

create table notika.signal_lock (
  place integer not null,
  constraint signal_lock_pkey primary key (place),
  constraint signal_lock_place_check check (place between 0 and 31)
);

comment on table notika.signal_lock is
  'Rows to lock, never changed: a session in which a wait begins locks one, the hand-over of signals '
  'locks all.';
comment on column notika.signal_lock.place is 'The remainder of the process ids that lock it.';

insert into notika.signal_lock select generate_series(0, 31);

create table notika.line_lock (
  workflow_id integer not null,
  constraint line_lock_pkey primary key (workflow_id)
);

comment on table notika.line_lock is
  'Rows to lock, never changed: one for each workflow with lines.';
comment on column notika.line_lock.workflow_id is 'The workflow.';

create table notika.run_key (
  workflow_id integer not null,
  key text not null,
  run_id bigint not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint run_key_pkey primary key (workflow_id, key)
);
create index run_key_created_at_idx on notika.run_key (created_at);

comment on table notika.run_key is
  'For workflows with a key: the run of each, while it is remembered. See notika.configure.';
comment on column notika.run_key.workflow_id is 'The workflow.';
comment on column notika.run_key.key is 'The values of the key''s columns.';
comment on column notika.run_key.run_id is 'The run that had them first.';
comment on column notika.run_key.created_at is 'When it was handed over.';

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
  'Runs that are for many events, kept as long as the run is. See notika.configure.';
comment on column notika.batch.run_id is 'The run, which has the id of the first event.';
comment on column notika.batch.workflow_id is 'The workflow.';
comment on column notika.batch.batch_key is 'The values that its events have in common.';
comment on column notika.batch.events is 'How many events it has.';
comment on column notika.batch.opened_at is 'When its first event was handed over.';
comment on column notika.batch.closes_at is 'When its run is to start.';
comment on column notika.batch.hard_close_at is 'The latest that this may become.';
comment on column notika.batch.closed_at is 'Since when no event joins it; null: it is open.';

create table notika.batch_event (
  run_id bigint not null,
  event_id bigint not null,
  event json not null,
  constraint batch_event_pkey primary key (run_id, event_id)
);

comment on table notika.batch_event is 'The events of batches.';
comment on column notika.batch_event.run_id is 'The run that gets it.';
comment on column notika.batch_event.event_id is 'Its id.';
comment on column notika.batch_event.event is 'The event as a task gets it.';

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
  'For workflows with an order: runs that have not ended. The first of each lane may run.';
comment on column notika.lane.run_id is 'The run.';
comment on column notika.lane.workflow_id is 'The workflow.';
comment on column notika.lane.lane is 'The values by which it is ordered.';
comment on column notika.lane.place is 'Its place; a run that is tried again by hand goes last.';
comment on column notika.lane.run_at is
  'Its place among all runs, which it takes when it is its turn. See notika._head.';

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
  'For workflows with a concurrency: runs that run or want to. Who sleeps or retries is not here.';
comment on column notika.slot.run_id is 'The run.';
comment on column notika.slot.workflow_id is 'The workflow.';
comment on column notika.slot.taken_at is 'Since when it may run; null: it waits.';
comment on column notika.slot.run_at is
  'Its place among all runs, which it takes when it may run. See notika._head.';

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
  'Events of sources that were handed over, kept while an unfinished run may want them.';
comment on column notika.signal.event_id is 'The id of the event.';
comment on column notika.signal.source_id is 'The source, a row of notika.workflow.';
comment on column notika.signal.xid is 'The transaction that made the change.';
comment on column notika.signal.cause_id is 'The run whose write this is; null: not a run''s.';
comment on column notika.signal.match_values is 'The values that waits compare, as one text.';
comment on column notika.signal.event is 'The event as a task gets it.';

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
comment on column notika.listener.run_id is 'The run.';
comment on column notika.listener.workflow_id is 'Its workflow.';
comment on column notika.listener.xid is
  'The transaction that started it; null: that is not known, and only later ids count.';
comment on column notika.listener.snapshot is 'What that transaction could see.';
comment on column notika.listener.cancel_id is 'The source that cancels it; null: there is none.';
comment on column notika.listener.cancel_values is
  'The values that a signal of that source must have; null: none can.';

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

comment on table notika.step is 'The steps that runs have taken, and what became of them.';
comment on column notika.step.run_id is 'The run.';
comment on column notika.step.name is
  'Its name in the task; the second of a name is name#2, an item of each is name/key.';
comment on column notika.step.step_id is 'Orders the steps of a run by when they ended.';
comment on column notika.step.state is
  'done, failed (for good: the task is told so each time), or retrying.';
comment on column notika.step.result is 'What it returned, as json.';
comment on column notika.step.attempts is
  'How often it was tried; 0 only within the transaction that takes it.';
comment on column notika.step.error is 'The message of the last error.';
comment on column notika.step.started_at is 'When its last attempt, or its wait, began.';
comment on column notika.step.finished_at is 'When that ended.';
comment on column notika.step.event_id is 'The event that it waited for, and got.';

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

comment on table notika.wait is 'What unfinished runs wait for; a wait that is over is a step.';
comment on column notika.wait.run_id is 'The run.';
comment on column notika.wait.name is 'The name of the step.';
comment on column notika.wait.wake_at is 'When it is over; infinity: not by time.';
comment on column notika.wait.created_at is 'When it began.';
comment on column notika.wait.source_id is
  'The source whose next change ends it, a row of notika.workflow; null: only time does.';
comment on column notika.wait.match_values is 'The values that the change must have, as one text.';
--! EndIncluded 30_run.sql
--! Included 40_guard.sql
-- Tables of the guard: what a workflow depends on, and what the guard found and did.

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
  'The columns that each workflow depends on, by its payload, its watch or its condition.';
comment on column notika.contract.workflow_id is 'The workflow.';
comment on column notika.contract.column_name is 'The column, as it is called now.';
comment on column notika.contract.attnum is 'Its number in the published table.';
comment on column notika.contract.type_name is 'Its type when it was published, written out.';
comment on column notika.contract.type is 'The same without its modifier, for the catalog.';
comment on column notika.contract.typmod is 'The type''s modifier.';
comment on column notika.contract.labels is 'The labels of the enums in it.';
comment on column notika.contract.label_ids is
  'Their numbers, which stay when they are renamed; null: another type has taken its place since.';
comment on column notika.contract.attributes is 'The attributes of the composite types in it.';

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
  'The key of each workflow''s table, which is left of a row that is too big. It may change, and what '
  'captures is then made again.';
comment on column notika.contract_key.workflow_id is 'The workflow.';
comment on column notika.contract_key.place is 'The column''s place in the key.';
comment on column notika.contract_key.column_name is 'The column.';
comment on column notika.contract_key.attnum is 'Its number in the published table.';
comment on column notika.contract_key.type is 'Its type.';

create table notika.contract_table (
  workflow_id integer not null,
  relation oid not null,
  constraint contract_table_pkey primary key (workflow_id, relation),
  constraint contract_table_workflow_id_fkey
    foreign key (workflow_id) references notika.workflow
);
create index contract_table_relation_idx on notika.contract_table (relation);

comment on table notika.contract_table is
  'The tables whose rows each workflow captures: the published one, its partitions and children.';
comment on column notika.contract_table.workflow_id is 'The workflow.';
comment on column notika.contract_table.relation is
  'A table, as a number: a name that is not there would fail the load of a dump.';

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
  'What the guard saw and did, and who let what through. A refusal leaves no trace: it rolls back.';
comment on column notika.guard_log.guard_log_id is 'Its order.';
comment on column notika.guard_log.at is 'When.';
comment on column notika.guard_log.xid is 'In which transaction.';
comment on column notika.guard_log.workflow is 'The workflow; null: all of them.';
comment on column notika.guard_log.verdict is
  'followed (a rename), healed, warned, allowed, ignored (guard off), broken, repaired, released, '
  'recorded (a TRUNCATE), maintenance begun or ended.';
comment on column notika.guard_log.kind is 'What was found, for instance column_dropped.';
comment on column notika.guard_log.object is 'The table, column or trigger.';
comment on column notika.guard_log.expected is 'What the contract says.';
comment on column notika.guard_log.actual is 'What the catalog says.';
comment on column notika.guard_log.statement is
  'The command that led to it, with empty strings and without what was sent along with it.';
comment on column notika.guard_log.reason is 'What the caller gave as the reason.';
comment on column notika.guard_log.done_by is 'The login.';

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
  'Windows in which the guard only takes notes, for tools that do not use one transaction.';
comment on column notika.maintenance.maintenance_id is 'Its id.';
comment on column notika.maintenance.reason is 'What it is for.';
comment on column notika.maintenance.begun_at is 'Since when.';
comment on column notika.maintenance.begun_by is 'Whose it is.';
comment on column notika.maintenance.ends_at is 'When it ends by itself.';
comment on column notika.maintenance.ended_at is 'When end_maintenance ended it.';

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
  'Workflows that are to be judged when the transaction commits, with the commands that changed what '
  'would be found; empty between transactions.';
comment on column notika.guard_pending.pending_id is 'Its order.';
comment on column notika.guard_pending.workflow_id is 'The workflow.';
comment on column notika.guard_pending.tag is 'The command.';
comment on column notika.guard_pending.statement is 'The command, with empty strings.';
comment on column notika.guard_pending.dropped is
  'A trigger or function of the workflow that was dropped by name.';
comment on column notika.guard_pending.found is
  'What would have been refused after this command: each kind and object; null: it still runs.';

create table notika.guard_state (
  only_row boolean not null default true,
  publications bigint not null default 0,
  workflow_table oid not null,
  constraint guard_state_pkey primary key (only_row),
  constraint guard_state_only_row_check check (only_row)
);

insert into notika.guard_state (workflow_table)
values ('notika.workflow'::regclass::oid);

comment on table notika.guard_state is 'One row by which the guard tells what it cannot see.';
comment on column notika.guard_state.only_row is 'Always true: there is one row.';
comment on column notika.guard_state.publications is
  'Counted up by publish: a migration with an older snapshot must not judge by what it sees.';
comment on column notika.guard_state.workflow_table is
  'The oid of notika.workflow, as a number: another one means that this is a restored copy.';

create table notika.guard_busy (
  pid integer not null
);

comment on table notika.guard_busy is
  'Has a row, which nobody else ever sees, while Notika itself does DDL.';
comment on column notika.guard_busy.pid is 'The session.';

-- It has no primary key, and a publication FOR ALL TABLES would refuse to delete from it.
alter table notika.guard_busy replica identity full;
--! EndIncluded 40_guard.sql
