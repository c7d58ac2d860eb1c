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
