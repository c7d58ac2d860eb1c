--! Previous: sha1:2cb85af92d25061c7bd89a85a457e91b6b67ec8b
--! Hash: sha1:81061d18364e82442d84dcd324310dc6be318f12
--! Message: Strings as json, one look at control

--! split: 1-current.sql
-- Alter and drop by hand, then --!include what changed in sql/.

drop function if exists notika._call(notika.workflow);
drop function if exists notika._segment_code(text);
drop function if exists notika._object_expression(text[], text[]);

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
  v_jobs notika_worker.job_spec[]; -- sql:check takes a parameter of a type it cannot see for a record
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
                 array_agg(format('(%s).%I', path, a.attname) order by a.attnum),
                 array_agg(a.atttypid order by a.attnum),
                 depth
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

create or replace function notika._is_string(type oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select t.oid in ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype,
                   'int8'::regtype, 'numeric'::regtype)
      or t.oid >= 16384 and t.typtype <> 'c' and t.typcategory <> 'A'
         and not notika._has_json_cast(t.oid)
    from pg_type as t
   where t.oid = notika._base_type(_is_string.type);
$$;

comment on function notika._is_string(oid) is
  'Whether json has a string for each value of this type, and it is the value as text.';

create or replace function notika._object_expression(
  names text[],
  paths text[],
  types oid[],
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
             when bool_and(notika._is_string(v.type)) then format(
               'pg_catalog.json_object(%L::pg_catalog.text[], array[%s])',
               _object_expression.names,
               string_agg(
                 case when notika._base_type(v.type) >= 16384 then v.expression
                      else format('%s::pg_catalog.text', v.path) end, ', ' order by v.place)
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
        select u.*, notika._json_expression(u.path, u.type, _object_expression.depth) as expression
          from unnest(_object_expression.names, _object_expression.paths, _object_expression.types)
                 with ordinality as u (name, path, type, place)
      ) as v
  );
end;
$$;

comment on function notika._object_expression(text[], text[], oid[], integer) is
  'An SQL expression for a json object of these keys, with the values that are at these paths.';

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
           array_agg(format('($1).%I', a.attname) order by a.place, a.attnum),
           array_agg(a.atttypid order by a.place, a.attnum)
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
           array_agg(format('%s.%I', _key_expression.path, a.attname)
                     order by array_position(k.columns, a.attnum), a.attnum),
           array_agg(a.atttypid order by array_position(k.columns, a.attnum), a.attnum)
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
           array_agg(format('(r).%I', k.name) order by k.place),
           array_agg(a.atttypid order by k.place)
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
                 array_agg(format('%s.%I', changed, a.attname) order by a.attnum),
                 array_agg(a.atttypid order by a.attnum)))
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
           array_agg(format('($1).%I', p.name) order by p.place),
           array_agg(p.type order by p.place)
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
  -- With the writer's rights, like the condition of a trigger, and read as it was when it was
  -- published.
  select format($template$create or replace function notika._passes_%s(new record, old record)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as %s$template$,
    _passes_definition.workflow_id,
    notika._dollar_quoted(format($passes$
begin
  return %s;
exception when others then
  return true; -- what it reads is not there any more: rather an event too many than one too few
end;
$passes$, _passes_definition.condition), 'passes'));
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
--! Included 67_backfill.sql
-- Backfill: runs for the rows that a table has already, a page at a time, taken by notika.dispatch.
-- A row that was written after the start has a run of its own if it woke the workflow; it is told by
-- its key, which hand-over keeps for as long as a backfill goes on, because the ring forgets.
-- A page is taken only when the last one is half begun, so that what changes now goes first.

create table if not exists notika.backfill (
  backfill_id integer generated always as identity,
  workflow_id integer not null,
  condition text,
  state text not null default 'running',
  snapshot pg_snapshot not null,
  ends jsonb not null,
  part oid,
  last_key text[],
  last_runs bigint[] not null default '{}',
  rows_seen bigint not null default 0,
  events bigint not null default 0,
  started_at timestamptz not null default clock_timestamp(),
  started_by name not null,
  finished_at timestamptz,
  error text,
  constraint backfill_pkey primary key (backfill_id),
  constraint backfill_state_check check (state in ('running', 'failed', 'done', 'cancelled'))
) with (fillfactor = 50);
create unique index if not exists backfill_unfinished_idx
  on notika.backfill (workflow_id) where finished_at is null;

