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
