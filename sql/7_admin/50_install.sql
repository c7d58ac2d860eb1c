-- install(): restores everything that is derived, and returns what it did. It may be called
-- repeatedly.

create or replace function notika.install()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query select * from notika._install_schema();
  for step in select w.name from notika._captured() as w loop
    select r.outcome, r.detail into outcome, detail from notika._refresh(step) as r;
    step := 'workflow ' || step;
    return next;
  end loop;
end;
$$;

comment on function notika.install() is
  'Creates what is missing, corrects what differs from the installed version, and returns what it '
  'did and what it could not do. For members of the owner. What requires an administrator, such '
  'as the event triggers, is done if the caller is one. It locks the published tables whose '
  'triggers it replaces until the transaction ends; notika.refresh() locks one table at a time. '
  'Idempotent.';

create or replace function notika._install_schema()
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
      from json_to_recordset(notika._submit_request('install', '{}'))
             as s (step text, outcome text, detail text);
end;
$$;

comment on function notika._install_schema() is
  'The part of install that locks no users'' tables: everything but the workflows.';

create or replace function notika._do_install(caller name)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
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
  set jit = off -- compilation would take longer than the queries run
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_statement text;
  v_count bigint;
begin
  -- It may lock several tables: the timeout is below deadlock_timeout, so that no writer becomes
  -- the victim of a deadlock.
  perform set_config('lock_timeout', notika._lock_timeout('500ms'), true);
  return query select 'version', 'ok', format('notika %s on PostgreSQL %s', notika.version(),
                                               current_setting('server_version'));

  if not exists (select from notika.setting) then
    raise exception 'this is a copy of Notika without its data'
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Install it again: npx notika install, or psql with what npx notika sql prints.';
  end if;
  -- Sequences of tables that were copied without them: those show their first value as their last
  -- one.
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
    detail := 'events are dispatched from now on';
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
    perform notika._suspend_guard(true);
    alter table notika.guard_pending enable always trigger guard_at_commit;
    perform notika._suspend_guard(false);
    return query select 'guard at commit', 'repaired', 'judges under every session_replication_role';
  end if;

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
    perform notika._suspend_guard(true);
    execute v_statement;
    perform notika._suspend_guard(false);
    return query select 'orphan', 'removed', v_statement;
  end loop;

  return query select * from notika._install_rights();
  perform set_config('lock_timeout', v_before, true);
end;
$$;

comment on function notika._install() is
  'The owner''s part of install, except the workflows: the cursor, sequences and rights.';

create or replace procedure notika.refresh()
  language plpgsql
as $$
declare
  v_workflow pg_catalog.text;
  v_outcome pg_catalog.text;
  v_detail pg_catalog.text;
begin
  -- A procedure that pins its search_path cannot commit: every name in this one is qualified.
  for v_workflow in select w.name from notika._captured(true) as w loop
    for v_try in 1 .. 20 loop
      select r.outcome, r.detail into v_outcome, v_detail from notika._refresh(v_workflow) as r;
      commit;
      exit when v_outcome operator(pg_catalog.<>) 'locked';
      perform pg_catalog.pg_sleep(0.1);
    end loop;
    if v_outcome operator(pg_catalog.=) any ('{locked,failed}'::pg_catalog.text[]) then
      raise warning 'workflow "%" still captures as an earlier version of notika does: %', v_workflow, v_detail
        using hint = 'Nothing is lost. A runner tries again each minute, and so does: call notika.refresh();';
    end if;
  end loop;
end;
$$;

comment on procedure notika.refresh() is
  'Brings the functions and triggers of published workflows to the installed version, after an '
  'upgrade, each in a transaction of its own that waits for its table at most a quarter of a '
  'second, twenty times. What could not be done is a warning and a finding of notika.health, and '
  'a runner does it later. Cannot be called in a transaction. For members of the owner and '
  'runners.';

create or replace function notika._refresh(workflow text)
  returns table (outcome text, detail text)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select r.outcome, r.detail
      from json_to_record(notika._submit_request('_refresh', jsonb_build_object('workflow', _refresh.workflow)))
             as r (outcome text, detail text);
end;
$$;

comment on function notika._refresh(text) is
  'Brings the functions and triggers of a workflow to the installed version. The outcome is ok, '
  'repaired, locked or failed.';

create or replace function notika._do_refresh(workflow text)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_workflow notika.workflow;
  v_after notika.workflow;
  v_count integer;
  v_outcome text := 'ok';
  v_detail text;
begin
  perform set_config('lock_timeout', notika._lock_timeout('250ms'), true);
  select w.* into v_workflow
    from notika.workflow as w
   where w.name = _do_refresh.workflow and w.unpublished_at is null and w.table_name is not null;
  if not found then
    return json_build_object('outcome', v_outcome);
  end if;

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
    perform notika._suspend_guard(true);
    v_count := notika._apply(v_workflow, v_after);
    perform notika._suspend_guard(false);
    update notika.workflow as w
       set definition = v_after.definition, is_pinned = v_after.is_pinned,
           capture = v_after.capture, made_by = notika._code()
     where w.workflow_id = v_workflow.workflow_id
       and (v_count > 0 or w.made_by is distinct from notika._code());
    if v_count > 0 then
      v_outcome := 'repaired';
    end if;
    v_detail := format('captures on %s', notika._quoted(v_workflow.relation));
  exception
    when lock_not_available or deadlock_detected then
      v_outcome := 'locked';
      v_detail := format('%s is in use: %s', v_workflow.table_name, sqlerrm);
    when sqlstate 'NK002' then
      v_outcome := 'failed';
      v_detail := format('%s; publish it again: %s', sqlerrm, notika._publish_call(v_workflow));
      perform notika._break(v_workflow.workflow_id, sqlerrm);
    when others then
      v_outcome := 'failed';
      v_detail := format('%s; publish it again: %s', sqlerrm, notika._publish_call(v_workflow));
  end;
  perform set_config('lock_timeout', v_before, true);
  return json_build_object('outcome', v_outcome, 'detail', v_detail);
end;
$$;

comment on function notika._do_refresh(text) is 'Carries out _refresh.';
