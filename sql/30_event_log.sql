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
