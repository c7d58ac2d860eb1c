-- Carries requests out: the list of verbs, and the trigger that runs as the owner.

create or replace function notika._verbs()
  returns table (verb text, function regprocedure)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select p.proname || case p.oid
           when to_regprocedure('notika.retry(text,timestamptz,boolean)') then '_failed' else '' end,
         p.oid::regprocedure
    from pg_proc as p
   where p.pronamespace = 'notika'::regnamespace
     and p.proname in (
       'publish', 'unpublish', 'configure', 'schedule', 'unschedule', '_publish_by_time',
       'pause', 'resume', 'retry', 'cancel', 'backfill', 'cancel_backfill', 'replay',
       'allow_breaking_change', 'release', 'begin_maintenance', 'end_maintenance', 'install',
       '_preview_pinned', '_refresh',
       'grant_publisher', 'grant_runner', 'grant_reader', 'grant_monitor',
       'revoke_publisher', 'revoke_runner', 'revoke_reader', 'revoke_monitor'
     );
$$;

comment on function notika._verbs() is
  'The verbs that pass a request, and the functions whose EXECUTE they require.';

create or replace function notika._execute_request()
  returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- The planner estimates high costs for queries of the catalog, so that Postgres would compile them.
  set jit = off
  set quote_all_identifiers = off
as $$
declare
  v_function regprocedure := (select v.function from notika._verbs() as v where v.verb = new.verb);
  v_args constant jsonb := coalesce(new.args, '{}');
begin
  if v_function is null or new.caller is null then
    raise exception 'notika has no verb "%" that takes a request', coalesce(new.verb, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'Call the functions of schema notika, such as notika.publish().';
  end if;
  if not has_function_privilege(new.caller, v_function, 'execute') then
    raise exception 'permission denied for function %', v_function::regproc
      using errcode = 'insufficient_privilege';
  end if;
  if (select r.rolsuper from pg_roles as r where r.rolname = current_user) then
    raise exception 'notika is owned by superuser "%"', current_user
      using errcode = 'object_not_in_prerequisite_state',
            detail = 'What it does for other roles would be done with the rights of a superuser. '
                     'Restoring a dump with --no-owner leaves it like this.',
            hint = 'Let an administrator run: npx notika install, or psql with what npx notika sql '
                   'prints. It gives Notika an owner without rights of its own.';
  end if;

  new.result := case new.verb
    when 'publish' then to_json(notika._do_publish(new.caller, v_args))
    when 'unpublish' then to_json(notika._do_unpublish(new.caller, v_args ->> 'workflow'))
    when 'configure' then to_json(notika._do_configure(new.caller, v_args ->> 'workflow', v_args -> 'options'))
    when '_publish_by_time' then to_json(
      notika._do_publish_by_time(new.caller, v_args ->> 'workflow', v_args -> 'options'))
    when 'schedule' then to_json(notika._do_schedule(
      new.caller, v_args ->> 'workflow', v_args ->> 'cron', v_args ->> 'time_zone', v_args ->> 'missed'))
    when 'unschedule' then to_json(notika._do_unschedule(new.caller, v_args ->> 'workflow'))
    when 'pause' then to_json(notika._do_pause(new.caller, v_args ->> 'workflow'))
    when 'resume' then to_json(notika._do_resume(new.caller, v_args ->> 'workflow'))
    when 'retry' then to_json(notika._do_retry(
      new.caller, (v_args ->> 'run_id')::bigint, (v_args ->> 'from_start')::boolean))
    when 'retry_failed' then to_json(notika._do_retry(
      new.caller, v_args ->> 'workflow', (v_args ->> 'since')::timestamptz,
      (v_args ->> 'from_start')::boolean))
    when 'cancel' then to_json(notika._do_cancel(new.caller, (v_args ->> 'run_id')::bigint))
    when 'backfill' then to_json(notika._do_backfill(new.caller, v_args))
    when 'cancel_backfill' then to_json(notika._do_cancel_backfill(v_args ->> 'workflow'))
    when 'replay' then to_json(
      notika._do_replay(v_args ->> 'workflow', (v_args ->> 'since')::timestamptz))
    when 'allow_breaking_change' then to_json(notika._do_allow_breaking_change(
      new.caller, v_args ->> 'workflow', v_args ->> 'reason'))
    when 'release' then to_json(
      notika._do_release(new.caller, v_args ->> 'workflow', v_args ->> 'reason'))
    when 'begin_maintenance' then to_json(notika._do_begin_maintenance(
      new.caller, v_args ->> 'reason', (v_args ->> 'ttl')::interval))
    when 'end_maintenance' then notika._do_end_maintenance(new.caller)
    when 'install' then notika._do_install(new.caller)
    when '_refresh' then notika._do_refresh(v_args ->> 'workflow')
    when '_preview_pinned' then to_json(
      notika._do_preview_pinned(new.caller, v_args ->> 'sql', v_args ->> 'path'))
    else to_json(notika._do_grant(
      new.caller, split_part(new.verb, '_', 1), split_part(new.verb, '_', 2),
      (v_args ->> 'role')::oid))
  end;
  return new;
end;
$$;

comment on function notika._execute_request() is
  'Carries a request out as the owner, if its caller may execute the verb.';

create or replace trigger execute_request
  instead of insert on notika._request
  for each row
  execute function notika._execute_request();

-- A trigger, rule or default that another role has attached would run as each caller.
do $$
declare
  v_statement text;
begin
  for v_statement in
    select pg_catalog.format('drop trigger %I on notika._request', t.tgname)
      from pg_catalog.pg_trigger as t
     where t.tgrelid = 'notika._request'::pg_catalog.regclass and t.tgname <> 'execute_request'
    union all
    select pg_catalog.format('drop rule %I on notika._request', r.rulename)
      from pg_catalog.pg_rewrite as r
     where r.ev_class = 'notika._request'::pg_catalog.regclass and r.rulename <> '_RETURN'
    union all
    select pg_catalog.format('alter view notika._request alter column %I drop default', a.attname)
      from pg_catalog.pg_attribute as a
     where a.attrelid = 'notika._request'::pg_catalog.regclass and a.atthasdef
  loop
    execute v_statement;
  end loop;
end;
$$;

-- pgls-ignore lint/safety/lockTimeoutWarning: no session waits for this view
alter view notika._request alter column caller set default current_user;
