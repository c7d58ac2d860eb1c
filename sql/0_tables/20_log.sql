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
