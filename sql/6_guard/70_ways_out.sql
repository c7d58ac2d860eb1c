-- The ways past the guard: allow_breaking_change, release and maintenance windows.  Each requires a
-- reason and is recorded in guard_log with the caller's name.

create or replace function notika._owned(caller name, workflow text)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = notika._published(_owned.workflow);
  perform notika._expect_decider(v_spec, _owned.caller);
  return v_spec;
end;
$$;

comment on function notika._owned(name, text) is
  'The published workflow of that name. Raises an error if the caller may not permit breaking it.';

create or replace function notika._check_reason(reason text)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  if reason is null or reason !~ '\S' then
    raise exception 'a reason is needed'
      using errcode = 'invalid_parameter_value',
            hint = 'The reason is kept in notika.guard_log.';
  end if;
end;
$$;

comment on function notika._check_reason(text) is 'Raises an error if the reason is empty.';

create or replace function notika._unpin_for_migration(workflow_id integer, tag text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- With SET CONSTRAINTS ... IMMEDIATE the verdict would restore the pins at once.
  set constraints notika.guard_at_commit deferred;
  perform notika._queue_verdict(array[_unpin_for_migration.workflow_id], _unpin_for_migration.tag, format('notika.%s()', case
    when _unpin_for_migration.tag = 'RELEASE' then 'release' else 'allow_breaking_change' end));
  perform notika._loosen(_unpin_for_migration.workflow_id);
end;
$$;

comment on function notika._unpin_for_migration(integer, text) is
  'Lifts the pins of a workflow until this transaction commits.';

create or replace function notika.allow_breaking_change(workflow text, reason text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('allow_breaking_change', jsonb_build_object(
    'workflow', allow_breaking_change.workflow, 'reason', allow_breaking_change.reason));
end;
$$;

comment on function notika.allow_breaking_change(text, text) is
  'Permits this transaction to break a workflow, and records the reason. The workflow is then '
  'marked as broken and its runs are held.';

create or replace function notika._do_allow_breaking_change(caller name, workflow text, reason text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := notika._owned(
    _do_allow_breaking_change.caller, _do_allow_breaking_change.workflow);
begin
  perform notika._check_reason(reason);
  insert into notika.guard_log (workflow, verdict, statement, reason, done_by)
  values (v_spec.name, 'allowed',
          format('select notika.allow_breaking_change(%L, %L)', v_spec.name, reason),
          _do_allow_breaking_change.reason, _do_allow_breaking_change.caller);
  -- Without event triggers, only this call lifts the pins that would refuse the command.
  if not notika._has_event_triggers() then
    perform notika._unpin_for_migration(v_spec.workflow_id, 'ALLOW');
  end if;
end;
$$;

comment on function notika._do_allow_breaking_change(name, text, text) is
  'Carries out allow_breaking_change.';

create or replace function notika.release(workflow text, reason text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('release', jsonb_build_object(
    'workflow', release.workflow, 'reason', release.reason));
end;
$$;

comment on function notika.release(text, text) is
  'Lifts the pins of a workflow until this transaction commits; the result is then judged. Needed '
  'to alter a pinned column where there are no event triggers.';

create or replace function notika._do_release(caller name, workflow text, reason text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := notika._owned(_do_release.caller, _do_release.workflow);
begin
  perform notika._check_reason(reason);
  insert into notika.guard_log (workflow, verdict, statement, reason, done_by)
  values (v_spec.name, 'released', format('select notika.release(%L, %L)', v_spec.name, reason),
          _do_release.reason, _do_release.caller);
  perform notika._unpin_for_migration(v_spec.workflow_id, 'RELEASE');
end;
$$;

comment on function notika._do_release(name, text, text) is 'Carries out release.';

create or replace function notika.begin_maintenance(reason text, ttl interval default '15 minutes')
  returns bigint
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set intervalstyle = 'postgres'
as $$
begin
  return (notika._submit_request('begin_maintenance', jsonb_build_object(
    'reason', begin_maintenance.reason, 'ttl', begin_maintenance.ttl)) #>> '{}')::bigint;
end;
$$;

comment on function notika.begin_maintenance(text, interval) is
  'Opens a maintenance window, in which the guard refuses nothing but records its findings. The '
  'window ends by itself after ttl. Returns its number.';

create or replace function notika._do_begin_maintenance(caller name, reason text, ttl interval)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_id bigint;
begin
  perform notika._check_reason(reason);
  if ttl is null or ttl not between interval '1 second' and interval '1 day' then
    raise exception 'ttl must be between a second and a day'
      using errcode = 'invalid_parameter_value',
            hint = 'For example: select notika.begin_maintenance(''<reason>'', ''15 minutes'');';
  end if;
  perform notika._expect_member(_do_begin_maintenance.caller, 'begin maintenance');
  insert into notika.maintenance (reason, ends_at, begun_by)
  values (_do_begin_maintenance.reason, clock_timestamp() + _do_begin_maintenance.ttl,
          _do_begin_maintenance.caller)
  returning maintenance_id into v_id;
  insert into notika.guard_log (verdict, reason, done_by)
  values ('maintenance begun', _do_begin_maintenance.reason, _do_begin_maintenance.caller);
  return v_id;
end;
$$;

comment on function notika._do_begin_maintenance(name, text, interval) is
  'Carries out begin_maintenance. The caller must be a member of the owner of Notika.';

create or replace function notika.end_maintenance()
  returns table (workflow text, state text, reason text)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select w.workflow, w.state, w.reason
      from json_to_recordset(notika._submit_request('end_maintenance', '{}'))
             as w (workflow text, state text, reason text);
end;
$$;

comment on function notika.end_maintenance() is
  'Closes the maintenance window, repairs the workflows that it can, and returns the state of each '
  'workflow.';

create or replace function notika._do_end_maintenance(caller name)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_workflow_id integer;
begin
  perform notika._expect_member(_do_end_maintenance.caller, 'end maintenance');
  update notika.maintenance as m
     set ended_at = clock_timestamp()
   where m.ended_at is null;
  insert into notika.guard_log (verdict, done_by)
  values ('maintenance ended', _do_end_maintenance.caller);

  for v_workflow_id in
    select w.workflow_id
      from notika.workflow as w
     where w.unpublished_at is null and w.table_name is not null
     order by w.workflow_id
  loop
    begin
      perform notika._reconcile(v_workflow_id, 'end_maintenance', true);
      perform notika._judge(v_workflow_id, 'end_maintenance', 'maintenance');
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others then
        perform notika._report_failure(v_workflow_id, null, 'end_maintenance', sqlerrm, sqlstate);
    end;
  end loop;
  return (
    select coalesce(json_agg(json_build_object(
             'workflow', w.workflow, 'state', w.state, 'reason', w.reason)), '[]')
      from notika.workflows as w
  );
end;
$$;

comment on function notika._do_end_maintenance(name) is
  'Carries out end_maintenance. The caller must be a member of the owner of Notika.';
