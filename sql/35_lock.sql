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
