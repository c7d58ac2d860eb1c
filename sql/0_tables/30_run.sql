-- Tables of runs: their outcomes, steps and waits, the lines they queue in, and the runners.
-- Jobs are kept by graphile-worker, not here.

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
) with (autovacuum_vacuum_scale_factor = 0.05); -- rows are deleted as fast as new ones are added
-- Only the first outcome of a run is kept: a runner that lost its lock cannot change it.
create unique index run_log_run_id_idx
  on notika.run_log (run_id) where retried_at is null;
create index run_log_finished_at_idx on notika.run_log (finished_at);
create index run_log_workflow_idx on notika.run_log (workflow, run_id);
create index run_log_bad_end_idx on notika.run_log (run_id)
  where state <> 'done' and retried_at is null;
create index run_log_cancelled_idx
  on notika.run_log (run_id) where state = 'cancelled';

comment on table notika.run_log is
  'The outcome of each run, appended when it ends. See the view notika.runs.';
comment on column notika.run_log.run_id is 'The id of the run, equal to the id of its event.';
comment on column notika.run_log.workflow is 'The name of the workflow.';
comment on column notika.run_log.state is 'done, failed, cancelled or expired.';
comment on column notika.run_log.attempts is 'The number of attempts that were made.';
comment on column notika.run_log.event is
  'The event. Kept for runs that did not succeed, because the ring drops it; null for others.';
comment on column notika.run_log.error is 'The message of the last error.';
comment on column notika.run_log.stack is 'The stack trace of the last error.';
comment on column notika.run_log.created_at is 'When the event was captured.';
comment on column notika.run_log.started_at is 'When the last attempt began.';
comment on column notika.run_log.finished_at is 'When the run ended.';
comment on column notika.run_log.retried_at is
  'When notika.retry started the run again. The row is then history.';

create type notika._new_job as (
  workflow text,
  payload json,
  run_at timestamptz,
  max_attempts smallint,
  key text,
  priority smallint,
  flags text[]
);

comment on type notika._new_job is 'A run for which a job is to be added. See notika._add_jobs.';
comment on column notika._new_job.workflow is 'The name of the workflow.';
comment on column notika._new_job.payload is 'The event that the task receives.';
comment on column notika._new_job.run_at is
  'The place of the run in the queue; infinity: it waits until it is woken.';
comment on column notika._new_job.max_attempts is 'The number of attempts.';
comment on column notika._new_job.key is 'The id of the run, as text.';
comment on column notika._new_job.priority is 'Jobs with lower numbers start first.';
comment on column notika._new_job.flags is 'The flags of the job; null: none.';

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
  'The runners that are alive. Each updates its row every ten seconds and deletes it when it '
  'stops.';
comment on column notika.runner.runner_id is
  'The id of the runner''s worker pool, which graphile-worker writes into the jobs it locks.';
comment on column notika.runner.host is 'The host name of the machine.';
comment on column notika.runner.pid is 'The process id on that machine.';
comment on column notika.runner.tasks is 'The workflows that the runner has a task for.';
comment on column notika.runner.started_at is 'When the runner started.';
comment on column notika.runner.seen_at is 'When the runner last sent a heartbeat.';
comment on column notika.runner.suspected_at is
  'When the runner was first suspected to be dead; it is taken for dead if it stays silent. Null: '
  'it is not suspected.';
comment on column notika.runner.blocked_since is
  'When a task began to block the runner''s event loop, so that nothing else runs there; null: '
  'none does.';

-- Without a primary key, a publication FOR ALL TABLES refuses updates and deletes otherwise.
alter table notika.run_log replica identity full;

create table notika.signal_lock (
  place integer not null,
  constraint signal_lock_pkey primary key (place),
  constraint signal_lock_place_check check (place between 0 and 31)
);

comment on table notika.signal_lock is
  'Rows to lock, never changed: a session in which a wait begins locks one of them, the delivery '
  'of signals locks all.';
comment on column notika.signal_lock.place is
  'The number of the row. A session locks the row that is its process id modulo 32.';

insert into notika.signal_lock select generate_series(0, 31);

create table notika.line_lock (
  workflow_id integer not null,
  constraint line_lock_pkey primary key (workflow_id)
);

comment on table notika.line_lock is
  'Rows to lock, never changed: one for each workflow with lines.';
comment on column notika.line_lock.workflow_id is 'The workflow whose lines the row locks.';

create table notika.run_key (
  workflow_id integer not null,
  key text not null,
  run_id bigint not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint run_key_pkey primary key (workflow_id, key)
);
create index run_key_created_at_idx on notika.run_key (created_at);

comment on table notika.run_key is
  'For workflows with a key: the run that each key started, while the key is remembered. See '
  'notika.configure.';
comment on column notika.run_key.workflow_id is 'The workflow with the option key.';
comment on column notika.run_key.key is 'The values of the key''s columns, as one text.';
comment on column notika.run_key.run_id is
  'The first run with these values; later events with them start none.';
