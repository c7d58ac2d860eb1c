--! Previous: sha1:6e5cbb7c60e57ae85544f2f12fbfce7972c88925
--! Hash: sha1:2cb85af92d25061c7bd89a85a457e91b6b67ec8b
--! Message: Leaner capture, straight hand-over

--! split: 1-current.sql
-- Alter and drop by hand, then --!include what changed in sql/.

--! Included 10_schema.sql
-- Notika: the schema, its version and its settings.
-- Names: a plain verb is public; a leading underscore is private; tables are singular, views plural.
-- Every function pins its search_path to pg_catalog, pg_temp and writes every other name in full;
-- those of triggers, which publish makes, pin none and write every name in full.

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

create or replace function notika._migrations()
  returns text[]
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return array(select m.name from notika.migration as m order by m.name);
end;
$$;

comment on function notika._migrations() is
  'The migrations that this database has, by which a runner knows whether it needs an upgrade.';

create table if not exists notika.setting (
  only_row boolean not null default true,
  segment_age interval not null default '8 hours',
  segment_bytes bigint not null default 1073741824,
  payload_bytes integer not null default 1048576,
  max_depth smallint not null default 16,
  max_attempts smallint not null default 12,
  missed_after interval not null default '10 minutes',
  runs_kept interval not null default '30 days',
  constraint setting_pkey primary key (only_row),
  constraint setting_only_row_check check (only_row),
  constraint setting_segment_age_check check (segment_age > interval '0'),
  constraint setting_segment_bytes_check check (segment_bytes > 0),
  constraint setting_payload_bytes_check check (payload_bytes between 1024 and 1048576),
  constraint setting_max_depth_check check (max_depth > 0),
  constraint setting_max_attempts_check check (max_attempts > 0),
  constraint setting_missed_after_check check (missed_after >= interval '0'),
  constraint setting_runs_kept_check check (runs_kept >= interval '0')
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
comment on column notika.setting.missed_after is
  'A schedule that skips what it missed keeps a time that is no later than this.';
comment on column notika.setting.runs_kept is
  'How long runs that have ended are remembered.';

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

create or replace function notika._know_caller()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- When a superuser reindexes or analyzes a table, functions of its owner run as the owner, in the
  -- superuser's session: the caller would seem to be the superuser.  Postgres refuses this then.
  execute 'declare notika_probe cursor with hold for select';
  execute 'close notika_probe';
exception when insufficient_privilege then
  raise exception 'cannot tell on whose behalf this is called'
    using errcode = 'insufficient_privilege',
          detail = 'It is called by a function of an index or of a materialized view.',
          hint = 'Call it in a statement of its own.';
end;
$$;

comment on function notika._know_caller() is
  'An error where _caller() would not be whose rights the calling code has.';

create or replace function notika._dollar_quoted(body text, tag text)
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Names and strings of others in a body may look like its end.
  while strpos(body, '$' || tag) > 0 loop
    tag := tag || '_';
  end loop;
  return format('$%s$%s$%s$', tag, body, tag);
end;
$$;

comment on function notika._dollar_quoted(text, text) is
  'The body of a function as a literal, between this tag or one that the body does not have.';
--! EndIncluded 10_schema.sql
--! Included 20_workflow.sql
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
  relation regclass generated always as (
    case when unpublished_at is null then notika._table(table_name) end
  ) stored,
  options jsonb not null default '{}',
  match text[],
  constraint workflow_pkey primary key (workflow_id),
  constraint workflow_name_key unique (name),
  constraint workflow_name_check check (
    name ~ '^[A-Za-z_][A-Za-z0-9_-]{0,62}(:[A-Za-z_][A-Za-z0-9_-]{0,62})?$'
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
comment on column notika.workflow.condition is 'SQL over new and old, the triggers'' WHEN.';
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
comment on column notika.workflow.published_by is 'Who published it.';
comment on column notika.workflow.unpublished_at is
  'When it was unpublished; null: it is published.';
comment on column notika.workflow.paused_at is 'Since when its runs are held; null: they are not.';
comment on column notika.workflow.relation is
  'The table, found by its name when that is written, and so when a dump is loaded; follows renames.';
comment on column notika.workflow.options is
  'What it asks of its hand-over: see notika.configure.';
comment on column notika.workflow.match is
  'Of a source: the payload keys that waits compare; of workflow:cancel those of the run, too: a=b.';

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
comment on column notika.workflows.condition is 'SQL over new and old.';
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
  'Its key, concurrency, order, debounce, digest or schedule.';
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

-- What has no primary key can be updated all the same where a publication FOR ALL TABLES has it.
alter table notika.run_log replica identity full;
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
  old json,
  snapshot pg_snapshot
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
comment on column notika.event_log_0.snapshot is
  'What the change could see, where it starts a run that later changes may count for.';

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
comment on column notika._event.snapshot is
  'What the change could see, where it starts a run that later changes may count for.';

create or replace function notika._is_runner()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(session_user, current_user, 'member')
      or has_function_privilege(session_user, 'notika._finish(json)', 'execute');
$$;

comment on function notika._is_runner() is
  'Whether this is the session of a runner: of a member of the owner, or of who was granted to be one.';

create or replace function notika._origin(
  out is_muted boolean,
  out cause_id bigint,
  out depth smallint
)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run text;
begin
  is_muted := false;
  depth := 0;
  -- Anybody may set these, so they count only in sessions of the owner's members, and of runners.
  if concat(current_setting('notika.mute', true), current_setting('notika.run', true)) <> ''
     and notika._is_runner()
  then
    is_muted := coalesce(
      current_setting('notika.mute', true) in ('on', 'true', '1', 'yes')
        and pg_has_role(session_user, current_user, 'member'), false);
    v_run := substring(current_setting('notika.run', true) from '^[0-9]{1,18}/[0-9]{1,4}$');
    cause_id := split_part(v_run, '/', 1)::bigint;
    depth := coalesce(split_part(v_run, '/', 2)::smallint + 1, 0);
  end if;
end;
$$;

comment on function notika._origin() is
  'What a session says of its changes: that nobody captures them, or of which run they are.';

create or replace function notika._append(workflow_id integer, operation text, new json)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_event_id bigint;
begin
  perform pg_current_xact_id(); -- before the id is drawn and the segment read: see above
  v_event_id := nextval('notika.event_id_seq');

  execute format('insert into notika.event_log_%s
                    (event_id, workflow_id, operation, new, cause_id, depth, snapshot)
                  select $1, $2, $3, $4, o.cause_id, o.depth, pg_current_snapshot()
                    from notika._origin() as o', notika._segment(0))
    using v_event_id, _append.workflow_id, _append.operation, _append.new;

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
  -- As json_build_object writes it, which looks up the type of each argument for each event.  No
  -- name of a workflow or an operation needs escapes.
  select format(
    '{"id" : "%s", "workflow" : "%s", "operation" : "%s", "table" : %s, "at" : "%s", '
    '"new" : %s, "old" : %s, "truncated" : %s, "depth" : %s}',
    (event).event_id, workflow, (event).operation, coalesce(to_json(table_name), 'null'),
    to_char((event).captured_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    coalesce((event).new, 'null'), coalesce((event).old, 'null'),
    coalesce((event).truncated::text, 'null'), coalesce((event).depth::text, 'null')
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
    window_snapshot, window_low, window_high, window_at, horizon
  )
  overriding system value
  select
    -- In a copy whose sequences were left behind it would come before the position that it follows.
    greatest(nextval('notika.position_position_id_seq'),
             (select max(p.position_id) + 1 from notika.position as p)),
    here.system_identifier, here.snapshot, here.high, here.low,
    here.pending_xids, here.pending_lows,
    here.window_snapshot, here.window_low, here.window_high, here.window_at, here.horizon;
end;
$$;

comment on function notika._move(notika.position) is 'Appends a position.';

create or replace function notika._lock_dispatch()
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return pg_try_advisory_xact_lock(hashtextextended('notika.dispatch', 0));
end;
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
  out handed_over integer,
  out last_id bigint,
  out runs bigint,
  out jobs notika_worker.job_spec[],
  out signals bigint[],
  out listeners bigint[]
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan -- a better one is not worth planning for each chunk
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_setting notika.setting;
  v_jobs notika_worker.job_spec[];
begin
  select s.* into v_setting from notika.setting as s;

  with chunk as materialized (
    select row_number() over (order by c.event_id) as place, c.*
      -- The limit is inside: row_number would look for the event after the last one.
      from (
        select v.*
          from notika._event as v
         where v.event_id > here.window_at
           and v.event_id <= here.window_high
           and pg_visible_in_snapshot(v.xid, here.window_snapshot)
           and not pg_visible_in_snapshot(v.xid, here.snapshot)
         order by v.event_id
         limit _take_chunk.max_events
      ) as c
  ), event as not materialized (
    -- Put together where it is read: to keep the columns costs less than to keep them as one.
    select c.place, c.event_id, c.workflow_id,
           row(c.event_id, c.xid, c.captured_at, c.cause_id, c.workflow_id, c.depth, c.truncated,
               c.operation, c.new, c.old, c.snapshot)::notika._event as event
      from chunk as c
  ), target as materialized (
    select w.workflow_id, w.name,
           coalesce(notika._quoted(w.relation), w.table_name) as table_name,
           case when w.paused_at is not null or w.broken_reason is not null
                then 'infinity'::timestamptz end as held_until,
           _take_chunk.straight
             and not (w.options ? 'key' or notika._is_gated(w.options)) as is_straight,
           notika._workflow_of(w.name) is not null as is_source,
           notika._has_sources(w.name) as has_sources,
           case when notika._workflow_of(w.name) is null then notika._task_id(w.name) end as task_id
      from notika.workflow as w
     where w.workflow_id in (select c.workflow_id from chunk as c)
  ), too_deep as (
    insert into notika.run_log (run_id, workflow, state, attempts, event, error, created_at)
    select c.event_id, t.name, 'failed', 0, notika._payload(c.event, t.name, t.table_name),
           format('stopped at depth %s: runs wake each other in a loop (the run before is %s)',
                  (c.event).depth, coalesce((c.event).cause_id::text, 'unknown')),
           (c.event).captured_at
      from event as c
      join target as t on t.workflow_id = c.workflow_id
     where (c.event).depth > v_setting.max_depth and not t.is_source
    on conflict do nothing
  ), run as not materialized (
    select t.task_id, t.name, t.is_straight, c.event_id::text as key,
           notika._payload(c.event, t.name, t.table_name) as payload,
           -- Ties in run_at have no order, so it counts the events in microseconds, in the past.
           coalesce(t.held_until, v_now - (100000 - c.place) * interval '1 microsecond') as run_at,
           case when (c.event).operation in ('backfill', 'replay') then 10 -- behind what is new
                else 0 end as priority
      from event as c
      join target as t on t.workflow_id = c.workflow_id
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
         array_agg(c.event_id) filter (where t.has_sources)
    into handed_over, last_id, runs, v_jobs, signals, listeners
    from chunk as c
    left join target as t on t.workflow_id = c.workflow_id;
  jobs := v_jobs;
end;
$$;

comment on function notika._take_chunk(notika.position, integer, boolean) is
  'The next events of the open window: makes jobs of those that no option has a say in, where it is '
  'to go straight, and gives what shall be jobs of the others, and which are signals or listened to.';

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
  v_chunk record;
begin
  begin
    select c.* into v_chunk
      from notika._take_chunk(here, _hand_over.max_events, straight => true) as c;
  exception
    when unique_violation then
      -- The id of a run is a job's already, as in a copy whose sequences were left behind.  Such a
      -- job stays; to look each time whether there is one would make all jobs dearer by a third.
      select c.* into v_chunk
        from notika._take_chunk(here, _hand_over.max_events, straight => false) as c;
  end;
  handed_over := v_chunk.handed_over;
  last_id := v_chunk.last_id;

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
    perform notika._note_live(_hand_over.here, last_id);
  end if;
end;
$$;

comment on function notika._hand_over(notika.position, integer) is
  'Makes jobs of the next events of the open window, or signals of those of sources; says how many '
  'events it saw, and the last.';

create or replace function notika._is_foreign(here notika.position)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return here.system_identifier <> (select c.system_identifier from pg_control_system() as c)
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
          set xid = case when notika._dispatched(e.event_id, e.xid, $1) then ''3''::xid8
                         else pg_current_xact_id() end',
      v_segment)
      using _rebase.here;
  end loop;
  select count(*), min(e.event_id) - 1 into v_waiting, v_low
    from notika._event as e
   where e.xid = pg_current_xact_id();
  update notika.listener as l set xid = null, snapshot = null;
  update notika.signal as s set xid = '3';

  select c.system_identifier into v_next.system_identifier from pg_control_system() as c;
  v_next.snapshot := '4:4:'; -- no transaction of this cluster
  v_next.high := greatest(here.high, here.window_high);
  -- Below the bound are those that were captured here before the sequence was advanced.
  v_next.low := least(notika._bound(here), v_low);
  v_next.pending_xids := '{}';
  v_next.pending_lows := '{}';
  v_next.horizon := v_next.low;
  perform notika._move(v_next);
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
            hint = 'Run: npx notika install, or: select * from notika.install();';
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
  return v_handed_over + notika._start_others(v_handed_over < dispatch.max_events);
end;
$$;

comment on function notika.dispatch(integer) is
  'Hands over up to max_events captured events to graphile-worker, in the order of their ids, '
  'starts what is due by time, and returns how many events that were. 0: there was nothing; '
  'null: somebody else is at it. READ COMMITTED only.';

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
--! Included 41_control.sql
-- What hand-over does for workflows with options, between the chunk and its jobs: doubles are
-- dropped, events gathered, runs lined up.  The rest of a chunk does not come here at all.
-- Whoever decides which run of a workflow goes next holds the workflow's line lock until commit.

create or replace function notika._is_gated(options jsonb)
  returns boolean
  language sql
  immutable
begin atomic
  select options ?| '{concurrency,order,debounce,digest}'::text[];
end;

comment on function notika._is_gated(jsonb) is
  'Whether runs with these options must be admitted at the start of each attempt.';

create or replace function notika._flags(workflow text)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg('gated'::text)
    from notika.workflow as w
   where w.name = _flags.workflow and notika._is_gated(w.options);
$$;

comment on function notika._flags(text) is
  'The flags of a workflow''s jobs: gated, if its runs must be admitted; or null.';

create or replace function notika._lock_line(workflow_id integer)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  select pg_advisory_xact_lock(hashtextextended('notika.line', _lock_line.workflow_id));
$$;

comment on function notika._lock_line(integer) is
  'Takes the right to say which run of a workflow goes next, until commit. Of several workflows in '
  'the order of their ids.';

create or replace function notika._lock_lines()
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  select notika._lock_line(w.workflow_id)
    from (
      select w.workflow_id
        from notika.workflow as w
       where notika._is_gated(w.options)
       order by w.workflow_id
    ) as w;
$$;

comment on function notika._lock_lines() is
  'Takes the line locks of all workflows: for a hand-over that may end runs of any of them.';

create or replace function notika._values(event json, columns jsonb)
  returns jsonb
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_event json := _values.event;
  v_row json;
begin
  -- A json column may hold what Postgres' operators refuse, \u0000 or half a pair of surrogates.
  if strpos(v_event::text, '\u') > 0 then
    v_event := regexp_replace(v_event::text, '(?<!\\)((?:\\\\)*)\\u', '\1\\\\u', 'g')::json;
  end if;
  v_row := v_event -> 'new';
  if coalesce(json_typeof(v_row), 'null') = 'null' then
    v_row := v_event -> 'old'; -- a delete, also when it is replayed
  end if;
  return coalesce(
    (select jsonb_agg(v_row ->> c.name order by c.place)
       from jsonb_array_elements_text(_values.columns) with ordinality as c (name, place)),
    '[]'
  );
end;
$$;

comment on function notika._values(json, jsonb) is
  'What an event has in these columns, as text, null where it has none.';

create or replace function notika._short(key jsonb)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when octet_length(key::text) <= 500 then key::text
    else left(key::text, 50) || '… ' || encode(sha256(convert_to(key::text, 'UTF8')), 'hex')
  end;
$$;

comment on function notika._short(jsonb) is
  'Values as one text that an index can hold, different for different values.';

create or replace function notika._control(jobs notika_worker.job_spec[])
  returns notika_worker.job_spec[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._lock_line(w.workflow_id)
     from (
       select w.workflow_id
         from notika.workflow as w
        where w.name in (select j.identifier from unnest(_control.jobs) as j)
          and notika._is_gated(w.options)
        order by w.workflow_id
     ) as w;
  if not found then
    return notika._drop_doubles(_control.jobs);
  end if;
  return notika._line_up(notika._gather(notika._drop_doubles(_control.jobs)));
end;
$$;

comment on function notika._control(notika_worker.job_spec[]) is
  'The jobs of a chunk for workflows with options, as these want them.';

create table if not exists notika.run_key (
  workflow_id integer not null,
  key text not null,
  run_id bigint not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint run_key_pkey primary key (workflow_id, key)
);
create index if not exists run_key_created_at_idx on notika.run_key (created_at);

comment on table notika.run_key is
  'For workflows with a key: the run of each, while it is remembered. See notika.configure.';
comment on column notika.run_key.workflow_id is 'The workflow.';
comment on column notika.run_key.key is 'The values of the key''s columns.';
comment on column notika.run_key.run_id is 'The run that had them first.';
comment on column notika.run_key.created_at is 'When it was handed over.';

create or replace function notika._drop_doubles(jobs notika_worker.job_spec[])
  returns notika_worker.job_spec[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys notika.run_key[];
  v_doubles jsonb;
begin
  select array_agg(
           row(k.workflow_id, notika._short(k.values), k.run_id, clock_timestamp())::notika.run_key
         )
    into v_keys
    from (
      select w.workflow_id, notika._values(j.payload, w.options -> 'key') as values,
             j.job_key::bigint as run_id
        from unnest(_drop_doubles.jobs) as j
        join notika.workflow as w on w.name = j.identifier and w.options ? 'key'
       -- Whoever replays events wants them to run again.
       where substring(j.payload::text from '"operation" : "([a-z]+)"') <> 'replay'
      offset 0 -- values are taken from an event once
    ) as k
   where not k.values @> '[null]'; -- as in a unique constraint, null is like nothing else
  if v_keys is null then
    return _drop_doubles.jobs;
  end if;

  insert into notika.run_key
  select distinct on (k.workflow_id, k.key) k.*
    from unnest(v_keys) as k
   order by k.workflow_id, k.key, k.run_id
  on conflict on constraint run_key_pkey do nothing;

  -- By key, because a planner would compare each job with each double.
  select jsonb_object_agg(k.run_id, f.run_id) into v_doubles
    from unnest(v_keys) as k
    join notika.run_key as f on f.workflow_id = k.workflow_id and f.key = k.key
   where f.run_id <> k.run_id;
  if v_doubles is null then
    return _drop_doubles.jobs;
  end if;

  insert into notika.run_log (run_id, workflow, state, attempts, event, error, created_at)
  select j.job_key::bigint, j.identifier, 'cancelled', 0, j.payload,
         format('run %s has the same key', v_doubles ->> j.job_key),
         notika._captured_at(j.payload)
    from unnest(_drop_doubles.jobs) as j
   where v_doubles ? j.job_key
  on conflict do nothing;
  return array(select j from unnest(_drop_doubles.jobs) as j where not v_doubles ? j.job_key);
end;
$$;

comment on function notika._drop_doubles(notika_worker.job_spec[]) is
  'The jobs without those whose workflow has had a run of the same key, which are logged.';

create or replace function notika._forget_keys()
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  delete from notika.run_key as k
   where k.ctid = any (array(
     select o.ctid
       from notika.run_key as o
      where o.created_at < clock_timestamp() - (select s.runs_kept from notika.setting as s)
      order by o.created_at
      limit 10000
        for update skip locked
   ));
$$;

comment on function notika._forget_keys() is
  'Forgets keys that are as old as runs that are forgotten.';
--! EndIncluded 41_control.sql
--! Included 43_line.sql
-- Lines: runs of one lane one after the other (order), and so many of a workflow at a time
-- (concurrency).  Who has to wait has a job that never starts by itself (run_at is infinity).
-- Whatever changes a line holds its lock, and wakes whoever is next.  A run that is woken without
-- being next finds out when its attempt starts, and is put back: so it never matters who woke it.

create table if not exists notika.lane (
  run_id bigint not null,
  workflow_id integer not null,
  lane text not null,
  place bigint generated always as identity,
  constraint lane_pkey primary key (run_id)
) with (fillfactor = 50);
create index if not exists lane_place_idx on notika.lane (workflow_id, lane, place);

comment on table notika.lane is
  'For workflows with an order: runs that have not ended. The first of each lane may run.';
comment on column notika.lane.run_id is 'The run.';
comment on column notika.lane.workflow_id is 'The workflow.';
comment on column notika.lane.lane is 'The values by which it is ordered.';
comment on column notika.lane.place is 'Its place; a run that is tried again by hand goes last.';

create table if not exists notika.slot (
  run_id bigint not null,
  workflow_id integer not null,
  taken_at timestamptz,
  constraint slot_pkey primary key (run_id)
) with (fillfactor = 50);
create index if not exists slot_taken_idx on notika.slot (workflow_id) where taken_at is not null;
create index if not exists slot_next_idx
  on notika.slot (workflow_id, run_id) where taken_at is null;

comment on table notika.slot is
  'For workflows with a concurrency: runs that run or want to. Who sleeps or retries is not here.';
comment on column notika.slot.run_id is 'The run.';
comment on column notika.slot.workflow_id is 'The workflow.';
comment on column notika.slot.taken_at is 'Since when it may run; null: it waits.';

create or replace function notika._is_behind(run_id bigint)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from notika.lane as l
      join notika.lane as b
        on b.workflow_id = l.workflow_id and b.lane = l.lane and b.place < l.place
     where l.run_id = _is_behind.run_id
  );
$$;

comment on function notika._is_behind(bigint) is 'Whether another run of its lane comes first.';

create or replace function notika._line_up(jobs notika_worker.job_spec[])
  returns notika_worker.job_spec[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.lane (run_id, workflow_id, lane)
  select j.job_key::bigint, w.workflow_id,
         notika._short(notika._values(j.payload, w.options -> 'order'))
    from unnest(_line_up.jobs) as j
    join notika.workflow as w on w.name = j.identifier and w.options ? 'order'
   order by j.job_key::bigint
  on conflict do nothing;

  insert into notika.slot (run_id, workflow_id, taken_at)
  select c.run_id, c.workflow_id, case when c.nth <= c.free then clock_timestamp() end
    from (
      select j.job_key::bigint as run_id, w.workflow_id, w.free,
             row_number() over (partition by w.workflow_id order by j.job_key::bigint) as nth
        from unnest(_line_up.jobs) as j
        join (
          select w.name, w.workflow_id, notika._free_slots(w.workflow_id) as free,
                 w.options ? 'order' as is_ordered
            from notika.workflow as w
           where w.options ? 'concurrency'
             and w.name in (select j.identifier from unnest(_line_up.jobs) as j)
          offset 0
        ) as w on w.name = j.identifier
       where j.run_at <= clock_timestamp()
         and not (w.is_ordered and notika._is_behind(j.job_key::bigint))
    ) as c
  on conflict do nothing;

  return array(
    select row(j.identifier, j.payload, j.queue_name,
               case when w.options ? 'concurrency' and exists (
                           select from notika.slot as s
                            where s.run_id = j.job_key::bigint and s.taken_at is null
                         )
                      or w.options ? 'order' and notika._is_behind(j.job_key::bigint)
                    then 'infinity' else j.run_at end,
               j.max_attempts, j.job_key, j.priority,
               case when notika._is_gated(w.options) then '{gated}'::text[] end
           )::notika_worker.job_spec
      from unnest(_line_up.jobs) as j
      join notika.workflow as w on w.name = j.identifier
  );
end;
$$;

comment on function notika._line_up(notika_worker.job_spec[]) is
  'The jobs with the runs in line that are not next kept from starting.';

create or replace function notika._free_slots(workflow_id integer)
  returns bigint
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  -- Where some wait already, nothing is free for others: it is theirs.
  select (w.options ->> 'concurrency')::integer - (
           select count(*)
             from (
               select from notika.slot as s
                where s.workflow_id = _free_slots.workflow_id
                limit (w.options ->> 'concurrency')::integer
             ) as s
         )
    from notika.workflow as w
   where w.workflow_id = _free_slots.workflow_id;
$$;

comment on function notika._free_slots(integer) is
  'How many runs of a workflow may start now besides those that are in line; null: any number.';

create or replace function notika._wake_runs(run_ids bigint[])
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_jobs bigint[];
  v_count bigint;
begin
  select array_agg(j.id) into v_jobs
    from notika_worker._private_jobs as j
    join notika_worker._private_tasks as t on t.id = j.task_id
    join notika.workflow as w on w.name = t.identifier
   where j.key = any (array(select r::text from unnest(_wake_runs.run_ids) as r))
     and j.run_at > clock_timestamp()
     and w.paused_at is null and w.broken_reason is null;
  if v_jobs is null then
    return 0;
  end if;

  select count(*) into v_count
    from notika_worker.reschedule_jobs(v_jobs, run_at => now()) as j;
  -- As add_jobs does and reschedule_jobs does not.
  perform notika._announce_jobs(v_count);
  return v_count;
end;
$$;

comment on function notika._wake_runs(bigint[]) is
  'Lets sleeping runs start, unless their workflow is held; says how many.';

create or replace function notika._grant_slots(workflow_id integer)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_free bigint;
  v_granted bigint[];
begin
  -- An older snapshot does not see who was let go meanwhile.  Here maintain() does it.
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    return 0;
  end if;
  select (w.options ->> 'concurrency')::integer - (
           select count(*) from notika.slot as s
            where s.workflow_id = w.workflow_id and s.taken_at is not null
         )
    into v_free
    from notika.workflow as w
   where w.workflow_id = _grant_slots.workflow_id
     and w.paused_at is null and w.broken_reason is null;
  if v_free is null or v_free <= 0 then
    return 0;
  end if;

  with granted as (
    update notika.slot as s
       set taken_at = clock_timestamp()
     -- An array, because a planner would rather join all who wait.
     where s.run_id = any (array(
       select n.run_id
         from notika.slot as n
        where n.workflow_id = _grant_slots.workflow_id and n.taken_at is null
        order by n.run_id
        limit v_free
     ))
    returning s.run_id
  )
  select array_agg(g.run_id) into v_granted from granted as g;
  return notika._wake_runs(v_granted);
end;
$$;

comment on function notika._grant_slots(integer) is
  'Gives the free slots of a workflow to those who wait longest, and says how many were woken. '
  'Needs the line lock.';

create or replace function notika._wake_heads(workflow_id integer, run_ids bigint[])
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow notika.workflow;
begin
  select w.* into v_workflow
    from notika.workflow as w
   where w.workflow_id = _wake_heads.workflow_id
     and w.paused_at is null and w.broken_reason is null;
  if v_workflow.options ? 'concurrency' then
    insert into notika.slot (run_id, workflow_id)
    select r, _wake_heads.workflow_id
      from unnest(_wake_heads.run_ids) as r
    on conflict do nothing;
    return notika._grant_slots(_wake_heads.workflow_id);
  end if;
  return notika._wake_runs(_wake_heads.run_ids);
end;
$$;

comment on function notika._wake_heads(integer, bigint[]) is
  'Lets runs go on that have become the first of their lanes, or queues them for a slot. '
  'Needs the line lock.';

create or replace function notika._leave_lines(run_ids bigint[])
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
  v_heads bigint[];
  v_woken bigint := 0;
begin
  for v_workflow_id in
    select l.workflow_id from notika.lane as l where l.run_id = any (_leave_lines.run_ids)
    union
    select s.workflow_id from notika.slot as s where s.run_id = any (_leave_lines.run_ids)
    union
    select b.workflow_id from notika.batch as b
     where b.run_id = any (_leave_lines.run_ids) and b.closed_at is null
     order by 1
  loop
    perform notika._lock_line(v_workflow_id);
    update notika.batch as b
       set closed_at = clock_timestamp()
     where b.run_id = any (_leave_lines.run_ids) and b.workflow_id = v_workflow_id
       and b.closed_at is null;
    delete from notika.slot as s
     where s.run_id = any (_leave_lines.run_ids) and s.workflow_id = v_workflow_id;
    select array_agg(h.run_id) into v_heads
      from (
        select l.lane, min(l.place) as place
          from notika.lane as l
         where l.run_id = any (_leave_lines.run_ids) and l.workflow_id = v_workflow_id
         group by l.lane
      ) as gone
     cross join lateral (
       select l.run_id, l.place
         from notika.lane as l
        where l.workflow_id = v_workflow_id and l.lane = gone.lane
          and l.run_id <> all (_leave_lines.run_ids)
        order by l.place
        limit 1
     ) as h
     where h.place > gone.place;
    delete from notika.lane as l
     where l.run_id = any (_leave_lines.run_ids) and l.workflow_id = v_workflow_id;
    v_woken := v_woken + notika._wake_heads(v_workflow_id, v_heads);
  end loop;
  return v_woken;
end;
$$;

comment on function notika._leave_lines(bigint[]) is
  'Takes runs that have ended out of all lines, lets the next go and says how many were woken.';

create or replace function notika._free_slot(run_id bigint)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  select s.workflow_id into v_workflow_id from notika.slot as s where s.run_id = _free_slot.run_id;
  if not found then
    return 0;
  end if;
  perform notika._lock_line(v_workflow_id);
  delete from notika.slot as s where s.run_id = _free_slot.run_id;
  return notika._grant_slots(v_workflow_id);
end;
$$;

comment on function notika._free_slot(bigint) is
  'Gives the slot of a run that sleeps or is tried again later to the next.';

create or replace function notika._requeue(job_id bigint, run_at timestamptz)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_job notika_worker._private_jobs;
  v_workflow text;
  v_new notika_worker._private_jobs;
begin
  select j.* into v_job from notika_worker._private_jobs as j where j.id = _requeue.job_id;
  select t.identifier into v_workflow
    from notika_worker._private_tasks as t where t.id = v_job.task_id;
  if v_job.key is null then
    return;
  end if;

  -- The present one is locked: it loses its key to a new one, and ends when its task returns.
  select j.* into v_new
    from notika_worker.add_job(
           v_workflow, v_job.payload, job_key => v_job.key, run_at => _requeue.run_at,
           max_attempts => v_job.max_attempts, priority => v_job.priority,
           flags => array(select jsonb_object_keys(v_job.flags))
         ) as j;
  if v_job.last_error is not null then
    perform notika_worker.permanently_fail_jobs(array[v_new.id], v_job.last_error);
  end if;
  -- What did not begin is no attempt.
  perform notika_worker.reschedule_jobs(array[v_new.id], attempts => v_job.attempts - 1);
end;
$$;

comment on function notika._requeue(bigint, timestamptz) is
  'Puts a run whose job has just started back, as if it had not, until a later time.';

create or replace function notika._admit(job_id bigint, run_id bigint)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_job notika_worker._private_jobs;
  v_workflow notika.workflow;
  v_closes_at timestamptz;
begin
  select j.* into v_job from notika_worker._private_jobs as j where j.id = _admit.job_id;
  if not coalesce(v_job.flags ? 'gated', false) then
    return true;
  end if;
  select w.* into v_workflow
    from notika_worker._private_tasks as t
    join notika.workflow as w on w.name = t.identifier
   where t.id = v_job.task_id;
  perform notika._lock_line(v_workflow.workflow_id);

  update notika.batch as b
     set closed_at = clock_timestamp()
   where b.run_id = _admit.run_id and b.closed_at is null and b.closes_at <= clock_timestamp();
  select b.closes_at into v_closes_at
    from notika.batch as b
   where b.run_id = _admit.run_id and b.closed_at is null;
  if found then
    perform notika._requeue(_admit.job_id, v_closes_at);
    return false;
  end if;

  if v_workflow.options ? 'order' then
    insert into notika.lane (run_id, workflow_id, lane)
    values (_admit.run_id, v_workflow.workflow_id,
            notika._short(notika._values(v_job.payload, v_workflow.options -> 'order')))
    on conflict do nothing;
    if notika._is_behind(_admit.run_id) then
      perform notika._requeue(_admit.job_id, 'infinity');
      return false;
    end if;
  end if;

  if v_workflow.options ? 'concurrency' then
    insert into notika.slot (run_id, workflow_id)
    values (_admit.run_id, v_workflow.workflow_id)
    on conflict do nothing;
    perform notika._grant_slots(v_workflow.workflow_id);
    if exists (
      select from notika.slot as s where s.run_id = _admit.run_id and s.taken_at is null
    ) then
      perform notika._requeue(_admit.job_id, 'infinity');
      return false;
    end if;
  end if;
  return true;
end;
$$;

comment on function notika._admit(bigint, bigint) is
  'Whether a run may go on now. If not, it is put back until it may.';

create or replace function notika._advance(workflow_id integer)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_options jsonb;
  v_free bigint[];
  v_heads bigint[];
begin
  perform notika._lock_line(_advance.workflow_id);
  select w.options into v_options
    from notika.workflow as w
   where w.workflow_id = _advance.workflow_id;

  -- Lines that are not kept any more.
  if not v_options ? 'order' then
    with gone as (
      delete from notika.lane as l where l.workflow_id = _advance.workflow_id returning l.run_id
    )
    select array_agg(g.run_id) into v_heads from gone as g;
  else
    select array_agg(h.run_id) into v_heads
      from (
        select distinct on (l.lane) l.run_id
          from notika.lane as l
         where l.workflow_id = _advance.workflow_id
         order by l.lane, l.place
      ) as h;
  end if;
  if not v_options ? 'concurrency' then
    with gone as (
      delete from notika.slot as s where s.workflow_id = _advance.workflow_id returning s.run_id
    )
    select array_agg(g.run_id) into v_free from gone as g;
  end if;

  -- Only who waits for its turn: the others know when they go on.
  select array_agg(j.key::bigint) into v_heads
    from notika_worker._private_jobs as j
   where j.key = any (array(select h::text from unnest(v_heads || v_free) as h))
     and j.run_at = 'infinity' and j.locked_at is null
     and not exists (select from notika.wait as w where w.run_id = j.key::bigint);
  return notika._wake_heads(_advance.workflow_id, v_heads);
end;
$$;

comment on function notika._advance(integer) is
  'Lets all runs of a workflow go whom nothing keeps in line any more: after its options have '
  'changed, when it is resumed, and in case somebody was forgotten.';

create or replace function notika._tend_lines()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
  v_gone bigint[];
  v_idle bigint[];
begin
  -- Ended without leaving the line.  A run that was cancelled while it ran leaves when it stops.
  select array_agg(r.run_id) into v_gone
    from (
      select l.run_id from notika.lane as l
      union
      select s.run_id from notika.slot as s
      union
      select b.run_id from notika.batch as b where b.closed_at is null
    ) as r
   where not exists (select from notika_worker._private_jobs as j where j.key = r.run_id::text)
     and r.run_id <> all (array(
       select substring(j.payload::text from '"id" : "([0-9]+)"')::bigint
         from notika_worker._private_jobs as j
        where j.key is null and j.locked_at is not null
     ));
  if v_gone is not null then
    perform notika._leave_lines(v_gone);
    return next format('%s runs that have ended were taken out of line', cardinality(v_gone));
  end if;

  -- Its attempt ended, but its runner died before it said so.
  select array_agg(s.run_id) into v_idle
    from notika.slot as s
    join notika_worker._private_jobs as j on j.key = s.run_id::text
   where s.taken_at < clock_timestamp() - interval '1 second'
     and j.locked_at is null and j.run_at > clock_timestamp();
  perform notika._free_slot(r) from unnest(v_idle) as r;

  -- Looked for without the line lock, which others need all the time.
  for v_workflow_id in
    select w.workflow_id
      from notika.workflow as w
     where w.paused_at is null and w.broken_reason is null
       and (exists (
              select
                from (
                  select distinct on (l.lane) l.run_id
                    from notika.lane as l
                   where l.workflow_id = w.workflow_id
                   order by l.lane, l.place
                ) as h
                join notika_worker._private_jobs as j on j.key = h.run_id::text
               where j.run_at = 'infinity' and j.locked_at is null
                 and not exists (select from notika.slot as s where s.run_id = h.run_id)
                 and not exists (select from notika.wait as v where v.run_id = h.run_id)
            )
            or exists (
              select from notika.slot as s
               where s.workflow_id = w.workflow_id and s.taken_at is null
            ) and (
              select count(*)
                from notika.slot as s
               where s.workflow_id = w.workflow_id and s.taken_at is not null
            ) < (w.options ->> 'concurrency')::integer)
     order by w.workflow_id
  loop
    perform notika._advance(v_workflow_id);
  end loop;
end;
$$;

comment on function notika._tend_lines() is
  'Sees to it that nobody waits behind a run that is gone.';
--! EndIncluded 43_line.sql
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
         when j.run_at <= clock_timestamp() then 'ready'
         when j.run_at = 'infinity' then case
           when w.paused_at is not null or w.broken_reason is not null then 'held'
           else 'waiting'
         end
         when exists (select from notika.wait as w where w.run_id = j.key::bigint) then 'waiting'
         when j.attempts > 0 or j.flags ? 'resumed' then 'retrying'
         else 'waiting'
       end,
       j.attempts::integer,
       j.payload,
       j.last_error,
       notika._captured_at(j.payload),
       case when j.run_at > clock_timestamp() then j.run_at end,
       j.locked_at,
       null::timestamptz
  from notika_worker._private_jobs as j
  join notika_worker._private_tasks as t on t.id = j.task_id
  left join notika.workflow as w on w.name = t.identifier
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
   -- What a source captures starts no run.  Not by _workflow_of, which is estimated at next to none.
   and w.name not like '%:%'
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
comment on column notika.runs.wake_at is
  'When it goes on; infinity: when it is its turn, or its workflow is resumed.';
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
   select array_agg(h.holder order by h.holder) as sessions
     from (
       select format('pid %s (%s): %s', a.pid,
                     coalesce(nullif(a.application_name, ''), a.usename), b.holds) as holder
         from pg_catalog.pg_stat_activity as a
        cross join lateral (
          select 'uncommitted writes since ' || a.xact_start as holds
           where a.backend_xid::text::bigint in (
                   -- backend_xid has 32 bits
                   select x.xid::text::bigint & 4294967295
                     from unnest((p).pending_xids) as x (xid)
                 )
             and a.datname = pg_catalog.current_database()
          union all
          select format('a lock on %s since %s', k.relation::pg_catalog.regclass, a.xact_start)
            from pg_catalog.pg_locks as k
           where k.pid = a.pid
             -- Databases made from one template share their oids.
             and a.datname = pg_catalog.current_database()
             and k.relation = pg_catalog.to_regclass(
                   format('notika.event_log_%s', notika._segment(1)))
        ) as b
        where a.pid <> pg_catalog.pg_backend_pid()
       union all
       select format('prepared transaction %L of %s since %s', x.gid, x.owner, x.prepared)
         from pg_catalog.pg_prepared_xacts as x
        where x.database = pg_catalog.current_database()
     ) as h
 ) as blocker;

comment on view notika.lag is 'How far the hand-over is behind, and what holds it or the ring up.';
comment on column notika.lag.events_waiting is 'Committed events that are not handed over yet.';
comment on column notika.lag.oldest_waiting is 'When the oldest of them was captured.';
comment on column notika.lag.ring_bytes is 'The size of the three segments, in bytes.';
comment on column notika.lag.blocked_by is
  'Sessions with uncommitted writes, which may hold events, or with a lock on the oldest segment, '
  'which keeps the ring from turning, and prepared transactions, which may do both; null: none.';
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
            hint = format('Publish it first: select notika.publish(%L, ''<schema>.<table>''); '
                          'What is published: select workflow from notika.workflows;',
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
  if notika._workflow_of(pause.workflow) is not null then
    raise exception 'source "%" has no runs to hold', pause.workflow
      using errcode = 'invalid_parameter_value',
            hint = format('Pause its workflow: select notika.pause(%L);',
                          notika._workflow_of(pause.workflow));
  end if;
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
   where t.identifier = resume.workflow and j.run_at = 'infinity'
     and not notika._is_behind(j.key::bigint)
     and not exists (
       select from notika.slot as s where s.run_id = j.key::bigint and s.taken_at is null
     );
  if v_jobs is not null then
    perform notika_worker.reschedule_jobs(v_jobs, run_at => now());
  end if;
  perform notika._advance(v_workflow_id);
end;
$$;

comment on function notika.resume(text) is 'Lets the runs go on that pause held, all at once.';

create or replace function notika.retry(run_id bigint, from_start boolean default false)
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

  perform notika._revive(v_run, retry.from_start);
  perform notika._hold_jobs();
end;
$$;

comment on function notika.retry(bigint, boolean) is
  'Makes a run that has ended run again: it goes on from the step that failed, or from_start, '
  'where it forgets its steps.';

create or replace function notika.retry(
  workflow text,
  since timestamptz,
  from_start boolean default false
)
  returns integer
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.run_log;
  v_count integer := 0;
begin
  if not exists (select from notika.workflow as w where w.name = retry.workflow) then
    perform notika._published(retry.workflow);
  end if;
  for v_run in
    select l.*
      from notika.run_log as l
     where l.workflow = retry.workflow and l.state = 'failed' and l.retried_at is null
       and l.finished_at >= retry.since
     order by l.run_id
       for update
  loop
    perform notika._revive(v_run, retry.from_start);
    v_count := v_count + 1;
  end loop;
  perform notika._hold_jobs();
  return v_count;
end;
$$;

comment on function notika.retry(text, timestamptz, boolean) is
  'Makes the runs of a workflow that have failed since then run again, as retry does with one; says '
  'how many.';

create or replace function notika._revive(ended notika.run_log, from_start boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.run_log as l
     set retried_at = clock_timestamp()
   where l.run_id = ended.run_id and l.retried_at is null;
  delete from notika.step as s
   where s.run_id = ended.run_id and (s.state <> 'done' or _revive.from_start);
  perform notika_worker.add_job(
    ended.workflow, ended.event, job_key => ended.run_id::text,
    max_attempts => (select s.max_attempts from notika.setting as s),
    flags => array['resumed'] || notika._flags(ended.workflow)
  );
  perform notika._listen_again(ended.run_id);
end;
$$;

comment on function notika._revive(notika.run_log, boolean) is
  'Makes a run that has ended, and whose event is known, a job again.';

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
  perform notika._cancelled(array[cancel.run_id]);
  -- A running job is not stopped, but neither is it tried again, nor does its outcome count.
  perform notika_worker.remove_job(cancel.run_id::text);
  return v_cancelled;
end;
$$;

comment on function notika.cancel(bigint) is
  'Ends a run that has not ended: true; one that has is left alone: false.';

create or replace function notika._finish(outcomes json)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
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
   order by o.run_id
  on conflict do nothing;
  perform notika._settled(array_agg(o.run_id))
     from json_to_recordset(_finish.outcomes) as o (run_id bigint);
end;
$$;

comment on function notika._finish(json) is
  'Appends the outcomes of runs, an array of objects with the columns of run_log.';

create or replace function notika._next_due(tasks text[])
  returns timestamptz
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select least(
    (select min(j.run_at)
       from notika_worker._private_jobs as j
       join notika_worker._private_tasks as t on t.id = j.task_id
      where t.identifier = any (_next_due.tasks)
        and j.is_available and j.run_at < 'infinity'),
    (select min(s.next_at)
       from notika.schedule as s
       join notika.workflow as w on w.workflow_id = s.workflow_id
      where w.name = any (_next_due.tasks)
        and w.unpublished_at is null and w.paused_at is null and w.broken_reason is null
        and s.next_at < 'infinity'),
    (select l.oldest_waiting from notika.lag as l)
  );
$$;

comment on function notika._next_due(text[]) is
  'When there is next something to do for who has these tasks; null: nothing, unless a row changes.';

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
    set seen_at = clock_timestamp(), tasks = excluded.tasks, suspected_at = null;
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
-- What an event carries of a row, as json: a payload function for each workflow that Postgres itself
-- keeps in step with the table.
-- Values are turned into json by Postgres' own functions only: the trigger function runs with the
-- owner's rights, and a cast that the owner of a type wrote must not.
-- What runs at a write is parsed in the writer's session: a backslash is only safe in E''.

create or replace function notika._base_type(type oid)
  returns oid
  language plpgsql
  stable
  strict
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_base oid;
begin
  loop
    select t.typbasetype into v_base from pg_type as t where t.oid = _base_type.type;
    if not found then
      return null;
    end if;
    exit when v_base = 0;
    type := v_base;
  end loop;
  return _base_type.type;
end;
$$;

comment on function notika._base_type(oid) is 'The type under a domain, or the type itself.';

create or replace function notika._leaf_types(type oid)
  returns setof oid
  language plpgsql
  stable
  strict
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Most have no parts.
  if exists (
    select from pg_type as t
     where t.oid = _leaf_types.type and t.typtype in ('b', 'e', 'r', 'm') and t.typcategory <> 'A'
  ) then
    return next _leaf_types.type;
    return;
  end if;
  return query
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
end;
$$;

comment on function notika._leaf_types(oid) is
  'The types of the single values in a type, through arrays, composites and domains.';

create or replace function notika._settings(types oid[])
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan -- to plan takes longer than to run
as $$
begin
  -- Each setting costs every row a little, so only those that the types need; a type that is not
  -- listed may hold any of the others.
  return (
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
       and l.type not in (select k.type from dependent as k where k.type is not null)
  );
end;
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
               'case when pg_catalog.num_nonnulls(%s) operator(pg_catalog.=) 1 then %s end',
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

create or replace function notika._key_expression(
  path text,
  relation regclass,
  also text[] default '{}'
)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select notika._object_expression(
           array_agg(a.attname::text order by array_position(k.columns, a.attnum), a.attnum),
           array_agg(
             notika._json_expression(format('%s.%I', _key_expression.path, a.attname), a.atttypid)
             order by array_position(k.columns, a.attnum), a.attnum
           )
         )
    from (
      select coalesce(notika._key_columns(_key_expression.relation), '{}')
    ) as k (columns)
    join pg_attribute as a
      on a.attrelid = _key_expression.relation and a.attnum > 0 and not a.attisdropped
     and (a.attnum = any (k.columns) or a.attname = any (_key_expression.also))
   having count(a.attnum) > 0;
$$;

comment on function notika._key_expression(text, regclass, text[]) is
  'An SQL expression for the json that _key makes of a row, from its columns one by one; null: it has '
  'no key.';

create or replace function notika._key(
  changed anyelement,
  relation regclass,
  also text[] default '{}'
)
  returns json
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select notika._pick(_key.changed, _key.relation, k.columns || array(
           select a.attnum
             from pg_attribute as a
            where a.attrelid = _key.relation and a.attname = any (_key.also)
              and a.attnum > 0 and not a.attisdropped and a.attnum <> all (k.columns)
         ))
    from (select coalesce(notika._key_columns(_key.relation), '{}')) as k (columns);
$$;

comment on function notika._key(anyelement, regclass, text[]) is
  'The key columns of a row as json, and what waits compare: what is left of a row that is too big '
  'for an event.';

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
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
begin
  return (
    select format('%I.%I', n.nspname, c.relname)
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     where c.oid = _quoted.relation
  );
end;
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
--! EndIncluded 60_capture.sql
--! Included 61_trigger.sql
-- The trigger function of a workflow and its triggers, in one of two forms.
-- row: a trigger for each row, with the filter as its WHEN.
-- statement: one call for all rows that a statement changed, a quarter of the cost for many and a
-- little dearer for one; only where it sees the same changes in the same order, which is for the
-- event triggers of the guard to watch over.

create or replace function notika._acts_on_its_own(trigger pg_trigger)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- What only looks whether a constraint holds writes nothing that would come before or after.
  select p.proname not in ('RI_FKey_check_ins', 'RI_FKey_check_upd', 'RI_FKey_noaction_del',
                           'RI_FKey_noaction_upd', 'RI_FKey_restrict_del', 'RI_FKey_restrict_upd',
                           'unique_key_recheck')
      or p.pronamespace <> 'pg_catalog'::regnamespace
    from pg_proc as p
   where p.oid = (_acts_on_its_own.trigger).tgfoid;
$$;

comment on function notika._acts_on_its_own(pg_trigger) is
  'Whether a trigger may write something: not those by which Postgres checks constraints.';

create or replace function notika._form(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Changes of one operation come in order; between those of several the order would be lost.
  if not spec.is_pinned or spec.columns is null or spec.condition is not null
     or spec.operations not in ('{insert}', '{delete}')
     or not notika._has_event_triggers()
  then
    return 'row';
  end if;

  if exists (select from pg_class as c where c.oid = spec.relation and c.relkind <> 'r')
     -- As part of a row that a statement changed Postgres cannot compute it.
     or exists (
       select from pg_attribute as a
        where a.attrelid = spec.relation and a.attgenerated = 'v' and not a.attisdropped
     )
     -- What is written to a part is a matter of the part's triggers.
     or exists (
       select from pg_inherits as i where spec.relation in (i.inhrelid, i.inhparent)
     )
     -- Others may write before it, or between the rows; and one that fires always is meant for what
     -- is replicated, which fires none for each statement.
     or exists (
       select from pg_trigger as t
         join pg_proc as p on p.oid = t.tgfoid
        where t.tgrelid = spec.relation
          and t.tgtype & 66 = 0 -- neither before nor instead
          and t.tgtype & case when spec.operations = '{insert}' then 4 else 8 end > 0
          and case when p.pronamespace = 'notika'::regnamespace
                   then t.tgname = format('notika_%s_%s', spec.workflow_id, spec.operations[1])
                        and t.tgenabled = 'A'
                   else notika._acts_on_its_own(t) end
     )
  then
    return 'row';
  end if;
  return 'statement';
end;
$$;

comment on function notika._form(notika.workflow) is
  'The form in which a workflow is captured: statement where such a trigger sees the same, or row.';

create or replace function notika._is_held(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return spec.is_pinned and spec.columns is not null
     and (spec.capture = 'statement' or not notika._has_event_triggers());
end;
$$;

comment on function notika._is_held(notika.workflow) is
  'Whether its triggers go with the payload function; otherwise they do without it.';

create or replace function notika._has_fallback(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return spec.is_pinned and spec.columns is not null and not notika._is_held(spec)
     -- For a row of a part or a child there would be two to choose from.
     and (select c.relkind <> 'p' from pg_class as c where c.oid = spec.relation)
     and (select count(*) = 1 from notika._family(spec.relation));
end;
$$;

comment on function notika._has_fallback(notika.workflow) is
  'Whether a function for any row takes over if the payload function is dropped, so that writes go '
  'on and need no subtransaction for it.';

create or replace function notika._rows(operation text)
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case operation when 'insert' then array['new']
                        when 'update' then array['new', 'old']
                        else array['old'] end;
$$;

comment on function notika._rows(text) is
  'Which rows an operation has: after the change, before it.';

create or replace function notika._fits_expression(changed text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('pg_catalog.octet_length(v_%s::pg_catalog.text) operator(pg_catalog.<=) %s',
                _fits_expression.changed, s.payload_bytes)
    from notika.setting as s;
$$;

comment on function notika._fits_expression(text) is
  'SQL that is true in a trigger for each row if the json of new or old goes into an event.';

create or replace function notika._indented(code text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select replace(_indented.code, E'\n', E'\n  ');
$$;

comment on function notika._indented(text) is 'Code that stands two columns further to the right.';

create or replace function notika._segment_code(condition text default 'true')
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $body$
  -- The row that was written gave the transaction its xid before the segment is read.
  select format($$
  -- In one expression, because each that looks at the world takes a snapshot.
  v_segment := case
    when pg_catalog.current_setting('notika.mute', true) operator(pg_catalog.<>) '' then -1
    when pg_catalog.current_setting('notika.run', true) operator(pg_catalog.<>) '' then -1
    when %s
      then (pg_catalog.pg_sequence_last_value('notika.control_seq') operator(pg_catalog.>>) 1)
           operator(pg_catalog.%%) 3
    else -1
  end;$$, _segment_code.condition);
$body$;

comment on function notika._segment_code(text) is
  'What a trigger does to know the segment that it writes to; -1: the session or, where there is a '
  'condition, the row is not of the usual kind.';

create or replace function notika._at_segment(template text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $body$
  select format($$
  if v_segment operator(pg_catalog.=) 0 then%s
  elsif v_segment operator(pg_catalog.=) 1 then%s
  elsif v_segment operator(pg_catalog.=) 2 then%s$$,
    format(_at_segment.template, 0),
    format(_at_segment.template, 1),
    format(_at_segment.template, 2));
$body$;

comment on function notika._at_segment(text) is
  'Code for each segment, of which that of v_segment runs; %s stands for its number.';

create or replace function notika._key_code(spec notika.workflow, changed text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_compared text[] := coalesce(notika._compared(spec), '{}');
  v_expression text := notika._key_expression(changed, spec.relation, v_compared);
  v_key text := format(
    'notika._key(%s, tg_relid%s)', changed, ', ' || quote_literal(nullif(v_compared, '{}')::text));
begin
  if v_expression is null then
    return format('        v_%1$s := %2$s;', changed, v_key);
  end if;
  -- A row that is passed on takes all along that is kept outside of it: time, memory, and from a
  -- gigabyte on an error.
  return format($$        begin
          v_%1$s := case
            when notika._key_names(tg_relid) operator(pg_catalog.=) %2$L::pg_catalog.text[]
              then %3$s
          end;
        exception when undefined_column then
          v_%1$s := null;
        end;
        if v_%1$s is null then
          v_%1$s := %4$s;
        end if;$$, changed, notika._key_names(spec.relation), v_expression, v_key);
end;
$body$;

comment on function notika._key_code(notika.workflow, text) is
  'What a trigger for each row does to have the key of new or old as json.';

create or replace function notika._shape(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select md5(coalesce(
           string_agg(format('%L %s', a.attname, a.atttypid), ', ' order by a.attnum), ''
         ))
    from pg_attribute as a
   where a.attrelid = _shape.relation and a.attnum > 0 and not a.attisdropped;
$$;

comment on function notika._shape(regclass) is
  'Tells a table from what it was before its columns, their names or types changed.';

create or replace function notika._listed_shape(definition text[])
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select substring(d.statement from E'\n *-- columns ([0-9a-f]{32})\n')
    from unnest(_listed_shape.definition) as d (statement)
   where starts_with(d.statement, 'create or replace function notika._capture_')
     and strpos(d.statement, '-- columns ') > 0;
$$;

comment on function notika._listed_shape(text[]) is
  'The shape of a table when its columns were listed for a workflow; null: they are not listed.';

create or replace function notika._lists_columns(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return spec.is_pinned and spec.columns is null and notika._has_event_triggers()
     -- Children have columns of their own, and those of parents change without a word.
     and not exists (
       select from pg_inherits as i
         join pg_class as c on c.oid = i.inhrelid
        where i.inhrelid = spec.relation or i.inhparent = spec.relation and not c.relispartition
     )
     -- What is in a type of somebody else changes without the table.
     and not exists (
       select from pg_attribute as a
         join pg_type as t on t.oid = notika._base_type(a.atttypid)
        where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
          and t.oid >= 16384 and t.typtype <> 'e'
     );
end;
$$;

comment on function notika._lists_columns(notika.workflow) is
  'Whether a whole row is made from a list of its columns, which the guard keeps in step with it.';

create or replace function notika._image_expression(spec notika.workflow, changed text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit integer := (select s.payload_bytes from notika.setting as s);
begin
  if spec.is_pinned and spec.columns is not null then
    return format('notika.payload_%s(%s)', spec.workflow_id, changed);
  elsif notika._lists_columns(spec) then
    return (
      select format(
               E'case when 0::pg_catalog.int8%s operator(pg_catalog.<=) %s then\n    %s end',
               string_agg(' operator(pg_catalog.+) ' || notika._size_expression(
                 format('%s.%I', changed, a.attname), a.atttypid, a.atttypmod), ''
                 order by a.attnum),
               v_limit,
               notika._object_expression(
                 array_agg(a.attname::text order by a.attnum),
                 array_agg(notika._json_expression(format('%s.%I', changed, a.attname), a.atttypid)
                           order by a.attnum)))
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
    );
  end if;
  return format('case when pg_catalog.pg_column_size(%s) operator(pg_catalog.<=) %s then %s end',
    changed, v_limit,
    case when spec.is_pinned then format('notika._whole_row(%s, tg_relid)', changed)
         else format('notika._loose_image(%s, tg_relid, %s)', changed, spec.workflow_id) end);
end;
$$;

comment on function notika._image_expression(notika.workflow, text) is
  'SQL for the json of new or old in a trigger for each row; null: the row is too big.';

create or replace function notika._images_code(spec notika.workflow, operation text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_rows text[] := notika._rows(operation);
  v_code text := (
    select string_agg(
             format(E'\n  v_%s := %s;', r, notika._image_expression(spec, r)), '' order by r)
      from unnest(v_rows) as r
  );
begin
  -- What it calls may be gone, and nobody saw to it.
  if spec.is_pinned and not notika._is_held(spec) and not notika._has_fallback(spec)
     and (spec.columns is not null or notika._lists_columns(spec))
  then
    return format($$
  begin%s%s
  exception when %s then%s
  end;$$,
      case when spec.columns is null
           then format(E'\n    -- columns %s', notika._shape(spec.relation)) end,
      notika._indented(v_code),
      case when spec.columns is null then 'undefined_column or datatype_mismatch'
           else 'undefined_function or ambiguous_function' end,
      (select string_agg(
                format(E'\n    v_%1$s := notika._loose_image(%1$s, tg_relid, %2$s);', r,
                       spec.workflow_id), '' order by r)
         from unnest(v_rows) as r));
  end if;
  return v_code;
end;
$body$;

comment on function notika._images_code(notika.workflow, text) is
  'What a trigger for each row does to have the rows before and after as json.';

create or replace function notika._mending_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
begin
  return (
    select string_agg(format($$
    if %1$s(%2$s) is not true then%3$s
      if (%2$s) is not true then
        v_truncated := true;
%4$s
      end if;
    end if;$$,
             case when r.missing = any (spec.operations)
                  then format('tg_op operator(pg_catalog.<>) %L and ', upper(r.missing)) end,
             notika._fits_expression(r.name),
             case when notika._has_fallback(spec) then format($$
      if v_%1$s is null and notika._payload_function(%2$s, tg_relid) is null then
        v_%1$s := notika._loose_image(%1$s, tg_relid, %2$s);
      end if;$$, r.name, spec.workflow_id) end,
             notika._key_code(spec, r.name)), '' order by r.name)
      from (values ('new', 'delete'), ('old', 'insert')) as r (name, missing)
     where spec.operations <> array[r.missing]
  );
end;
$body$;

comment on function notika._mending_code(notika.workflow) is
  'What a trigger for each row does about rows that are too big, or whose payload function is gone.';

create or replace function notika._usual_code(spec notika.workflow, operation text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_has_snapshot boolean := notika._has_sources(spec.name);
  v_rows text[] := notika._rows(operation);
begin
  return notika._images_code(spec, operation)
      || notika._segment_code(array_to_string(
           array(select notika._fits_expression(r.name) from unnest(v_rows) as r (name)),
           E'\n     and '))
      || notika._at_segment(format($$
    insert into notika.event_log_%%s (workflow_id, operation, %s%s)
    values (%s, %L, v_%s%s);$$,
           array_to_string(v_rows, ', '),
           case when v_has_snapshot then ', snapshot' end,
           spec.workflow_id,
           operation,
           array_to_string(v_rows, ', v_'),
           case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end))
      || E'\n  end if;';
end;
$body$;

comment on function notika._usual_code(notika.workflow, text) is
  'What a trigger for each row does about an operation, if there is nothing special about it.';

create or replace function notika._row_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_has_snapshot boolean := notika._has_sources(spec.name);
  v_code text := '';
begin
  if not spec.is_pinned and spec.watch is not null then
    v_code := format($$
  if tg_op operator(pg_catalog.=) 'UPDATE' then
    if not notika._is_watched_change(new, old, tg_relid, %s) then
      return null;
    end if;
  end if;$$, spec.workflow_id);
  end if;

  if cardinality(spec.operations) = 1 then
    v_code := v_code || notika._usual_code(spec, spec.operations[1]);
  else
    -- Each operation has its own, because every further expression costs a transaction a little.
    v_code := v_code || (
      select string_agg(format($$
  %s tg_op operator(pg_catalog.=) %L then%s$$,
               case when o.place = 1 then 'if' else 'elsif' end,
               upper(o.name), notika._indented(notika._usual_code(spec, o.name))), ''
               order by o.place)
        from unnest(spec.operations) with ordinality as o (name, place)
    ) || E'\n  end if;';
  end if;

  return v_code || format($code$

  if v_segment operator(pg_catalog.=) -1 then
    select o.is_muted, o.cause_id, o.depth into v_is_muted, v_cause_id, v_depth
      from notika._origin() as o;
    if v_is_muted then
      return null;
    end if;

    v_truncated := false;%1$s

    v_operation := case%2$s end;
    v_segment := notika._segment(0);%3$s
    end if;
  end if;
$code$,
    notika._mending_code(spec),
    (select string_agg(
              format(E'\n      when tg_op operator(pg_catalog.=) %L then %L', upper(o.name), o.name),
              '')
       from unnest(spec.operations) as o (name)),
    notika._indented(notika._at_segment(format($$
    insert into notika.event_log_%%s
      (workflow_id, operation, new, old, truncated, cause_id, depth%s)
    values
      (%s, v_operation, v_new, v_old, v_truncated, v_cause_id, v_depth%s);$$,
      case when v_has_snapshot then ', snapshot' end,
      spec.workflow_id,
      case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end))));
end;
$body$;

comment on function notika._row_code(notika.workflow) is
  'What the function of a trigger for each row does.';

create or replace function notika._set_aside()
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform set_config('notika.set_aside', 'on', true);
  return false;
end;
$$;

comment on function notika._set_aside() is
  'Called for each row that is too big for an event; leaves it out, and a note that there is one.';

create or replace function notika._statement_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_has_snapshot boolean := notika._has_sources(spec.name);
  v_limit integer := (select s.payload_bytes from notika.setting as s);
  v_image text := case spec.operations when '{delete}' then 'old' else 'new' end;
  v_append text := format($$
    insert into notika.event_log_%%%%s (workflow_id, operation, %1$s%%1$s%2$s)
    select %3$s, %4$L, c.image%%2$s%5$s
      from (
        select notika.payload_%3$s(r.*) as image
          from changed as r
        offset 0 -- so that it is made once
      ) as c
     where pg_catalog.octet_length(c.image::pg_catalog.text) operator(pg_catalog.<=) %6$s
        or notika._set_aside();$$,
    v_image,
    case when v_has_snapshot then ', snapshot' end,
    spec.workflow_id,
    spec.operations[1],
    case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end,
    v_limit);
begin
  return format($code$%1$s
  if v_segment operator(pg_catalog.<) 0 then
    select o.is_muted, o.cause_id, o.depth into v_is_muted, v_cause_id, v_depth
      from notika._origin() as o;
    if v_is_muted then
      return null;
    end if;
    v_segment := notika._segment(0);
  end if;

  -- What has variables in it would be planned anew for each statement.
  if v_cause_id is null then%2$s
    end if;
  else%3$s
    end if;
  end if;

  if pg_catalog.current_setting('notika.set_aside', true) operator(pg_catalog.=) 'on' then
    perform pg_catalog.set_config('notika.set_aside', '', true);
    execute pg_catalog.format(
      'insert into notika.event_log_%%s
         (workflow_id, operation, %4$s, truncated, cause_id, depth%5$s)
       select $1, $2, %%s, true, $3, $4%6$s
         from changed as r
        where (pg_catalog.octet_length(notika.payload_%7$s(r.*)::pg_catalog.text)
               operator(pg_catalog.<=) %8$s) is not true',
      v_segment,
      coalesce(notika._key_expression('r', tg_relid::pg_catalog.regclass, %9$L::pg_catalog.text[]),
               '''{}''::pg_catalog.json'))
      using %7$s, %10$L::pg_catalog.text, v_cause_id, coalesce(v_depth, 0);
  end if;
$code$,
    notika._segment_code(),
    notika._indented(notika._at_segment(format(v_append, '', ''))),
    notika._indented(notika._at_segment(
      format(v_append, ', cause_id, depth', ', v_cause_id, v_depth'))),
    v_image,
    case when v_has_snapshot then ', snapshot' end,
    case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end,
    spec.workflow_id,
    v_limit,
    coalesce(notika._compared(spec), '{}')::text,
    spec.operations[1]);
end;
$body$;

comment on function notika._statement_code(notika.workflow) is
  'What the function of a trigger for each statement does.';

create or replace function notika._capture_definition(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_types oid[];
begin
  if spec.is_pinned and spec.columns is not null or notika._lists_columns(spec) then
    v_types := array(
      select a.atttypid
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
         and (spec.columns is null or a.attname = any (spec.column_names)
              or a.attnum = any (notika._key_columns(spec.relation))) -- what is left of a big row
    );
  else
    v_types := array['point'::regtype]; -- any type may be added later
  end if;

  -- No search_path of its own, which would cost a row more than half of what the call of a trigger
  -- costs: every name in it says where it is from.
  return format($template$create or replace function notika._capture_%1$s()
  returns trigger
  language plpgsql
  security definer%2$s
as %3$s$template$,
    spec.workflow_id,
    notika._settings(v_types),
    notika._dollar_quoted(format($capture$
declare -- without values, each of which would cost every row an expression%1$s
  v_segment pg_catalog.int4;
  v_is_muted pg_catalog.bool;
  v_cause_id pg_catalog.int8;
  v_depth pg_catalog.int2;
begin%2$s
  -- After the insert: before it, a dispatcher could fall asleep in between.
  if pg_catalog.pg_sequence_last_value('notika.control_seq') operator(pg_catalog.&) 1
     operator(pg_catalog.=) 1
  then
    perform notika._wake();
  end if;
  return null; -- an after trigger; the result is ignored
end;
$capture$,
    case spec.capture when 'row' then '
  v_operation pg_catalog.text;
  v_new pg_catalog.json;
  v_old pg_catalog.json;
  v_truncated pg_catalog.bool;' end,
    case spec.capture when 'row' then notika._row_code(spec) else notika._statement_code(spec) end
    ), 'capture')
  );
end;
$body$;

comment on function notika._capture_definition(notika.workflow) is
  'The statement that makes the trigger function of a workflow.';

create or replace function notika._changed_expression(
  column_name text,
  type oid,
  collation_id oid default 0
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
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
     where t.oid = notika._base_type(_changed_expression.type)
  );
end;
$$;

comment on function notika._changed_expression(text, oid, oid) is
  'SQL over new and old that is true when the column changed, whatever its type.';

create or replace function notika._trigger_definition(
  spec notika.workflow,
  relation regclass,
  operation text
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_changed text := case operation when 'delete' then 'old' else 'new' end;
  v_filters text[];
begin
  if not spec.is_pinned and spec.condition is not null then
    v_filters := v_filters || format(
      'notika._passes_%s(%s, %s)', spec.workflow_id,
      case operation when 'delete' then 'null' else 'new.*' end, -- .*: a column may be called new
      case operation when 'insert' then 'null' else 'old.*' end
    );
  end if;
  if spec.is_pinned and operation = 'update' and spec.watch is not null then
    perform notika._expect_columns(_trigger_definition.relation, spec.watch);
    v_filters := v_filters || (
      select format('(%s)', string_agg(
               notika._changed_expression(w.name, a.atttypid, a.attcollation), ' or '
               order by w.place))
        from unnest(spec.watch) with ordinality as w (name, place)
        join pg_attribute as a
          on a.attrelid = _trigger_definition.relation and a.attname = w.name
    );
  end if;
  if spec.is_pinned and spec.condition is not null then
    v_filters := v_filters || format('(%s)', spec.condition);
  end if;
  if notika._is_held(spec) then
    -- Never false, but a dependency: what takes the payload function away with CASCADE takes the
    -- trigger away too, instead of leaving one that fails the user's writes.
    v_filters := v_filters || format(
      '(%L::pg_catalog.regprocedure is not null)',
      format('notika.payload_%s(%s)', spec.workflow_id,
             notika._quoted(_trigger_definition.relation))
    );
  end if;

  return format(
    E'create or replace trigger notika_%1$s_%2$s\n'
    '  after %2$s on %3$s\n'
    '%4$s%5$s'
    '  execute function notika._capture_%1$s()',
    spec.workflow_id,
    operation,
    notika._quoted(_trigger_definition.relation),
    case spec.capture when 'row' then E'  for each row\n'
      else format(E'  referencing %s table as changed\n  for each statement\n', v_changed) end,
    E'  when (' || array_to_string(v_filters, E'\n    and ') || E')\n'
  );
end;
$$;

comment on function notika._trigger_definition(notika.workflow, regclass, text) is
  'The statement that makes the trigger of a workflow for one operation.';
--! EndIncluded 61_trigger.sql
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
    'select notika.publish(%L, %L%s%s%s%s%s%s%s%s);',
    (spec).name,
    (spec).table_name,
    ', operations => ' || quote_literal((spec).operations::text),
    ', columns => ' || quote_literal((spec).columns::text),
    ', watch => ' || quote_literal((spec).watch::text),
    ', condition => ' || quote_literal((spec).condition),
    case when (spec).guard <> 'block' then ', guard => ' || quote_literal((spec).guard) end,
    case when (spec).on_rename <> 'follow'
         then ', on_rename => ' || quote_literal((spec).on_rename) end,
    ', options => ' || quote_literal(nullif((spec).options, '{}')::text),
    ', match => ' || quote_literal((spec).match::text)
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
     where c.oid = notika._relation(v_parts[1], v_parts[2]);
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
            detail = format('Workflow "%s" was to be published on it.', spec.name),
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

create or replace function notika._unreadable(function regprocedure, relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when has_table_privilege(notika._caller(), _unreadable.relation, 'select') then null
           -- A row as a whole leaves no trace in pg_depend.
           when (
             select p.prosqlbody::text ~ ':varattno 0 ' from pg_proc as p where p.oid = _unreadable.function
           ) then '*'
           else (
             select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
               from pg_depend as d
               join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
              where d.classid = 'pg_proc'::regclass and d.objid = _unreadable.function
                and d.refclassid = 'pg_class'::regclass and d.refobjid = _unreadable.relation
                and a.attnum > 0
                and not has_column_privilege(notika._caller(), d.refobjid, a.attnum, 'select')
           )
         end;
$$;

comment on function notika._unreadable(regprocedure, regclass) is
  'The columns of a table that a function reads and the caller may not; *: the row as a whole.';

create or replace function notika._called(class oid, object oid)
  returns setof regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(o.oprcode, d.refobjid)::regprocedure
    from pg_depend as d
    left join pg_operator as o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid
   where d.classid = _called.class and d.objid = _called.object
     and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass);
$$;

comment on function notika._called(oid, oid) is
  'The functions, those of operators included, that a function or a trigger''s condition calls.';

create or replace function notika._may_write(role oid, relation regclass)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select (has_any_column_privilege(r.oid, _may_write.relation, 'insert, update')
          or has_table_privilege(r.oid, _may_write.relation, 'delete'))
     and r.rolname !~ '^pg_' -- its members are judged themselves
    from pg_roles as r
   where r.oid = _may_write.role;
$$;

comment on function notika._may_write(oid, regclass) is 'Whether a role may write to a table.';

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
  v_judged regprocedure;
  v_unreadable text;
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
      v_judged := to_regprocedure(format('notika._condition_%s()', pg_backend_pid()));
      select p.prosqlbody::text ~ '\{SUBLINK ' into v_has_subquery from pg_proc as p where p.oid = v_judged;
      v_unreadable := coalesce(v_unreadable, notika._unreadable(v_judged, spec.relation));
      -- A trigger's WHEN is evaluated with the rights of whoever writes.
      select r.rolname, c.function into v_role, v_function
        from notika._called('pg_proc'::regclass, v_judged) as c (function)
        join pg_roles as r
          on r.rolname = notika._caller() or notika._may_write(r.oid, spec.relation)
       where not has_function_privilege(r.oid, c.function, 'execute')
       order by r.rolname <> notika._caller(), r.rolname, c.function
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
    if v_message is null and v_unreadable is not null then
      -- From the events one could tell what decides about them.
      v_state := 'insufficient_privilege';
      v_message := format('role "%s" may not read %s of table %s', notika._caller(),
                          case v_unreadable when '*' then 'all' else v_unreadable end,
                          spec.table_name);
      v_hint := format('Run: grant select%s on %s to %I;',
                       case v_unreadable when '*' then '' else format(' (%s)', v_unreadable) end,
                       spec.table_name, notika._caller());
    end if;
    if v_message is null and v_role is not null then
      v_state := 'insufficient_privilege';
      v_message := format('role "%s" %s may not execute function %s', v_role,
                          case when v_role = notika._caller() then 'publishes it and'
                               else 'writes to the table and' end,
                          v_function);
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
                  when '42501' then (
                    select string_agg(format('Run: grant usage on schema %I to %I;', n.nspname,
                                             current_user), ' ' order by n.nspname)
                      from pg_namespace as n
                     where not has_schema_privilege(n.oid, 'usage')
                       and (strpos(spec.condition, n.nspname || '.') > 0
                            or strpos(spec.condition, quote_ident(n.nspname) || '.') > 0)
                  )
                  when '42702' then 'Write new.<column> or old.<column>.'
                  when '42804' then 'Compare with something, as in: new.<column> = ''x''.'
                end,
                'Write one expression over new and old, for instance: new.<column> is not null.'
              );
    end if;
  end loop;
end;
$$;

comment on function notika._check_condition(notika.workflow) is
  'Refuses a condition that is not one boolean expression over the rows its operations have.';

create or replace function notika._family(relation regclass)
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
    -- Partitions get their parent's triggers from Postgres, inheritance children do not.
  return query
    with recursive family as (
      select _family.relation::oid as oid
      union
      select i.inhrelid
        from family as f
        join pg_inherits as i on i.inhparent = f.oid
        join pg_class as c on c.oid = i.inhrelid and not c.relispartition and c.relpersistence <> 't'
    )
    select f.oid::regclass from family as f;
end;
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

  -- A payload function takes a row, whose type everybody may use unless that was revoked.
  select f.relation into v_table
    from notika._family(spec.relation) as f (relation)
    join pg_class as c on c.oid = f.relation
   where spec.columns is not null and not has_type_privilege(c.reltype, 'usage')
   order by f.relation <> spec.relation, f.relation
   limit 1;
  if found then
    raise exception 'role "%" may not use the row type of table %', current_user,
      notika._quoted(v_table)
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant usage on type %s to %I;', notika._quoted(v_table), current_user);
  end if;

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

create or replace function notika._check_match(spec notika.workflow, match text[])
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_corrected notika.workflow := _check_match.spec;
  v_match text[] := array(
    select regexp_replace(m, '^\s*(.*?)\s*(=)\s*(.*?)\s*$', '\1\2\3')
      from unnest(_check_match.match) as m
     order by 1
  );
  v_known text[];
  v_key text;
  v_workflow notika.workflow;
begin
  if v_match = '{}' then
    return null;
  end if;
  if notika._workflow_of(spec.name) is null then
    v_corrected.name := left(spec.name, 63) || ':change';
    v_corrected.match := v_match;
    raise exception 'match of workflow "%" has no meaning', spec.name
      using errcode = 'invalid_parameter_value',
            detail = 'A source of a workflow, which its runs wait for, has one.',
            hint = 'For instance: ' || notika._call(v_corrected);
  end if;
  if cardinality(v_match) > 8 then
    raise exception 'match of source "%" has more than 8 columns', spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'Compare those that tell the rows apart.';
  end if;

  select array_agg(a.attname order by a.attnum) into v_known
    from pg_attribute as a
   where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped;
  foreach v_key in array notika._match_keys(v_match) loop
    continue when v_key = any (spec.columns);
    if v_key = any (v_known) then
      v_corrected.columns := case when spec.columns is null then v_known
                                  else spec.columns || v_key end;
      v_corrected.match := v_match;
      raise exception 'match of source "%" has "%", which is not among its columns',
        spec.name, v_key
        using errcode = 'invalid_parameter_value',
              detail = 'What is compared must be published by its name, so that the guard keeps it.',
              hint = 'Publish it: ' || notika._call(v_corrected);
    end if;
    v_corrected.match := array_remove(v_match, v_key);
    raise exception 'column "%" of table % does not exist', coalesce(v_key, 'null'), spec.table_name
      using errcode = 'undefined_column',
            detail = format('Its columns are %s.', array_to_string(v_known, ', ')),
            hint = 'Correct match, for instance: ' || notika._call(v_corrected);
  end loop;

  if spec.name not like '%:cancel' then
    select m into v_key from unnest(v_match) as m where m like '%=%' limit 1;
    if found then
      v_corrected.match := notika._match_keys(v_match);
      raise exception 'match of source "%" has "%"', spec.name, v_key
        using errcode = 'invalid_parameter_value',
              detail = 'What a wait compares with, it says itself; only a source called cancel names '
                       'columns of the run''s own event.',
              hint = 'Write: ' || notika._call(v_corrected);
    end if;
    return v_match;
  end if;

  select w.* into v_workflow
    from notika.workflow as w
   where w.name = notika._workflow_of(spec.name) and w.unpublished_at is null;
  if found then
    v_corrected.match := v_match;
    perform notika._check_cancel(v_workflow, v_corrected);
  end if;
  return v_match;
end;
$$;

comment on function notika._check_match(notika.workflow, text[]) is
  'What a source compares, in order, or an error if that is not among its columns.';

create or replace function notika._check_cancel(spec notika.workflow, source notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_corrected notika.workflow := _check_cancel.spec;
  v_key text;
begin
  select k into v_key
    from unnest(notika._run_keys(source.match)) as k
   where not case
           when spec.columns is not null then k = any (spec.columns)
           else exists (
             select from pg_attribute as a
              where a.attrelid = spec.relation
                and a.attname = k and a.attnum > 0 and not a.attisdropped
           )
         end;
  if found then
    v_corrected.columns := spec.columns || v_key;
    raise exception 'source "%" compares with "%", which workflow "%" does not publish',
      source.name, v_key, spec.name
      using errcode = 'invalid_parameter_value',
            detail = format('Of the source it is compared with %s.',
                            array_to_string(notika._match_keys(source.match), ', ')),
            hint = case when spec.columns is not null
                        then 'Publish it, or unpublish the source first: '
                             || notika._call(v_corrected)
                        else 'Name a column of the table: match => ''{'
                             || (notika._match_keys(source.match))[1] || '=id}''.' end;
  end if;
end;
$$;

comment on function notika._check_cancel(notika.workflow, notika.workflow) is
  'Refuses a source that cancels runs by a column that their events do not carry.';

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
  on_rename text,
  match text[]
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
  if v_spec.name is null or v_spec.name !~ '^[A-Za-z_][A-Za-z0-9_-]{0,62}(:[A-Za-z_][A-Za-z0-9_-]{0,62})?$'
  then
    v_corrected.name := coalesce(
      nullif(btrim(regexp_replace(left(v_spec.name, 63), '[^A-Za-z0-9_-]+', '_', 'g'), '_'), ''),
      'my_workflow');
    if v_corrected.name ~ '^[^A-Za-z_]' then
      v_corrected.name := left('w' || v_corrected.name, 63);
    end if;
    raise exception 'workflow name "%" is not valid', coalesce(v_spec.name, 'null')
      using errcode = 'invalid_name',
            detail = 'It is the name of the task''s file: up to 63 letters, digits, _ and -, '
                     'of which the first is a letter or _. What its runs wait for is published '
                     'as workflow:source.',
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
  perform notika._know_caller();
  perform notika._check_rights(v_spec);
  if v_spec.condition is not null then
    perform notika._check_condition(v_spec);
  end if;
  v_spec.match := notika._check_match(v_spec, _specify.match);
  v_spec.column_names := v_spec.columns;
  v_spec.is_pinned := notika._wants_pins(v_spec.guard);
  return v_spec;
end;
$$;

comment on function
  notika._specify(text, text, text[], text[], text[], text, text, text, text[]) is
  'Makes a workflow''s row of what publish is given, or says what would be right instead.';

create or replace function notika._compared(spec notika.workflow)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when notika._workflow_of((spec).name) is not null then notika._match_keys((spec).match)
    else (
      select notika._run_keys(c.match)
        from notika.workflow as c
       where c.name = (spec).name || ':cancel' and c.unpublished_at is null
    )
  end;
$$;

comment on function notika._compared(notika.workflow) is
  'The columns that every event of a workflow or source has to carry, because waits compare them.';

create or replace function notika._statements(spec notika.workflow)
  returns table (statement text, lock text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
begin
  return query
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
        select 2, null,
               format(E'create or replace function notika.payload_%s(r record)\n'
                      '  returns pg_catalog.json\n'
                      '  language plpgsql\n'
                      '  immutable\n'
                      'as ''begin return null; end''', (spec).workflow_id),
               null
         where notika._has_fallback(spec)
        union all
        select 3, null,
               notika._capture_definition(spec),
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
               notika._trigger_definition(spec, f.relation, o.name),
               'share row exclusive on ' || f.name
          from family as f
         cross join unnest((spec).operations) as o (name)
      ) as s (place, name, statement, lock)
     order by s.place, s.name;
end;
$$;

comment on function notika._statements(notika.workflow) is
  'The statements that make what a workflow consists of, and the locks they take.';

create or replace function notika._definition(spec notika.workflow)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array(select s.statement from notika._statements(_definition.spec) as s)
  );
end;
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
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select p.oid::regprocedure
      from pg_proc as p
     where p.pronamespace = 'notika'::regnamespace
       and p.proname in (format('_capture_%s', _generated.workflow_id),
                         format('_passes_%s', _generated.workflow_id),
                         format('payload_%s', _generated.workflow_id))
     order by p.proname, p.oid;
end;
$$;

comment on function notika._generated(integer) is 'The functions that publish made for a workflow.';

create or replace function notika._payload_function(workflow_id integer, relation oid)
  returns regprocedure
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
    -- Not by its name: that asks for rights to the schema of the table.
  return (
    select p.oid::regprocedure
      from pg_proc as p
      join pg_type as t on t.oid = p.proargtypes[0]
     where p.pronamespace = 'notika'::regnamespace
       and p.proname = format('payload_%s', _payload_function.workflow_id)
       and t.typrelid = _payload_function.relation
  );
end;
$$;

comment on function notika._payload_function(integer, oid) is
  'The function that makes the payload of a workflow from the rows of a table.';

create or replace function notika._triggers(workflow_id integer)
  returns table (relation regclass, name name)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
    -- pg_trigger has no index by function.
  return query
    select t.tgrelid::regclass, t.tgname
      from pg_depend as d
      join pg_trigger as t on t.oid = d.objid
     where d.refclassid = 'pg_proc'::regclass
       and d.refobjid = to_regprocedure(format('notika._capture_%s()', _triggers.workflow_id))
       and d.classid = 'pg_trigger'::regclass
       and t.tgparentid = 0 and t.tgfoid = d.refobjid;
end;
$$;

comment on function notika._triggers(integer) is
  'The triggers that publish made for a workflow, without those of partitions.';

create or replace function notika._steps(
  before notika.workflow,
  after notika.workflow,
  with_locks boolean default true
)
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
     and notika._captures(before) and notika._is_complete(after)
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
     where t.typrelid <> 0 -- the fallback
       and t.typrelid not in (select f from notika._family(after.relation) as f)
     order by notika._quoted(t.typrelid)
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
     where (t.relation, t.name) not in (
         select f.relation, format('notika_%s_%s', after.workflow_id, o.name)
           from notika._family(after.relation) as f (relation)
          cross join unnest(after.operations) as o (name)
       )
     order by notika._quoted(t.relation), t.name -- locked in the order in which everybody locks them
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
    -- It may go along with the payload function.
    statement := format('drop trigger %s%I on %s',
                        case when v_trigger.relation = any (v_left) then 'if exists ' end,
                        v_trigger.name, notika._quoted(v_trigger.relation));
    lock := 'access exclusive on ' || notika._quoted(v_trigger.relation);
    return next;
  end loop;

  if with_locks then
    return query select * from notika._statements(after);
  else
    return query select d, null from unnest(after.definition) as d;
  end if;

  return query
    select format('drop function %s', g.function), null::text
      from notika._generated(after.workflow_id) as g (function)
      join pg_proc as p on p.oid = g.function
     where p.proname = format('_passes_%s', after.workflow_id)
       and (after.is_pinned or after.condition is null)
        or p.proname = format('payload_%s', after.workflow_id)
       and (not after.is_pinned or after.columns is null
            or p.proargtypes[0] = 'record'::regtype and not notika._has_fallback(after))
       and (
         select t.typrelid from pg_type as t where t.oid = p.proargtypes[0]
       ) <> all (v_left);
end;
$$;

comment on function notika._steps(notika.workflow, notika.workflow, boolean) is
  'The statements that lead from one definition of a workflow to another; none if they are equal.';

create or replace function notika._always_enabled(workflow_id integer)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select format('%I on %s', t.name, notika._quoted(t.relation))
      from notika._triggers(_always_enabled.workflow_id) as t
      join pg_trigger as g on g.tgrelid = t.relation and g.tgname = t.name and g.tgenabled = 'A'
  );
end;
$$;

comment on function notika._always_enabled(integer) is
  'Which triggers of a workflow somebody has enabled for changes that replication brings, too.';

create or replace function notika._enable_always(workflow_id integer, triggers text[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text;
begin
  for v_statement in
    select format('alter table %s enable always trigger %I', notika._quoted(t.relation), t.name)
      from notika._triggers(_enable_always.workflow_id) as t
     where format('%I on %s', t.name, notika._quoted(t.relation)) = any (_enable_always.triggers)
       and format('%I on %s', t.name, notika._quoted(t.relation))
           <> all (notika._always_enabled(_enable_always.workflow_id))
  loop
    execute v_statement;
  end loop;
exception when insufficient_privilege or object_in_use then
  -- That takes the owner of the table, and that nothing waits for the end of the transaction.
  raise warning 'changes that replication brings do not wake a workflow any more: its trigger was made anew'
    using hint = format('Run, as the owner of the table: %s;', v_statement);
end;
$$;

comment on function notika._enable_always(integer, text[]) is
  'Enables triggers of a workflow again as they were before they were made anew.';

create or replace function notika._apply(before notika.workflow, after notika.workflow)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set client_min_messages = warning -- what is dropped along is what was meant
as $$
declare
  v_always text[] := notika._always_enabled(after.workflow_id);
  v_statement text;
  v_count integer := 0;
  v_message text;
  v_detail text;
  v_hint text;
begin
  for v_statement in select s.statement from notika._steps(before, after, false) as s loop
    execute v_statement;
    v_count := v_count + 1;
  end loop;
  if v_always <> '{}' and v_count > 0 then
    perform notika._enable_always(after.workflow_id, v_always);
  end if;
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
  on_rename text default 'follow',
  options jsonb default null,
  match text[] default null
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
    plan.guard, plan.on_rename, plan.match
  );
  select w.* into v_before from notika.workflow as w where w.name = plan.workflow;
  v_after.workflow_id := coalesce(
    v_before.workflow_id,
    -- The id that publish would draw now.
    coalesce(pg_sequence_last_value(
      pg_get_serial_sequence('notika.workflow', 'workflow_id')::regclass), 0) + 1
  );
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  v_after.options := notika._check_options(
    v_after, coalesce(plan.options, v_before.options, '{}'));
  return query select s.statement || ';', s.lock from notika._steps(v_before, v_after) as s;
  if v_after.options <> coalesce(v_before.options, '{}') then
    return query
      select format('select notika.configure(%L, %L);', v_after.name, v_after.options), null::text;
  end if;
exception when lock_not_available then
  perform notika._refuse_locked('plan', plan.workflow, plan.table_name);
end;
$$;

comment on function
  notika.plan(text, text, text[], text[], text[], text, text, text, jsonb, text[]) is
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
  on_rename text default 'follow',
  options jsonb default null,
  match text[] default null
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
    publish.condition, publish.guard, publish.on_rename, publish.match
  );
  perform notika._check_workflow_of(v_after);

  -- One publisher of a workflow at a time; the row also hands out the id.
  insert into notika.workflow
    (name, table_name, operations, guard, on_rename, definition, unpublished_at)
  select v_after.name, v_after.table_name, v_after.operations, v_after.guard, v_after.on_rename,
         '{}', clock_timestamp()
   where not exists (select from notika.workflow as w where w.name = publish.workflow)
  on conflict (name) do nothing;
  select w.* into v_before from notika.workflow as w where w.name = publish.workflow for update;
  v_after.workflow_id := v_before.workflow_id;
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  v_after.options := notika._check_options(v_after, coalesce(publish.options, v_before.options));
  perform notika._set_busy(true);
  v_is_changed := notika._apply(v_before, v_after) > 0;
  perform notika._set_busy(false);

  update notika.workflow as w
     set table_name = v_after.table_name, -- and with it the relation
         operations = v_after.operations,
         columns = v_after.columns,
         column_names = v_after.column_names,
         watch = v_after.watch,
         condition = v_after.condition,
         capture = v_after.capture,
         guard = v_after.guard,
         on_rename = v_after.on_rename,
         definition = v_after.definition,
         is_pinned = v_after.is_pinned,
         options = v_after.options,
         match = v_after.match,
         broken_reason = null,
         unpublished_at = null,
         published_at = clock_timestamp(),
         published_by = notika._caller()
   where w.workflow_id = v_after.workflow_id
     and (v_is_changed
          or w.broken_reason is not null
          or (w.definition, w.guard, w.on_rename, w.table_name, w.columns, w.watch, w.condition,
              w.options, w.match)
             is distinct from
             (v_after.definition, v_after.guard, v_after.on_rename, v_after.table_name,
              v_after.columns, v_after.watch, v_after.condition, v_after.options, v_after.match));
  v_is_changed := found;
  -- What this transaction did to the table before is settled by this, and a migration whose
  -- snapshot is older than this must not judge.
  perform notika._bind(v_after.workflow_id);
  delete from notika.guard_pending as p where p.workflow_id = v_after.workflow_id;
  update notika.guard_state as s set publications = s.publications + 1;

  if notika._workflow_of(v_after.name) is not null then
    perform notika._refresh_capture(notika._workflow_of(v_after.name));
    if v_before.unpublished_at is not null or v_before.match is distinct from v_after.match then
      perform notika._resound(v_after.workflow_id);
    end if;
  end if;

  -- The runs of a broken workflow are held.
  if v_before.broken_reason is not null and v_before.paused_at is null then
    perform notika.resume(publish.workflow);
  end if;
  if v_after.options <> v_before.options then
    perform notika._set_schedule(v_after.workflow_id, v_after.options -> 'schedule');
    perform notika._advance(v_after.workflow_id);
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
  notika.publish(text, text, text[], text[], text[], text, text, text, jsonb, text[]) is
  'Wakes workflow on changes of table_name (schema.table). operations: of insert, update, delete; '
  'columns: what an event carries, null for the whole row; watch: an update counts when one of '
  'these changes; condition: SQL over new and old; guard: block, warn, off; on_rename: follow, '
  'block; options: see notika.configure, null leaves them as they are. A workflow called name:source '
  'is what the runs of name wait for, by the values of match. Says published, changed or unchanged. '
  'Waits three seconds for its locks.';

create or replace function notika._check_workflow_of(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := notika._workflow_of(spec.name);
  v_cancel notika.workflow;
begin
  if v_name is not null then
    if not exists (
      select from notika.workflow as w where w.name = v_name and w.unpublished_at is null
    ) then
      raise exception 'cannot publish source "%": workflow "%" is not published', spec.name, v_name
        using errcode = 'undefined_object',
              hint = format('Publish it first: select notika.publish(%L, ''<schema>.<table>'');',
                            v_name);
    end if;
    return;
  end if;

  select w.* into v_cancel
    from notika.workflow as w
   where w.name = spec.name || ':cancel' and w.unpublished_at is null;
  if found then
    perform notika._check_cancel(spec, v_cancel);
  end if;
end;
$$;

comment on function notika._check_workflow_of(notika.workflow) is
  'Refuses a source without its workflow, and a workflow without what its sources compare with.';

create or replace function notika._refresh_capture(workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_workflow notika.workflow;
  v_statement text;
begin
  select w.* into v_workflow
    from notika.workflow as w
   where w.name = _refresh_capture.workflow
     and w.unpublished_at is null and w.broken_reason is null and w.table_name is not null
     for update;
  if not found then
    return;
  end if;

  v_statement := notika._capture_definition(v_workflow);
  if v_statement <> all (v_workflow.definition) then
    perform notika._set_busy(true);
    execute v_statement; -- the function alone: it takes no lock on the table
    perform notika._set_busy(false);
    update notika.workflow as w
       set definition = array(
             select case when d.statement ~ '^create or replace function notika\._capture_'
                         then v_statement else d.statement end
               from unnest(v_workflow.definition) with ordinality as d (statement, place)
              order by d.place
           )
     where w.workflow_id = v_workflow.workflow_id;
  end if;
end;
$$;

comment on function notika._refresh_capture(text) is
  'Lets the events of a workflow say what they could see, as long as it has sources.';

create or replace function notika._warn_of_waits(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
begin
  select count(*) into v_count from notika.wait as w where w.source_id = (spec).workflow_id;
  if v_count > 0 then
    raise warning '% waits for "%" end with their timeouts only, while it is not published',
      v_count, (spec).name
      using hint = format('Publish it again, or end their runs: select notika.cancel(w.run_id) '
                          'from notika.wait as w where w.source_id = %s;', (spec).workflow_id);
  end if;
end;
$$;

comment on function notika._warn_of_waits(notika.workflow) is
  'Warns of runs that wait for a source that goes.';

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
  v_workflow_id integer;
  v_workflow notika.workflow;
  v_source text;
begin
  -- A source may have gone along with its workflow a moment ago.
  if exists (
    select from notika.workflow as w
     where w.name = unpublish.workflow and notika._workflow_of(w.name) is not null
       and w.unpublished_at is not null
  ) then
    return;
  end if;
  v_workflow_id := notika._published(unpublish.workflow);
  select w.* into v_workflow
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  for v_source in
    select s.name from notika.workflow as s
     where starts_with(s.name, unpublish.workflow || ':') and s.unpublished_at is null
     order by s.name
  loop
    perform notika.unpublish(v_source);
  end loop;
  perform notika._warn_of_waits(v_workflow);
  perform notika.resume(unpublish.workflow);

  perform notika._unpin(v_workflow_id);
  delete from notika.contract as c where c.workflow_id = v_workflow_id;
  delete from notika.contract_table as c where c.workflow_id = v_workflow_id;
  delete from notika.guard_pending as p where p.workflow_id = v_workflow_id;
  perform notika._set_schedule(v_workflow_id, null);
  perform notika._end_backfill(b.backfill_id, 'cancelled')
     from notika.backfill as b
    where b.workflow_id = v_workflow_id and b.finished_at is null;

  update notika.workflow as w
     set definition = '{}', options = w.options - 'schedule', broken_reason = null,
         unpublished_at = clock_timestamp()
   where w.workflow_id = v_workflow_id;
  if notika._workflow_of(v_workflow.name) is not null then
    perform notika._refresh_capture(notika._workflow_of(v_workflow.name));
  end if;
exception when lock_not_available then
  perform notika._refuse_locked('unpublish', unpublish.workflow, v_workflow.table_name);
end;
$$;

comment on function notika.unpublish(text) is
  'Takes the triggers and functions of a workflow away, and those of its sources. What was captured '
  'before still runs.';
--! EndIncluded 65_publish.sql
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

create or replace function notika._see_clearly()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._rebind_copy();
  -- With an old snapshot a workflow that was published since is not seen, and its table looks free.
  -- publish updates the row, so this fails with 40001 where that happened.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from notika.guard_state for share;
  end if;
end;
$$;

comment on function notika._see_clearly() is
  'Binds a restored copy; fails in a transaction whose snapshot is older than the last publish.';

create or replace function notika._may_alter(relation regclass, context text)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
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

create or replace function notika._keep_itself(command text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_names text[];
begin
  if not exists (
    select from pg_namespace as n
     where n.nspname = 'notika'
       and (n.nspname = any (array(select notika._named_schemas(_keep_itself.command)))
            or n.nspowner in (
              select r.oid
                from notika._named_owners(_keep_itself.command) as o (name)
                join pg_roles as r on r.rolname = o.name
            ))
  ) then
    return;
  end if;
  -- Afterwards there is nobody left to judge.
  select array_agg(w.name order by w.workflow_id) into v_names
    from notika.workflow as w
   where w.unpublished_at is null and notika._verdict(w, 'table_dropped') = 'blocked';
  if v_names is not null then
    raise exception 'cannot drop schema notika because workflow "%" is published', v_names[1]
      using errcode = 'NK001',
            detail = format('Published are %s.', array_to_string(v_names, ', ')),
            hint = 'Run: select * from notika.uninstall();';
  end if;
end;
$$;

comment on function notika._keep_itself(text) is
  'Refuses a DROP SCHEMA or DROP OWNED that would take Notika away with what is published.';

create or replace function notika._let_through(tag text, context text, path text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
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
  perform notika._see_clearly();
  context := regexp_replace(context, E'^[^\n]*\n?', ''); -- the guard's own line
  if context = '' and current_query() !~* '\m(drop|type)\M' then
    return; -- nothing that a pin would refuse
  end if;
  v_command := notika._current_command(current_query(), context);
  if v_command is null or v_command !~* '\m(drop|type)\M' then
    return;
  end if;
  if tag in ('DROP SCHEMA', 'DROP OWNED') then
    perform notika._keep_itself(v_command);
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
    select t
      from (
        select notika._named_tables(v_command, path) where tag <> 'DROP OWNED'
        union
        select c.oid
          from notika._named_owners(v_command) as o (name)
          join pg_roles as r on r.rolname = o.name
          join pg_class as c on c.relowner = r.oid
         where c.oid in (select t.relation from notika.contract_table as t)
      ) as n (t)
     where notika._may_alter(t, context)
     order by t
  loop
    v_parts := array(select d from notika._tables(v_table) as d);
    continue when not exists (
      select from notika.contract_table as t where t.relation = any (v_parts)
    );
    if tag <> 'ALTER TABLE' then
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
  v_context pg_catalog.text;
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
  perform notika._see_clearly();

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
               -- A payload function that is still called is put back.
               case when d.original and not exists (
                 select from pg_proc as p
                  where p.pronamespace = 'notika'::regnamespace
                    and p.proname = '_capture_' || substring(d.address_names[2] from '[0-9]+$')
                    and strpos(p.prosrc, format('notika.%s(', d.address_names[2])) > 0
               ) then d.object_identity end
          from pg_event_trigger_dropped_objects() as d
         where d.classid = 'pg_proc'::regclass and d.address_names[1] = 'notika'
           and d.address_names[2] ~ '^(_capture|_passes|payload)_[0-9]{1,9}$'
      ) as t
      join notika.workflow as w on w.workflow_id = t.workflow_id and w.unpublished_at is null
     group by t.workflow_id
     order by t.workflow_id
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
  v_relations oid[];
  v_triggers oid[];
  v_rules oid[];
  v_types oid[];
  v_functions oid[];
  v_schemas oid[];
  v_names text[];
  v_ids integer[];
  v_touched record;
  v_is_dropped boolean;
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._see_clearly();

  select array_agg(d.objid) filter (where d.classid = 'pg_class'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_trigger'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_rewrite'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_type'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_proc'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_namespace'::regclass)
    into v_relations, v_triggers, v_rules, v_types, v_functions, v_schemas
    from pg_event_trigger_ddl_commands() as d;

  -- What is already to be judged, and what was let go and is not touched after all.
  v_ids := array(
    select p.workflow_id from notika.guard_pending as p
    union all
    select w.workflow_id from notika.workflow as w
     where not w.is_pinned and w.broken_reason is null
  );
  if v_triggers is not null then
    v_relations := v_relations || array(
      select t.tgrelid from pg_trigger as t where t.oid = any (v_triggers));
    v_ids := v_ids || array(
      select substring(t.tgname::text from '[0-9]+')::integer
        from pg_trigger as t
       where t.oid = any (v_triggers) and t.tgname ~ '^notika_[0-9]{1,9}_(insert|update|delete)$');
  end if;
  if v_rules is not null then
    v_relations := v_relations || array(
      select r.ev_class from pg_rewrite as r where r.oid = any (v_rules));
  end if;
  if v_relations is not null then
    v_names := array(select notika._quoted(r) from unnest(v_relations) as r);
    v_types := v_types || array(
      select c.reltype from pg_class as c where c.oid = any (v_relations) and c.relkind = 'c');
    v_ids := v_ids || array(
      select c.workflow_id from notika.contract_table as c where c.relation = any (v_relations)
      union all
      -- A partition or child that was attached.
      select c.workflow_id
        from pg_inherits as i
        join notika.contract_table as c on c.relation = i.inhparent
       where i.inhrelid = any (v_relations)
      union all
      -- A published table that was attached, or that another one refers to.
      select c.workflow_id
        from pg_inherits as i
        join notika.contract_table as c on c.relation = i.inhrelid
       where i.inhparent = any (v_relations)
      union all
      select c.workflow_id
        from pg_constraint as k
        join notika.contract_table as c on c.relation = k.confrelid
       where k.conrelid = any (v_relations) and k.contype = 'f'
      union all
      -- A table that takes a published name.
      select w.workflow_id from notika.workflow as w where w.table_name = any (v_names)
    );
  end if;
  if cardinality(v_types) > 0 then
    v_ids := v_ids || array(
      select c.workflow_id
        from (select distinct o.type from notika.contract as o where o.type >= 16384) as u
        join notika.contract as c on c.type = u.type
       where exists (
         select from notika._part_types(u.type) as p (oid) where p.oid = any (v_types)
       )
    );
  end if;
  if v_functions is not null then
    v_ids := v_ids || array(
      select substring(p.proname::text from '[0-9]+')::integer
        from pg_proc as p
       where p.oid = any (v_functions) and p.pronamespace = 'notika'::regnamespace
         and p.proname ~ '^(_capture|_passes|payload)_[0-9]{1,9}$');
  end if;
  if v_schemas is not null then
    v_ids := v_ids || array(
      select w.workflow_id
        from notika.workflow as w
        join pg_class as k on k.oid = w.relation and k.relnamespace = any (v_schemas)
      union all
      select c.workflow_id
        from notika.contract as c
        join pg_type as y on y.oid = c.type and y.typnamespace = any (v_schemas)
    );
  end if;
  if v_ids = '{}' then
    return;
  end if;

  for v_touched in
    select w.workflow_id, (
             select max(format('%I on %s', t.tgname, notika._quoted(t.tgrelid)))
               from pg_trigger as t
              where t.oid = any (v_triggers)
                and t.tgname ~ format('^notika_%s_(insert|update|delete)$', w.workflow_id)
           ) as replaced
      from notika.workflow as w
     where w.workflow_id = any (v_ids) and w.unpublished_at is null
     order by w.workflow_id
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
    if not v_is_dropped then
      begin
        perform notika._reconcile(new.workflow_id, new.statement, true);
      exception when undefined_object or undefined_function then
        null; -- what the condition needs went along: so did its triggers, which is judged
      end;
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
      when 'table_replaced' then format('cannot replace table %s by another', object)
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
                     coalesce(' with the columns ' || array_to_string(spec.columns, ', '), ''),
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

create or replace function notika._judges_always()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_trigger as t
     where t.tgrelid = 'notika.guard_pending'::regclass and t.tgname = 'guard_at_commit'
       and t.tgenabled = 'A'
  );
$$;

comment on function notika._judges_always() is
  'Whether the verdict at commit is passed under session_replication_role = replica, too; after '
  'pg_restore --disable-triggers it is not.';

drop trigger if exists guard_at_commit on notika.guard_pending;
create constraint trigger guard_at_commit
  after insert on notika.guard_pending
  deferrable initially deferred
  for each row
  execute function notika._guard_at_commit();
-- Like the event triggers: also under session_replication_role = replica.
-- pgls-ignore lint/safety/lockTimeoutWarning: nobody waits for this table
alter table notika.guard_pending enable always trigger guard_at_commit;
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
  perform notika._know_caller();
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
  set standard_conforming_strings = on
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
  perform notika._know_caller();
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
  perform notika._know_caller();
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
  perform notika._rebind_grantees();

  -- Workflows found their tables by name.  Where a rename had not been noticed, the trigger tells.
  update notika.workflow as w
     set table_name = notika._quoted(t.relation)
    from notika.workflow as o
   cross join lateral notika._triggers(o.workflow_id) as t
   where w.relation is null and w.unpublished_at is null and w.on_rename = 'follow'
     and o.workflow_id = w.workflow_id
     and not exists (select from pg_inherits as i where i.inhrelid = t.relation);
  delete from notika.contract_table;
  insert into notika.contract_table (workflow_id, relation)
  select w.workflow_id, t
    from notika.workflow as w
   cross join notika._tables(w.relation) as t
   where w.relation is not null;
  -- 0: there is none.
  update notika.contract as c
     set attnum = coalesce(a.attnum, 0),
         type = case when format_type(a.atttypid, a.atttypmod) = c.type_name then a.atttypid
                     when c.type < 16384 then c.type
                     else 0 end
    from notika.contract as o
    join notika.workflow as w on w.workflow_id = o.workflow_id
    left join pg_attribute as a
      on a.attrelid = w.relation and a.attname = o.column_name and not a.attisdropped
   where c.workflow_id = o.workflow_id and c.column_name = o.column_name;
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

create or replace function notika._mended(spec notika.workflow)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_mended notika.workflow := _mended.spec;
  v_table regclass := coalesce(notika._table(spec.table_name), spec.relation);
  v_renamed record;
begin
  v_mended.table_name := coalesce(notika._quoted(v_table), spec.table_name);
  v_mended.columns := spec.column_names;
  if notika._quoted(v_table) is null then
    return v_mended;
  end if;
  for v_renamed in
    select c.column_name as old_name, a.attname::text as new_name
      from notika.contract as c
      left join pg_attribute as a
        on a.attrelid = v_table and a.attnum = c.attnum and not a.attisdropped
       and v_table = spec.relation
     where c.workflow_id = spec.workflow_id
       and not exists (
         select from pg_attribute as p
          where p.attrelid = v_table and p.attname = c.column_name and not p.attisdropped
       )
  loop
    v_mended.columns :=
      array_replace(v_mended.columns, v_renamed.old_name, v_renamed.new_name);
    v_mended.watch := array_replace(v_mended.watch, v_renamed.old_name, v_renamed.new_name);
    if v_renamed.new_name is not null then
      v_mended.condition :=
        notika._rename_in(v_mended.condition, v_renamed.old_name, v_renamed.new_name);
    end if;
  end loop;
  v_mended.columns := nullif(array_remove(v_mended.columns, null), '{}');
  v_mended.watch := nullif(array_remove(v_mended.watch, null), '{}');
  return v_mended;
end;
$$;

comment on function notika._mended(notika.workflow) is
  'A workflow as it could be published now: on the table of its name, without columns that are gone.';

create or replace function notika._health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not notika._judges_always() then
    return query select 'guard', 'warning', null::text,
      'what judges at commit sleeps under session_replication_role = replica, as pg_restore '
      '--disable-triggers leaves it', 'select * from notika.install();';
  elsif notika._has_event_triggers() then
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
           case
             when f.kind = 'trigger_disabled' then format('alter table %s enable trigger %s;',
               split_part(f.object, ' on ', 2), split_part(f.object, ' on ', 1))
             when f.kind in
                  ('part_not_captured', 'form_outdated', 'function_replaced', 'trigger_replaced')
               then 'select * from notika.install();'
             else notika._call(notika._mended(w))
           end
      from notika._suspects() as s (workflow_id)
      join notika.workflow as w on w.workflow_id = s.workflow_id and w.unpublished_at is null
     cross join lateral notika._findings(w) as f;
  return query select * from notika._copy_health();
  return query select * from notika._missing_rights();
  return query select * from notika._surplus_rights();
  return query
    select 'broken', 'error', w.name, w.broken_reason, notika._call(notika._mended(w))
      from notika.workflow as w
     where w.unpublished_at is null and w.broken_reason is not null;
  return query
    select 'schedule', 'error', s.workflow, format('has no next time: %s', s.error),
           format('select notika.schedule(%L, %L, %L, %L);', s.workflow, s.cron, s.time_zone,
                  s.missed)
      from notika.schedules as s
     where s.error is not null;
  return query
    select 'backfill', 'error', b.workflow, format('its backfill has stopped: %s', b.error),
           format('select notika.backfill(%L%s); or: select notika.cancel_backfill(%1$L);',
                  b.workflow, ', ' || quote_literal(b.condition))
      from notika.backfills as b
     where b.state = 'failed';
  return query
    select 'ring', case when l.oldest_waiting < clock_timestamp() - interval '1 minute'
                        then 'warning' else 'ok' end,
           null::text,
           format('%s events wait%s; the ring has %s', l.events_waiting,
                  ', the oldest since ' || l.oldest_waiting, pg_size_pretty(l.ring_bytes)),
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
--! Included 82_roles.sql
-- Who may do what: publishers, runners and readers, siblings beside the owner.  None includes another,
-- and a role may be several.  notika._rights() is the whole list; what it does not give to anybody is
-- the owner's alone.  What was granted is kept, so that install() can put it back after an upgrade
-- that made functions anew.

create table if not exists notika.grantee (
  role_id oid not null,
  role_name name not null,
  part text not null,
  granted_at timestamptz not null default clock_timestamp(),
  granted_by name not null default session_user,
  constraint grantee_pkey primary key (role_name, part),
  constraint grantee_part_check check (part in ('publisher', 'runner', 'reader'))
);

comment on table notika.grantee is
  'The roles that were made publishers, runners or readers. Their rights follow from notika._rights().';
comment on column notika.grantee.role_id is
  'The role, as a number: with a regrole a dump could not be restored where the role is missing.';
comment on column notika.grantee.role_name is 'Its name, by which a restored copy finds it.';
comment on column notika.grantee.part is 'publisher, runner or reader.';
comment on column notika.grantee.granted_at is 'Since when.';
comment on column notika.grantee.granted_by is 'Who granted it.';

create or replace function notika._rights()
  returns table (kind text, name text, parts text[])
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select l.kind, l.name, l.parts::text[]
    from (
      values
        ('function', 'version', '{publisher,runner,reader}'),
        ('function', '_migrations', '{publisher,runner,reader}'),
        ('view', 'workflows', '{publisher,runner,reader}'),
        ('view', 'health', '{publisher,runner,reader}'),
        ('function', '_health', '{publisher,runner,reader}'), -- a view's functions run as its reader

        -- Publish, and migrate what is published.
        ('function', 'publish', '{publisher}'),
        ('function', 'plan', '{publisher}'),
        ('function', 'configure', '{publisher}'),
        ('function', 'unpublish', '{publisher}'),
        ('function', 'schedule', '{publisher}'),
        ('function', 'unschedule', '{publisher}'),
        ('function', '_plan_by_time', '{publisher}'),
        ('function', '_publish_by_time', '{publisher}'),
        ('function', 'check', '{publisher,runner}'),
        ('function', 'check_ddl', '{publisher}'),
        ('function', '_try_ddl', '{publisher}'), -- check_ddl runs with the rights of its caller
        ('function', '_foresee', '{publisher}'),
        ('function', '_foresee_pinned', '{publisher}'),
        ('function', '_split', '{publisher}'),
        ('function', '_undoable', '{publisher}'),
        ('function', 'allow_breaking_change', '{publisher}'),
        ('function', 'release', '{publisher}'),
        ('function', 'begin_maintenance', '{publisher}'),
        ('function', 'end_maintenance', '{publisher}'),

        -- Run, and what an operator does about runs.
        ('function', 'emit', '{publisher,runner}'),
        ('function', 'backfill', '{runner}'),
        ('function', 'cancel_backfill', '{runner}'),
        ('function', 'replay', '{runner}'),
        ('function', 'pause', '{publisher,runner}'),
        ('function', 'resume', '{publisher,runner}'),
        ('function', 'retry', '{runner}'),
        ('function', 'cancel', '{runner}'),
        ('function', 'dispatch', '{runner}'),
        ('function', 'maintain', '{runner}'),
        ('function', '_beat', '{runner}'),
        ('function', '_claim', '{runner}'),
        ('function', '_doze', '{runner}'),
        ('function', '_enter', '{runner}'),
        ('function', '_remember', '{runner}'),
        ('function', '_begin_step', '{runner}'),
        ('function', '_park', '{runner}'),
        ('function', '_exit', '{runner}'),
        ('function', '_finish', '{runner}'),
        ('function', '_leave', '{runner}'),
        ('function', '_next_due', '{runner}'),

        -- Look, payloads included.
        ('view', 'runs', '{reader}'),
        ('function', 'history', '{reader}'),
        ('function', 'timeline', '{reader}'),
        ('function', '_remembered', '{publisher,runner,reader}'),
        ('view', 'event_log', '{reader}'),
        ('view', 'lag', '{reader}'),
        ('view', 'backfills', '{publisher,runner,reader}'),
        ('view', 'schedules', '{publisher,runner,reader}'),
        ('function', '_bound', '{reader}'),
        ('function', '_captured_at', '{reader}'),
        ('function', '_dispatched', '{reader}'),
        ('function', '_payload', '{reader}'),
        ('function', '_segment', '{reader}'),
        ('sequence', 'control_seq', '{reader}'),
        ('table', 'run_log', '{reader}'),
        ('table', 'step', '{reader}'),
        ('table', 'wait', '{reader}'),
        ('table', 'run_key', '{reader}'),
        ('table', 'batch', '{reader}'),
        ('table', 'batch_event', '{reader}'),
        ('table', 'lane', '{reader}'),
        ('table', 'slot', '{reader}'),
        ('table', 'runner', '{reader}'),
        ('table', 'guard_log', '{reader}'),
        ('table', 'maintenance', '{reader}'),
        ('table', 'setting', '{reader}'),

        -- The owner's.
        ('function', 'install', '{}'),
        ('function', 'uninstall', '{}'),
        ('function', 'grant_publisher', '{}'),
        ('function', 'grant_runner', '{}'),
        ('function', 'grant_reader', '{}'),
        ('function', 'revoke_publisher', '{}'),
        ('function', 'revoke_runner', '{}'),
        ('function', 'revoke_reader', '{}'),
        ('function', '_has_ended', '{}'),
        ('function', '_position', '{}')
    ) as l (kind, name, parts);
$$;

comment on function notika._rights() is
  'What publishers, runners and readers may execute and read in schema notika, and nothing else.';

create or replace function notika._granted(role regrole)
  returns table (privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select lower(a.privilege_type), o.object
    from (
      select format('schema %I', n.nspname) as object, n.nspacl as acl
        from pg_namespace as n
       where n.nspname in ('notika', 'notika_worker')
      union all
      select format('function %s', p.oid::regprocedure), p.proacl
        from pg_proc as p
       where p.pronamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
      union all
      select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass),
             c.relacl
        from pg_class as c
       where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
         and c.relkind in ('r', 'p', 'v', 'S')
    ) as o
   cross join aclexplode(o.acl) as a
   where a.grantee = _granted.role;
$$;

comment on function notika._granted(regrole) is 'What a role may do in Notika''s schemas.';

create or replace function notika._due(parts text[])
  returns table (privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 'usage', 'schema notika' where _due.parts <> '{}'
  union
  select 'execute', format('function %s', p.oid::regprocedure)
    from notika._rights() as r
    join pg_proc as p on p.pronamespace = 'notika'::regnamespace and p.proname = r.name
   where r.kind = 'function' and r.parts && _due.parts
  union
  select 'select',
         format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass)
    from notika._rights() as r
    join pg_class as c on c.relnamespace = 'notika'::regnamespace and c.relname = r.name
   where r.kind <> 'function' and r.parts && _due.parts
  union
  -- graphile-worker works on its tables as whoever runs it.
  select 'usage', 'schema notika_worker' where 'runner' = any (_due.parts)
  union
  select k.privilege, format('table %s', c.oid::regclass)
    from pg_class as c
   cross join unnest('{select,insert,update,delete}'::text[]) as k (privilege)
   where c.relnamespace = 'notika_worker'::regnamespace and c.relkind in ('r', 'p')
     and 'runner' = any (_due.parts)
     and (k.privilege = 'select' or c.relname <> 'migrations');
$$;

comment on function notika._due(text[]) is
  'What a role is to be granted that plays these parts.';

create or replace function notika._settle_rights(role regrole)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[] := array(
    select g.part from notika.grantee as g where g.role_id = _settle_rights.role
  );
  v_statement text;
  v_count integer := 0;
begin
  for v_statement in
    with due as (select * from notika._due(v_parts)),
         granted as (select * from notika._granted(_settle_rights.role))
    (select format('revoke %s on %s from %s', x.privilege, x.object, _settle_rights.role)
       from (table granted except table due) as x)
    union all
    (select format('grant %s on %s to %s', x.privilege, x.object, _settle_rights.role)
       from (table due except table granted) as x)
  loop
    execute v_statement;
    v_count := v_count + 1;
  end loop;
  return v_count + notika._settle_policies();
end;
$$;

comment on function notika._settle_rights(regrole) is
  'Grants a role what its parts give, revokes whatever else it has, and says how many changes it took.';

create or replace function notika._settle_policies()
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_runners oid[] := array(
    select g.role_id from notika.grantee as g where g.part = 'runner' order by 1
  );
  v_statement text;
  v_count integer := 0;
begin
  -- graphile-worker's tables have row security without a policy: what is granted gives no row.
  for v_statement in
    select case
             when p.oid is null then format('create policy notika_runner on %s to %s using (true)',
                                            c.oid::regclass, r.names)
             when v_runners = '{}' then format('drop policy notika_runner on %s', c.oid::regclass)
             else format('alter policy notika_runner on %s to %s', c.oid::regclass, r.names)
           end
      from pg_class as c
      left join pg_policy as p on p.polrelid = c.oid and p.polname = 'notika_runner'
     cross join (
       select string_agg(u.role::regrole::text, ', ') as names from unnest(v_runners) as u (role)
     ) as r
     where c.relnamespace = 'notika_worker'::regnamespace and c.relrowsecurity
       and v_runners <> array(
         select u.role from unnest(p.polroles) as u (role) order by u.role
       )
  loop
    execute v_statement;
    v_count := v_count + 1;
  end loop;
  return v_count;
end;
$$;

comment on function notika._settle_policies() is
  'Opens the rows of graphile-worker''s tables to the runners, and to nobody else.';

create or replace function notika._grant(role regrole, part text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _grant.role is null then
    raise exception 'no role was named'
      using errcode = 'null_value_not_allowed',
            hint = format('For instance: select notika.grant_%s(''<role>'');', _grant.part);
  end if;
  if _grant.role = (select r.oid from pg_roles as r where r.rolname = current_user) then
    raise exception 'role % owns notika and cannot be made a %', _grant.role, _grant.part
      using errcode = 'invalid_grant_operation',
            detail = 'The owner may do everything already.',
            hint = format('Name another role: select notika.grant_%s(''<role>'');', _grant.part);
  end if;

  perform notika._rebind_copy();
  insert into notika.grantee (role_id, role_name, part)
  select r.oid, r.rolname, _grant.part from pg_roles as r where r.oid = _grant.role
  on conflict do nothing;
  perform notika._settle_rights(_grant.role);
end;
$$;

comment on function notika._grant(regrole, text) is 'Gives a role a part and the rights of it.';

create or replace function notika._revoke(role regrole, part text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._rebind_copy();
  delete from notika.grantee as g where g.role_id = _revoke.role and g.part = _revoke.part;
  if found then
    perform notika._settle_rights(_revoke.role);
  end if;
end;
$$;

comment on function notika._revoke(regrole, text) is 'Takes a part from a role, and the rights of it.';

create or replace function notika.grant_publisher(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._grant(grant_publisher.role, 'publisher');
$$;

comment on function notika.grant_publisher(regrole) is
  'Lets a role publish on tables that it may read and put triggers on, check migrations, and emit. '
  'It sees no payload and no run.';

create or replace function notika.revoke_publisher(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._revoke(revoke_publisher.role, 'publisher');
$$;

comment on function notika.revoke_publisher(regrole) is 'Takes back what grant_publisher gave.';

create or replace function notika.grant_runner(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._grant(grant_runner.role, 'runner');
$$;

comment on function notika.grant_runner(regrole) is
  'Lets a role run workflows: hand over, work off the jobs, retry, cancel, pause. It publishes nothing, '
  'and reads of the log only what is in its jobs.';

create or replace function notika.revoke_runner(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._revoke(revoke_runner.role, 'runner');
$$;

comment on function notika.revoke_runner(regrole) is 'Takes back what grant_runner gave.';

create or replace function notika.grant_reader(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._grant(grant_reader.role, 'reader');
$$;

comment on function notika.grant_reader(regrole) is
  'Lets a role look at everything, payloads included, and change nothing.';

create or replace function notika.revoke_reader(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._revoke(revoke_reader.role, 'reader');
$$;

comment on function notika.revoke_reader(regrole) is 'Takes back what grant_reader gave.';

create or replace function notika._rebind_grantees()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.grantee as g
   where g.role_name not in (select r.rolname from pg_roles as r);
  update notika.grantee as g
     set role_id = r.oid
    from pg_roles as r
   where r.rolname = g.role_name;
end;
$$;

comment on function notika._rebind_grantees() is
  'Finds the roles of a restored copy by their names, and forgets those that are not there.';

create or replace function notika._close()
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
  v_is_open boolean := false;
begin
  -- A dump that was restored without its rights leaves every function to everybody.
  for v_function in
    select p.oid
      from pg_proc as p
     cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
     where p.pronamespace = 'notika'::regnamespace and a.grantee = 0
       and p.proname !~ '^_passes_[0-9]+$' -- evaluated as whoever writes
  loop
    execute format('revoke execute on function %s from public', v_function);
    v_is_open := true;
  end loop;
  return v_is_open;
end;
$$;

comment on function notika._close() is
  'Takes from everybody what nobody granted, and says whether there was anything.';

create or replace function notika._install_rights()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_grantee record;
begin
  step := 'rights';
  outcome := case when notika._close() then 'repaired' else 'ok' end;
  detail := 'nobody has one that was not granted';
  return next;
  -- `drop owned` takes a role's rights away, and then the role can be dropped.
  delete from notika.grantee as g
   where not exists (select from pg_roles as r where r.oid = g.role_id);
  update notika.grantee as g
     set role_name = r.rolname
    from pg_roles as r
   where r.oid = g.role_id and r.rolname <> g.role_name;

  for v_grantee in
    select g.role_id::regrole as role, string_agg(g.part, ', ' order by g.part) as parts
      from notika.grantee as g
     group by g.role_id, g.role_name
     order by g.role_name
  loop
    step := format('role %s', v_grantee.role);
    outcome := case when notika._settle_rights(v_grantee.role) > 0 then 'repaired' else 'ok' end;
    detail := v_grantee.parts;
    return next;
  end loop;
end;
$$;

comment on function notika._install_rights() is
  'Gives publishers, runners and readers exactly their rights again.';
--! EndIncluded 82_roles.sql
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
