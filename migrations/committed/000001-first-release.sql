--! Previous: -
--! Hash: sha1:2cf530bf4b98657bc6e46d41981cd39c696aecbd
--! Message: first release

--! split: 1-current.sql
-- The first release: all of sql/.
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

insert into notika.setting default values
  on conflict do nothing;

create or replace function notika._session_role()
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

comment on function notika._session_role() is
  'The role that the session acts as outside of SECURITY DEFINER functions: the last SET ROLE, or '
  'else the login. A guess, not a proof: nothing is allowed by it.';

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
  -- Called after the insert: a dispatcher that falls asleep before sees the row, one that falls
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
--! Included 35_lock.sql
-- Locks: how sessions of Notika exclude each other until they commit.
-- No advisory locks: anybody may take those.  Anybody may also hold any table in ROW EXCLUSIVE mode:
-- nextval() of its oid fails, but the lock stays, even after a rollback to a savepoint.  So a lock
-- here is either SHARE UPDATE EXCLUSIVE on a table, which does not conflict with that mode, or a lock
-- on a row, which needs the right to update its table.  Only the owner has these rights.
--
-- The order in which they are taken, against deadlocks: the hand-over; signals, before any row of
-- waits or jobs; lines, in the order of their workflows' ids.

create or replace function notika._lock_timeout(most text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case when l.setting::interval between '1 ms' and most::interval then l.setting else most end
    from current_setting('lock_timeout') as l (setting);
$$;

comment on function notika._lock_timeout(text) is
  'The lock_timeout of a verb that waits this long at most: that of the session if it is stricter.';

-- No column, and so no index: with brin_summarize_range() of an index anybody can lock its table in
-- this mode for a moment.
create table if not exists notika.dispatch_lock () with (autovacuum_enabled = off);

comment on table notika.dispatch_lock is
  'Always empty. Its lock in SHARE UPDATE EXCLUSIVE mode is the right to move the cursor.';

-- Where a publication FOR ALL TABLES has it; nobody changes anything in it.
alter table notika.dispatch_lock replica identity full;

create or replace function notika._lock_dispatch(waits boolean default false)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _lock_dispatch.waits then
    lock table notika.dispatch_lock in share update exclusive mode;
    return true;
  end if;

  begin
    lock table notika.dispatch_lock in share update exclusive mode nowait;
    return true;
  exception when lock_not_available then
    return false;
  end;
end;
$$;

comment on function notika._lock_dispatch(boolean) is
  'Takes the right to move the cursor, turn the ring and set the sleep bit, until commit. False: '
  'another session has it; with waits it waits for that.';

create table if not exists notika.signal_lock (
  place integer not null,
  constraint signal_lock_pkey primary key (place),
  constraint signal_lock_place_check check (place between 0 and 31)
);

comment on table notika.signal_lock is
  'Rows to lock, never changed: a session in which a wait begins locks one, the hand-over of signals '
  'locks all.';
comment on column notika.signal_lock.place is 'The remainder of the process ids that lock it.';

insert into notika.signal_lock select generate_series(0, 31)
  on conflict do nothing;

create or replace function notika._lock_signals(for_hand_over boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
begin
  -- Not a shared lock on one row: new sessions join it ahead of a hand-over that waits for it.
  -- By process id, so that a session that begins many waits locks one row.
  loop
    if _lock_signals.for_hand_over then
      perform from notika.signal_lock as s order by s.place for update;
    else
      perform from notika.signal_lock as s where s.place = pg_backend_pid() % 32 for update;
    end if;
    get diagnostics v_count = row_count;
    exit when v_count = case when _lock_signals.for_hand_over then 32 else 1 end;
    insert into notika.signal_lock select generate_series(0, 31)
      on conflict do nothing; -- a copy of the schema alone has none
  end loop;
end;
$$;

comment on function notika._lock_signals(boolean) is
  'Until commit either signals are handed over, by one, or waits begin, by any number.';

create table if not exists notika.line_lock (
  workflow_id integer not null,
  constraint line_lock_pkey primary key (workflow_id)
);

comment on table notika.line_lock is
  'Rows to lock, never changed: one for each workflow with lines.';
comment on column notika.line_lock.workflow_id is 'The workflow.';

create or replace function notika._lock_line(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  loop
    perform from notika.line_lock as l where l.workflow_id = _lock_line.workflow_id for update;
    exit when found;
    -- Usually when the options are set, before anybody else sees them.
    insert into notika.line_lock (workflow_id) values (_lock_line.workflow_id)
      on conflict do nothing;
  end loop;
end;
$$;

comment on function notika._lock_line(integer) is
  'Takes the right to say which run of a workflow goes next, until commit. Of several workflows in '
  'the order of their ids.';

create or replace function notika._lock_lines(workflow_ids integer[] default null)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._lock_line(w.workflow_id)
     from (
       select w.workflow_id
         from notika.workflow as w
        where notika._is_gated(w.options)
          and (_lock_lines.workflow_ids is null or w.workflow_id = any (_lock_lines.workflow_ids))
        order by w.workflow_id
     ) as w;
  return found;
end;
$$;

comment on function notika._lock_lines(integer[]) is
  'Takes the line locks of those of these workflows that have lines, or of all that have. False: '
  'there was none.';
--! EndIncluded 35_lock.sql
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
--! EndIncluded 40_dispatch.sql
--! Included 41_aside.sql
-- A burst is handed over in turns with what comes after it.  A window that is not through with its
-- first chunk is set aside, for the workflows that still have events in it, with a cursor of its own;
-- the cursor itself goes on with the events of all others.  So each event is one cursor's, by its
-- workflow: both are exact for the same reasons, and the order of a workflow's events stays.  The
-- cursor aside follows from snapshot to snapshot of the other, and ends when it has caught up.

create or replace function notika._aside(here notika.position)
  returns notika.position
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_aside notika.position := _aside.here;
begin
  v_aside.snapshot := here.aside_snapshot;
  v_aside.high := here.aside_high;
  v_aside.low := here.aside_low;
  v_aside.pending_xids := here.aside_pending_xids;
  v_aside.pending_lows := here.aside_pending_lows;
  v_aside.window_snapshot := here.aside_window_snapshot;
  v_aside.window_low := here.aside_window_low;
  v_aside.window_high := here.aside_window_high;
  v_aside.window_at := here.aside_window_at;
  return v_aside;
end;
$$;

comment on function notika._aside(notika.position) is
  'The cursor aside, as if it were the cursor.';

create or replace function notika._with_aside(here notika.position, aside notika.position)
  returns notika.position
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position := _with_aside.here;
begin
  v_next.aside_snapshot := aside.snapshot;
  v_next.aside_high := aside.high;
  v_next.aside_low := aside.low;
  v_next.aside_pending_xids := aside.pending_xids;
  v_next.aside_pending_lows := aside.pending_lows;
  v_next.aside_window_snapshot := aside.window_snapshot;
  v_next.aside_window_low := aside.window_low;
  v_next.aside_window_high := aside.window_high;
  v_next.aside_window_at := aside.window_at;
  v_next.flow_ids := coalesce(aside.flow_ids, here.flow_ids);
  v_next.flow_priorities := coalesce(aside.flow_priorities, here.flow_priorities);
  v_next.flow_places := coalesce(aside.flow_places, here.flow_places);
  return v_next;
end;
$$;

comment on function notika._with_aside(notika.position, notika.position) is
  'A position whose cursor aside stands where this one does.';

create or replace function notika._set_burst_aside(here notika.position)
  returns notika.position
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position;
  v_ids integer[];
begin
  -- To see who has events there costs a pass over the window: not worth it for a short one, and too
  -- long for one call where it is huge.
  if here.window_snapshot is null or here.window_high - here.window_at not between 10000 and 3000000
  then
    return here;
  end if;
  select array_agg(f.workflow_id) into v_ids
    from (
      -- With the sources of a workflow, whose events are signals for its runs.
      select m.workflow_id
        from (
          select e.workflow_id
            from notika._event as e
           where e.event_id > here.window_at and e.event_id <= here.window_high
             and pg_visible_in_snapshot(e.xid, here.window_snapshot)
             and not pg_visible_in_snapshot(e.xid, here.snapshot)
           group by e.workflow_id
        ) as r
        join notika.workflow as w on w.workflow_id = r.workflow_id
        join notika.workflow as m on split_part(m.name, ':', 1) = split_part(w.name, ':', 1)
       group by m.workflow_id
    ) as f;
  if v_ids is null then
    return here;
  end if;

  v_next := notika._with_aside(notika._close_window(here), here);
  v_next.aside_ids := v_ids;
  return v_next;
end;
$$;

comment on function notika._set_burst_aside(notika.position) is
  'Sets what is left of a long window aside; the others have nothing in it, and are through with it.';

create or replace function notika._follow_cursor(here notika.position)
  returns notika.position
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_aside notika.position;
begin
  if here.aside_window_snapshot is not null then
    return here;
  end if;
  if here.aside_snapshot::text = here.snapshot::text and here.aside_high = here.high then
    -- It has caught up.  While the cursor has a window open it waits: its events are not in that one.
    if here.window_snapshot is null then
      here := notika._with_aside(here, null);
      here.aside_ids := '{}';
    end if;
    return here;
  end if;

  v_aside := notika._open_window(notika._aside(here), here.snapshot, here.high);
  -- What is known of those that the cursor's snapshot does not know holds here, too: it is the same.
  v_aside.window_low := here.low;
  return notika._with_aside(here, v_aside);
end;
$$;

comment on function notika._follow_cursor(notika.position) is
  'Lets the cursor aside, when it has no window open, go for what the cursor has seen since, or end '
  'when that is nothing.';

create or replace function notika._hand_over_aside(
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
    moved := moved or reached.aside_ids = '{}';
    exit when reached.aside_window_snapshot is null or handed_over >= _hand_over_aside.max_events;
    v_done := notika._hand_over(
      notika._aside(reached),
      _hand_over_aside.max_events - handed_over, aside => true);
    v_aside := v_done.reached;
    if v_done.handed_over < _hand_over_aside.max_events - handed_over then
      v_aside := notika._close_window(v_aside);
    end if;
    reached := notika._with_aside(reached, v_aside);
    moved := true;
    handed_over := handed_over + v_done.handed_over;
  end loop;
exception when lock_not_available then
  handed_over := 0;
  moved := false;
  reached := here; -- what the other cursor has done stays
end;
$$;

comment on function notika._hand_over_aside(notika.position, integer) is
  'Hands over up to so many events of the workflows that were set aside, and says how many it saw, '
  'and where both cursors stand then.';
--! EndIncluded 41_aside.sql
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
    else left(key::text, 50) || '... ' || encode(sha256(convert_to(key::text, 'UTF8')), 'hex')
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
  if not notika._lock_lines(array(
    select w.workflow_id
      from notika.workflow as w
     where w.name in (select j.identifier from unnest(_control.jobs) as j)
  )) then
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
--! Included 41_place.sql
-- The places of runs in the queue.  graphile-worker takes jobs by priority and run_at, so the run_at
-- of a run that may start is its place.  Start-time fair queueing: a run comes one microsecond behind
-- the last one of its workflow, or at the head of the queue if its workflow has none there.  So the
-- runs of a burst take turns with those of others, and a single event of another workflow is next.
-- Places lie in the past and are handed out more slowly than time goes by: what falls due later has a
-- run_at behind all of them, until _place_due moves it to the head.

create or replace function notika._head(priority smallint, before timestamptz, now timestamptz)
  returns timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_idle constant timestamptz := _head.now - interval '0.1 seconds';
  v_first timestamptz;
begin
  -- What no runner has a task for stays in front of the queue, and the queue goes on behind it.
  select j.run_at into v_first
    from (
      select n.run_at, n.task_id
        from notika_worker._private_jobs as n
       where n.is_available and n.job_queue_id is null
         and n.priority = _head.priority and n.run_at <= _head.now
       order by n.priority, n.run_at
       limit 1000
    ) as j
   where not exists (select from notika.runner)
      or exists (
           select from notika_worker._private_tasks as t
             join notika.runner as r on t.identifier = any (r.tasks)
            where t.id = j.task_id
         )
   limit 1;
  if v_first is null and not exists (
    select from notika_worker._private_jobs as n
     where n.is_available and n.job_queue_id is null
       and n.priority = _head.priority and n.run_at <= _head.now
  ) then
    return v_idle;
  end if;
  -- It never goes back, or the order of a workflow's events would: the last place of a workflow is
  -- forgotten when the head has passed it.  If the clock was set back there is no other way.
  return least(greatest(_head.before, v_first), v_idle);
end;
$$;

comment on function notika._head(smallint, timestamptz, timestamptz) is
  'The place of the first run of a priority that may start, or what it was before if that is later; '
  'a moment ago if there is none.';

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
  'A position with the places where the queue begins now, without those that it has passed.';

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
      select j.id, j.task_id, j.run_at
        from notika_worker._private_jobs as j
       where j.is_available and j.job_queue_id is null
         and j.priority = v_class.priority
         and j.run_at > v_class.last and j.run_at <= _place_due.now
       order by j.priority, j.run_at
       limit 1000
         for update skip locked
    ), turn as materialized (
      -- As if they were a workflow of their own, so that neither they nor what is new has to wait.
      select d.id, -w.workflow_id as flow_id,
             row_number() over (partition by w.workflow_id order by d.run_at) as turn
        from due as d
        join notika_worker._private_tasks as t on t.id = d.task_id
        join notika.workflow as w on w.name = t.identifier
    ), moved as (
      update notika_worker._private_jobs as j
         set run_at = least(
               greatest(v_class.head, (
                 select f.place
                   from unnest(here.flow_ids, here.flow_priorities, here.flow_places)
                        as f (id, priority, place)
                  where f.id = t.flow_id and f.priority = v_class.priority
               )), _place_due.now - interval '0.1 seconds'
             ) + t.turn * interval '1 microsecond'
        from turn as t
       where j.id = t.id
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
  'Moves what has fallen due behind a backlog, such as retries and sleepers, to the head of the '
  'queue; the position after that, or null if there was nothing.';

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
    select j.id, j.priority, w.workflow_id, w.placed_until,
           row_number() over (partition by j.priority order by j.key::bigint) as turn,
           count(*) over (partition by j.priority) as runs
      from notika_worker._private_jobs as j
      join notika_worker._private_tasks as t on t.id = j.task_id
      join notika.workflow as w on w.name = t.identifier
     where t.identifier = _place_held.workflow
       and j.run_at = 'infinity' and j.locked_at is null
       -- One that waits and is woken too early finds that out: it may have been held as well.
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
    update notika_worker._private_jobs as j
       set run_at = b.place + h.turn * interval '1 microsecond', updated_at = v_now
      from held as h
      join base as b on b.priority = h.priority
     where j.id = h.id and j.locked_at is null
    returning h.workflow_id, j.run_at
  )
  select max(p.workflow_id), max(p.run_at) into v_workflow_id, v_last from placed as p;

  -- Not as a position, which only the hand-over moves.
  update notika.workflow as w
     set placed_until = greatest(w.placed_until, v_last)
   where w.workflow_id = v_workflow_id;
end;
$$;

comment on function notika._place_held(text, boolean) is
  'Gives places in the queue to the runs of a workflow that were held, in the order of their events; '
  'without waits those that wait for something are left alone.';

create or replace function notika._place_late()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Handed over in the moment when their workflow was resumed, for a hand-over that did not see that.
  perform notika._place_held(w.name, waits => false)
     from notika.workflow as w
    where w.resumed_at > clock_timestamp() - interval '1 minute'
      and w.paused_at is null and w.broken_reason is null;
end;
$$;

comment on function notika._place_late() is
  'Lets runs go that were held by a pause that was over already; returns no rows.';
--! EndIncluded 41_place.sql
--! Included 42_batch.sql
-- Batches: one run for many events of a workflow with debounce or digest.
-- The first event makes the run, asleep until the batch closes; later ones join it.  A batch closes
-- when its run starts, which is not before its time, or when it is full: then events open the next.
-- Both sides hold the workflow's line lock, so that an event is in one batch and its run sees it.

create table if not exists notika.batch (
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
create unique index if not exists batch_open_idx
  on notika.batch (workflow_id, batch_key) where closed_at is null;
create index if not exists batch_opened_at_idx on notika.batch (opened_at);

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

create table if not exists notika.batch_event (
  run_id bigint not null,
  event_id bigint not null,
  event json not null,
  constraint batch_event_pkey primary key (run_id, event_id)
);

comment on table notika.batch_event is 'The events of batches.';
comment on column notika.batch_event.run_id is 'The run that gets it.';
comment on column notika.batch_event.event_id is 'Its id.';
comment on column notika.batch_event.event is 'The event as a task gets it.';

create or replace function notika._gather(jobs notika_worker.job_spec[])
  returns notika_worker.job_spec[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_events notika.batch_event[];
  v_batches notika.batch[];
  v_full bigint[];
  v_opened jsonb;
begin
  with setting as materialized (
    select w.workflow_id, w.name, g.option -> 'by' as columns, g.wait,
           v_now + coalesce(g.longest, 10 * g.wait) as hard_close_at,
           coalesce(g.events, 10000) as most, w.options ? 'debounce' as is_debounced
      from notika.workflow as w
     cross join lateral (
       select coalesce(w.options -> 'debounce', w.options -> 'digest') as option,
              coalesce(w.options #>> '{debounce,window}', w.options #>> '{digest,window}')::interval
                as wait,
              case when w.options ? 'digest' then w.options #>> '{digest,window}'
                   else w.options #>> '{debounce,max}' end::interval as longest,
              (w.options #>> '{digest,max}')::integer as events
     ) as g
     where w.options ?| '{debounce,digest}'::text[]
       and w.name in (select j.identifier from unnest(_gather.jobs) as j)
  ), incoming as materialized (
    select s.workflow_id, notika._short(notika._values(j.payload, s.columns)) as batch_key,
           j.job_key::bigint as event_id, j.payload
      from unnest(_gather.jobs) as j
      join setting as s on s.name = j.identifier
  ), counted as (
    select i.*, s.most, b.run_id as open_id,
           -- There is room in an open one, also if most was lowered meanwhile.
           (least(coalesce(b.events, 0), s.most - 1)
            + row_number() over (partition by i.workflow_id, i.batch_key order by i.event_id) - 1
           ) / s.most as nth
      from incoming as i
      join setting as s on s.workflow_id = i.workflow_id
      left join notika.batch as b
        on b.workflow_id = i.workflow_id and b.batch_key = i.batch_key and b.closed_at is null
  ), placed as materialized (
    select case when c.nth = 0 and c.open_id is not null then c.open_id
                else min(c.event_id) over (partition by c.workflow_id, c.batch_key, c.nth)
           end as run_id, c.*
      from counted as c
  ), touched as (
    select p.run_id, p.workflow_id, p.batch_key, coalesce(b.events, 0) + count(*) as events,
           coalesce(b.opened_at, v_now) as opened_at, b.closes_at,
           coalesce(b.hard_close_at, s.hard_close_at) as hard_close_at, s.wait, s.is_debounced,
           coalesce(b.events, 0) + count(*) >= s.most as is_full
      from placed as p
      join setting as s on s.workflow_id = p.workflow_id
      left join notika.batch as b on b.run_id = p.run_id
     group by p.run_id, p.workflow_id, p.batch_key, b.run_id, s.most, s.hard_close_at, s.wait,
              s.is_debounced
  )
  select (select array_agg(row(p.run_id, p.event_id, p.payload)::notika.batch_event)
            from placed as p),
         (select array_agg(row(
                   t.run_id, t.workflow_id, t.batch_key, t.events, t.opened_at,
                   case when t.is_full then v_now
                        when t.is_debounced then least(v_now + t.wait, t.hard_close_at)
                        else coalesce(t.closes_at, t.hard_close_at) end,
                   t.hard_close_at,
                   case when t.is_full then v_now end
                 )::notika.batch)
            from touched as t)
    into v_events, v_batches;
  if v_events is null then
    return _gather.jobs;
  end if;

  -- Full ones first: there is one open batch for each key.
  with grown as (
    update notika.batch as b
       set events = n.events, closes_at = n.closes_at, closed_at = n.closed_at
      from unnest(v_batches) as n
     where b.run_id = n.run_id
    returning b.run_id, b.closed_at
  )
  select array_agg(g.run_id) into v_full from grown as g where g.closed_at is not null;
  with opened as (
    insert into notika.batch
    select n.*
      from unnest(v_batches) as n
     where not exists (select from notika.batch as b where b.run_id = n.run_id)
    returning run_id, case when closed_at is null then closes_at end as starts_at
  )
  select coalesce(jsonb_object_agg(o.run_id, o.starts_at), '{}') into v_opened from opened as o;
  insert into notika.batch_event select e.* from unnest(v_events) as e;
  perform notika._wake_runs(v_full);

  return array(
    select row(j.identifier, j.payload, j.queue_name,
               greatest(j.run_at, (v_opened ->> j.job_key)::timestamptz),
               j.max_attempts, j.job_key, j.priority, j.flags)::notika_worker.job_spec
      from unnest(_gather.jobs) as j
      join notika.workflow as w on w.name = j.identifier
     where v_opened ? j.job_key or not w.options ?| '{debounce,digest}'::text[]
  );
end;
$$;

comment on function notika._gather(notika_worker.job_spec[]) is
  'The jobs, with one instead of many for the events of a batch, which it stores.';

create or replace function notika._forget_batches()
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from notika.batch as b
     where b.run_id = any (array(
       select o.run_id
         from notika.batch as o
        where o.opened_at < clock_timestamp() - (select s.runs_kept from notika.setting as s)
          and not exists (select from notika.run_log as l where l.run_id = o.run_id)
          and not exists (
            select from notika_worker._private_jobs as j where j.key = o.run_id::text
          )
        order by o.opened_at
        limit 1000
     ))
    returning b.run_id
  )
  delete from notika.batch_event as e using gone as g where e.run_id = g.run_id;
$$;

comment on function notika._forget_batches() is 'Forgets batches whose runs are forgotten.';
--! EndIncluded 42_batch.sql
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
  run_at timestamptz,
  constraint lane_pkey primary key (run_id)
) with (fillfactor = 50);
create index if not exists lane_place_idx on notika.lane (workflow_id, lane, place);

comment on table notika.lane is
  'For workflows with an order: runs that have not ended. The first of each lane may run.';
comment on column notika.lane.run_id is 'The run.';
comment on column notika.lane.workflow_id is 'The workflow.';
comment on column notika.lane.lane is 'The values by which it is ordered.';
comment on column notika.lane.place is 'Its place; a run that is tried again by hand goes last.';
comment on column notika.lane.run_at is
  'Its place among all runs, which it takes when it is its turn. See notika._head.';

create table if not exists notika.slot (
  run_id bigint not null,
  workflow_id integer not null,
  taken_at timestamptz,
  run_at timestamptz,
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
comment on column notika.slot.run_at is
  'Its place among all runs, which it takes when it may run. See notika._head.';

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
  insert into notika.lane (run_id, workflow_id, lane, run_at)
  select j.job_key::bigint, w.workflow_id,
         notika._short(notika._values(j.payload, w.options -> 'order')), j.run_at
    from unnest(_line_up.jobs) as j
    join notika.workflow as w on w.name = j.identifier and w.options ? 'order'
   order by j.job_key::bigint
  on conflict do nothing;

  insert into notika.slot (run_id, workflow_id, taken_at, run_at)
  select c.run_id, c.workflow_id, case when c.nth <= c.free then clock_timestamp() end, c.run_at
    from (
      select j.job_key::bigint as run_id, w.workflow_id, w.free, j.run_at,
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
  v_count bigint;
begin
  -- As reschedule_jobs does it, but each at its own time.  Who was in line takes the place that it
  -- had: behind all that came meanwhile, a line would go on only once in each backlog.
  update notika_worker._private_jobs as j
     set run_at = least((
           select coalesce(l.run_at, s.run_at)
             from (select j.key::bigint as run_id) as r
             left join notika.lane as l on l.run_id = r.run_id
             left join notika.slot as s on s.run_id = r.run_id
         ), clock_timestamp()),
         updated_at = clock_timestamp()
    from notika_worker._private_tasks as t
    join notika.workflow as w on w.name = t.identifier
   where t.id = j.task_id
     and j.key = any (array(select r::text from unnest(_wake_runs.run_ids) as r))
     and j.run_at > clock_timestamp() and j.locked_at is null
     and w.paused_at is null and w.broken_reason is null;
  get diagnostics v_count = row_count;
  if v_count > 0 then
    perform notika._announce_jobs(v_count); -- as add_jobs does
  end if;
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
    insert into notika.slot (run_id, workflow_id, run_at)
    select r, _wake_heads.workflow_id, (select l.run_at from notika.lane as l where l.run_id = r)
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
    insert into notika.lane (run_id, workflow_id, lane, run_at)
    values (_admit.run_id, v_workflow.workflow_id,
            notika._short(notika._values(v_job.payload, v_workflow.options -> 'order')),
            v_job.run_at)
    on conflict do nothing;
    if notika._is_behind(_admit.run_id) then
      perform notika._requeue(_admit.job_id, 'infinity');
      return false;
    end if;
  end if;

  if v_workflow.options ? 'concurrency' then
    insert into notika.slot (run_id, workflow_id, run_at)
    values (_admit.run_id, v_workflow.workflow_id, v_job.run_at)
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
--! Included 44_cron.sql
-- When a schedule is due.  Times are those of the wall clock of a time zone: one that the clock leaps
-- over in spring is kept as late as the clock leaps, one that comes twice in autumn is kept the first
-- time; but a schedule of every hour keeps its rhythm and is due both times.

create or replace function notika._refuse_cron(cron text, field text, problem text, hint text)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '% of cron "%" %', _refuse_cron.field, _refuse_cron.cron, _refuse_cron.problem
    using errcode = 'invalid_parameter_value',
          detail = 'A schedule has five fields: minute (0-59), hour (0-23), day (1-31), month (1-12 '
                   'or jan-dec), weekday (0-7 or sun-sat); each is *, numbers, ranges, or steps.',
          hint = _refuse_cron.hint;
end;
$$;

comment on function notika._refuse_cron(text, text, text, text) is
  'Says what is wrong with a field of a schedule, as an error.';

create or replace function notika._cron_values(
  cron text,
  name text,
  field text,
  low integer,
  high integer,
  names text[]
)
  returns integer[]
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_item text;
  v_parts text[];
  v_text text;
  v_bounds integer[];
  v_step integer;
  v_values integer[] := array[]::integer[];
begin
  foreach v_item in array string_to_array(lower(field), ',') loop
    v_parts := regexp_match(v_item, '^(\*|[0-9]+|[a-z]+)(?:-([0-9]+|[a-z]+))?(?:/([0-9]+))?$');
    if v_parts is null or v_parts[1] = '*' and v_parts[2] is not null then
      perform notika._refuse_cron(
        cron, name, format('has "%s", which is no number, range or step', v_item),
        format('For instance: *, %1$s, %1$s-%2$s, %1$s,%2$s, */2 or %1$s-%2$s/2.', low, high));
    end if;

    v_bounds := array[]::integer[];
    foreach v_text in array v_parts[1:2] loop
      v_bounds := v_bounds || case
        when v_text ~ '^[0-9]{1,4}$' then v_text::integer
        when v_text ~ '[0-9]' then high + 1
        else array_position(names, v_text) - 1 + low
      end;
      if v_text = '*' then
        v_bounds := array[low, high];
        exit;
      end if;
      exit when v_text is null;
      if v_bounds[cardinality(v_bounds)] is null then
        perform notika._refuse_cron(
          cron, name, format('has "%s", which is no number or name', v_text),
          case when names is null then format('Write a number from %s to %s.', low, high)
               else format('The names are %s.', array_to_string(names, ', ')) end);
      end if;
      if v_bounds[cardinality(v_bounds)] not between low and high then
        perform notika._refuse_cron(
          cron, name, format('has %s, which is not between %s and %s', v_text, low, high),
          format('Write a number from %s to %s.', low, high));
      end if;
    end loop;

    if v_parts[1] <> '*' and v_parts[2] is null then
      if v_parts[3] is not null then
        perform notika._refuse_cron(
          cron, name, format('has "%s", a step without a range', v_item),
          format('Write %s-%s/%s.', v_bounds[1], high, v_parts[3]));
      end if;
      v_bounds[2] := v_bounds[1];
    elsif v_parts[2] = 'sun' then
      v_bounds[2] := high; -- at the end of a week it is its seventh day
    end if;
    if v_bounds[1] > v_bounds[2] then
      perform notika._refuse_cron(
        cron, name, format('has "%s", a range that runs backwards', v_item),
        format('Write %s-%s,%s-%s.', v_parts[1], high - (high = 7)::integer, low, v_parts[2]));
    end if;

    v_step := case when v_parts[3] ~ '^[0-9]{1,4}$' then v_parts[3]::integer
                   when v_parts[3] is null then 1 else 0 end;
    if v_step not between 1 and high then
      perform notika._refuse_cron(
        cron, name, format('has "%s", a step that is not between 1 and %s', v_item, high),
        format('For instance: */2.'));
    end if;
    v_values := v_values || array(select generate_series(v_bounds[1], v_bounds[2], v_step));
  end loop;

  return array(select distinct case when high = 7 then v.value % 7 else v.value end
                 from unnest(v_values) as v (value) order by 1);
end;
$$;

comment on function notika._cron_values(text, text, text, integer, integer, text[]) is
  'The numbers that a field of a schedule stands for, or an error that names the field.';

create or replace function notika._cron(
  cron text,
  out minutes integer[],
  out hours integer[],
  out days integer[],
  out months integer[],
  out weekdays integer[],
  out any_day boolean
)
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_fields text[] := regexp_split_to_array(btrim(coalesce(_cron.cron, ''), E' \t'), '[ \t]+');
begin
  if cardinality(v_fields) = 1 and v_fields[1] ~ '^@' then
    v_fields := string_to_array(case lower(v_fields[1])
      when '@hourly' then '0 * * * *'
      when '@daily' then '0 0 * * *'
      when '@midnight' then '0 0 * * *'
      when '@weekly' then '0 0 * * 0'
      when '@monthly' then '0 0 1 * *'
      when '@yearly' then '0 0 1 1 *'
      when '@annually' then '0 0 1 1 *'
    end, ' ');
    if v_fields is null then
      perform notika._refuse_cron(
        cron, 'name', 'is not known',
        'The names are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually.');
    end if;
  end if;
  if cardinality(v_fields) <> 5 then
    perform notika._refuse_cron(
      coalesce(cron, 'null'), 'number of fields',
      format('is %s instead of five',
             case when v_fields = '{""}' then 0 else cardinality(v_fields) end),
      case when cardinality(v_fields) = 6 then 'There are no seconds: leave the first field out.'
           else 'For instance, each day at half past seven: 30 7 * * *.' end);
  end if;

  minutes := notika._cron_values(cron, 'minute', v_fields[1], 0, 59, null);
  hours := notika._cron_values(cron, 'hour', v_fields[2], 0, 23, null);
  days := notika._cron_values(cron, 'day', v_fields[3], 1, 31, null);
  months := notika._cron_values(cron, 'month', v_fields[4], 1, 12,
    '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
  weekdays := notika._cron_values(cron, 'weekday', v_fields[5], 0, 7,
    '{sun,mon,tue,wed,thu,fri,sat}');
  -- As cron has always read it: two fields that say something are two ways to be due.
  any_day := v_fields[3] !~ '^\*' and v_fields[5] !~ '^\*';

  if not any_day and not exists (
    select from unnest(days) as d (day), unnest(months) as m (month)
     where d.day <= ('{31,29,31,30,31,30,31,31,30,31,30,31}'::integer[])[m.month]
  ) then
    perform notika._refuse_cron(
      cron, 'day', format('is never due: no month of %s has it', v_fields[4]),
      'For the end of a month: 28 is in all of them.');
  end if;
end;
$$;

comment on function notika._cron(text) is
  'What the fields of a schedule stand for; any_day: day or weekday, instead of day and weekday.';

create or replace function notika._local_instants(
  local timestamp,
  time_zone text,
  is_repeated boolean
)
  returns setof timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- Postgres reads a time that there is not by the clock before the leap, and of two the second.
  v_last timestamptz := _local_instants.local at time zone _local_instants.time_zone;
  v_day_before timestamptz := v_last - interval '24 hours';
  v_first timestamptz := _local_instants.local at time zone 'UTC' - (
    v_day_before at time zone _local_instants.time_zone - v_day_before at time zone 'UTC'
  );
begin
  if v_first < v_last and v_first at time zone _local_instants.time_zone = local then
    return next v_first;
    if not is_repeated then
      return;
    end if;
  end if;
  return next v_last;
end;
$$;

comment on function notika._local_instants(timestamp, text, boolean) is
  'When a clock shows a time: once; the first time where the clock is set back, unless both are '
  'asked for; and after a leap that leaves the time out, as much later as the clock leaps.';

create or replace function notika._is_clock_set(time_zone text, instant timestamptz)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select (instant + interval '24 hours') at time zone time_zone
         <> (instant - interval '24 hours') at time zone time_zone + interval '48 hours';
$$;

comment on function notika._is_clock_set(text, timestamptz) is
  'Whether a clock is put forward or back within a day of an instant.';

create or replace function notika._next_time(cron text, time_zone text, after timestamptz)
  returns timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_cron record;
  v_from timestamp := date_trunc('minute', after at time zone time_zone);
  v_day date;
  v_last_day date;
  v_first timestamp;
  v_next timestamptz;
  -- Clocks leap by less.
  v_leap constant interval := interval '3 hours';
begin
  select c.*, cardinality(c.hours) = 24 as is_hourly into v_cron
    from notika._cron(_next_time.cron) as c;
  v_from := v_from + case when notika._is_clock_set(time_zone, after) then -v_leap
                          else interval '1 minute' end;
  v_day := v_from::date;
  -- The twenty-ninth of February is on a given weekday once in forty years.
  v_last_day := v_day + 366 * 41;

  while v_day < v_last_day loop
    while extract(month from v_day) = any (v_cron.months)
      and case when v_cron.any_day
               then extract(day from v_day) = any (v_cron.days)
                 or extract(dow from v_day) = any (v_cron.weekdays)
               else extract(day from v_day) = any (v_cron.days)
                and extract(dow from v_day) = any (v_cron.weekdays) end
    loop
      select min(v_day + make_time(h.hour, m.minute, 0)) into v_first
        from unnest(v_cron.hours) as h (hour), unnest(v_cron.minutes) as m (minute)
       where v_day + make_time(h.hour, m.minute, 0) >= v_from;
      exit when v_first is null;
      v_next := v_first at time zone time_zone;
      if v_next > after and not notika._is_clock_set(time_zone, v_next) then
        return v_next;
      end if;

      -- Around a leap a later time may come first.
      select min(i.instant) into v_next
        from unnest(v_cron.hours) as h (hour)
       cross join unnest(v_cron.minutes) as m (minute)
       cross join lateral (select v_day + make_time(h.hour, m.minute, 0)) as l (local)
       cross join lateral
             notika._local_instants(l.local, time_zone, v_cron.is_hourly) as i (instant)
       where l.local between v_first and v_first + 2 * v_leap
         and i.instant > after;
      if v_next is not null then
        return v_next;
      end if;
      v_from := least(v_first + 2 * v_leap + interval '1 minute', v_day + interval '1 day');
    end loop;
    v_day := v_day + 1;
  end loop;
  return null;
end;
$$;

comment on function notika._next_time(text, text, timestamptz) is
  'When a schedule is due for the first time after an instant; null: not in forty years.';
--! EndIncluded 44_cron.sql
--! Included 44_zone.sql
-- Time zones: a name of pg_timezone_names, nothing else.  Postgres itself also takes POSIX strings, in
-- which the sign is reversed ("UTC+2" is two hours behind UTC, "Foo3" three), and abbreviations, which
-- mean one thing in a setting and another in a country ("IST") and know no summer time ("CET").

create or replace function notika._is_time_zone(name text)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The view reads hundreds of files.  What has a slash and no digit is neither an abbreviation nor a
  -- POSIX string: if Postgres takes it, it is a file.  Those in right/ count leap seconds.
  if _is_time_zone.name ~ '^[A-Za-z_]+(/[A-Za-z_-]+)+$' and _is_time_zone.name !~* '^right/' then
    begin
      perform now() at time zone _is_time_zone.name;
      return true;
    exception when invalid_parameter_value then
      return false;
    end;
  end if;
  return _is_time_zone.name = 'UTC'
      or exists (
           select from pg_timezone_names as n where lower(n.name) = lower(_is_time_zone.name)
         )
         -- Postgres reads these as abbreviations.
         and upper(_is_time_zone.name) not in ('CET', 'EET', 'MET', 'WET');
end;
$$;

comment on function notika._is_time_zone(text) is
  'Whether this is the name of a time zone that Postgres reads as that zone.';

create or replace function notika._pairs(word text)
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select distinct substr(word, i, 2) from generate_series(1, length(word) - 1) as i
  );
$$;

comment on function notika._pairs(text) is
  'The pairs of letters that a word has, by which similar words are found.';

create or replace function notika._similar_time_zone(name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select s.name
    from (
      select n.name, c.shared::numeric / (g.count + cardinality(w.pairs) - c.shared) as likeness
        from pg_timezone_names as n
       cross join lateral (
         values (notika._pairs(lower(n.name))),
                (notika._pairs(lower(substring(n.name from '[^/]*$'))))
       ) as w (pairs)
       cross join lateral (
         select a.pairs, cardinality(a.pairs) as count
           from (select notika._pairs(replace(lower(left(_similar_time_zone.name, 50)), ' ', '_')))
                as a (pairs)
       ) as g
       cross join lateral (
         select count(*) as shared from unnest(w.pairs) as p (pair) where p.pair = any (g.pairs)
       ) as c
       where n.name ~ '^[A-Z][A-Za-z]+/' and n.name !~ '^(Etc|SystemV)/' and g.count > 1
    ) as s
   where s.likeness >= 0.5
   order by s.likeness desc, s.name
   limit 1;
$$;

comment on function notika._similar_time_zone(text) is
  'The time zone whose name, or the last part of it, is most like this; null: none is.';

create or replace function notika._time_zone_hint(name text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_all constant text := 'Their names: select name from pg_timezone_names;';
  v_offset text[] := regexp_match(_time_zone_hint.name,
                                  '^(?:utc|gmt)?\s*([+-])(\d\d?)(?::?([0-5]\d))?$', 'i');
  v_interval interval;
  v_places text;
  v_similar text;
begin
  if v_offset is not null then
    if coalesce(v_offset[3], '00') = '00' then
      if v_offset[2]::integer between 1 and 12 then
        return format('Did you mean Etc/GMT%s%s? In that name the sign is reversed: it is %s hours %s '
                      'UTC all year. A place, such as Europe/Berlin, has summer time.',
                      translate(v_offset[1], '+-', '-+'), v_offset[2]::integer, v_offset[2]::integer,
                      case v_offset[1] when '+' then 'ahead of' else 'behind' end);
      end if;
    end if;
    v_interval := (v_offset[1] || '1')::integer
      * make_interval(hours => v_offset[2]::integer, mins => coalesce(v_offset[3], '0')::integer);
    select string_agg(p.name, ', ') into v_places
      from (
        select n.name
          from pg_timezone_names as n
         where n.utc_offset = v_interval and n.name ~ '^[A-Z][A-Za-z]+/' and n.name !~ '^Etc/'
         order by n.name
         limit 5
      ) as p;
    return coalesce('Now these have that offset: ' || v_places || '.', v_all);
  end if;

  select z.places into v_places
    from (
      values ('IST', 'Asia/Kolkata, Asia/Jerusalem or Europe/Dublin'),
             ('CET CEST MEZ MESZ MET MEST', 'Europe/Berlin'), ('EET EEST', 'Europe/Athens'),
             ('WET WEST', 'Europe/Lisbon'), ('BST', 'Europe/London'), ('MSK', 'Europe/Moscow'),
             ('ET EST EDT', 'America/New_York'), ('CT CST CDT', 'America/Chicago'),
             ('MT MST MDT', 'America/Denver'), ('PT PST PDT', 'America/Los_Angeles'),
             ('JST', 'Asia/Tokyo'), ('KST', 'Asia/Seoul'), ('SGT', 'Asia/Singapore'),
             ('HKT', 'Asia/Hong_Kong'), ('AEST AEDT', 'Australia/Sydney'),
             ('NZST NZDT', 'Pacific/Auckland'), ('Z ZULU', 'UTC')
    ) as z (abbreviations, places)
   where upper(_time_zone_hint.name) = any (string_to_array(z.abbreviations, ' '));
  if found then
    return format('Did you mean %s?', v_places);
  end if;

  v_similar := notika._similar_time_zone(_time_zone_hint.name);
  return coalesce('Did you mean ' || v_similar || '?', v_all);
end;
$$;

comment on function notika._time_zone_hint(text) is
  'What somebody may have meant by a time zone that is none.';

create or replace function notika._check_time_zone(time_zone text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _check_time_zone.time_zone is null
     or not notika._is_time_zone(_check_time_zone.time_zone)
  then
    raise exception 'there is no time zone "%"', coalesce(_check_time_zone.time_zone, 'null')
      using errcode = 'invalid_parameter_value',
            detail = 'A time zone is named as in pg_timezone_names, not by an offset or an '
                     'abbreviation.',
            hint = notika._time_zone_hint(_check_time_zone.time_zone);
  end if;
end;
$$;

comment on function notika._check_time_zone(text) is
  'Refuses what is not the name of a time zone, and says which may be meant.';
--! EndIncluded 44_zone.sql
--! Included 45_maintain.sql
-- What has to happen from time to time: the ring turns, the cursor's old positions go, jobs of
-- runners that died are freed.  The runner calls it every ten seconds; pg_cron may as well.

create or replace function notika.maintain()
  returns setof text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '2s'
as $$
begin
  perform notika._refuse_old_snapshot();
  return query select * from notika._attempt('_free_jobs');
  return query select * from notika._attempt('_bury_jobs');
  return query select * from notika._attempt('_tend_lines');
  return query select * from notika._attempt('_hold_jobs');
  return query select * from notika._attempt('_place_late');
  return query select * from notika._attempt('_forget');
  if notika._lock_dispatch() then
    return query select * from notika._attempt('_turn');
    return query select * from notika._attempt('_forget_signals');
    return query select * from notika._attempt('_forget_runs');
    -- Not as an attempt: a copy is known by the xmin of its position, which a block changes.
    return query select * from notika._forget_positions();
  end if;
end;
$$;

comment on function notika.maintain() is
  'Turns the ring when it is due, frees the jobs of runners that died, forgets old runs, and says '
  'what it did.';

create or replace function notika._attempt(task text)
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query execute format('select * from notika.%I()', _attempt.task);
exception when lock_not_available then
  return next format('%s was skipped: a lock was not free within two seconds', _attempt.task);
end;
$$;

comment on function notika._attempt(text) is
  'Does a part of maintain, or says that a lock has stopped it, which then does not stop the rest.';

create or replace function notika._forget()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._forget_keys();
  perform notika._forget_batches();
end;
$$;

comment on function notika._forget() is 'Forgets old keys and batches; returns no rows.';

create or replace function notika._turn_due_at()
  returns timestamptz
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting notika.setting;
  v_current regclass := format('notika.event_log_%s', notika._segment(0));
  v_oldest timestamptz;
begin
  select s.* into v_setting from notika.setting as s;
  execute format('select e.captured_at from %s as e order by e.event_id limit 1', v_current)
    into v_oldest;
  return case
    -- When it reached its size is not known.
    when pg_table_size(v_current) >= v_setting.segment_bytes then v_oldest
    when v_oldest <= clock_timestamp() - v_setting.segment_age then v_oldest + v_setting.segment_age
  end;
end;
$$;

comment on function notika._turn_due_at() is 'Since when the ring is due to turn; null: it is not.';

create or replace function notika._turn()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next regclass := format('notika.event_log_%s', notika._segment(1));
  v_here notika.position := notika._position();
  v_waits boolean;
  v_control bigint;
begin
  if notika._turn_due_at() is null then
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
        where e.event_id > $1 and not notika._dispatched(e.event_id, e.xid, e.workflow_id, $2)
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
  -- Runners beat and look here every ten seconds: within a minute of its death its jobs are free.
  -- Two looks, because all seem silent when the clock was set or the server was away, and whoever
  -- is alive is heard before the second.
  update notika.runner as r
     set suspected_at = clock_timestamp()
   where r.seen_at < clock_timestamp() - interval '25 seconds' and r.suspected_at is null;
  with gone as (
    delete from notika.runner as r
     where r.suspected_at < clock_timestamp() - interval '15 seconds'
    returning r.runner_id
  )
  select array_agg(s.runner_id) into v_silent
    from (
      select g.runner_id from gone as g
      union
      -- Died before its first sign of life.
      select j.locked_by
        from notika_worker._private_jobs as j
       where j.locked_at < clock_timestamp() - interval '45 seconds'
         and not exists (select from notika.runner as r where r.runner_id = j.locked_by)
    ) as s;

  if v_silent is not null then
    perform notika_worker.force_unlock_workers(v_silent);
    return next format('%s silent runners were given up, their jobs freed', cardinality(v_silent));
  end if;
end;
$$;

comment on function notika._free_jobs() is
  'Unlocks what runners hold that fell silent; graphile-worker would wait four hours.';

create or replace function notika._bury_jobs()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_jobs bigint[];
  v_runs bigint[];
begin
  -- A run that has parked goes on as another job; what is left of one whose runner died just then
  -- is of no use.
  select array_agg(j.id) into v_jobs
    from notika_worker._private_jobs as j
   where j.attempts >= j.max_attempts and j.locked_at is null and j.key is null;
  if v_jobs is not null then
    perform notika_worker.complete_jobs(v_jobs);
  end if;

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
           notika._captured_at(d.payload), d.updated_at
      from dead as d
    on conflict do nothing
  )
  select array_agg(d.id), array_agg(d.run_id) into v_jobs, v_runs from dead as d;

  if v_jobs is not null then
    perform notika_worker.complete_jobs(v_jobs);
    perform notika._settled(v_runs);
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
     -- Not those that sleep longer: they would forget until when.
     and j.run_at < clock_timestamp() + interval '1 minute' and j.locked_at is null;

  if v_jobs is not null then
    perform notika_worker.reschedule_jobs(v_jobs, run_at => 'infinity');
    return next format('%s runs of paused workflows are held', cardinality(v_jobs));
  end if;
end;
$$;

comment on function notika._hold_jobs() is 'Keeps the runs of paused workflows from starting.';
--! EndIncluded 45_maintain.sql
--! Included 46_schedule.sql
-- Schedules: workflows that start at times, with or without a table that they are published on.
-- What is due is found by notika.dispatch, under its lock, so that each time starts one run however
-- many dispatchers there are.

create table if not exists notika.schedule (
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
create index if not exists schedule_next_at_idx on notika.schedule (next_at);

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

create or replace view notika.schedules as
select w.name as workflow,
       s.cron,
       s.time_zone,
       s.missed,
       s.next_at,
       s.last_at,
       s.error
  from notika.schedule as s
  join notika.workflow as w on w.workflow_id = s.workflow_id;

comment on view notika.schedules is 'The workflows that start by time, and when.';
comment on column notika.schedules.workflow is 'The workflow.';
comment on column notika.schedules.cron is 'Minute, hour, day, month and weekday.';
comment on column notika.schedules.time_zone is 'Whose clock they are read from.';
comment on column notika.schedules.missed is
  'What becomes of times that nobody was there to keep: skip, catch up.';
comment on column notika.schedules.next_at is
  'When it is due; one that has passed waits for a dispatcher, or for the workflow to be resumed.';
comment on column notika.schedules.last_at is 'The last time that it was kept, as planned.';
comment on column notika.schedules.error is
  'Why it could not be kept when it was due; it is tried again, and no time is lost.';

create or replace function notika._check_schedule(workflow text, schedule jsonb)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_example constant text :=
    '{"schedule": {"cron": "30 2 * * *", "timeZone": "Europe/Berlin", "missed": "skip"}}';
  v_checked jsonb;
  v_unknown text;
begin
  if jsonb_typeof(_check_schedule.schedule) <> 'object' then
    perform notika._refuse_option(
      workflow, 'schedule', 'is not an object with cron, timeZone and missed', v_example,
      detail => format('It is %s.', _check_schedule.schedule));
  end if;
  select k into v_unknown
    from jsonb_object_keys(_check_schedule.schedule) as k
   where k not in ('cron', 'timeZone', 'missed')
   limit 1;
  if found then
    perform notika._refuse_option(
      workflow, 'schedule', format('has no setting "%s"', v_unknown), v_example,
      detail => 'Its settings are cron, timeZone and missed.');
  end if;

  v_checked := jsonb_build_object(
    'cron', schedule ->> 'cron',
    'timeZone', coalesce(schedule ->> 'timeZone', 'UTC'),
    'missed', coalesce(schedule ->> 'missed', 'skip')
  );
  perform notika._check_time_zone(v_checked ->> 'timeZone');
  if v_checked ->> 'missed' not in ('skip', 'catch up') then
    perform notika._refuse_option(
      workflow, 'schedule.missed', 'is not skip or catch up', v_example,
      detail => 'It says what becomes of times that nobody was there to keep.');
  end if;
  if notika._next_time(v_checked ->> 'cron', v_checked ->> 'timeZone', clock_timestamp()) is null
  then
    perform notika._refuse_cron(v_checked ->> 'cron', 'day', 'is not due in the next forty years',
                                'Leave the day or the weekday open.');
  end if;
  return v_checked;
end;
$$;

comment on function notika._check_schedule(text, jsonb) is
  'A schedule {cron, timeZone, missed} as it is kept, or an error.';

create or replace function notika._set_schedule(workflow_id integer, schedule jsonb)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _set_schedule.schedule is null then
    delete from notika.schedule as s where s.workflow_id = _set_schedule.workflow_id;
    return;
  end if;

  -- One that stays as it was keeps what it still has to catch up with.
  insert into notika.schedule as s (workflow_id, cron, time_zone, missed, next_at)
  select _set_schedule.workflow_id, g.cron, g."timeZone", g.missed,
         notika._next_time(g.cron, g."timeZone", clock_timestamp())
    from jsonb_to_record(_set_schedule.schedule) as g (cron text, "timeZone" text, missed text)
  on conflict on constraint schedule_pkey do update
    set cron = excluded.cron, time_zone = excluded.time_zone, missed = excluded.missed,
        next_at = excluded.next_at, error = null, tried_at = null
    where (s.cron, s.time_zone, s.missed) is distinct from
          (excluded.cron, excluded.time_zone, excluded.missed)
       or s.error is not null;
end;
$$;

comment on function notika._set_schedule(integer, jsonb) is
  'Makes a checked {cron, timeZone, missed} the schedule of a workflow, null that it has none.';

create or replace function notika._check_scheduled_name(workflow text)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _check_scheduled_name.workflow ~ '^[A-Za-z][A-Za-z0-9_-]{0,62}$' then
    return;
  end if;
  raise exception 'workflow name "%" is not valid', coalesce(_check_scheduled_name.workflow, 'null')
    using errcode = 'invalid_name',
          detail = 'It is the name of the task''s file: up to 63 letters, digits, _ and -, '
                   'of which the first is a letter: a file whose name begins with _ is no task.',
          hint = 'For instance: select notika.schedule(''nightly_report'', ''30 2 * * *'');';
end;
$$;

comment on function notika._check_scheduled_name(text) is
  'Refuses a name that a workflow cannot have, or that is a source''s, which has no schedule.';

create or replace function notika._plan_by_time(workflow text, options jsonb)
  returns table (statement text, lock text)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_before jsonb;
  v_after jsonb;
  v_schedule jsonb;
begin
  perform notika._check_scheduled_name(_plan_by_time.workflow);
  select w.* into v_spec
    from notika.workflow as w
   where w.name = _plan_by_time.workflow and w.unpublished_at is null;
  v_spec.name := _plan_by_time.workflow;
  v_before := coalesce(v_spec.options, '{}');
  v_after := notika._check_options(v_spec, coalesce(_plan_by_time.options, '{}'));
  v_schedule := v_after -> 'schedule';

  if v_schedule is distinct from v_before -> 'schedule' and v_schedule is not null then
    return query
      select format('select notika.schedule(%L, %L, %L, %L);', v_spec.name, v_schedule ->> 'cron',
                    v_schedule ->> 'timeZone', v_schedule ->> 'missed'), null::text;
    v_before := v_before || jsonb_build_object('schedule', v_schedule);
  end if;
  if v_after <> v_before then
    return query select format('select notika.configure(%L, %L);', v_spec.name, v_after), null::text;
  end if;
end;
$$;

comment on function notika._plan_by_time(text, jsonb) is
  'What _publish_by_time would do with the same arguments, as plan says it for publish.';

create or replace function notika._publish_by_time(workflow text, options jsonb)
  returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_outcome text;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  v_outcome := notika._ask('_publish_by_time', jsonb_build_object(
    'workflow', _publish_by_time.workflow, 'options', _publish_by_time.options)) #>> '{}';
  perform set_config('lock_timeout', v_before, true);
  return v_outcome;
end;
$$;

comment on function notika._publish_by_time(text, jsonb) is
  'Configures a workflow, which is published without a table if it is not published yet. Says '
  'published, changed or unchanged.';

create or replace function notika._do_publish_by_time(caller name, workflow text, options jsonb)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_new boolean;
begin
  perform notika._check_scheduled_name(_do_publish_by_time.workflow);

  -- One that is published on no table has a row all the same: it is paused, resumed, shown.
  insert into notika.workflow as w
    (name, operations, guard, on_rename, definition, is_pinned, published_by, publisher_id)
  select _do_publish_by_time.workflow, '{}', 'off', 'follow', '{}', false, r.rolname, r.oid
    from pg_roles as r
   where r.rolname = _do_publish_by_time.caller
  on conflict (name) do update
    set table_name = null, operations = '{}', columns = null, column_names = null, watch = null,
        condition = null, condition_sql = null, condition_uses = null, guard = 'off',
        is_pinned = false, paused_at = null, options = '{}', published_at = clock_timestamp(),
        published_by = excluded.published_by, publisher_id = excluded.publisher_id,
        unpublished_at = null
    where w.unpublished_at is not null;
  v_is_new := found;

  return case notika._do_configure(
           _do_publish_by_time.caller, _do_publish_by_time.workflow,
           coalesce(nullif(_do_publish_by_time.options, 'null'), '{}'))
           when 'unchanged' then 'unchanged'
           else case when v_is_new then 'published' else 'changed' end
         end;
end;
$$;

comment on function notika._do_publish_by_time(name, text, jsonb) is
  'Carries out _publish_by_time for a caller.';

create or replace function notika.schedule(
  workflow text,
  cron text,
  time_zone text default 'UTC',
  missed text default 'skip'
)
  returns timestamptz
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_due timestamptz;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  v_due := (notika._ask('schedule', jsonb_build_object(
    'workflow', schedule.workflow, 'cron', schedule.cron, 'time_zone', schedule.time_zone,
    'missed', schedule.missed)) #>> '{}')::timestamptz;
  perform set_config('lock_timeout', v_before, true);
  return v_due;
end;
$$;

comment on function notika.schedule(text, text, text, text) is
  'Starts a workflow at times: cron is minute, hour, day, month and weekday on the clock of '
  'time_zone; missed: skip or catch up. It need not be published on a table. Says when it is due.';

create or replace function notika._do_schedule(
  caller name,
  workflow text,
  cron text,
  time_zone text,
  missed text
)
  returns timestamptz
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._do_publish_by_time(_do_schedule.caller, _do_schedule.workflow, coalesce((
    select w.options
      from notika.workflow as w
     where w.name = _do_schedule.workflow and w.unpublished_at is null
  ), '{}') || jsonb_build_object('schedule', jsonb_build_object(
    'cron', _do_schedule.cron, 'timeZone', _do_schedule.time_zone, 'missed', _do_schedule.missed
  )));
  return (select s.next_at from notika.schedules as s where s.workflow = _do_schedule.workflow);
end;
$$;

comment on function notika._do_schedule(name, text, text, text, text) is
  'Carries out schedule for a caller.';

create or replace function notika.unschedule(workflow text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  perform notika._ask('unschedule', jsonb_build_object('workflow', unschedule.workflow));
  perform set_config('lock_timeout', v_before, true);
end;
$$;

comment on function notika.unschedule(text) is
  'Takes the schedule of a workflow away; one without a table is not published any more.';

create or replace function notika._do_unschedule(caller name, workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_do_unschedule.workflow);
begin
  perform notika._do_configure(_do_unschedule.caller, w.name, w.options - 'schedule')
     from notika.workflow as w
    where w.workflow_id = v_workflow_id;
  update notika.workflow as w
     set unpublished_at = clock_timestamp()
   where w.workflow_id = v_workflow_id and w.table_name is null;
end;
$$;

comment on function notika._do_unschedule(name, text) is 'Carries out unschedule for a caller.';

create or replace function notika._keep_time(due notika.schedule, now timestamptz)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_grace constant interval := (select s.missed_after from notika.setting as s);
  v_at timestamptz := due.next_at;
  v_next timestamptz;
  v_started integer := 0;
begin
  -- One that could not be kept was not missed: somebody was there.
  if due.missed = 'skip' and due.error is null and v_at < _keep_time.now - v_grace then
    v_at := notika._next_time(due.cron, due.time_zone, _keep_time.now - v_grace);
  end if;
  -- Some at a time: the rest is due when the dispatcher comes back.
  while v_at <= _keep_time.now and v_started < 100 loop
    v_next := coalesce(notika._next_time(due.cron, due.time_zone, v_at), 'infinity');
    if due.missed = 'catch up' or v_next > _keep_time.now then
      perform notika._append(due.workflow_id, 'schedule', json_build_object('planned_at',
        to_char(v_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')));
      v_started := v_started + 1;
      due.last_at := v_at;
    end if;
    v_at := v_next;
  end loop;

  update notika.schedule as s
     set next_at = v_at, last_at = due.last_at, error = null, tried_at = null
   where s.workflow_id = due.workflow_id;
  return v_started;
exception when others then
  -- One schedule must not hold up the hand-over of everything.  It stays due.
  begin
    update notika.schedule as s
       set error = sqlerrm, tried_at = _keep_time.now
     where s.workflow_id = due.workflow_id;
  exception when others then
    null; -- the same may keep this from being written
  end;
  return 0;
end;
$$;

comment on function notika._keep_time(notika.schedule, timestamptz) is
  'Starts the runs of a schedule that is due, and says how many. Needs the right of _lock_dispatch.';

create or replace function notika._keep_times()
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- While a workflow is paused nobody is there to keep its times.
  return (
    select coalesce(sum(notika._keep_time(d.due, clock_timestamp())), 0)::integer
      from (
        select s as due
          from notika.schedule as s
          join notika.workflow as w on w.workflow_id = s.workflow_id
         where s.next_at <= clock_timestamp()
           and (s.tried_at is null or s.tried_at < clock_timestamp() - interval '1 second')
           and w.unpublished_at is null and w.paused_at is null and w.broken_reason is null
           for update of s skip locked -- one that is being changed must not stop the others
      ) as d
  );
end;
$$;

comment on function notika._keep_times() is
  'Starts the runs of all schedules that are due, and says how many. '
  'Needs the right of _lock_dispatch.';
--! EndIncluded 46_schedule.sql
--! Included 47_signal.sql
-- Changes that runs wait for.  A source is published like a workflow, under the name
-- workflow:source; its events become signals, not jobs.  workflow:cancel ends the runs it matches.
-- A signal counts for a run unless the transaction that started the run could see it already: so
-- nothing is missed that was committed later, in whatever order the ids were drawn, and nothing
-- counts that was there before.  Who hands signals over and who begins a wait exclude each other by
-- a lock, so that a wait either finds a signal or is found by it.

create table if not exists notika.signal (
  event_id bigint not null,
  source_id integer not null,
  xid xid8 not null,
  cause_id bigint,
  match_values text not null,
  event json not null,
  constraint signal_pkey primary key (event_id)
);
create index if not exists signal_match_idx
  on notika.signal (source_id, match_values, event_id);

comment on table notika.signal is
  'Events of sources that were handed over, kept while an unfinished run may want them.';
comment on column notika.signal.event_id is 'The id of the event.';
comment on column notika.signal.source_id is 'The source, a row of notika.workflow.';
comment on column notika.signal.xid is 'The transaction that made the change.';
comment on column notika.signal.cause_id is 'The run whose write this is; null: not a run''s.';
comment on column notika.signal.match_values is 'The values that waits compare, as one text.';
comment on column notika.signal.event is 'The event as a task gets it.';

create table if not exists notika.listener (
  run_id bigint not null,
  workflow_id integer not null,
  xid xid8,
  snapshot pg_snapshot,
  cancel_id integer,
  cancel_values text,
  constraint listener_pkey primary key (run_id)
);
create index if not exists listener_workflow_idx on notika.listener (workflow_id, run_id);
create index if not exists listener_xmin_idx
  on notika.listener (workflow_id, pg_snapshot_xmin(snapshot));
create index if not exists listener_cancel_idx
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

create or replace function notika._is_later(
  event_id bigint,
  xid xid8,
  run_id bigint,
  run_xid xid8,
  run_snapshot pg_snapshot
)
  returns boolean
  language sql
  immutable
begin atomic
  select event_id > run_id
      or coalesce(
           xid <> run_xid and not pg_visible_in_snapshot(xid, run_snapshot), false
         );
end;

comment on function notika._is_later(bigint, xid8, bigint, xid8, pg_snapshot) is
  'Whether a change counts as later than the one that started a run.';

create or replace function notika._has_sources(workflow text)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from notika.workflow as s
     where strpos(s.name, ':') > 0 and split_part(s.name, ':', 1) = _has_sources.workflow
       and s.unpublished_at is null
  );
$$;

comment on function notika._has_sources(text) is
  'Whether runs of a workflow may wait for changes, or be cancelled by them.';

create or replace function notika._match_keys(match text[])
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select split_part(m.item, '=', 1)
      from unnest(_match_keys.match) with ordinality as m (item, place)
     order by m.place
  );
$$;

comment on function notika._match_keys(text[]) is
  'The payload keys of a source that waits compare.';

create or replace function notika._run_keys(match text[])
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select coalesce(nullif(split_part(m.item, '=', 2), ''), m.item)
      from unnest(_run_keys.match) with ordinality as m (item, place)
     order by m.place
  );
$$;

comment on function notika._run_keys(text[]) is
  'The payload keys of the run''s own event that they are compared with, to cancel it.';

create or replace function notika._match_values(event json, keys text[])
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_values jsonb := notika._values(_match_values.event, to_jsonb(_match_values.keys));
begin
  return case when not v_values @> '[null]' then notika._short(v_values) end;
end;
$$;

comment on function notika._match_values(json, text[]) is
  'The values under these keys of an event''s row, as one text; null if one is null, which equals '
  'nothing.';

create or replace function notika._hear(event_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._lock_signals(for_hand_over => true);
  perform notika._lock_lines();
  perform notika._store_signals(event_ids);
  perform notika._cancel_matched(event_ids);
  perform notika._wake_matched(event_ids);
end;
$$;

comment on function notika._hear(bigint[]) is
  'Hands over events of sources to the runs that wait for them, and to those that they end. Before '
  'any lock that the end of a run takes.';

create or replace function notika._welcome(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._listen(run_ids);
  perform notika._cancel_matched(run_ids => run_ids);
end;
$$;

comment on function notika._welcome(bigint[]) is
  'New runs have been handed over that changes count for, also some that were handed over before.';

create or replace function notika._listen(run_ids bigint[])
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.listener (run_id, workflow_id, xid, snapshot, cancel_id, cancel_values)
  select j.key::bigint, w.workflow_id, e.xid, e.snapshot, c.workflow_id,
         case when c.workflow_id is not null
              then notika._match_values(j.payload, notika._run_keys(c.match)) end
    from notika_worker._private_jobs as j
    join notika_worker._private_tasks as t on t.id = j.task_id
    join notika.workflow as w on w.name = t.identifier
    left join notika.workflow as c
      on c.name = w.name || ':cancel' and c.unpublished_at is null
    left join notika._event as e on e.event_id = j.key::bigint
   where j.key = any (_listen.run_ids::text[])
   order by j.key::bigint
  on conflict (run_id) do update
    set cancel_id = excluded.cancel_id, cancel_values = excluded.cancel_values;
$$;

comment on function notika._listen(bigint[]) is
  'Notes that these runs are unfinished and what cancels them.';

create or replace function notika._store_signals(event_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.signal (event_id, source_id, xid, cause_id, match_values, event)
  select s.event_id, s.workflow_id, s.xid, s.cause_id, m.match_values, s.event
    from (
      select e.event_id, e.xid, e.cause_id, w.workflow_id, w.match,
             notika._payload(e, w.name, coalesce(notika._quoted(w.relation), w.table_name))
        from notika._event as e
        join notika.workflow as w on w.workflow_id = e.workflow_id
       where e.event_id = any (_store_signals.event_ids)
    ) as s (event_id, xid, cause_id, workflow_id, match, event)
   cross join lateral (
     select notika._match_values(s.event, notika._match_keys(s.match))
   ) as m (match_values)
   where m.match_values is not null
  on conflict do nothing;
end;
$$;

comment on function notika._store_signals(bigint[]) is 'Keeps events of sources as signals.';

create or replace function notika._cancel_matched(
  event_ids bigint[] default '{}',
  run_ids bigint[] default '{}'
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set enable_sort = on -- which dispatch, that sorts nothing else, is better off without
as $$
declare
  v_cancelled bigint[];
begin
  with doomed as materialized (
    select distinct on (m.run_id) m.run_id, m.event_id, m.source_id
      from (
        select s.event_id, s.source_id, s.xid, s.cause_id,
               l.run_id, l.xid as run_xid, l.snapshot
          from notika.signal as s
         cross join lateral (
           select a.*
             from notika.listener as a
            where a.cancel_id = s.source_id and a.cancel_values = s.match_values
           offset 0
         ) as l
         where s.event_id = any (_cancel_matched.event_ids)
        union all
        select s.event_id, s.source_id, s.xid, s.cause_id,
               l.run_id, l.xid as run_xid, l.snapshot
          from notika.listener as l
         cross join lateral (
           select a.*
             from notika.signal as a
            where a.source_id = l.cancel_id and a.match_values = l.cancel_values
           offset 0
         ) as s
         where l.run_id = any (_cancel_matched.run_ids)
      ) as m
     where notika._is_later(m.event_id, m.xid, m.run_id, m.run_xid, m.snapshot)
       and m.cause_id is distinct from m.run_id -- what a run does itself does not end it
     order by m.run_id, m.event_id
  ), logged as (
    insert into notika.run_log
      (run_id, workflow, state, attempts, event, error, created_at, started_at)
    select d.run_id, t.identifier, 'cancelled', j.attempts, j.payload,
           format('cancelled by event %s of %s', d.event_id, w.name),
           notika._captured_at(j.payload), j.locked_at
      from doomed as d
      join notika.workflow as w on w.workflow_id = d.source_id
      join notika_worker._private_jobs as j on j.key = d.run_id::text
      join notika_worker._private_tasks as t on t.id = j.task_id
     order by d.run_id -- as everybody does, so that nobody waits in a circle
    on conflict do nothing
    returning run_id
  )
  select array_agg(l.run_id order by l.run_id) into v_cancelled from logged as l;

  if v_cancelled is not null then
    perform notika._cancelled(v_cancelled);
    perform notika_worker.remove_job(c.run_id::text) from unnest(v_cancelled) as c (run_id);
  end if;
end;
$$;

comment on function notika._cancel_matched(bigint[], bigint[]) is
  'Cancels the runs that these signals end, and those of these runs that any signal ends.';

create or replace function notika._wake_matched(event_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set enable_sort = on -- which dispatch, that sorts nothing else, is better off without
as $$
declare
  v_runs bigint[];
begin
  with matched as materialized (
    select distinct on (w.run_id, w.name) w.run_id, w.name, s.event_id, s.event
      from notika.signal as s
     cross join lateral (
       select a.*
         from notika.wait as a
        where a.source_id = s.source_id and a.match_values = s.match_values
       offset 0 -- looked up for each, whatever a planner thinks of so many waits
     ) as w
     where s.event_id = any (_wake_matched.event_ids)
       and not notika._has_got(w.run_id, w.created_at, s.event_id)
     order by w.run_id, w.name, s.event_id
  ), over as materialized (
    select w.run_id, w.name, w.created_at, m.event_id, m.event
      from matched as m
      join notika.wait as w on w.run_id = m.run_id and w.name = m.name
       -- Who holds one ends it: by its time, where it looks for a signal itself, or with the run.
       for update of w skip locked
  )
  select array_agg(o.run_id) into v_runs
    from (select * from over order by event_id) as o
   cross join lateral notika._end_wait(o.run_id, o.name, o.created_at, o.event_id, o.event);

  if v_runs is not null then
    perform notika._end_sleep(v_runs);
  end if;
end;
$$;

comment on function notika._wake_matched(bigint[]) is
  'Ends the waits for these signals, each with the first that it matches.';

create or replace function notika._end_sleep(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_runs bigint[];
  v_held bigint[];
begin
  -- A run that is at it finds out when it parks, one that has failed is tried again in its time.
  select array_agg(j.key::bigint),
         array_agg(j.id) filter (where w.paused_at is not null or w.broken_reason is not null)
    into v_runs, v_held
    from notika_worker._private_jobs as j
    join notika_worker._private_tasks as t on t.id = j.task_id
    join notika.workflow as w on w.name = t.identifier
   where j.key = any (_end_sleep.run_ids::text[]) and j.locked_at is null and j.attempts = 0;

  perform notika._wake_runs(v_runs);
  perform notika_worker.reschedule_jobs(v_held, run_at => 'infinity');
end;
$$;

comment on function notika._end_sleep(bigint[]) is
  'Lets runs that wait go on now, or when their workflow is resumed.';

create or replace function notika._resound(source_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_source notika.workflow;
  v_workflow text;
begin
  select w.* into v_source from notika.workflow as w where w.workflow_id = _resound.source_id;
  v_workflow := notika._workflow_of(v_source.name);
  if exists (select from notika.wait as w where w.source_id = v_source.workflow_id)
     or exists (select from notika.signal as s where s.source_id = v_source.workflow_id)
  then
    perform notika._lock_signals(for_hand_over => true);
    delete from notika.signal as s
     where s.source_id = v_source.workflow_id
       and notika._match_values(s.event, notika._match_keys(v_source.match)) is null;
    update notika.signal as s
       set match_values = notika._match_values(s.event, notika._match_keys(v_source.match))
     where s.source_id = v_source.workflow_id;
  end if;

  perform notika._listen(array(
    select j.key::bigint
      from notika_worker._private_jobs as j
      join notika_worker._private_tasks as t on t.id = j.task_id
     where t.identifier = v_workflow and j.key is not null
  ));
  -- A wait has no more than its values: its run begins it anew.
  perform notika._end_sleep(array(
    select w.run_id from notika.wait as w where w.source_id = v_source.workflow_id
  ));
end;
$$;

comment on function notika._resound(integer) is
  'A source was published, or compares other columns now: the unfinished runs follow.';

create or replace function notika._forget_signals()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_here notika.position := notika._position();
  v_new text[];
  v_count bigint;
begin
  -- Runs that were handed over while the publication of a source was not committed.
  select array_agg(distinct notika._workflow_of(s.name)) into v_new
    from notika.workflow as s
   where notika._workflow_of(s.name) is not null
     and s.unpublished_at is null and s.published_at > clock_timestamp() - interval '1 hour';
  if v_new is not null then
    perform notika._listen(array(
      select j.key::bigint
        from notika_worker._private_jobs as j
        join notika_worker._private_tasks as t on t.id = j.task_id
       where t.identifier = any (v_new) and j.key is not null
         and not exists (select from notika.listener as l where l.run_id = j.key::bigint)
    ));
  end if;

  -- A run whose job somebody has deleted would keep them for ever.
  delete from notika.listener as l
   where l.run_id in (
     select o.run_id
       from (select a.run_id from notika.listener as a order by a.run_id limit 1000) as o
      where not exists (
        select from notika_worker._private_jobs as j where j.key = o.run_id::text
      )
   );

  -- What began in a window that is not handed over completely may be a run that wants them.
  with source as materialized (
    select s.workflow_id, s.name like '%:cancel' as cancels,
           (select min(l.run_id) from notika.listener as l
             where l.workflow_id = w.workflow_id) as first_run,
           (select pg_snapshot_xmin(l.snapshot) from notika.listener as l
             where l.workflow_id = w.workflow_id and l.snapshot is not null
             order by pg_snapshot_xmin(l.snapshot) limit 1) as first_xid
      from notika.workflow as s
      join notika.workflow as w on w.name = notika._workflow_of(s.name)
     where w.name <> all (coalesce(v_new, '{}'))
  ), forgotten as (
    delete from notika.signal as d
     where d.event_id in (
       select g.event_id
         from source as s
         join notika.signal as g on g.source_id = s.workflow_id
        where g.event_id <= notika._bound(v_here)
          and pg_visible_in_snapshot(g.xid, v_here.snapshot)
          and (v_here.aside_snapshot is null
               or pg_visible_in_snapshot(g.xid, v_here.aside_snapshot))
          and (s.cancels or (s.first_run is null or g.event_id < s.first_run)
                            and (s.first_xid is null or g.xid < s.first_xid))
        limit 100000
     )
    returning d.event_id
  )
  select count(*) into v_count from forgotten;
  if v_count > 0 then
    return next format('%s changes that no run waits for are forgotten', v_count);
  end if;
end;
$$;

comment on function notika._forget_signals() is
  'Removes signals that count for no unfinished run. Needs the right of _lock_dispatch.';
--! EndIncluded 47_signal.sql
--! Included 48_step.sql
-- What a run remembers: its steps, and what it waits for.
-- The first outcome of a step stands, whoever writes it: a runner that lost its job cannot change
-- history.  A run that waits is a job in the future, no more; one that is woken too early finds that
-- out and waits again, so nothing breaks when somebody wakes it.

create sequence if not exists notika.step_id_seq as bigint;
comment on sequence notika.step_id_seq is 'Numbers the steps in the order in which they ended.';

create table if not exists notika.step (
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

create table if not exists notika.wait (
  run_id bigint not null,
  name text not null,
  wake_at timestamptz not null,
  created_at timestamptz not null default clock_timestamp(),
  source_id integer,
  match_values text,
  constraint wait_pkey primary key (run_id, name)
);
create index if not exists wait_match_idx
  on notika.wait (source_id, match_values) where source_id is not null;

comment on table notika.wait is 'What unfinished runs wait for; a wait that is over is a step.';
comment on column notika.wait.run_id is 'The run.';
comment on column notika.wait.name is 'The name of the step.';
comment on column notika.wait.wake_at is 'When it is over; infinity: not by time.';
comment on column notika.wait.created_at is 'When it began.';
comment on column notika.wait.source_id is
  'The source whose next change ends it, a row of notika.workflow; null: only time does.';
comment on column notika.wait.match_values is 'The values that the change must have, as one text.';

create or replace function notika._has_ended(run_id bigint)
  returns boolean
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from notika.run_log as l where l.run_id = _has_ended.run_id and l.retried_at is null
  );
$$;

comment on function notika._has_ended(bigint) is 'Whether a run has an outcome.';

create or replace function notika._enter(job_id bigint, run_id bigint)
  returns json
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if notika._has_ended(_enter.run_id) then
    perform notika._settled(array[_enter.run_id]);
    return json_build_object('ended', true);
  end if;

  with over as (
    delete from notika.wait as w
     where w.run_id = _enter.run_id and w.wake_at <= clock_timestamp() and w.source_id is null
    returning w.name, w.created_at, w.wake_at
  )
  insert into notika.step (run_id, name, state, started_at, finished_at)
  select _enter.run_id, o.name, 'done', o.created_at, o.wake_at
    from over as o
   order by o.wake_at
  on conflict do nothing;
  perform notika._time_out(_enter.run_id);
  -- Last: where both locks are taken, that of the signals comes before that of the line.
  if not notika._admit(_enter.job_id, _enter.run_id) then
    return json_build_object('ended', false, 'admitted', false);
  end if;

  return json_build_object(
    'ended', false,
    'admitted', true,
    'events', (
      select json_agg(e.event order by e.event_id)
        from notika.batch_event as e
       where e.run_id = _enter.run_id
    ),
    'steps', (
      select coalesce(json_agg(
               json_build_object(
                 'name', s.name, 'state', s.state, 'result', s.result, 'error', s.error
               ) order by s.step_id
             ), '[]')
        from notika.step as s
       where s.run_id = _enter.run_id and s.state <> 'retrying'
    )
  );
end;
$$;

comment on function notika._enter(bigint, bigint) is
  'What a run has to know that has been here before, or whose turn it may not be: whether it has '
  'ended, whether it is admitted (if not, it is put back), the events of its batch, and its steps '
  'in the order in which they ended.';

create or replace function notika._exit(run_id bigint)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if notika._has_ended(_exit.run_id) then
    perform notika._settled(array[_exit.run_id]);
  else
    perform notika._free_slot(_exit.run_id);
  end if;
end;
$$;

comment on function notika._exit(bigint) is
  'The attempt of a run that had to be admitted is over, without an outcome: others may go on.';

create or replace function notika._remember(steps json)
  returns table (run_id text, name text, ended boolean, state text, result json, error text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_lost json;
begin
  with given as materialized (
    select distinct on (g.run_id, g.name) g.*
      from json_to_recordset(_remember.steps) as g (
             run_id bigint, name text, state text, result text, error text, ms double precision
           )
     order by g.run_id, g.name
  ), kept as (
    insert into notika.step as s (run_id, name, state, result, error, started_at)
    select g.run_id, g.name, g.state, g.result::json, g.error,
           clock_timestamp() - g.ms * interval '1 millisecond'
      from given as g
     where not notika._has_ended(g.run_id)
    on conflict on constraint step_pkey do update
      set state = excluded.state, result = excluded.result, error = excluded.error,
          attempts = s.attempts + 1, step_id = nextval('notika.step_id_seq'),
          started_at = excluded.started_at, finished_at = clock_timestamp()
      where s.state = 'retrying'
    returning s.run_id, s.name
  )
  select json_agg(json_build_object('run_id', g.run_id, 'name', g.name)) into v_lost
    from given as g
   where (g.run_id, g.name) not in (select k.run_id, k.name from kept as k);

  -- What _begin_step has left of a run that was ended meanwhile.
  delete from notika.step as s
   using json_to_recordset(v_lost) as l (run_id bigint, name text)
   where s.run_id = l.run_id and s.name = l.name and s.attempts = 0;
  -- A statement of its own: it sees what somebody else has committed during the first.
  return query
  select l.run_id::text, l.name, notika._has_ended(l.run_id), s.state, s.result, s.error
    from json_to_recordset(v_lost) as l (run_id bigint, name text)
    left join notika.step as s on s.run_id = l.run_id and s.name = l.name;
end;
$$;

comment on function notika._remember(json) is
  'Keeps steps, an array of objects {run_id, name, state, result, error, ms}. Returns those that '
  'were not kept: the run has ended, or somebody else was first, and this is what stands.';

create or replace function notika._begin_step(run_id bigint, depth integer, name text)
  returns table (ended boolean, state text, result json, error text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_ended boolean;
begin
  perform set_config('notika.run', format('%s/%s', _begin_step.run_id, _begin_step.depth), true);
  -- Two runners that take the same step, one of them by mistake, take it one after the other: its
  -- row exists from the start, or was left by an earlier attempt.
  insert into notika.step (run_id, name, state, attempts, started_at)
  values (_begin_step.run_id, _begin_step.name, 'retrying', 0, clock_timestamp())
  on conflict on constraint step_pkey do nothing;
  if not found then
    perform from notika.step as s
      where s.run_id = _begin_step.run_id and s.name = _begin_step.name and s.state = 'retrying'
        for update;
  end if;

  v_ended := notika._has_ended(_begin_step.run_id);
  if v_ended then
    delete from notika.step as s
     where s.run_id = _begin_step.run_id and s.name = _begin_step.name and s.attempts = 0;
  end if;
  return query
  select v_ended, s.state, s.result, s.error
    from (select) as one
    left join notika.step as s
      on s.run_id = _begin_step.run_id and s.name = _begin_step.name and s.state <> 'retrying';
end;
$$;

comment on function notika._begin_step(bigint, integer, text) is
  'Begins a step that is remembered in the transaction that takes it: until then nobody else can '
  'take it. Says what stands already.';

create or replace function notika._wake_at(wait json)
  returns timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set timezone = 'UTC'
  set datestyle = 'ISO, YMD'
as $$
declare
  v_zone text := coalesce(_wake_at.wait ->> 'time_zone', 'UTC');
  v_now timestamptz := clock_timestamp();
  v_today date;
  v_wake_at timestamptz;
  v_hint text;
begin
  perform notika._check_time_zone(v_zone);
  v_today := (v_now at time zone v_zone)::date;
  case
    when _wake_at.wait ->> 'for' is not null then
      return v_now + (_wake_at.wait ->> 'for')::interval;
    when _wake_at.wait ->> 'time' is not null then
      v_wake_at := (v_today + (_wake_at.wait ->> 'time')::time) at time zone v_zone;
      if v_wake_at <= v_now then
        v_wake_at := (v_today + 1 + (_wake_at.wait ->> 'time')::time) at time zone v_zone;
      end if;
      return v_wake_at;
    when _wake_at.wait ->> 'at' is not null then
      -- With an offset it says itself where it is; without one it is local time in the zone.  Of
      -- anything else Postgres would overlook a zone that stands in it.
      if _wake_at.wait ->> 'at' !~* '^\d{4}-\d\d-\d\d([t ]\d\d?:\d\d(:\d\d(\.\d+)?)? ?(z|[+-]\d\d(:?\d\d)?)?)?$' then
        raise exception 'not a time as ISO 8601 writes it: "%"', _wake_at.wait ->> 'at'
          using errcode = 'invalid_datetime_format',
                hint = 'For instance: "2027-07-01 12:00" with { timeZone: "America/New_York" }, or '
                       '"2027-07-01T12:00:00Z".';
      end if;
      if _wake_at.wait ->> 'at' ~ '([Zz]|[+-]\d\d(:?\d\d)?)$' and _wake_at.wait ->> 'at' ~ ':' then
        return (_wake_at.wait ->> 'at')::timestamptz;
      end if;
      return (_wake_at.wait ->> 'at')::timestamp at time zone v_zone;
    else
      return timestamptz 'infinity';
  end case;
exception when data_exception then
  get stacked diagnostics v_hint = pg_exception_hint;
  raise exception 'step "%": %', _wake_at.wait ->> 'name', sqlerrm
    using errcode = 'invalid_parameter_value',
          hint = coalesce(nullif(v_hint, ''),
                          'For instance: step.sleep(name, "3 days"), step.sleepUntil(name, "09:00", '
                          '{ timeZone: "Europe/Vienna" }).');
end;
$$;

comment on function notika._wake_at(json) is
  'When a wait is over: {for: interval}, {at: timestamp, time_zone}, {time: time of day, time_zone}, '
  'by the database''s clock.';

create or replace function notika._park(job_id bigint, waits json, wake json default null)
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run_id bigint;
  v_workflow text;
  v_job notika_worker._private_jobs;
  v_wake_at timestamptz := notika._wake_at(coalesce(_park.wake, '{}'));
begin
  perform notika._lock_signals(for_hand_over => false);
  select j.* into v_job
    from notika_worker._private_jobs as j
   where j.id = _park.job_id and j.key is not null
     for update;
  if not found then
    return false;
  end if;
  v_run_id := v_job.key::bigint;
  select t.identifier into v_workflow
    from notika_worker._private_tasks as t
   where t.id = v_job.task_id;

  insert into notika.wait as w (run_id, name, wake_at, source_id, match_values)
  select v_run_id, g.wait ->> 'name', notika._wake_at(g.wait), s.source_id, s.match_values
    from json_array_elements(_park.waits) as g (wait)
    left join lateral notika._find_source(v_workflow, g.wait) as s on true
  on conflict on constraint wait_pkey do update
    -- Of the time that counts which it began with.
    set source_id = excluded.source_id, match_values = excluded.match_values
    where (w.source_id, w.match_values)
          is distinct from (excluded.source_id, excluded.match_values);
  perform notika._look_back(v_run_id);

  select least(v_wake_at, min(w.wake_at)) into v_wake_at
    from notika.wait as w
   where w.run_id = v_run_id;
  -- One may have ended while the run was on its way here.
  if exists (
    select from json_array_elements(_park.waits) as g (wait)
      join notika.step as s on s.run_id = v_run_id and s.name = g.wait ->> 'name'
     where s.state <> 'retrying'
  ) then
    v_wake_at := clock_timestamp();
  end if;

  -- Many may sleep until the same time, and are to have places one behind the other then.
  if v_wake_at > clock_timestamp() and v_wake_at < 'infinity' then
    v_wake_at := v_wake_at + (v_run_id % 100000) * interval '1 microsecond';
  end if;
  -- The job that runs loses its key to this one, and ends as if all had been done.
  perform notika_worker.add_job(
    v_workflow, v_job.payload, job_key => v_run_id::text, run_at => v_wake_at,
    max_attempts => v_job.max_attempts, priority => v_job.priority,
    -- The count of attempts starts again.
    flags => array(
      select k from jsonb_object_keys(coalesce(v_job.flags, '{}')) as k where k not in ('begun', 'lost')
      union select 'resumed'
    )
  );
  perform notika._free_slot(v_run_id);
  return true;
end;
$$;

comment on function notika._park(bigint, json, json) is
  'Lets the run of a job that is running wait, until the first of its waits is over or until wake, '
  'and then go on as a new job. False: it is not the run''s job any more.';

create or replace function notika._settled(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._forget_waits(_settled.run_ids);
  perform notika._leave_lines(_settled.run_ids);
end;
$$;

comment on function notika._settled(bigint[]) is
  'Runs have ended: removes what only an unfinished run has, and lets the next in line go.';

create or replace function notika._cancelled(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._forget_waits(_cancelled.run_ids);
  perform notika._leave_lines(array(
    select r.run_id
      from unnest(_cancelled.run_ids) as r (run_id)
     where not exists (
       select from notika_worker._private_jobs as j
        where j.key = r.run_id::text and j.locked_at is not null
     )
  ));
end;
$$;

comment on function notika._cancelled(bigint[]) is
  'Runs were cancelled, and still have their jobs: as _settled, but whose attempt is running keeps '
  'its place in line until that ends.';

create or replace function notika._forget_waits(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.wait as w where w.run_id = any (_forget_waits.run_ids);
  delete from notika.listener as l where l.run_id = any (_forget_waits.run_ids);
end;
$$;

comment on function notika._forget_waits(bigint[]) is
  'Removes what runs wait for, and what they listen to.';
--! EndIncluded 48_step.sql
--! Included 49_wait_for.sql
-- Waits for changes, from the side of a run: what ends one is a signal that is there already, one
-- that comes, or its time.  Whoever deletes the wait decides; the step that it becomes stands.

create or replace function notika._has_got(run_id bigint, begun_at timestamptz, event_id bigint)
  returns boolean
  language sql
  stable
begin atomic
  select exists (
    select from notika.step as s
     where s.run_id = _has_got.run_id
       and s.event_id = _has_got.event_id
       and s.finished_at < _has_got.begun_at
  );
end;

comment on function notika._has_got(bigint, timestamptz, bigint) is
  'Whether the run got this event from a wait that was over when another one began: the next wait '
  'gets the next event.';

create or replace function notika._end_wait(
  run_id bigint,
  name text,
  started_at timestamptz,
  event_id bigint,
  event json
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.step as s (run_id, name, state, result, event_id, started_at)
  values (
    _end_wait.run_id, _end_wait.name, 'done', _end_wait.event, _end_wait.event_id,
    _end_wait.started_at
  )
  on conflict on constraint step_pkey do update
    set state = excluded.state, result = excluded.result, event_id = excluded.event_id,
        error = null, step_id = nextval('notika.step_id_seq'), finished_at = clock_timestamp()
    where s.state = 'retrying'; -- it was no wait in the code of then
  delete from notika.wait as w where w.run_id = _end_wait.run_id and w.name = _end_wait.name;
end;
$$;

comment on function notika._end_wait(bigint, text, timestamptz, bigint, json) is
  'Turns a wait into a step that gives the event, or null.';

create or replace function notika._first_signal(wait notika.wait)
  returns table (event_id bigint, event json)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select s.event_id, s.event
    from notika.signal as s
    left join notika.listener as l on l.run_id = (wait).run_id
   where s.source_id = (wait).source_id
     and s.match_values = (wait).match_values
     and notika._is_later(s.event_id, s.xid, (wait).run_id, l.xid, l.snapshot)
     and not notika._has_got((wait).run_id, (wait).created_at, s.event_id)
   order by s.event_id
   limit 1;
$$;

comment on function notika._first_signal(notika.wait) is
  'The first signal that ends a wait, of those that were handed over.';

create or replace function notika._first_on_its_way(wait notika.wait)
  returns table (event_id bigint, event json)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_here notika.position := notika._position();
begin
  -- As in dispatch: nothing new, and nobody who was running has finished.
  if notika._last_event_id() = v_here.low and v_here.aside_ids = '{}' and not exists (
    select from unnest(v_here.pending_xids) as p (xid)
     where pg_visible_in_snapshot(p.xid, pg_current_snapshot())
  ) then
    return;
  end if;

  return query
  select e.event_id, p.event
    from notika._event as e
    join notika.workflow as w on w.workflow_id = e.workflow_id
    left join notika.listener as l on l.run_id = (wait).run_id
   cross join lateral (
     select notika._payload(e, w.name, coalesce(notika._quoted(w.relation), w.table_name))
   ) as p (event)
   where e.event_id > notika._bound(v_here)
     and e.workflow_id = (wait).source_id
     and not notika._dispatched(e.event_id, e.xid, e.workflow_id, v_here)
     and notika._is_later(e.event_id, e.xid, (wait).run_id, l.xid, l.snapshot)
     and notika._match_values(p.event, notika._match_keys(w.match)) = (wait).match_values
     and not notika._has_got((wait).run_id, (wait).created_at, e.event_id)
   order by e.event_id
   limit 1;
end;
$$;

comment on function notika._first_on_its_way(notika.wait) is
  'The first event that would end a wait, of those that are committed and not handed over yet.';

create or replace function notika._look_back(run_id bigint)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._end_wait(w.run_id, w.name, w.created_at, f.event_id, f.event)
     from notika.wait as w
    cross join lateral notika._first_signal(w) as f
    where w.run_id = _look_back.run_id and w.source_id is not null
    order by f.event_id;
end;
$$;

comment on function notika._look_back(bigint) is
  'Ends the waits of a run whose signals are there already. Needs _lock_signals.';

create or replace function notika._time_out(run_id bigint)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_wait notika.wait;
  v_event_id bigint;
  v_event json;
begin
  for v_wait in
    select w.* from notika.wait as w
     where w.run_id = _time_out.run_id
       and w.source_id is not null and w.wake_at <= clock_timestamp()
     order by w.wake_at, w.name
       for update
  loop
    -- Nobody else can end it now.  The change it is about may have been in time and the hand-over
    -- late, when no runner was there.
    select f.event_id, f.event into v_event_id, v_event
      from (
        select * from notika._first_signal(v_wait)
        union all
        select * from notika._first_on_its_way(v_wait)
      ) as f
     order by f.event_id
     limit 1;
    perform notika._end_wait(v_wait.run_id, v_wait.name, v_wait.created_at, v_event_id, v_event);
  end loop;
end;
$$;

comment on function notika._time_out(bigint) is
  'Ends the waits of a run whose time is over, with the event if there is one, or else with null.';

create or replace function notika._find_source(workflow text, wait json)
  returns table (source_id integer, match_values text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_declared notika.workflow;
  v_source notika.workflow;
begin
  if wait -> 'source' is null then
    return; -- it waits for time
  end if;

  v_declared.name := format('%s:%s', _find_source.workflow, wait #>> '{source,name}');
  v_declared.table_name := wait #>> '{source,table}';
  v_declared.operations := notika._text_array(wait #> '{source,operations}');
  v_declared.columns := notika._text_array(wait #> '{source,columns}');
  v_declared.condition := wait #>> '{source,condition}';
  v_declared.match := notika._text_array(wait #> '{source,match}');
  v_declared.guard := 'block';
  v_declared.on_rename := 'follow';

  select w.* into v_source
    from notika.workflow as w
   where w.name = v_declared.name and w.unpublished_at is null;
  if not found then
    raise exception 'step "%" waits for "%", which is not published',
      wait ->> 'name', v_declared.name
      using errcode = 'invalid_parameter_value',
            hint = format('Run: npx notika publish %s, or: %s',
                          _find_source.workflow, notika._call(v_declared));
  end if;
  if not (coalesce(v_source.match, '{}') @> coalesce(v_declared.match, '{}')
          and coalesce(v_source.match, '{}') <@ coalesce(v_declared.match, '{}'))
  then
    raise exception 'step "%" waits for "%", which is published with match %, not %',
      wait ->> 'name', v_declared.name,
      coalesce(v_source.match, '{}'), coalesce(v_declared.match, '{}')
      using errcode = 'invalid_parameter_value',
            hint = format('Run: npx notika publish %s, or: %s',
                          _find_source.workflow, notika._call(v_declared));
  end if;

  source_id := v_source.workflow_id;
  match_values := notika._short((
    select coalesce(jsonb_agg(wait -> 'match' ->> k.key order by k.place), '[]')
      from unnest(notika._match_keys(v_source.match)) with ordinality as k (key, place)
  ));
  return next;
end;
$$;

comment on function notika._find_source(text, json) is
  'The source that a run waits for, {source: {name, table, match, ...}, match: {key: value}}, or an '
  'error with the call that publishes it.';

create or replace function notika._text_array(items json)
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg(i.item order by i.place)
    from json_array_elements_text(
           case json_typeof(_text_array.items) when 'array' then _text_array.items end
         ) with ordinality as i (item, place);
$$;

comment on function notika._text_array(json) is
  'A json array of strings; null: it is empty, or none.';

create or replace function notika._listen_again(run_id bigint)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow notika.workflow;
begin
  select w.* into v_workflow
    from notika_worker._private_jobs as j
    join notika_worker._private_tasks as t on t.id = j.task_id
    join notika.workflow as w on w.name = t.identifier
   where j.key = _listen_again.run_id::text;
  if not notika._has_sources(v_workflow.name) then
    return;
  end if;

  perform notika._lock_signals(for_hand_over => false);
  -- While it was over, signals may have been forgotten that the ring still has; what an older run
  -- may want was not.
  if not exists (
    select from notika.listener as l
     where l.workflow_id = v_workflow.workflow_id and l.run_id < _listen_again.run_id
  ) then
    perform notika._store_signals(array(
      select e.event_id
        from notika._event as e
       where e.event_id > _listen_again.run_id
         and e.workflow_id in (
           select s.workflow_id from notika.workflow as s
            where starts_with(s.name, v_workflow.name || ':')
         )
         and notika._dispatched(e.event_id, e.xid, e.workflow_id, notika._position())
    ));
  end if;
  perform notika._listen(array[_listen_again.run_id]);
end;
$$;

comment on function notika._listen_again(bigint) is
  'A run that had ended goes on: what has happened since may count for it, but not to cancel it.';
--! EndIncluded 49_wait_for.sql
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
       notika._dispatched(e.event_id, e.xid, e.workflow_id, p) as dispatched,
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
 where j.key ~ '^[0-8]?[0-9]{1,18}$' -- a runner may have added what is no bigint
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
   and not notika._dispatched(e.event_id, e.xid, e.workflow_id, p)
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

create or replace view notika._blocker as
select b.holder, b.holds, b.blocks, b.since, b.remedy
  from (
    with recursive here as materialized (
      select p.pending_xids, notika._bound(p) as bound, p as position
        from notika.position as p
       order by p.position_id desc
       limit 1
    ), lock as materialized (
      select k.pid, k.relation, k.mode, k.granted, k.waitstart, k.transactionid,
             k.locktype = 'tuple' as is_row, c.oid is not null as is_ours,
             k.relation = 'notika.dispatch_lock'::regclass
               and k.mode = 'ShareUpdateExclusiveLock' and k.granted as hands_over,
             k.locktype = 'relation' and k.mode in (
               'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
             ) as is_strong
        from pg_catalog.pg_locks as k
        left join pg_catalog.pg_class as c
          on c.oid = k.relation and c.relnamespace in (
               'notika'::pg_catalog.regnamespace, 'notika_worker'::pg_catalog.regnamespace
             )
       where k.pid is not null -- a prepared transaction has none
         and (k.database is null or k.database = (
               select d.oid from pg_catalog.pg_database as d
                where d.datname = pg_catalog.current_database()
             ))
    ), waiting as (
      -- For a relation or a row of ours: a row is waited for as the transaction that has locked it.
      select w.pid, w.is_strong
        from lock as w
       where not w.granted
         and w.waitstart < pg_catalog.clock_timestamp() - interval '500 milliseconds'
         and (w.is_ours or exists (
           select from lock as h
            where h.pid = w.pid and h.granted and h.is_ours and (h.is_row or h.hands_over)
         ))
    ), blocking as (
      select b.pid, w.pid as waits
        from waiting as w
       cross join unnest(pg_catalog.pg_blocking_pids(w.pid)) as b (pid)
      union
      select b.pid, f.pid
        from blocking as f
       cross join unnest(pg_catalog.pg_blocking_pids(f.pid)) as b (pid)
    ), session as materialized (
      select a.pid, a.backend_xid, a.xact_start as since,
             format('pid %s (%s)', a.pid, coalesce(
               nullif(concat_ws(', ', a.usename, nullif(a.application_name, '')), ''),
               a.backend_type, 'a process of the server')) as holder,
             -- Not every role may see when a transaction began.  It sees whether events wait.
             coalesce(
               a.xact_start < pg_catalog.clock_timestamp() - interval '500 milliseconds',
               exists (
                 select from here as h
                   join notika._event as e on e.event_id > h.bound
                  where e.captured_at < pg_catalog.clock_timestamp() - interval '500 milliseconds'
                    and not notika._dispatched(e.event_id, e.xid, e.workflow_id, h.position)
               )) as is_old
        from pg_catalog.pg_stat_activity as a
       where a.pid <> pg_catalog.pg_backend_pid() and a.datname = pg_catalog.current_database()
    ), held as (
      select s.pid, 'uncommitted writes' as holds, 'nothing' as blocks
        from session as s
       where s.backend_xid::text::bigint in (
               -- backend_xid has 32 bits
               select x.xid::text::bigint & 4294967295
                 from here as h
                cross join unnest(h.pending_xids) as x (xid)
             )
      union
      select k.pid, format('a lock on %s', k.relation::pg_catalog.regclass), 'ring'
        from lock as k
       where k.granted
         and k.relation = pg_catalog.to_regclass(format('notika.event_log_%s', notika._segment(1)))
         and k.pid not in (select h.pid from lock as h where h.hands_over)
      union
      select k.pid, format('a lock on %s', k.relation::pg_catalog.regclass), 'hand-over'
        from lock as k
        join session as s on s.pid = k.pid and s.is_old
       where k.is_ours and k.is_strong and k.granted
      union
      select k.pid, 'the right to hand over', 'hand-over'
        from lock as k
        join session as s on s.pid = k.pid and s.is_old
       -- A session that waits is held up itself.
       where k.hands_over and k.pid not in (select w.pid from waiting as w)
      union
      select k.pid, r.holds, 'hand-over'
        from (
          select l.xmax, format('the line of workflow "%s"', w.name) as holds
            from notika.line_lock as l
            join notika.workflow as w on w.workflow_id = l.workflow_id
          union
          select l.xmax, 'the lock on signals'
            from notika.signal_lock as l
        ) as r
        join lock as k on k.transactionid = r.xmax and k.granted
        join session as s on s.pid = k.pid and s.is_old
       where k.pid not in (select w.pid from waiting as w)
         and k.pid not in (select h.pid from lock as h where h.hands_over)
    )
    select s.holder, h.holds, h.blocks, s.since,
           format('select pg_terminate_backend(%s);', s.pid) as remedy
      from held as h
      join session as s on s.pid = h.pid
    union all
    select s.holder, format('what pid %s waits for', min(b.waits)), 'hand-over', s.since,
           format('select pg_terminate_backend(%s);', s.pid)
      from blocking as b
      join session as s on s.pid = b.pid
     where b.pid not in (select h.pid from held as h where h.blocks = 'hand-over')
       and b.pid not in (select w.pid from waiting as w where not w.is_strong)
     group by s.pid, s.holder, s.since
    union all
    select format('prepared transaction %L of %s', x.gid, x.owner), null, 'ring', x.prepared,
           format('rollback prepared %L;', x.gid)
      from pg_catalog.pg_prepared_xacts as x
     where x.database = pg_catalog.current_database()
  ) as b;

comment on view notika._blocker is
  'What has stopped the hand-over or the ring for half a second or more, or may have; never the '
  'session that asks.';
comment on column notika._blocker.holder is
  'A session, by process id, role and application, or a prepared transaction.';
comment on column notika._blocker.holds is 'What it holds; null: that is not known.';
comment on column notika._blocker.blocks is
  'What that stops: hand-over, ring, or nothing (its own events are not handed over yet).';
comment on column notika._blocker.since is
  'When its transaction began; null: the role that asks may not see that.';
comment on column notika._blocker.remedy is 'The statement that ends it.';

create or replace view notika.lag as
select waiting.events as events_waiting,
       waiting.oldest as oldest_waiting,
       pg_catalog.pg_table_size('notika.event_log_0')
         + pg_catalog.pg_table_size('notika.event_log_1')
         + pg_catalog.pg_table_size('notika.event_log_2') as ring_bytes,
       -- A subquery, so that it is evaluated only where it is asked for.
       (select array_agg(distinct b.text order by b.text)
          from (
            select b.holder || coalesce(': ' || b.holds, '') || coalesce(' since ' || b.since, '')
              from notika._blocker as b
          ) as b (text)) as blocked_by,
       (select max(r.seen_at) from notika.runner as r) as dispatcher_seen_at
  from (
    select q as p from notika.position as q order by q.position_id desc limit 1
  ) as newest
 cross join lateral (
   select count(*) as events, min(e.captured_at) as oldest
     from notika._event as e
    where e.event_id > notika._bound(p)
      and not notika._dispatched(e.event_id, e.xid, e.workflow_id, p)
 ) as waiting;

comment on view notika.lag is 'How far the hand-over is behind, and what holds it or the ring up.';
comment on column notika.lag.events_waiting is 'Committed events that are not handed over yet.';
comment on column notika.lag.oldest_waiting is 'When the oldest of them was captured.';
comment on column notika.lag.ring_bytes is 'The size of the three segments, in bytes.';
comment on column notika.lag.blocked_by is
  'Sessions that have held a lock which the hand-over needs for half a second or more; that hold a '
  'lock on the oldest segment, which keeps the ring from turning; that have uncommitted writes, which '
  'may hold events; and prepared transactions, which may do all of that; null: none.';
comment on column notika.lag.dispatcher_seen_at is 'When a runner was last heard of.';

create or replace view notika.run_counts as
select r.workflow, r.state, count(*) as runs
  from notika.runs as r
 group by r.workflow, r.state;

comment on view notika.run_counts is 'How many runs of each workflow are in which state.';
comment on column notika.run_counts.workflow is 'The workflow.';
comment on column notika.run_counts.state is
  'ready, running, waiting, retrying, held, done, failed, cancelled or expired.';
comment on column notika.run_counts.runs is 'How many runs are in it and remembered.';

create or replace function notika._short_size(document text)
  returns bigint
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_rest text := regexp_replace(_short_size.document, $re$"(?:[^"\\]|\\.)*"$re$, '', 'g');
begin
  return octet_length(_short_size.document) - octet_length(v_rest) -- the strings
    -- 1e100 is written with a hundred zeros in it, and 1e-100 with as many before it.
    + octet_length(regexp_replace(replace(v_rest, ' ', ''), $re$0\.0+|0{3,}$re$, 'e9', 'g'));
end;
$body$;

comment on function notika._short_size(text) is
  'How many bytes the text of a jsonb can have been at the least, before jsonb put spaces into it and '
  'wrote its numbers out.';

create or replace function notika.emit(workflow text, payload jsonb default '{}')
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit constant integer := (select s.payload_bytes from notika.setting as s);
  v_workflow_id integer := notika._published(emit.workflow);
  v_size bigint;
  v_text text;
begin
  -- As it is kept inside, which is known without reading it, a number takes up to six times its text.
  v_size := pg_column_size(emit.payload);
  if v_size <= 6 * v_limit::bigint then
    v_text := emit.payload::text;
    v_size := octet_length(v_text);
    -- What was given may have been shorter.
    if v_size > v_limit and v_size <= 32 * v_limit::bigint then
      v_size := notika._short_size(v_text);
    end if;
  end if;
  if v_size > v_limit then
    raise exception 'the payload for workflow "%" is too big: % bytes, and at most % are allowed',
        emit.workflow, v_size, v_limit
      using errcode = 'program_limit_exceeded',
            hint = 'Emit a key, and let the task read the rest.';
  end if;
  return notika._append(v_workflow_id, 'emit', emit.payload::json);
end;
$$;

comment on function notika.emit(text, jsonb) is
  'Adds an event by hand, in the current transaction, with payload as its new, and returns its id. The '
  'payload may have as many bytes as payload_bytes in notika.setting says, when it is written without '
  'spaces between its parts and its numbers are written as shortly as can be, and 32 times as '
  'many with its numbers written out.';

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
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('pause', jsonb_build_object('workflow', pause.workflow));
end;
$$;

comment on function notika.pause(text) is
  'Holds the runs of a workflow. Its changes are captured all the same; resume lets them run.';

create or replace function notika._do_pause(caller name, workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_do_pause.workflow);
begin
  perform notika._expect_decider(w, _do_pause.caller, or_runner => true)
     from notika.workflow as w
    where w.workflow_id = v_workflow_id;
  if notika._workflow_of(_do_pause.workflow) is not null then
    raise exception 'source "%" has no runs to hold', _do_pause.workflow
      using errcode = 'invalid_parameter_value',
            hint = format('Pause its workflow: select notika.pause(%L);',
                          notika._workflow_of(_do_pause.workflow));
  end if;
  update notika.workflow as w
     set paused_at = clock_timestamp()
   where w.workflow_id = v_workflow_id and w.paused_at is null;
  perform notika._hold_jobs();
end;
$$;

comment on function notika._do_pause(name, text) is 'Carries out pause for a caller.';

create or replace function notika.resume(workflow text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('resume', jsonb_build_object('workflow', resume.workflow));
end;
$$;

comment on function notika.resume(text) is 'Lets the runs go on that pause held, all at once.';

create or replace function notika._do_resume(caller name, workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._expect_decider(w, _do_resume.caller, or_runner => true)
     from notika.workflow as w
    where w.workflow_id = notika._published(_do_resume.workflow);
  perform notika._resume(_do_resume.workflow);
end;
$$;

comment on function notika._do_resume(name, text) is 'Carries out resume for a caller.';

create or replace function notika._resume(workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_resume.workflow);
begin
  update notika.workflow as w
     set paused_at = null, resumed_at = clock_timestamp()
   where w.workflow_id = v_workflow_id;

  perform notika._place_held(_resume.workflow);
  perform notika._advance(v_workflow_id);
end;
$$;

comment on function notika._resume(text) is 'Lets the runs of a workflow go on that were held.';

create or replace function notika.retry(run_id bigint, from_start boolean default false)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('retry', jsonb_build_object(
    'run_id', retry.run_id, 'from_start', retry.from_start));
end;
$$;

comment on function notika.retry(bigint, boolean) is
  'Makes a run that has ended run again: it goes on from the step that failed, or from_start, '
  'where it forgets its steps.';

create or replace function notika._do_retry(caller name, run_id bigint, from_start boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.run_log;
begin
  -- The lock keeps two people from retrying the same run twice.
  select l.* into v_run
    from notika.run_log as l
   where l.run_id = _do_retry.run_id and l.retried_at is null
     for update;
  perform notika._expect_decider(w, _do_retry.caller, or_runner => true)
     from notika.workflow as w
    where w.name = coalesce(v_run.workflow, (
      select r.workflow from notika.runs as r where r.run_id = _do_retry.run_id
    ));
  if v_run.run_id is null then
    perform notika._alive(_do_retry.run_id);
  end if;

  v_run.event := coalesce(v_run.event, (
    select r.event from notika.runs as r where r.run_id = _do_retry.run_id
  ));
  if v_run.event is null then
    raise exception 'the event of run % is gone', _do_retry.run_id
      using errcode = 'no_data_found',
            detail = 'The run was done, and the ring has forgotten its event since.',
            hint = format('Start a new run: select notika.emit(%L, ''{...}'');', v_run.workflow);
  end if;

  perform notika._revive(v_run, _do_retry.from_start);
  perform notika._hold_jobs();
end;
$$;

comment on function notika._do_retry(name, bigint, boolean) is 'Carries out retry for a caller.';

create or replace function notika.retry(
  workflow text,
  since timestamptz,
  from_start boolean default false
)
  returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._ask('retry_failed', jsonb_build_object(
    'workflow', retry.workflow, 'since', retry.since, 'from_start', retry.from_start)) #>> '{}')::integer;
end;
$$;

comment on function notika.retry(text, timestamptz, boolean) is
  'Makes the runs of a workflow that have failed since then run again, as retry does with one; says '
  'how many.';

create or replace function notika._do_retry(
  caller name,
  workflow text,
  since timestamptz,
  from_start boolean
)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.run_log;
  v_count integer := 0;
begin
  if not exists (select from notika.workflow as w where w.name = _do_retry.workflow) then
    perform notika._published(_do_retry.workflow);
  end if;
  perform notika._expect_decider(w, _do_retry.caller, or_runner => true)
     from notika.workflow as w
    where w.name = _do_retry.workflow;
  for v_run in
    select l.*
      from notika.run_log as l
     where l.workflow = _do_retry.workflow and l.state = 'failed' and l.retried_at is null
       and l.finished_at >= _do_retry.since
     order by l.run_id
       for update
  loop
    perform notika._revive(v_run, _do_retry.from_start);
    v_count := v_count + 1;
  end loop;
  perform notika._hold_jobs();
  return v_count;
end;
$$;

comment on function notika._do_retry(name, text, timestamptz, boolean) is
  'Carries out retry of what has failed for a caller.';

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
    run_at => clock_timestamp(), -- of many no two have the same place
    priority => coalesce((
      select (w.options ->> 'priority')::integer
        from notika.workflow as w
       where w.name = ended.workflow
    ), 0),
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
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._ask('cancel', jsonb_build_object('run_id', cancel.run_id)) #>> '{}')::boolean;
end;
$$;

comment on function notika.cancel(bigint) is
  'Ends a run that has not ended: true; one that has is left alone: false.';

create or replace function notika._do_cancel(caller name, run_id bigint)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.runs;
  v_cancelled boolean;
begin
  if not exists (
    select from notika_worker._private_jobs as j where j.key = _do_cancel.run_id::text
  ) then
    -- Its event may be on the way: wait until it has become a job, or keep it from that.
    perform notika._lock_dispatch(waits => true);
  end if;
  select r.* into v_run from notika.runs as r where r.run_id = _do_cancel.run_id;
  if not found then
    raise exception 'there is no run %', _do_cancel.run_id
      using errcode = 'undefined_object',
            hint = 'The ids are in: select * from notika.runs;';
  end if;
  perform notika._expect_decider(w, _do_cancel.caller, or_runner => true)
     from notika.workflow as w
    where w.name = v_run.workflow;
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
  perform notika._cancelled(array[_do_cancel.run_id]);
  -- A running job is not stopped, but neither is it tried again, nor does its outcome count.
  perform notika_worker.remove_job(_do_cancel.run_id::text);
  return v_cancelled;
end;
$$;

comment on function notika._do_cancel(name, bigint) is 'Carries out cancel for a caller.';

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
    (select min(greatest(s.next_at, s.tried_at + interval '1 second'))
       from notika.schedule as s
       join notika.workflow as w on w.workflow_id = s.workflow_id
      where w.name = any (_next_due.tasks)
        and w.unpublished_at is null and w.paused_at is null and w.broken_reason is null
        and s.next_at < 'infinity'),
    -- Not from notika.lag, which takes longer to plan than all the rest.
    (select min(e.captured_at)
       from (
         select q as p from notika.position as q order by q.position_id desc limit 1
       ) as newest
       join notika._event as e on e.event_id > notika._bound(p)
      where not notika._dispatched(e.event_id, e.xid, e.workflow_id, p))
  );
$$;

comment on function notika._next_due(text[]) is
  'When there is next something to do for who has these tasks; null: nothing, unless a row changes.';

create or replace function notika._beat(
  runner_id text,
  host text,
  pid integer,
  tasks text[],
  blocked_for interval default null
)
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _beat.blocked_for > (select s.blocked_for from notika.setting as s) then
    return false;
  end if;
  insert into notika.runner as r (runner_id, host, pid, tasks, blocked_since)
  values (_beat.runner_id, _beat.host, _beat.pid, _beat.tasks,
          clock_timestamp() - _beat.blocked_for)
  on conflict on constraint runner_pkey do update
    set seen_at = clock_timestamp(), tasks = excluded.tasks, suspected_at = null,
        blocked_since = excluded.blocked_since;
  return true;
end;
$$;

comment on function notika._beat(text, text, integer, text[], interval) is
  'A runner''s sign of life; without one for a minute its jobs are given to others. False: a task has '
  'blocked its event loop for so long that this one does not count.';

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
--! Included 51_claim.sql
-- How a runner takes jobs.

create or replace function notika._claim(runner_id text, task_ids integer[], most integer)
  returns table (
    id bigint,
    job_queue_id integer,
    task_id integer,
    payload json,
    attempts smallint,
    max_attempts smallint,
    key text,
    flags jsonb
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- The next jobs are the front of an index.  Of a table that fills and empties within seconds a
  -- planner knows nothing, and would rather sort the whole backlog for each few of them.
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
begin
  return query
  with next as materialized (
    select j.id
      from notika_worker._private_jobs as j
     where j.is_available and j.job_queue_id is null
       and j.run_at <= now()
       and j.task_id = any (_claim.task_ids)
     order by j.priority, j.run_at
     limit _claim.most
       for update skip locked
  )
  update notika_worker._private_jobs as j
     set attempts = j.attempts + 1, locked_by = _claim.runner_id, locked_at = now()
    from next as n
   where j.id = n.id
  returning j.id, j.job_queue_id, j.task_id, j.payload, j.attempts, j.max_attempts, j.key, j.flags;
end;
$$;

comment on function notika._claim(text, integer[], integer) is
  'Locks the next jobs of these tasks for a runner, at most so many, and begins an attempt of each.';
--! EndIncluded 51_claim.sql
--! Included 52_history.sql
-- What became of runs: looked up by what one knows of them, one told from its beginning to its end,
-- and forgotten when they are old.

create or replace function notika._mentions(event json, key jsonb)
  returns boolean
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns jsonb;
  v_values jsonb;
begin
  select jsonb_agg(v.key order by v.key), jsonb_agg(v.value order by v.key)
    into v_columns, v_values
    from jsonb_each_text(_mentions.key) as v;
  return notika._values(event, v_columns) = v_values
      or notika._values(json_build_object('old', event -> 'old'), v_columns) = v_values;
exception when data_exception or program_limit_exceeded then
  return false;
end;
$$;

comment on function notika._mentions(json, jsonb) is
  'Whether an event is about a row with these values, before or after the change.';

create or replace function notika.history(
  workflow text default null,
  state text default null,
  since timestamptz default null,
  table_name text default null,
  key jsonb default null,
  max_runs integer default 100,
  only_ended boolean default false
)
  returns setof notika.runs
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  -- Few runs are wanted: a join must not read the whole log to find that they are not in it, nor a
  -- scan the whole ring for what is not handed over.
  set enable_hashjoin = off
  set enable_mergejoin = off
  set enable_seqscan = off
  set jit = off
as $$
declare
  v_workflows text[] := case when history.workflow is not null then array[history.workflow] end;
  v_runs bigint[];
  v_needle text;
begin
  if history.max_runs is null or history.max_runs < 0 then
    raise exception 'max_runs is not a number of runs: %', coalesce(history.max_runs::text, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: select * from notika.history(max_runs => 100);';
  end if;
  if jsonb_typeof(history.key) <> 'object' then
    raise exception 'key is not an object: %', history.key
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: select * from notika.history(key => ''{"id": 7}'');';
  end if;
  if history.table_name is not null then
    v_workflows := array(
      select w.name
        from notika.workflow as w
       where coalesce(notika._quoted(w.relation), w.table_name) = history.table_name
         and (history.workflow is null or w.name = history.workflow)
    );
  end if;
  if history.key is not null then
    -- Most events are told apart without taking them to pieces.
    select btrim(to_json(v.value)::text, '"') into v_needle
      from jsonb_each_text(history.key) as v
     order by length(v.value) desc
     limit 1;
    v_runs := array(
      select e.event_id
        from notika._event as e
        join notika.workflow as w on w.workflow_id = e.workflow_id
       where (v_workflows is null or w.name = any (v_workflows))
         and strpos(concat(e.new, e.old), v_needle) > 0
         and notika._mentions(json_build_object('new', e.new, 'old', e.old), history.key)
      union
      select l.run_id
        from notika.run_log as l
       where l.state <> 'done' and l.retried_at is null
         and (v_workflows is null or l.workflow = any (v_workflows))
         and strpos(l.event::text, v_needle) > 0
         and notika._mentions(l.event, history.key)
      union
      select j.key::bigint
        from notika_worker._private_jobs as j
       where j.key is not null
         and strpos(j.payload::text, v_needle) > 0
         and notika._mentions(j.payload, history.key)
    );
  end if;

  -- Those that have ended and those that have not are each found by their own indexes, and a filter
  -- that was not given is not there at all.
  return query execute format(
    $history$
    with ended as (
      select l.run_id, l.workflow, l.state, l.attempts::integer as attempts, l.event, l.error,
             l.created_at, null::timestamptz as wake_at, l.started_at, l.finished_at
        from notika.run_log as l
       where l.retried_at is null %1$s %2$s %3$s %4$s
       order by l.run_id desc
       limit $5
    ), chosen as materialized (
      %5$s
    ), alive as (
      select l.*
        from notika.runs as l
       where l.finished_at is null and l.run_id = any (array(select c.run_id from chosen as c))
    ), latest as (
      select * from ended
      union all
      select * from alive
       order by run_id desc
       limit $5
    )
    select l.run_id, l.workflow, l.state, l.attempts, coalesce(l.event, r.event), l.error,
           l.created_at, l.wake_at, l.started_at, l.finished_at
      from latest as l
      left join lateral (
        select notika._payload(e, w.name, coalesce(notika._quoted(w.relation), w.table_name)) as event
          from notika._event as e
          join notika.workflow as w on w.workflow_id = e.workflow_id
         where e.event_id = l.run_id
      ) as r on true
     order by l.run_id desc
    $history$,
    case when v_workflows is not null then 'and l.workflow = any ($1)' end,
    case when history.state is not null then 'and l.state = $2' end,
    case when history.since is not null then 'and l.finished_at >= $3' end,
    case when v_runs is not null then 'and l.run_id = any ($4)' end,
    -- Only what tells them apart: the rest is dear.
    case
      when history.only_ended or history.state in ('done', 'failed', 'cancelled', 'expired')
        then 'select null::bigint as run_id'
      when history.state is not null or v_runs is not null or v_workflows is not null then format(
        'select l.run_id from notika.runs as l where l.finished_at is null %s %s %s
          order by l.run_id desc limit $5',
        case when v_workflows is not null then 'and l.workflow = any ($1)' end,
        case when history.state is not null then 'and l.state = $2' end,
        case when v_runs is not null then 'and l.run_id = any ($4)' end)
      else
        '(select j.key::bigint as run_id from notika_worker._private_jobs as j
           where j.key is not null order by 1 desc limit $5)
         union
         (select e.event_id from notika._event as e
           where e.event_id > notika._bound(notika._position()) order by 1 desc limit $5)'
    end
  )
    using v_workflows, history.state, history.since, v_runs, history.max_runs;
end;
$$;

comment on function
  notika.history(text, text, timestamptz, text, jsonb, integer, boolean) is
  'The latest runs, newest first: of a workflow, in a state, ended since or not ended at all, of a '
  'table, about a row with these values ({"id": 7}) as far as its event is remembered: of a run that '
  'is done only by the ring.';

create or replace function notika.timeline(run_id bigint)
  returns table (
    at timestamptz,
    entry text,
    name text,
    state text,
    attempts integer,
    took interval,
    detail text
  )
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  v_run notika.runs;
begin
  select r.* into v_run from notika.runs as r where r.run_id = timeline.run_id;
  if not found then
    raise exception 'there is no run %', timeline.run_id
      using errcode = 'undefined_object',
            hint = 'The ids are in: select * from notika.history();';
  end if;

  return query
    with told (place, at, entry, name, state, attempts, took, detail) as (
      select 1, v_run.created_at, 'event', v_run.workflow,
             substring(v_run.event::text from '"operation" : "([a-z]+)"'), null::integer,
             null::interval,
             coalesce(v_run.event::text, 'forgotten: the run is done, and the ring has gone on')
      union all
      select 2, l.finished_at, 'outcome', null, l.state, l.attempts, l.finished_at - l.created_at,
             l.error
        from notika.run_log as l
       where l.run_id = timeline.run_id and l.retried_at is not null
      union all
      select 3, l.retried_at, 'retry', null, null, null, null, null
        from notika.run_log as l
       where l.run_id = timeline.run_id and l.retried_at is not null
      union all
      select 4, v_run.started_at, 'attempt', null,
             case when v_run.state = 'running' then 'running' end, v_run.attempts,
             coalesce(v_run.finished_at, case when v_run.state = 'running' then clock_timestamp() end)
             - v_run.started_at,
             null
       where v_run.started_at is not null
      union all
      select 5, s.started_at, 'step', s.name, s.state, s.attempts, s.finished_at - s.started_at,
             coalesce(s.error, s.result::text)
        from notika.step as s
       where s.run_id = timeline.run_id
      union all
      select 6, w.created_at, 'wait', w.name, 'waiting', null, clock_timestamp() - w.created_at,
             case when w.wake_at < 'infinity' then format('until %s', w.wake_at) end
        from notika.wait as w
       where w.run_id = timeline.run_id
      union all
      select 7, coalesce(v_run.finished_at, v_run.wake_at), 'outcome', null, v_run.state,
             v_run.attempts, v_run.finished_at - v_run.created_at,
             concat_ws(E'\n', v_run.error, (
               select l.stack
                 from notika.run_log as l
                where l.run_id = timeline.run_id and l.retried_at is null
             ))
       where v_run.finished_at is not null
      union all
      select 8, v_run.wake_at, 'next', null, v_run.state, v_run.attempts, null, v_run.error
       where v_run.finished_at is null
    )
    select t.at, t.entry, t.name, t.state, t.attempts, t.took, nullif(t.detail, '')
      from told as t
     -- What comes next comes last; infinity: nobody knows when.
     order by t.place = 8, t.at nulls first, t.place;
end;
$$;

comment on function notika.timeline(bigint) is
  'What has happened to a run: its event, its last attempt, its steps and waits and how long they '
  'took, errors, earlier outcomes, how it ended or what comes next, and when.';

create or replace function notika._remembered()
  returns table (workflow text, step text, runs bigint, run_id bigint)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select t.identifier, s.name, count(*), min(s.run_id)
    from (
      select s.run_id, s.name from notika.step as s
      union all
      select w.run_id, w.name from notika.wait as w
    ) as s
    join notika_worker._private_jobs as j on j.key = s.run_id::text
    join notika_worker._private_tasks as t on t.id = j.task_id
   group by t.identifier, s.name
   order by t.identifier, min(s.run_id), s.name;
$$;

comment on function notika._remembered() is
  'The steps that unfinished runs remember or wait in, of how many runs, and the first of those.';

create or replace function notika._forget_runs(max_runs integer default 10000)
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant timestamptz :=
    clock_timestamp() - (select s.runs_kept from notika.setting as s);
  v_runs bigint[];
begin
  with old as (
    select l.ctid
      from notika.run_log as l
     where l.finished_at < v_before
     order by l.finished_at
     limit _forget_runs.max_runs
  ), gone as (
    delete from notika.run_log as l using old as o where l.ctid = o.ctid
    returning l.run_id
  )
  select array_agg(g.run_id) into v_runs from gone as g;
  if v_runs is null then
    return;
  end if;

  -- Of a run that was retried something may still be needed, or remembered.
  v_runs := array(
    select r.run_id
      from unnest(v_runs) as r (run_id)
     where not exists (
             select from notika_worker._private_jobs as j where j.key = r.run_id::text
           )
       and not exists (select from notika.run_log as l where l.run_id = r.run_id)
  );
  delete from notika.step as s where s.run_id = any (v_runs);
  return next format('%s runs that ended before %s are forgotten', cardinality(v_runs),
                     date_trunc('second', v_before));
end;
$$;

comment on function notika._forget_runs(integer) is
  'Forgets some of the runs that ended longer ago than notika.setting keeps them, oldest first.';
--! EndIncluded 52_history.sql
--! Included 53_attempt.sql
-- An attempt of a run, as its runner tells the database about it.  Two marks stand in the flags of a
-- job until the run parks or ends: `begun`, the last attempt that the task allows has begun, and
-- `lost`, how many attempts did not count because the runner's connection was lost.

create or replace function notika._begin(jobs json)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika_worker._private_jobs as j
     set flags = coalesce(j.flags, '{}') || '{"begun": true}'
   where j.id = any (array(
           select g.job::bigint from json_array_elements_text(_begin.jobs) as g (job)
         ))
     and j.locked_at is not null;
end;
$$;

comment on function notika._begin(json) is
  'Notes for jobs, an array of ids, that the last attempt which their task allows begins now. A '
  'claim alone does not say so: a runner may die with jobs that it had not begun.';

create or replace function notika._is_own(job_id bigint, attempts integer)
  returns boolean
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A job that was freed and claimed again has one attempt more.
  return exists (
    select from notika_worker._private_jobs as j
     where j.id = _is_own.job_id and j.attempts = _is_own.attempts and j.locked_at is not null
  );
end;
$$;

comment on function notika._is_own(bigint, integer) is
  'Whether a job is still locked for this attempt. A runner that was away asks before it goes on.';

create or replace function notika._give_back(job_id bigint, attempts integer, error text)
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_lost integer;
begin
  select case jsonb_typeof(j.flags -> 'lost') when 'number' then (j.flags ->> 'lost')::integer else 0 end
    into v_lost
    from notika_worker._private_jobs as j
   where j.id = _give_back.job_id and j.attempts = _give_back.attempts and j.locked_at is not null
     for update;
  if not found then
    return true; -- others have it
  end if;
  -- A run whose own statements end its connection must not go on for ever.
  if v_lost >= 5 then
    return false;
  end if;
  update notika_worker._private_jobs as j
     set attempts = j.attempts - 1, locked_by = null, locked_at = null,
         last_error = _give_back.error,
         run_at = clock_timestamp() + interval '1 second' * 2 ^ v_lost,
         flags = coalesce(j.flags, '{}') - 'begun' || jsonb_build_object('lost', v_lost + 1)
   where j.id = _give_back.job_id;
  return true;
end;
$$;

comment on function notika._give_back(bigint, integer, text) is
  'Puts a job back whose attempt failed because its runner lost the connection to the database: the '
  'attempt does not count. False: that has happened five times since the run began or woke, so that '
  'this one counts, and nothing was done.';

create or replace function notika.event(run_id bigint, event_id bigint default null)
  returns json
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if event.event_id is not null and event.event_id <> event.run_id then
    return (
      select b.event from notika.batch_event as b
       where b.run_id = event.run_id and b.event_id = event.event_id
    );
  end if;
  return coalesce(
    (select j.payload from notika_worker._private_jobs as j where j.key = event.run_id::text),
    (select l.event from notika.run_log as l
      where l.run_id = event.run_id and l.retried_at is null),
    (select notika._payload(e, w.name, coalesce(notika._quoted(w.relation), w.table_name))
       from notika._event as e
       join notika.workflow as w on w.workflow_id = e.workflow_id
      where e.event_id = event.run_id)
  );
end;
$$;

comment on function notika.event(bigint, bigint) is
  'The event of a run, or another one of those that a debounced or digested run is for, with every '
  'number as it was written; JavaScript rounds what a task gets. Null: it is not remembered.';
--! EndIncluded 53_attempt.sql
--! Included 60_capture.sql
-- What an event carries of a row, as json: a payload function for each workflow that Postgres itself
-- keeps in step with the table.
-- What the owner's rights turn into json has columns of types that are somebody else's, or will be: a
-- cast of such a column, an implicit one included, and to_json too, call a function of the type's
-- owner.  So no column is ever cast.  Output functions are safe whatever the type, and so is a call
-- that takes any type.  What is parsed once, when it is made, is looked at afterwards
-- (_check_payload_code); what is parsed again later names the types that it takes (_exactly).
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
  set standard_conforming_strings = on
  set plan_cache_mode = force_generic_plan -- to plan takes longer than to run
as $$
declare
  v_plain oid[] :=
    '{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,uuid,json,jsonb,xml,date,time,timetz,
      timestamp,inet,cidr,macaddr,macaddr8,bit,varbit,oid,tsvector}'::regtype[];
begin
  if types <@ v_plain then
    return ''; -- as nearly always, and the guard waits for it
  end if;

  -- Each setting costs every row a little, so only those that the types need; a type that is not
  -- listed may hold any of the others.
  return (
    with dependent (type, setting) as (
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
        or l.type <> all (v_plain)
       and l.type not in (select k.type from dependent as k where k.type is not null)
  );
end;
$$;

comment on function notika._settings(oid[]) is
  'The SET clauses under which values of these types look the same in every session.';

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

create or replace function notika._json_cast(type oid)
  returns regprocedure
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- An extension's: written in C, which takes a superuser, and the type is no less protected, so that
  -- nobody else puts another cast in its place.
  return (
    select p.oid::regprocedure
      from pg_cast as c
      join pg_proc as p on p.oid = c.castfunc and p.pronargs = 1
      join pg_language as l on l.oid = p.prolang and l.lanname = 'c'
      join pg_roles as o on o.oid = p.proowner and o.rolsuper
      join pg_type as t on t.oid = c.castsource
      join pg_roles as w on w.oid = t.typowner and w.rolsuper
     where c.castsource = _json_cast.type and c.casttarget = 'json'::regtype
       and has_function_privilege(p.oid, 'execute')
  );
end;
$$;

comment on function notika._json_cast(oid) is
  'The function by which an extension says how values of its type look as json; null: there is none.';

create or replace function notika._exactly(value anyelement, example anyelement)
  returns anyelement
  language sql
  immutable
as 'select $1';

comment on function notika._exactly(anyelement, anyelement) is
  'The value, which has the type of the example: with any other the call is an error when it is '
  'parsed. It has no settings, so that Postgres puts the value in its place.';

create or replace function notika._json_object(names text[], elements json[])
  returns json
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select format('{%s}', string_agg(
           format('%s : %s', to_json(e.name), coalesce(e.value::text, 'null')), ', ' order by e.place
         ))::json
    from unnest(_json_object.names, _json_object.elements) with ordinality as e (name, value, place);
$$;

comment on function notika._json_object(text[], json[]) is 'A json object of these keys and values.';

create or replace function notika._json_value(value anyelement)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_plain constant regtype[] :=
    '{text,varchar,int4,bool,timestamptz,uuid,jsonb,json,date}'::regtype[];
  v_type pg_type;
  v_statement text;
  v_json json;
begin
  -- Each statement is parsed when it is come to, with the type that the value has.
  if num_nulls(value) = 1 then
    return null;
  elsif pg_typeof(value) = any (v_plain) then
    return to_json(value);
  end if;
  select t.* into v_type from pg_type as t where t.oid = notika._base_type(pg_typeof(value));

  if v_type.oid < 16384
     and v_type.oid not in ('int8'::regtype, 'numeric'::regtype, 'int8[]'::regtype, 'numeric[]'::regtype)
  then
    return to_json(value);
  elsif v_type.typcategory = 'A' or v_type.typtype = 'c' then
    select case v_type.typcategory
             when 'A' then
               'select notika._fold(array(select notika._json_value(u.element) '
               'from (select unnest($1) as element) as u), $1)'
             else format(
               'select notika._json_object(%L, array[%s]::json[])',
               array_agg(a.attname order by a.attnum),
               string_agg(format('notika._json_value(($1).%I)', a.attname), ', ' order by a.attnum))
           end
      into v_statement
      from pg_attribute as a
     where a.attrelid = v_type.typrelid and a.attnum > 0 and not a.attisdropped;
    execute v_statement into v_json using value;
    return v_json;
  elsif notika._json_cast(v_type.oid) is not null then
    return to_json(value);
  end if;
  -- JavaScript would round int8 and numeric.  Of others Postgres has a text only, also of a type that
  -- came after the snapshot of the transaction.
  return to_json(format('%s', value));
end;
$$;

comment on function notika._json_value(anyelement) is
  'A value as json, whatever its type: slower than the expressions for a type that is known.';

create or replace function notika._settled_json(value anyelement)
  returns json
  language sql
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
  select notika._json_value(_settled_json.value);
$$;

comment on function notika._settled_json(anyelement) is
  'A value as json, whatever its type, which looks the same in every session.';

create or replace function notika._json_expression(
  path text,
  type oid,
  is_exact boolean,
  depth integer default 0
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_base pg_type;
  v_path text := _json_expression.path;
  v_array text := format('a%s', _json_expression.depth);
  v_index text := format('i%s', _json_expression.depth);
begin
  select t.* into v_base from pg_type as t where t.oid = notika._base_type(_json_expression.type);

  if v_base.oid < 16384 and (is_exact or v_base.oid = _json_expression.type) then
    if not is_exact then
      v_path := notika._exact_path(path, v_base);
    end if;
    return case
      -- JavaScript would round them.
      when v_base.oid in ('int8'::regtype, 'numeric'::regtype) then notika._text_path(v_path, v_base)
      when v_base.oid in ('int8[]'::regtype, 'numeric[]'::regtype)
        then format('pg_catalog.array_in(pg_catalog.array_out(%s), %s, -1)', v_path,
                    'text'::regtype::oid)
      else v_path
    end;
  end if;

  if notika._is_string(v_base.oid) then
    return format('case when %1$s is not null then pg_catalog.format(''%%s'', %1$s) end', path);
  end if;
  if not is_exact or v_base.oid is null
     or v_base.typcategory = 'A' and (
       select e.typcategory = 'A' from pg_type as e where e.oid = notika._base_type(v_base.typelem)
     )
  then
    return format('notika._settled_json(%s)', path);
  end if;

  if v_base.typcategory = 'A' then
    -- Postgres would call the casts of the elements' type.
    return format(
      'case when %1$s is not null then notika._fold(array(select pg_catalog.to_json(%2$s)'
      ' from (select array(select pg_catalog.unnest(%1$s))) as %3$s (elements),'
      ' pg_catalog.generate_subscripts(%3$s.elements, 1) as %4$s order by %4$s), %1$s) end',
      path,
      notika._json_expression(format('(%s.elements[%s])', v_array, v_index), v_base.typelem, true,
                              depth + 1),
      v_array,
      v_index
    );
  end if;
  if v_base.typtype = 'c' then
    return (
      select format(
               'case when pg_catalog.num_nonnulls(%s) operator(pg_catalog.=) 1 then %s end',
               path,
               notika._object_expression(
                 array_agg(a.attname::text order by a.attnum),
                 array_agg(format('(%s).%I', path, a.attname) order by a.attnum),
                 array_agg(a.atttypid order by a.attnum),
                 true,
                 depth
               )
             )
        from pg_attribute as a
       where a.attrelid = v_base.typrelid and a.attnum > 0 and not a.attisdropped
    );
  end if;
  return (
    select format('%I.%I(%s)', n.nspname, p.proname, path)
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
     where p.oid = notika._json_cast(v_base.oid)
  );
end;
$$;

comment on function notika._json_expression(text, oid, boolean, integer) is
  'An SQL expression for a value of this type as an argument of json_build_object. Exact: it is '
  'parsed once, now, and looked at then; otherwise it does no harm whatever the type is by then.';

create or replace function notika._exact_path(path text, type pg_type)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return format('notika._exactly(%s, null::pg_catalog.%I)', path, type.typname);
end;
$$;

comment on function notika._exact_path(text, pg_type) is
  'An SQL expression for a value that is an error if it is not of this type, which is Postgres'' own.';

create or replace function notika._text_path(path text, type pg_type)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when type.oid in ('text'::regtype, 'varchar'::regtype) then path
    else (
      select format('pg_catalog.textin(pg_catalog.%I(%s))', p.proname, path)
        from pg_proc as p
       where p.oid = type.typoutput
    )
  end;
end;
$$;

comment on function notika._text_path(text, pg_type) is
  'An SQL expression for a value of this type, which is Postgres'' own, as text: no cast, and as fast.';

create or replace function notika._is_string(type oid)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select t.oid in ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype,
                     'int8'::regtype, 'numeric'::regtype)
        or t.oid >= 16384 and t.typtype <> 'c' and t.typcategory <> 'A'
           and notika._json_cast(t.oid) is null
      from pg_type as t
     where t.oid = notika._base_type(_is_string.type)
  );
end;
$$;

comment on function notika._is_string(oid) is
  'Whether json has a string for each value of this type, and it is the value as text.';

create or replace function notika._object_expression(
  names text[],
  paths text[],
  types oid[],
  is_exact boolean,
  depth integer default 0
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select case
             -- Where all are strings Postgres need not look up what they are, which is half of the
             -- price.
             when bool_and(coalesce(notika._is_string(v.type), false)) then format(
               'pg_catalog.json_object(%L::pg_catalog.text[], array[%s])',
               _object_expression.names,
               string_agg(coalesce(v.string, v.expression), ', ' order by v.place)
             )
             when count(*) <= 50 then format(
               'pg_catalog.json_build_object(%s)',
               string_agg(format('%L, %s', v.name, v.expression), ', ' order by v.place)
             )
             -- A function has at most a hundred arguments.
             else format(
               '(select pg_catalog.row_to_json(o) from (select %s) as o)',
               string_agg(format('%s as %I', v.expression, v.name), ', ' order by v.place)
             )
           end
      from (
        select u.*,
               notika._json_expression(u.path, u.type, _object_expression.is_exact,
                                       _object_expression.depth) as expression,
               case
                 when b.oid >= 16384 then null
                 when _object_expression.is_exact then notika._text_path(u.path, b)
                 when b.oid = u.type then notika._text_path(notika._exact_path(u.path, b), b)
               end as string
          from unnest(_object_expression.names, _object_expression.paths, _object_expression.types)
                 with ordinality as u (name, path, type, place)
          left join pg_type as b on b.oid = notika._base_type(u.type)
      ) as v
  );
end;
$$;

comment on function notika._object_expression(text[], text[], oid[], boolean, integer) is
  'An SQL expression for a json object of these keys, with the values that are at these paths. '
  'Exact: see _json_expression.';

create or replace function notika._value_expression(names text[], paths text[])
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select format('notika._json_object(%L::text[], array[%s]::json[])', names,
                string_agg(format('notika._json_value(%s)', p.path), ', ' order by p.place))
    from unnest(paths) with ordinality as p (path, place);
$$;

comment on function notika._value_expression(text[], text[]) is
  'An SQL expression for a json object of these keys, with the values that are at these paths, whatever '
  'their types are when it is executed: what a snapshot shows of a column may be older than that.';

create or replace function notika._size_expression(
  path text,
  type oid,
  typmod integer,
  is_exact boolean
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select case
             when t.typlen <> -1 or t.oid = 'numeric'::regtype then null
             when t.oid in ('varchar'::regtype, 'bpchar'::regtype)
              and _size_expression.typmod between 0 and 1024 then null
             -- The size before compression, told without reading the value.
             when t.oid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype)
              and (_size_expression.is_exact or t.oid = _size_expression.type)
               then format('coalesce(pg_catalog.octet_length(%s), 0)',
                           case when is_exact then _size_expression.path
                                else notika._exact_path(_size_expression.path, t) end)
             else format('coalesce(pg_catalog.pg_column_size(%s), 0)', _size_expression.path)
           end
      from pg_type as t
     where t.oid = notika._base_type(_size_expression.type)
  );
end;
$$;

comment on function notika._size_expression(text, oid, integer, boolean) is
  'An SQL expression for the size of a value in bytes; null for a type that is always small. Exact: '
  'see _json_expression.';

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
  select notika._value_expression(
           array_agg(a.attname::text order by a.place, a.attnum),
           array_agg(format('($1).%I', a.attname) order by a.place, a.attnum)
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
  select format(
           'notika._json_object(%L::pg_catalog.text[], array[%s])',
           array_agg(a.attname order by array_position(k.columns, a.attnum), a.attnum),
           string_agg(format('notika._settled_json(%s.%I)', _key_expression.path, a.attname), ', '
                      order by array_position(k.columns, a.attnum), a.attnum)
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
  'An SQL expression for the json that _key makes of a row, from its columns one by one and whatever '
  'their types are when it is parsed; null: it has no key.';

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
  set standard_conforming_strings = on
as $$
declare
  v_row json;
begin
  -- Looked up for each row, so that it is right after any DDL.  to_json would call a cast that the
  -- owner of a type wrote; a snapshot that is older than the lock of the trigger may not show it.
  if current_setting('transaction_isolation') <> 'read committed' or exists (
    select from pg_attribute as a
     where a.attrelid = _whole_row.relation and a.attnum > 0 and not a.attisdropped
       and a.atttypid >= 16384
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
  set standard_conforming_strings = on
as $$
declare
  v_object text;
  v_size text;
begin
  perform notika._expect_columns(
    _payload_definition.relation, _payload_definition.column_names);

  select notika._object_expression(
           array_agg(k.key order by k.place),
           array_agg(format('(r).%I', k.name) order by k.place),
           array_agg(a.atttypid order by k.place),
           true
         ),
         string_agg(
           notika._size_expression(format('(r).%I', k.name), a.atttypid, a.atttypmod, true),
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
     or spec.fires_always -- what is replicated fires no trigger for each statement
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
     -- Others may write before it, or between the rows; and its own may have been enabled always.
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
  set standard_conforming_strings = on
as $$
  select replace(_indented.code, E'\n', E'\n  ');
$$;

comment on function notika._indented(text) is 'Code that stands two columns further to the right.';

create or replace function notika._control_code(condition text default 'true')
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $body$
  -- The row that was written gave the transaction its xid before the segment is read.  Who reads
  -- the sequence keeps a lock on it, by which _doze finds those who do not know yet that they are
  -- to notify.
  select format($$
  -- In one expression, because each that looks at the world takes a snapshot.
  v_control := case
    when pg_catalog.current_setting('notika.mute', true) operator(pg_catalog.<>) '' then 7
    when pg_catalog.current_setting('notika.run', true) operator(pg_catalog.<>) '' then 7
    when %s
      then pg_catalog.pg_sequence_last_value('notika.control_seq') operator(pg_catalog.%%) 6
    else 7
  end;$$, _control_code.condition);
$body$;

comment on function notika._control_code(text) is
  'What a trigger does to know the segment that it writes to, which is half of v_control, and '
  'whether it has to notify: then v_control is odd. 7: the session or, where there is a condition, '
  'the row is not of the usual kind.';

create or replace function notika._at_segment(template text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $body$
  select format($$
  if v_control operator(pg_catalog.<) 2 then%s
  elsif v_control operator(pg_catalog.<) 4 then%s
  elsif v_control operator(pg_catalog.<) 6 then%s
  end if;$$,
    format(_at_segment.template, 0),
    format(_at_segment.template, 1),
    format(_at_segment.template, 2));
$body$;

comment on function notika._at_segment(text) is
  'Code for each segment, of which that of v_control runs; %s stands for its number.';

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
  return format($$        v_%1$s := null;
        begin -- key %5$s
          if notika._key_names(tg_relid) operator(pg_catalog.=) %2$L::pg_catalog.text[] then
            v_%1$s := %3$s;
          end if;
        exception when undefined_column or datatype_mismatch then
          null; -- it was changed, and this was not made again
        end;
        if v_%1$s is null then
          v_%1$s := %4$s;
        end if;$$, changed, notika._key_names(spec.relation), v_expression, v_key,
    (select md5(string_agg(format('%s %s', k.place, format_type(k.type, null)), ', ' order by k.place))
       from notika._key_of(spec.relation) as k));
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
  set standard_conforming_strings = on
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
     );
end;
$$;

comment on function notika._lists_columns(notika.workflow) is
  'Whether a whole row is made from a list of its columns, which the guard keeps in step with it.';

create or replace function notika._has_parts(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (select c.relkind = 'p' from pg_class as c where c.oid = spec.relation)
      or (select count(*) > 1 from notika._family(spec.relation));
end;
$$;

comment on function notika._has_parts(notika.workflow) is
  'Whether rows of other tables are captured, too: of partitions or children.';

create or replace function notika._image_expression(spec notika.workflow, changed text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_limit integer := (select s.payload_bytes from notika.setting as s);
begin
  -- What takes the row of a published table would take that of a part, too, and convert it: by a
  -- cast between the two, if their owner made one.
  if spec.is_pinned and spec.columns is not null and not notika._has_parts(spec) then
    return format('notika.payload_%s(%s)', spec.workflow_id, changed);
  elsif spec.is_pinned and spec.columns is not null or notika._lists_columns(spec) then
    if spec.columns is not null then
      perform notika._expect_columns(spec.relation, spec.column_names);
    end if;
    return (
      select format(
               E'case when 0::pg_catalog.int8%s operator(pg_catalog.<=) %s then\n    %s end',
               string_agg(' operator(pg_catalog.+) ' || notika._size_expression(
                 format('%s.%I', changed, a.attname), a.atttypid, a.atttypmod, false), ''
                 order by k.place),
               v_limit,
               notika._object_expression(
                 array_agg(k.key order by k.place),
                 array_agg(format('%s.%I', changed, a.attname) order by k.place),
                 array_agg(a.atttypid order by k.place),
                 false))
        from (
          select c.key, c.name, c.place
            from unnest(spec.columns, spec.column_names) with ordinality as c (key, name, place)
          union all
          select t.attname, t.attname, t.attnum
            from pg_attribute as t
           where spec.columns is null
             and t.attrelid = spec.relation and t.attnum > 0 and not t.attisdropped
        ) as k
        join pg_attribute as a
          on a.attrelid = spec.relation and a.attname = k.name and a.attnum > 0
         and not a.attisdropped
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
  set standard_conforming_strings = on
as $body$
declare
  v_rows text[] := notika._rows(operation);
  v_code text := (
    select string_agg(
             format(E'\n  v_%s := %s;', r, notika._image_expression(spec, r)), '' order by r)
      from unnest(v_rows) as r
  );
begin
  -- What it names may be gone or be of another type, and nobody saw to it.
  if spec.is_pinned
     and (spec.columns is not null and notika._has_parts(spec) or notika._lists_columns(spec))
  then
    return format($$
  begin%s%s
  exception
    when undefined_column or datatype_mismatch or undefined_function or ambiguous_function then%s
  end;$$,
      case when spec.columns is null
           then format(E'\n    -- columns %s', notika._shape(spec.relation)) end,
      notika._indented(v_code),
      (select string_agg(
                format(E'\n      v_%1$s := notika._loose_image(%1$s, tg_relid, %2$s);', r,
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
  set standard_conforming_strings = on
as $body$
declare
  v_has_snapshot boolean := notika._has_sources(spec.name);
  v_rows text[] := notika._rows(operation);
begin
  return notika._images_code(spec, operation)
      || notika._control_code(array_to_string(
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
           case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end));
end;
$body$;

comment on function notika._usual_code(notika.workflow, text) is
  'What a trigger for each row does about an operation, if there is nothing special about it.';

create or replace function notika._row_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
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

  -- Each operation has its own, because every further expression costs a transaction a little.
  if cardinality(spec.operations) = 1 then
    v_code := v_code || notika._usual_code(spec, spec.operations[1]);
  else
    v_code := v_code || (
      select string_agg(format(E'\n  %s%s',
               case o.place when 1 then v_condition
                            when cardinality(spec.operations) then 'else'
                            else 'els' || v_condition end,
               notika._indented(notika._usual_code(spec, o.name))), '' order by o.place)
        from unnest(spec.operations) with ordinality as o (name, place)
       cross join lateral (
         select format('if tg_op operator(pg_catalog.=) %L then', upper(o.name))
       ) as c (v_condition)
    ) || E'\n  end if;';
  end if;

  return v_code || format($code$

  if v_control operator(pg_catalog.&) 1 operator(pg_catalog.=) 1 then
    if v_control operator(pg_catalog.=) 7 then
      select o.is_muted, o.cause_id, o.depth into v_is_muted, v_cause_id, v_depth
        from notika._origin() as o;
      if v_is_muted then
        return null;
      end if;

      v_truncated := false;%1$s

      v_operation := case%2$s end;
      v_control :=
        pg_catalog.pg_sequence_last_value('notika.control_seq') operator(pg_catalog.%%) 6;%3$s
    end if;
    if v_control operator(pg_catalog.&) 1 operator(pg_catalog.=) 1 then
      perform notika._wake();
    end if;
  end if;
$code$,
    notika._indented(notika._mending_code(spec)),
    (select string_agg(
              format(E'\n        when tg_op operator(pg_catalog.=) %L then %L',
                     upper(o.name), o.name), '')
       from unnest(spec.operations) as o (name)),
    notika._indented(notika._indented(notika._at_segment(format($$
    insert into notika.event_log_%%s
      (workflow_id, operation, new, old, truncated, cause_id, depth%s)
    values
      (%s, v_operation, v_new, v_old, v_truncated, v_cause_id, v_depth%s);$$,
      case when v_has_snapshot then ', snapshot' end,
      spec.workflow_id,
      case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end)))));
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
  if v_control operator(pg_catalog.=) 7 then
    select o.is_muted, o.cause_id, o.depth into v_is_muted, v_cause_id, v_depth
      from notika._origin() as o;
    if v_is_muted then
      return null;
    end if;
    v_control :=
      pg_catalog.pg_sequence_last_value('notika.control_seq') operator(pg_catalog.%%) 6;%3$s
  else -- what has no variables in it is not planned anew for each statement%2$s
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
      v_control operator(pg_catalog.>>) 1,
      coalesce(notika._key_expression('r', tg_relid::pg_catalog.regclass, %9$L::pg_catalog.text[]),
               '''{}''::pg_catalog.json'))
      using %7$s, %10$L::pg_catalog.text, v_cause_id, coalesce(v_depth, 0);
  end if;

  if v_control operator(pg_catalog.&) 1 operator(pg_catalog.=) 1 then
    perform notika._wake();
  end if;
$code$,
    notika._control_code(),
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
  -- Who makes a trigger of a partitioned table looks at its partition key.
  if (select c.relkind = 'p' from pg_class as c where c.oid = spec.relation) then
    perform notika._check_planning(spec.relation, true);
  end if;
  if spec.is_pinned and spec.columns is not null or notika._lists_columns(spec) then
    v_types := array(
      select a.atttypid
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
         and (spec.columns is null or a.attname = any (spec.column_names))
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
  v_control pg_catalog.int8;
  v_is_muted pg_catalog.bool;
  v_cause_id pg_catalog.int8;
  v_depth pg_catalog.int2;
  v_nothing pg_catalog.bool;
begin%2$s
  return v_nothing; -- an after trigger's result is ignored; null would be an expression
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
  set standard_conforming_strings = on
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
    v_filters := v_filters || format('(%s)', notika._condition_code(spec));
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
--! Included 61_truncate.sql
-- TRUNCATE of a table whose deletes wake a workflow.  It removes rows without an event for any of
-- them, so it does not pass unnoticed: the option truncate of the workflow says what is done.
-- Postgres fires no trigger of a partitioned table when one of its partitions is truncated by itself.

create or replace function notika._notices_truncate(spec notika.workflow)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 'delete' = any ((spec).operations)
     and (select c.relkind in ('r', 'p') from pg_class as c where c.oid = (spec).relation);
$$;

comment on function notika._notices_truncate(notika.workflow) is
  'Whether a workflow has triggers for TRUNCATE: if deletes wake it, and its table takes such triggers.';

create or replace function notika._truncate_definition(workflow_id integer)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select format(E'create or replace function notika._truncated_%1$s()\n'
                '  returns trigger\n'
                '  language plpgsql\n'
                '  security definer\n'
                '  set search_path = pg_catalog, pg_temp\n'
                'as ''begin perform notika._note_truncate(%1$s, tg_relid); return null; end''',
                _truncate_definition.workflow_id);
$$;

comment on function notika._truncate_definition(integer) is
  'The statement that makes the function of a workflow''s triggers for TRUNCATE.';

create or replace function notika._truncate_trigger(workflow_id integer, relation regclass)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
begin
  return format(E'create or replace trigger notika_%1$s_truncate\n'
                '  after truncate on %2$s\n'
                '  for each statement\n'
                '  execute function notika._truncated_%1$s()',
                _truncate_trigger.workflow_id, notika._quoted(_truncate_trigger.relation));
end;
$$;

comment on function notika._truncate_trigger(integer, regclass) is
  'The statement that makes the trigger for TRUNCATE on a table of a workflow.';

create or replace function notika._truncate_tables(workflow_id integer)
  returns setof text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select notika._quoted(t.tgrelid)
      from pg_depend as d
      join pg_trigger as t on t.oid = d.objid
     where d.refclassid = 'pg_proc'::regclass and d.classid = 'pg_trigger'::regclass
       and d.refobjid = to_regprocedure(format('notika._truncated_%s()', _truncate_tables.workflow_id));
end;
$$;

comment on function notika._truncate_tables(integer) is
  'The tables that have a trigger for TRUNCATE of a workflow.';

create or replace function notika._truncates_fit(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return notika._notices_truncate(spec) and not exists (
    select from notika._truncate_tables(spec.workflow_id) as t (name)
     where t.name not in (select notika._quoted(f) from notika._family(spec.relation) as f)
  );
end;
$$;

comment on function notika._truncates_fit(notika.workflow) is
  'Whether the triggers for TRUNCATE of a workflow stand on no other tables than they have to.';

create or replace function notika._has_truncate_triggers(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return not notika._notices_truncate(spec) or not exists (
    select notika._quoted(f) from notika._family(spec.relation) as f
    except
    select t from notika._truncate_tables(spec.workflow_id) as t
  );
end;
$$;

comment on function notika._has_truncate_triggers(notika.workflow) is
  'Whether all triggers for TRUNCATE are there that a workflow needs.';

create or replace function notika._note_truncate(workflow_id integer, relation regclass)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_workflow notika.workflow;
  v_answer text;
begin
  -- Only what the option asks for may fail the statement of somebody else.
  begin
    select w.* into v_workflow
      from notika.workflow as w
     where w.workflow_id = _note_truncate.workflow_id and w.unpublished_at is null
       and 'delete' = any (w.operations)
       -- A child that has left the family keeps the trigger.
       and exists (select from notika._family(w.relation) as f where f = _note_truncate.relation);
    if not found or (select o.is_muted from notika._origin() as o) then
      return;
    end if;
    v_answer := coalesce(v_workflow.options ->> 'truncate', 'record');
    if v_answer <> 'refuse' then
      insert into notika.guard_log (workflow, verdict, kind, object)
      values (v_workflow.name, case v_answer when 'warn' then 'warned' else 'recorded' end,
              'table_truncated', notika._quoted(_note_truncate.relation));
    end if;
  exception when others then
    raise warning 'notika could not record the TRUNCATE of %: %', _note_truncate.relation, sqlerrm;
    return;
  end;

  if v_answer = 'refuse' then
    raise exception 'cannot truncate % because deletes wake Notika''s workflow "%"',
                    notika._quoted(_note_truncate.relation), v_workflow.name
      using errcode = 'NK003',
            detail = 'TRUNCATE removes the rows without an event for any of them.',
            hint = format('Delete them: delete from %s; or let those who published the workflow allow it: '
                          'select notika.configure(%L, %L);', notika._quoted(_note_truncate.relation),
                          v_workflow.name, v_workflow.options || '{"truncate": "record"}');
  elsif v_answer = 'warn' then
    raise warning 'deletes of % wake Notika''s workflow "%", but TRUNCATE gave it no event',
                  notika._quoted(_note_truncate.relation), v_workflow.name;
  end if;
end;
$$;

comment on function notika._note_truncate(integer, regclass) is
  'Records a TRUNCATE of a table whose deletes wake a workflow, warns of it, or refuses it, as the '
  'workflow''s option truncate says.';

create or replace function notika._truncate_health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select 'table_truncated', 'warning', w.name,
           format('%s was truncated at %s by %s: its rows gave no delete event', g.object,
                  date_trunc('second', g.at), g.done_by),
           format('If that must not happen again: select notika.configure(%L, %L);',
                  w.name, w.options || '{"truncate": "refuse"}')
      from notika.workflow as w
     cross join lateral (
       select l.at, l.object, l.done_by
         from notika.guard_log as l
        where l.workflow = w.name and l.kind = 'table_truncated' and l.at > w.published_at
          and l.at > clock_timestamp() - interval '1 day'
        order by l.at desc
        limit 1
     ) as g
     where w.unpublished_at is null and 'delete' = any (w.operations);
end;
$$;

comment on function notika._truncate_health() is
  'What notika.health says for a day about tables that were truncated although deletes wake a workflow.';
--! EndIncluded 61_truncate.sql
--! Included 62_loose.sql
-- The form of a workflow's functions and triggers that pins nothing: while a migration is let
-- through, while a workflow is broken, and where a guard that only warns has no event triggers.
-- Slower than the pinned form, and never the reason why a write fails: a column is found by its
-- name or else by its number, and one that is gone is left out.

create or replace function notika._is_copy()
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from notika.guard_state as s
     where s.workflow_table <> 'notika.workflow'::regclass::oid
  );
end;
$$;

comment on function notika._is_copy() is
  'Whether this is a restored copy whose workflows have not been bound to its tables yet.';

create or replace function notika._present_columns(workflow_id integer, names text[], part regclass)
  returns table (place bigint, name text, type oid, attnum smallint)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A column is told by its number, and where it is gone by its name, unless that has gone to another
  -- column of the workflow.  Numbers are those of the published table, a part of it may have others; and
  -- in a restored copy they are nothing before the copy is bound.
  return query
    select k.place, a.attname::text, a.atttypid, a.attnum
      from unnest(_present_columns.names) with ordinality as k (name, place)
      join notika.workflow as w on w.workflow_id = _present_columns.workflow_id
      left join notika.contract as c
        on c.workflow_id = w.workflow_id and c.column_name = k.name and not (select notika._is_copy())
      left join pg_attribute as r
        on r.attrelid = w.relation and r.attnum = c.attnum and not r.attisdropped
      left join pg_attribute as n
        on n.attrelid = w.relation and n.attname = k.name and n.attnum > 0 and not n.attisdropped
       and r.attnum is null and not exists (
         select from notika.contract as o
          where o.workflow_id = w.workflow_id and o.attnum = n.attnum and not (select notika._is_copy())
       )
      join pg_attribute as a
        on a.attrelid = _present_columns.part
       and a.attname = coalesce(r.attname, n.attname) and a.attnum > 0 and not a.attisdropped;
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

  select notika._value_expression(
           array_agg(v_spec.columns[p.place] order by p.place),
           array_agg(format('($1).%I', p.name) order by p.place)
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

create or replace function notika._columns_hold_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  -- In the catalog alone: the writer has no right on Notika.  In a restored copy all numbers are others.
  -- The types because a session would go on with its plan, and fail.
  return (
    with read (attnum, attname, type) as (
      select a.attnum, a.attname, a.atttypid
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
         and notika._reads(spec.condition_sql, a.attname)
    ), label (oid, name) as (
      select distinct e.oid, e.enumlabel
        from (
          select l.type from read as r cross join lateral notika._leaf_types(r.type) as l (type)
          union
          select u.oid from jsonb_to_recordset(spec.condition_uses) as u (kind text, oid oid) where u.kind = 'type'
        ) as t
        join pg_enum as e on e.enumtypid = t.type
    )
    select E'\n     and (not exists (select from pg_class as c where c.relname = ''workflow'' and c.oid = '
           || 'notika.workflow'::regclass::oid || ')'
           || E'\n          or ' || string_agg(h.code, E'\n             and ' order by h.code) || ')'
      from (
        select format('%s = (select count(*) from pg_attribute as a where a.attrelid = %s '
                      'and (a.attnum, a.attname, a.atttypid) in (%s))', count(*), spec.relation::oid,
                      string_agg(format('(%s, %L, %s)', r.attnum, r.attname, r.type), ', ' order by r.attnum))
          from read as r
        having count(*) > 0
        union all
        select format('%s = (select count(*) from pg_enum as e where (e.oid, e.enumlabel) in (%s))', count(*),
                      string_agg(format('(%s, %L)', l.oid, l.name), ', ' order by l.oid))
          from label as l
        having count(*) > 0
      ) as h (code)
  );
end;
$$;

comment on function notika._columns_hold_code(notika.workflow) is
  'SQL that is true while the columns that a condition reads, and the labels of their enums, have the '
  'names and types that they have now; null: it reads none.';

create or replace function notika._passes_definition(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
begin
  -- With the writer's rights, like the condition of a trigger.  Its names are found again in each
  -- session, so before that they must mean what they meant when it was published.
  return format($template$create or replace function notika._passes_%s(new record, old record)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as %s$template$,
    (spec).workflow_id,
    notika._dollar_quoted(format($passes$
begin
  if (%s) is not true then
    return true;
  end if;
  return %s;
exception when others then
  return true; -- what it reads is not there any more: rather an event too many than one too few
end;
$passes$, case when notika._lost_meaning((spec).condition_uses) is null
               then concat(notika._names_hold_code((spec).condition_uses), notika._columns_hold_code(spec))
               else 'false' end,
         notika._condition_code(spec)), 'passes'));
end;
$body$;

comment on function notika._passes_definition(notika.workflow) is
  'The statement that makes a function of the condition, which is parsed in each session.';

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
--! Included 63_request.sql
-- Requests: how a verb that decides by its caller knows who that is.
-- Such a verb runs with its caller's rights and inserts a request.  The column `caller` has the
-- default current_user and nobody may write it, so it cannot be forged: through a SECURITY DEFINER
-- function of somebody's the caller is that somebody.  What carries a request out runs as the owner,
-- takes the verb from a list, and asks whether the caller may execute that verb.

create or replace view notika._request as
select null::text as verb,
       null::jsonb as args,
       null::name as caller,
       null::json as result;

comment on view notika._request is
  'Takes the requests of the verbs that decide by their caller; has no rows.';
comment on column notika._request.verb is 'The name of the verb.';
comment on column notika._request.args is 'What it was called with.';
comment on column notika._request.caller is 'The role that called it, by default; not to be written.';
comment on column notika._request.result is 'What it answers.';

create or replace function notika._verbs()
  returns table (verb text, function regprocedure)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select p.proname || case p.oid
           when to_regprocedure('notika.retry(text,timestamptz,boolean)') then '_failed' else '' end,
         p.oid::regprocedure
    from pg_proc as p
   where p.pronamespace = 'notika'::regnamespace
     and p.proname in (
       'publish', 'unpublish', 'configure', 'schedule', 'unschedule', '_publish_by_time',
       'pause', 'resume', 'retry', 'cancel', 'backfill', 'cancel_backfill', 'replay',
       'allow_breaking_change', 'release', 'begin_maintenance', 'end_maintenance', 'install',
       '_foresee_pinned',
       'grant_publisher', 'grant_runner', 'grant_reader', 'grant_monitor',
       'revoke_publisher', 'revoke_runner', 'revoke_reader', 'revoke_monitor'
     );
$$;

comment on function notika._verbs() is
  'The verbs that pass a request, and the functions whose EXECUTE it takes.';

create or replace function notika._is_member(role name)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(_is_member.role, n.nspowner, 'member')
    from pg_namespace as n
   where n.nspname = 'notika';
$$;

comment on function notika._is_member(name) is 'Whether a role is a member of the owner of Notika.';

create or replace function notika._expect_member(caller name, what text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner name := (select pg_get_userbyid(n.nspowner) from pg_namespace as n where n.nspname = 'notika');
begin
  if not notika._is_member(_expect_member.caller) then
    raise exception 'role "%" may not %', _expect_member.caller, _expect_member.what
      using errcode = 'insufficient_privilege',
            detail = format('Only members of "%s", the owner of Notika, may.', v_owner),
            hint = format('As a member: set role %I; or let an administrator run: grant %1$I to %I;',
                          v_owner, _expect_member.caller);
  end if;
end;
$$;

comment on function notika._expect_member(name, text) is
  'An error unless the caller is a member of the owner of Notika.';

create or replace function notika._refuse_shortly(
  state text,
  message text,
  detail text,
  hint text,
  context text
)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  -- Where in Notika it was refused is of no use to anybody who reads it; of an error that Notika did
  -- not foresee it is.
  if _refuse_shortly.context !~ '^PL/pgSQL function notika\.[^\n]* at RAISE(\n|$)' then
    return false;
  elsif detail <> '' and hint <> '' then
    raise exception '%', message using errcode = state, detail = detail, hint = hint;
  elsif detail <> '' then
    raise exception '%', message using errcode = state, detail = detail;
  elsif hint <> '' then
    raise exception '%', message using errcode = state, hint = hint;
  end if;
  raise exception '%', message using errcode = state;
end;
$$;

comment on function notika._refuse_shortly(text, text, text, text, text) is
  'Raises an error of Notika''s again, without the context in which it was raised; false: it is none.';

create or replace function notika._ask(verb text, args jsonb)
  returns json
  language plpgsql
  volatile
  security invoker -- so that the request has the caller's name
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_result json;
begin
  if not has_column_privilege('notika._request', 'verb', 'insert') then
    raise exception 'role "%" may not call notika.%', current_user, replace(verb, 'retry_failed', 'retry')
      using errcode = 'insufficient_privilege',
            detail = 'It is no publisher and no runner of Notika.',
            hint = format('Let a member of the owner of Notika run: select notika.grant_publisher(%1$L); or: '
                          'select notika.grant_runner(%1$L);', quote_ident(current_user));
  end if;
  insert into notika._request (verb, args)
  values (_ask.verb, _ask.args)
  returning result into v_result;
  return v_result;
end;
$$;

comment on function notika._ask(text, jsonb) is
  'Passes the request of a verb, as its caller, and returns the answer.';

create or replace function notika._ask_shortly(verb text, args jsonb)
  returns json
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_state text;
  v_message text;
  v_detail text;
  v_hint text;
  v_context text;
begin
  return notika._ask(_ask_shortly.verb, _ask_shortly.args);
exception when others then
  get stacked diagnostics
    v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
    v_hint = pg_exception_hint, v_context = pg_exception_context;
  if notika._refuse_shortly(v_state, v_message, v_detail, v_hint, v_context) then
    return null; -- which it never says: as a statement of its own it would be in the context, too
  end if;
  raise;
end;
$$;

comment on function notika._ask_shortly(text, jsonb) is
  'The same, and an error comes without its context. Not for verbs whose locks notika.lag has to name: '
  'of a lock that a subtransaction took nobody can tell the session.';

create or replace function notika._carry_out()
  returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_function regprocedure := (select v.function from notika._verbs() as v where v.verb = new.verb);
  v_args constant jsonb := coalesce(new.args, '{}');
begin
  if v_function is null or new.caller is null then
    raise exception 'notika has no verb "%" that takes a request', coalesce(new.verb, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'Call the functions of schema notika, such as notika.publish().';
  end if;
  if not has_function_privilege(new.caller, v_function, 'execute') then
    raise exception 'permission denied for function %', v_function::regproc
      using errcode = 'insufficient_privilege';
  end if;
  if (select r.rolsuper from pg_roles as r where r.rolname = current_user) then
    raise exception 'notika is owned by superuser "%"', current_user
      using errcode = 'object_not_in_prerequisite_state',
            detail = 'Whatever it does for others would be done with the rights of a superuser. '
                     'Restoring a dump with --no-owner leaves it like this.',
            hint = 'Let an administrator run: npx notika install, or psql with what npx notika sql '
                   'prints. It gives Notika an owner without rights of its own.';
  end if;

  new.result := case new.verb
    when 'publish' then to_json(notika._do_publish(new.caller, v_args))
    when 'unpublish' then to_json(notika._do_unpublish(new.caller, v_args ->> 'workflow'))
    when 'configure' then to_json(notika._do_configure(new.caller, v_args ->> 'workflow', v_args -> 'options'))
    when '_publish_by_time' then to_json(
      notika._do_publish_by_time(new.caller, v_args ->> 'workflow', v_args -> 'options'))
    when 'schedule' then to_json(notika._do_schedule(
      new.caller, v_args ->> 'workflow', v_args ->> 'cron', v_args ->> 'time_zone', v_args ->> 'missed'))
    when 'unschedule' then to_json(notika._do_unschedule(new.caller, v_args ->> 'workflow'))
    when 'pause' then to_json(notika._do_pause(new.caller, v_args ->> 'workflow'))
    when 'resume' then to_json(notika._do_resume(new.caller, v_args ->> 'workflow'))
    when 'retry' then to_json(notika._do_retry(
      new.caller, (v_args ->> 'run_id')::bigint, (v_args ->> 'from_start')::boolean))
    when 'retry_failed' then to_json(notika._do_retry(
      new.caller, v_args ->> 'workflow', (v_args ->> 'since')::timestamptz,
      (v_args ->> 'from_start')::boolean))
    when 'cancel' then to_json(notika._do_cancel(new.caller, (v_args ->> 'run_id')::bigint))
    when 'backfill' then to_json(notika._do_backfill(new.caller, v_args))
    when 'cancel_backfill' then to_json(notika._do_cancel_backfill(v_args ->> 'workflow'))
    when 'replay' then to_json(
      notika._do_replay(v_args ->> 'workflow', (v_args ->> 'since')::timestamptz))
    when 'allow_breaking_change' then to_json(notika._do_allow_breaking_change(
      new.caller, v_args ->> 'workflow', v_args ->> 'reason'))
    when 'release' then to_json(
      notika._do_release(new.caller, v_args ->> 'workflow', v_args ->> 'reason'))
    when 'begin_maintenance' then to_json(notika._do_begin_maintenance(
      new.caller, v_args ->> 'reason', (v_args ->> 'ttl')::interval))
    when 'end_maintenance' then notika._do_end_maintenance(new.caller)
    when 'install' then notika._do_install(new.caller)
    when '_foresee_pinned' then to_json(
      notika._do_foresee_pinned(new.caller, v_args ->> 'sql', v_args ->> 'path'))
    else to_json(notika._do_grant(
      new.caller, split_part(new.verb, '_', 1), split_part(new.verb, '_', 2),
      (v_args ->> 'role')::oid))
  end;
  return new;
end;
$$;

comment on function notika._carry_out() is
  'Carries a request out as the owner, if its caller may execute the verb.';

create or replace trigger carry_out
  instead of insert on notika._request
  for each row
  execute function notika._carry_out();

-- A trigger, rule or default that somebody has attached would run as each caller.
do $$
declare
  v_statement text;
begin
  for v_statement in
    select pg_catalog.format('drop trigger %I on notika._request', t.tgname)
      from pg_catalog.pg_trigger as t
     where t.tgrelid = 'notika._request'::pg_catalog.regclass and t.tgname <> 'carry_out'
    union all
    select pg_catalog.format('drop rule %I on notika._request', r.rulename)
      from pg_catalog.pg_rewrite as r
     where r.ev_class = 'notika._request'::pg_catalog.regclass and r.rulename <> '_RETURN'
    union all
    select pg_catalog.format('alter view notika._request alter column %I drop default', a.attname)
      from pg_catalog.pg_attribute as a
     where a.attrelid = 'notika._request'::pg_catalog.regclass and a.atthasdef
  loop
    execute v_statement;
  end loop;
end;
$$;

-- pgls-ignore lint/safety/lockTimeoutWarning: nobody waits for this view
alter view notika._request alter column caller set default current_user;
--! EndIncluded 63_request.sql
--! Included 64_options.sql
-- What a workflow asks of its hand-over beyond "each event, at once": its options.
-- They are kept as they are understood: a list where a column may stand alone.  Whatever the
-- dispatcher meets in them was checked here, because an error there would stop the hand-over of all
-- workflows.

create or replace function notika._refuse_option(
  workflow text,
  option text,
  problem text,
  example text,
  code text default 'invalid_parameter_value',
  detail text default null
)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '% of workflow "%" %', _refuse_option.option, workflow, problem
    using errcode = _refuse_option.code,
          detail = coalesce(_refuse_option.detail, ''),
          hint = format('For instance: select notika.configure(%L, %L);', workflow, example);
end;
$$;

comment on function notika._refuse_option(text, text, text, text, text, text) is
  'Says what is wrong with an option, with an example of what would be right, as an error.';

create or replace function notika._option_columns(
  workflow text,
  option text,
  value jsonb,
  known text[],
  example text
)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns jsonb := _option_columns.value;
  v_unknown text;
begin
  if jsonb_typeof(v_columns) = 'string' then
    v_columns := jsonb_build_array(v_columns);
  end if;
  if jsonb_typeof(v_columns) <> 'array' or v_columns = '[]'
     or exists (select from jsonb_array_elements(v_columns) as c where jsonb_typeof(c) <> 'string')
  then
    perform notika._refuse_option(
      workflow, option, 'is not a column or a list of columns', _option_columns.example,
      detail => format('It is %s.', _option_columns.value));
  end if;

  select c.name into v_unknown
    from jsonb_array_elements_text(v_columns) with ordinality as c (name, place)
   where c.name <> all (_option_columns.known)
   order by c.place
   limit 1;
  if found then
    perform notika._refuse_option(
      workflow, option, format('names "%s", which its events do not carry', v_unknown),
      _option_columns.example, 'undefined_column',
      format('They carry %s.', array_to_string(_option_columns.known, ', ')));
  end if;
  return v_columns;
end;
$$;

comment on function notika._option_columns(text, text, jsonb, text[], text) is
  'The columns that an option names, as a list, or an error.';

create or replace function notika._option_interval(
  workflow text,
  option text,
  value jsonb,
  example text
)
  returns interval
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_interval interval;
begin
  begin
    v_interval := case jsonb_typeof(_option_interval.value)
                    when 'string' then (value #>> '{}')::interval end;
  exception when data_exception then
    v_interval := null;
  end;
  if v_interval is null or v_interval <= interval '0' or v_interval > interval '1 year' then
    perform notika._refuse_option(
      workflow, option, 'is not an interval of up to a year', _option_interval.example,
      detail => case when _option_interval.value is null then 'It is missing.'
                     else format('It is %s.', _option_interval.value) end);
  end if;
  return v_interval;
end;
$$;

comment on function notika._option_interval(text, text, jsonb, text) is
  'The time that an option says, or an error.';

create or replace function notika._option_number(
  workflow text,
  option text,
  value jsonb,
  at_least integer,
  at_most integer,
  example text
)
  returns integer
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_number numeric := case jsonb_typeof(_option_number.value)
                        when 'number' then (value #>> '{}')::numeric end;
begin
  if v_number is null or v_number <> trunc(v_number)
     or v_number not between _option_number.at_least and _option_number.at_most
  then
    perform notika._refuse_option(
      workflow, option,
      format('is not a whole number from %s to %s', _option_number.at_least, _option_number.at_most),
      _option_number.example, detail => format('It is %s.', _option_number.value));
  end if;
  return v_number;
end;
$$;

comment on function notika._option_number(text, text, jsonb, integer, integer, text) is
  'The number that an option says, or an error.';

create or replace function notika._option_choice(
  workflow text,
  option text,
  value jsonb,
  choices text[],
  example text
)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_typeof(value) <> 'string' or value #>> '{}' <> all (choices) then
    perform notika._refuse_option(
      workflow, option, format('is not one of %s', array_to_string(choices, ', ')), example,
      detail => format('It is %s.', value));
  end if;
  return value;
end;
$$;

comment on function notika._option_choice(text, text, jsonb, text[], text) is
  'The word that an option says, or an error.';

create or replace function notika._gathering_options(
  workflow text,
  option text,
  value jsonb,
  known text[]
)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_example constant text := jsonb_build_object(option, jsonb_build_object(
    'by', known[1], 'window', '5 minutes',
    'max', case option when 'debounce' then to_jsonb('1 hour'::text) else to_jsonb(100) end));
  v_unknown text;
  v_window interval;
  v_gathering jsonb;
begin
  if jsonb_typeof(_gathering_options.value) <> 'object' then
    perform notika._refuse_option(
      workflow, option, 'is not an object with by, window and max', v_example,
      detail => format('It is %s.', _gathering_options.value));
  end if;
  select k into v_unknown
    from jsonb_object_keys(_gathering_options.value) as k
   where k not in ('by', 'window', 'max')
   limit 1;
  if found then
    perform notika._refuse_option(
      workflow, option, format('has no setting "%s"', v_unknown), v_example,
      detail => 'Its settings are by, window and max.');
  end if;

  v_window := notika._option_interval(workflow, option || '.window', value -> 'window', v_example);
  v_gathering := jsonb_build_object('window', value -> 'window');
  if value ? 'by' then
    v_gathering := v_gathering || jsonb_build_object(
      'by', notika._option_columns(workflow, option || '.by', value -> 'by', known, v_example));
  end if;
  if not value ? 'max' then
    return v_gathering;
  end if;

  if option = 'digest' then
    return v_gathering || jsonb_build_object(
      'max', notika._option_number(workflow, 'digest.max', value -> 'max', 1, 10000, v_example));
  end if;
  if notika._option_interval(workflow, 'debounce.max', value -> 'max', v_example) < v_window then
    perform notika._refuse_option(
      workflow, 'debounce.max', 'is shorter than its window', v_example,
      detail => 'After max the run starts, even while events still come.');
  end if;
  return v_gathering || jsonb_build_object('max', value -> 'max');
end;
$$;

comment on function notika._gathering_options(text, text, jsonb, text[]) is
  'What debounce or digest says, as it is kept, or an error.';

create or replace function notika._payload_keys(spec notika.workflow)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce((spec).columns, array(
    select a.attname::text
      from pg_attribute as a
     where a.attrelid = (spec).relation and a.attnum > 0 and not a.attisdropped
     order by a.attnum
  ));
$$;

comment on function notika._payload_keys(notika.workflow) is
  'The keys of new and old in the events of a workflow.';

create or replace function notika._check_options(spec notika.workflow, options jsonb)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_known constant text[] := notika._payload_keys(_check_options.spec);
  v_example text;
  v_option text;
  v_value jsonb;
  v_checked jsonb := '{}'::jsonb;
begin
  if jsonb_typeof(_check_options.options) is distinct from 'object' then
    raise exception 'options of workflow "%" are not an object', spec.name
      using errcode = 'invalid_parameter_value',
            detail = format('They are %s.', coalesce(_check_options.options::text, 'null')),
            hint = format('For instance: select notika.configure(%L, ''{"concurrency": 5}'');',
                          spec.name);
  end if;

  if notika._workflow_of(spec.name) is not null and _check_options.options <> '{}' then
    raise exception 'options of source "%" have no meaning', spec.name
      using errcode = 'invalid_parameter_value',
            hint = format('Give them to its workflow: select notika.configure(%L, %L);',
                          notika._workflow_of(spec.name), _check_options.options);
  end if;
  for v_option, v_value in
    select o.key, o.value from jsonb_each(_check_options.options) as o where o.value <> 'null'
  loop
    v_example := jsonb_build_object(
      v_option, case v_option when 'concurrency' then to_jsonb(5) when 'priority' then to_jsonb(10)
                     else to_jsonb(v_known[1]) end);
    v_checked := v_checked || jsonb_build_object(v_option, case
      when v_option in ('key', 'order') then
        notika._option_columns(spec.name, v_option, v_value, v_known, v_example)
      when v_option = 'concurrency' then
        to_jsonb(notika._option_number(spec.name, v_option, v_value, 1, 10000, v_example))
      when v_option = 'truncate' then notika._option_choice(
        spec.name, v_option, v_value, '{record,warn,refuse}', '{"truncate": "refuse"}')
      when v_option in ('debounce', 'digest') then
        notika._gathering_options(spec.name, v_option, v_value, v_known)
      when v_option = 'schedule' then notika._check_schedule(spec.name, v_value)
      when v_option = 'priority' then
        to_jsonb(notika._option_number(spec.name, v_option, v_value, -1000, 1000, v_example))
    end);
    if v_checked -> v_option = 'null' then
      raise exception 'workflow "%" has no option "%"', spec.name, v_option
        using errcode = 'invalid_parameter_value',
              detail = 'The options are key, concurrency, order, debounce, digest, schedule, truncate and '
                       'priority.',
              hint = format('For instance: select notika.configure(%L, ''{"concurrency": 5}'');',
                            spec.name);
    end if;
  end loop;

  if v_checked ? 'debounce' and v_checked ? 'digest' then
    perform notika._refuse_option(
      spec.name, 'debounce', 'excludes its digest',
      jsonb_build_object('digest', v_checked -> 'digest')::text,
      detail => 'Both gather events into one run: debounce until no more come, '
                'digest for a fixed time.');
  end if;
  for v_option in select unnest('{debounce,digest}'::text[]) loop
    continue when not v_checked ? v_option or not v_checked ? 'order'
      or v_checked -> 'order' <@ coalesce(v_checked #> array[v_option, 'by'], '[]');
    perform notika._refuse_option(
      spec.name, 'order', format('has columns that %s.by has not', v_option),
      (v_checked || jsonb_build_object(
        v_option, (v_checked -> v_option) || jsonb_build_object('by', v_checked -> 'order')))::text,
      detail => 'One run gets all events of its ' || v_option || ', which must be of one order.');
  end loop;
  return v_checked;
end;
$$;

comment on function notika._check_options(notika.workflow, jsonb) is
  'The options of a workflow as they are kept, or an error.';

create or replace function notika.configure(workflow text, options jsonb)
  returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_outcome text;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  v_outcome := notika._ask_shortly('configure', jsonb_build_object(
    'workflow', configure.workflow, 'options', configure.options)) #>> '{}';
  perform set_config('lock_timeout', v_before, true);
  return v_outcome;
exception when lock_not_available then
  raise exception 'cannot configure workflow "%": somebody else is changing it', configure.workflow
    using errcode = 'lock_not_available',
          detail = format('Gave up after %s.', notika._lock_timeout('3s')),
          hint = 'Try again. Which sessions may hold it: select pid, query from pg_stat_activity '
                 'where state = ''idle in transaction'';';
end;
$$;

comment on function notika.configure(text, jsonb) is
  'Sets the options of a workflow, which replace those it has. key: one run for each value; '
  'concurrency: how many runs at a time; order: runs of the same value one after the other; '
  'debounce, digest: {by, window, max}, one run for many events; '
  'schedule: {cron, timeZone, missed}, as in notika.schedule; truncate: record, warn or refuse, what '
  'becomes of a TRUNCATE where deletes wake the workflow; priority: a whole number, 0 if it is not '
  'given: runs with a smaller one go before all others. Says changed or unchanged.';

create or replace function notika._do_configure(caller name, workflow text, options jsonb)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_do_configure.workflow);
  v_before notika.workflow;
  v_options jsonb;
begin
  select w.* into v_before
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  perform notika._expect_decider(v_before, _do_configure.caller);
  v_options := notika._check_options(v_before, nullif(_do_configure.options, 'null'));
  perform notika._set_schedule(v_workflow_id, v_options -> 'schedule');
  if v_options = v_before.options then
    return 'unchanged';
  end if;

  update notika.workflow as w set options = v_options where w.workflow_id = v_workflow_id;
  perform notika._advance(v_workflow_id);
  return 'changed';
end;
$$;

comment on function notika._do_configure(name, text, jsonb) is 'Carries out configure for a caller.';
--! EndIncluded 64_options.sql
--! Included 65_publish.sql
-- publish, plan, unpublish: the only functions that do DDL on somebody's table.
-- plan and publish share everything up to the list of steps; publish then executes it, under a lock
-- timeout.  The condition is text that becomes part of a statement, so it is taken apart first.

create or replace function notika._call(spec notika.workflow, shown text default null)
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
    case when (spec).guard <> 'block' or shown = 'guard'
         then ', guard => ' || quote_literal((spec).guard) end,
    case when (spec).on_rename <> 'follow' or shown = 'on_rename'
         then ', on_rename => ' || quote_literal((spec).on_rename) end,
    ', options => ' || quote_literal(nullif((spec).options, '{}')::text),
    ', match => ' || quote_literal((spec).match::text)
  );
$$;

comment on function notika._call(notika.workflow, text) is
  'The call of publish that has this meaning, without what goes without saying, but with the option '
  'that is to be shown.';

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
    -- Often a name is right but for its case or an underscore.
    names := array(
      select k.name
        from unnest(names) with ordinality as n (name, place)
        join unnest(v_known) as k (name)
          on k.name = n.name
          or n.name <> all (v_known)
         and lower(translate(k.name, '_', '')) = lower(translate(n.name, '_', ''))
       group by k.name
       order by min(n.place)
    );
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

create or replace function notika._unreadable(caller name, function regprocedure, relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when has_table_privilege(_unreadable.caller, _unreadable.relation, 'select') then null
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
                and not has_column_privilege(_unreadable.caller, d.refobjid, a.attnum, 'select')
           )
         end;
$$;

comment on function notika._unreadable(name, regprocedure, regclass) is
  'The columns of a table that a function reads and the caller may not; *: the row as a whole.';

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

create or replace function notika._owner()
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_get_userbyid(n.nspowner) from pg_namespace as n where n.nspname = 'notika';
$$;

comment on function notika._owner() is 'The role that owns Notika, also for code that runs as another.';

create or replace function notika._needed_rights(relation regclass, function regprocedure)
  returns table (privilege text, object text, is_had boolean, may_grant boolean)
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_owner constant name := notika._owner();
begin
  return query
    with part (oid) as (
      select f::oid from notika._family(_needed_rights.relation) as f
      union
      select p.relid from pg_partition_tree(_needed_rights.relation) as p
    ), schema (oid, is_tables) as (
      select c.relnamespace, true from pg_class as c where c.oid = _needed_rights.relation
      union
      -- Those that a condition names.
      select coalesce(p.pronamespace, t.typnamespace, o.oprnamespace), false
        from pg_depend as d
        left join pg_proc as p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
        left join pg_type as t on d.refclassid = 'pg_type'::regclass and t.oid = d.refobjid
        left join pg_operator as o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid
       where d.classid = 'pg_proc'::regclass and d.objid = _needed_rights.function
         and coalesce(p.pronamespace, t.typnamespace, o.oprnamespace) is not null
    )
    select n.privilege, n.object, n.is_had, n.may_grant
      from (
        select 1 as place, 'usage' as privilege, format('schema %I', n.nspname) as object,
               has_schema_privilege(v_owner, n.oid, 'usage') as is_had,
               pg_has_role(n.nspowner, 'usage') or has_schema_privilege(n.oid, 'usage with grant option')
                 as may_grant
          from pg_namespace as n
         where n.oid in (select s.oid from schema as s) and n.nspname !~ '^pg_'
        union all
        select 2, k.privilege, format('table %s', notika._quoted(c.oid)),
               has_table_privilege(v_owner, c.oid, k.privilege),
               pg_has_role(c.relowner, 'usage') or has_table_privilege(c.oid, k.privilege || ' with grant option')
          from pg_class as c
         cross join unnest('{select,trigger}'::text[]) as k (privilege)
         where c.oid in (select p.oid from part as p)
        union all
        -- Everybody has it unless it was revoked.
        select 3, 'usage', format('type %s', notika._quoted(c.oid)),
               has_type_privilege(v_owner, c.reltype, 'usage'),
               pg_has_role(c.relowner, 'usage') or has_type_privilege(c.reltype, 'usage with grant option')
          from pg_class as c
         where c.oid in (select p.oid from part as p)
      ) as n
     order by n.place, n.object, n.privilege;
end;
$$;

comment on function notika._needed_rights(regclass, regprocedure) is
  'The rights that the owner of Notika needs on a table to capture its changes, to read its rows, and '
  'to name what a condition uses; whether it has them, and whether the caller may grant them.';

create or replace function notika._grant_missing(relation regclass, function regprocedure)
  returns jsonb
  language plpgsql
  volatile
  security invoker -- as somebody who may
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_owner constant name := notika._owner();
  v_right record;
  v_given jsonb := '[]'::jsonb;
begin
  for v_right in
    select n.* from notika._needed_rights(_grant_missing.relation, _grant_missing.function) as n
     where not n.is_had and n.may_grant
  loop
    execute format('grant %s on %s to %I', v_right.privilege, v_right.object, v_owner);
    v_given := v_given || jsonb_build_object('privilege', v_right.privilege, 'object', v_right.object);
  end loop;
  return v_given;
end;
$$;

comment on function notika._grant_missing(regclass, regprocedure) is
  'Grants the owner of Notika what it lacks on a table, as far as the caller may, and says what.';

create or replace function notika._revoke_given(given json)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner constant name := notika._owner();
  v_right record;
begin
  for v_right in
    select g.privilege, g.object from json_to_recordset(given) as g (privilege text, object text)
  loop
    begin
      execute format('revoke %s on %s from %I', v_right.privilege, v_right.object, v_owner);
    exception when insufficient_privilege or undefined_table or undefined_object or invalid_schema_name then
      null; -- uninstall names what is left
    end;
  end loop;
end;
$$;

comment on function notika._revoke_given(json) is
  'Takes back what _grant_missing gave, as far as the caller may.';

create or replace function notika._keep_given(before jsonb, given jsonb, spec notika.workflow)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Only what is about this table: what is said to have been given will be taken back.
  select coalesce(jsonb_agg(distinct g.right), '[]')
    from jsonb_array_elements(_keep_given.before || coalesce(_keep_given.given, '[]')) as g ("right")
   where g.right in (
     select jsonb_build_object('privilege', n.privilege, 'object', n.object)
       from notika._needed_rights((spec).relation, null) as n
   );
$$;

comment on function notika._keep_given(jsonb, jsonb, notika.workflow) is
  'What publish has granted for a workflow, with what it granted just now.';

create or replace function notika._unneeded(spec notika.workflow)
  returns json
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(json_agg(g.right), '[]')
    from jsonb_array_elements((spec).given) as g ("right")
   where g.right not in (
     select jsonb_build_object('privilege', n.privilege, 'object', n.object)
       from notika.workflow as w
      cross join lateral notika._needed_rights(w.relation, null) as n
      where w.unpublished_at is null and w.relation is not null and w.workflow_id <> (spec).workflow_id
   );
$$;

comment on function notika._unneeded(notika.workflow) is
  'What publish has granted for a workflow and no other one needs.';

create or replace function notika._check_rights(spec notika.workflow, caller name)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_columns text;
begin
  if not has_schema_privilege(caller, (
    select c.relnamespace from pg_class as c where c.oid = spec.relation
  ), 'usage') then
    raise exception 'role "%" may not use the schema of table %', caller, spec.table_name
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant usage on schema %I to %I;', (parse_ident(spec.table_name))[1], caller);
  end if;
  if not has_table_privilege(caller, spec.relation, 'trigger') then
    raise exception 'role "%" may not create triggers on table %', caller, spec.table_name
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant trigger on %s to %I;', spec.table_name, caller);
  end if;

  -- Publishing shows the rows to those who read events: only for a role that may read them anyway.
  if spec.columns is null then
    if not has_table_privilege(caller, spec.relation, 'select') then
      raise exception 'role "%" may not read table %', caller, spec.table_name
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant select on %s to %I;', spec.table_name, caller);
    end if;
  else
    select string_agg(format('%I', k.name), ', ') into v_columns
      from unnest(spec.columns || spec.watch) as k (name)
     where not has_column_privilege(caller, spec.relation, k.name, 'select');
    if v_columns is not null then
      raise exception 'role "%" may not read % of table %', caller, v_columns, spec.table_name
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant select (%s) on %s to %I;', v_columns, spec.table_name, caller);
    end if;
  end if;
end;
$$;

comment on function notika._check_rights(notika.workflow, name) is
  'Refuses to publish a table for a caller who could not attach a trigger to it, or read it.';

create or replace function notika._check_own_rights(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_right record;
begin
  select n.* into v_right
    from notika._needed_rights(spec.relation, null) as n
   where not n.is_had and n.privilege <> 'select'
     and (spec.columns is not null or n.object not like 'type %')
   order by n.object = 'table ' || spec.table_name desc
   limit 1;
  if found then
    raise exception 'role "%", which owns Notika, may not %', current_user,
        case when v_right.object like 'schema %' then format('use the schema of table %s', spec.table_name)
             when v_right.object like 'type %' then format('use the row type of table %s', substr(v_right.object, 6))
             else format('create triggers on table %s', substr(v_right.object, 7)) end
      using errcode = 'insufficient_privilege',
            detail = format('Its caller does not own the %s and may not grant it.', v_right.object),
            hint = format('Let the owner of it, or an administrator, run: grant %s on %s to %I;',
                          v_right.privilege, v_right.object, current_user);
  end if;
end;
$$;

comment on function notika._check_own_rights(notika.workflow) is
  'Refuses to publish a table on which the owner of Notika may not make what it needs.';

create or replace function notika._may_decide(spec notika.workflow, caller name)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(_may_decide.caller, current_user, 'member')
      or coalesce((
           select pg_has_role(_may_decide.caller, r.oid, 'member')
             from pg_roles as r
            where r.oid = (spec).publisher_id
         ), false)
      or coalesce((
           select pg_has_role(_may_decide.caller, c.relowner, 'member')
             from pg_class as c
            where c.oid = (spec).relation
         ), false);
$$;

comment on function notika._may_decide(notika.workflow, name) is
  'Whether a role is a member of the one that published a workflow, of the owner of its table, or of '
  'the owner of Notika.';

create or replace function notika._expect_decider(spec notika.workflow, caller name, or_runner boolean default false)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner oid := (select c.relowner from pg_class as c where c.oid = spec.relation);
begin
  if notika._may_decide(spec, caller)
     or or_runner and has_function_privilege(caller, 'notika.dispatch(integer)', 'execute')
  then
    return;
  end if;
  raise exception 'role "%" may not decide about workflow "%"', caller, spec.name
    using errcode = 'insufficient_privilege',
          detail = format('It was published by "%s"%s. It may be changed by members of %s.',
                     spec.published_by,
                     case when v_owner is not null
                          then format(', its table is owned by "%s"', pg_get_userbyid(v_owner)) end,
                     case when v_owner is not null then 'these roles and of the owner of Notika'
                          else 'this role and of the owner of Notika' end),
          hint = format('Let a member of one of these roles do it, or an administrator run: grant %I to %I;',
                        -- Of a superuser nobody should become a member.
                        coalesce((
                          select r.rolname from pg_roles as r
                           where r.oid in (v_owner, spec.publisher_id) and not r.rolsuper
                           order by r.oid = v_owner desc
                           limit 1
                        ), current_user), caller);
end;
$$;

comment on function notika._expect_decider(notika.workflow, name, boolean) is
  'An error unless the caller may change a workflow, or, where runners may as well, is a runner.';

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
  caller name,
  workflow text,
  table_name text,
  operations text[],
  columns text[],
  watch text[],
  condition text,
  function oid,
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
  if v_spec.name is null or v_spec.name !~ '^[A-Za-z][A-Za-z0-9_-]{0,62}(:[A-Za-z][A-Za-z0-9_-]{0,62})?$'
  then
    v_corrected.name := coalesce(
      nullif(btrim(regexp_replace(left(v_spec.name, 63), '[^A-Za-z0-9_-]+', '_', 'g'), '_'), ''),
      'my_workflow');
    if v_corrected.name ~ '^[^A-Za-z]' then
      v_corrected.name := left('w' || v_corrected.name, 63);
    end if;
    raise exception 'workflow name "%" is not valid', coalesce(v_spec.name, 'null')
      using errcode = 'invalid_name',
            detail = 'It is the name of the task''s file: up to 63 letters, digits, _ and -, '
                     'of which the first is a letter. What its runs wait for is published '
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
            hint = 'For instance: ' || notika._call(v_corrected, shown => 'guard');
  end if;
  if v_spec.on_rename is null or v_spec.on_rename not in ('follow', 'block') then
    v_corrected.on_rename := 'follow';
    raise exception 'on_rename "%" is not follow or block', coalesce(v_spec.on_rename, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: ' || notika._call(v_corrected, shown => 'on_rename');
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
  perform notika._check_rights(v_spec, _specify.caller);
  if v_spec.condition is not null then
    select c.condition_sql, c.condition_uses into v_spec.condition_sql, v_spec.condition_uses
      from notika._take_condition(v_spec, _specify.caller, _specify.function) as c;
  end if;
  v_spec.match := notika._check_match(v_spec, _specify.match);
  v_spec.column_names := v_spec.columns;
  v_spec.is_pinned := notika._wants_pins(v_spec.guard);
  return v_spec;
end;
$$;

comment on function
  notika._specify(name, text, text, text[], text[], text[], text, oid, text, text, text[]) is
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

create or replace function notika._locked(relation regclass)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The trigger of a partitioned table is made on each of its partitions, too.
  return concat_ws(', ', notika._quoted(_locked.relation), (
    select string_agg(notika._quoted(p.relid), ', ' order by p.level, notika._quoted(p.relid))
      from pg_partition_tree(_locked.relation) as p
     where p.level > 0
  ));
end;
$$;

comment on function notika._locked(regclass) is
  'The tables that are locked by who makes or drops a trigger on this one: its partitions, too.';

create or replace function notika._statements(spec notika.workflow)
  returns table (statement text, lock text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
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
               format('revoke execute on function notika.payload_%s(record) from public',
                      (spec).workflow_id),
               null
         where notika._has_fallback(spec)
        union all
        select 4, null,
               notika._capture_definition(spec),
               null
        union all
        select 5, null,
               format('revoke execute on function notika._capture_%s() from public',
                      (spec).workflow_id),
               null
        union all
        select 6, null,
               notika._passes_definition(spec),
               null
         where (spec).condition is not null and not (spec).is_pinned
        union all
        select 6, null,
               notika._truncate_definition((spec).workflow_id),
               null
         where notika._notices_truncate(spec)
        union all
        select 7, null,
               format('revoke execute on function notika._truncated_%s() from public',
                      (spec).workflow_id),
               null
         where notika._notices_truncate(spec)
        union all
        select 8, f.name || o.name,
               notika._trigger_definition(spec, f.relation, o.name),
               'share row exclusive on ' || notika._locked(f.relation)
          from family as f
         cross join unnest((spec).operations) as o (name)
        union all
        select 8, f.name || 'truncate',
               notika._truncate_trigger((spec).workflow_id, f.relation),
               'share row exclusive on ' || f.name
          from family as f
         where notika._notices_truncate(spec)
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
                         format('_truncated_%s', _generated.workflow_id),
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
     and notika._has_truncate_triggers(after)
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
    lock := 'access exclusive on ' || notika._locked(v_table);
    return next;
    v_left := v_left || v_table;
  end loop;
  if to_regprocedure(format('notika._truncated_%s()', after.workflow_id)) is not null
     and not notika._truncates_fit(after)
  then
    statement := format('drop function notika._truncated_%s() cascade', after.workflow_id);
    lock := 'access exclusive on ' || (
      select string_agg(t.name, ', ' order by t.name) from notika._truncate_tables(after.workflow_id) as t (name));
    return next;
  end if;
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
                 select string_agg(distinct notika._locked(t.relation), ', ')
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
    lock := 'access exclusive on ' || notika._locked(v_trigger.relation);
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
  -- Kept even if what follows is not for Notika's owner: the owner of the table enables the new ones.
  update notika.workflow as w
     set fires_always = true
   where w.workflow_id = _enable_always.workflow_id
     and not w.fires_always and _enable_always.triggers <> '{}';

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
    raise warning 'changes that replication brings do not wake a workflow any more: its trigger was replaced'
      using hint = format('Run, as the owner of the table: %s;', v_statement);
  end;
end;
$$;

comment on function notika._enable_always(integer, text[]) is
  'Enables triggers of a workflow again as they were before they were replaced.';

create or replace function notika._apply(before notika.workflow, after notika.workflow)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set lc_monetary = 'C' -- as what it parses was printed
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
    if v_count = 0 and after.is_pinned then
      perform notika._expect_meaning(after);
    end if;
    execute v_statement;
    v_count := v_count + 1;
  end loop;
  if v_count > 0 then
    perform notika._check_payload_code(after.workflow_id);
    perform notika._expect_as_read(after);
  end if;
  perform notika._settle_capture_rights(after.workflow_id, after.relation);
  if v_always <> '{}' and v_count > 0 then
    perform notika._enable_always(after.workflow_id, v_always);
  end if;
  return v_count;
exception
  when lock_not_available or deadlock_detected or sqlstate 'NK002' then
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
          detail = format('Gave up after %s; waiting longer would block the application.',
                          notika._lock_timeout('3s')),
          hint = format('Try again. Who holds it: select pid, mode from pg_locks '
                        'where relation = %L::regclass and granted;', table_name);
end;
$$;

comment on function notika._refuse_locked(text, text, text) is
  'Says that a table, or the workflow itself, was locked for too long, as an error.';

create or replace function notika._as_called(
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
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_call notika.workflow;
begin
  v_call.name := _as_called.workflow;
  v_call.table_name := _as_called.table_name;
  v_call.operations := _as_called.operations;
  v_call.columns := _as_called.columns;
  v_call.watch := _as_called.watch;
  v_call.condition := nullif(btrim(_as_called.condition), '');
  v_call.guard := _as_called.guard;
  v_call.on_rename := _as_called.on_rename;
  v_call.options := '{}';
  v_call.match := _as_called.match;
  begin
    v_call.relation := notika._table(_as_called.table_name);
  exception when invalid_parameter_value then
    v_call.relation := null; -- which is said where all else is said
  end;
  return v_call;
end;
$$;

comment on function notika._as_called(text, text, text[], text[], text[], text, text, text, text[]) is
  'A workflow as the arguments of publish describe it, right or wrong.';

create or replace function notika._request_of(call notika.workflow, options jsonb, function regprocedure, given jsonb)
  returns jsonb
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'workflow', (call).name, 'table_name', (call).table_name, 'operations', (call).operations,
    'columns', (call).columns, 'watch', (call).watch, 'condition', (call).condition,
    'guard', (call).guard, 'on_rename', (call).on_rename, 'match', (call).match,
    'options', _request_of.options, 'function', _request_of.function::oid::bigint, 'given', _request_of.given);
$$;

comment on function notika._request_of(notika.workflow, jsonb, regprocedure, jsonb) is
  'The arguments of publish as a request has them.';

create or replace function notika._specify(caller name, request jsonb)
  returns notika.workflow
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_request record;
begin
  select r.* into v_request
    from jsonb_to_record(_specify.request) as r (
           workflow text, table_name text, operations text[], columns text[], watch text[],
           condition text, function oid, guard text, on_rename text, match text[]);
  return notika._specify(
    _specify.caller, v_request.workflow, v_request.table_name, v_request.operations, v_request.columns,
    v_request.watch, v_request.condition, v_request.function, v_request.guard, v_request.on_rename,
    v_request.match);
end;
$$;

comment on function notika._specify(name, jsonb) is 'Makes a workflow''s row of a request to publish it.';

create or replace function notika._plan(caller name, request jsonb)
  returns table (statement text, lock text)
  language plpgsql
  volatile
  security definer -- it changes nothing, and tells nothing that the catalog does not
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow := notika._specify(_plan.caller, _plan.request);
begin
  select w.* into v_before from notika.workflow as w where w.name = v_after.name;
  v_after.workflow_id := coalesce(
    v_before.workflow_id,
    -- The id that publish would draw now.
    coalesce(pg_sequence_last_value(
      pg_get_serial_sequence('notika.workflow', 'workflow_id')::regclass), 0) + 1
  );
  v_after.fires_always := v_before.fires_always;
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  v_after.options := notika._check_options(
    v_after, coalesce(nullif(_plan.request -> 'options', 'null'), v_before.options, '{}'));
  return query select s.statement || ';', s.lock from notika._steps(v_before, v_after) as s;
  if v_after.options <> coalesce(v_before.options, '{}') then
    return query
      select format('select notika.configure(%L, %L);', v_after.name, v_after.options), null::text;
  end if;
end;
$$;

comment on function notika._plan(name, jsonb) is
  'What publishing would do for a caller, who is taken at his word: nothing is done.';

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
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_call notika.workflow := notika._as_called(
    plan.workflow, plan.table_name, plan.operations, plan.columns, plan.watch, plan.condition,
    plan.guard, plan.on_rename, plan.match);
  v_function regprocedure;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  if v_call.condition is not null and v_call.relation is not null then
    v_function := notika._read_condition(v_call);
  end if;
  if v_call.relation is not null then
    return query
      select format('grant %s on %s to %I;', n.privilege, n.object, notika._owner()), null::text
        from notika._needed_rights(v_call.relation, v_function) as n
       where not n.is_had and (n.may_grant or n.privilege <> 'select');
  end if;
  return query
    select p.statement, p.lock
      from notika._plan(current_user, notika._request_of(v_call, plan.options, v_function, null)) as p;
  if v_function is not null then
    execute 'drop function pg_temp.notika_condition()';
  end if;
  perform set_config('lock_timeout', v_before, true);
exception when lock_not_available then
  perform notika._refuse_locked('plan', plan.workflow, plan.table_name);
end;
$$;

comment on function
  notika.plan(text, text, text[], text[], text[], text, text, text, jsonb, text[]) is
  'What publish would do with the same arguments: what it would grant, its statements and the locks '
  'they take. Changes nothing; no rows: publish would have nothing to do.';

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
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_call notika.workflow := notika._as_called(
    publish.workflow, publish.table_name, publish.operations, publish.columns, publish.watch,
    publish.condition, publish.guard, publish.on_rename, publish.match);
  v_function regprocedure;
  v_given jsonb;
  v_outcome text;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  -- What the caller alone may do, he does: read his text, and grant what is his.
  if v_call.condition is not null and v_call.relation is not null then
    v_function := notika._read_condition(v_call);
  end if;
  if v_call.relation is not null then
    v_given := notika._grant_missing(v_call.relation, v_function);
  end if;
  v_outcome := notika._ask_shortly(
    'publish', notika._request_of(v_call, publish.options, v_function, v_given)) #>> '{}';
  if v_function is not null then
    execute 'drop function pg_temp.notika_condition()';
  end if;
  perform set_config('lock_timeout', v_before, true);
  return v_outcome;
exception when lock_not_available then
  return notika._refuse_locked('publish', publish.workflow, publish.table_name);
end;
$$;

comment on function
  notika.publish(text, text, text[], text[], text[], text, text, text, jsonb, text[]) is
  'Wakes workflow on changes of table_name (schema.table). operations: of insert, update, delete; '
  'columns: what an event carries, null for the whole row; watch: an update counts when one of '
  'these changes; condition: SQL over new and old, read with the rights of the caller; guard: block, '
  'warn, off; on_rename: follow, block; options: see notika.configure, null leaves them as they are. '
  'A workflow called name:source is what the runs of name wait for, by the values of match. Grants '
  'the owner of Notika what it lacks on the table, where the caller may. Says published, changed or '
  'unchanged. Waits three seconds for its locks, or lock_timeout where that is less.';

create or replace function notika._do_publish(caller name, request jsonb)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow := notika._specify(_do_publish.caller, _do_publish.request);
  v_is_changed boolean;
begin
  perform notika._check_own_rights(v_after);
  perform notika._check_planning(v_after.relation, true);
  perform notika._check_workflow_of(v_after);
  if notika._workflow_of(v_after.name) is not null then
    perform notika._expect_decider(w, _do_publish.caller)
       from notika.workflow as w
      where w.name = notika._workflow_of(v_after.name);
  end if;

  -- One publisher of a workflow at a time; the row also hands out the id.
  insert into notika.workflow
    (name, table_name, operations, guard, on_rename, definition, unpublished_at)
  select v_after.name, v_after.table_name, v_after.operations, v_after.guard, v_after.on_rename,
         '{}', clock_timestamp()
   where not exists (select from notika.workflow as w where w.name = v_after.name)
  on conflict (name) do nothing;
  select w.* into v_before from notika.workflow as w where w.name = v_after.name for update;
  if v_before.unpublished_at is null then
    perform notika._expect_decider(v_before, _do_publish.caller);
  end if;
  v_after.workflow_id := v_before.workflow_id;
  v_after.given := notika._keep_given(v_before.given, _do_publish.request -> 'given', v_after);
  v_after.fires_always := v_before.fires_always;
  perform notika._hold_columns(v_after);
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  v_after.options := notika._check_options(
    v_after, coalesce(nullif(_do_publish.request -> 'options', 'null'), v_before.options));
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
         condition_sql = v_after.condition_sql,
         condition_uses = v_after.condition_uses,
         capture = v_after.capture,
         guard = v_after.guard,
         on_rename = v_after.on_rename,
         definition = v_after.definition,
         is_pinned = v_after.is_pinned,
         options = v_after.options,
         match = v_after.match,
         given = v_after.given,
         broken_reason = null,
         unpublished_at = null,
         published_at = clock_timestamp(),
         published_by = _do_publish.caller,
         publisher_id = (select r.oid from pg_roles as r where r.rolname = _do_publish.caller)
   where w.workflow_id = v_after.workflow_id
     and (v_is_changed
          or w.broken_reason is not null
          or (w.definition, w.guard, w.on_rename, w.table_name, w.columns, w.watch, w.condition,
              w.condition_uses, w.options, w.match, w.given)
             is distinct from
             (v_after.definition, v_after.guard, v_after.on_rename, v_after.table_name,
              v_after.columns, v_after.watch, v_after.condition, v_after.condition_uses,
              v_after.options, v_after.match, v_after.given));
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
    perform notika._resume(v_after.name);
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
end;
$$;

comment on function notika._do_publish(name, jsonb) is 'Carries out publish for a caller.';

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
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  perform notika._revoke_given(
    notika._ask_shortly('unpublish', jsonb_build_object('workflow', unpublish.workflow)));
  perform set_config('lock_timeout', v_before, true);
exception when lock_not_available then
  perform notika._refuse_locked('unpublish', unpublish.workflow, (
    select w.table_name from notika.workflows as w where w.workflow = unpublish.workflow));
end;
$$;

comment on function notika.unpublish(text) is
  'Takes the triggers and functions of a workflow away, and those of its sources, and what publish '
  'granted for it where the caller may. What was captured before still runs.';

create or replace function notika._do_unpublish(caller name, workflow text)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning -- the triggers that go along are what was meant
as $$
declare
  v_workflow_id integer;
  v_workflow notika.workflow;
  v_source text;
  v_unneeded jsonb := '[]'::jsonb;
begin
  -- A source may have gone along with its workflow a moment ago.
  if exists (
    select from notika.workflow as w
     where w.name = _do_unpublish.workflow and notika._workflow_of(w.name) is not null
       and w.unpublished_at is not null
  ) then
    return '[]'::json;
  end if;
  v_workflow_id := notika._published(_do_unpublish.workflow);
  select w.* into v_workflow
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  perform notika._expect_decider(coalesce((
    select w from notika.workflow as w
     where w.name = notika._workflow_of(v_workflow.name) and notika._may_decide(w, _do_unpublish.caller)
  ), v_workflow), _do_unpublish.caller);
  for v_source in
    select s.name from notika.workflow as s
     where starts_with(s.name, _do_unpublish.workflow || ':') and s.unpublished_at is null
     order by s.name
  loop
    v_unneeded := v_unneeded || notika._unpublish(v_source)::jsonb;
  end loop;
  return v_unneeded || notika._unpublish(v_workflow.name)::jsonb;
end;
$$;

comment on function notika._do_unpublish(name, text) is
  'Carries out unpublish for a caller, and says what was granted for the workflow and is not needed.';

create or replace function notika._unpublish(workflow text)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow notika.workflow;
begin
  select w.* into v_workflow from notika.workflow as w where w.name = _unpublish.workflow for update;
  perform notika._warn_of_waits(v_workflow);
  perform notika._resume(v_workflow.name);

  perform notika._unpin(v_workflow.workflow_id);
  delete from notika.contract as c where c.workflow_id = v_workflow.workflow_id;
  delete from notika.contract_table as c where c.workflow_id = v_workflow.workflow_id;
  delete from notika.guard_pending as p where p.workflow_id = v_workflow.workflow_id;
  perform notika._set_schedule(v_workflow.workflow_id, null);
  perform notika._end_backfill(b.backfill_id, 'cancelled')
     from notika.backfill as b
    where b.workflow_id = v_workflow.workflow_id and b.finished_at is null;

  update notika.workflow as w
     set definition = '{}', options = w.options - 'schedule', broken_reason = null, given = '[]',
         fires_always = false, unpublished_at = clock_timestamp()
   where w.workflow_id = v_workflow.workflow_id;
  if notika._workflow_of(v_workflow.name) is not null then
    perform notika._refresh_capture(notika._workflow_of(v_workflow.name));
  end if;
  return notika._unneeded(v_workflow);
end;
$$;

comment on function notika._unpublish(text) is
  'Takes a workflow away, and says what was granted for it and is not needed any more.';
--! EndIncluded 65_publish.sql
--! Included 66_code.sql
-- What the rights of Notika's owner execute besides its own code, and how to know: the functions in
-- what Postgres has parsed of a payload function, and those that belong to a table and that Postgres
-- may execute when it plans a query of it.

create or replace function notika._type_parts(type oid)
  returns setof oid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with recursive part as (
    select _type_parts.type as oid
    union
    select i.oid
      from part as p
      join pg_type as t on t.oid = p.oid
     cross join lateral (
       select t.typelem as oid where t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc
       union all
       select t.typbasetype where t.typtype = 'd'
       union all
       select r.rngsubtype from pg_range as r where t.oid in (r.rngtypid, r.rngmultitypid)
       union all
       select r.rngtypid from pg_range as r where r.rngmultitypid = t.oid
       union all
       select a.atttypid from pg_attribute as a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
     ) as i
  )
  select p.oid from part as p;
$$;

comment on function notika._type_parts(oid) is
  'A type and all types in it: elements, attributes, what a domain or range is over.';

create or replace function notika._is_trusted(class oid, object oid, owner oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select _is_trusted.object < 16384
      or (select r.rolsuper from pg_roles as r where r.oid = _is_trusted.owner)
      -- Who owns an extension may add a function to it.
      or exists (
        select from pg_depend as d
          join pg_extension as x on x.oid = d.refobjid
          join pg_roles as r on r.oid = x.extowner and r.rolsuper
         where d.classid = _is_trusted.class and d.objid = _is_trusted.object and d.deptype = 'e'
      );
$$;

comment on function notika._is_trusted(oid, oid, oid) is
  'Whether a function or type is Postgres'' own, an extension''s or a superuser''s.';

create or replace function notika._is_trusted(function oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- A function can be replaced by its owner, also by one that does something else.
  select _is_trusted.function < 16384
      or coalesce((
           select notika._is_trusted('pg_proc'::regclass, p.oid, p.proowner) or p.proowner = n.nspowner
             from pg_proc as p
             join pg_namespace as n on n.nspname = 'notika'
            where p.oid = _is_trusted.function
         ), false);
$$;

comment on function notika._is_trusted(oid) is
  'Whether a function is Postgres'' own, an extension''s, a superuser''s or the owner''s of Notika.';

create or replace function notika._foreign_code(tree text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_token text[];
  v_depth integer := 0;
  v_kinds text[];
  v_functions oid[];
  v_types oid[];
  v_makes_json boolean;
begin
  -- Names in it have a backslash before whatever could be taken for structure.
  for v_token in
    select m
      from regexp_matches(
             tree,
             '\\.|(\{)([A-Z]+)|(\})|:(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)|'
             ':(?:resulttype|funcresulttype|opresulttype|casetype|coalescetype|consttype|vartype|'
             'paramtype|refrestype|array_typeid) ([0-9]+)',
             'g') as m
  loop
    if v_token[1] is not null then
      v_depth := v_depth + 1;
      v_kinds[v_depth] := v_token[2];
      v_functions[v_depth] := null;
      v_types[v_depth] := null;
      if v_token[2] in ('COERCETODOMAIN', 'COERCEVIAIO', 'CONVERTROWTYPEEXPR') then
        return format('a conversion (%s)', v_token[2]);
      end if;
    elsif v_token[4] is not null then
      v_functions[v_depth] := v_token[4]::oid;
      if v_token[4]::oid >= 16384 and not notika._is_trusted(v_token[4]::oid) then
        return format('function %s', v_token[4]::regprocedure);
      end if;
    elsif v_token[5] is not null then
      v_types[v_depth] := coalesce(v_types[v_depth], v_token[5]::oid);
    elsif v_token[3] is not null then
      v_depth := v_depth - 1;
      continue when v_depth < 1 or v_types[v_depth + 1] < 16384;
      -- What makes json of any value looks for a cast of its type when it runs.
      v_makes_json := v_kinds[v_depth] = 'TARGETENTRY' and v_kinds[v_depth + 1] = 'FIELDSELECT'
        or exists (
          select from pg_proc as p
           where p.oid = v_functions[v_depth] and p.pronamespace = 'pg_catalog'::regnamespace
             and p.prorettype in ('json'::regtype, 'jsonb'::regtype) and p.proname <> 'json_object'
        );
      if v_makes_json and coalesce(notika._base_type(v_types[v_depth + 1]), 16384) >= 16384 then
        return format('what belongs to type %s', coalesce(
          format_type(v_types[v_depth + 1], null), 'of a ' || v_kinds[v_depth + 1]));
      end if;
    end if;
  end loop;
  return null;
end;
$$;

comment on function notika._foreign_code(text) is
  'Something in a parsed function that is not Postgres'' own, a superuser''s or the owner''s and would '
  'be executed with it; null: there is nothing.';

create or replace function notika._check_payload_code(workflow_id integer)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
  v_foreign text;
begin
  -- Between the look at the table and the making of the function its columns may have changed.
  select f.function, f.foreign_code into v_function, v_foreign
    from (
      select p.oid::regprocedure as function, notika._foreign_code(p.prosqlbody::text) as foreign_code
        from pg_proc as p
       where p.pronamespace = 'notika'::regnamespace and p.prosqlbody is not null
         and p.proname = format('payload_%s', _check_payload_code.workflow_id)
    ) as f
   where f.foreign_code is not null
   limit 1;
  if found then
    raise exception 'function % would execute % with the rights of "%"',
      v_function, v_foreign, current_user
      using errcode = 'insufficient_privilege',
            detail = 'The table was changed while the function was made.',
            hint = 'Try again.';
  end if;
end;
$$;

comment on function notika._check_payload_code(integer) is
  'Refuses payload functions in which Postgres found more than what was written.';

create or replace function notika._operators(operator oid)
  returns setof oid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with recursive operator (oid, negator, commutator) as (
    select o.oid, o.oprnegate, o.oprcom from pg_operator as o where o.oid = _operators.operator
    union
    select o.oid, o.oprnegate, o.oprcom
      from operator as k
      join pg_operator as o on o.oid in (k.negator, k.commutator)
     where k.oid >= 16384
  )
  select o.oid from operator as o;
$$;

comment on function notika._operators(oid) is
  'An operator and those that the planner may put in its place: its negator and its commutator.';

create or replace function notika._called(class oid, object oid)
  returns setof regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select d.refobjid::regprocedure
    from pg_depend as d
   where d.classid = _called.class and d.objid = _called.object and d.refclassid = 'pg_proc'::regclass
  union
  select o.oprcode::regprocedure
    from pg_depend as d
   cross join lateral notika._operators(d.refobjid) as p (oid)
    join pg_operator as o on o.oid = p.oid
   where d.classid = _called.class and d.objid = _called.object
     and d.refclassid = 'pg_operator'::regclass and o.oprcode <> 0;
$$;

comment on function notika._called(oid, oid) is
  'The functions, those of operators included, that an object depends on.';

create or replace function notika._planned_functions(relation regclass)
  returns table (function regprocedure, part text, is_partition_key boolean)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with parts (relation) as (
    select _planned_functions.relation::oid
    union
    select p.relid from pg_partition_tree(_planned_functions.relation) as p
    union
    select a from pg_partition_ancestors(_planned_functions.relation) as a
  ), parsed (class, object, part, is_partition_key) as (
    select 'pg_class'::regclass, p.relation, 'the partition key of ' || notika._quoted(p.relation), true
      from parts as p
     where (select c.relkind from pg_class as c where c.oid = p.relation) = 'p'
    union all
    select 'pg_class'::regclass, i.indexrelid, format('index %I', c.relname), false
      from parts as p
      join pg_index as i on i.indrelid = p.relation
      join pg_class as c on c.oid = i.indexrelid
    union all
    select 'pg_statistic_ext'::regclass, s.oid, format('statistics %I', s.stxname), false
      from parts as p
      join pg_statistic_ext as s on s.stxrelid = p.relation
    union all
    -- Virtual ones are computed by the query.
    select 'pg_attrdef'::regclass, d.oid, format('column %I', a.attname), false
      from parts as p
      join pg_attribute as a on a.attrelid = p.relation and a.attgenerated = 'v'
      join pg_attrdef as d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
  )
  select c.function, p.part, p.is_partition_key
    from parsed as p
   cross join notika._called(p.class, p.object) as c (function)
   where not notika._is_trusted(c.function)
   order by p.part, c.function;
$$;

comment on function notika._planned_functions(regclass) is
  'The functions of others that Postgres may execute for any role that plans a query of a table: it computes '
  'beforehand what has the same value for all rows.';

create or replace function notika._check_planning(relation regclass, only_partition_key boolean)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_function regprocedure;
  v_part text;
begin
  select f.function, f.part into v_function, v_part
    from notika._planned_functions(_check_planning.relation) as f
   where f.is_partition_key or not _check_planning.only_partition_key
   limit 1;
  if found then
    raise exception 'function % of % would be executed with the rights of "%"',
      v_function, v_part, current_user
      using errcode = 'insufficient_privilege',
            detail = 'Postgres executes it already when it looks at the table, where it has the same '
                     'value for all rows.',
            hint = format('If you trust it: alter function %s owner to %I;', v_function, current_user);
  end if;
end;
$$;

comment on function notika._check_planning(regclass, boolean) is
  'Refuses a table whose indexes, statistics or partition keys call functions of others; for who makes '
  'a trigger, the partition keys alone matter.';
--! EndIncluded 66_code.sql
--! Included 66_condition.sql
-- Conditions: text of others that becomes part of a trigger and of a query of the owner's.
-- To parse a text is to execute some of it: a string takes the input function of the type that it
-- is compared with, which evaluates the checks of domains in arrays, composites and ranges.  So the
-- caller parses it, twice: first with null::unknown in the place of each string, which resolves to
-- the same tree and calls no input function; and with its strings only when no constant in that
-- tree is of a type that would.  What has a name of its own may be another by then: where there is
-- one in the condition, each string is a text that is converted when the condition is evaluated.
-- The owner takes the finished tree, keeps it as text with every name in full, and keeps what each
-- name meant: it parses that text only while the names mean the same, and compares what it got.

create or replace function notika._unsafe_literal(tree text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  -- Base types are a superuser's, and so are their input functions.
  select format_type(t.oid, null)
    from (
      select distinct m[1]::oid as type
        from regexp_matches(_unsafe_literal.tree, ':consttype (\d+)', 'g') as m
    ) as c
   cross join lateral notika._type_parts(c.type) as p (oid)
    join pg_type as t on t.oid = p.oid and t.typtype in ('d', 'c', 'r', 'm')
   where not notika._is_trusted('pg_type'::regclass, t.oid, t.typowner)
   order by 1
   limit 1;
$$;

comment on function notika._unsafe_literal(text) is
  'The type by which a string in a condition, which this is the tree of, would execute code of its '
  'owner when it is parsed; null: there is none.';

create or replace function notika._without_literals(condition text, are_text boolean default false)
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  -- Words that a string may follow without being of a type of that name.
  v_words constant text[] := '{and,or,not,is,like,ilike,in,between,symmetric,asymmetric,then,else,when,
    case,from,to,escape,for,distinct,placing,both,leading,trailing,zone,of,on,as,using,passing,default,
    any,all,some,array,document,content,version,variadic,value,key}'::text[];
  v_name constant text := $re$(?:"(?:[^"]|"")+"|[[:alpha:]_][\w$]*)$re$;
  v_token text[];
  v_type text;
  v_fields text;
  v_rest text := condition;
  v_done text := '';
begin
  loop
    -- Up to the next string; one that goes on after a new line is one string.
    v_token := regexp_match(v_rest,
      $re$^((?:[^'"]|"(?:[^"]|"")*")*)('(?:[^']|'')*'(?:\s*\n\s*'(?:[^']|'')*')*)(.*)$$re$);
    exit when v_token is null;
    v_done := v_done || v_token[1];
    v_rest := v_token[3];
    -- Bits and the field of extract() have no type to choose.
    if v_done ~* '(^|[^\w$"])[bx]$' or v_done ~* '(^|[^\w$."])extract\s*\(\s*$' then
      v_done := v_done || v_token[2];
      continue;
    end if;

    -- date '2026-01-01' is a cast.
    v_type := coalesce(
      substring(v_done from '(?i)(?:^|[^\w$".])((?:timestamp|time)\s*(?:\(\s*\d+\s*\))?\s+with(?:out)?\s+time\s+zone)\s*$'),
      substring(v_done from '(?i)(?:^|[^\w$".])(double\s+precision|(?:character|char|bit)\s+varying\s*(?:\(\s*\d+\s*\))?)\s*$'),
      substring(v_done from
        '(?:^|[^\w$".])(' || v_name || '(?:\s*\.\s*' || v_name || ')*\s*(?:\(\s*\d+\s*(?:,\s*\d+\s*)?\))?)\s*$')
    );
    if v_type is null or lower(btrim(v_type, E' \t\r\n')) = any (v_words) then
      v_done := v_done || case when are_text then v_token[2] || '::text' else 'null::unknown' end;
      continue;
    end if;
    v_type := rtrim(v_type, E' \t\r\n');
    v_done := left(rtrim(v_done, E' \t\r\n'), -length(v_type));
    v_fields := case when v_type ~* '^interval' then substring(v_rest from
      '(?i)^\s*(?:year|month|day|hour|minute|second)\M(?:\s*\(\s*\d\s*\))?(?:\s+to\s+(?:month|hour|minute|second)\M(?:\s*\(\s*\d\s*\))?)?') end;
    v_rest := substr(v_rest, 1 + coalesce(length(v_fields), 0));
    v_done := v_done || format('cast(%s as %s%s)', case when are_text then v_token[2] || '::text'
                                                   else 'null::unknown' end, v_type, v_fields);
  end loop;
  return v_done || v_rest;
end;
$body$;

comment on function notika._without_literals(text, boolean) is
  'A condition with null::unknown in the place of each string, or with each string as a text.';

create or replace function notika._names_others(condition text)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  -- Without a schema there is only what is Postgres' own.  An attribute may be of another type by then.
  select exists (
    select from regexp_matches(
        regexp_replace(_names_others.condition, $re$("(?:[^"]|"")*")|'(?:[^']|'')*'$re$, '\1', 'g'),
        '(?:^|[^\w$".])([[:alpha:]_][\w$]*|"(?:[^"]|"")*")\s*\.|(\))\s*\.', 'g') as m
     where m[2] is not null or lower(m[1]) not in ('new', 'old', 'pg_catalog')
  );
$$;

comment on function notika._names_others(text) is
  'Whether a condition names a type, function or operator by its schema, or an attribute of a value.';

create or replace function notika._with_text(condition_sql text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select string_agg(case
           when t.token[1] like '''%' and t.follows ~ '^::(?:[[:alpha:]_][\w$]*|"(?:[^"]|"")*")\.'
             then format('(%s::text)', t.token[1])
           else t.token[1] end, '' order by t.place)
    from (
      select m.token, m.place, lead(m.token[1]) over (order by m.place)
             || coalesce(lead(m.token[1], 2) over (order by m.place), '')
             || coalesce(lead(m.token[1], 3) over (order by m.place), '') as follows
        from regexp_matches(_with_text.condition_sql, $re$'(?:[^']|'')*'|"(?:[^"]|"")*"|[^'"]+$re$, 'g')
               with ordinality as m (token, place)
    ) as t;
$$;

comment on function notika._with_text(text) is
  'A condition as Postgres prints it, whose strings of types that are not its own are text first: to '
  'parse it executes no input function of theirs.';

create or replace function notika._without_casts(condition_sql text, types text[])
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_token text;
  v_strings text[] := array[]::text[];
  v_done text := '';
  v_type text;
  v_list text;
begin
  -- Each string is a number meanwhile, so that nothing in one is taken for code.
  for v_token in
    select m[1]
      from regexp_matches(_without_casts.condition_sql, $re$'(?:[^']|'')*'|"(?:[^"]|"")*"|[^'"]+$re$, 'g') as m
  loop
    if v_token like '''%' then
      v_strings := v_strings || v_token;
      v_token := format('''%s''', cardinality(v_strings));
    elsif v_token like '"%''%' then
      return _without_casts.condition_sql;
    end if;
    v_done := v_done || v_token;
  end loop;

  foreach v_type in array _without_casts.types loop
    v_type := '::' || regexp_replace(v_type, '([^\w\s])', '\\\1', 'g') || '(?![\w$."])';
    -- A list of them is an array of text without its types.
    loop
      v_list := substring(v_done from 'ARRAY\[(''\d+''' || v_type || '(?:, ''\d+''' || v_type || ')*)\]');
      exit when v_list is null;
      v_strings := v_strings || quote_literal(array(
        select replace(substr(s.string, 2, length(s.string) - 2), '''''', '''')
          from regexp_matches(v_list, '''(\d+)''', 'g') with ordinality as m (place, nth)
         cross join lateral (select v_strings[m.place[1]::integer] as string) as s
         order by m.nth
      )::text);
      v_done := replace(v_done, format('ARRAY[%s]', v_list), format('''%s''', cardinality(v_strings)));
    end loop;
    v_done := regexp_replace(v_done, '(''\d+'')' || v_type || '(?:\[\])?', '\1', 'g');
  end loop;

  return (
    select string_agg(case when m.token[1] like '''%'
                           then v_strings[btrim(m.token[1], '''')::integer]
                           else m.token[1] end, '' order by m.place)
      from regexp_matches(v_done, $re$'\d+'|[^']+$re$, 'g') with ordinality as m (token, place)
  );
end;
$$;

comment on function notika._without_casts(text, text[]) is
  'A condition as Postgres prints it, whose strings of these types say no type: that of the column they '
  'are compared with is theirs.';

create or replace function notika._condition_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_text constant text := notika._with_text(spec.condition_sql);
  v_bare text;
begin
  if v_text is not distinct from spec.condition_sql then
    return v_text;
  end if;
  -- A string that says no type is read as its column's, which no name changes.  That takes a column
  -- whose type was looked at, and a lock, so that it stays so.  A constant it is then, and goes on
  -- being one when its label is renamed.
  if notika._names_others(spec.condition)
     or not exists (
       select from pg_locks as l
        where l.locktype = 'relation' and l.pid = pg_backend_pid() and l.granted
          and l.database = (select d.oid from pg_database as d where d.datname = current_database())
          and l.relation = spec.relation
     )
     or exists (
       select from pg_attribute as a
         join pg_type as y on y.oid = a.atttypid
        where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
          and greatest(y.oid, y.typelem) >= 16384
          and spec.condition_sql ~ format('\.%s(?![\w$"])', regexp_replace(
            quote_ident(a.attname), '([^\w\s])', '\\\1', 'g'))
          and not exists (
            select from jsonb_to_recordset(spec.condition_uses) as u (kind text, oid oid)
             where u.kind = 'type' and u.oid in (y.oid, y.typelem)
          )
     )
  then
    return v_text;
  end if;
  v_bare := notika._without_casts(spec.condition_sql, array(
    select u.name
      from jsonb_to_recordset(spec.condition_uses) as u (kind text, oid oid, name text)
      join pg_type as t on u.kind = 'type' and t.oid = u.oid and t.typtype = 'e'
     where u.name is not null
  ));
  return case when notika._names_others(v_bare) then v_text else v_bare end;
end;
$$;

comment on function notika._condition_code(notika.workflow) is
  'The condition of a workflow as Notika''s owner lets Postgres parse it: no string in it is of a type '
  'that is found by its name.';

create or replace function notika._hold_columns(spec notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
begin
  if spec.condition is not null then
    execute format('lock table only %s in access share mode', notika._quoted(spec.relation));
  end if;
exception when insufficient_privilege then
  null; -- nothing can be made on it, as is said then
end;
$$;

comment on function notika._hold_columns(notika.workflow) is
  'Keeps the columns that a condition is about as they are until the end of the transaction.';

create or replace function notika._refuse_condition(
  spec notika.workflow,
  problem text,
  code text,
  hint text default null,
  detail text default null
)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  raise exception 'condition of workflow "%" is not valid: %', spec.name,
      replace(replace(problem, 'argument of WHERE', 'it'), ' in WHERE', ' in a condition')
    using errcode = code,
          detail = concat_ws(E'\n', format('The condition is: %s', spec.condition), _refuse_condition.detail),
          hint = coalesce(nullif(_refuse_condition.hint, ''),
            case code
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
            'Write one expression over new and old, for instance: new.<column> is not null.');
end;
$$;

comment on function notika._refuse_condition(notika.workflow, text, text, text, text) is
  'Says what is wrong with a condition, as an error.';

create or replace function notika._parse_condition(spec notika.workflow, condition text)
  returns text
  language plpgsql
  volatile
  security invoker -- whatever parsing executes, the caller does
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set client_min_messages = warning
as $$
declare
  v_state text;
  v_message text;
  v_hint text;
begin
  -- Postgres judges it as an expression over two rows.  What it refuses in a WHERE it refuses in a
  -- trigger's WHEN, which it refuses subqueries in too.
  begin
    execute format(
      'create or replace function pg_temp.notika_condition() returns boolean language sql '
      'begin atomic select true from %1$s as new, %1$s as old where (%2$s); end',
      notika._quoted(spec.relation), _parse_condition.condition);
  exception
    when lock_not_available or deadlock_detected or query_canceled then
      raise;
    when others then
      get stacked diagnostics
        v_state = returned_sqlstate, v_message = message_text, v_hint = pg_exception_hint;
      -- Which is said of the condition as it was given, where that is not it.
      perform notika._refuse_condition(spec, v_message, v_state, coalesce(nullif(v_hint, ''), case
        when v_state = '42601' and _parse_condition.condition <> spec.condition
          then 'A string that has its type in front of it is better written as a cast: ''...''::<type>.'
        when v_state in ('42883', '42725', '42804') and notika._names_others(spec.condition)
          then 'In a condition that names something by its schema a string is text: write the type of '
               'another after it, as in: ''...''::<type>.' end));
  end;
  return (
    select p.prosqlbody::text from pg_proc as p
     where p.oid = to_regprocedure('pg_temp.notika_condition()')
  );
end;
$$;

comment on function notika._parse_condition(notika.workflow, text) is
  'Lets Postgres parse a condition over two rows of a table, as the caller and into a temporary '
  'function, and returns its tree.';

create or replace function notika._operators_in(tree text)
  returns oid[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select array_agg(distinct o.oid::oid order by o.oid::oid)
    from regexp_matches(_operators_in.tree, ':(?:opno|opnos \(o) ([\d ]*\d)', 'g') as m
   cross join regexp_split_to_table(btrim(m[1]), ' +') as o (oid);
$$;

comment on function notika._operators_in(text) is 'The operators in a parsed condition.';

create or replace function notika._read_condition(spec notika.workflow)
  returns regprocedure
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_bare text;
  v_depth integer := 0;
  v_sign text;
  v_problem text;
  v_corrected notika.workflow := _read_condition.spec;
  v_type text;
  v_tree text;
  v_state text;
  v_message text;
  v_detail text;
  v_hint text;
  v_context text;
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
    when v_bare ~* $re$(^|[^a-z0-9_])(e|n)'|u&'$re$ then 'it has a string with escapes'
  end;
  if v_problem is not null then
    v_corrected.condition := 'new.<column> is not null';
    raise exception 'condition of workflow "%" is not valid: %', spec.name, v_problem
      using errcode = 'syntax_error',
            detail = format('The condition is: %s', spec.condition),
            hint = 'Write one expression over new and old, for instance: '
                   || notika._call(v_corrected);
  end if;
  if not has_database_privilege(current_database(), 'temporary') then
    raise exception 'role "%" may not create temporary objects in database "%"', current_user,
      current_database()
      using errcode = 'insufficient_privilege',
            detail = 'A condition is read with the rights of its author, in a temporary function.',
            hint = format('Let the owner of the database run: grant temporary on database %I to %I;',
                          current_database(), current_user);
  end if;

  v_tree := notika._parse_condition(spec, notika._without_literals(spec.condition));
  v_type := notika._unsafe_literal(v_tree);
  if v_type is not null then
    perform notika._refuse_condition(spec,
      format('it compares a string with type %s, which would execute code of the owner of that type',
             v_type), '0A000',
      'Compare a part of the value, or its text, as in: format(''%s'', new.<column>) = ''...''.',
      'To read a string as a value of a domain in an array, of a composite or of a range evaluates '
      'checks, for Notika with the rights of its owner.');
  end if;
  if not notika._names_others(spec.condition) then
    perform notika._parse_condition(spec, spec.condition);
  elsif notika._operators_in(v_tree) is distinct from notika._operators_in(
          notika._parse_condition(spec, notika._without_literals(spec.condition, true)))
  then
    perform notika._refuse_condition(spec, 'a string in it would be of another type than text', '42804',
      'Write the type of each string after it, as in: ''...''::<type>.');
  end if;
  return to_regprocedure('pg_temp.notika_condition()');
exception when others then
  get stacked diagnostics
    v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
    v_hint = pg_exception_hint, v_context = pg_exception_context;
  if notika._refuse_shortly(v_state, v_message, v_detail, v_hint, v_context) then
    return null;
  end if;
  raise;
end;
$$;

comment on function notika._read_condition(notika.workflow) is
  'Parses a condition as the caller into a temporary function, if nothing but Postgres'' own code and '
  'that of superusers is executed by it; an error says why it is not valid.';

create or replace function notika._meaning(kind text, object oid)
  returns table (name text, others text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
  -- By what else there is of that name, or converts to it, it could come to mean something else.
  select format_type(t.oid, null), (
           select string_agg(format('%s>%s:%s%s', c.castsource, c.casttarget, c.castfunc, c.castcontext), ' '
                             order by c.castsource, c.casttarget)
             from pg_cast as c
            where t.oid in (c.castsource, c.casttarget)
         )
    from pg_type as t
   where _meaning.kind = 'type' and t.oid = _meaning.object
  union all
  select format('%I.%I', n.nspname, p.proname), (
           select string_agg(o.oid::text, ' ' order by o.oid)
             from pg_proc as o
            where o.pronamespace = p.pronamespace and o.proname = p.proname and o.oid >= 16384
         )
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
   where _meaning.kind = 'function' and p.oid = _meaning.object
  union all
  select format('%I.%s', n.nspname, p.oprname), (
           select string_agg(o.oid::text, ' ' order by o.oid)
             from pg_operator as o
            where o.oprnamespace = p.oprnamespace and o.oprname = p.oprname and o.oid >= 16384
         )
    from pg_operator as p
    join pg_namespace as n on n.oid = p.oprnamespace
   where _meaning.kind = 'operator' and p.oid = _meaning.object;
$$;

comment on function notika._meaning(text, oid) is
  'The name of a type, function or operator, and what else there is by that name.';

create or replace function notika._uses(tree text)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  with mention (kind, object, note) as (
    select 'function', m[1]::oid, null
      from regexp_matches(_uses.tree, ':(?:funcid|opfuncid|negfuncid) (\d+)', 'g') as m
    union
    select 'operator', m[1]::oid, null from regexp_matches(_uses.tree, ':opno (\d+)', 'g') as m
    union
    select 'operator', o::oid, null
      from regexp_matches(_uses.tree, ':opnos \(o ([\d ]+)\)', 'g') as m
     cross join regexp_split_to_table(btrim(m[1]), ' +') as o
    union
    -- Its input function is called: CoerceViaIO, CoerceToDomain.
    select 'type', m[1]::oid, 'input'
      from regexp_matches(_uses.tree, ':resulttype (\d+) :resultcollid \d+ :coerceformat', 'g') as m
    union
    select 'type', m[1]::oid, 'input'
      from regexp_matches(
             _uses.tree, ':resulttype (\d+) :resulttypmod -?\d+ :resultcollid \d+ :coercionformat', 'g') as m
    union
    select 'type', m[1]::oid, null
      from regexp_matches(_uses.tree,
             ':(?:consttype|resulttype|vartype|funcresulttype|opresulttype|array_typeid|element_typeid|'
             'row_typeid|coalescetype|casetype|minmaxtype|typeId|typid|type) (\d+)', 'g') as m
    union
    select 'node', 0, 'json' where _uses.tree ~ '[{]JSON'
    union
    select 'node', 0, 'row' where _uses.tree ~ ':varattno 0 '
  )
  select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
           'kind', u.kind, 'oid', u.object, 'note', u.note, 'name', m.name, 'others', m.others,
           'signature', case u.kind
             when 'function' then pg_get_function_identity_arguments(u.object)
             when 'operator' then (
               select format('%s,%s', format_type(o.oprleft, null), format_type(o.oprright, null))
                 from pg_operator as o where o.oid = u.object) end))
           order by u.kind, u.object), '[]')
    from (
      select k.kind, k.object, max(k.note) as note
        from (
          select n.kind, coalesce(e.typelem, n.object) as object, n.note
            from mention as n
            left join pg_type as e
              on n.kind = 'type' and e.oid = n.object
             and e.typelem <> 0 and e.typsubscript = 'array_subscript_handler'::regproc
        ) as k
       group by k.kind, k.object, case when k.kind = 'node' then k.note end
    ) as u
    left join lateral notika._meaning(u.kind, u.object) as m on u.object >= 16384
   where u.kind = 'node' or u.object >= 16384 or u.kind <> 'type' and u.object <> 0;
$$;

comment on function notika._uses(text) is
  'What a condition with this tree uses: types, functions and operators, each with its number and, '
  'where it is not Postgres'' own, its name and what else there is by that name.';

create or replace function notika._lost_meaning(uses jsonb)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('%s %s', u.kind, u.name)
    from jsonb_to_recordset(_lost_meaning.uses) as u (kind text, oid oid, name text, others text)
    left join lateral notika._meaning(u.kind, u.oid) as m on true
   where u.name is not null
     and (m.name is distinct from u.name or m.others is distinct from u.others)
   order by 1
   limit 1;
$$;

comment on function notika._lost_meaning(jsonb) is
  'What a condition uses whose name may mean something else by now; null: all means the same.';

create or replace function notika._uses_by_name(uses jsonb)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Of several functions or operators of a name the text of the condition would choose as it did.
  return (
    select jsonb_agg(case when u.use ? 'name' then u.use || coalesce((
             select jsonb_build_object('oid', o.oid, 'others', m.others)
               from (
                 select to_regtype(u.use ->> 'name')::oid as oid where u.use ->> 'kind' = 'type'
                 union all
                 (select p.oid
                    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
                   where u.use ->> 'kind' = 'function' and format('%I.%I', n.nspname, p.proname) = u.use ->> 'name'
                     and pg_get_function_identity_arguments(p.oid) = u.use ->> 'signature'
                   limit 1)
                 union all
                 (select p.oid
                    from pg_operator as p join pg_namespace as n on n.oid = p.oprnamespace
                   where u.use ->> 'kind' = 'operator' and format('%I.%s', n.nspname, p.oprname) = u.use ->> 'name'
                     and format('%s,%s', format_type(p.oprleft, null), format_type(p.oprright, null))
                         = u.use ->> 'signature'
                   limit 1)
               ) as o
              cross join lateral notika._meaning(u.use ->> 'kind', o.oid) as m
           ), '{"oid": 0}') else u.use end order by u.place)
      from jsonb_array_elements(_uses_by_name.uses) with ordinality as u (use, place)
  );
end;
$$;

comment on function notika._uses_by_name(jsonb) is
  'What a condition uses, found by its names again: in a restored copy the numbers are others.';

create or replace function notika._takes_code(function pg_proc)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- The text of a query, the name of a table or type, or the number of one: the input function of a
  -- domain, and what looks at a partition key, execute what belongs to it.
  select (function).oid < 16384 and (
    (function).proname ~ '(_to_xml|_to_xmlschema|_to_xml_and_xmlschema)$|^pg_input_|^ts_(stat|rewrite)$'
    or (function).proname in ('satisfies_hash_partition', 'pg_get_partition_constraintdef')
    or array[(function).prorettype] || (function).proargtypes::oid[]
       && array['cstring', 'internal']::regtype[]::oid[]
  );
$$;

comment on function notika._takes_code(pg_proc) is
  'Whether a function of Postgres'' own executes what its arguments name.';

create or replace function notika._executed(uses jsonb, relation regclass)
  returns table (kind text, name text, class oid, object oid, owner oid, volatility "char", reads boolean)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with used as (
    select u.* from jsonb_to_recordset(_executed.uses) as u (kind text, oid oid, note text)
  ), operator (oid) as (
    select o
      from used as u
     cross join lateral notika._operators(u.oid) as o
     where u.kind = 'operator'
  ), called (oid) as (
    select u.oid from used as u where u.kind = 'function'
    union
    select o.oprcode::oid from operator as u join pg_operator as o on o.oid = u.oid
  ), is_deep (yes) as (
    -- What makes json of any value calls the casts of its type, what makes a value of json its input
    -- functions, and a function in SQL casts what it gets.
    select exists (select from used as u where u.kind = 'node' and u.note = 'json')
        or exists (
          select from called as c
            join pg_proc as p on p.oid = c.oid
            join pg_language as l on l.oid = p.prolang
           where p.prorettype in ('json'::regtype, 'jsonb'::regtype, 'record'::regtype) and p.provolatile <> 'i'
              or p.proname ~ '(populate_record|to_record)'
              or (p.oid >= 16384 or l.lanname = 'sql')
                 and p.proargtypes::oid[] && array[
                   'anyelement', 'anycompatible', 'anynonarray', '"any"', 'record']::regtype[]::oid[]
        )
  ), part (oid, is_read) as (
    select p, true
      from used as u
     cross join lateral notika._type_parts(u.oid) as p
     where u.kind = 'type' and u.note = 'input'
    union
    select p, false
      from (
        select u.oid from used as u where u.kind = 'type'
        union
        select a.atttypid from pg_attribute as a
         where a.attrelid = _executed.relation and a.attnum > 0 and not a.attisdropped
      ) as u
     cross join lateral notika._type_parts(u.oid) as p
     where (select d.yes from is_deep as d)
  )
  select 'function', p.oid::regprocedure::text, 'pg_proc'::regclass::oid, p.oid, p.proowner, p.provolatile,
         notika._takes_code(p)
    from called as c
    join pg_proc as p on p.oid = c.oid
  union all
  select 'operator', o.oid::regoperator::text, 'pg_operator'::regclass, o.oid, o.oprowner, 'i', false
    from operator as u
    join pg_operator as o on o.oid = u.oid and o.oid >= 16384
  union all
  select 'type', format_type(t.oid, null), 'pg_type'::regclass, t.oid, t.typowner, 'i', false
    from pg_type as t
   where t.oid in (select p.oid from part as p) and t.typtype in ('d', 'r')
  union all
  select 'function', f.oid::regprocedure::text, 'pg_proc'::regclass, f.oid, f.proowner, f.provolatile, false
    from part as p
    join pg_cast as k on p.oid in (k.castsource, k.casttarget)
    join pg_proc as f on f.oid = k.castfunc
   where not p.is_read;
$$;

comment on function notika._executed(jsonb, regclass) is
  'The functions that a condition over rows of a table may execute, and the types whose checks it may.';

create or replace function notika._take_condition(
  spec notika.workflow,
  caller name,
  function oid,
  out condition_sql text,
  out condition_uses jsonb
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
  -- Its constants are printed here, and read again in sessions with other settings.
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set timezone = 'UTC'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
  set lc_monetary = 'C'
as $$
declare
  v_caller oid := (select r.oid from pg_roles as r where r.rolname = _take_condition.caller);
  v_tree text;
  v_text text;
  v_start text;
  v_unreadable text;
  v_operation text;
  v_found record;
  v_corrected notika.workflow := _take_condition.spec;
begin
  select p.prosqlbody::text, pg_get_function_sqlbody(p.oid)
    into v_tree, v_text
    from pg_proc as p
   where p.oid = _take_condition.function and p.pronamespace = pg_my_temp_schema()
     and p.proowner = v_caller and p.pronargs = 0;
  v_start := format(E'BEGIN ATOMIC\n SELECT true\n    FROM %1$s new,\n     %1$s old\n   WHERE',
                    notika._quoted(spec.relation));
  if v_tree is null
     or not starts_with(v_text, v_start) or right(v_text, 5) <> E';\nEND'
     or (select count(*) from regexp_matches(v_tree, '[{]QUERY ', 'g')) <> 1 + (
       -- A subquery is refused below, with what it is.
       select count(*) from regexp_matches(v_tree, '[{]SUBLINK ', 'g'))
  then
    raise exception 'condition of workflow "%" was not read', spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'It is read by notika.publish(), notika.plan() and notika.backfill(): call one of them.';
  end if;
  if notika._unsafe_literal(v_tree) is not null then
    perform notika._refuse_condition(
      spec, format('it has a constant of type %s', notika._unsafe_literal(v_tree)), '0A000');
  end if;
  if v_tree ~ '[{]SUBLINK ' then
    perform notika._refuse_condition(
      spec, 'it has a subquery, which a trigger''s WHEN cannot have', '0A000',
      'Publish without it, and let the task look.');
  end if;

  select o into v_operation
    from unnest(spec.operations) as o
   where o = 'insert' and v_tree ~ '[{]VAR :varno 2 ' or o = 'delete' and v_tree ~ '[{]VAR :varno 1 '
   limit 1;
  if found then
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

  -- From the events one could tell what decides about them.
  v_unreadable := notika._unreadable(caller, function, spec.relation);
  if v_unreadable is not null then
    perform notika._refuse_condition(
      spec, format('role "%s" may not read %s of table %s', caller,
                   case v_unreadable when '*' then 'all' else v_unreadable end, spec.table_name),
      '42501', format('Run: grant select%s on %s to %I;',
                      case v_unreadable when '*' then '' else format(' (%s)', v_unreadable) end,
                      spec.table_name, caller));
  end if;

  condition_uses := notika._uses(v_tree);
  select u.kind, u.name into v_found
    from jsonb_to_recordset(condition_uses) as u (kind text, oid oid, name text)
    left join pg_type as t on u.kind = 'type' and t.oid = u.oid
    left join pg_proc as p on u.kind = 'function' and p.oid = u.oid
    left join pg_operator as o on u.kind = 'operator' and o.oid = u.oid
   where pg_is_other_temp_schema(coalesce(t.typnamespace, p.pronamespace, o.oprnamespace))
      or coalesce(t.typnamespace, p.pronamespace, o.oprnamespace) = pg_my_temp_schema()
   limit 1;
  if found then
    perform notika._refuse_condition(
      spec, format('%s %s is temporary', v_found.kind, v_found.name), '0A000',
      'Use what is still there when the session has ended.');
  end if;

  -- A trigger's WHEN is evaluated with the rights of the role that writes.
  select r.rolname, e.name into v_found
    from notika._executed(condition_uses, spec.relation) as e
    join pg_roles as r
      on e.kind = 'function'
     and (r.rolname = caller or notika._may_write(r.oid, spec.relation))
   where not has_function_privilege(r.oid, e.object, 'execute')
   order by r.rolname <> caller, r.rolname, e.name
   limit 1;
  if found then
    perform notika._refuse_condition(
      spec, format('role "%s" %s may not execute function %s', v_found.rolname,
                   case when v_found.rolname = caller then 'publishes it and'
                        else 'writes to the table and' end, v_found.name),
      '42501', format('Run: grant execute on function %s to %I;', v_found.name, v_found.rolname));
  end if;
  select e.name into v_found
    from notika._executed(condition_uses, spec.relation) as e
   where e.reads
   order by e.name
   limit 1;
  if found then
    perform notika._refuse_condition(
      spec, format('it executes function %s, which executes what its arguments name', v_found.name),
      '0A000', 'Compare columns and constants, or let the task look.',
      'It would run with the rights of every role that writes to the table.');
  end if;
  select e.kind, e.name, pg_get_userbyid(e.owner) as owner into v_found
    from notika._executed(condition_uses, spec.relation) as e
    join pg_class as c on c.oid = spec.relation
   where e.owner not in (c.relowner, v_caller, (
           select n.nspowner from pg_namespace as n where n.nspname = 'notika'))
     and not notika._is_trusted(e.class, e.object, e.owner)
     and not (pg_has_role(v_caller, e.owner, 'usage')
              and not (select r.rolsuper from pg_roles as r where r.oid = v_caller))
   order by e.kind, e.name
   limit 1;
  if found then
    perform notika._refuse_condition(
      spec, format('it executes %s %s, which is owned by "%s"',
                   case v_found.kind when 'type' then 'the checks of type' else v_found.kind end,
                   v_found.name, v_found.owner),
      '42501',
      format('If you trust it: alter %s %s owner to %I;', v_found.kind, v_found.name, (
        select pg_get_userbyid(c.relowner) from pg_class as c where c.oid = spec.relation)),
      'It would run with the rights of every role that writes to the table. It may use what is owned '
      'by the owner of the table, by the role that publishes, by a superuser, or by an extension.');
  end if;

  -- Names are found by the owner as well, when it makes the trigger.
  select string_agg(distinct format('grant usage on schema %I to %I;', n.nspname, current_user), ' ') as statements
    into v_found
    from jsonb_to_recordset(condition_uses) as u (kind text, oid oid, name text)
    left join pg_type as t on u.kind = 'type' and t.oid = u.oid
    left join pg_proc as p on u.kind = 'function' and p.oid = u.oid
    left join pg_operator as o on u.kind = 'operator' and o.oid = u.oid
    join pg_namespace as n on n.oid = coalesce(t.typnamespace, p.pronamespace, o.oprnamespace)
   where not has_schema_privilege(n.oid, 'usage');
  if v_found.statements is not null then
    perform notika._refuse_condition(
      spec, format('role "%s", which owns Notika, may not use a schema that it names', current_user),
      '42501', 'Run: ' || v_found.statements);
  end if;

  -- A constant in a trigger stays what it is when a label of its type is renamed; a text would not.
  condition_sql := regexp_replace(
    ltrim(substr(v_text, length(v_start) + 1, length(v_text) - length(v_start) - 5), E' \n'),
    $re$\(('(?:[^']|'')*')::text\)::((?:[[:alpha:]_][\w$]*|"(?:[^"]|"")*")\.)$re$, '\1::\2', 'g');
end;
$$;

comment on function notika._take_condition(notika.workflow, name, oid) is
  'Takes a condition from the temporary function that its author has read it into: its text with all '
  'names in full, and what they mean; or says why it cannot be published.';

create or replace function notika._distrusted(uses jsonb, relation regclass)
  returns table (kind text, name text, flaw text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select e.kind, e.name,
         case when e.volatility = 'v' then 'is volatile'
              when e.reads then 'executes what its arguments name' end
    from notika._executed(_distrusted.uses, _distrusted.relation) as e
   where e.volatility = 'v' or e.reads
      or e.owner <> (select r.oid from pg_roles as r where r.rolname = current_user)
         and not notika._is_trusted(e.class, e.object, e.owner)
   order by 1, 2
   limit 1;
$$;

comment on function notika._distrusted(jsonb, regclass) is
  'A function or type that the owner should not let a condition use: it is not the owner''s, nor a '
  'superuser''s, or it does more than compute.';

create or replace function notika._with_names(spec notika.workflow)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow := _with_names.spec;
  v_use record;
begin
  -- Of a type there is one by each name: where it has another name now, so it has in the condition.
  for v_use in
    select u.oid, u.name as old_name, m.name as new_name, m.others
      from jsonb_to_recordset(v_spec.condition_uses) as u (kind text, oid oid, name text)
     cross join lateral notika._meaning(u.kind, u.oid) as m
     where u.kind = 'type' and m.name <> u.name
  loop
    -- A cast to it is a token of its own; in a string or in a name it is none.
    select string_agg(case t.token[1] when '::' || v_use.old_name then '::' || v_use.new_name
                                      else t.token[1] end, '' order by t.place)
      into v_spec.condition_sql
      from regexp_matches(
             v_spec.condition_sql,
             '::' || regexp_replace(v_use.old_name, '([^\w\s])', '\\\1', 'g') || '(?![\w$."])'
             || $re$|'(?:[^']|'')*'|"(?:[^"]|"")*"|[^'":]+|.$re$,
             'g') with ordinality as t (token, place);
    select jsonb_agg(case when (u.use ->> 'oid')::oid = v_use.oid and u.use ->> 'kind' = 'type'
                          then u.use || jsonb_build_object('name', v_use.new_name)
                          else u.use end order by u.place)
      into v_spec.condition_uses
      from jsonb_array_elements(v_spec.condition_uses) with ordinality as u (use, place);
  end loop;
  return v_spec;
end;
$$;

comment on function notika._with_names(notika.workflow) is
  'A workflow whose condition has the names that its types have now.';

create or replace function notika._expect_meaning(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_lost text := notika._lost_meaning(spec.condition_uses);
begin
  if v_lost is not null then
    raise exception 'the condition of workflow "%" may mean something else by now: % was replaced, or '
                    'there is more by that name', spec.name, v_lost
      using errcode = 'NK002',
            detail = format('The condition is: %s', spec.condition),
            hint = 'Look at it and publish it again: ' || notika._call(spec);
  end if;
end;
$$;

comment on function notika._expect_meaning(notika.workflow) is
  'An error if a name in the condition of a workflow may mean something else than when it was '
  'published: then the owner must not parse it.';

create or replace function notika._expect_as_read(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_other text;
begin
  select format('%s %s', u.kind, u.name) into v_other
    from notika._triggers(spec.workflow_id) as t
    join pg_trigger as g on g.tgrelid = t.relation and g.tgname = t.name
   cross join lateral jsonb_to_recordset(notika._uses(g.tgqual::text))
                as u (kind text, oid oid, name text)
   where spec.is_pinned and spec.condition_uses is not null
     and u.name is not null
     and not exists (
       select from jsonb_to_recordset(spec.condition_uses) as k (kind text, oid oid)
        where (k.kind, k.oid) = (u.kind, u.oid)
     )
     -- What else the trigger compares is of its columns' types.
     and not exists (
       select from pg_attribute as a
         join pg_type as y on y.oid = a.atttypid
        where u.kind = 'type' and a.attrelid = t.relation and u.oid in (y.oid, y.typelem)
     )
   limit 1;
  if found then
    raise exception 'the condition of workflow "%" came to mean something else while it was published: %',
      spec.name, v_other
      using errcode = 'NK002',
            hint = 'Publish it again: ' || notika._call(spec);
  end if;
end;
$$;

comment on function notika._expect_as_read(notika.workflow) is
  'An error if the condition in a trigger calls what the condition that was read does not.';

create or replace function notika._names_hold_code(uses jsonb)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  -- In the catalog alone: the writer has no right on Notika.
  select coalesce(string_agg(c.code, E'\n     and ' order by c.code), 'true')
    from jsonb_to_recordset(_names_hold_code.uses) as u (kind text, oid oid, name text)
   cross join lateral (
     select case u.kind
       when 'type' then (
         select format('exists (select from pg_type as t where t.oid = %s and t.typname = %L '
                       'and t.typnamespace = (select n.oid from pg_namespace as n where n.nspname = %L)) '
                       'and (select array_agg(c.castfunc::bigint order by c.oid) from pg_cast as c '
                       'where %1$s in (c.castsource, c.casttarget)) is not distinct from %4$L::bigint[]',
                       t.oid, t.typname, n.nspname, (
                         select array_agg(c.castfunc::bigint order by c.oid) from pg_cast as c
                          where t.oid in (c.castsource, c.casttarget)))
           from pg_type as t join pg_namespace as n on n.oid = t.typnamespace
          where t.oid = u.oid)
       when 'function' then (
         select format('(select array_agg(p.oid::bigint order by p.oid) from pg_proc as p where p.proname = %L '
                       'and p.pronamespace = (select n.oid from pg_namespace as n where n.nspname = %L)) '
                       'is not distinct from %L::bigint[]', p.proname, n.nspname, (
                         select array_agg(o.oid::bigint order by o.oid) from pg_proc as o
                          where o.proname = p.proname and o.pronamespace = p.pronamespace))
           from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
          where p.oid = u.oid)
       else (
         select format('(select array_agg(p.oid::bigint order by p.oid) from pg_operator as p where p.oprname = %L '
                       'and p.oprnamespace = (select n.oid from pg_namespace as n where n.nspname = %L)) '
                       'is not distinct from %L::bigint[]', p.oprname, n.nspname, (
                         select array_agg(o.oid::bigint order by o.oid) from pg_operator as o
                          where o.oprname = p.oprname and o.oprnamespace = p.oprnamespace))
           from pg_operator as p join pg_namespace as n on n.oid = p.oprnamespace
          where p.oid = u.oid)
     end as code
   ) as c
   where u.name is not null;
$$;

comment on function notika._names_hold_code(jsonb) is
  'SQL that is true while the names that a condition uses mean what they do now.';
--! EndIncluded 66_condition.sql
--! Included 67_backfill.sql
-- Backfill: runs for the rows that a table has already, a page at a time, taken by notika.dispatch.
-- A row that was written after the start has a run of its own if it woke the workflow; it is told by
-- its key, which hand-over keeps for as long as a backfill goes on, because the ring forgets.
-- A page is taken only when the last one is half begun, so that what changes now goes first.

create table if not exists notika.backfill (
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
create unique index if not exists backfill_unfinished_idx
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

create table if not exists notika.backfill_key (
  backfill_id integer not null,
  key text not null,
  constraint backfill_key_pkey primary key (backfill_id, key)
);

comment on table notika.backfill_key is
  'The rows that woke a workflow by themselves since its backfill started.';
comment on column notika.backfill_key.backfill_id is 'The backfill.';
comment on column notika.backfill_key.key is 'The key of the row.';

create or replace view notika.backfills as
select w.name as workflow,
       b.condition,
       b.state,
       b.rows_seen,
       b.events,
       b.started_at,
       b.finished_at,
       case
         when b.error is null then null
         -- It may quote values, which only readers see.
         when pg_catalog.has_table_privilege('notika.run_log', 'select') then b.error
         else b.error_code || ': readers see the error'
       end as error
  from notika.backfill as b
  join notika.workflow as w on w.workflow_id = b.workflow_id;

comment on view notika.backfills is 'The backfills, and how far they are.';
comment on column notika.backfills.workflow is 'The workflow that gets the runs.';
comment on column notika.backfills.condition is
  'Of which rows, besides the workflow''s own condition.';
comment on column notika.backfills.state is 'running, failed, done or cancelled.';
comment on column notika.backfills.rows_seen is 'How many rows it has looked at.';
comment on column notika.backfills.events is 'How many runs it has made.';
comment on column notika.backfills.started_at is 'When it started.';
comment on column notika.backfills.finished_at is
  'When it was done or cancelled; one that failed goes on when it is started again.';
comment on column notika.backfills.error is
  'Why it failed, and what to do; to those who are no readers the SQLSTATE.';

create or replace function notika._key_names(relation regclass)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg(a.attname::text order by k.place)
    from unnest(notika._key_columns(_key_names.relation)) with ordinality as k (attnum, place)
    join pg_attribute as a on a.attrelid = _key_names.relation and a.attnum = k.attnum;
$$;

comment on function notika._key_names(regclass) is
  'The columns of the primary key, or else of the replica identity; null: there is neither.';

create or replace function notika._payload_key(spec notika.workflow, relation regclass)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(
           case when (spec).columns is null then k.name
                else (spec).columns[array_position((spec).column_names, k.name)] end
           order by k.place
         )
    from unnest(notika._key_names(_payload_key.relation)) with ordinality as k (name, place);
$$;

comment on function notika._payload_key(notika.workflow, regclass) is
  'What the key of a table is called in the events of a workflow; with nulls where it is not there.';

create or replace function notika._row_security(relation regclass)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not row_security_active(_row_security.relation::oid) then
    return 'off'; -- so that Postgres refuses to read should a policy apply after all
  end if;
  return (
    select case
             when bool_or(p.is_permissive and p.condition = 'true')
              and bool_and(p.is_permissive or p.condition = 'true')
             -- What has the same value for all rows Postgres computes before it looks at the rest.
             then case when bool_or(p.is_foreign) then 'foreign' else 'on' end
             else 'hides'
           end
      from (
        select p.polpermissive as is_permissive,
               coalesce(pg_get_expr(p.polqual, p.polrelid),
                        case when p.polpermissive then 'false' else 'true' end) as condition,
               p.polqual::text ~ '[{]COERCETODOMAIN ' or exists (
                 select from notika._called('pg_policy'::regclass, p.oid) as c (function)
                  where not notika._is_trusted(c.function)
               ) as is_foreign
          from pg_policy as p
         where p.polrelid = _row_security.relation and p.polcmd in ('r', '*')
           and exists (
             select from unnest(p.polroles) as r (oid)
              where case when r.oid = 0 then true else pg_has_role(r.oid, 'usage') end
           )
      ) as p
  );
end;
$$;

comment on function notika._row_security(regclass) is
  'The setting row_security with which Notika''s owner reads all rows of a table and executes nothing of '
  'somebody else; hides: a policy keeps rows from it; foreign: one calls functions of others.';

create or replace function notika._backfill_key(relation regclass)
  returns table (place bigint, name text, type text, comparison text, flaw text, signature text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select k.place, a.attname::text, format('%I.%I', n.nspname, t.typname),
           case when t.oid < 16384 or t.typtype = 'e' then '>'
                when o.oprname is not null then format('operator(%I.%s)', o.nspname, o.oprname) end,
           case
             when t.oid < 16384 then null
             when t.typtype not in ('b', 'e') or t.typcategory = 'A' then format(
               'is of type %s, whose parts may belong to anybody', format_type(a.atttypid, null))
             when t.typtype = 'b' and not w.rolsuper then format(
               'is of type %s, which is not an extension''s', format_type(t.oid, null))
             when t.typtype = 'b' and o.oprname is null then format(
               'is of type %s, which has no order of its own', format_type(t.oid, null))
             else (
               select format('is of type %s, for which somebody has made the cast %s',
                             format_type(t.oid, null), c.castfunc::regprocedure)
                 from pg_cast as c
                where t.oid in (c.castsource, c.casttarget) and c.castfunc <> 0
                  and not notika._is_trusted(c.castfunc)
                limit 1
             )
           end,
           format('%s %s', a.attnum, format_type(a.atttypid, null))
      from unnest(notika._key_columns(_backfill_key.relation)) with ordinality as k (attnum, place)
      join pg_attribute as a on a.attrelid = _backfill_key.relation and a.attnum = k.attnum
      join pg_type as t on t.oid = notika._base_type(a.atttypid)
      join pg_namespace as n on n.oid = t.typnamespace
      join pg_roles as w on w.oid = t.typowner
      left join lateral (
        select s.nspname, g.oprname
          from pg_opclass as c
          join pg_am as m on m.oid = c.opcmethod and m.amname = 'btree'
          join pg_amop as p
            on p.amopfamily = c.opcfamily and p.amopstrategy = 5
           and p.amoplefttype = t.oid and p.amoprighttype = t.oid
          join pg_operator as g on g.oid = p.amopopr
          join pg_namespace as s on s.oid = g.oprnamespace
         where c.opcdefault and c.opcintype = t.oid
      ) as o on true
     order by k.place;
end;
$$;

comment on function notika._backfill_key(regclass) is
  'The key of a table, by which a backfill takes its rows: the columns with their types under domains, '
  'how values are compared, why that is not safe, and what must not change meanwhile.';

create or replace function notika._key_signature(relation regclass)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg(k.signature order by k.place) from notika._backfill_key(_key_signature.relation) as k;
$$;

comment on function notika._key_signature(regclass) is
  'Tells the key of a table from what it was before its columns or their types changed.';

create or replace function notika._open_part(spec notika.workflow, part regclass)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_quoted text := notika._quoted(part);
  v_row_security text;
  v_column text;
  v_flaw text;
begin
  if v_quoted is null then
    raise exception 'a table of workflow "%" is not there any more', spec.name
      using errcode = 'undefined_table',
            hint = format('End the backfill: select notika.cancel_backfill(%L);', spec.name);
  end if;
  -- To publish it again grants the right to read it as well.
  perform notika._check_payload(spec, part);
  if not has_table_privilege(part, 'select') then
    raise exception 'role "%" may not read table %', current_user, v_quoted
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant select on %s to %I;', v_quoted, current_user);
  end if;
  -- From now on nobody alters it or its policies.
  execute format('lock table %s%s in access share mode', notika._only(part), v_quoted);

  v_row_security := notika._row_security(part);
  if v_row_security = 'hides' then
    raise exception 'row security hides rows of table % from role "%"', v_quoted, current_user
      using errcode = 'insufficient_privilege',
            hint = format('Run: create policy notika on %1$s for select to %2$I using (true); or, '
                          'where other policies restrict it: alter role %2$I bypassrls;',
                          v_quoted, current_user);
  elsif v_row_security = 'foreign' then
    raise exception 'a policy of table % calls a function of others, with the rights of role "%"',
      v_quoted, current_user
      using errcode = 'insufficient_privilege',
            detail = 'Postgres may execute it although another policy shows all rows.',
            hint = format('Grant the policy to the roles that it is meant for, or: alter role %I '
                          'bypassrls;', current_user);
  end if;
  select k.name, k.flaw into v_column, v_flaw
    from notika._backfill_key(part) as k
   where k.flaw is not null
   limit 1;
  if found then
    raise exception 'a backfill cannot go by the key of table %: column "%" %', v_quoted, v_column, v_flaw
      using errcode = 'feature_not_supported',
            detail = 'It compares keys with the rights of the owner of Notika, and would execute what '
                     'belongs to the type.',
            hint = format('Start the runs by hand: select notika.emit(%L, ...) from %s;', spec.name,
                          v_quoted);
  end if;
  perform notika._check_planning(part, false);
  return v_row_security;
end;
$$;

comment on function notika._open_part(notika.workflow, regclass) is
  'Locks a table whose rows are to be read, and refuses it if that would execute something of others; '
  'gives the setting row_security to read it with.';

create or replace function notika._last_key(spec notika.workflow, part regclass)
  returns text[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set row_security = off
  set constraint_exclusion = off -- checks call functions of others
as $$
declare
  v_key text[];
begin
  perform set_config('row_security', notika._open_part(spec, part), true);
  execute (
    select format('select array[%s] from %s%s as r order by %s limit 1',
                  string_agg(format('format(''%%s'', r.%I)', k.name), ', ' order by k.place),
                  notika._only(part), notika._quoted(part),
                  string_agg(format('r.%I desc', k.name), ', ' order by k.place))
      from notika._backfill_key(part) as k
  )
    into v_key;
  return v_key;
end;
$$;

comment on function notika._last_key(notika.workflow, regclass) is
  'The greatest key that a table has, as text; null: it has no rows.';

create or replace function notika._check_trust(spec notika.workflow, uses jsonb)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_lost text := notika._lost_meaning(_check_trust.uses);
  v_found record;
begin
  if v_lost is not null then
    raise exception 'the condition of a backfill of workflow "%" may mean something else by now: %',
      spec.name, v_lost
      using errcode = 'NK002',
            detail = 'It was replaced, or there is more by that name.',
            hint = format('End it, look at the condition, publish again, and start another one: '
                          'select notika.cancel_backfill(%L);', spec.name);
  end if;

  -- The dispatcher evaluates conditions with the owner's rights, a trigger with the writer's.
  select d.kind, d.name, d.flaw into v_found from notika._distrusted(uses, spec.relation) as d;
  if not found then
    return;
  end if;
  raise exception 'a backfill of workflow "%" would execute % % with the rights of "%"',
    spec.name, case v_found.kind when 'type' then 'what belongs to type' else v_found.kind end,
    v_found.name, current_user
    using errcode = 'insufficient_privilege',
          detail = 'The dispatcher evaluates the condition as the owner of Notika.'
                   || case v_found.kind when 'type' then ' The checks of a domain and the casts of a '
                                                   'type are functions of its owner.' else '' end,
          hint = case
            when v_found.flaw is not null
              then format('Write the condition without it: it %s.', v_found.flaw)
            else format('If you trust it: alter %s %s owner to %I;', v_found.kind, v_found.name, current_user)
          end;
end;
$$;

comment on function notika._check_trust(notika.workflow, jsonb) is
  'Refuses conditions that would execute code of somebody else with the rights of the owner, or that '
  'may mean something else than when they were read.';

create or replace function notika._check_payload(spec notika.workflow, part regclass)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Another function may take over, which writes need: its events would carry the key alone.
  if spec.is_pinned and spec.columns is not null
     and notika._payload_function(spec.workflow_id, _check_payload.part) is null
  then
    raise exception 'workflow "%" cannot make events of the rows of table %',
      spec.name, notika._quoted(_check_payload.part)
      using errcode = 'undefined_function',
            detail = format('There is no function notika.payload_%s(%s): it was dropped, or the table '
                            'came, where the guard did not see it.',
                            spec.workflow_id, notika._quoted(_check_payload.part)),
            hint = 'Publish it again: ' || notika._call(notika._mended(spec));
  end if;
end;
$$;

comment on function notika._check_payload(notika.workflow, regclass) is
  'Refuses to make events without the function that says what they carry.';

create or replace function notika._check_backfill(spec notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_part regclass;
  v_missing text[];
  v_corrected notika.workflow := _check_backfill.spec;
begin
  if spec.relation is null then
    raise exception 'workflow "%" is not published on a table', spec.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Start a run by hand: select notika.emit(%L, ''{...}'');', spec.name);
  end if;
  if notika._workflow_of(spec.name) is not null then
    raise exception '"%" is a source, which starts no runs', spec.name
      using errcode = 'wrong_object_type',
            hint = format('Backfill its workflow: select notika.backfill(%L);',
                          notika._workflow_of(spec.name));
  end if;
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'cannot start a backfill in a transaction that is %',
      current_setting('transaction_isolation')
      using errcode = 'object_not_in_prerequisite_state',
            detail = 'Such a transaction does not see what the table is now.',
            hint = 'Start it in a transaction of its own.';
  end if;
  if spec.operations = '{delete}' then
    raise exception 'workflow "%" is published for deletes, of which a table has no rows', spec.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('What was deleted lately: select notika.replay(%L, ''<since>'');',
                          spec.name);
  end if;

  for v_part in select f from notika._family(spec.relation) as f loop
    if notika._key_names(v_part) is null then
      raise exception
        'table % has no primary key', notika._quoted(v_part)
        using errcode = 'object_not_in_prerequisite_state',
              detail = 'A backfill takes rows by their key, and tells by it what has changed since.',
              hint = format('Give it one: alter table %s add primary key (...);',
                            notika._quoted(v_part));
    end if;
    select array_agg(k.name) into v_missing
      from unnest(notika._key_names(v_part)) as k (name)
     where spec.columns is not null and k.name <> all (spec.column_names);
    if v_missing is not null then
      v_corrected.columns := v_missing || spec.columns;
      raise exception 'the events of workflow "%" do not carry the key of table %',
        spec.name, notika._quoted(v_part)
        using errcode = 'object_not_in_prerequisite_state',
              detail = 'Without it one cannot tell which rows have had a run since the start.',
              hint = 'Publish it with ' || array_to_string(v_missing, ', ') || ': '
                     || notika._call(v_corrected);
    end if;
    perform notika._open_part(spec, v_part);
  end loop;
end;
$$;

comment on function notika._check_backfill(notika.workflow) is
  'Refuses a backfill that could not be done, not be done right, or not be done safely.';

create or replace function notika.backfill(workflow text, condition text default null)
  returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_call notika.workflow;
  v_function regprocedure;
  v_outcome text;
begin
  v_call.name := backfill.workflow;
  v_call.condition := nullif(btrim(backfill.condition), '');
  -- Where there is nothing to backfill, that is what the caller is told below.
  if v_call.condition is not null then
    select w.table_name, notika._table(w.table_name) into v_call.table_name, v_call.relation
      from notika.workflows as w
     where w.workflow = backfill.workflow and w.table_name is not null and w.operations <> '{delete}';
    if v_call.relation is not null then
      v_function := notika._read_condition(v_call);
    end if;
  end if;
  v_outcome := notika._ask('backfill', jsonb_build_object(
    'workflow', v_call.name, 'condition', v_call.condition, 'function', v_function::oid::bigint)) #>> '{}';
  if v_function is not null then
    execute 'drop function pg_temp.notika_condition()';
  end if;
  return v_outcome;
end;
$$;

comment on function notika.backfill(text, text) is
  'Makes a run for each row that the table has now, of those that meet the workflow''s condition and '
  'this one; a row that changes meanwhile has its own run only. Says started, or continued where one '
  'has failed. Progress is in notika.backfills. In one transaction with publish no row has two.';

create or replace function notika._do_backfill(caller name, request jsonb)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set timezone = 'UTC'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
as $$
declare
  v_workflow_id integer := notika._published(_do_backfill.request ->> 'workflow');
  v_spec notika.workflow;
  v_extra notika.workflow;
  v_before notika.backfill;
  v_condition text := _do_backfill.request ->> 'condition';
  v_part regclass;
  v_end text[];
  v_ends jsonb := '{}'::jsonb;
  v_keys jsonb := '{}'::jsonb;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  perform notika._check_backfill(v_spec);
  perform notika._check_trust(v_spec, v_spec.condition_uses);
  if v_condition is not null then
    v_extra := v_spec;
    v_extra.condition := v_condition;
    v_extra.operations := '{update}';
    select c.condition_sql, c.condition_uses into v_extra.condition_sql, v_extra.condition_uses
      from notika._take_condition(
             v_extra, _do_backfill.caller, (_do_backfill.request ->> 'function')::oid) as c;
    perform notika._check_trust(v_spec, v_extra.condition_uses);
  end if;

  select b.* into v_before
    from notika.backfill as b
   where b.workflow_id = v_workflow_id and b.finished_at is null;
  if v_before.state = 'failed' and v_before.condition is not distinct from v_condition then
    update notika.backfill as b
       set state = 'running', error = null, error_code = null
     where b.backfill_id = v_before.backfill_id;
    perform notika._wake();
    return 'continued';
  end if;
  if found then
    raise exception 'a backfill of workflow "%" is under way: it is %',
      v_spec.name, v_before.state
      using errcode = 'object_in_use',
            detail = format('Its condition is %s; it has seen %s rows.',
                            coalesce(v_before.condition, 'none'), v_before.rows_seen),
            hint = format('See notika.backfills, or end it: select notika.cancel_backfill(%L);',
                          v_spec.name);
  end if;

  -- Rows with a later key were not there.  After the locks that publish may have taken in this
  -- transaction: whoever wrote before is in the snapshot, whoever writes after it is captured.
  for v_part in select f from notika._family(v_spec.relation) as f loop
    v_end := notika._last_key(v_spec, v_part);
    if v_end is not null then
      v_ends := v_ends || jsonb_build_object(v_part::oid::text, v_end);
      v_keys := v_keys || jsonb_build_object(v_part::oid::text, notika._key_signature(v_part));
    end if;
  end loop;

  insert into notika.backfill
    (workflow_id, condition, condition_sql, condition_uses, snapshot, ends, keys, started_by)
  values (v_workflow_id, v_condition, v_extra.condition_sql, v_extra.condition_uses,
          notika._snapshot(), v_ends, v_keys, _do_backfill.caller);
  perform notika._wake();
  return 'started';
end;
$$;

comment on function notika._do_backfill(name, jsonb) is 'Carries out backfill for a runner.';

create or replace function notika.cancel_backfill(workflow text)
  returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._ask('cancel_backfill', jsonb_build_object(
    'workflow', cancel_backfill.workflow)) #>> '{}')::boolean;
end;
$$;

comment on function notika.cancel_backfill(text) is
  'Ends the backfill of a workflow; what it has started goes on. True: there was one.';

create or replace function notika._do_cancel_backfill(workflow text)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._published(_do_cancel_backfill.workflow);
  return notika._end_backfill(b.backfill_id, 'cancelled')
    from notika.backfill as b
    join notika.workflow as w on w.workflow_id = b.workflow_id
   where w.name = _do_cancel_backfill.workflow and b.finished_at is null;
end;
$$;

comment on function notika._do_cancel_backfill(text) is 'Carries out cancel_backfill for a runner.';

create or replace function notika._end_backfill(backfill_id integer, state text)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.backfill as b
     set state = _end_backfill.state, finished_at = clock_timestamp(), last_runs = '{}'
   where b.backfill_id = _end_backfill.backfill_id and b.finished_at is null;
  if not found then
    return false;
  end if;
  delete from notika.backfill_key as k where k.backfill_id = _end_backfill.backfill_id;
  return true;
end;
$$;

comment on function notika._end_backfill(integer, text) is 'Ends a backfill, once.';
--! EndIncluded 67_backfill.sql
--! Included 68_backfill_page.sql
-- The pages of a backfill, in the order of the keys: which rows have had a run of their own since it
-- started, what the others get, and when the next page is taken.

create or replace function notika._only(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Partitions belong to their table, inheritance children are tables of their own.
  select case c.relkind when 'p' then '' else 'only ' end
    from pg_class as c
   where c.oid = _only.relation;
$$;

comment on function notika._only(regclass) is 'ONLY, for a table whose children are taken apart.';

create or replace function notika._full_xid(xid xid, near pg_snapshot)
  returns xid8
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- A row knows the last 32 bits.  One that was frozen long ago may be taken for a new one: then it
  -- is looked for among those that have had a run, which it is not.
  select (((x.low - x.near + 2147483648) & 4294967295) - 2147483648 + x.near)::text::xid8
    from (
      select _full_xid.xid::text::bigint as low,
             greatest(pg_snapshot_xmax(_full_xid.near)::text::bigint, 2147483648) as near
    ) as x;
$$;

comment on function notika._full_xid(xid, pg_snapshot) is
  'The transaction id with these last bits that is nearest to a snapshot.';

create or replace function notika._note_live(here notika.position, last_id bigint)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.backfill_key (backfill_id, key)
  select b.backfill_id,
         notika._short(notika._values(
           json_build_object('new', e.new), notika._payload_key(w, w.relation)))
    from notika.backfill as b
    join notika.workflow as w on w.workflow_id = b.workflow_id
   cross join notika._event as e
   where b.finished_at is null and w.relation is not null
     and e.event_id > here.window_at and e.event_id <= _note_live.last_id
     and e.workflow_id = b.workflow_id and e.operation in ('insert', 'update')
     and pg_visible_in_snapshot(e.xid, here.window_snapshot)
     and not pg_visible_in_snapshot(e.xid, here.snapshot)
     and not pg_visible_in_snapshot(e.xid, b.snapshot)
  on conflict on constraint backfill_key_pkey do nothing;
$$;

comment on function notika._note_live(notika.position, bigint) is
  'Keeps, for backfills under way, which rows the chunk after here has given a run.';

create or replace function notika._beyond(part regclass, key text[], is_beyond boolean default true)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- A bare string is of the type of the column, whatever has the type's name by now.
  with compared as (
    select k.place, k.comparison, format('new.%I', k.name) as name,
           quote_literal(_beyond.key[k.place]) as value
      from notika._backfill_key(_beyond.part) as k
  )
  select case
           when bool_and(c.comparison = '>') then format(
             '(%s) %s (%s)', string_agg(c.name, ', ' order by c.place),
             case when is_beyond then '>' else '<=' end,
             string_agg(c.value, ', ' order by c.place))
           -- The operators of other schemas compare one column each.
           else format('%s(%s)', case when not is_beyond then 'not ' end, string_agg(
             format('%s %s %s', c.name, c.comparison, c.value)
             || coalesce((
               select string_agg(format(' and not %s %s %s', e.value, e.comparison, e.name), ''
                                 order by e.place)
                 from compared as e
                where e.place < c.place
             ), ''), ' or ' order by c.place))
         end
    from compared as c;
$$;

comment on function notika._beyond(regclass, text[], boolean) is
  'SQL that is true for a row called new whose key comes after this one, or that does not.';

create or replace function notika._compiled(backfill notika.backfill, spec notika.workflow)
  returns regprocedure
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_uses constant jsonb := coalesce(spec.condition_uses, '[]') || coalesce(backfill.condition_uses, '[]');
  v_table constant text := notika._quoted(backfill.part);
  v_function regprocedure;
  v_other text;
begin
  if not exists (select from jsonb_array_elements(v_uses) as u where u ? 'name') then
    return null; -- it names nothing that could be another by now
  end if;
  perform notika._set_busy(true);
  execute format(
    'create function notika._backfill_%s(new %s, old %2$s) returns boolean language sql stable '
    'begin atomic select coalesce((%s) and (%s), false); end',
    backfill.backfill_id, v_table, coalesce(notika._condition_code(spec), 'true'),
    coalesce(notika._with_text(backfill.condition_sql), 'true'));
  perform notika._set_busy(false);

  -- What was parsed has numbers and no names: it stays what it is.
  select p.oid::regprocedure into v_function
    from pg_proc as p
   where p.pronamespace = 'notika'::regnamespace
     and p.proname = format('_backfill_%s', backfill.backfill_id);
  select format('%s %s', u.kind, u.name) into v_other
    from pg_proc as p
   cross join lateral jsonb_to_recordset(notika._uses(p.prosqlbody::text)) as u (kind text, oid oid, name text)
   where p.oid = v_function and u.name is not null
     and not exists (
       select from jsonb_to_recordset(v_uses) as k (kind text, oid oid) where (k.kind, k.oid) = (u.kind, u.oid)
     )
   limit 1;
  if found then
    raise exception 'the condition of a backfill of workflow "%" came to mean something else: %', spec.name, v_other
      using errcode = 'NK002',
            hint = format('End it, publish again, and start another one: select notika.cancel_backfill(%L);',
                          spec.name);
  end if;
  return v_function;
end;
$$;

comment on function notika._compiled(notika.backfill, notika.workflow) is
  'Makes a function of the conditions of a backfill, for the page that follows, and sees that they mean '
  'what they meant; null: they name nothing of others, and stand in the query as they are.';

create or replace function notika._page(
  backfill notika.backfill,
  spec notika.workflow,
  max_rows integer,
  out rows_seen integer,
  out last_key text[],
  out runs bigint[]
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set row_security = off
  set constraint_exclusion = off -- checks call functions of others
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set timezone = 'UTC'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
  set lc_monetary = 'C'
  set quote_all_identifiers = off
  set standard_conforming_strings = on
as $$
declare
  v_limit constant integer := (select s.payload_bytes from notika.setting as s);
  v_columns text;
  v_texts text;
  v_until text;
  v_image text;
  v_passes text := format('coalesce((%s) and (%s), false)', coalesce(spec.condition_sql, 'true'),
                          coalesce(backfill.condition_sql, 'true'));
  v_function regprocedure;
begin
  -- Whatever was looked at when it was started may have changed since the last page.
  perform set_config('row_security', notika._open_part(spec, backfill.part), true);
  perform notika._check_trust(spec, spec.condition_uses);
  perform notika._check_trust(spec, backfill.condition_uses);
  if to_jsonb(notika._key_signature(backfill.part))
     is distinct from backfill.keys -> backfill.part::text
  then
    raise exception 'the key of table % has changed since the backfill started',
      notika._quoted(backfill.part)
      using errcode = 'object_not_in_prerequisite_state',
            detail = format('It was %s, and is %s.', backfill.keys -> backfill.part::text,
                            to_jsonb(notika._key_signature(backfill.part))),
            hint = format('Start again: select notika.cancel_backfill(%1$L); '
                          'select notika.backfill(%1$L);', spec.name);
  end if;

  select string_agg(format('new.%I', k.name), ', ' order by k.place),
         string_agg(format('format(''%%s'', new.%I)', k.name), ', ' order by k.place)
    into v_columns, v_texts
    from notika._backfill_key(backfill.part) as k;
  v_until := notika._beyond(backfill.part, array(
    select jsonb_array_elements_text(backfill.ends -> backfill.part::text)), false);

  -- As the capture function makes it.
  v_image := case
    when spec.columns is not null and spec.is_pinned
      then format('notika.payload_%s(p.new)', spec.workflow_id)
    else format('case when pg_column_size(p.new) <= %s then %s end', v_limit, case
      when spec.columns is null then 'notika._whole_row(p.new, $1)'
      else format('notika._loose_image(p.new, $1, %s)', spec.workflow_id) end)
  end;

  v_function := notika._compiled(backfill, spec);
  if v_function is not null then
    v_passes := format('notika._backfill_%s(new, old)', backfill.backfill_id);
  end if;

  perform pg_current_xact_id(); -- before the segment is read: see _append
  execute format(
    $page$
    with page as materialized (
      select new, new.xmin as xid, array[%1$s] as key, %2$s as passes
        from %3$s%4$s as new
        left join only %4$s as old on false -- a row that is there has not changed
       where %5$s %7$s
       order by %6$s
       limit %8$s
    ), placed as materialized (
      select p.*, row_number() over () as place from page as p
    ), live as materialized (
      select notika._short(notika._values(json_build_object('new', e.new), $2)) as key
        from notika._event as e
       cross join notika._position() as p
       where e.event_id > notika._bound(p)
         and not notika._dispatched(e.event_id, e.xid, e.workflow_id, p)
         and e.workflow_id = $3 and e.operation in ('insert', 'update')
         and not pg_visible_in_snapshot(e.xid, $4)
    ), image as materialized (
      select p.place, p.xid, i.image is null or octet_length(i.image::text) > %9$s as truncated,
             case when octet_length(i.image::text) <= %9$s then i.image
                  else notika._key(p.new, $1) end as image
        from placed as p
       cross join lateral (select %10$s as image) as i
       where p.passes
    ), appended as (
      insert into notika.event_log_%11$s (workflow_id, operation, new, truncated)
      select $3, 'backfill', i.image, i.truncated
        from image as i
       cross join lateral (
         select notika._short(notika._values(json_build_object('new', i.image), $2)) as key
       ) as k
       where pg_visible_in_snapshot(notika._full_xid(i.xid, $4), $4)
          or k.key not in (select l.key from live as l)
         and not exists (
           select from notika.backfill_key as n where n.backfill_id = $5 and n.key = k.key
         )
       order by i.place
      returning event_id
    )
    select (select count(*) from placed), (select p.key from placed as p order by p.place desc limit 1),
           (select coalesce(array_agg(a.event_id), '{}') from appended as a)
    $page$,
    v_texts, v_passes, notika._only(backfill.part), notika._quoted(backfill.part),
    case when backfill.last_key is not null
         then notika._beyond(backfill.part, backfill.last_key) || ' and' else '' end,
    v_columns, v_until, max_rows, v_limit, v_image, notika._segment(0)
  )
    into rows_seen, last_key, runs
    using backfill.part::regclass, notika._payload_key(spec, backfill.part), spec.workflow_id,
          backfill.snapshot, backfill.backfill_id;
  if v_function is not null then
    perform notika._set_busy(true);
    execute format('drop function %s', v_function);
    perform notika._set_busy(false);
  end if;
end;
$$;

comment on function notika._page(notika.backfill, notika.workflow, integer) is
  'Makes the runs of the next rows of a backfill: says how many rows it saw, the last, and the runs.';

create or replace function notika._backfill_on(backfill notika.backfill, spec notika.workflow)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set lock_timeout = '100ms' -- the hand-over must not wait for a migration
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '100 milliseconds';
  v_page record;
  v_hint text;
  v_detail text;
  v_column text;
  v_table text;
begin
  -- What is there already goes first: half of the last page has to have begun.
  if (
    select count(*)
      from notika_worker._private_jobs as j
     where j.key = any (backfill.last_runs::text[])
       and j.attempts = 0 and j.locked_at is null and not coalesce(j.flags ? 'resumed', false)
  ) > cardinality(backfill.last_runs) / 2 then
    return 0;
  end if;

  spec := notika._with_names(spec);
  backfill.last_runs := '{}';
  loop
    if backfill.part is null then
      select min(p.oid::bigint)::oid into backfill.part
        from jsonb_object_keys(backfill.ends) as p (oid);
      if not found or backfill.part is null then
        perform notika._save(backfill);
        perform notika._end_backfill(backfill.backfill_id, 'done');
        exit;
      end if;
    end if;

    v_page := notika._page(backfill, spec, 1000);
    backfill.rows_seen := backfill.rows_seen + v_page.rows_seen;
    backfill.events := backfill.events + cardinality(v_page.runs);
    backfill.last_runs := backfill.last_runs || v_page.runs;
    backfill.last_key := v_page.last_key;
    if v_page.rows_seen < 1000 then
      backfill.ends := backfill.ends - backfill.part::text;
      backfill.part := null;
      backfill.last_key := null;
    end if;
    if cardinality(backfill.last_runs) > 500 or clock_timestamp() > v_until then
      perform notika._save(backfill);
      exit;
    end if;
  end loop;
  perform notika._wake();
  return greatest(cardinality(backfill.last_runs), 1); -- there is more to do at once
exception
  when lock_not_available then
    return 0;
  when others then
    get stacked diagnostics
      v_detail = pg_exception_detail, v_hint = pg_exception_hint,
      v_column = column_name, v_table = table_name;
    update notika.backfill as b
       set state = 'failed',
           error_code = concat_ws(' ', 'SQLSTATE', sqlstate, 'column ' || nullif(v_column, ''),
                                  'table ' || nullif(v_table, '')),
           error = concat_ws(E'\n', sqlerrm, nullif(v_detail, ''), nullif(v_hint, ''),
             format('Then it goes on with: select notika.backfill(%L%s);', spec.name,
                    ', ' || quote_literal(backfill.condition)))
     where b.backfill_id = backfill.backfill_id;
    return 0;
end;
$$;

comment on function notika._backfill_on(notika.backfill, notika.workflow) is
  'Takes some pages of a backfill, if it is its turn, and says how many runs it made; an error stops '
  'the backfill and nothing else.';

create or replace function notika._save(backfill notika.backfill)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  update notika.backfill as b
     set part = backfill.part, ends = backfill.ends, last_key = backfill.last_key,
         last_runs = backfill.last_runs, rows_seen = backfill.rows_seen, events = backfill.events
   where b.backfill_id = backfill.backfill_id;
$$;

comment on function notika._save(notika.backfill) is 'Keeps how far a backfill is.';

create or replace function notika._backfill_all()
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_backfill notika.backfill;
  v_spec notika.workflow;
  v_started integer := 0;
begin
  for v_backfill in
    select b.* from notika.backfill as b where b.state = 'running' order by b.backfill_id
  loop
    select w.* into v_spec from notika.workflow as w where w.workflow_id = v_backfill.workflow_id;
    if v_spec.paused_at is null and v_spec.broken_reason is null then
      v_started := v_started + notika._backfill_on(v_backfill, v_spec);
    end if;
  end loop;
  return v_started;
end;
$$;

comment on function notika._backfill_all() is
  'Takes the next pages of all backfills and says how many runs they made. Needs the right of '
  '_lock_dispatch.';
--! EndIncluded 68_backfill_page.sql
--! Included 69_capture_rights.sql
-- Who may execute what captures besides Notika's owner.  Who makes or attaches a partition gives it the
-- triggers of the partitioned table, and has to have the right to execute their function.  Nobody
-- else needs it, and could forge events, or run it where it is not meant to run.

create or replace function notika._capture_rights(workflow_id integer, relation regclass)
  returns table (function regprocedure, grantee oid)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select distinct p.oid::regprocedure, c.relowner
      from pg_proc as p
     cross join notika._tables(_capture_rights.relation) as t (relation)
      join pg_class as c on c.oid = t.relation and c.relkind = 'p'
     where p.oid = to_regprocedure(format('notika._capture_%s()', _capture_rights.workflow_id))
       and c.relowner <> p.proowner;
end;
$$;

comment on function notika._capture_rights(integer, regclass) is
  'Who is to have EXECUTE on the trigger function of a workflow: the owners of partitioned tables.';

create or replace function notika._capture_grants(workflow_id integer, relation regclass)
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with due as (
    select r.function, r.grantee
      from notika._capture_rights(_capture_grants.workflow_id, _capture_grants.relation) as r
  ), granted as (
    select p.oid::regprocedure as function, a.grantee
      from pg_proc as p
     cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
     where p.oid = to_regprocedure(format('notika._capture_%s()', _capture_grants.workflow_id))
       and a.grantee <> p.proowner
  )
  (select format('revoke execute on function %s from %s', x.function,
                 case x.grantee when 0 then 'public' else x.grantee::regrole::text end)
     from (table granted except table due) as x)
  union all
  (select format('grant execute on function %s to %s', x.function, x.grantee::regrole)
     from (table due except table granted) as x);
$$;

comment on function notika._capture_grants(integer, regclass) is
  'The statements by which exactly those have EXECUTE who are to; none: they have it.';

create or replace function notika._settle_capture_rights(workflow_id integer, relation regclass)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text;
  v_count integer := 0;
begin
  for v_statement in
    select g
      from notika._capture_grants(_settle_capture_rights.workflow_id,
                                  _settle_capture_rights.relation) as g
  loop
    perform notika._set_busy(true);
    execute v_statement;
    perform notika._set_busy(false);
    v_count := v_count + 1;
  end loop;
  return v_count;
end;
$$;

comment on function notika._settle_capture_rights(integer, regclass) is
  'Gives the owners of partitioned tables, and nobody else, the right to execute the trigger function '
  'of a workflow, and says how many changes it took.';
--! EndIncluded 69_capture_rights.sql
--! Included 69_replay.sql
-- Replay: what was captured runs once more, as far as the ring remembers it.

create or replace function notika.replay(workflow text, since timestamptz)
  returns bigint
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._ask('replay', jsonb_build_object(
    'workflow', replay.workflow, 'since', replay.since)) #>> '{}')::bigint;
end;
$$;

comment on function notika.replay(text, timestamptz) is
  'Lets the events of a workflow that were captured since then run again, as far as the ring '
  'remembers them: copies with new ids. Says how many.';

create or replace function notika._do_replay(workflow text, since timestamptz)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_do_replay.workflow);
  v_oldest timestamptz;
  v_count bigint;
begin
  if _do_replay.since is null or _do_replay.since > clock_timestamp() then
    raise exception 'since is not a time that has passed: %', coalesce(_do_replay.since::text, 'null')
      using errcode = 'invalid_parameter_value',
            hint = format('For instance: select notika.replay(%L, now() - interval ''2 hours'');',
                          _do_replay.workflow);
  end if;

  -- Until its third turn the ring has forgotten nothing.
  if pg_sequence_last_value('notika.control_seq') >> 1 >= 3 then
    select min(o.captured_at) into v_oldest
      from (
        (select e.captured_at from notika.event_log_0 as e order by e.event_id limit 1)
        union all
        (select e.captured_at from notika.event_log_1 as e order by e.event_id limit 1)
        union all
        (select e.captured_at from notika.event_log_2 as e order by e.event_id limit 1)
      ) as o;
  end if;
  if _do_replay.since < v_oldest then
    raise exception 'the ring reaches back to % only', date_trunc('second', v_oldest)
      using errcode = 'no_data_found',
            detail = 'Older events are forgotten; notika.setting says how large the ring is.',
            hint = format('What it has: select notika.replay(%L, %L); rows that exist: '
                          'select notika.backfill(%1$L);', _do_replay.workflow, v_oldest);
  end if;

  perform pg_current_xact_id(); -- before the segment is read: see _append
  execute format(
    'insert into notika.event_log_%s (workflow_id, operation, new, old, truncated)
     select e.workflow_id, ''replay'', e.new, e.old, e.truncated
       from notika._event as e
      where e.workflow_id = $1 and e.captured_at >= $2 and e.operation <> ''replay''
        -- The others will run.
        and notika._dispatched(e.event_id, e.xid, e.workflow_id, notika._position())
      order by e.event_id', notika._segment(0))
    using v_workflow_id, _do_replay.since;
  get diagnostics v_count = row_count;
  perform notika._wake();
  return v_count;
end;
$$;

comment on function notika._do_replay(text, timestamptz) is 'Carries out replay for a runner.';
--! EndIncluded 69_replay.sql
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
  type oid not null,
  typmod integer not null,
  labels text[],
  label_ids oid[],
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
comment on column notika.contract.label_ids is
  'Their numbers, which stay when they are renamed; null: another type has taken its place since.';
comment on column notika.contract.attributes is 'The attributes of the composite types in it.';

create table if not exists notika.contract_key (
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

create table if not exists notika.contract_table (
  workflow_id integer not null,
  relation oid not null,
  constraint contract_table_pkey primary key (workflow_id, relation),
  constraint contract_table_workflow_id_fkey
    foreign key (workflow_id) references notika.workflow
);
create index if not exists contract_table_relation_idx on notika.contract_table (relation);

comment on table notika.contract_table is
  'The tables whose rows each workflow captures: the published one, its partitions and children.';
comment on column notika.contract_table.workflow_id is 'The workflow.';
comment on column notika.contract_table.relation is
  'A table, as a number: a name that is not there would fail the load of a dump.';

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
    'followed', 'healed', 'warned', 'allowed', 'ignored', 'broken', 'repaired', 'released', 'recorded',
    'maintenance begun', 'maintenance ended'
  ))
);
create index if not exists guard_log_xid_idx on notika.guard_log (xid);
create index if not exists guard_log_workflow_idx on notika.guard_log (workflow, at);
create index if not exists guard_log_not_judged_idx on notika.guard_log (workflow, at)
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
  found text[],
  constraint guard_pending_pkey primary key (pending_id)
);
create index if not exists guard_pending_workflow_idx on notika.guard_pending (workflow_id);

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
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array_agg(e.enumlabel::text order by e.enumtypid, e.enumsortorder)
      from notika._leaf_types(_labels.type) as l (oid)
      join pg_enum as e on e.enumtypid = l.oid
     where _labels.type >= 16384
  );
end;
$$;

comment on function notika._labels(oid) is 'The labels of the enums in a type; null: there are none.';

create or replace function notika._label_ids(type oid)
  returns oid[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array_agg(e.oid order by e.enumtypid, e.enumsortorder)
      from notika._leaf_types(_label_ids.type) as l (oid)
      join pg_enum as e on e.enumtypid = l.oid
     where _label_ids.type >= 16384
  );
end;
$$;

comment on function notika._label_ids(oid) is
  'The numbers of the labels of the enums in a type, in the order of _labels.';

create or replace function notika._has_labels(contract notika.contract)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if contract.label_ids is null then
    return contract.labels <@ coalesce(notika._labels(contract.type), '{}');
  end if;
  -- By their numbers: labels may have swapped their names, and others may have been added.
  return not exists (
    select from unnest(contract.labels, contract.label_ids) as l (label, id)
      left join pg_enum as e on e.oid = l.id
     where e.enumlabel is distinct from l.label
  );
end;
$$;

comment on function notika._has_labels(notika.contract) is
  'Whether the labels of the enums in a column''s type are what they were, but for those that were added.';

create or replace function notika._part_types(type oid)
  returns setof oid
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
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
end;
$$;

comment on function notika._part_types(oid) is
  'A type with those of its elements and attributes, all of them without domains.';

create or replace function notika._attributes(type oid)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod))
                     order by a.attrelid, a.attnum)
      from notika._part_types(_attributes.type) as p (oid)
      join pg_type as t on t.oid = p.oid and t.typtype = 'c'
      join pg_attribute as a on a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
     where _attributes.type >= 16384
  );
end;
$$;

comment on function notika._attributes(oid) is
  'The attributes of the composite types in a type; null: there are none.';

create or replace function notika._tables(relation regclass)
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select f from notika._family(_tables.relation) as f
    union
    select p.relid from pg_partition_tree(_tables.relation) as p;
end;
$$;

comment on function notika._tables(regclass) is 'A table with its partitions and children.';

create or replace function notika._key_of(relation regclass)
  returns table (place integer, column_name text, attnum smallint, type oid)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select k.place::integer, a.attname::text, a.attnum, a.atttypid
    from unnest(notika._key_columns(_key_of.relation)) with ordinality as k (attnum, place)
    join pg_attribute as a on a.attrelid = _key_of.relation and a.attnum = k.attnum;
$$;

comment on function notika._key_of(regclass) is
  'The columns of the primary key, or else of the replica identity, as the catalog says them now.';

create or replace function notika._bind_key(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.contract_key as k where k.workflow_id = _bind_key.workflow_id;
  insert into notika.contract_key (workflow_id, place, column_name, attnum, type)
  select w.workflow_id, k.place, k.column_name, k.attnum, k.type
    from notika.workflow as w
   cross join notika._key_of(w.relation) as k
   where w.workflow_id = _bind_key.workflow_id;
end;
$$;

comment on function notika._bind_key(integer) is
  'Writes down the key of a workflow''s table, as the catalog says it now.';

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
  perform notika._bind_key(_bind.workflow_id);

  insert into notika.contract
    (workflow_id, column_name, attnum, type_name, type, typmod, labels, label_ids, attributes)
  select v_spec.workflow_id, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod),
         a.atttypid, a.atttypmod, notika._labels(a.atttypid), notika._label_ids(a.atttypid),
         notika._attributes(a.atttypid)
    from pg_attribute as a
   where a.attrelid = v_spec.relation and a.attnum > 0 and not a.attisdropped
     and (
       a.attname = any (v_spec.column_names || v_spec.watch)
       or not v_spec.is_pinned and notika._reads(v_spec.condition, a.attname)
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

create or replace function notika._is_as_published(
  type smallint,
  column_count integer,
  is_unfiltered boolean,
  spec notika.workflow,
  operation text
)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select type = case (spec).capture when 'row' then 1 else 0 end
                + case operation when 'insert' then 4 when 'delete' then 8 else 16 end
     and column_count = 0
     and is_unfiltered = not exists (
       select from unnest((spec).definition) as d (statement)
        where d.statement like format(E'create or replace trigger notika\\_%s\\_%s\n%%\n  when (%%',
                                      (spec).workflow_id, operation)
     );
$$;

comment on function
  notika._is_as_published(smallint, integer, boolean, notika.workflow, text) is
  'Whether a trigger fires when that of a workflow for this operation does: after each row or '
  'statement, for any column, with a WHEN or without.';

create or replace function notika._column_change(
  spec notika.workflow,
  contract notika.contract,
  attribute pg_attribute
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_change text := notika._type_change(attribute.atttypid, attribute.atttypmod, contract.type, contract.typmod);
  v_strings constant oid[] := '{text,varchar}'::regtype[];
begin
  -- What a condition does with a column depends on its type.
  if v_change <> 'type_changed'
     and notika._base_type(attribute.atttypid) <> notika._base_type(contract.type)
     and not (notika._base_type(attribute.atttypid) = any (v_strings)
              and notika._base_type(contract.type) = any (v_strings))
     and (notika._reads(spec.condition, contract.column_name)
          or notika._reads(spec.condition, attribute.attname))
  then
    return 'type_changed';
  end if;
  return v_change;
end;
$$;

comment on function notika._column_change(notika.workflow, notika.contract, pg_attribute) is
  'What a change of the type of a column is to a workflow: see _type_change.';

create or replace function notika._is_outdated(spec notika.workflow)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when (spec).capture = 'statement' then notika._form(spec) = 'row'
           when (spec).columns is null
             then notika._listed_shape((spec).definition) <> notika._shape((spec).relation)
           else false
         end;
$$;

comment on function notika._is_outdated(notika.workflow) is
  'Whether its triggers may miss changes by now, which event triggers would have noticed.';

create or replace function notika._findings(spec notika.workflow)
  returns table (kind text, object text, expected text, actual text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
  -- To plan these queries takes longer than to run them.
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_quoted text := notika._quoted(spec.relation);
begin
  if spec.table_name is null then
    return; -- it is published on none
  end if;
  if v_quoted is distinct from spec.table_name and notika._table(spec.table_name) is not null then
    return query
      select 'table_replaced', spec.table_name, 'the table that was published',
             'another table of that name; the published one is '
             || coalesce('now ' || v_quoted, 'gone');
  elsif v_quoted is null then
    return query select 'table_dropped', spec.table_name, 'a table', null::text;
  elsif v_quoted <> spec.table_name then
    return query select 'table_renamed', spec.table_name, spec.table_name, v_quoted;
  end if;
  if v_quoted is null then
    return;
  end if;

  return query
    select k.kind, format('%s.%I', spec.table_name, c.column_name), k.expected, k.actual
      from notika.contract as c
      left join pg_attribute as a
        on a.attrelid = spec.relation and a.attnum = c.attnum and not a.attisdropped
     cross join lateral (
       -- Each by itself: a column may have been renamed and retyped.
       select 'column_dropped', c.type_name, null
        where a.attnum is null
       union all
       select 'column_renamed', c.column_name, a.attname::text
        where a.attname <> c.column_name
       union all
       -- Another type of the same name is told by its labels.
       select notika._column_change(spec, c, a),
              case when format_type(a.atttypid, a.atttypmod) = c.type_name and c.labels is not null
                   then c.labels::text
                   else c.type_name end,
              case when format_type(a.atttypid, a.atttypmod) = c.type_name and c.labels is not null
                   then notika._labels(a.atttypid)::text
                   else format_type(a.atttypid, a.atttypmod) end
        where a.atttypid <> c.type or a.atttypmod <> c.typmod
       union all
       select 'type_changed', c.attributes::text, notika._attributes(a.atttypid)::text
        where a.atttypid = c.type and a.atttypmod = c.typmod and c.attributes is not null
          and not c.attributes <@ coalesce(notika._attributes(a.atttypid), '{}')
       union all
       select 'label_renamed', c.labels::text, notika._labels(a.atttypid)::text
        where a.atttypid = c.type and a.atttypmod = c.typmod and c.labels is not null
          and not notika._has_labels(c)
     ) as k (kind, expected, actual)
     where c.workflow_id = spec.workflow_id;

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
           case when t.oid is null or t.tgenabled in ('D', 'R') then 'enabled' else 'as published' end,
           case t.tgenabled when 'D' then 'disabled' when 'R' then 'enabled for replicas only'
                            else pg_get_triggerdef(t.oid) end
      from notika._family(spec.relation) as f (relation)
     cross join unnest(spec.operations) as o (name)
      left join pg_trigger as t
        on t.tgrelid = f.relation and t.tgname = format('notika_%s_%s', spec.workflow_id, o.name)
     where t.oid is null or t.tgenabled not in ('O', 'A')
        or t.tgfoid is distinct from
           to_regprocedure(format('notika._capture_%s()', spec.workflow_id))
        -- A trigger that somebody else made is told by when it fires, and by what its WHEN reads.
        or not notika._is_as_published(t.tgtype, cardinality(t.tgattr::int2[]), t.tgqual is null,
                                       spec, o.name)
        or t.tgqual is not null and case
          when not spec.is_pinned then not exists (
            select from pg_depend as d
             where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
               and d.refclassid = 'pg_proc'::regclass and d.refobjid <> t.tgfoid
          )
          when pg_get_triggerdef(t.oid) like '%::regprocedure IS NOT NULL)%' then not exists (
            select from pg_depend as d
             where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
               and d.refclassid = 'pg_proc'::regclass
               and d.refobjid = notika._payload_function(spec.workflow_id, f.relation)
          )
          -- A condition may read no column at all.
          else spec.condition is null and (spec.watch is null or o.name <> 'update') or exists (
            select from pg_depend as d
             where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
               and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
          ) <> (notika._reads(spec.condition) or o.name = 'update' and spec.watch is not null)
        end;

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

  if not notika._is_complete(spec) then
    return query
      select 'right_missing', m.object, m.privilege, null::text from notika._missing_to_make(spec) as m;
  end if;
  if spec.condition_uses is not null and (not spec.is_pinned or not notika._is_complete(spec))
     and notika._lost_meaning(spec.condition_uses) is not null
  then
    return query
      select 'condition_changed', spec.table_name, 'names that mean what they meant when it was published',
             notika._lost_meaning(spec.condition_uses) || ' was replaced, or there is more by that name';
  end if;

  if notika._is_outdated(spec) then
    return query
      select 'form_outdated', spec.table_name, 'triggers for the table as it is now',
             'triggers for what it was when nobody watched';
  end if;

  return query
    select 'rule', format('%I on %s', r.rulename, spec.table_name), 'no rule instead of writes',
           pg_get_ruledef(r.oid)
      from pg_rewrite as r
     where r.ev_class = spec.relation and r.is_instead;
end;
$$;

comment on function notika._findings(notika.workflow) is
  'How the catalog differs from what a workflow was published with.';

create or replace function notika._not_judged(spec notika.workflow)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select l.actual
    from notika.guard_log as l
   where l.workflow = (spec).name and l.at > (spec).published_at and l.kind = 'not_judged'
     and not exists (
       select from notika.guard_log as o
        where o.workflow = l.workflow and o.at >= l.at and o.kind = l.kind and o.verdict = 'repaired'
     )
   order by l.at desc
   limit 1;
$$;

comment on function notika._not_judged(notika.workflow) is
  'Why the guard could not judge a workflow since it was published, nor since then; null: it could.';

create or replace function notika._try_findings(spec notika.workflow)
  returns table (kind text, object text, expected text, actual text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query select f.* from notika._findings(spec) as f;
exception
  when serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    return query select 'not_judged', spec.table_name, 'a comparison with the catalog',
                        format('%s (%s)', sqlerrm, sqlstate);
end;
$$;

comment on function notika._try_findings(notika.workflow) is
  'What _findings gives; an error of it is a finding too, so that it hides no other workflow.';

create or replace function notika._suspects()
  returns setof integer
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with published as materialized (
    select w.workflow_id, w.relation, w.table_name, w.operations, w.capture, w.definition,
           w.broken_reason,
           format('notika_%s_', w.workflow_id) as prefix, w as spec
      from notika.workflow as w
     where w.unpublished_at is null and w.table_name is not null
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
      or not notika._is_as_published(t.tgtype, cardinality(t.tgattr::int2[]), t.tgqual is null,
                                     w.spec, o.name)
      or t.tgqual is not null and t.tgparentid = 0 and not exists (
        -- What the WHEN of a published trigger reads.
        select from pg_depend as d
         where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
           and (d.refclassid = 'pg_proc'::regclass and d.refobjid <> t.tgfoid
                or d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0)
      )
      or c.relation <> w.relation and not exists (
        select from pg_inherits as i where i.inhrelid = c.relation
      )
  union
  select w.workflow_id
    from published as w
   where notika._listed_shape(w.definition) <> notika._shape(w.relation)
      or w.capture = 'statement' and (
        not (select notika._has_event_triggers())
        or exists (select from pg_inherits as i where i.inhrelid = w.relation)
        or exists (select from pg_inherits as i where i.inhparent = w.relation)
        or exists (
          select from pg_trigger as t
           where t.tgrelid = w.relation and t.tgname !~ '^notika_'
             and t.tgtype & 66 = 0 -- neither before nor instead
             and (w.operations = '{delete}' or not t.tgisinternal)
        )
      )
  union
  -- Another key: what captures is to be made again.
  select w.workflow_id
    from published as w
    left join lateral (
      select i.indrelid, i.indkey::int2[] as attnums, i.indnkeyatts
        from pg_index as i
       where i.indrelid = w.relation and (i.indisprimary or i.indisreplident)
       order by i.indisprimary desc
       limit 1
    ) as i on true
   where w.broken_reason is null
     and array(
       select format('%s %s %s', k.attnum, k.type, k.column_name)
         from notika.contract_key as k
        where k.workflow_id = w.workflow_id
        order by k.place
     ) <> array(
       select format('%s %s %s', a.attnum, a.atttypid, a.attname)
         from unnest(i.attnums) with ordinality as k (attnum, place)
         join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where k.place <= i.indnkeyatts
        order by k.place
     )
  union
  -- Another owner of a partitioned table, who has to have a right.
  select c.workflow_id
    from notika.contract_table as c
    join pg_class as k on k.oid = c.relation and k.relkind = 'p'
    join published as w on w.workflow_id = c.workflow_id
   where exists (select from notika._capture_grants(w.workflow_id, w.relation))
  union
  -- What could not be judged: perhaps it can be by now.
  select w.workflow_id
    from notika.guard_log as l
    join published as w on (w.spec).name = l.workflow
   where l.kind = 'not_judged' and notika._not_judged(w.spec) is not null
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
  select kind in ('table_dropped', 'table_replaced', 'column_dropped', 'type_changed', 'trigger_dropped',
                  'right_missing', 'condition_changed');
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
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
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
       ))
  );
end;
$$;

comment on function notika._is_complete(notika.workflow) is
  'Whether all functions and triggers of a workflow are there, and nowhere else.';

create or replace function notika._has_all_it_needs(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select exists (select from pg_class as t where t.oid = (spec).relation)
       and not exists (
         select from notika.contract as c
           left join pg_attribute as a
             on a.attrelid = (spec).relation and a.attnum = c.attnum and not a.attisdropped
          where c.workflow_id = (spec).workflow_id
            and (a.attnum is null
                 or (a.atttypid <> c.type or a.atttypmod <> c.typmod)
                    and notika._column_change(spec, c, a) = 'type_changed'
                 or case when c.attributes is not null
                         then not c.attributes <@ coalesce(notika._attributes(a.atttypid), '{}') end)
       )
  );
end;
$$;

comment on function notika._has_all_it_needs(notika.workflow) is
  'Whether its table and the columns it was published with are there.';

create or replace function notika._may_make(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return notika._lost_meaning(spec.condition_uses) is null
     and not exists (
       select from notika._planned_functions(spec.relation) as f where f.is_partition_key
     )
     and not exists (select from notika._missing_to_make(spec));
end;
$$;

comment on function notika._may_make(notika.workflow) is
  'Whether the functions and triggers of a workflow can be made: its condition means what it did, and '
  'the owner has the rights.';

create or replace function notika._missing_to_make(spec notika.workflow)
  returns table (privilege text, object text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select n.privilege, n.object
      from notika._needed_rights(spec.relation, null) as n
     where not n.is_had and n.privilege <> 'select'
       and (spec.columns is not null or n.object not like 'type %');
end;
$$;

comment on function notika._missing_to_make(notika.workflow) is
  'The rights that the owner of Notika lacks to make the functions and triggers of a workflow.';

create or replace function notika._bring_into_form(before notika.workflow, after notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _bring_into_form.after;
begin
  perform notika._hold_columns(v_after);
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  perform notika._set_busy(true);
  perform notika._apply(before, v_after);
  perform notika._set_busy(false);
  update notika.workflow as w
     set definition = v_after.definition, is_pinned = v_after.is_pinned, capture = v_after.capture
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
     or exists (select from notika._missing_to_make(v_before)) -- which is judged
  then
    return;
  end if;
  v_after := notika._with_columns(v_before);
  v_after.is_pinned := false;
  if not v_before.is_pinned and notika._is_complete(v_before) then
    perform notika._renew_capture(v_before, v_after);
  else
    perform notika._bring_into_form(v_before, v_after);
  end if;
end;
$$;

comment on function notika._loosen(integer) is
  'Takes the pins of a workflow away; it captures on, as far as what it reads is there.';

create or replace function notika._rebind(spec notika.workflow, relation regclass, statement text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_other boolean := _rebind.relation is distinct from spec.relation;
  v_column text;
begin
  -- Another table has nothing but names; 0: it does not have the column.  In the same table a column is
  -- told by its number, and its name tells what has taken its place once it is dropped; not what another
  -- column of the contract has become.
  for v_column in
    update notika.contract as c
       set attnum = coalesce(b.attnum, 0),
           label_ids = case when b.type = c.type then c.label_ids
                            when c.labels = notika._labels(b.type) then notika._label_ids(b.type) end,
           -- Another enum of that name will do if it has all labels.
           type = case when b.type_name = c.type_name
                        and (c.labels is null or c.labels <@ notika._labels(b.type))
                       then b.type else c.type end
      from notika.contract as o
      left join lateral (
        select a.attnum, a.atttypid as type, a.atttypmod as typmod,
               format_type(a.atttypid, a.atttypmod) as type_name
          from pg_attribute as a
         where a.attrelid = _rebind.relation and not a.attisdropped
           and case
                 when not v_is_other and exists (
                   select from pg_attribute as p
                    where p.attrelid = _rebind.relation and p.attnum = o.attnum and not p.attisdropped
                 ) then a.attnum = o.attnum
                 else a.attname = o.column_name and a.attnum > 0 and (v_is_other or not exists (
                   select from notika.contract as k
                    where k.workflow_id = o.workflow_id and k.attnum = a.attnum
                 ))
               end
      ) as b on true
     where c.workflow_id = spec.workflow_id
       and o.workflow_id = c.workflow_id and o.column_name = c.column_name
       and (v_is_other or b.attnum <> o.attnum or b.type <> o.type and b.type_name = o.type_name)
    returning case when not v_is_other and (b.type_name = o.type_name
                                            or (b.type, b.typmod) = (o.type, o.typmod))
                   then c.column_name end
  loop
    continue when v_column is null;
    perform notika._record(spec, 'healed', 'column_replaced',
                           format('%s.%I', spec.table_name, v_column), statement);
  end loop;
end;
$$;

comment on function notika._rebind(notika.workflow, regclass, text) is
  'Binds the contract of a workflow to what has taken the place of columns that are gone.';

create or replace function notika._follow_columns(before notika.workflow, after notika.workflow, statement text)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
begin
  -- A column that took the name of one that is gone stays under its own until that is decided.
  if exists (
    select from notika.contract as c
      left join notika._renamed_columns(after) as r on r.old_name = c.column_name
     where c.workflow_id = after.workflow_id
     group by coalesce(r.new_name, c.column_name)
    having count(*) > 1
  ) then
    return false;
  end if;
  for v_column in select r.old_name, r.new_name from notika._renamed_columns(after) as r loop
    perform notika._record(before, 'followed', 'column_renamed',
                           format('%s.%I', before.table_name, v_column.old_name),
                           notika._statement_of(before.workflow_id, 'column_renamed',
                                                format('%s.%I', before.table_name, v_column.old_name),
                                                statement),
                           v_column.old_name, v_column.new_name);
  end loop;
  if found then
    -- In two steps, because names may have gone from one column to another.
    update notika.contract as c
       set column_name = repeat(' ', 64) || c.attnum -- longer than any name
     where c.workflow_id = after.workflow_id
       and c.column_name in (select r.old_name from notika._renamed_columns(after) as r);
    update notika.contract as c
       set column_name = a.attname
      from pg_attribute as a
     where c.workflow_id = after.workflow_id and a.attrelid = after.relation and a.attnum = c.attnum
       and c.column_name = repeat(' ', 64) || c.attnum;
  end if;
  return true;
end;
$$;

comment on function notika._follow_columns(notika.workflow, notika.workflow, text) is
  'Follows the renames of columns in the contract of a workflow; false: not yet, because two would have '
  'the same name.';

create or replace function notika._follow_labels(before notika.workflow, after notika.workflow, statement text)
  returns notika.workflow
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _follow_labels.after;
  v_column record;
  v_type oid;
begin
  update notika.contract as c
     set type_name = format_type(c.type, c.typmod) -- it may have been renamed
   where c.workflow_id = after.workflow_id
     and c.type >= 16384 and c.type_name <> format_type(c.type, c.typmod)
     and exists (select from pg_type as t where t.oid = c.type);

  for v_column in
    select c.column_name, c.type, c.labels, c.label_ids, n.labels as new_labels, n.label_ids as new_label_ids,
           notika._has_labels(c) as has_labels
      from notika.contract as c
      join pg_attribute as a
        on a.attrelid = after.relation and a.attnum = c.attnum and a.atttypid = c.type
     cross join lateral (
       select notika._labels(a.atttypid), notika._label_ids(a.atttypid)
     ) as n (labels, label_ids)
     where c.workflow_id = after.workflow_id and c.labels is not null
       and (c.labels, c.label_ids) is distinct from (n.labels, n.label_ids)
  loop
    update notika.contract as c
       set labels = v_column.new_labels, label_ids = v_column.new_label_ids
     where c.workflow_id = after.workflow_id and c.column_name = v_column.column_name;
    continue when v_column.has_labels;
    perform notika._record(before, 'followed', 'label_renamed',
                           format('%s.%I', before.table_name, v_column.column_name),
                           notika._statement_of(before.workflow_id, 'label_renamed',
                                                format('%s.%I', before.table_name, v_column.column_name),
                                                statement),
                           v_column.labels::text, v_column.new_labels::text);
    for v_type in
      select l.type
        from notika._leaf_types(v_column.type) as l (type)
        join pg_type as t on t.oid = l.type and t.typtype = 'e'
    loop
      v_after := notika._relabel(v_after, v_type, r.old_labels, r.new_labels)
         from (
           select array_agg(l.label) as old_labels, array_agg(e.enumlabel::text) as new_labels
             from unnest(v_column.labels, v_column.label_ids) as l (label, id)
             join pg_enum as e on e.enumtypid = v_type and e.oid = l.id
            where e.enumlabel <> l.label
         ) as r;
    end loop;
  end loop;
  return v_after;
end;
$$;

comment on function notika._follow_labels(notika.workflow, notika.workflow, text) is
  'Follows the new names of types and of the labels of enums, in the contract of a workflow and in its '
  'condition.';

create or replace function notika._put_back(before notika.workflow, after notika.workflow, may_alter boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _put_back.after;
begin
  if not notika._has_all_it_needs(v_after) then
    if may_alter and not exists (select from notika._missing_to_make(v_after)) then
      perform notika._loosen(before.workflow_id);
    end if;
    return;
  end if;

  v_after.is_pinned := case when may_alter then notika._wants_pins(before.guard)
                            else before.is_pinned end;
  -- Only what is missing: a trigger that somebody disabled stays disabled.  What Notika may not make,
  -- or must not parse, is judged.
  if may_alter and notika._may_make(v_after)
     and (not notika._is_complete(v_after) or v_after.is_pinned <> before.is_pinned
          or notika._form(v_after) <> before.capture
          or notika._listed_shape(before.definition)
             is distinct from case when notika._lists_columns(v_after)
                                   then notika._shape(v_after.relation) end)
  then
    perform notika._bring_into_form(before, v_after);
  elsif not before.is_pinned
        or (v_after.column_names, v_after.watch, v_after.condition)
           is distinct from (before.column_names, before.watch, before.condition)
  then
    -- Postgres has renamed in them what was renamed, but for what is parsed again in each session.
    v_after.is_pinned := before.is_pinned;
    perform notika._renew_capture(before, v_after);
    if v_after.is_pinned then
      update notika.workflow as w
         set definition = notika._definition(v_after)
       where w.workflow_id = before.workflow_id;
    end if;
  end if;
  perform notika._follow_key(v_after);
end;
$$;

comment on function notika._put_back(notika.workflow, notika.workflow, boolean) is
  'Makes the functions and triggers of a workflow that are missing, if what they need is there; '
  'otherwise they capture what is left.';

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
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow;
  v_before notika.workflow;
  v_after notika.workflow;
  v_table regclass;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = _reconcile.workflow_id
     and w.unpublished_at is null and w.table_name is not null; -- without a table DDL is nothing to it
  if not found then
    return;
  end if;
  v_spec := notika._with_names(v_spec);
  v_after := v_spec;

  -- Of tables the name comes first: what has taken the place of one that was dropped or renamed away is
  -- what the workflow is published on from now on.
  v_table := notika._table(v_spec.table_name);
  if v_table is not null and v_table is distinct from v_spec.relation and may_alter
     and (settled or notika._quoted(v_spec.relation) is null)
  then
    v_after.relation := v_table;
    perform notika._record(v_spec, 'healed', 'table_replaced', v_spec.table_name, statement);
    update notika.workflow as w
       set table_name = w.table_name -- finds the relation anew
     where w.workflow_id = v_spec.workflow_id;
    delete from notika.contract_table as c where c.workflow_id = v_spec.workflow_id;
    insert into notika.contract_table (workflow_id, relation)
    select v_spec.workflow_id, t from notika._tables(v_table) as t;
  end if;
  perform notika._rebind(v_spec, v_after.relation, statement);
  v_after := notika._with_columns(v_after);
  perform notika._put_back(v_spec, v_after, may_alter);
  perform notika._settle_capture_rights(v_spec.workflow_id, v_after.relation);
  if not settled or v_spec.on_rename <> 'follow' then
    return;
  end if;

  if not notika._follow_columns(v_spec, v_after, statement) then
    v_after.column_names := v_spec.column_names;
    v_after.watch := v_spec.watch;
    v_after.condition := v_spec.condition;
    v_after.condition_sql := v_spec.condition_sql;
  end if;
  v_after := notika._follow_labels(v_spec, v_after, statement);
  select w.* into v_before from notika.workflow as w where w.workflow_id = v_spec.workflow_id;
  if v_after.condition is distinct from v_spec.condition and not v_before.is_pinned then
    v_after.is_pinned := false;
    perform notika._renew_capture(v_before, v_after); -- it is parsed again in each session
    select w.* into v_before from notika.workflow as w where w.workflow_id = v_spec.workflow_id;
  end if;
  -- In a trigger a string whose type is named is no constant, which would have followed.
  if v_after.condition is distinct from v_spec.condition and notika._names_others(v_after.condition)
     and may_alter and notika._has_all_it_needs(v_after) and notika._may_make(v_after)
  then
    v_after.is_pinned := notika._wants_pins(v_spec.guard);
    perform notika._bring_into_form(v_before, v_after);
  end if;

  -- Without the right to alter, another table that took the name is for somebody to decide about.
  if v_table is null or v_table = v_after.relation then
    v_after.table_name := coalesce(notika._quoted(v_after.relation), v_spec.table_name);
  end if;
  if v_after.table_name <> v_spec.table_name then
    perform notika._record(v_spec, 'followed', 'table_renamed', v_spec.table_name,
                           notika._statement_of(v_spec.workflow_id, 'table_renamed', v_spec.table_name,
                                                statement),
                           v_spec.table_name, v_after.table_name);
  end if;
  update notika.workflow as w
     set table_name = v_after.table_name
   where w.workflow_id = v_spec.workflow_id and w.table_name <> v_after.table_name;
  update notika.workflow as w
     set watch = v_after.watch, condition = v_after.condition, column_names = v_after.column_names,
         condition_sql = v_after.condition_sql, condition_uses = v_after.condition_uses
   where w.workflow_id = v_spec.workflow_id
     and (w.watch, w.condition, w.column_names, w.condition_sql, w.condition_uses)
         is distinct from (v_after.watch, v_after.condition, v_after.column_names,
                           v_after.condition_sql, v_after.condition_uses);
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

-- It has no primary key, and a publication FOR ALL TABLES would refuse to delete from it.
alter table notika.guard_busy replica identity full;
--! EndIncluded 70_guard.sql
--! Included 70_rename.sql
-- Renames: what a workflow says of its table under the names that columns, types and labels have now.
-- A column is told by its number, whatever else a transaction does to its name.  A condition is read
-- token by token, so that a name with a quote or a dot in it is one name, and a string is none.

create or replace function notika._tokens(condition text)
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  -- A condition has no comments, no dollar quotes and no escapes: _read_condition refuses them, and
  -- Postgres prints none but E'', in which quotes are doubled all the same.
  select array(
    select m.token[1]
      from regexp_matches(
             _tokens.condition,
             $re$'(?:[^']|'')*'|"(?:[^"]|"")*"|[^\x01-@\[-^`{-\x7f][^\x01-#%-/:-@\[-^`{-\x7f]*|\s+|.$re$,
             'g') with ordinality as m (token, place)
     order by m.place
  );
$body$;

comment on function notika._tokens(text) is
  'The tokens of a condition, spaces included: strings, names with or without quotes, and signs.';

create or replace function notika._name_in(token text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  -- As Postgres reads it: cut off, and in lower case as far as it is ASCII.
  select case
           when token like '"%"' then replace(substr(token, 2, length(token) - 2), '""', '"')::name::text
           when token ~ '^[^\x01-@\[-^`{-\x7f]'
             then translate(token, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')::name::text
         end;
$body$;

comment on function notika._name_in(text) is 'The name that a token of a condition is; null: it is none.';

create or replace function notika._columns_in(tokens text[])
  returns table (place integer, column_name text)
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_token text;
  v_name text;
  v_last text;
  v_opened integer := 0; -- parentheses directly before new or old, as in (new).email
  v_follows text; -- what may follow: a dot, or the name of a column
begin
  for v_place in 1 .. coalesce(cardinality(tokens), 0) loop
    v_token := tokens[v_place];
    continue when v_token ~ '^\s';
    v_name := notika._name_in(v_token);
    if v_follows = 'column' and v_name is not null then
      place := v_place;
      column_name := v_name;
      return next;
      v_follows := null;
    elsif v_follows = 'dot' and v_token = ')' and v_opened > 0 then
      v_opened := v_opened - 1;
    elsif v_follows = 'dot' and v_token = '.' then
      v_follows := 'column';
    elsif v_name in ('new', 'old') and v_last is distinct from '.' then
      v_follows := 'dot';
    else
      v_follows := null;
    end if;
    if v_follows is null then
      v_opened := case when v_token = '(' then v_opened + 1 else 0 end;
    end if;
    v_last := v_token;
  end loop;
end;
$body$;

comment on function notika._columns_in(text[]) is
  'The columns of new and old in a condition, and which tokens they are.';

create or replace function notika._reads(condition text, column_name text default null)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from notika._columns_in(notika._tokens(_reads.condition)) as c
     where _reads.column_name is null or c.column_name = _reads.column_name
  );
$$;

comment on function notika._reads(text, text) is
  'Whether a condition names this column, or, if none is given, any.';

create or replace function notika._rename_in(condition text, old_names text[], new_names text[])
  returns text
  language plpgsql
  immutable
  strict
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_tokens text[] := notika._tokens(condition);
  v_place integer;
  v_name text;
begin
  for v_place, v_name in
    select c.place, c.column_name
      from notika._columns_in(v_tokens) as c
     where c.column_name = any (old_names)
  loop
    v_tokens[v_place] := quote_ident(new_names[array_position(old_names, v_name)]);
  end loop;
  return array_to_string(v_tokens, '');
end;
$$;

comment on function notika._rename_in(text, text[], text[]) is
  'A condition with columns under their new names. All at once: names may have gone from one column to '
  'another.';

create or replace function notika._renamed(names text[], old_names text[], new_names text[])
  returns text[]
  language sql
  immutable
  strict
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select coalesce(new_names[array_position(old_names, n.name)], n.name)
      from unnest(names) with ordinality as n (name, place)
     order by n.place
  );
$$;

comment on function notika._renamed(text[], text[], text[]) is
  'Names of columns, those among them that have a new one under it.';

create or replace function notika._renamed_columns(spec notika.workflow)
  returns table (old_name text, new_name text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select c.column_name, a.attname::text
      from notika.contract as c
      join pg_attribute as a on a.attrelid = spec.relation and a.attnum = c.attnum
     where c.workflow_id = spec.workflow_id and not a.attisdropped and a.attname <> c.column_name
     order by c.column_name;
end;
$$;

comment on function notika._renamed_columns(notika.workflow) is
  'The columns of a workflow''s contract that have another name by now.';

create or replace function notika._with_columns(spec notika.workflow)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := _with_columns.spec;
  v_old text[];
  v_new text[];
begin
  select array_agg(r.old_name), array_agg(r.new_name) into v_old, v_new
    from notika._renamed_columns(_with_columns.spec) as r;
  if v_old is not null then
    v_spec.column_names := notika._renamed(spec.column_names, v_old, v_new);
    v_spec.watch := notika._renamed(spec.watch, v_old, v_new);
    v_spec.condition := notika._rename_in(spec.condition, v_old, v_new);
    v_spec.condition_sql := notika._rename_in(spec.condition_sql, v_old, v_new);
  end if;
  return v_spec;
end;
$$;

comment on function notika._with_columns(notika.workflow) is
  'A workflow whose columns, watch and condition have the names that its columns have now.';

create or replace function notika._relabel(
  spec notika.workflow,
  type oid,
  old_labels text[],
  new_labels text[]
)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow := _relabel.spec;
  -- A name with a quote in it is no string.
  v_pattern constant text := '''(?:[^'']|'''')*''|(?:[^''"]|"(?:[^"]|"")*")+';
  v_cast constant text := '^(::text\))?::'
    || regexp_replace(format_type(_relabel.type, null), '([^\w\s])', '\\\1', 'g') || '(?![\w$."])';
  v_old constant text[] := array(
    select quote_literal(u.label)
      from unnest(old_labels) with ordinality as u (label, place) order by u.place);
  v_new constant text[] := array(
    select quote_literal(u.label)
      from unnest(new_labels) with ordinality as u (label, place) order by u.place);
  v_before text[]; -- the strings, as Postgres prints them
  v_given text[]; -- the same and what is between, as they were given
  v_is_label boolean[];
  v_string integer := 0;
begin
  if spec.condition is null then
    return v_spec;
  end if;
  -- In the condition as Postgres prints it, each string says which type it is of.
  select array_agg(t.is_label order by t.place) filter (where t.token like '''%'),
         array_agg(t.token order by t.place) filter (where t.token like '''%'),
         string_agg(case when t.is_label then v_new[array_position(v_old, t.token)] else t.token end, ''
                    order by t.place)
    into v_is_label, v_before, v_spec.condition_sql
    from (
      select m.token[1] as token, m.place,
             m.token[1] = any (v_old)
             and coalesce(lead(m.token[1]) over (order by m.place) ~ v_cast, false) as is_label
        from regexp_matches(v_spec.condition_sql, v_pattern, 'g') with ordinality as m (token, place)
    ) as t;

  -- The same word may be no label elsewhere: where both have the same strings it is told by its place.
  v_given := array(select m[1] from regexp_matches(v_spec.condition, v_pattern, 'g') as m);
  if v_before is distinct from array(select t from unnest(v_given) as t where t like '''%') then
    v_is_label := null;
  end if;
  for v_place in 1 .. coalesce(cardinality(v_given), 0) loop
    continue when v_given[v_place] not like '''%';
    v_string := v_string + 1;
    if v_given[v_place] = any (v_old) and coalesce(v_is_label[v_string], true) then
      v_given[v_place] := v_new[array_position(v_old, v_given[v_place])];
    end if;
  end loop;
  v_spec.condition := array_to_string(v_given, '');
  return v_spec;
end;
$$;

comment on function notika._relabel(notika.workflow, oid, text[], text[]) is
  'A workflow whose condition has labels of an enum under their new names; all at once, because labels '
  'may have swapped theirs.';
--! EndIncluded 70_rename.sql
--! Included 70_type.sql
-- What may become of the type of a column that a workflow depends on: only what leaves every value
-- looking the same in an event.  A value that the new type does not hold makes Postgres refuse the
-- command, so the new type may as well hold less.

create or replace function notika._type_changes()
  returns table (old_type regtype, new_type regtype, rule text, is_narrower boolean)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- Not in it, because of what would look different: character(n), which is padded to its length;
  -- real to double precision (0.1 is 0.10000000149011612 then); integer to bigint, which is a string in
  -- an event, so that JavaScript does not round it; json to jsonb, which writes it in its own way.
  values
    ('varchar'::regtype, 'varchar'::regtype, 'any', null::boolean),
    ('varchar', 'text', 'any', false),
    ('text', 'varchar', 'any', true),
    ('varbit', 'varbit', 'any', null),
    ('bit', 'varbit', 'any', false),
    ('bit', 'text', 'any', false),
    ('bit', 'varchar', 'any', false),
    ('varbit', 'text', 'any', false),
    ('varbit', 'varchar', 'any', false),
    ('uuid', 'text', 'any', false),
    ('uuid', 'varchar', 'any', false),
    ('anyenum', 'text', 'any', false),
    ('anyenum', 'varchar', 'any', false),
    ('int8', 'text', 'any', false), -- strings in an event anyway
    ('int8', 'varchar', 'any', false),
    ('numeric', 'text', 'any', false),
    ('numeric', 'varchar', 'any', false),
    ('date', 'text', 'any', false),
    ('date', 'varchar', 'any', false),
    ('time', 'text', 'any', false),
    ('time', 'varchar', 'any', false),
    ('cidr', 'text', 'any', false),
    ('cidr', 'varchar', 'any', false),
    ('jsonb', 'json', 'any', false),
    ('int2', 'int4', 'any', false),
    ('int4', 'int2', 'any', true),
    ('int2', 'float4', 'any', false),
    ('int2', 'float8', 'any', false),
    ('int4', 'float8', 'any', false),
    -- With as many digits after the point, or with as many as each number has: 1.2 is another string
    -- than 1.20.
    ('numeric', 'numeric', 'scale', null),
    ('int8', 'numeric', 'scale', false),
    ('numeric', 'int8', 'scale', true),
    ('time', 'time', 'precision', null),
    ('timetz', 'timetz', 'precision', null),
    ('timestamp', 'timestamp', 'precision', null),
    ('timestamptz', 'timestamptz', 'precision', null),
    ('interval', 'interval', 'precision', null);
$$;

comment on function notika._type_changes() is
  'The types between which a column may change without a difference in events. rule: any, whatever the '
  'lengths; scale, with as many digits after the point; precision, with no fewer fractional digits. '
  'is_narrower: whether the new one holds less; null: that depends on the lengths.';

create or replace function notika._scale(type oid, typmod integer)
  returns integer
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when type = 'int8'::regtype then 0
           when typmod <> -1 then (((typmod - 4) & 2047) # 1024) - 1024
         end;
$$;

comment on function notika._scale(oid, integer) is
  'How many digits numbers of this type have after the point; null: as many as each was written with.';

create or replace function notika._without_domain(inout type oid, inout typmod integer)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with recursive under (type, typmod, place) as (
    select _without_domain.type, _without_domain.typmod, 0
    union all
    select t.typbasetype, t.typtypmod, u.place + 1
      from under as u
      join pg_type as t on t.oid = u.type and t.typtype = 'd'
  )
  select u.type, u.typmod from under as u order by u.place desc limit 1;
$$;

comment on function notika._without_domain(oid, integer) is
  'The type under a domain with its modifier, or the type itself.';

create or replace function notika._type_change(
  type oid,
  typmod integer,
  old_type oid,
  old_typmod integer
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_new record;
  v_old record;
  v_change record;
  v_elements record;
begin
  select d.type, d.typmod into v_new
    from notika._without_domain(_type_change.type, _type_change.typmod) as d;
  select d.type, d.typmod into v_old
    from notika._without_domain(_type_change.old_type, _type_change.old_typmod) as d;
  if v_new = v_old then
    return 'type_widened'; -- one of them is a domain
  end if;

  -- An array looks as its elements do, which its modifier is about.
  select n.typelem as new_type, o.typelem as old_type into v_elements
    from pg_type as n
    join pg_type as o on o.typsubscript = n.typsubscript
   where n.oid = v_new.type and o.oid = v_old.type
     and n.typsubscript = 'array_subscript_handler'::regproc;
  if found then
    return notika._type_change(v_elements.new_type, v_new.typmod, v_elements.old_type, v_old.typmod);
  end if;

  select c.rule, c.is_narrower into v_change
    from notika._type_changes() as c
   where c.new_type = v_new.type
     and c.old_type in (v_old.type, (
       select 'anyenum'::regtype::oid from pg_type as t where t.oid = v_old.type and t.typtype = 'e'
     ));
  if not found
     or v_change.rule = 'scale' and notika._scale(v_new.type, v_new.typmod) is not null
        and notika._scale(v_new.type, v_new.typmod) is distinct from notika._scale(v_old.type, v_old.typmod)
        -- Of a negative one there are no digits to see.
        and not coalesce(notika._scale(v_new.type, v_new.typmod) = 0
                         and notika._scale(v_old.type, v_old.typmod) < 0, false)
     or v_change.rule = 'precision' and v_new.typmod <> -1 and not (
       v_old.typmod <> -1
       -- Of an interval the fields, which are in it too, must be the same.
       and (v_new.typmod >> 16) = (v_old.typmod >> 16)
       and (v_new.typmod & 65535) >= (v_old.typmod & 65535)
     )
  then
    return 'type_changed';
  end if;
  return case
    when coalesce(v_change.is_narrower,
                  v_new.typmod <> -1 and (v_old.typmod = -1 or v_new.typmod < v_old.typmod))
      then 'type_narrowed'
    else 'type_widened'
  end;
end;
$$;

comment on function notika._type_change(oid, integer, oid, integer) is
  'What a change of a column''s type is: type_widened or type_narrowed, where every value that both hold '
  'looks the same in an event, or else type_changed.';
--! EndIncluded 70_type.sql
--! Included 71_command.sql
-- Statements told from their text: those of a migration one by one, and which tables a command is
-- about, which Postgres does not say before it has been run.  The latter is good enough to let a
-- command through, not for a verdict: a table that is not recognised stays pinned, and one that the
-- command is not about must never be taken for it.

create or replace function notika._split(script text)
  returns table (line integer, statement text, bare text)
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_token text;
  v_last text := '';
  v_end text; -- what ends the string, name or comment that this is in
  v_depth integer;
  v_has_escapes boolean;
  v_is_continued boolean := false; -- whether a quote would go on with the string before it
  v_word text := '';
  v_body integer := 0; -- how many BEGIN ATOMIC and CASE are open
  v_open integer := 0; -- how many parentheses
  v_line integer := 1;
  v_whole text[] := array[]::text[];
  v_bare text[] := array[]::text[];
begin
  for v_token in
    select m[1]
      from regexp_matches(
             script,
             $re$(--|/\*|\*/|''|'|"|\$(?:[^\x01-@\[-^`{-\x7f][^\x01-/:-@\[-^`{-\x7f]*)?\$|;|\n|\\['\\]|[^\x01-@\[-^`{-\x7f][^\x01-/:-@\[-^`{-\x7f]*|[[:digit:] ,.()=<>:]+|.)$re$,
             'g') as m
    union all
    select null -- the end of it, also in the middle of a string
  loop
    if v_token is null or v_end is null and v_token = ';' and v_body = 0 and v_open = 0 then
      bare := btrim(array_to_string(v_bare, ''), E' \t\r\n');
      statement := rtrim(array_to_string(v_whole, ''), E' \t\r\n');
      if v_token is null and v_end <> E'\n' and statement = '' then
        line := v_line;
        statement := '/*'; -- that is not closed
      end if;
      -- What is not closed is for Postgres to refuse.
      if bare <> '' or v_token is null and v_end <> E'\n' then
        return next;
      end if;
      v_whole := array[]::text[];
      v_bare := array[]::text[];
      v_word := '';
      v_body := 0;
      v_open := 0;
      v_is_continued := false;
      continue;
    end if;

    if v_end is null then
      if v_token = '--' then
        v_end := E'\n';
      elsif v_token = '/*' then
        v_end := '*/';
        v_depth := 1;
      elsif v_token in ('''', '''''') then
        v_has_escapes := lower(v_last) = 'e' or v_is_continued and v_has_escapes;
        if v_token = '''' then
          v_end := '''';
        else
          v_bare := v_bare || v_token;
          v_is_continued := true;
        end if;
      elsif v_token like '$%$' and v_last !~ '^[^\x01-@\[-^`{-\x7f]' then
        v_end := v_token;
      else
        if v_token = '"' then
          v_end := '"';
        elsif lower(v_token) in ('begin', 'atomic', 'case', 'end', 'as') then
          -- A semicolon inside a body ends no statement.
          if v_body = 0 and v_word = 'begin' and lower(v_token) = 'atomic' then
            v_body := 1;
          elsif v_body > 0 and v_word <> 'as' and right(v_last, 1) <> '.' then
            v_body := v_body + case lower(v_token) when 'case' then 1 when 'end' then -1 else 0 end;
          end if;
          v_word := lower(v_token);
        elsif v_word <> '' and v_token ~ '\S' then
          v_word := '';
        end if;
        -- Nor one between those of a rule with several commands.
        v_open := greatest(0, v_open + length(replace(v_token, ')', '')) - length(replace(v_token, '(', '')));
        v_bare := v_bare || v_token;
        v_is_continued := v_is_continued and v_token !~ '\S';
      end if;
      -- A statement begins with its first word.
      if cardinality(v_whole) = 0 and v_token ~ '\S' and v_token not in ('--', '/*') then
        line := v_line;
        v_token := ltrim(v_token);
        v_whole := array[v_token];
      elsif cardinality(v_whole) > 0 then
        v_whole := v_whole || v_token;
      end if;
    else
      if cardinality(v_whole) > 0 then
        v_whole := v_whole || v_token;
      end if;
      if v_end = '"' then
        v_bare := v_bare || v_token;
        if v_token = '"' then
          v_end := null;
        end if;
      elsif v_end = '*/' then
        v_depth := v_depth + case v_token when '/*' then 1 when '*/' then -1 else 0 end;
        if v_depth = 0 then
          v_end := null;
          v_bare := v_bare || ' '::text;
        end if;
      elsif v_token = v_end or v_end = '''' and v_token = '\''' and not v_has_escapes then
        v_bare := v_bare || case v_end when E'\n' then v_end else ''''' ' end;
        v_is_continued := v_end = '''' or v_end = E'\n' and v_is_continued;
        v_end := null;
      end if;
    end if;
    if v_token = E'\n' then
      v_line := v_line + 1;
    end if;
    v_last := v_token;
  end loop;
end;
$body$;

comment on function notika._split(text) is
  'The statements of an SQL text, the lines that they begin on, and each of them bare: without '
  'comments and with empty strings.';

create or replace function notika._current_command(query text, context text)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_function text[] := regexp_match(context, E'^SQL function "([^\n]*)" statement ([0-9]+)(?:\n|$)');
  v_script text;
  v_moment text := format('%s %s', statement_timestamp(), hashtext(query));
  v_commands json;
  v_last text[];
  v_place integer := 1;
begin
  -- The innermost context comes first: a statement word for word, or a function in SQL by its bare
  -- name, so that its schema has to be found in who calls it where there are several.
  if v_function is not null then
    select case when count(*) = 1 then min(f.prosrc)
                when count(*) filter (where f.is_called) = 1
                  then min(f.prosrc) filter (where f.is_called) end
      into v_script
      from (
        select p.prosrc,
               strpos(concat(query, context), format('%I.%I', n.nspname, p.proname)) > 0 as is_called
          from pg_proc as p
          join pg_namespace as n on n.oid = p.pronamespace
          join pg_language as l on l.oid = p.prolang and l.lanname = 'sql'
         where p.proname = v_function[1]
      ) as f;
    return (
      select s.bare
        from notika._split(v_script) with ordinality as s (line, statement, bare, place)
       where s.place = v_function[2]::integer
    );
  elsif context <> '' then
    v_script := substring(context from E'^SQL statement "(.*?)"\n(?:PL/pgSQL|SQL|extension)');
    return coalesce(
      -- Of a long text its beginning is enough, if the first statement ends there.
      (
        select min(s.bare) filter (where s.place = 1)
          from notika._split(left(v_script, 10000))
               with ordinality as s (line, statement, bare, place)
         where length(v_script) > 10000
        having count(*) > 1
      ),
      (select s.bare from notika._split(v_script) as s limit 1)
    );
  end if;

  -- Several in one text are run one after the other, and this is called for each.
  v_last := regexp_match(current_setting('notika.command', true), '^(.*) #([0-9]+)$');
  if v_last[1] = v_moment then
    v_commands := current_setting('notika.commands')::json;
    v_place := least(v_last[2]::integer + 1, json_array_length(v_commands));
  else
    select json_agg(case when s.bare ~* '\m(drop|type)\M' then s.bare end order by s.place)
      into v_commands
      from notika._split(query) with ordinality as s (line, statement, bare, place)
     where s.bare ~* '^(alter\s+table|alter\s+type|drop\s+table|drop\s+owned|drop\s+schema)\M';
    perform set_config('notika.commands', coalesce(v_commands, '[]')::text, false);
  end if;
  perform set_config('notika.command', format('%s #%s', v_moment, v_place), false);
  return v_commands ->> v_place - 1;
end;
$body$;

comment on function notika._current_command(text, text) is
  'The command that is about to be run, bare; null: it cannot be told, or neither drops nor retypes.';

create or replace function notika._culprit(tag text, objects text[], findings text[] default '{}')
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_words constant text[] := string_to_array(lower(tag), ' ');
  v_pattern constant text := format('(?i)^%s\M.*\m%s\M', v_words[1], v_words[cardinality(v_words)]);
  v_hints text[] := array(
    select w
      from unnest(findings) as f (finding)
     cross join lateral regexp_split_to_table(lower(f.finding), '[^\w$]+') as w
    union
    select h.word
      from unnest(findings) as f (finding)
      join (values ('column_dropped', 'drop'), ('table_dropped', 'drop'), ('type_changed', 'type'),
                   ('column_renamed', 'rename'), ('table_renamed', 'rename'), ('label_renamed', 'rename'))
             as h (kind, word) on h.kind = split_part(f.finding, ' ', 1)
  );
  v_found text[];
begin
  -- What the client sent may hold other statements, and secrets.  Of a long text it would take too
  -- long to tell, at each of its commands; where a backslash stands before a quote it depends on
  -- standard_conforming_strings of the session, which is not seen here, where the string ends.
  if length(current_query()) <= 4000 and strpos(current_query(), $$\'$$) = 0 then
    v_found := array(
      select s.bare
        from (
          select c.bare, rank() over (order by (
                   -- How much of what was found is mentioned in it.
                   select count(distinct w)
                     from regexp_split_to_table(lower(c.bare), '[^\w$]+') as w
                    where w = any (v_hints)
                 ) desc) as place
            from notika._split(current_query()) as c
           where c.bare ~ v_pattern
             and exists (
               select from unnest(objects) as o (identity)
                cross join lateral regexp_split_to_table(lower(o.identity), '[^\w$]+') as w
                where w not in ('', 'on') and strpos(lower(c.bare), w) > 0
             )
        ) as s
       where s.place = 1
       limit 2
    );
  end if;
  return left(case cardinality(v_found) when 1 then v_found[1]
                                        else concat_ws(' ', tag, objects[1]) end, 400);
end;
$body$;

comment on function notika._culprit(text, text[], text[]) is
  'The command with this tag and about these objects, bare: without comments and with empty strings; '
  'of several the one that mentions what was found; or where it cannot be told, its tag and the first '
  'object.';

create or replace function notika._named_tables(command text, path text)
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_name constant text := $re$(?:"(?:[^"]|"")+"|[[:alpha:]_][\w$]*)$re$;
  v_list text := substring(
    command from '(?i)^\s*(?:alter\s+table|drop\s+table|alter\s+type)\s+(?:if\s+exists\s+)?(?:only\s+)?(.*)$');
  v_is_drop constant boolean := command ~* '^\s*drop';
  v_match text[];
  v_parts text[];
  v_schema text;
  v_schemas name[] := notika._schemas(path);
  v_relation oid;
begin
  -- In one pass: each name with what follows it.
  for v_match in
    select m from regexp_matches(
      v_list, format('\s*(%1$s(?:\s*\.\s*%1$s)*)\s*\*?\s*(,?)', v_name), 'g') as m
  loop
    v_parts := parse_ident(v_match[1]);
    v_relation := null;
    if cardinality(v_parts) = 1 then
      foreach v_schema in array v_schemas loop
        v_relation := notika._relation(v_schema, v_parts[1]);
        exit when v_relation is not null;
      end loop;
    else
      v_relation := notika._relation(
        v_parts[cardinality(v_parts) - 1], v_parts[cardinality(v_parts)]);
    end if;
    if v_relation is not null then
      return next v_relation;
    end if;
    exit when not v_is_drop or v_match[2] = '';
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
                    when '$user' then notika._session_role() else (parse_ident(m[1]))[1] end
             from regexp_matches(_schemas.path, '("(?:[^"]|"")+"|[^", ]+)', 'g') with ordinality as p (m, place)
            order by p.place
         )::name[];
$body$;

comment on function notika._schemas(text) is 'The schemas on a search path, in the caller''s eyes.';

create or replace function notika._names(list text)
  returns setof text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  select (parse_ident(m[1]))[1]
    from regexp_matches(_names.list, $re$("(?:[^"]|"")+"|[[:alpha:]_][\w$]*)$re$, 'g') as m;
$body$;

comment on function notika._names(text) is 'The names in a list of them.';

create or replace function notika._named_schemas(command text)
  returns setof text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  select notika._names(
    substring(_named_schemas.command from '(?i)^drop\s+schema\s+(?:if\s+exists\s+)?(.*)\mcascade$'));
$body$;

comment on function notika._named_schemas(text) is 'The schemas that a DROP SCHEMA CASCADE is about.';

create or replace function notika._named_owners(command text)
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  select case n when 'current_user' then notika._session_role() when 'current_role' then notika._session_role()
                when 'session_user' then session_user else n end
    from notika._names(
      substring(_named_owners.command
                from '(?i)^drop\s+owned\s+by\s+(.*?)\s*(?:\mcascade|\mrestrict)?$')) as n;
$body$;

comment on function notika._named_owners(text) is 'The roles that a DROP OWNED is about.';
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
  v_function regprocedure;
begin
  perform notika._set_busy(true);
  for v_function in
    -- To name an argument asks for rights on its schema, so those where that fails come last.
    select g
      from notika._generated(_unpin.workflow_id) as g
      join pg_proc as p on p.oid = g
      left join pg_type as t on t.oid = p.proargtypes[0]
     order by has_schema_privilege(t.typnamespace, 'usage') is false, g::text
  loop
    -- By its name alone where it is the last of that name.
    execute format('drop function %s cascade', (
      select case when count(*) = 1 then format('notika.%I', p.proname) else v_function::text end
        from pg_proc as p
        join pg_proc as o on o.pronamespace = p.pronamespace and o.proname = p.proname
       where p.oid = v_function
       group by p.proname
    ));
  end loop;
  perform notika._set_busy(false);
  delete from notika.contract_key as k where k.workflow_id = _unpin.workflow_id;
end;
$$;

comment on function notika._unpin(integer) is
  'Takes the functions and triggers of a workflow away.';

create or replace function notika._summon(
  workflow_ids integer[],
  tag text,
  statement text,
  dropped text default null,
  found text[] default null
)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.guard_pending (workflow_id, tag, statement, dropped, found)
  select s.workflow_id, _summon.tag, coalesce(left(_summon.statement, 400), ''), _summon.dropped,
         _summon.found
    from unnest(_summon.workflow_ids) as s (workflow_id)
   where case
           when _summon.dropped is not null then not exists (
             select from notika.guard_pending as p
              where p.workflow_id = s.workflow_id and p.dropped = _summon.dropped
           )
           -- Again only where something else would be refused than after the last command.
           else coalesce((
             select p.found is not null and p.found is distinct from _summon.found
               from notika.guard_pending as p
              where p.workflow_id = s.workflow_id
              order by p.pending_id desc
              limit 1
           ), true)
         end;
$$;

comment on function notika._summon(integer[], text, text, text, text[]) is
  'Has workflows judged when the transaction commits.';

create or replace function notika._statement_of(workflow_id integer, kind text, object text, otherwise text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The first command after which it was so until the end; what it is about may have another name by then.
  return coalesce((
    select p.statement
      from unnest(array[concat_ws(' ', _statement_of.kind, _statement_of.object), _statement_of.kind || ' %'])
             with ordinality as l (pattern, place)
     cross join lateral (
       select o.statement, o.pending_id
         from notika.guard_pending as o
        where o.workflow_id = _statement_of.workflow_id
          and o.pending_id > coalesce((
            select max(k.pending_id)
              from notika.guard_pending as k
             where k.workflow_id = o.workflow_id and k.found is not null and not exists (
               select from unnest(k.found) as f (finding)
                where case l.place when 1 then f.finding = l.pattern else f.finding like l.pattern end
             )
          ), 0)
        order by o.pending_id
        limit 1
     ) as p
     order by l.place
     limit 1
  ), _statement_of.otherwise);
end;
$$;

comment on function notika._statement_of(integer, text, text, text) is
  'The command in this transaction that led to a finding about a workflow.';

create or replace function notika._would_refuse(workflow_id integer)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_spec notika.workflow;
begin
  select w.* into v_spec from notika.workflow as w where w.workflow_id = _would_refuse.workflow_id;
  -- Mostly there is nothing, and that is told by less than by all that can be found.
  if v_spec.is_pinned and v_spec.table_name = notika._quoted(v_spec.relation)
     and not exists (
       select from notika.contract as c
         left join pg_attribute as a
           on a.attrelid = v_spec.relation and a.attnum = c.attnum and not a.attisdropped
        where c.workflow_id = v_spec.workflow_id
          and ((c.column_name, c.type, c.typmod) is distinct from (a.attname::text, a.atttypid, a.atttypmod)
               or c.labels is not null or c.attributes is not null)
     )
     and not exists (select from pg_inherits as i where i.inhparent = v_spec.relation)
     and cardinality(v_spec.operations) = (
       select count(*)
         from unnest(v_spec.operations) as o (name)
         join pg_trigger as t
           on t.tgrelid = v_spec.relation and t.tgname = format('notika_%s_%s', v_spec.workflow_id, o.name)
     )
  then
    return array[]::text[];
  end if;
  return array(
    select concat_ws(' ', f.kind, f.object)
      from notika._try_findings(v_spec) as f
     where notika._is_breaking(f.kind) or notika._is_rename(f.kind)
     order by 1
  );
end;
$$;

comment on function notika._would_refuse(integer) is
  'What the guard would find now that may be a reason to refuse, or to follow: each kind and object.';

create or replace function notika._report_failure(
  workflow_id integer,
  doing text,
  statement text,
  message text,
  state text
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
begin
  select w.* into v_spec from notika.workflow as w where w.workflow_id = _report_failure.workflow_id;
  perform notika._note(v_spec, 'warned', 'not_judged', v_spec.table_name, 'a comparison with the catalog',
                       format('%s (%s)', message, state), statement, doing);
end;
$$;

comment on function notika._report_failure(integer, text, text, text, text) is
  'Says and writes down that the guard failed at a workflow, which is no reason to fail at the others.';

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
         pg_has_role(notika._session_role(), c.relowner, 'usage')
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
   where w.unpublished_at is null and w.table_name is not null
     and notika._verdict(w, 'table_dropped') = 'blocked';
  if v_names is not null then
    raise exception 'cannot drop schema notika because Notika''s workflow "%" is published', v_names[1]
      using errcode = 'NK001',
            detail = format('Published are %s.', array_to_string(v_names, ', ')),
            hint = 'Run: select * from notika.uninstall();';
  end if;
end;
$$;

comment on function notika._keep_itself(text) is
  'Refuses a DROP SCHEMA or DROP OWNED that would take Notika away with what is published.';

create or replace function notika._unpin_for(
  workflow_id integer,
  relation regclass,
  tag text,
  command text
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- At once the lock that the command takes: from a weaker one to it there are deadlocks.
  -- Who may not ask for it gets it by dropping the triggers, which are made again below.
  begin
    if relation is not null then
      execute format('lock table %s in access exclusive mode', notika._quoted(relation));
    end if;
  exception when insufficient_privilege then
    if not exists (
      select from notika.workflow as w cross join lateral notika._missing_to_make(w)
       where w.workflow_id = _unpin_for.workflow_id
    ) then
      perform notika._set_busy(true);
      execute format('drop function if exists notika._capture_%s() cascade', _unpin_for.workflow_id);
      perform notika._set_busy(false);
    end if;
  end;
  perform notika._loosen(_unpin_for.workflow_id);
exception
  when serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    perform notika._report_failure(_unpin_for.workflow_id, tag, command, sqlerrm, sqlstate);
end;
$$;

comment on function notika._unpin_for(integer, regclass, text, text) is
  'Takes away the pins of a workflow that would refuse a command about this table; null: about none.';

create or replace function notika._let_through(tag text, context text, path text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
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
      perform notika._unpin_for(v_workflow_id, null, tag, v_command);
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
      for v_workflow_id, v_function in
        select t.workflow_id, notika._payload_function(t.workflow_id, t.relation)
          from notika.contract_table as t
         where t.relation = any (v_parts)
      loop
        continue when v_function is null;
        begin
          perform notika._set_busy(true);
          execute format('drop function %s cascade', v_function);
          perform notika._set_busy(false);
        exception
          when serialization_failure or deadlock_detected or lock_not_available then
            raise;
          when others then
            perform notika._report_failure(v_workflow_id, tag, v_command, sqlerrm, sqlstate);
        end;
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
              and (strpos(lower(v_command), lower(replace(c.column_name, '"', '""'))) > 0
                   or strpos(lower(v_command), lower(replace(a.attname, '"', '""'))) > 0)
         )
       order by w.workflow_id
    loop
      perform notika._unpin_for(v_workflow_id, v_table, tag, v_command);
    end loop;
  end loop;
end;
$$;

comment on function notika._let_through(text, text, text) is
  'Called by an event trigger: takes away the pins that would refuse a command, for the judgement at '
  'commit.';

create or replace function notika._note_dropped(tag text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_touched record;
  v_statement text;
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
    v_statement := coalesce(v_statement, notika._culprit(tag, array(
      select d.object_identity from pg_event_trigger_dropped_objects() as d order by not d.original
    )));
    perform notika._summon(array[v_touched.workflow_id], tag, v_statement, v_touched.dropped);
  end loop;
end;
$$;

comment on function notika._note_dropped(text) is
  'Called by an event trigger: notes the workflows whose tables, columns, triggers or functions were '
  'dropped.';

create or replace function notika._note_command(
  workflow_id integer,
  tag text,
  objects text[],
  statement text,
  replaced text
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_found text[];
  v_new text[];
  v_culprit text;
begin
  -- What was dropped by name was meant.
  if not exists (
    select from notika.guard_pending as p
     where p.workflow_id = _note_command.workflow_id and p.dropped is not null
  ) then
    perform notika._reconcile(_note_command.workflow_id, _note_command.statement, false);
  end if;
  if replaced is not null then
    perform notika._note(w, 'warned', 'trigger_replaced', _note_command.replaced, 'as published',
                         'created by hand', _note_command.statement)
       from notika.workflow as w
      where w.workflow_id = _note_command.workflow_id;
  end if;

  v_found := notika._would_refuse(_note_command.workflow_id);
  v_new := array(
    select f from unnest(v_found) as f
    except
    select f from notika.guard_pending as p cross join unnest(p.found) as f
     where p.workflow_id = _note_command.workflow_id
  );
  v_culprit := case when v_new = '{}' then _note_command.statement
                    else notika._culprit(_note_command.tag, _note_command.objects, v_new) end;
  update notika.guard_pending as p
     set found = v_found,
         -- What was dropped says more than what it was dropped from.
         statement = case v_culprit when concat_ws(' ', _note_command.tag, _note_command.objects[1])
                                    then p.statement else v_culprit end
   where p.workflow_id = _note_command.workflow_id and p.found is null;
  if found then
    -- What was dropped made no difference.
    delete from notika.guard_pending as p
     where p.workflow_id = _note_command.workflow_id and p.dropped is null and v_found = (
       select o.found from notika.guard_pending as o
        where o.workflow_id = p.workflow_id and o.pending_id < p.pending_id
        order by o.pending_id desc
        limit 1
     );
    return;
  end if;
  perform notika._summon(array[_note_command.workflow_id], _note_command.tag, v_culprit, null, v_found);
end;
$$;

comment on function notika._note_command(integer, text, text[], text, text) is
  'Keeps a workflow working that a command has touched, as far as it goes, and notes what would be '
  'refused now.';

create or replace function notika._note_commands(tag text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
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
  v_objects text[];
  v_statement text;
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
     where not w.is_pinned and w.broken_reason is null and w.table_name is not null
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
  v_objects := coalesce(nullif(array(
    select d.object_identity from pg_event_trigger_ddl_commands() as d where d.object_identity is not null
  ), '{}'), array(
    -- What was dropped is not listed there.
    select k.table_name from notika.workflow as k where k.workflow_id = any (v_ids)
  ));
  v_statement := notika._culprit(tag, v_objects);

  for v_touched in
    select w.workflow_id, (
             select max(format('%I on %s', t.tgname, notika._quoted(t.tgrelid)))
               from pg_trigger as t
              where t.oid = any (v_triggers)
                and t.tgname ~ format('^notika_%s_(insert|update|delete)$', w.workflow_id)
           ) as replaced
      from notika.workflow as w
     where w.workflow_id = any (v_ids) and w.unpublished_at is null and w.table_name is not null
     order by w.workflow_id
  loop
    -- Each on its own: one at which the guard fails does not take the others along.
    begin
      perform notika._note_command(
        v_touched.workflow_id, tag, v_objects, v_statement, v_touched.replaced);
    exception
      when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others then
        perform notika._report_failure(v_touched.workflow_id, tag, v_statement, sqlerrm, sqlstate);
        perform notika._summon(array[v_touched.workflow_id], tag, v_statement);
    end;
  end loop;
end;
$$;

comment on function notika._note_commands(text) is
  'Called by an event trigger: keeps a workflow working in the middle of a transaction, as far as it '
  'goes, and notes that it is to be judged.';

create or replace function notika._guard_at_commit()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
begin
  -- One judgement for all that was noted about a workflow.
  if not exists (select from notika.guard_pending as p where p.pending_id = new.pending_id) then
    return null;
  end if;
  begin
    if not exists (
      select from notika.guard_pending as p
       where p.workflow_id = new.workflow_id and p.dropped is not null
    ) then
      begin
        perform notika._reconcile(new.workflow_id, new.statement, true);
      exception
        when undefined_object or undefined_function or insufficient_privilege or sqlstate 'NK002' then
          null; -- what it needs went along, or may not be had: that is judged
      end;
    end if;
    perform notika._judge(new.workflow_id, new.statement, 'commit');
  exception
    when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
      raise;
    -- Without knowing what has taken the place of what, nothing is refused.
    when others then
      perform notika._report_failure(new.workflow_id, new.tag, new.statement, sqlerrm, sqlstate);
  end;
  delete from notika.guard_pending as p where p.workflow_id = new.workflow_id;
  return null;
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %: % (%)', new.tag, sqlerrm, sqlstate
      using hint = 'The command goes on. See what it left: select * from notika.check();';
    delete from notika.guard_pending as p where p.workflow_id = new.workflow_id;
    return null;
end;
$$;

comment on function notika._guard_at_commit() is
  'Judges what a transaction leaves of a workflow''s contract, when it commits.';

create or replace function notika._note_judged(spec notika.workflow, statement text)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  select notika._record(spec, 'repaired', 'not_judged', (spec).table_name, _note_judged.statement)
   where notika._not_judged(spec) is not null and not exists (
     select from notika.guard_log as l
      where l.workflow = (spec).name and l.kind = 'not_judged' and l.at > (spec).published_at
        and l.xid = pg_current_xact_id()
   );
$$;

comment on function notika._note_judged(notika.workflow, text) is
  'Writes down that a workflow at which the guard had failed could be judged again.';

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
  v_statement text;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = _judge.workflow_id and w.unpublished_at is null and w.table_name is not null;
  if not found then
    return;
  end if;

  if v_spec.broken_reason is not null then
    if not exists (
      select from notika._try_findings(v_spec) as f
       where notika._is_breaking(f.kind) or notika._is_rename(f.kind) or f.kind = 'not_judged'
    ) then
      update notika.workflow as w set broken_reason = null where w.workflow_id = v_spec.workflow_id;
      perform notika._record(v_spec, 'repaired', null, v_spec.table_name, statement);
      if v_spec.paused_at is null then
        perform notika._resume(v_spec.name);
      end if;
    end if;
    perform notika._note_judged(v_spec, statement);
    return;
  end if;

  for v_finding in
    with found as materialized (select f.* from notika._try_findings(v_spec) as f)
    select f.*
      from found as f
     -- That is only a consequence.  A condition that means something else takes no trigger away.
     where f.kind <> 'trigger_dropped' or not exists (
       select from found as o
        where notika._is_breaking(o.kind) and o.kind not in ('trigger_dropped', 'condition_changed')
     )
     order by f.kind = 'trigger_dropped', notika._is_breaking(f.kind) desc
  loop
    v_verdict := case
      when occasion = 'commit' then notika._verdict(v_spec, v_finding.kind)
      when notika._is_breaking(v_finding.kind) then 'broken'
      when v_finding.kind = 'type_narrowed' then 'followed'
      else 'warned'
    end;
    v_statement := notika._statement_of(
      v_spec.workflow_id, v_finding.kind, v_finding.object, _judge.statement);
    if v_verdict = 'blocked' then
      perform notika._refuse(v_spec, v_finding.kind, v_finding.object, v_finding.expected,
                             v_finding.actual, v_statement);
    end if;
    perform notika._note(v_spec, v_verdict, v_finding.kind, v_finding.object,
                         v_finding.expected, v_finding.actual, v_statement, (
                           select min(p.tag) from notika.guard_pending as p
                            where p.workflow_id = v_spec.workflow_id
                         ));
  end loop;
  perform notika._note_judged(v_spec, statement);
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
           when kind = 'type_narrowed' then 'followed' -- nobody can notice
           when not notika._is_breaking(kind) and not notika._is_rename(kind) then 'warned'
           when notika._is_rename(kind) and (spec).on_rename = 'follow' then 'followed'
           when (spec).guard = 'off' then 'ignored'
           -- It need not be this command's doing.
           when (spec).guard = 'warn' or kind = 'condition_changed' then 'warned'
           else 'blocked'
         end;
$$;

comment on function notika._verdict(notika.workflow, text) is
  'What a finding of this kind means for a workflow, here and now.';

create or replace function notika._ways_out(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner constant name := notika._owner();
  v_caller constant name := notika._session_role();
  v_caller_id oid := (select r.oid from pg_roles as r where r.rolname = v_caller);
  v_is_member boolean := coalesce(pg_has_role(v_caller_id, v_owner, 'member'), false);
  v_has_part boolean := coalesce(
    has_schema_privilege(v_caller_id, 'notika'::regnamespace, 'usage')
    and has_function_privilege(v_caller_id, 'notika.allow_breaking_change(text,text)', 'execute'), false);
  -- Only its owner can have dropped the table.
  v_may_decide boolean := coalesce(
    notika._quoted(spec.relation) is null or notika._may_decide(spec, v_caller), false);
begin
  if not v_may_decide then
    return format(
      'Role "%s" may not decide about this workflow. Before the next try let a member of %s run: '
      'select notika.unpublish(%L); or let a member of "%s" run: '
      'select notika.begin_maintenance(''<reason>'');',
      v_caller,
      (select string_agg(distinct format('"%s"', r.rolname), ' or ')
         from pg_roles as r
        where r.oid = spec.publisher_id or r.rolname = v_owner
           or r.oid = (select c.relowner from pg_class as c where c.oid = spec.relation)),
      spec.name, v_owner);
  end if;
  return concat_ws(' ',
    case when v_has_part then 'In the same transaction'
         else format('Role "%s" may not call Notika: let a member of "%s" run: '
                     'select notika.grant_publisher(%L); After that, in the same transaction,',
                     v_caller, v_owner, quote_ident(v_caller)) end,
    format('publish the workflow again, or run: select notika.unpublish(%1$L); or: '
           'select notika.allow_breaking_change(%1$L, ''<reason>'');', spec.name),
    'A tool that commits each statement has committed those before this one: undo them, and before the '
    'next try',
    case when not v_is_member then format('let a member of "%s"', v_owner) end,
    'run: select notika.begin_maintenance(''<reason>'');');
end;
$$;

comment on function notika._ways_out(notika.workflow) is
  'What the role that ran a refused command can do about it, or who can.';

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
  set standard_conforming_strings = on
as $$
declare
  -- As it is called, for between quotes.
  v_column text := case when kind in ('column_dropped', 'column_renamed', 'type_changed', 'label_renamed')
                        then (parse_ident(substr(object, length(spec.table_name) + 2)))[1] end;
begin
  if kind = 'right_missing' then
    raise exception 'role "%" may not % %, which Notika''s workflow "%" has to capture',
        current_user, case expected when 'trigger' then 'create triggers on' else 'use' end, object, spec.name
      using errcode = 'NK001',
            detail = format(E'Workflow "%s" is published on %s for %s.\nStatement: %s', spec.name,
                            spec.table_name, array_to_string(spec.operations, ', '), statement),
            hint = format('In the same transaction, as the owner of it, run: grant %s on %s to %I;',
                          expected, object, current_user),
            table = spec.table_name;
  end if;
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
    end || format(' because Notika''s workflow "%s" uses it', spec.name)
    using errcode = 'NK001',
          detail = format(E'Workflow "%s" is published on %s for %s%s.\nStatement: %s',
                     spec.name, spec.table_name, array_to_string(spec.operations, ', '),
                     coalesce(' with the columns ' || array_to_string(spec.columns, ', '), ''),
                     statement),
          hint = notika._ways_out(spec),
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
  statement text,
  doing text default null
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- What was said since it was published need not be said again; but what breaks it, or could not be
  -- judged, must have been whole in between.
  if notika._is_breaking(kind) or notika._is_rename(kind) and verdict <> 'followed' or not exists (
    select from notika.guard_log as l
     where l.workflow = spec.name and l.at > spec.published_at
       and (l.kind, l.object, l.actual) is not distinct from (_note.kind, _note.object, _note.actual)
       and (l.kind is distinct from 'not_judged' or notika._not_judged(spec) is not null)
  ) then
    insert into notika.guard_log (workflow, verdict, kind, object, expected, actual, statement)
    values (spec.name, _note.verdict, _note.kind, _note.object, _note.expected, _note.actual,
            _note.statement);
    if verdict = 'warned' and kind <> 'not_judged' then
      raise warning 'Notika''s workflow "%": % %', spec.name, replace(kind, '_', ' '), object
        using detail = format('Expected %s, found %s.', coalesce(expected, 'nothing'),
                              coalesce(actual, 'nothing')),
              hint = format('See: select * from notika.health where workflow = %L;', spec.name);
    end if;
  end if;
  if kind = 'not_judged' then
    raise warning 'notika could not check % for workflow "%": %',
        coalesce(doing, 'the contract'), spec.name, actual
      using detail = 'Its other workflows were checked.',
            hint = case
              when doing is not null then 'The command goes on. See what it left: select * from notika.check();'
              else format('See: select * from notika.health where workflow = %L;', spec.name) end;
  end if;

  if notika._is_breaking(kind) or notika._is_rename(kind) and verdict <> 'followed' then
    perform notika._break(spec.workflow_id, format('%s: %s', replace(kind, '_', ' '), object));
  elsif kind in ('type_widened', 'type_narrowed') then
    update notika.contract as c
       set type_name = format_type(a.atttypid, a.atttypmod), type = a.atttypid, typmod = a.atttypmod,
           labels = notika._labels(a.atttypid), label_ids = notika._label_ids(a.atttypid),
           attributes = notika._attributes(a.atttypid)
      from pg_attribute as a
     where c.workflow_id = spec.workflow_id and a.attrelid = spec.relation and a.attnum = c.attnum
       and not a.attisdropped and object = format('%s.%I', spec.table_name, c.column_name);
  end if;
end;
$$;

comment on function notika._note(notika.workflow, text, text, text, text, text, text, text) is
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
--! Included 73_capture_code.sql
-- What captures follows the key of its table, which it needs for what is left of a row that is too
-- big, and the names of columns where it is parsed again in each session.

create or replace function notika._renew_capture(before notika.workflow, after notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_statement text;
begin
  for v_statement in
    select notika._capture_definition(after)
     where to_regprocedure(format('notika._capture_%s()', after.workflow_id)) is not null
    union all
    -- What an owner who must not parse the condition makes of it lets every row pass.
    select notika._passes_definition(after)
     where not after.is_pinned and after.condition is not null
       and to_regprocedure(format('notika._passes_%s(record, record)', after.workflow_id)) is not null
  loop
    continue when v_statement = any (before.definition);
    perform notika._set_busy(true);
    execute v_statement; -- the function alone: it takes no lock on the table
    perform notika._set_busy(false);
    update notika.workflow as w
       set definition = array(
             select case when split_part(d.statement, '(', 1) = split_part(v_statement, '(', 1)
                         then v_statement else d.statement end
               from unnest(w.definition) with ordinality as d (statement, place)
              order by d.place
           )
     where w.workflow_id = after.workflow_id;
  end loop;
end;
$$;

comment on function notika._renew_capture(notika.workflow, notika.workflow) is
  'Makes the trigger function of a workflow, and that of its condition, again if they would be others now.';

create or replace function notika._follow_key(spec notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before notika.workflow;
  v_capture constant text := 'create or replace function notika._capture_';
begin
  if array(
       select format('%s %s %s', k.attnum, k.type, k.column_name)
         from notika.contract_key as k
        where k.workflow_id = spec.workflow_id
        order by k.place
     ) = array(
       select format('%s %s %s', k.attnum, k.type, k.column_name)
         from notika._key_of(spec.relation) as k
        order by k.place
     )
  then
    return;
  end if;
  perform notika._bind_key(spec.workflow_id);

  -- Where more than that has changed, it is for publish or install to put right.
  select w.* into v_before from notika.workflow as w where w.workflow_id = spec.workflow_id;
  spec.capture := v_before.capture;
  spec.is_pinned := v_before.is_pinned;
  if array(select d from unnest(v_before.definition) as d where not starts_with(d, v_capture))
     = array(select d from unnest(notika._definition(spec)) as d where not starts_with(d, v_capture))
  then
    perform notika._renew_capture(v_before, spec);
  end if;
end;
$$;

comment on function notika._follow_key(notika.workflow) is
  'Writes down another key of a workflow''s table, and makes what captures again for it.';
--! EndIncluded 73_capture_code.sql
--! Included 75_ways_out.sql
-- The ways past the guard, each with a name and a reason on record, and the questions one can ask it.

create or replace function notika._owned(caller name, workflow text)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = notika._published(_owned.workflow);
  perform notika._expect_decider(v_spec, _owned.caller);
  return v_spec;
end;
$$;

comment on function notika._owned(name, text) is
  'A published workflow that the caller may let be broken, or an error.';

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
  perform notika._summon(array[_let_go.workflow_id], _let_go.tag, format('notika.%s()', case
    when _let_go.tag = 'RELEASE' then 'release' else 'allow_breaking_change' end));
  perform notika._loosen(_let_go.workflow_id);
end;
$$;

comment on function notika._let_go(integer, text) is
  'Takes the pins of a workflow away until this transaction commits.';

create or replace function notika.allow_breaking_change(workflow text, reason text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('allow_breaking_change', jsonb_build_object(
    'workflow', allow_breaking_change.workflow, 'reason', allow_breaking_change.reason));
end;
$$;

comment on function notika.allow_breaking_change(text, text) is
  'Lets this transaction break a workflow, on record. It is marked as broken and its runs are held.';

create or replace function notika._do_allow_breaking_change(caller name, workflow text, reason text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := notika._owned(
    _do_allow_breaking_change.caller, _do_allow_breaking_change.workflow);
begin
  perform notika._check_reason(reason);
  insert into notika.guard_log (workflow, verdict, statement, reason, done_by)
  values (v_spec.name, 'allowed',
          format('select notika.allow_breaking_change(%L, %L)', v_spec.name, reason),
          _do_allow_breaking_change.reason, _do_allow_breaking_change.caller);
  -- Where there are no event triggers nobody else lets the command through.
  if not notika._has_event_triggers() then
    perform notika._let_go(v_spec.workflow_id, 'ALLOW');
  end if;
end;
$$;

comment on function notika._do_allow_breaking_change(name, text, text) is
  'Carries out allow_breaking_change for a caller.';

create or replace function notika.release(workflow text, reason text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('release', jsonb_build_object(
    'workflow', release.workflow, 'reason', release.reason));
end;
$$;

comment on function notika.release(text, text) is
  'Takes the pins of a workflow away until this transaction commits, when what it left is judged: '
  'the way to alter a pinned column where there are no event triggers.';

create or replace function notika._do_release(caller name, workflow text, reason text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := notika._owned(_do_release.caller, _do_release.workflow);
begin
  perform notika._check_reason(reason);
  insert into notika.guard_log (workflow, verdict, statement, reason, done_by)
  values (v_spec.name, 'released', format('select notika.release(%L, %L)', v_spec.name, reason),
          _do_release.reason, _do_release.caller);
  perform notika._let_go(v_spec.workflow_id, 'RELEASE');
end;
$$;

comment on function notika._do_release(name, text, text) is 'Carries out release for a caller.';

create or replace function notika.begin_maintenance(reason text, ttl interval default '15 minutes')
  returns bigint
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set intervalstyle = 'postgres'
as $$
begin
  return (notika._ask('begin_maintenance', jsonb_build_object(
    'reason', begin_maintenance.reason, 'ttl', begin_maintenance.ttl)) #>> '{}')::bigint;
end;
$$;

comment on function notika.begin_maintenance(text, interval) is
  'Opens a window in which the guard refuses nothing and takes notes; ends by itself after ttl.';

create or replace function notika._do_begin_maintenance(caller name, reason text, ttl interval)
  returns bigint
  language plpgsql
  volatile
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
  perform notika._expect_member(_do_begin_maintenance.caller, 'begin maintenance');
  insert into notika.maintenance (reason, ends_at, begun_by)
  values (_do_begin_maintenance.reason, clock_timestamp() + _do_begin_maintenance.ttl,
          _do_begin_maintenance.caller)
  returning maintenance_id into v_id;
  insert into notika.guard_log (verdict, reason, done_by)
  values ('maintenance begun', _do_begin_maintenance.reason, _do_begin_maintenance.caller);
  return v_id;
end;
$$;

comment on function notika._do_begin_maintenance(name, text, interval) is
  'Carries out begin_maintenance for a member of the owner.';

create or replace function notika.end_maintenance()
  returns table (workflow text, state text, reason text)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select w.workflow, w.state, w.reason
      from json_to_recordset(notika._ask('end_maintenance', '{}'))
             as w (workflow text, state text, reason text);
end;
$$;

comment on function notika.end_maintenance() is
  'Closes the window, puts back what it can, and says in what state it leaves each workflow.';

create or replace function notika._do_end_maintenance(caller name)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_workflow_id integer;
begin
  perform notika._expect_member(_do_end_maintenance.caller, 'end maintenance');
  update notika.maintenance as m
     set ended_at = clock_timestamp()
   where m.ended_at is null;
  insert into notika.guard_log (verdict, done_by)
  values ('maintenance ended', _do_end_maintenance.caller);

  for v_workflow_id in
    select w.workflow_id
      from notika.workflow as w
     where w.unpublished_at is null and w.table_name is not null
     order by w.workflow_id
  loop
    begin
      perform notika._reconcile(v_workflow_id, 'end_maintenance', true);
      perform notika._judge(v_workflow_id, 'end_maintenance', 'maintenance');
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others then
        perform notika._report_failure(v_workflow_id, null, 'end_maintenance', sqlerrm, sqlstate);
    end;
  end loop;
  return (
    select coalesce(json_agg(json_build_object(
             'workflow', w.workflow, 'state', w.state, 'reason', w.reason)), '[]')
      from notika.workflows as w
  );
end;
$$;

comment on function notika._do_end_maintenance(name) is
  'Carries out end_maintenance for a member of the owner.';

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
  update notika.workflow as w
     set publisher_id = (select r.oid from pg_roles as r where r.rolname = w.published_by),
         condition_uses = notika._uses_by_name(w.condition_uses);

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
         label_ids = case when c.labels = notika._labels(a.atttypid) then notika._label_ids(a.atttypid) end,
         type = case when format_type(a.atttypid, a.atttypmod) = c.type_name then a.atttypid
                     when c.type < 16384 then c.type
                     else 0 end
    from notika.contract as o
    join notika.workflow as w on w.workflow_id = o.workflow_id
    left join pg_attribute as a
      on a.attrelid = w.relation and a.attname = o.column_name and not a.attisdropped
   where c.workflow_id = o.workflow_id and c.column_name = o.column_name;
  perform notika._bind_key(w.workflow_id)
     from notika.workflow as w
    where w.unpublished_at is null;
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
  set quote_all_identifiers = off
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
        perform notika._report_failure(v_workflow_id, null, 'check', sqlerrm, sqlstate);
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
  v_old text[];
  v_new text[];
begin
  v_mended.table_name := coalesce(notika._quoted(v_table), spec.table_name);
  v_mended.columns := spec.column_names;
  if notika._quoted(v_table) is null then
    return v_mended;
  end if;
  -- As it is now; null: gone, and nothing has taken its place.
  select array_agg(c.column_name),
         array_agg(case
           when v_table = spec.relation then coalesce(r.attname, case when not exists (
             select from notika.contract as o
              where o.workflow_id = c.workflow_id and o.attnum = n.attnum
           ) then n.attname end)
           else n.attname end::text)
    into v_old, v_new
    from notika.contract as c
    left join pg_attribute as r
      on r.attrelid = v_table and r.attnum = c.attnum and not r.attisdropped
    left join pg_attribute as n
      on n.attrelid = v_table and n.attname = c.column_name and n.attnum > 0 and not n.attisdropped
   where c.workflow_id = spec.workflow_id;
  v_mended.columns := (
    select array_agg(m.name order by m.place)
      from (
        select case when u.name = any (v_old) then v_new[array_position(v_old, u.name)] else u.name end as name,
               u.place
          from unnest(v_mended.columns) with ordinality as u (name, place)
      ) as m
  );
  v_mended.watch := (
    select array_agg(m.name)
      from (
        select case when u.name = any (v_old) then v_new[array_position(v_old, u.name)] else u.name end as name
          from unnest(v_mended.watch) as u (name)
      ) as m
  );
  v_mended.condition := notika._rename_in(
    v_mended.condition,
    array(select v_old[i] from generate_subscripts(v_old, 1) as i where v_new[i] is not null),
    array(select v_new[i] from generate_subscripts(v_old, 1) as i where v_new[i] is not null));
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
  set quote_all_identifiers = off
as $$
begin
  if not notika._judges_always() then
    return query select 'guard', 'warning', null::text,
      'what judges at commit sleeps under session_replication_role = replica, as pg_restore '
      '--disable-triggers leaves it', 'select * from notika.install();';
  elsif notika._has_event_triggers() then
    return query
      select 'guard', 'ok', null::text,
             'judges migrations when they commit' || coalesce((
               select format('; its event triggers belong to "%s", who is no superuser: some managed servers '
                             'skip them for superusers and reserved roles', pg_get_userbyid(e.evtowner))
                 from pg_event_trigger as e
                 join pg_roles as r on r.oid = e.evtowner and not r.rolsuper
                where e.evtname = 'notika_guard_end'
             ), ''), null::text;
  else
    return query select 'guard', 'warning', null::text,
      'only pins protect: DROP ... CASCADE is not refused, and pinned columns need a release first',
      'As an administrator, who may create roles and event triggers: npx notika install; or '
      'select * from notika.install();';
  end if;
  return query
    select f.kind,
           case when notika._is_breaking(f.kind) or w.broken_reason is not null then 'error'
                else 'warning' end,
           w.name,
           format('%s: expected %s, found %s', f.object, coalesce(f.expected, 'nothing'),
                  coalesce(f.actual, 'nothing')),
           case
             when f.kind = 'right_missing' then format('grant %s on %s to %I; then: select * from notika.install();',
               f.expected, f.object, current_user)
             when f.kind = 'trigger_disabled' then format('alter table %s enable trigger %s;',
               split_part(f.object, ' on ', 2), split_part(f.object, ' on ', 1))
             when f.kind in
                  ('part_not_captured', 'form_outdated', 'function_replaced', 'trigger_replaced')
               then 'select * from notika.install();'
             else notika._call(notika._mended(w))
           end
      from notika._suspects() as s (workflow_id)
      join notika.workflow as w on w.workflow_id = s.workflow_id and w.unpublished_at is null
     cross join lateral notika._try_findings(w) as f
     where f.kind <> 'not_judged'
    union
    -- The guard failed at it, now or when it was last changed.
    select 'not_judged', 'warning', w.name, format('the guard could not check it: %s', k.reason),
           'select * from notika.check();'
      from notika._suspects() as s (workflow_id)
      join notika.workflow as w on w.workflow_id = s.workflow_id and w.unpublished_at is null
     cross join lateral (
       select f.actual from notika._try_findings(w) as f where f.kind = 'not_judged'
       union
       select notika._not_judged(w)
     ) as k (reason)
     where k.reason is not null;
  if notika._has_event_triggers() and not notika._is_guarded() then
    return query select 'guard_changed', 'error', null::text,
      'the event triggers, their functions or role notika_guard are not as install makes them',
      'As an administrator: npx notika install';
  end if;
  return query select * from notika._copy_health();
  return query select * from notika._missing_rights();
  return query select * from notika._surplus_rights();
  return query select * from notika._truncate_health();
  return query
    select 'broken', 'error', w.name, w.broken_reason, notika._call(notika._mended(w))
      from notika.workflow as w
     where w.unpublished_at is null and w.broken_reason is not null;
  return query
    select 'schedule', 'error', s.workflow,
           format('could not be kept at %s and is tried again: %s', s.next_at, s.error),
           format('select notika.schedule(%L, %L, %L, %L);', s.workflow, s.cron, s.time_zone,
                  s.missed)
      from notika.schedules as s
     where s.error is not null;
  return query
    select 'backfill', 'error', w.name,
           format('its backfill has stopped: %s; a reader finds the error in notika.backfills', b.error_code),
           format('select notika.backfill(%L%s); or: select notika.cancel_backfill(%1$L);',
                  w.name, ', ' || quote_literal(b.condition))
      from notika.backfill as b
      join notika.workflow as w on w.workflow_id = b.workflow_id
     where b.state = 'failed';
  return query
    select 'ring', case when l.is_late or b.remedy is not null then 'warning' else 'ok' end,
           null::text,
           format('%s events wait%s; the ring has %s%s', l.events_waiting,
                  ', the oldest since ' || l.oldest_waiting, pg_size_pretty(l.ring_bytes),
                  '; held up by ' || b.holders),
           case when b.remedy is not null then b.remedy || ' ends what holds it up'
                when l.is_late then 'Is a runner alive? npx notika run' end
      from (
        select g.events_waiting, g.oldest_waiting, g.ring_bytes,
               coalesce(g.oldest_waiting < clock_timestamp() - interval '1 minute', false)
                 as is_late,
               coalesce(notika._turn_due_at() < clock_timestamp() - interval '1 minute', false)
                 as turns_late
          from notika.lag as g
      ) as l
     cross join lateral (
       select string_agg(concat(k.holder, ': ' || k.holds, ' since ' || k.since), '; '),
              (array_agg(k.remedy order by k.blocks, k.since))[1]
         from notika._blocker as k
        where k.blocks = 'hand-over' and (l.is_late or l.turns_late)
           or k.blocks = 'ring' and l.turns_late
     ) as b (holders, remedy);
end;
$$;

comment on function notika._health() is 'What notika.health shows.';

create or replace function notika._health_without_texts()
  returns table (finding text, severity text, workflow text)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query select h.finding, h.severity, h.workflow from notika._health() as h;
end;
$$;

comment on function notika._health_without_texts() is
  'What notika.health shows to a monitor: details name tables and columns, and remedies conditions.';

create or replace function notika._visible_health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  security invoker -- so that it depends on the reader of the view
  set search_path = pg_catalog, pg_temp
as $$
begin
  if has_function_privilege('notika._health()', 'execute') then
    return query select * from notika._health();
  else
    return query select h.*, null::text, null::text from notika._health_without_texts() as h;
  end if;
end;
$$;

comment on function notika._visible_health() is
  'What notika.health shows to its reader: to a monitor no details and no remedies.';

create or replace view notika.health as
select h.finding, h.severity, h.workflow, h.detail, h.remedy from notika._visible_health() as h;

comment on view notika.health is 'What is well and what is not, with the call that mends it.';
comment on column notika.health.finding is 'What was looked at or found.';
comment on column notika.health.severity is 'ok, warning or error.';
comment on column notika.health.workflow is 'The workflow; null: all of them.';
comment on column notika.health.detail is 'What it is about.';
comment on column notika.health.remedy is 'What mends it.';
--! EndIncluded 75_ways_out.sql
--! Included 77_check_ddl.sql
-- check_ddl: what a migration would do to the workflows, found out by running it and undoing it.

create or replace function notika._undoable(statement text)
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  -- What no rollback undoes, wherever it stands: in a DO block, a function, or a string that is
  -- executed.  What is put together while it runs is not seen.
  v_gap constant text := $re$(?:\s|/\*.*\*/|--[^\n]*\n)*$re$;
  v_string constant text := v_gap || $re$(?:e|u&)?['$%]$re$; -- also one that format() puts in
  v_start constant text := $re$(?:^|[;'$\n]|\*/|\m(?:begin|then|else|loop|atomic)\M)\s*$re$;
  -- A query to its last parenthesis, or a table and its columns.
  v_query constant text :=
    $re$\((?:[^;'"$/-]|'+[^']*'+|"[^"]*"|\$\w*\$[^$]*\$\w*\$|/\*.*\*/|--[^\n]*\n|[$/-])*\)$re$;
  v_table constant text :=
    $re$(?:[\w.$%\s]|[^\x01-\x7f]|'+[^']*'+|"[^"]*"|/\*.*\*/|--[^\n]*\n)+(?:\([^)]*\)\s*)?$re$;
  v_function text;
begin
  -- The rest takes long to find.
  if statement !~* '(copy|program|load|session|lo_|dblink|pg_|u&")' then
    null;
  elsif statement ~* '\mcopy\M'
        and statement ~* format('\m(?:to|from)\M%sprogram\M%s', v_gap, v_string)
        or statement ~* format('\moptions%s\(.*\mprogram\M%s', v_gap, v_string) then
    return 'PROGRAM runs a program on the server, which cannot be undone';
  elsif statement ~* format('%scopy\M%s(?:%s|%s)%s\m(?:to|from)\M%s',
                            v_start, v_gap, v_query, v_table, v_gap, v_string) then
    return 'COPY to or from a file of the server cannot be undone, or reads what is not in the database';
  elsif statement ~* format('\m(?:re)?set\M%s(?:(?:local|session)\M%1$s)?session(?:_|%1$s)authorization\M', v_gap)
        or statement ~* format('\mset_config"?%s\(.*session_authorization', v_gap) then
    return 'SET SESSION AUTHORIZATION changes whose rights the rest would be tried with';
  elsif statement ~* format('%sload\M%s', v_start, v_string) then
    return 'LOAD cannot be undone';
  elsif statement ~* $re$\mu&"[^"]*\\$re$ then
    return 'a name that is written with escapes may be that of anything';
  else
    v_function := (regexp_match(statement, format(
      '(?i)\m(lo_(?:export|import)|dblink\w*|pg_file_\w+|pg_(?:terminate|cancel)_backend|pg_reload_conf'
      '|pg_rotate_logfile\w*|pg_promote|pg_switch_wal|pg_create_restore_point|pg_backup_\w+|pg_wal_replay_\w+'
      '|pg_(?:create|drop|copy|advance|logical|sync)_?\w*(?:replication_slots?|slot_\w+)\w*'
      '|pg_logical_emit_message|pg_log_(?:standby_snapshot|backend_memory_contexts)'
      '|pg_replication_(?:slot|origin)_\w+|pg_(?:try_)?advisory_(?:lock|unlock)(?:_shared|_all)?|pg_stat_reset\w*'
      '|pg_stat_statements_reset|pg_read_(?:binary_)?file|pg_stat_file|pg_ls_\w+)"?%s\(', v_gap)))[1];
    if v_function ~* '^pg_(read|stat_file|ls)' then
      return format('%s() reads what is not in the database', v_function);
    elsif v_function is not null then
      return format('%s() has an effect that cannot be undone', v_function);
    end if;
  end if;

  return case
    when statement ~* '\mconcurrently\M' and statement !~* '^refresh\M' then 'CONCURRENTLY cannot run in a transaction'
    when statement ~* '^(vacuum|cluster|reindex\s+(database|system)|(create|drop)\s+(database|'
      'tablespace|subscription)|alter\s+(system|database))\M'
      then format('%s cannot be undone', upper(substring(statement from '^\w+(?:\s+\w+)?')))
    when statement ~* '^(commit|rollback|end|abort|savepoint|release|prepare\s+transaction)\M'
      and statement !~* '^(commit|end)\s*(work|transaction)?$'
      then 'a transaction inside cannot be followed'
    when statement ~* '^copy\M.*\mfrom\s+stdin\M' or statement like '\\%'
      then 'that is for psql, not for the server'
  end;
end;
$body$;

comment on function notika._undoable(text) is
  'Why a statement cannot be tried and undone; null: it can.';

create or replace function notika._foresee(settled boolean)
  returns table (workflow text, kind text, object text, verdict text, expected text, actual text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_workflow_id integer;
begin
  for v_workflow_id in
    select distinct p.workflow_id from notika.guard_pending as p order by 1
  loop
    if not exists (
      select from notika.guard_pending as p
       where p.workflow_id = v_workflow_id and p.dropped is not null
    ) then
      begin
        perform notika._reconcile(v_workflow_id, 'check_ddl', _foresee.settled);
      exception
        when serialization_failure or deadlock_detected or lock_not_available then
          raise;
        when undefined_object or undefined_function or insufficient_privilege or sqlstate 'NK002' then
          null; -- as at commit
        when others then
          return query
            select w.name, 'not_judged', w.table_name, 'warned', null, format('%s (%s)', sqlerrm, sqlstate)
              from notika.workflow as w
             where w.workflow_id = v_workflow_id;
      end;
    end if;
    return query
      select w.name, f.kind, f.object, notika._verdict(w, f.kind), f.expected, f.actual
        from notika.workflow as w
       cross join lateral notika._try_findings(w) as f
       where w.workflow_id = v_workflow_id and w.unpublished_at is null
         -- That is only a consequence of the others.
         and (f.kind <> 'trigger_dropped' or not exists (
           select from notika._try_findings(w) as o
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
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('_foresee_pinned', jsonb_build_object(
    'sql', _foresee_pinned.sql, 'path', _foresee_pinned.path));
end;
$$;

comment on function notika._foresee_pinned(text, text) is
  'Where only pins protect: takes those away that would hide what the migration does.';

create or replace function notika._do_foresee_pinned(caller name, sql text, path text)
  returns void
  language plpgsql
  volatile
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
      from notika._split(_do_foresee_pinned.sql) as c
     cross join lateral notika._named_tables(c.bare, _do_foresee_pinned.path) as n (relation)
      -- What the caller may not alter it does not alter, and then nobody is to wait for it.
      join pg_class as k on k.oid = n.relation and pg_has_role(_do_foresee_pinned.caller, k.relowner, 'usage')
     cross join lateral notika._tables(n.relation) as d (relation)
      join notika.contract_table as t on t.relation = d.relation
      join notika.workflow as w on w.workflow_id = t.workflow_id and w.unpublished_at is null
  loop
    perform notika._summon(array[v_workflow_id], 'CHECK', 'check_ddl');
    perform notika._loosen(v_workflow_id);
  end loop;
end;
$$;

comment on function notika._do_foresee_pinned(name, text, text) is 'Carries out _foresee_pinned for a caller';

create or replace function notika._try_ddl(sql text, path text)
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
  security invoker -- it runs somebody's DDL, so as them
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_statement record;
  v_reason text;
  v_message text;
  v_detail text;
  v_hint text;
  v_seen jsonb[] := array[]::jsonb[]; -- what was found after each statement
  v_lines integer[] := array[]::integer[];
  v_texts text[] := array[]::text[];
  v_said jsonb := '[]'::jsonb; -- what is returned already
  v_found jsonb;
  v_is_over boolean := false;
begin
  perform set_config('lock_timeout', notika._lock_timeout('500ms'), true);
  begin
    perform notika._foresee_pinned(sql, path);
    for v_statement in
      select s.line, s.statement,
             s.statement ~* '^(begin|start[[:space:]]+transaction)[[:space:]]*(work|transaction)?$' as begins,
             s.statement ~* '^(commit|end)[[:space:]]*(work|transaction)?$' as commits
        from notika._split(_try_ddl.sql) as s
      union all
      select null, null, false, true -- the end of the text
    loop
      continue when v_statement.begins;
      if not v_statement.commits then
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
          perform set_config('search_path', path, true);
          execute v_statement.statement;
          -- Until the next line names may mean anything: they are written in full, without operators.
          path := pg_catalog.current_setting('search_path');
          perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        exception when others then
          get stacked diagnostics
            v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
          statement_number := cardinality(v_texts);
          line := v_statement.line;
          statement := v_statement.statement;
          -- What a view or an extension refuses has nothing to do with a workflow.
          verdict := case when sqlstate = 'NK001' or sqlstate in ('2BP01', '0A000')
                            and concat(v_message, v_detail) ~ '\mnotika[._]'
                          then 'breaks' else 'error' end;
          problem := concat_ws(E'\n', v_message, nullif(v_detail, ''));
          remedy := nullif(v_hint, '');
          return next;
          v_is_over := true; -- what follows would be judged on a state that will not be
        end;
        if not v_is_over then
          v_seen := v_seen || (
            select coalesce(jsonb_agg(jsonb_build_array(f.workflow, f.kind, f.object, f.verdict)), '[]')
              from notika._foresee(false) as f
          );
          continue;
        end if;
      end if;

      -- A transaction ends here, and the guard judges what it leaves.
      select coalesce(jsonb_agg(to_jsonb(f)), '[]') into v_found from notika._foresee(true) as f;
      for statement_number, workflow, verdict, problem, remedy in
        select b.number, f.workflow,
               case f.verdict when 'blocked' then 'breaks' when 'warned' then 'warns'
                              when 'ignored' then 'breaks unguarded' else f.verdict end,
               format('%s %s%s', replace(f.kind, '_', ' '), f.object,
                      case when f.actual is not null
                           then format(': %s instead of %s', f.actual, f.expected) else '' end),
               case when f.verdict = 'blocked' then format(
                 'Publish %1$s again in the same transaction, or there: select notika.allow_breaking_change(%1$L, ''<reason>'');',
                 f.workflow)
                    when f.verdict = 'healed' and exists (
                      select from unnest(v_seen) as s (seen)
                       where s.seen @> jsonb_build_array(jsonb_build_array(f.workflow, f.object, 'blocked'))
                    ) then
                 'Run it in one transaction: a tool that commits each statement is refused in the middle.'
               end
          from jsonb_to_recordset(v_found) as f (
                 workflow text, kind text, object text, verdict text, expected text, actual text)
         cross join lateral (
           -- The first statement after which it was so until now.
           select coalesce(max(s.place) filter (
                    where not s.seen @> jsonb_build_array(jsonb_build_array(f.workflow, f.kind, f.object))
                  ), 0)::integer + 1 as number
             from unnest(v_seen) with ordinality as s (seen, place)
         ) as n
         cross join lateral (select least(n.number, cardinality(v_texts)) as number) as b
         where not v_said @> jsonb_build_array(jsonb_build_array(f.workflow, f.kind, f.object, f.verdict))
         order by 1, 2, 4
      loop
        line := v_lines[statement_number];
        statement := v_texts[statement_number];
        return next;
      end loop;
      v_said := v_said || (
        select coalesce(jsonb_agg(jsonb_build_array(f.workflow, f.kind, f.object, f.verdict)), '[]')
          from jsonb_to_recordset(v_found) as f (workflow text, kind text, object text, verdict text)
      );
      exit when v_is_over or v_statement.line is null or exists (
        select from jsonb_to_recordset(v_found) as f (verdict text) where f.verdict = 'blocked'
      );
      -- It is committed, and the next one begins.
      set constraints notika.guard_at_commit immediate;
      set constraints notika.guard_at_commit deferred;
      perform notika._foresee_pinned(sql, path);
    end loop;
    raise exception 'undo' using errcode = 'NKUND';
  exception when sqlstate 'NKUND' then
    null;
  end;
  perform set_config('lock_timeout', v_before, true);
end;
$$;

comment on function notika._try_ddl(text, text) is
  'Runs a migration with the rights of the caller and on this search path, undoes it, and says what '
  'the guard found.';

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
  language sql
  volatile
  security invoker
  -- No search_path of its own: it passes the caller's on, and does no more.
as $$
  select t.statement_number, t.line, t.statement, t.workflow, t.verdict, t.problem, t.remedy
    from notika._try_ddl(check_ddl.sql, pg_catalog.current_setting('search_path')) as t;
$$;

comment on function notika.check_ddl(text) is
  'What a migration would do to the workflows, statement by statement: breaks, warns, followed, '
  'healed, error or unknown. RUNS the text with the rights of the caller and undoes it: only for text '
  'that is trusted, and with a role of its own; for other text there is npx notika check --schema. '
  'What it sees that no rollback undoes, such as COPY ... TO PROGRAM, it does not try (unknown). Waits '
  'half a second for each lock, or lock_timeout where that is less. No rows: no workflow would notice. Sequences stay moved.';
--! EndIncluded 77_check_ddl.sql
--! Included 78_copy.sql
-- Copies: what pg_restore, a promoted standby or a subscriber has of Notika's own tables, how far it
-- can be trusted, and how it is put right.  A copy in another cluster has a foreign cursor, which the
-- first dispatch rebases; here is what it takes besides.

create or replace function notika._late_sequences()
  returns table (sequence regclass, reached bigint, needed bigint)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
  v_here notika.position := notika._position();
begin
  for v_column in
    select d.objid::regclass as sequence, d.refobjid::regclass as relation, a.attname as name
      from pg_depend as d
      join pg_class as s on s.oid = d.objid and s.relkind = 'S'
      join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
     where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
       and d.deptype in ('a', 'i')
       and s.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
     order by 1
  loop
    -- Asked before the sequence, which only grows.
    execute format('select max(t.%I) from %s as t', v_column.name, v_column.relation) into needed;
    sequence := v_column.sequence;
    reached := coalesce(pg_sequence_last_value(sequence), 0);
    if needed > reached then
      return next;
    end if;
  end loop;

  needed := greatest(
    (select max(e.event_id) from notika._event as e),
    (select max(l.run_id) from notika.run_log as l where l.retried_at is null),
    v_here.low, v_here.high, v_here.window_high
  );
  sequence := 'notika.event_id_seq';
  reached := coalesce(pg_sequence_last_value(sequence), 0);
  if needed > reached then
    return next;
  end if;
end;
$$;

comment on function notika._late_sequences() is
  'Sequences that would give numbers that are taken already, as in a copy that was made by '
  'replication, or of tables without their sequences.';

create or replace function notika._advance_sequences()
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select count(setval(l.sequence, l.needed)) from notika._late_sequences() as l
  );
end;
$$;

comment on function notika._advance_sequences() is
  'Brings sequences beyond the numbers that are taken, and says how many that were.';

create or replace function notika._is_own_row(row_xmin xid, written_by xid8)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select row_xmin::text::bigint = written_by::text::bigint & 4294967295; -- xmin has 32 bits
$$;

comment on function notika._is_own_row(xid, xid8) is
  'Whether a row was written by the transaction that it names, and not by one that loaded a dump.';

create or replace function notika._forget_load()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now bigint := pg_current_xact_id()::text::bigint;
  v_loaded_until xid8;
begin
  -- pg_upgrade and standbys keep the rows as they were written.
  if (
    select notika._is_own_row(p.xmin, p.xid)
      from notika.position as p
     order by p.position_id desc
     limit 1
  ) then
    return;
  end if;

  -- Several jobs of pg_restore may fill a partition when the triggers of its table are there.  They
  -- make event triggers, and before these grant rights, when everything is filled.
  select greatest(v_now - min(age(o.xmin)), 3)::text::xid8 into v_loaded_until
    from (
      select e.xmin from pg_event_trigger as e where e.evtname ~ '^notika_guard_'
      union all
      select p.xmin from pg_proc as p
       where p.oid = 'notika.dispatch(integer)'::regprocedure
         and not exists (select from pg_event_trigger as e where e.evtname ~ '^notika_guard_')
    ) as o;
  for v_segment in 0..2 loop
    execute format(
      'delete from notika.event_log_%1$s as e
        using (
          select o.xmin as xid
            from notika.event_log_%1$s as o
           group by o.xmin
          having bool_and(notika._is_own_row(o.xmin, o.xid)) -- and not by chance
        ) as writer
        where e.xmin = writer.xid and e.xid < $1', v_segment)
      using v_loaded_until;
  end loop;
end;
$$;

comment on function notika._forget_load() is
  'Deletes what was captured in a copy while it was being loaded: those rows did not change.';

create or replace function notika._copy_health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_here notika.position := notika._position();
begin
  if not exists (select from notika.setting) or v_here.position_id is null then
    return query select 'copy', 'error', null::text,
      'this is a copy without its data: what is captured is never handed over', 'npx notika install';
    return;
  end if;
  if notika._cluster() = 0 then
    return query select 'cluster', 'warning', null::text,
      'this server does not say which cluster it is (pg_control_system() is not to be executed): a copy '
      'in another cluster is told by its transaction ids alone, and may be taken for the original',
      format('grant execute on function pg_catalog.pg_control_system() to %I;', current_user);
  end if;
  if notika._is_foreign(v_here) then
    return query
      select 'copy', 'warning', null::text,
             format('this is a copy from another cluster: %s events and %s runs that waited there will '
                    'run here too', (select l.events_waiting from notika.lag as l),
                    (select count(*) from notika_worker._private_jobs)),
             'If they are to: npx notika run. If not, first: select notika.pause(w.workflow) '
             'from notika.workflows as w where w.workflow not like ''%:%'';'::text;
  end if;
  return query
    select 'sequence_behind', 'error', null::text,
           format('%s stands at %s, and %s is taken already', l.sequence, l.reached, l.needed),
           'select * from notika.install();'
      from notika._late_sequences() as l;

  return query
    select 'publication', 'warning', null::text,
           format('publication %I publishes Notika''s own tables: a runner at a subscriber would run '
                  'what runs here', t.pubname),
           format('create publication %I for tables in schema %s; and name that in the subscription',
                  left(t.pubname || '_without_notika', 63),
                  coalesce((select string_agg(quote_ident(n.nspname), ', ' order by n.nspname)
                              from pg_namespace as n
                             where n.nspname !~ '^(pg_.*|information_schema|notika|notika_worker)$'),
                           '<schema>'))
      from (select distinct p.pubname::text as pubname from pg_publication_tables as p
             where p.schemaname in ('notika', 'notika_worker')) as t
     order by t.pubname;
  return query
    select 'subscription', 'warning', null::text,
           format('subscription %I writes to Notika''s own tables: no runner may work here before it '
                  'ends, and sequences are not replicated', s.subname),
           format('drop subscription %I; select * from notika.install();', s.subname)
      from pg_subscription as s
     where s.oid in (
       select r.srsubid from pg_subscription_rel as r
         join pg_class as c on c.oid = r.srrelid
        where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
     )
     order by s.subname;
  return query
    select 'subscription', 'ok', w.name,
           format('changes of %s that subscription %I brings wake no workflow here: they did where they '
                  'were made', notika._quoted(t.relation), s.subname),
           format('If they are to wake it here too: alter table %s enable always trigger %I;',
                  notika._quoted(t.relation), t.name)
      from pg_subscription_rel as r
      join pg_subscription as s on s.oid = r.srsubid
      join notika.contract_table as c on c.relation = r.srrelid
      join notika.workflow as w on w.workflow_id = c.workflow_id and w.unpublished_at is null
     cross join notika._triggers(w.workflow_id) as t
      join pg_trigger as g on g.tgrelid = t.relation and g.tgname = t.name and g.tgenabled = 'O'
     order by w.name, t.name;
end;
$$;

comment on function notika._copy_health() is
  'What notika.health says of copies: restored ones, and those that replication makes.';
--! EndIncluded 78_copy.sql
--! Included 80_install.sql
-- install(): puts right whatever is derived, and says what it did; as often as one likes.

create or replace function notika.install()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query select a.step, a.outcome, a.detail from notika._administer() as a;
  return query
    select s.step, s.outcome, s.detail
      from json_to_recordset(notika._ask('install', '{}'))
             as s (step text, outcome text, detail text);
end;
$$;

comment on function notika.install() is
  'Creates what is missing and puts right what is not as it should be; says what it did and what it '
  'could not. For members of the owner. What takes an administrator, such as the event triggers, it '
  'does if its caller is one. Idempotent.';

create or replace function notika._do_install(caller name)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._expect_member(_do_install.caller, 'install notika');
  return (
    select json_agg(json_build_object('step', i.step, 'outcome', i.outcome, 'detail', i.detail))
      from notika._install() as i
  );
end;
$$;

comment on function notika._do_install(name) is 'Carries out install for a member of the owner.';

create or replace function notika._install()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_workflow notika.workflow;
  v_after notika.workflow;
  v_statement text;
  v_count bigint;
begin
  -- It may lock several tables: below deadlock_timeout, so that no writer is the victim.
  perform set_config('lock_timeout', notika._lock_timeout('500ms'), true);
  return query select 'version', 'ok', format('notika %s on PostgreSQL %s', notika.version(),
                                               current_setting('server_version'));

  if not exists (select from notika.setting) then
    raise exception 'this is a copy of Notika without its data'
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Install it anew: npx notika install, or psql with what npx notika sql prints.';
  end if;
  -- Of tables without their sequences: those show their first value as their last.
  if pg_sequence_last_value('notika.event_id_seq') is null then
    perform setval('notika.event_id_seq', 0);
  end if;
  if pg_sequence_last_value('notika.control_seq') is null then
    perform setval('notika.control_seq', 0);
  end if;
  v_count := notika._advance_sequences();
  if v_count > 0 then
    return query select 'sequences', 'repaired', format('%s were behind', v_count);
  end if;

  step := 'cursor';
  if not exists (select from notika.position) then
    insert into notika.position (system_identifier, snapshot, high, low, horizon)
    select c.system_identifier, notika._snapshot(), notika._last_event_id(),
           notika._last_event_id(), 0
      from notika._cluster() as c (system_identifier);
    insert into notika.grantee (role_id, role_name, part)
    select r.oid, r.rolname, 'monitor' from pg_roles as r where r.rolname = 'pg_monitor'
    on conflict do nothing;
    outcome := 'created';
    detail := 'events are handed over from now on';
  elsif notika._is_foreign(notika._position()) and notika._lock_dispatch() then
    perform notika._rebase(notika._position());
    outcome := 'rebased';
    detail := 'this is a copy from another cluster: what waited there waits here';
  else
    outcome := 'ok';
    detail := format('%s events wait', (select l.events_waiting from notika.lag as l));
  end if;
  return next;

  select count(*) into v_count from notika_worker.migrations;
  return query
    select 'worker', 'ok', format('graphile-worker in schema notika_worker, revision %s', v_count);

  perform notika._rebind_copy();
  if not notika._judges_always() then
    perform notika._set_busy(true);
    alter table notika.guard_pending enable always trigger guard_at_commit;
    perform notika._set_busy(false);
    return query select 'guard at commit', 'repaired', 'judges under every session_replication_role';
  end if;

  for v_workflow in
    select w.*
      from notika.workflow as w
     where w.unpublished_at is null and w.table_name is not null
     order by w.name
  loop
    step := format('workflow %s', v_workflow.name);
    begin
      v_after := v_workflow;
      perform notika._hold_columns(v_after);
      v_after.is_pinned := notika._has_all_it_needs(v_workflow)
                           and notika._wants_pins(v_workflow.guard);
      v_after.capture := notika._form(v_after);
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
         set definition = v_after.definition, is_pinned = v_after.is_pinned,
             capture = v_after.capture
       where w.workflow_id = v_workflow.workflow_id and v_count > 0;
      outcome := case when v_count > 0 then 'repaired' else 'ok' end;
      detail := format('captures on %s', notika._quoted(v_workflow.relation));
    exception
      when sqlstate 'NK002' then
        outcome := 'failed';
        detail := format('%s; publish it again: %s', sqlerrm, notika._call(v_workflow));
        perform notika._break(v_workflow.workflow_id, sqlerrm);
      when others then
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

  return query select * from notika._install_rights();
  perform set_config('lock_timeout', v_before, true);
end;
$$;

comment on function notika._install() is
  'The owner''s part of install: the cursor, sequences, workflows and rights.';
--! EndIncluded 80_install.sql
--! Included 81_administrator.sql
-- What takes an administrator: the event triggers, and the role that their functions belong to.
-- Runs as the administrator.  An event trigger runs in everybody's DDL, so its function has the
-- rights of notika_guard, a role that may do nothing but call the guard, which runs as the owner;
-- an error in there is a warning, and only a verdict refuses a command.

create or replace function notika._guard_entries()
  returns table (name text, event text, tags text[], definition text)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $function$
  select e.name, e.event, e.tags::text[],
         format($definition$create function notika.%I()
  returns event_trigger
  language plpgsql
  security definer%s
as $entry$%s$entry$$definition$, e.name, e.setting, format($body$%s
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %%: %% (%%)', tg_tag, sqlerrm, sqlstate
      using hint = 'The command goes on. See what it left: select * from notika.check();';
end;
$body$, e.body))
    from (
      values
        -- No search_path of its own: the names in the command are found on the caller's.  So every
        -- name in it is written in full.
        ('_guard_start', 'ddl_command_start',
         '{ALTER TABLE,ALTER TYPE,DROP OWNED,DROP SCHEMA,DROP TABLE}',
         '
declare
  v_context pg_catalog.text;
begin
  get diagnostics v_context = pg_context;
  perform notika._let_through(tg_tag, v_context, pg_catalog.current_setting(''search_path''));', ''),
        ('_guard_drop', 'sql_drop', null,
         '
begin
  perform notika._note_dropped(tg_tag);', E'\n  set search_path = pg_catalog, pg_temp'),
        -- GRANT: of the right that was missing to capture a new table.
        ('_guard_end', 'ddl_command_end',
         '{ALTER DOMAIN,ALTER FUNCTION,ALTER SCHEMA,ALTER TABLE,ALTER TRIGGER,ALTER TYPE,'
         'CREATE FOREIGN TABLE,CREATE FUNCTION,CREATE RULE,CREATE TABLE,CREATE TABLE AS,'
         'CREATE TRIGGER,DROP CAST,DROP COLLATION,DROP DOMAIN,DROP EXTENSION,DROP FUNCTION,'
         'DROP OWNED,DROP ROUTINE,DROP SCHEMA,DROP TABLE,DROP TRIGGER,DROP TYPE,GRANT,SELECT INTO}',
         '
begin
  -- What lets this function call the next is a GRANT, too.
  if tg_tag <> ''GRANT''
     or has_function_privilege(to_regprocedure(''notika._note_commands(text)''), ''execute'')
  then
    perform notika._note_commands(tg_tag);
  end if;', E'\n  set search_path = pg_catalog, pg_temp')
    ) as e (name, event, tags, body, setting);
$function$;

comment on function notika._guard_entries() is
  'The event triggers, the commands they are for, and the statements that make their functions.';

create or replace function notika._guard_flaws()
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select string_agg(f.flaw, '; ')
    from pg_roles as r
   cross join lateral (
     select 'it may log in' where r.rolcanlogin
     union all
     select 'it has rights of its own'
      where r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolbypassrls or r.rolreplication
     union all
     select 'it is a member of ' || string_agg(quote_ident(g.rolname), ', ' order by g.rolname)
       from pg_auth_members as a
       join pg_roles as g on g.oid = a.roleid
      where a.member = r.oid
     having count(*) > 0
     union all
     select format('%s is a member of it', string_agg(quote_ident(m.rolname), ', ' order by m.rolname))
       from pg_auth_members as a
       join pg_roles as m on m.oid = a.member and not m.rolsuper and m.rolname <> current_user
      where a.roleid = r.oid
     having count(*) > 0
     union all
     (select format('it owns %s', pg_describe_object(d.classid, d.objid, d.objsubid))
        from pg_shdepend as d
       where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid and d.deptype = 'o'
         and (d.dbid = 0 or d.dbid = (select b.oid from pg_database as b where b.datname = current_database()))
         and not (d.classid = 'pg_proc'::regclass and d.objid in (
           select p.oid from pg_proc as p
            where p.pronamespace = 'notika'::regnamespace
              and p.proname in ('_guard_start', '_guard_drop', '_guard_end')
         ))
       limit 1)
   ) as f (flaw)
   where r.rolname = 'notika_guard';
$$;

comment on function notika._guard_flaws() is
  'Why role notika_guard is not the powerless one that it has to be; null: it is, or is not there.';

create or replace function notika._is_guarded()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 3 = (
    select count(*)
      from notika._guard_entries() as g
      join pg_event_trigger as e
        on e.evtname = 'notika' || g.name and e.evtevent = g.event and e.evtenabled = 'A'
       and (select array_agg(t order by t) from unnest(e.evttags) as t)
           is not distinct from (select array_agg(t order by t) from unnest(g.tags) as t)
      join pg_proc as p
        on p.oid = e.evtfoid and p.pronamespace = 'notika'::regnamespace and p.proname = g.name
       and p.prosecdef and strpos(g.definition, p.prosrc) > 0
       and p.proowner = (select r.oid from pg_roles as r where r.rolname = 'notika_guard')
       and not exists (
         select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
          where a.grantee <> p.proowner
       )
  ) and notika._guard_flaws() is null;
$$;

comment on function notika._is_guarded() is
  'Whether the event triggers are there, are enabled, and call the functions of notika_guard.';

create or replace function notika._administer()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  security invoker -- as the administrator
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning
as $$
declare
  v_flaws text;
  v_entry record;
  v_grantee oid;
begin
  step := 'guard';
  outcome := 'ok';
  detail := 'judges migrations when they commit';
  if notika._is_guarded() then
    return next;
    return;
  end if;

  begin
    if not exists (select from pg_roles as r where r.rolname = 'notika_guard') then
      begin
        create role notika_guard nologin;
        comment on role notika_guard is 'Owns the functions of Notika''s event triggers. Made by notika install.';
      exception when duplicate_object or unique_violation then
        null; -- somebody was faster
      end;
    end if;
    v_flaws := notika._guard_flaws();
    if v_flaws is not null then
      raise exception 'role "notika_guard" cannot own the functions of the event triggers: %', v_flaws
        using errcode = 'invalid_grant_operation',
              detail = 'It has to be a role that nobody is, and that may do nothing.',
              hint = 'Drop the role, or take that from it, and install again.';
    end if;

    for v_entry in select g.* from notika._guard_entries() as g loop
      execute format('drop event trigger if exists notika%s', v_entry.name);
      execute format('drop function if exists notika.%I()', v_entry.name);
      execute v_entry.definition;
      for v_grantee in
        select a.grantee
          from pg_proc as p
         cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
         where p.pronamespace = 'notika'::regnamespace and p.proname = v_entry.name
           and a.grantee <> p.proowner
      loop
        execute format('revoke execute on function notika.%I() from %s', v_entry.name,
                       case v_grantee when 0 then 'public' else quote_ident(pg_get_userbyid(v_grantee)) end);
      end loop;
      execute format('comment on function notika.%I() is %L', v_entry.name,
                     'Event trigger: passes a command on to the guard, with the rights of notika_guard.');
    end loop;
    if not pg_has_role(current_user, 'notika_guard', 'usage') then
      grant notika_guard to current_user;
    end if;
    execute format('grant create on schema notika to notika_guard');
    for v_entry in select g.* from notika._guard_entries() as g loop
      execute format('alter function notika.%I() owner to notika_guard', v_entry.name);
      execute format('create event trigger notika%s on %s %s execute function notika.%I()',
        v_entry.name, v_entry.event, (
          select format('when tag in (%s)', string_agg(quote_literal(t), ', ' order by t))
            from unnest(v_entry.tags) as t
          having count(*) > 0
        ), v_entry.name);
      -- Also under session_replication_role = replica.
      execute format('alter event trigger notika%s enable always', v_entry.name);
    end loop;
    execute format('revoke create on schema notika from notika_guard');
    if exists (
      select from pg_auth_members as a
        join pg_roles as g on g.oid = a.roleid and g.rolname = 'notika_guard'
        join pg_roles as m on m.oid = a.member and m.rolname = current_user and not m.rolsuper
    ) then
      revoke notika_guard from current_user;
    end if;
    outcome := 'created';
  exception when insufficient_privilege then
    outcome := 'limited';
    detail := case
      when notika._has_event_triggers() then format(
        'role "%s" may not replace the event triggers, which are of another version: let an '
        'administrator run npx notika install', current_user)
      else format(
        'role "%s" may not create event triggers: only pins protect. Columns in use cannot be dropped '
        'or retyped without notika.release(workflow, reason). An administrator, who may create roles '
        'and event triggers, adds them by npx notika install', current_user)
    end;
  end;
  return next;
end;
$$;

comment on function notika._administer() is
  'Makes role notika_guard and the event triggers, or says why the caller may not.';
--! EndIncluded 81_administrator.sql
--! Included 82_roles.sql
-- Who may do what: publishers, runners, readers and monitors beside the owner.  None includes another,
-- and a role may be several.  notika._rights() is the whole list; what it does not give to anybody is
-- the owner's alone.  What was granted is kept, so that install() can put it back after an upgrade
-- that replaced functions, and take away what came by default privileges or by hand.

create table if not exists notika.grantee (
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

create or replace function notika._rights()
  returns table (kind text, name text, parts text[])
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select l.kind, l.name, l.parts::text[]
    from (
      values
        ('function', 'version', '{publisher,runner,reader,monitor}'),
        ('function', '_migrations', '{publisher,runner,reader,monitor}'),
        ('view', 'workflows', '{publisher,runner,reader}'),
        ('view', 'health', '{publisher,runner,reader,monitor}'),
        ('function', '_visible_health', '{publisher,runner,reader,monitor}'),
        ('function', '_health', '{publisher,runner,reader}'), -- a view's functions run as its reader
        ('function', '_health_without_texts', '{monitor}'),

        -- The verbs that decide by their caller pass a request.
        ('function', '_ask', '{publisher,runner}'),
        ('function', '_ask_shortly', '{publisher}'),
        ('function', '_refuse_shortly', '{publisher,runner}'),
        ('request', '_request', '{publisher,runner}'),

        -- Publish, and migrate what is published.
        ('function', 'publish', '{publisher}'),
        ('function', 'plan', '{publisher}'),
        ('function', '_plan', '{publisher}'),
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

        -- What a verb calls with the rights of its caller: it reads the catalog, or makes what is his.
        ('function', '_as_called', '{publisher}'),
        ('function', '_request_of', '{publisher}'),
        ('function', '_call', '{publisher,runner}'),
        ('function', '_read_condition', '{publisher,runner}'),
        ('function', '_parse_condition', '{publisher,runner}'),
        ('function', '_refuse_condition', '{publisher,runner}'),
        ('function', '_without_literals', '{publisher,runner}'),
        ('function', '_names_others', '{publisher,runner}'),
        ('function', '_operators_in', '{publisher,runner}'),
        ('function', '_unsafe_literal', '{publisher,runner}'),
        ('function', '_type_parts', '{publisher,runner}'),
        ('function', '_is_trusted', '{publisher,runner}'),
        ('function', '_needed_rights', '{publisher}'),
        ('function', '_grant_missing', '{publisher}'),
        ('function', '_revoke_given', '{publisher}'),
        ('function', '_owner', '{publisher}'),
        ('function', '_family', '{publisher}'),
        ('function', '_quoted', '{publisher,runner}'),
        ('function', '_relation', '{publisher,runner}'),
        ('function', '_table', '{publisher,runner}'),
        ('function', '_refuse_locked', '{publisher}'),
        ('function', '_lock_timeout', '{publisher}'),

        -- Run, and what an operator does about runs.
        ('function', 'emit', '{publisher,runner}'),
        ('function', 'backfill', '{runner}'),
        ('function', 'cancel_backfill', '{runner}'),
        ('function', 'replay', '{runner}'),
        ('function', 'pause', '{publisher,runner}'),
        ('function', 'resume', '{publisher,runner}'),
        ('function', 'retry', '{publisher,runner}'),
        ('function', 'cancel', '{publisher,runner}'),
        ('function', 'dispatch', '{runner}'),
        ('function', '_installation', '{runner}'),
        ('function', 'maintain', '{runner}'),
        ('function', '_beat', '{runner}'),
        ('function', '_claim', '{runner}'),
        ('function', '_begin', '{runner}'),
        ('function', '_is_own', '{runner}'),
        ('function', '_give_back', '{runner}'),
        ('function', 'event', '{runner,reader}'),
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
        ('view', 'backfills', '{publisher,runner,reader}'),
        ('view', 'schedules', '{publisher,runner,reader}'),
        ('function', '_captured_at', '{reader}'),
        ('function', '_payload', '{reader}'),
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

        -- How it is, without what is in it.
        ('view', 'lag', '{reader,monitor}'),
        ('view', 'run_counts', '{reader,monitor}'),
        ('function', '_bound', '{reader,monitor}'),
        ('function', '_dispatched', '{reader,monitor}'),
        ('function', '_segment', '{reader,monitor}'),
        ('sequence', 'control_seq', '{reader,monitor}'),

        -- What the event triggers call.
        ('function', '_let_through', '{guard}'),
        ('function', '_note_dropped', '{guard}'),
        ('function', '_note_commands', '{guard}'),

        -- The owner's.
        ('function', 'install', '{}'),
        ('function', '_administer', '{}'),
        ('function', 'uninstall', '{}'),
        ('function', 'grant_publisher', '{}'),
        ('function', 'grant_runner', '{}'),
        ('function', 'grant_reader', '{}'),
        ('function', 'grant_monitor', '{}'),
        ('function', 'revoke_publisher', '{}'),
        ('function', 'revoke_runner', '{}'),
        ('function', 'revoke_reader', '{}'),
        ('function', 'revoke_monitor', '{}'),
        ('function', '_has_ended', '{}'),
        ('function', '_position', '{}')
    ) as l (kind, name, parts);
$$;

comment on function notika._rights() is
  'What publishers, runners, readers, monitors and the guard may execute and read in schema notika, '
  'and nothing else.';

create or replace function notika._granted()
  returns table (role oid, privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select a.grantee, lower(a.privilege_type) || o.columns, o.object
    from (
      select format('schema %I', n.nspname) as object, '' as columns, n.nspacl as acl, n.nspowner as owner
        from pg_namespace as n
       where n.nspname in ('notika', 'notika_worker')
      union all
      select format('routine %s', p.oid::regprocedure), '', coalesce(p.proacl, acldefault('f', p.proowner)),
             p.proowner
        from pg_proc as p
       where p.pronamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
      union all
      select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass),
             '', c.relacl, c.relowner
        from pg_class as c
       where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
         and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      union all
      select format('table %s', c.oid::regclass), format(' (%I)', t.attname), t.attacl, c.relowner
        from pg_class as c
        join pg_attribute as t on t.attrelid = c.oid and t.attacl is not null
       where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
    ) as o
   cross join aclexplode(o.acl) as a
   where a.grantee <> o.owner
     -- The functions of the event triggers are looked after by an administrator.
     and o.owner = (select n.nspowner from pg_namespace as n where n.nspname = 'notika');
$$;

comment on function notika._granted() is
  'Every right that somebody besides the owner has in Notika''s schemas; role 0: everybody.';

create or replace function notika._due(parts text[])
  returns table (privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 'usage', 'schema notika' where _due.parts <> '{}'
  union
  select 'execute', format('routine %s', p.oid::regprocedure)
    from notika._rights() as r
    join pg_proc as p on p.pronamespace = 'notika'::regnamespace and p.proname = r.name
   where r.kind = 'function' and r.parts && _due.parts
  union
  select 'select',
         format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass)
    from notika._rights() as r
    join pg_class as c on c.relnamespace = 'notika'::regnamespace and c.relname = r.name
   where r.kind in ('view', 'table', 'sequence') and r.parts && _due.parts
  union
  -- Not its column caller.
  select k.privilege, format('table notika.%I', r.name)
    from notika._rights() as r
   cross join unnest('{insert (verb),insert (args),select (result)}'::text[]) as k (privilege)
   where r.kind = 'request' and r.parts && _due.parts
  union
  -- graphile-worker works on its tables as whoever runs it.
  select 'usage', 'schema notika_worker' where 'runner' = any (_due.parts)
  union
  select k.privilege, format('table %s', c.oid::regclass)
    from pg_class as c
   cross join unnest('{select,insert,update,delete}'::text[]) as k (privilege)
   where c.relnamespace = 'notika_worker'::regnamespace and c.relkind in ('r', 'p')
     and 'runner' = any (_due.parts)
     and (k.privilege = 'select' or c.relname <> 'migrations')
  union
  select 'execute', format('routine %s', p.oid::regprocedure)
    from pg_proc as p
   where p.pronamespace = 'notika_worker'::regnamespace and 'runner' = any (_due.parts);
$$;

comment on function notika._due(text[]) is
  'What a role is to be granted that plays these parts.';

create or replace function notika._all_due()
  returns table (role oid, privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select p.role, d.privilege, d.object
    from (
      select g.role_id as role, array_agg(g.part) as parts from notika.grantee as g group by g.role_id
      union all
      select r.oid, '{guard}' from pg_roles as r where r.rolname = 'notika_guard'
    ) as p
   cross join lateral notika._due(p.parts) as d
  union
  select c.grantee, 'execute', format('routine %s', c.function)
    from notika.workflow as w
   cross join lateral notika._capture_rights(w.workflow_id, w.relation) as c
   where w.unpublished_at is null
  union
  -- Evaluated as the writer.
  select 0, 'execute', format('routine %s', p.oid::regprocedure)
    from pg_proc as p
   where p.pronamespace = 'notika'::regnamespace and p.proname ~ '^_passes_[0-9]+$';
$$;

comment on function notika._all_due() is
  'Every right that somebody besides the owner is to have in Notika''s schemas; role 0: everybody.';

create or replace function notika._role_name(role oid)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case _role_name.role when 0 then 'public' else quote_ident(pg_get_userbyid(_role_name.role)) end;
$$;

comment on function notika._role_name(oid) is 'A role as GRANT names it; 0: everybody.';

create or replace function notika._settle_rights()
  returns table (role oid, changes bigint)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_change record;
  v_roles oid[] := array[]::oid[];
begin
  for v_change in
    with due as materialized (select * from notika._all_due()),
         granted as materialized (select * from notika._granted())
    -- Cascade: with the option to grant, it may have been passed on.
    (select x.role, format('revoke %s on %s from %s cascade', x.privilege, x.object,
                           notika._role_name(x.role)) as statement
       from (table granted except table due) as x)
    union all
    (select x.role, format('grant %s on %s to %s', x.privilege, x.object, notika._role_name(x.role))
       from (table due except table granted) as x
      where x.role = 0 or exists (select from pg_roles as r where r.oid = x.role))
  loop
    begin
      execute v_change.statement;
      v_roles := v_roles || v_change.role;
    exception when insufficient_privilege then
      -- The owner has lost USAGE on the schema of a published table, and cannot name a function that
      -- takes its rows: install() and health say so.
      null;
    end;
  end loop;
  perform notika._settle_policies();
  return query select r.role, count(*) from unnest(v_roles) as r (role) group by r.role;
end;
$$;

comment on function notika._settle_rights() is
  'Grants what is due and not granted, revokes what is granted and not due, and says for which roles '
  'that took how many changes.';

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

create or replace function notika._do_grant(caller name, verb text, part text, role oid)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._expect_member(_do_grant.caller, 'decide who may do what with notika');
  if _do_grant.role is null then
    raise exception 'no role was named'
      using errcode = 'null_value_not_allowed',
            hint = format('For instance: select notika.%s_%s(''<role>'');', _do_grant.verb, _do_grant.part);
  end if;
  perform notika._rebind_copy();

  if _do_grant.verb = 'revoke' then
    delete from notika.grantee as g where g.role_id = _do_grant.role and g.part = _do_grant.part;
    if found then
      perform notika._settle_rights();
    end if;
    return;
  end if;

  if _do_grant.role = (select r.oid from pg_roles as r where r.rolname = current_user) then
    raise exception 'role % owns notika and cannot be made a %', _do_grant.role::regrole, _do_grant.part
      using errcode = 'invalid_grant_operation',
            detail = 'The owner may do everything already.',
            hint = format('Name another role: select notika.grant_%s(''<role>'');', _do_grant.part);
  end if;
  insert into notika.grantee (role_id, role_name, part, granted_by)
  select r.oid, r.rolname, _do_grant.part, _do_grant.caller from pg_roles as r where r.oid = _do_grant.role
  on conflict do nothing;
  perform notika._settle_rights();
end;
$$;

comment on function notika._do_grant(name, text, text, oid) is
  'Gives a role a part and the rights of it, or takes it back, for a member of the owner.';

create or replace function notika.grant_publisher(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('grant_publisher', jsonb_build_object('role', grant_publisher.role::oid));
end;
$$;

comment on function notika.grant_publisher(regrole) is
  'Lets a role publish on tables that it may read and put triggers on, check migrations, and emit. '
  'It sees no payload and no run.';

create or replace function notika.revoke_publisher(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('revoke_publisher', jsonb_build_object('role', revoke_publisher.role::oid));
end;
$$;

comment on function notika.revoke_publisher(regrole) is 'Takes back what grant_publisher gave.';

create or replace function notika.grant_runner(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('grant_runner', jsonb_build_object('role', grant_runner.role::oid));
end;
$$;

comment on function notika.grant_runner(regrole) is
  'Lets a role run workflows: hand over, work off the jobs, retry, cancel, pause. It publishes nothing, '
  'and reads of the log only what is in its jobs.';

create or replace function notika.revoke_runner(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('revoke_runner', jsonb_build_object('role', revoke_runner.role::oid));
end;
$$;

comment on function notika.revoke_runner(regrole) is 'Takes back what grant_runner gave.';

create or replace function notika.grant_reader(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('grant_reader', jsonb_build_object('role', grant_reader.role::oid));
end;
$$;

comment on function notika.grant_reader(regrole) is
  'Lets a role look at everything, payloads included, and change nothing.';

create or replace function notika.revoke_reader(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('revoke_reader', jsonb_build_object('role', revoke_reader.role::oid));
end;
$$;

comment on function notika.revoke_reader(regrole) is 'Takes back what grant_reader gave.';

create or replace function notika.grant_monitor(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('grant_monitor', jsonb_build_object('role', grant_monitor.role::oid));
end;
$$;

comment on function notika.grant_monitor(regrole) is
  'Lets a role see how Notika is: notika.lag, notika.run_counts, and notika.health without its texts. '
  'It sees no payload. Members of pg_monitor may from the start.';

create or replace function notika.revoke_monitor(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('revoke_monitor', jsonb_build_object('role', revoke_monitor.role::oid));
end;
$$;

comment on function notika.revoke_monitor(regrole) is 'Takes back what grant_monitor gave.';

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

create or replace function notika._install_rights()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_changed oid[];
  v_left text;
  v_grantee record;
begin
  -- `drop owned` takes a role's rights away, and then the role can be dropped.
  delete from notika.grantee as g
   where not exists (select from pg_roles as r where r.oid = g.role_id);
  update notika.grantee as g
     set role_name = r.rolname
    from pg_roles as r
   where r.oid = g.role_id and r.rolname <> g.role_name;

  v_changed := array(select s.role from notika._settle_rights() as s);
  step := 'rights';
  outcome := case when v_changed <@ array(select g.role_id from notika.grantee as g) then 'ok'
                  else 'repaired' end;
  detail := 'nobody has one that was not granted';
  select format('%s on %s could not be taken from %s; first: %s', x.privilege, x.object,
                notika._role_name(x.role), coalesce(m.remedy, 'select * from notika.health;'))
    into v_left
    from (select * from notika._granted() except select * from notika._all_due()) as x
    left join lateral (
      select min(r.remedy) as remedy from notika._missing_rights() as r where r.finding = 'usage_missing'
    ) as m on true
   order by x.object
   limit 1;
  if found then
    outcome := 'failed';
    detail := v_left;
  end if;
  return next;

  for v_grantee in
    select g.role_id, string_agg(g.part, ', ' order by g.part) as parts
      from notika.grantee as g
     group by g.role_id, g.role_name
     order by g.role_name
  loop
    step := format('role %s', notika._role_name(v_grantee.role_id));
    outcome := case when v_grantee.role_id = any (v_changed) then 'repaired' else 'ok' end;
    detail := v_grantee.parts;
    return next;
  end loop;
end;
$$;

comment on function notika._install_rights() is
  'Gives everybody exactly the rights of their parts, and takes whatever else they have.';
--! EndIncluded 82_roles.sql
--! Included 83_wrong_rights.sql
-- Rights that are not as they should be, for notika.health: those that have gone missing since a workflow
-- was published, when they were all there, and those to read payloads that nobody meant to give.

create or replace function notika._missing_rights()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
  with published as (
    select w.workflow_id, w.name, w.relation, w.condition_uses, c.relnamespace
      from notika.workflow as w
      join pg_class as c on c.oid = w.relation
     where w.unpublished_at is null
  )
  -- A condition is evaluated with the rights of whoever writes.
  select distinct 'execute_missing', 'error', w.name,
         format('role "%s" writes to %s and may not execute function %s, which its condition calls: '
                'these writes fail', r.rolname, notika._quoted(w.relation), e.name),
         format('grant execute on function %s to %I;', e.name, r.rolname)
    from published as w
   cross join lateral notika._executed(w.condition_uses, w.relation) as e
    join pg_roles as r on notika._may_write(r.oid, w.relation)
   where e.kind = 'function' and not has_function_privilege(r.oid, e.object, 'execute')
  union all
  select 'usage_missing', 'warning', w.name,
         format('role "%s" may not use schema %I any more: changes are captured, but the workflow '
                'cannot be published anew', current_user, n.nspname),
         format('grant usage on schema %I to %I;', n.nspname, current_user)
    from published as w
    join pg_namespace as n on n.oid = w.relnamespace
   where not has_schema_privilege(n.oid, 'usage')
  union all
  select 'trigger_missing', 'warning', w.name,
         format('role "%s" may not create triggers on %s: changes are captured, but the workflow '
                'cannot be published anew', current_user, notika._quoted(d.relation)),
         format('grant trigger on %s to %I;', notika._quoted(d.relation), current_user)
    from published as w
    join notika.contract_table as d on d.workflow_id = w.workflow_id
    join pg_class as c on c.oid = d.relation
   where not has_table_privilege(d.relation, 'trigger');
$$;

comment on function notika._missing_rights() is
  'The rights that published workflows need and have not any more, with the GRANT.';

create or replace function notika._surplus_rights()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- By hand, or by default privileges that an administrator has set for all that is made.
  select 'surplus_rights', 'warning', null::text,
         format('role %s has %s right%s in Notika''s schemas that nobody granted it by a part: %s%s',
                s.role, s.count, case when s.count > 1 then 's' end, s.first,
                case when s.count > 1 then ', ...' end),
         'select * from notika.install();'
    from (
      select notika._role_name(x.role) as role, count(*) as count,
             min(format('%s on %s', x.privilege, x.object)) as first
        from (select * from notika._granted() except select * from notika._all_due()) as x
       -- A copy without its data does not know any more who has which part.
       where exists (select from notika.setting)
       group by x.role
    ) as s
  union all
  select 'superuser_owner', 'error', null, format(
           'Notika is owned by superuser "%s": whatever it does for others is done with the rights of a '
           'superuser, so requests are refused', r.rolname),
         'As an administrator: npx notika install, or psql with what npx notika sql prints'
    from pg_roles as r
   where r.rolname = notika._owner() and r.rolsuper
  union all
  select 'powerful_owner', 'warning', null, format('the owner of Notika, "%s", %s', r.rolname, concat_ws(', ',
           case when r.rolcreaterole then 'may create roles' end,
           case when r.rolcreatedb then 'may create databases' end,
           case when r.rolbypassrls then 'bypasses row security' end,
           case when r.rolreplication then 'may replicate' end)),
         format('alter role %I nocreaterole nocreatedb nobypassrls noreplication;', r.rolname)
    from pg_roles as r
   where r.rolname = notika._owner() and not r.rolsuper
     and (r.rolcreaterole or r.rolcreatedb or r.rolbypassrls or r.rolreplication)
  union all
  select 'guard_role', 'error', null,
         format('role "notika_guard", which owns the functions of the event triggers: %s', notika._guard_flaws()),
         'Take that from it, then as an administrator: npx notika install'
   where notika._guard_flaws() is not null;
$$;

comment on function notika._surplus_rights() is
  'Rights that are more than anybody was given, and owners that have more than they need.';
--! EndIncluded 83_wrong_rights.sql
--! Included 84_owner.sql
-- What the role that owns Notika needs from others, and how to take it back: statements for an
-- administrator.  This file stands alone: `notika grant` also loads it where Notika is not installed,
-- as temporary functions, so it calls nothing of notika but what is defined in it.

create or replace function notika._chosen_tables(schemas text[], tables text[])
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text;
  v_parts text[];
  v_chosen oid[] := array[]::oid[];
  v_relation oid;
begin
  foreach v_name in array coalesce(schemas, '{}') loop
    if not exists (select from pg_namespace as n where n.nspname = v_name) then
      raise exception 'schema "%" does not exist', v_name
        using errcode = 'invalid_schema_name',
              hint = format('The schemas of this database: %s.', (
                select string_agg(n.nspname, ', ' order by n.nspname)
                  from pg_namespace as n
                 where n.nspname !~ '^(pg_.*|information_schema|notika|notika_worker)$'
              ));
    end if;
    if v_name ~ '^(pg_.*|information_schema|notika|notika_worker)$' then
      raise exception 'schema "%" has no tables of an application', v_name
        using errcode = 'invalid_schema_name',
              hint = 'Name the schema whose tables are to be published.';
    end if;
  end loop;

  foreach v_name in array coalesce(tables, '{}') loop
    begin
      v_parts := parse_ident(v_name);
    exception when invalid_parameter_value then
      v_parts := null;
    end;
    if cardinality(v_parts) = 1 and cardinality(schemas) = 1 then
      v_parts := schemas || v_parts;
    end if;
    select c.oid into v_relation
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     where n.nspname = v_parts[1] and c.relname = v_parts[2] and cardinality(v_parts) = 2
       and c.relkind in ('r', 'p');
    if v_relation is null then
      raise exception 'table "%" does not exist', v_name
        using errcode = 'undefined_table',
              hint = 'Write schema.table, or name one schema and tables of it.';
    end if;
    v_chosen := v_chosen || v_relation;
  end loop;

  -- A trigger on a table with partitions or children is made on each of them.
  return query
    with recursive family (oid) as (
      select c.oid
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
       where c.relkind in ('r', 'p') and c.relpersistence <> 't'
         and case when tables is null then n.nspname = any (schemas) else c.oid = any (v_chosen) end
      union
      select i.inhrelid
        from family as f
        join pg_inherits as i on i.inhparent = f.oid
        join pg_class as c on c.oid = i.inhrelid and c.relkind in ('r', 'p')
    )
    select f.oid::regclass
      from family as f
      join pg_class as c on c.oid = f.oid
      join pg_namespace as n on n.oid = c.relnamespace
     order by n.nspname, c.relname;
end;
$$;

comment on function notika._chosen_tables(text[], text[]) is
  'These tables, or all of these schemas, with their partitions and children.';

create or replace function notika._owner_grants(owner name, schemas text[], tables text[])
  returns table (statement text, reason text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_owner pg_roles;
  v_who name; -- whose rights a role has that does not exist yet: everybody's
  v_must_join boolean;
  v_chosen regclass[] := array(select c from notika._chosen_tables(schemas, tables) as c);
  v_other text;
begin
  select r.* into v_owner from pg_roles as r where r.rolname = _owner_grants.owner;
  v_who := coalesce(v_owner.rolname, 'public');

  -- A schema that is empty can be handed over; one that is in use has an owner already.
  select n.nspowner::regrole::text into v_other
    from pg_namespace as n
   where n.nspname in ('notika', 'notika_worker') and n.nspowner is distinct from v_owner.oid
     and exists (select from pg_class as c where c.relnamespace = n.oid)
   limit 1;
  if found then
    raise exception 'notika is installed already, for role %', v_other
      using errcode = 'object_not_in_prerequisite_state',
            detail = 'The owner of its schemas is who needs the rights.',
            hint = format('Name %s. For %2$s as a further login that runs workflows: '
                          'select notika.grant_runner(%3$L);', v_other, owner, quote_ident(owner));
  end if;

  if v_owner.oid is null then
    return query
      values (format('create role %I login', owner),
              format(E'The owner of Notika, and the login of its runner. It has no password yet;\n'
                     'in psql: \\password %I', owner)),
             (format('comment on role %I is %L', owner,
                     format('The owner of Notika in database %s.', current_database())),
              null);
  -- Once it owns an installed Notika it is settled who connects: one that an administrator made
  -- cannot log in, and runners do as roles of their own.
  elsif not v_owner.rolcanlogin and not exists (
    select from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     where n.nspname = 'notika' and n.nspowner = v_owner.oid
  ) then
    return query select format('alter role %I login', owner), 'The runner connects as this role.'::text;
  end if;

  if not has_database_privilege(v_who, current_database(), 'connect') then
    return query
      select format('grant connect on database %I to %I', current_database(), owner), null::text;
  end if;

  -- To give somebody a schema one has to be able to become that role.
  v_must_join := not (select r.rolsuper from pg_roles as r where r.rolname = current_user)
                 and owner <> current_user
                 and not case
                   when v_owner.oid is null then false
                   when current_setting('server_version_num')::integer >= 160000
                     then pg_has_role(v_owner.oid, 'set')
                   else pg_has_role(v_owner.oid, 'member')
                 end
                 and exists (
                   select from unnest('{notika,notika_worker}'::name[]) as s (name)
                    where not exists (
                      select from pg_namespace as n
                       where n.nspname = s.name and n.nspowner = v_owner.oid
                    )
                 );
  if v_must_join then
    return query select format('grant %I to %I', owner, current_user),
                        'For a moment: who gives away a schema must be able to be who gets it.'::text;
  end if;
  return query
    select case when n.oid is null then format('create schema %s authorization %I', s.name, owner)
                else format('alter schema %s owner to %I', s.name, owner) end,
           case when s.place = 1 then 'All that it owns.' end
      from unnest('{notika,notika_worker}'::name[]) with ordinality as s (name, place)
      left join pg_namespace as n on n.nspname = s.name
     where n.oid is null or n.nspowner is distinct from v_owner.oid
     order by s.place;
  if v_must_join then
    return query select format('revoke %I from %I', owner, current_user), null::text;
  end if;

  if v_owner.rolsuper then
    return;
  end if;

  return query
    select format('grant usage on schema %I to %I', n.nspname, owner), null::text
      from pg_namespace as n
     where (n.nspname = any (schemas)
            or exists (
              select from pg_class as c
               where c.oid = any (v_chosen) and c.relnamespace = n.oid and not c.relispartition
            ))
       and not has_schema_privilege(v_who, n.oid, 'usage')
     order by n.nspname;

  return query
    select format('grant %s on %s to %I', string_agg(k.privilege, ', ' order by k.privilege),
                  c.name, owner),
           case when c.place = 1
                then 'What captures a change is a trigger; what is published is what it may read.' end
      from (
        select u.relation, u.relation::text as name, u.place
          from unnest(v_chosen) with ordinality as u (relation, place)
      ) as c
     cross join unnest('{select,trigger}'::text[]) as k (privilege)
     where not has_table_privilege(v_who, c.relation, k.privilege)
     group by c.relation, c.name, c.place
     order by c.place;
  -- Everybody has it unless it was revoked.
  return query
    select format('grant usage on type %s to %I', format_type(t.oid, null), owner), null::text
      from pg_class as c
      join pg_type as t on t.oid = c.reltype
     where c.oid = any (v_chosen) and not has_type_privilege(v_who, t.oid, 'usage')
     order by 1;

  return query
    select format('create policy notika on %s for select to %I using (true)', c.oid::regclass, owner),
           'Row security would hide rows from it.'::text
      from pg_class as c
     where c.oid = any (v_chosen) and c.relrowsecurity and not c.relispartition
       and not coalesce(
         v_owner.rolbypassrls or pg_has_role(v_owner.oid, c.relowner, 'usage') and not c.relforcerowsecurity,
         false
       )
       and not exists (
         select from pg_policy as p
          cross join unnest(p.polroles) as r (oid)
          where p.polrelid = c.oid and p.polpermissive and p.polcmd in ('r', '*')
            and pg_get_expr(p.polqual, p.polrelid) = 'true'
            and case when r.oid = 0 then true else coalesce(pg_has_role(v_owner.oid, r.oid, 'usage'), false) end
       )
     order by c.oid::regclass::text;

  if tables is null then
    return query
      select format('alter default privileges for role %s in schema %I grant %s on tables to %I',
                    m.creator::regrole, n.nspname, string_agg(k.privilege, ', ' order by k.privilege),
                    owner),
             'Tables that are made later.'::text
        from pg_namespace as n
       cross join lateral (
         select n.nspowner
         union
         select c.relowner from pg_class as c
          where c.relnamespace = n.oid and c.relkind in ('r', 'p')
       ) as m (creator)
       cross join unnest('{select,trigger}'::text[]) as k (privilege)
       where n.nspname = any (schemas)
         and m.creator is distinct from v_owner.oid
         and not exists (
           select from pg_default_acl as d
            cross join aclexplode(d.defaclacl) as a
            where d.defaclrole = m.creator and d.defaclnamespace = n.oid and d.defaclobjtype = 'r'
              and a.grantee = v_owner.oid and lower(a.privilege_type) = k.privilege
         )
       group by m.creator, n.nspname
       order by n.nspname, m.creator::regrole::text;
  end if;
end;
$$;

comment on function notika._owner_grants(name, text[], text[]) is
  'What is missing for a role to own Notika and to publish these tables, or those of these schemas: '
  'the statements, and why. No rows: nothing is missing.';

create or replace function notika._owner_revokes(owner name, schemas text[], tables text[])
  returns table (statement text, reason text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_owner pg_roles;
  v_all constant boolean := schemas is null and tables is null;
  v_chosen regclass[] := array(select c from notika._chosen_tables(schemas, tables) as c);
begin
  select r.* into v_owner from pg_roles as r where r.rolname = _owner_revokes.owner;
  if not found then
    raise exception 'role "%" does not exist', owner
      using errcode = 'undefined_object',
            hint = 'There is nothing to revoke.';
  end if;

  return query
    select format('drop policy notika on %s', p.polrelid::regclass), null::text
      from pg_policy as p
     where p.polname = 'notika' and p.polroles = array[v_owner.oid]
       and (v_all or p.polrelid = any (v_chosen))
     order by p.polrelid::regclass::text;

  return query
    select format('alter default privileges for role %s%s revoke %s on tables from %I',
                  d.defaclrole::regrole, ' in schema ' || quote_ident(n.nspname),
                  string_agg(lower(a.privilege_type), ', ' order by a.privilege_type), owner),
           null::text
      from pg_default_acl as d
      join pg_namespace as n on n.oid = d.defaclnamespace
     cross join aclexplode(d.defaclacl) as a
     where d.defaclobjtype = 'r' and a.grantee = v_owner.oid
       and a.privilege_type in ('SELECT', 'TRIGGER')
       and (v_all or tables is null and n.nspname = any (schemas))
     group by d.defaclrole, n.nspname
     order by n.nspname, d.defaclrole::regrole::text;

  return query
    select format('revoke %s on %s from %I',
                  string_agg(lower(a.privilege_type), ', ' order by a.privilege_type),
                  c.oid::regclass, owner),
           null::text
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     cross join aclexplode(c.relacl) as a
     where a.grantee = v_owner.oid and c.relowner <> v_owner.oid and c.relkind in ('r', 'p')
       and a.privilege_type in ('SELECT', 'TRIGGER')
       and (v_all or c.oid = any (v_chosen))
     group by c.oid, n.nspname, c.relname
     order by n.nspname, c.relname;
  return query
    select format('revoke usage on type %s from %I', format_type(t.oid, null), owner), null::text
      from pg_type as t
      join pg_class as c on c.oid = t.typrelid and c.relkind in ('r', 'p')
     cross join aclexplode(t.typacl) as a
     where a.grantee = v_owner.oid and t.typowner <> v_owner.oid
       and (v_all or c.oid = any (v_chosen))
     order by 1;

  return query
    select format('revoke usage on schema %I from %I', n.nspname, owner), null::text
      from pg_namespace as n
     cross join aclexplode(n.nspacl) as a
     where a.grantee = v_owner.oid and n.nspowner <> v_owner.oid and a.privilege_type = 'USAGE'
       and (v_all or tables is null and n.nspname = any (schemas))
     order by n.nspname;

  if not v_all then
    return;
  end if;
  return query
    select format('drop schema %s', n.nspname), null::text
      from pg_namespace as n
     where n.nspname in ('notika', 'notika_worker') and n.nspowner = v_owner.oid
       and not exists (select from pg_class as c where c.relnamespace = n.oid)
     order by n.nspname;
  return query
    select format('revoke connect on database %I from %I', d.datname, owner), null::text
      from pg_database as d
     cross join aclexplode(d.datacl) as a
     where d.datname = current_database() and a.grantee = v_owner.oid and d.datdba <> v_owner.oid
       and a.privilege_type = 'CONNECT';

  -- Only the role that `notika grant` has made; Postgres refuses while it has anything else.
  return query
    select format('drop role %I', owner), null::text
     where shobj_description(v_owner.oid, 'pg_authid')
           = format('The owner of Notika in database %s.', current_database());
end;
$$;

comment on function notika._owner_revokes(name, text[], text[]) is
  'The statements that take back what _owner_grants gives, for these tables or, of null, for all.';
--! EndIncluded 84_owner.sql
--! Included 86_uninstall.sql
-- uninstall(): takes Notika away and leaves nothing, or says what is in the way.  The owner need not own
-- a published table: whoever owns a trigger's function may drop it, and the trigger goes along.

create or replace function notika._outside_dependents()
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with ours (classid, objid) as (
    select 'pg_class'::regclass::oid, c.oid from pg_class as c
     where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
    union all
    select 'pg_proc'::regclass, p.oid from pg_proc as p
     where p.pronamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
    union all
    select 'pg_type'::regclass, t.oid from pg_type as t
     where t.typnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
  ), dependent as (
    select distinct d.classid, d.objid
      from ours as o
      join pg_depend as d on d.refclassid = o.classid and d.refobjid = o.objid and d.deptype = 'n'
  ), holder (classid, objid, namespace) as (
    -- A view depends by its rule, a default by its column's table.
    select 'pg_class'::regclass::oid, c.oid, c.relnamespace
      from dependent as d
      left join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
      left join pg_attrdef as a on d.classid = 'pg_attrdef'::regclass and a.oid = d.objid
      join pg_class as c
        on c.oid = coalesce(r.ev_class, a.adrelid,
                            case when d.classid = 'pg_class'::regclass then d.objid end)
    union
    select d.classid, p.oid, p.pronamespace
      from dependent as d
      join pg_proc as p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
    union
    select d.classid, k.oid, k.connamespace
      from dependent as d
      join pg_constraint as k on d.classid = 'pg_constraint'::regclass and k.oid = d.objid
    union
    select d.classid, t.oid, c.relnamespace
      from dependent as d
      join pg_trigger as t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid
       and t.tgname !~ '^notika_[0-9]+_(insert|update|delete|truncate)$'
      join pg_class as c on c.oid = t.tgrelid
  )
  select pg_describe_object(h.classid, h.objid, 0)
    from holder as h
   where h.namespace not in ('notika'::regnamespace, 'notika_worker'::regnamespace)
   order by 1;
$$;

comment on function notika._outside_dependents() is
  'What somebody has built on Notika''s tables, views and functions, and would go along with them.';

create or replace function notika._obstacles()
  returns table (obstacle text, detail text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('runner %s on %s', r.pid, r.host),
         format('alive, heard of %s seconds ago',
                extract(epoch from clock_timestamp() - r.seen_at)::integer)
    from notika.runner as r
   where r.seen_at > clock_timestamp() - interval '1 minute'
  union all
  select o, 'depends on Notika and would be dropped along'
    from notika._outside_dependents() as o;
$$;

comment on function notika._obstacles() is 'What keeps uninstall from going ahead unless it is forced.';

create or replace function notika._drop_captures(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning -- the triggers are what is dropped along
as $$
begin
  perform notika._set_busy(true); -- until _drop_notika has dropped the guard
  perform notika._unpin(_drop_captures.workflow_id);
  execute format('drop function if exists notika._capture_%1$s(), notika._truncated_%1$s() cascade',
                 _drop_captures.workflow_id);
end;
$$;

comment on function notika._drop_captures(integer) is
  'Drops the triggers and pins of a workflow, with the rights of the owner of Notika.';

create or replace function notika._drop_notika()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning -- what is dropped along is what was meant
as $$
begin
  perform notika._set_busy(true);
  -- The owner of a schema may drop the function of an event trigger in it, and the trigger goes along.
  drop function if exists notika._guard_start() cascade;
  drop function if exists notika._guard_end() cascade;
  drop function if exists notika._guard_drop() cascade;
  drop schema notika_worker cascade;
  drop schema notika cascade;
end;
$$;

comment on function notika._drop_notika() is
  'Drops everything of Notika''s, itself included, with the rights of its owner.';

create or replace function notika.uninstall(dry_run boolean default false, force boolean default false)
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  security invoker -- as a member of the owner; no request: the view of requests is dropped, too
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
  set client_min_messages = warning -- what is dropped along is what was meant
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_owner constant name := notika._owner();
  v_role constant text := current_setting('role');
  v_is_other constant boolean := current_user <> v_owner;
  -- A role that was there before may have its rights for other reasons, and stays.
  v_is_ours constant boolean := coalesce((
    select shobj_description(r.oid, 'pg_authid') = 'Owns Notika. Made by notika install.'
      from pg_roles as r where r.rolname = v_owner), false);
  v_done constant text := case when dry_run then 'would be removed' else 'removed' end;
  v_kept constant text := 'another database needs it, or it has other rights';
  v_obstacles text;
  v_count bigint;
  v_workflows notika.workflow[];
  v_workflow notika.workflow;
  v_left text[];
  v_statement text;
  v_place text := 'notika';
begin
  -- Shorter than the second after which Postgres looks for deadlocks: should a writer and this wait
  -- for each other's tables, it is this that gives up.
  perform set_config('lock_timeout', notika._lock_timeout('500ms'), true);
  if not pg_has_role(current_user, v_owner, 'member') then
    perform notika._expect_member(current_user, 'uninstall notika');
  end if;
  select string_agg(format('%s (%s)', o.obstacle, o.detail), '; ') into v_obstacles
    from notika._obstacles() as o;
  if v_obstacles is not null and not force and not dry_run then
    raise exception 'cannot uninstall notika: %', v_obstacles
      using errcode = 'object_in_use',
            detail = 'A runner that has stopped is forgotten at once, one that died within a minute.',
            hint = 'Stop the runners and drop what depends on Notika, or take both along: '
                   'select * from notika.uninstall(force => true);';
  end if;
  return query
    select o.obstacle, case when dry_run then 'in the way' else 'overridden' end, o.detail
      from notika._obstacles() as o;

  select count(*) into v_count
    from notika.runs as r
   where r.state not in ('done', 'failed', 'cancelled', 'expired');
  if v_count > 0 then
    return query select 'runs', 'lost', format('%s have not ended and never will', v_count);
  end if;
  select count(*) into v_count from notika.run_log;
  return query select 'history', v_done, format('the outcomes of %s runs', v_count);

  -- All is read before anything goes: a table that is being read cannot be dropped.
  v_workflows := array(
    select w from notika.workflow as w where w.unpublished_at is null order by w.name
  );
  v_left := array(
    select r.statement from notika._owner_revokes(v_owner, null, null) as r
     where not (select o.rolsuper from pg_roles as o where o.rolname = v_owner)
  );
  if not dry_run then
    set constraints all immediate; -- what waits for the commit would keep its tables
  end if;

  foreach v_workflow in array v_workflows loop
    v_place := coalesce(notika._quoted(v_workflow.relation), v_workflow.table_name);
    return query
      select format('workflow %s', v_workflow.name), v_done,
             format('triggers on %s', coalesce(string_agg(
               distinct notika._quoted(t.relation), ', '), 'nothing'))
        from notika._triggers(v_workflow.workflow_id) as t;
    if not dry_run then
      -- One by one, so that an error says which table is locked.  With the owner's rights, which a
      -- superuser gives up for it.
      if v_is_other then
        perform set_config('role', v_owner, true);
      end if;
      perform notika._drop_captures(v_workflow.workflow_id);
      if v_is_other then
        perform set_config('role', v_role, true);
      end if;
    end if;
  end loop;

  v_place := 'notika';
  return query
    select format('event trigger %s', e.evtname), v_done, format('on %s', e.evtevent)
      from pg_event_trigger as e
      join pg_proc as p on p.oid = e.evtfoid and p.pronamespace = 'notika'::regnamespace
     order by e.evtname;
  return query
    select format('schema %s', s.name), v_done,
           (select format('%s tables and views', count(*))
              from pg_class as c
             where c.relnamespace = s.name::regnamespace and c.relkind in ('r', 'v'))
      from unnest('{notika_worker,notika}'::text[]) as s (name);
  if not dry_run then
    if v_is_other then
      perform set_config('role', v_owner, true);
    end if;
    perform notika._drop_notika();
    if v_is_other then
      perform set_config('role', v_role, true);
    end if;
  end if;

  -- From here on this function is gone itself, and only Postgres' own are called.  What was made or
  -- granted for Notika alone the caller takes back, as far as it may; the roles go when no other
  -- database needs them.
  foreach v_statement in array v_left loop
    step := 'left to an administrator';
    outcome := 'not removed';
    detail := v_statement || ';';
    if v_is_ours and dry_run and (select r.rolsuper from pg_roles as r where r.rolname = current_user) then
      step := 'right';
      outcome := v_done;
    elsif v_is_ours and v_is_other and not dry_run then
      begin
        execute v_statement;
        step := 'right';
        outcome := 'removed';
      exception when insufficient_privilege then
        null;
      end;
    end if;
    return next;
  end loop;
  if v_is_ours and v_is_other then
    foreach v_place in array array['notika_guard', v_owner] loop
      if dry_run then
        return query
          select format('role %s', v_place), case when o.is_needed then 'kept' else v_done end,
                 case when o.is_needed then v_kept else 'made by install' end
            from (
              select exists (
                select from pg_shdepend as d
                 where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid and d.dbid <> 0
                   and d.dbid <> (select b.oid from pg_database as b where b.datname = current_database())
              )
                from pg_roles as r
               where r.rolname = v_place
            ) as o (is_needed);
        continue;
      end if;
      begin
        execute format('drop role if exists %I', v_place);
        return query select format('role %s', v_place), 'removed', 'made by install';
      exception
        when insufficient_privilege or dependent_objects_still_exist then
          return query select format('role %s', v_place), 'kept', v_kept;
      end;
    end loop;
  end if;
  perform set_config('lock_timeout', v_before, true);
exception when lock_not_available then
  raise exception 'cannot uninstall notika: % is locked', v_place
    using errcode = 'lock_not_available',
          detail = format('Gave up after %s; waiting longer would block the application. Nothing was '
                          'removed.', notika._lock_timeout('500ms')),
          hint = format('Try again. Who holds it: select pid, mode, relation::regclass from pg_locks '
                        'where granted and %s;', case v_place
                          when 'notika' then 'relation::regclass::text like ''notika%'''
                          else format('relation = %L::regclass', v_place) end);
end;
$$;

comment on function notika.uninstall(boolean, boolean) is
  'Takes Notika away: triggers, functions, event triggers, jobs, both schemas, and the roles that '
  'install made when no other database needs them. For members of the owner. Refuses while a runner '
  'is alive or something else depends on it, unless forced. dry_run: says what it would do, and does '
  'nothing. What the caller may not take back is given as SQL.';
--! EndIncluded 86_uninstall.sql
--! Included 90_grants.sql
-- Runs last.  Nobody but the owner may do anything until somebody is granted it: without this,
-- Postgres gives EXECUTE on every new function to everybody, and `alter default privileges` in a
-- schema cannot take that away.  install() settles the rest.

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid
      from pg_catalog.pg_proc as p
     cross join pg_catalog.aclexplode(
       coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) as a
     where p.pronamespace in ('notika'::pg_catalog.regnamespace, 'notika_worker'::pg_catalog.regnamespace)
       and a.grantee = 0
       and p.proowner = (select r.oid from pg_catalog.pg_roles as r where r.rolname = current_user)
       -- But for conditions: a trigger evaluates them as the role that writes.
       and p.proname !~ '^_passes_[0-9]+$'
  loop
    begin
      execute pg_catalog.format('revoke execute on routine %s from public', v_function);
    exception when insufficient_privilege then
      null; -- the schema of an argument cannot be named any more, which install() reports
    end;
  end loop;
end;
$$;
--! EndIncluded 90_grants.sql