comment on table notika.backfill is 'See the view notika.backfills.';
comment on column notika.backfill.backfill_id is 'Its order.';
comment on column notika.backfill.workflow_id is 'The workflow that gets the runs.';
comment on column notika.backfill.condition is 'Of which rows, besides the workflow''s own condition.';
comment on column notika.backfill.state is 'running, failed, done or cancelled.';
comment on column notika.backfill.snapshot is 'What was committed when it started.';
comment on column notika.backfill.ends is
  'For each table of the family, by its number, the last key when it started.';
comment on column notika.backfill.part is 'The table it is at; null: before the first.';
comment on column notika.backfill.last_key is 'The last key that it has seen there; null: none.';
comment on column notika.backfill.last_runs is 'The runs of its last page.';
comment on column notika.backfill.rows_seen is 'How many rows it has looked at.';
comment on column notika.backfill.events is 'How many runs it has made.';
comment on column notika.backfill.started_at is 'When it started.';
comment on column notika.backfill.started_by is 'Who started it.';
comment on column notika.backfill.finished_at is
  'When it was done or cancelled; one that failed can go on.';
comment on column notika.backfill.error is 'Why it failed.';

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
       b.error
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
comment on column notika.backfills.error is 'Why it failed, and what mends it.';

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

create or replace function notika._sees_all_rows(relation regclass)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with policy as (
    select p.polpermissive as is_permissive,
           coalesce(pg_get_expr(p.polqual, p.polrelid), 'true') as condition
      from pg_policy as p
     where p.polrelid = _sees_all_rows.relation and p.polcmd in ('r', '*')
       and exists (
         select from unnest(p.polroles) as r (oid)
          where case when r.oid = 0 then true else pg_has_role(r.oid, 'usage') end
       )
  )
  select not row_security_active(_sees_all_rows.relation::oid)
      or coalesce(bool_or(p.is_permissive and p.condition = 'true')
                  and bool_and(p.is_permissive or p.condition = 'true'), false)
    from policy as p;
$$;

comment on function notika._sees_all_rows(regclass) is
  'Whether row security keeps no row of a table from its reader.';

