-- Tables of runs: what became of them, what they remember and wait for, and the lines they wait in.
-- Jobs are not here: they are graphile-worker's.

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
) with (autovacuum_vacuum_scale_factor = 0.05); -- what is old is deleted as fast as new comes
-- The first outcome of a run stands: a runner that lost its lock cannot change history.
create unique index run_log_run_id_idx
  on notika.run_log (run_id) where retried_at is null;
create index run_log_finished_at_idx on notika.run_log (finished_at);
create index run_log_workflow_idx on notika.run_log (workflow, run_id);
create index run_log_bad_end_idx on notika.run_log (run_id)
  where state <> 'done' and retried_at is null;
create index run_log_cancelled_idx
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

create type notika._new_job as (
  workflow text,
  payload json,
  run_at timestamptz,
  max_attempts smallint,
  key text,
  priority smallint,
  flags text[]
);

comment on type notika._new_job is 'A run that is to become a job. See notika._add_jobs.';
comment on column notika._new_job.workflow is 'Its workflow.';
comment on column notika._new_job.payload is 'The event that its task gets.';
comment on column notika._new_job.run_at is 'Its place in the queue; infinity: it waits to be woken.';
comment on column notika._new_job.max_attempts is 'How often it is tried.';
comment on column notika._new_job.key is 'The id of the run, as text.';
comment on column notika._new_job.priority is 'Lower numbers start first.';
comment on column notika._new_job.flags is 'The marks of the job; null: none.';

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

create table notika.signal_lock (
  place integer not null,
  constraint signal_lock_pkey primary key (place),
  constraint signal_lock_place_check check (place between 0 and 31)
);

comment on table notika.signal_lock is
  'Rows to lock, never changed: a session in which a wait begins locks one, the hand-over of signals '
  'locks all.';
comment on column notika.signal_lock.place is 'The remainder of the process ids that lock it.';

insert into notika.signal_lock select generate_series(0, 31);

create table notika.line_lock (
  workflow_id integer not null,
  constraint line_lock_pkey primary key (workflow_id)
);

comment on table notika.line_lock is
  'Rows to lock, never changed: one for each workflow with lines.';
comment on column notika.line_lock.workflow_id is 'The workflow.';

create table notika.run_key (
  workflow_id integer not null,
  key text not null,
  run_id bigint not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint run_key_pkey primary key (workflow_id, key)
);
create index run_key_created_at_idx on notika.run_key (created_at);

comment on table notika.run_key is
  'For workflows with a key: the run of each, while it is remembered. See notika.configure.';
comment on column notika.run_key.workflow_id is 'The workflow.';
comment on column notika.run_key.key is 'The values of the key''s columns.';
comment on column notika.run_key.run_id is 'The run that had them first.';
comment on column notika.run_key.created_at is 'When it was handed over.';

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
  'Runs that are for many events, kept as long as the run is. See notika.configure.';
comment on column notika.batch.run_id is 'The run, which has the id of the first event.';
comment on column notika.batch.workflow_id is 'The workflow.';
comment on column notika.batch.batch_key is 'The values that its events have in common.';
comment on column notika.batch.events is 'How many events it has.';
comment on column notika.batch.opened_at is 'When its first event was handed over.';
comment on column notika.batch.closes_at is 'When its run is to start.';
comment on column notika.batch.hard_close_at is 'The latest that this may become.';
comment on column notika.batch.closed_at is 'Since when no event joins it; null: it is open.';

create table notika.batch_event (
  run_id bigint not null,
  event_id bigint not null,
  event json not null,
  constraint batch_event_pkey primary key (run_id, event_id)
);

comment on table notika.batch_event is 'The events of batches.';
comment on column notika.batch_event.run_id is 'The run that gets it.';
comment on column notika.batch_event.event_id is 'Its id.';
comment on column notika.batch_event.event is 'The event as a task gets it.';

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
  'For workflows with an order: runs that have not ended. The first of each lane may run.';
comment on column notika.lane.run_id is 'The run.';
comment on column notika.lane.workflow_id is 'The workflow.';
comment on column notika.lane.lane is 'The values by which it is ordered.';
comment on column notika.lane.place is 'Its place; a run that is tried again by hand goes last.';
comment on column notika.lane.run_at is
  'Its place among all runs, which it takes when it is its turn. See notika._head.';

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
  'For workflows with a concurrency: runs that run or want to. Who sleeps or retries is not here.';
comment on column notika.slot.run_id is 'The run.';
comment on column notika.slot.workflow_id is 'The workflow.';
comment on column notika.slot.taken_at is 'Since when it may run; null: it waits.';
comment on column notika.slot.run_at is
  'Its place among all runs, which it takes when it may run. See notika._head.';

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
  'Events of sources that were handed over, kept while an unfinished run may want them.';
comment on column notika.signal.event_id is 'The id of the event.';
comment on column notika.signal.source_id is 'The source, a row of notika.workflow.';
comment on column notika.signal.xid is 'The transaction that made the change.';
comment on column notika.signal.cause_id is 'The run whose write this is; null: not a run''s.';
comment on column notika.signal.match_values is 'The values that waits compare, as one text.';
comment on column notika.signal.event is 'The event as a task gets it.';

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
comment on column notika.listener.run_id is 'The run.';
comment on column notika.listener.workflow_id is 'Its workflow.';
comment on column notika.listener.xid is
  'The transaction that started it; null: that is not known, and only later ids count.';
comment on column notika.listener.snapshot is 'What that transaction could see.';
comment on column notika.listener.cancel_id is 'The source that cancels it; null: there is none.';
comment on column notika.listener.cancel_values is
  'The values that a signal of that source must have; null: none can.';

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

comment on table notika.wait is 'What unfinished runs wait for; a wait that is over is a step.';
comment on column notika.wait.run_id is 'The run.';
comment on column notika.wait.name is 'The name of the step.';
comment on column notika.wait.wake_at is 'When it is over; infinity: not by time.';
comment on column notika.wait.created_at is 'When it began.';
comment on column notika.wait.source_id is
  'The source whose next change ends it, a row of notika.workflow; null: only time does.';
comment on column notika.wait.match_values is 'The values that the change must have, as one text.';
