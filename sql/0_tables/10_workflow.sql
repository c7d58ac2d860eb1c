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