create or replace function notika._check_trust(spec notika.workflow, condition text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_kind text;
  v_name text;
  v_flaw text;
begin
  if spec.condition is null and _check_trust.condition is null then
    return;
  end if;

  -- The dispatcher evaluates conditions with the owner's rights, a trigger with the writer's.
  begin
    execute format(
      'create function notika._condition_%s() returns boolean language sql '
      'begin atomic select true from %2$s as new, %2$s as old where (%3$s) and (%4$s); end',
      pg_backend_pid(), notika._quoted(spec.relation), coalesce(spec.condition, 'true'),
      coalesce(_check_trust.condition, 'true'));
    select d.kind, d.name, d.flaw
      into v_kind, v_name, v_flaw
      from notika._distrusted(
             to_regprocedure(format('notika._condition_%s()', pg_backend_pid())),
             spec.relation) as d;
    raise exception 'undo' using errcode = 'NKUND';
  exception when sqlstate 'NKUND' then
    null;
  end;
  if v_name is null then
    return;
  end if;
  raise exception 'a backfill of workflow "%" would execute % % with the rights of "%"',
    spec.name, case v_kind when 'type' then 'what belongs to type' else v_kind end, v_name,
    current_user
    using errcode = 'insufficient_privilege',
          detail = 'The dispatcher evaluates the condition as the owner of Notika.'
                   || case v_kind when 'type' then ' The checks of a domain and the casts of a type '
                                                   'are functions of its owner.' else '' end,
          hint = case
            when v_flaw is not null then format('Write the condition without it: it %s.', v_flaw)
            else format('If you trust it: alter %s %s owner to %I;', v_kind, v_name, current_user)
          end;
end;
$$;

comment on function notika._check_trust(notika.workflow, text) is
  'Refuses conditions that would execute code of somebody else with the rights of the owner.';

create or replace function notika._distrusted(judged regprocedure, relation regclass)
  returns table (kind text, name text, flaw text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with trusted (role) as (
    select r.oid from pg_roles as r where r.rolsuper or r.rolname = current_user
  ), called (function) as (
    select c.function::oid from notika._called('pg_proc'::regclass, _distrusted.judged) as c (function)
    union
    -- Postgres' own leave no trace in pg_depend.
    select m[1]::oid
      from pg_proc as f
     cross join regexp_matches(f.prosqlbody::text, ':(?:funcid|opfuncid) ([0-9]+)', 'g') as m
     where f.oid = _distrusted.judged
  ), used (type) as (
    -- A conversion to a domain calls its checks.
    select d.refobjid
      from pg_depend as d
     where d.classid = 'pg_proc'::regclass and d.objid = _distrusted.judged
       and d.refclassid = 'pg_type'::regclass
    union
    -- What makes json of any value calls the cast of its type.
    select l.type
      from pg_attribute as a
     cross join lateral notika._leaf_types(a.atttypid) as l (type)
     where a.attrelid = _distrusted.relation and a.attnum > 0 and not a.attisdropped
       and (
         exists (
           select from called as c
             join pg_proc as p on p.oid = c.function
            where p.oid < 16384 and p.provolatile <> 'i'
              and p.prorettype in ('json'::regtype, 'jsonb'::regtype)
         )
         or (select f.prosqlbody::text ~ '[{]JSON' from pg_proc as f where f.oid = _distrusted.judged)
       )
  )
  (
    select 'function', p.oid::regprocedure::text,
           case when p.proowner not in (select t.role from trusted as t) then null
                when p.provolatile = 'v' then 'is volatile'
                else 'reads tables' end
      from called as c
      join pg_proc as p on p.oid = c.function
     where p.proowner not in (select t.role from trusted as t)
        or p.provolatile = 'v'
        or p.oid < 16384 and p.proname ~ '^(table|schema|database)_to_xml'
     union all
    select 'type', t.oid::regtype::text, null
      from used as u
      join pg_type as a on a.oid = u.type
      join pg_type as t on t.oid = case when a.typcategory = 'A' and a.typelem <> 0 then a.typelem
                                        else a.oid end
     where t.typowner not in (select o.role from trusted as o)
  )
   order by 1, 2
   limit 1;
$$;

comment on function notika._distrusted(regprocedure, regclass) is
  'A function or type that the owner should not let a condition use: it is not the owner''s, nor a '
  'superuser''s, or it does more than compute.';

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

create or replace function notika._check_backfill(spec notika.workflow, condition text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_part regclass;
  v_missing text[];
  v_extra notika.workflow := _check_backfill.spec;
  v_corrected notika.workflow := _check_backfill.spec;
begin
  if spec.relation is null then
    raise exception 'workflow "%" is not published on a table', spec.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Start a run by hand: select notika.emit(%L, ''{…}'');', spec.name);
  end if;
  if notika._workflow_of(spec.name) is not null then
    raise exception '"%" is a source, which starts no runs', spec.name
      using errcode = 'wrong_object_type',
            hint = format('Backfill its workflow: select notika.backfill(%L);',
                          notika._workflow_of(spec.name));
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
              hint = format('Give it one: alter table %s add primary key (…);',
                            notika._quoted(v_part));
    end if;
    if not has_table_privilege(v_part, 'select') then
      raise exception 'role "%" may not read table %', current_user, notika._quoted(v_part)
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant select on %s to %I;', notika._quoted(v_part),
                            current_user);
    end if;
    if not notika._sees_all_rows(v_part) then
      raise exception 'row security hides rows of table % from role "%"',
        notika._quoted(v_part), current_user
        using errcode = 'insufficient_privilege',
              hint = format('Run: create policy notika on %1$s for select to %2$I using (true); or, '
                            'where other policies restrict it: alter role %2$I bypassrls;',
                            notika._quoted(v_part), current_user);
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
    perform notika._check_payload(spec, v_part);
  end loop;

  if _check_backfill.condition is not null then
    v_extra.condition := _check_backfill.condition;
    v_extra.operations := '{update}';
    perform notika._check_condition(v_extra);
  end if;

  perform notika._check_trust(spec, _check_backfill.condition);
end;
$$;

comment on function notika._check_backfill(notika.workflow, text) is
  'Refuses a backfill that could not be done, not be done right, or not be done safely.';

create or replace function notika.backfill(workflow text, condition text default null)
  returns text
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set timezone = 'UTC'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
as $$
declare
  v_workflow_id integer := notika._published(backfill.workflow);
  v_spec notika.workflow;
  v_before notika.backfill;
  v_condition text := nullif(btrim(backfill.condition), '');
  v_part regclass;
  v_end text[];
  v_ends jsonb := '{}'::jsonb;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  perform notika._check_backfill(v_spec, v_condition);

  select b.* into v_before
    from notika.backfill as b
   where b.workflow_id = v_workflow_id and b.finished_at is null;
  if v_before.state = 'failed' and v_before.condition is not distinct from v_condition then
    update notika.backfill as b
       set state = 'running', error = null
     where b.backfill_id = v_before.backfill_id;
    perform notika._wake();
    return 'continued';
  end if;
  if found then
    raise exception 'a backfill of workflow "%" is under way: it is %',
      backfill.workflow, v_before.state
      using errcode = 'object_in_use',
            detail = format('Its condition is %s; it has seen %s rows.',
                            coalesce(v_before.condition, 'none'), v_before.rows_seen),
            hint = format('See notika.backfills, or end it: select notika.cancel_backfill(%L);',
                          backfill.workflow);
  end if;

  -- Rows with a later key were not there.  After the locks that publish may have taken in this
  -- transaction: whoever wrote before is in the snapshot, whoever writes after it is captured.
  for v_part in select f from notika._family(v_spec.relation) as f loop
    execute format(
      'select array[%s] from %s%s order by %s limit 1',
      (select string_agg(format('%I::text', k), ', ') from unnest(notika._key_names(v_part)) as k),
      notika._only(v_part), notika._quoted(v_part),
      (select string_agg(format('%I desc', k), ', ') from unnest(notika._key_names(v_part)) as k))
      into v_end;
    if v_end is not null then
      v_ends := v_ends || jsonb_build_object(v_part::oid::text, v_end);
    end if;
  end loop;

  insert into notika.backfill (workflow_id, condition, snapshot, ends, started_by)
  values (v_workflow_id, v_condition, notika._snapshot(), v_ends, notika._caller());
  perform notika._wake();
  return 'started';
end;
$$;

comment on function notika.backfill(text, text) is
  'Makes a run for each row that the table has now, of those that meet the workflow''s condition and '
  'this one; a row that changes meanwhile has its own run only. Says started, or continued where one '
  'has failed. Progress is in notika.backfills. In one transaction with publish no row has two.';

create or replace function notika.cancel_backfill(workflow text)
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._published(cancel_backfill.workflow);
  return notika._end_backfill(b.backfill_id, 'cancelled')
    from notika.backfill as b
    join notika.workflow as w on w.workflow_id = b.workflow_id
   where w.name = cancel_backfill.workflow and b.finished_at is null;
end;
$$;

comment on function notika.cancel_backfill(text) is
  'Ends the backfill of a workflow; what it has started goes on. True: there was one.';

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
  v_after text;
  v_until text;
  v_image text;
begin
  perform notika._check_payload(spec, backfill.part);
  select string_agg(format('new.%I', a.attname), ', ' order by k.place),
         string_agg(format('new.%I::text', a.attname), ', ' order by k.place),
         string_agg(format('$1[%s]::%s', k.place,
                           format_type(notika._base_type(a.atttypid), null)), ', ' order by k.place),
         string_agg(format('$2[%s]::%s', k.place,
                           format_type(notika._base_type(a.atttypid), null)), ', ' order by k.place)
    into v_columns, v_texts, v_after, v_until
    from unnest(notika._key_columns(backfill.part)) with ordinality as k (attnum, place)
    join pg_attribute as a on a.attrelid = backfill.part and a.attnum = k.attnum;

  -- As the capture function makes it.
  v_image := case
    when spec.columns is not null and spec.is_pinned
      then format('notika.payload_%s(p.new)', spec.workflow_id)
    else format('case when pg_column_size(p.new) <= %s then %s end', v_limit, case
      when spec.columns is null then 'notika._whole_row(p.new, $3)'
      else format('notika._loose_image(p.new, $3, %s)', spec.workflow_id) end)
  end;

  perform pg_current_xact_id(); -- before the segment is read: see _append
  execute format(
    $page$
    with page as materialized (
      select new, new.xmin as xid, array[%1$s] as key, coalesce((%2$s) and (%3$s), false) as passes
        from %4$s%5$s as new
        left join only %5$s as old on false -- a row that is there has not changed
       where %6$s (%7$s) <= (%8$s)
       order by %7$s
       limit %9$s
    ), placed as materialized (
      select p.*, row_number() over () as place from page as p
    ), live as materialized (
      select notika._short(notika._values(json_build_object('new', e.new), $4)) as key
        from notika._event as e
       cross join notika._position() as p
       where e.event_id > notika._bound(p) and not notika._dispatched(e.event_id, e.xid, p)
         and e.workflow_id = $5 and e.operation in ('insert', 'update')
         and not pg_visible_in_snapshot(e.xid, $6)
    ), image as materialized (
      select p.place, p.xid, i.image is null or octet_length(i.image::text) > %10$s as truncated,
             case when octet_length(i.image::text) <= %10$s then i.image
                  else notika._key(p.new, $3) end as image
        from placed as p
       cross join lateral (select %11$s as image) as i
       where p.passes
    ), appended as (
      insert into notika.event_log_%12$s (workflow_id, operation, new, truncated)
      select $5, 'backfill', i.image, i.truncated
        from image as i
       cross join lateral (
         select notika._short(notika._values(json_build_object('new', i.image), $4)) as key
       ) as k
       where pg_visible_in_snapshot(notika._full_xid(i.xid, $6), $6)
          or k.key not in (select l.key from live as l)
         and not exists (
           select from notika.backfill_key as n where n.backfill_id = $7 and n.key = k.key
         )
       order by i.place
      returning event_id
    )
    select (select count(*) from placed), (select p.key from placed as p order by p.place desc limit 1),
           (select coalesce(array_agg(a.event_id), '{}') from appended as a)
    $page$,
    v_texts, coalesce(spec.condition, 'true'), coalesce(backfill.condition, 'true'),
    notika._only(backfill.part), notika._quoted(backfill.part),
    case when backfill.last_key is not null
         then format('(%s) > (%s) and', v_columns, v_after) else '' end,
    v_columns, v_until, max_rows, v_limit, v_image, notika._segment(0)
  )
    into rows_seen, last_key, runs
    using backfill.last_key,
          array(select jsonb_array_elements_text(backfill.ends -> backfill.part::text)),
          backfill.part::regclass,
          notika._payload_key(spec, backfill.part), spec.workflow_id, backfill.snapshot,
          backfill.backfill_id;
end;
$$;

comment on function notika._page(notika.backfill, notika.workflow, integer) is
  'Makes the runs of the next rows of a backfill: says how many rows it saw, the last, and the runs.';

create or replace function notika._backfill_on(backfill notika.backfill, spec notika.workflow)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '100ms' -- the hand-over must not wait for a migration
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '100 milliseconds';
  v_page record;
  v_hint text;
  v_detail text;
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

  -- Both may have been changed since it was started.
  perform notika._check_trust(spec, backfill.condition);
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
    get stacked diagnostics v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    update notika.backfill as b
       set state = 'failed',
           error = concat_ws(E'\n', sqlerrm, nullif(v_detail, ''), nullif(v_hint, ''),
             case when sqlstate = '42501' and not has_table_privilege(spec.relation, 'select')
                  then format('Run: grant select on %s to %I;', spec.table_name, current_user) end,
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
  set standard_conforming_strings = on
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

create or replace function notika._is_valid(condition text, relation regclass)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_is_valid boolean;
begin
  perform notika._set_busy(true);
  begin
    -- Taken apart and not run: that would ask for the right to read the table.
    execute format(
      'create function notika._condition_%s() returns boolean language sql '
      'begin atomic select true from %2$s as new, %2$s as old where (%3$s); end',
      pg_backend_pid(), notika._quoted(relation), condition
    );
    raise exception 'undo' using errcode = 'NKUND';
  exception
    when sqlstate 'NKUND' then
      v_is_valid := true;
    when lock_not_available or deadlock_detected then
      raise;
    when others then
      v_is_valid := false;
  end;
  perform notika._set_busy(false);
  return v_is_valid;
end;
$$;

comment on function notika._is_valid(text, regclass) is
  'Whether Postgres understands a condition over two rows of a table.';

create or replace function notika._relabel(
  condition text,
  old_label text,
  new_label text,
  relation regclass
)
  returns text
  language plpgsql
  volatile
  strict
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_tokens text[] := array(
    select m[1] from regexp_matches(condition, '''(?:[^'']|'''')*''|[^'']+', 'g') as m
  );
  v_changed text[] := array_replace(v_tokens, quote_literal(old_label), quote_literal(new_label));
  v_tried text[];
begin
  -- The same word may be no label there: what can stay does.
  for v_place in 1 .. coalesce(cardinality(v_tokens), 0) loop
    continue when v_tokens[v_place] = v_changed[v_place];
    v_tried := v_changed;
    v_tried[v_place] := v_tokens[v_place];
    if notika._is_valid(array_to_string(v_tried, ''), relation) then
      v_changed := v_tried;
    end if;
  end loop;
  return array_to_string(v_changed, '');
end;
$$;

comment on function notika._relabel(text, text, text, regclass) is
  'A condition with a label of an enum under its new name.';

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
        or t.tgqual is not null and not exists (
          select from pg_depend as d
           where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
             and case
                   when not spec.is_pinned then
                     d.refclassid = 'pg_proc'::regclass and d.refobjid <> t.tgfoid
                   when pg_get_triggerdef(t.oid) like '%::regprocedure IS NOT NULL)%' then
                     d.refclassid = 'pg_proc'::regclass
                     and d.refobjid = notika._payload_function(spec.workflow_id, f.relation)
                   else
                     d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
                     -- It may read no column at all.
                     or spec.watch is null
                        and spec.condition !~* $re$\m(new|old)\s*\)?\s*\.\s*[^*[:space:]]$re$
                 end
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
  select kind in ('table_dropped', 'table_replaced', 'column_dropped', 'type_changed', 'trigger_dropped');
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
                    and not notika._holds_as_much(a.atttypid, a.atttypmod, c.type, c.typmod)
                 or case when c.attributes is not null
                         then not c.attributes <@ coalesce(notika._attributes(a.atttypid), '{}') end)
       )
  );
