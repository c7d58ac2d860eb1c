-- install(): puts right whatever is derived, and says what it did; as often as one likes.

create or replace function notika._install_guard()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_start_tags constant text[] := array[
    'ALTER TABLE', 'ALTER TYPE', 'DROP OWNED', 'DROP SCHEMA', 'DROP TABLE'
  ];
  v_end_tags constant text[] := array[
    'ALTER DOMAIN', 'ALTER FUNCTION', 'ALTER SCHEMA', 'ALTER TABLE', 'ALTER TRIGGER', 'ALTER TYPE',
    'CREATE FOREIGN TABLE', 'CREATE FUNCTION', 'CREATE RULE', 'CREATE TABLE', 'CREATE TABLE AS',
    'CREATE TRIGGER', 'DROP CAST', 'DROP COLLATION', 'DROP DOMAIN', 'DROP EXTENSION',
    'DROP FUNCTION', 'DROP OWNED', 'DROP ROUTINE', 'DROP SCHEMA', 'DROP TABLE', 'DROP TRIGGER',
    'DROP TYPE', 'SELECT INTO'
  ];
begin
  step := 'guard';
  outcome := 'ok';
  detail := 'judges migrations when they commit';
  if not notika._judges_always() then
    perform notika._set_busy(true);
    alter table notika.guard_pending enable always trigger guard_at_commit;
    perform notika._set_busy(false);
    outcome := 'repaired';
  end if;
  if notika._has_event_triggers() and 2 = (
    select count(*)
      from pg_event_trigger as e
     where (e.evtname, e.evttags)
           in (('notika_guard_start', v_start_tags), ('notika_guard_end', v_end_tags))
  ) then
    return next;
    return;
  end if;

  begin
    drop event trigger if exists notika_guard_start;
    drop event trigger if exists notika_guard_drop;
    drop event trigger if exists notika_guard_end;
    execute format(
      'create event trigger notika_guard_start on ddl_command_start when tag in (%s) '
      'execute function notika._guard_start()',
      (select string_agg(quote_literal(t), ', ' order by t) from unnest(v_start_tags) as t)
    );
    create event trigger notika_guard_drop on sql_drop
      execute function notika._guard_drop();
    execute format(
      'create event trigger notika_guard_end on ddl_command_end when tag in (%s) '
      'execute function notika._guard_end()',
      (select string_agg(quote_literal(t), ', ' order by t) from unnest(v_end_tags) as t)
    );
    -- Also under session_replication_role = replica.
    alter event trigger notika_guard_start enable always;
    alter event trigger notika_guard_drop enable always;
    alter event trigger notika_guard_end enable always;
    outcome := 'created';
  exception when insufficient_privilege then
    if not notika._has_event_triggers() then
      outcome := 'limited';
      detail := format('role "%s" may not create event triggers: only pins protect. Columns in use '
                       'cannot be dropped or retyped without notika.release(workflow, reason)',
                       current_user);
    end if;
  end;
  return next;
end;
$$;

comment on function notika._install_guard() is
  'Creates the event triggers, or says why it could not.';

create or replace function notika.install()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- It may lock several tables: below deadlock_timeout, so that no writer is the victim.
  set lock_timeout = '500ms'
as $$
declare
  v_workflow notika.workflow;
  v_after notika.workflow;
  v_statement text;
  v_count bigint;
begin
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
      from pg_control_system() as c;
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
  return query select * from notika._install_guard();

  for v_workflow in
    select w.*
      from notika.workflow as w
     where w.unpublished_at is null and w.table_name is not null
     order by w.name
  loop
    step := format('workflow %s', v_workflow.name);
    begin
      v_after := v_workflow;
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
    exception when others then
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
end;
$$;

comment on function notika.install() is
  'Creates what is missing and puts right what is not as it should be; says what it did and what it '
  'could not. Idempotent.';