comment on column notika.run_key.created_at is 'When the event of that run was dispatched.';

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
  'Runs that receive several events (debounce, digest), kept as long as the run. See '
  'notika.configure.';
comment on column notika.batch.run_id is 'The run; its id is that of the first event.';
comment on column notika.batch.workflow_id is 'The workflow of the run.';
comment on column notika.batch.batch_key is
  'The values that the events of the batch have in common, as one text.';
comment on column notika.batch.events is 'The number of events in the batch.';
comment on column notika.batch.opened_at is 'When the first event of the batch was dispatched.';
comment on column notika.batch.closes_at is 'When the run is to start.';
comment on column notika.batch.hard_close_at is 'The latest value that closes_at can reach.';
comment on column notika.batch.closed_at is
  'When the batch was closed to further events; null: it is open.';

create table notika.batch_event (
  run_id bigint not null,
  event_id bigint not null,
  event json not null,
  constraint batch_event_pkey primary key (run_id, event_id)
);

comment on table notika.batch_event is 'The events of batches, until the run has ended.';
comment on column notika.batch_event.run_id is 'The run that receives the event.';
comment on column notika.batch_event.event_id is 'The id of the event.';
comment on column notika.batch_event.event is 'The event in the form a task receives it.';

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
  'For workflows with an order: the runs that have not ended. The first run of each lane may '
  'start.';
comment on column notika.lane.run_id is 'The id of the run.';
comment on column notika.lane.workflow_id is 'The workflow with the option order.';
comment on column notika.lane.lane is
  'The values of the columns that the option order names, as one text.';
comment on column notika.lane.place is
  'The place in the lane. A run that is retried by hand goes to the end.';
comment on column notika.lane.run_at is
  'The place in the queue of all runs that the run gets when it becomes the first of its lane. See '
  'notika._head.';

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
  'For workflows with a concurrency: the runs that are running or ready to. Runs that sleep or '
  'wait for a retry are not here.';
comment on column notika.slot.run_id is 'The id of the run.';
comment on column notika.slot.workflow_id is 'The workflow with the option concurrency.';
comment on column notika.slot.taken_at is 'When the run was allowed to start; null: it waits.';
comment on column notika.slot.run_at is
  'The place in the queue of all runs that the run gets when it may start. See notika._head.';

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
  'Dispatched events of sources, kept while an unfinished run may wait for them.';
comment on column notika.signal.event_id is 'The id of the event.';
comment on column notika.signal.source_id is 'The source, a row of notika.workflow.';
comment on column notika.signal.xid is 'The transaction that made the change.';
comment on column notika.signal.cause_id is 'The run that made the change; null: no run did.';
comment on column notika.signal.match_values is 'The values that waits compare, as one text.';
comment on column notika.signal.event is 'The event in the form a task receives it.';

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
comment on column notika.listener.run_id is 'The id of the run.';
comment on column notika.listener.workflow_id is 'The workflow of the run.';
comment on column notika.listener.xid is
  'The transaction that started the run; null: it is not known, and only events with greater ids '
  'count.';
comment on column notika.listener.snapshot is 'The snapshot of that transaction.';
comment on column notika.listener.cancel_id is
  'The source that cancels the run; null: there is none.';
comment on column notika.listener.cancel_values is
  'The values that a signal of that source must have to cancel the run; null: no signal can.';

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

comment on table notika.step is 'The steps of runs, and their outcomes.';
comment on column notika.step.run_id is 'The run that the step belongs to.';
comment on column notika.step.name is
  'The name of the step in the task. The second step of that name is name#2; an item of each is '
  'name/key.';
comment on column notika.step.step_id is 'Orders the steps of a run by when they ended.';
comment on column notika.step.state is
  'done, failed (permanently: every attempt of the run gets the error) or retrying.';
comment on column notika.step.result is 'The value that the step returned, as json.';
comment on column notika.step.attempts is
  'The number of attempts; 0 only within the transaction that takes the step.';
comment on column notika.step.error is 'The message of the last error.';
comment on column notika.step.started_at is 'When the last attempt, or the wait, began.';
comment on column notika.step.finished_at is 'When the last attempt, or the wait, ended.';
comment on column notika.step.event_id is 'The event that ended the wait; null: none did.';

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

comment on table notika.wait is 'The waits of unfinished runs. A wait that is over becomes a step.';
comment on column notika.wait.run_id is 'The run that waits.';
comment on column notika.wait.name is 'The name of the step that waits.';
comment on column notika.wait.wake_at is
  'When the wait ends at the latest; infinity: time does not end it.';
comment on column notika.wait.created_at is 'When the wait began.';
comment on column notika.wait.source_id is
  'The source whose next matching change ends the wait, a row of notika.workflow; null: only time '
  'ends it.';
comment on column notika.wait.match_values is 'The values that the change must have, as one text.';
