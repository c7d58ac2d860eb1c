-- Workflows, what became of their runs, and the runners that are alive.
-- A workflow keeps its row, and with it its id, when it is unpublished: events and runs name it.

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

create table if not exists notika.workflow (
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
  constraint workflow_pkey primary key (workflow_id),
  constraint workflow_name_key unique (name),
  constraint workflow_name_check check (
    name ~ '^[A-Za-z][A-Za-z0-9_-]{0,62}(:[A-Za-z][A-Za-z0-9_-]{0,62})?$'
  ),
  constraint workflow_capture_check check (capture in ('row', 'statement')),
  constraint workflow_guard_check check (guard in ('block', 'warn', 'off')),
  constraint workflow_on_rename_check check (on_rename in ('follow', 'block'))
);
create index if not exists workflow_table_name_idx on notika.workflow (table_name);
create index if not exists workflow_loose_idx on notika.workflow (workflow_id)
  where not is_pinned and broken_reason is null;
create index if not exists workflow_source_idx on notika.workflow (split_part(name, ':', 1))
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

create or replace function notika._workflow_of(name text)
  returns text
  language sql
  immutable
begin atomic
  select nullif(split_part(name, ':', 1), name);
end;

comment on function notika._workflow_of(text) is
  'The workflow that a source of that name belongs to; null: the name is a workflow''s own.';

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
       w.published_by,
       w.options,
       w.match
  from notika.workflow as w
  left join pg_catalog.pg_class as c on c.oid = w.relation
  left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 where w.unpublished_at is null;

comment on view notika.workflows is
  'The published workflows, and their sources: workflow:source, the changes that its runs wait for.';
comment on column notika.workflows.workflow is 'Its name.';
comment on column notika.workflows.table_name is
  'The table, as it is called now; null: it only starts in other ways.';
comment on column notika.workflows.operations is 'Any of insert, update, delete.';
comment on column notika.workflows.columns is 'What an event carries; null: the whole row.';
comment on column notika.workflows.watch is 'Columns of which one must change in an update.';
comment on column notika.workflows.condition is 'SQL over new and old, as it was given.';
comment on column notika.workflows.capture is
  'The form of its triggers, chosen for it: row, one call for each row; or statement, one for all rows '
  'of a statement: the whole of an insert or delete, where neither parts of the table nor others'' '
  'triggers come in between.';
comment on column notika.workflows.guard is 'block, warn or off.';
comment on column notika.workflows.on_rename is 'follow or block.';
comment on column notika.workflows.state is
  'published, paused (changes are captured, runs are held) or broken.';
comment on column notika.workflows.reason is 'Why it is broken.';
comment on column notika.workflows.published_at is 'When it was last published or changed.';
comment on column notika.workflows.published_by is 'Who published it.';
comment on column notika.workflows.options is
  'Its key, concurrency, order, debounce, digest, schedule or priority.';
comment on column notika.workflows.match is
  'Of a source: the keys whose values a change and the run that waits for it share.';

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
) with (autovacuum_vacuum_scale_factor = 0.05); -- what is old is deleted as fast as new comes
-- The first outcome of a run stands: a runner that lost its lock cannot change history.
create unique index if not exists run_log_run_id_idx
  on notika.run_log (run_id) where retried_at is null;
create index if not exists run_log_finished_at_idx on notika.run_log (finished_at);
create index if not exists run_log_workflow_idx on notika.run_log (workflow, run_id);
create index if not exists run_log_bad_end_idx on notika.run_log (run_id)
  where state <> 'done' and retried_at is null;
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