end;
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
         v_after.relation is distinct from v_spec.relation or a.attnum <> c.attnum
         or a.atttypid <> c.type and format_type(a.atttypid, a.atttypmod) = c.type_name
       )
       and (settled or v_after.relation is distinct from v_spec.relation or a.attnum = c.attnum
            or not exists (
         select from pg_attribute as p
          where p.attrelid = v_after.relation and p.attnum = c.attnum and not p.attisdropped
       ))
    returning c.column_name,
              (a.atttypid, a.atttypmod) = (o.type, o.typmod)
              or format_type(a.atttypid, a.atttypmod) = c.type_name as is_same_type
  loop
    continue when v_after.relation is distinct from v_spec.relation or not v_column.is_same_type;
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
       and (not notika._is_complete(v_after) or v_after.is_pinned <> v_spec.is_pinned
            or notika._form(v_after) <> v_spec.capture
            or notika._listed_shape(v_spec.definition)
               is distinct from case when notika._lists_columns(v_after)
                                     then notika._shape(v_after.relation) end)
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

  update notika.contract as c
     set type_name = format_type(c.type, c.typmod) -- it may have been renamed
   where c.workflow_id = v_spec.workflow_id
     and c.type >= 16384 and c.type_name <> format_type(c.type, c.typmod)
     and exists (select from pg_type as t where t.oid = c.type);
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
      v_after.condition := notika._relabel(
        v_after.condition, v_label.old_label, v_label.new_label, v_after.relation);
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
     set table_name = v_after.table_name
   where w.workflow_id = v_spec.workflow_id and w.table_name <> v_after.table_name;
  update notika.workflow as w
     set watch = v_after.watch, condition = v_after.condition, column_names = v_after.column_names
   where w.workflow_id = v_spec.workflow_id
     and (w.watch, w.condition, w.column_names)
         is distinct from (v_after.watch, v_after.condition, v_after.column_names);
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
