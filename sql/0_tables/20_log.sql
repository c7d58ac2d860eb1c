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
