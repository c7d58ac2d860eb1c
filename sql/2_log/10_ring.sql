-- The ring: three segments to which captured changes are appended. Rows are never updated or
-- deleted. The xid is assigned first: every event has the xid of its transaction before it has its
-- event_id. After PgQ's rotating tables.
--
-- The locks of a dispatch are here too. Notika uses no advisory locks, because any role may take
-- those. Any role can also hold any table in ROW EXCLUSIVE mode: nextval() of its oid fails, but
-- the lock remains, even after a rollback to a savepoint. So a lock of Notika is either SHARE
-- UPDATE EXCLUSIVE on a table, which does not conflict with that mode, or a row lock, which
-- requires the right to update the table. Only the owner has these rights.
--
-- To avoid deadlocks, locks are taken in this order: dispatch; signals, before any row of waits or
-- jobs; lines, by the id of their workflow.

create or replace view notika._event as
select event_id, xid, captured_at, cause_id, workflow_id, depth, truncated,
       operation, new, old, snapshot
  from notika.event_log_0
union all
select event_id, xid, captured_at, cause_id, workflow_id, depth, truncated,
       operation, new, old, snapshot
  from notika.event_log_1
union all
select event_id, xid, captured_at, cause_id, workflow_id, depth, truncated,
       operation, new, old, snapshot
  from notika.event_log_2;

comment on view notika._event is 'The three segments as one.';

comment on column notika._event.event_id is 'The id of the event, and of the run that it starts.';

comment on column notika._event.xid is 'The transaction that made the change.';

comment on column notika._event.captured_at is 'When the change was captured.';

comment on column notika._event.cause_id is 'The run that made the change; null if no run did.';

comment on column notika._event.workflow_id is 'The workflow that the event is for.';

comment on column notika._event.depth is
  'The number of runs between this event and a change that no run made.';

comment on column notika._event.truncated is 'Whether old and new were reduced to the key.';

comment on column notika._event.operation is 'insert, update, delete, or another way to start.';

comment on column notika._event.new is 'The row after the change; null after a delete.';

comment on column notika._event.old is 'The row before the change; null before an insert.';

comment on column notika._event.snapshot is
  'What the change could see, if its run may wait for later changes.';

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
  -- Any role may set these, so they count only in sessions of runners and of members of the owner.
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
  'What a session says about its changes: that they are not captured, or which run makes them.';

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
  'Appends an event that no trigger captured, and returns its id.';

create or replace function notika._segment(turns_ahead integer)
  returns integer
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  select (((pg_sequence_last_value('notika.control_seq') >> 1) + turns_ahead) % 3)::integer;
$$;

comment on function notika._segment(integer) is
  'The number of the segment that is written to now, or after this number of turns of the ring.';

create or replace function notika._wake()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Called after the insert. A dispatcher that set the bit before the insert sees the row; one
  -- that sets it afterwards is notified. Where two-phase commit is in use there is no NOTIFY,
  -- because PREPARE TRANSACTION refuses a transaction that sent one; the dispatcher finds the
  -- event by polling.
  if pg_sequence_last_value('notika.control_seq') & 1 = 1
     and current_setting('max_prepared_transactions') = '0'
  then
    perform pg_notify('notika', '');
  end if;
end;
$$;

comment on function notika._wake() is
  'Notifies channel notika at commit, if the dispatcher has set the sleep bit.';

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
  'another session has it. With waits, it waits for that session.';

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

comment on function notika._last_event_id() is 'The last event id that was assigned.';

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
            detail = 'An old snapshot sees an old cursor, and events would be dispatched twice.',
            hint = 'Begin with: begin isolation level read committed;';
  end if;
end;
$$;

comment on function notika._refuse_old_snapshot() is
  'Raises an error if the snapshot of the transaction may be older than the newest position.';

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
  'Sets the bit that makes writers notify. Requires the lock of _lock_dispatch.';
