-- Requests: how a verb that decides by its caller knows who that is.
-- Such a verb runs with its caller's rights and inserts a request.  The column `caller` has the
-- default current_user and nobody may write it, so it cannot be forged: through a SECURITY DEFINER
-- function of somebody's the caller is that somebody.  What carries a request out runs as the owner,
-- takes the verb from a list, and asks whether the caller may execute that verb.

create or replace view notika._request as
select null::text as verb,
       null::jsonb as args,
       null::name as caller,
       null::json as result;

comment on view notika._request is
  'Takes the requests of the verbs that decide by their caller; has no rows.';
comment on column notika._request.verb is 'The name of the verb.';
comment on column notika._request.args is 'What it was called with.';
comment on column notika._request.caller is 'The role that called it, by default; not to be written.';
comment on column notika._request.result is 'What it answers.';

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
       '_foresee_pinned',
       'grant_publisher', 'grant_runner', 'grant_reader', 'grant_monitor',
       'revoke_publisher', 'revoke_runner', 'revoke_reader', 'revoke_monitor'
     );
$$;

comment on function notika._verbs() is
  'The verbs that pass a request, and the functions whose EXECUTE it takes.';

create or replace function notika._is_member(role name)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(_is_member.role, n.nspowner, 'member')
    from pg_namespace as n
   where n.nspname = 'notika';
$$;

comment on function notika._is_member(name) is 'Whether a role is a member of the owner of Notika.';

create or replace function notika._expect_member(caller name, what text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner name := (select pg_get_userbyid(n.nspowner) from pg_namespace as n where n.nspname = 'notika');
begin
  if not notika._is_member(_expect_member.caller) then
    raise exception 'role "%" may not %', _expect_member.caller, _expect_member.what
      using errcode = 'insufficient_privilege',
            detail = format('Only members of "%s", the owner of Notika, may.', v_owner),
            hint = format('As a member: set role %I; or let an administrator run: grant %1$I to %I;',
                          v_owner, _expect_member.caller);
  end if;
end;
$$;

comment on function notika._expect_member(name, text) is
  'An error unless the caller is a member of the owner of Notika.';

create or replace function notika._refuse_shortly(
  state text,
  message text,
  detail text,
  hint text,
  context text
)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  -- Where in Notika it was refused is of no use to anybody who reads it; of an error that Notika did
  -- not foresee it is.
  if _refuse_shortly.context !~ '^PL/pgSQL function notika\.[^\n]* at RAISE(\n|$)' then
    return false;
  elsif detail <> '' and hint <> '' then
    raise exception '%', message using errcode = state, detail = detail, hint = hint;
  elsif detail <> '' then
    raise exception '%', message using errcode = state, detail = detail;
  elsif hint <> '' then
    raise exception '%', message using errcode = state, hint = hint;
  end if;
  raise exception '%', message using errcode = state;
end;
$$;

comment on function notika._refuse_shortly(text, text, text, text, text) is
  'Raises an error of Notika''s again, without the context in which it was raised; false: it is none.';

create or replace function notika._ask(verb text, args jsonb)
  returns json
  language plpgsql
  volatile
  security invoker -- so that the request has the caller's name
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_result json;
begin
  if not has_column_privilege('notika._request', 'verb', 'insert') then
    raise exception 'role "%" may not call notika.%', current_user, replace(verb, 'retry_failed', 'retry')
      using errcode = 'insufficient_privilege',
            detail = 'It is no publisher and no runner of Notika.',
            hint = format('Let a member of the owner of Notika run: select notika.grant_publisher(%1$L); or: '
                          'select notika.grant_runner(%1$L);', quote_ident(current_user));
  end if;
  insert into notika._request (verb, args)
  values (_ask.verb, _ask.args)
  returning result into v_result;
  return v_result;
end;
$$;

comment on function notika._ask(text, jsonb) is
  'Passes the request of a verb, as its caller, and returns the answer.';

create or replace function notika._ask_shortly(verb text, args jsonb)
  returns json
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_state text;
  v_message text;
  v_detail text;
  v_hint text;
  v_context text;
begin
  return notika._ask(_ask_shortly.verb, _ask_shortly.args);
exception when others then
  get stacked diagnostics
    v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
    v_hint = pg_exception_hint, v_context = pg_exception_context;
  if notika._refuse_shortly(v_state, v_message, v_detail, v_hint, v_context) then
    return null; -- which it never says: as a statement of its own it would be in the context, too
  end if;
  raise;
end;
$$;

comment on function notika._ask_shortly(text, jsonb) is
  'The same, and an error comes without its context. Not for verbs whose locks notika.lag has to name: '
  'of a lock that a subtransaction took nobody can tell the session.';

create or replace function notika._carry_out()
  returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
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
            detail = 'Whatever it does for others would be done with the rights of a superuser. '
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
    when '_foresee_pinned' then to_json(
      notika._do_foresee_pinned(new.caller, v_args ->> 'sql', v_args ->> 'path'))
    else to_json(notika._do_grant(
      new.caller, split_part(new.verb, '_', 1), split_part(new.verb, '_', 2),
      (v_args ->> 'role')::oid))
  end;
  return new;
end;
$$;

comment on function notika._carry_out() is
  'Carries a request out as the owner, if its caller may execute the verb.';

create or replace trigger carry_out
  instead of insert on notika._request
  for each row
  execute function notika._carry_out();

-- A trigger, rule or default that somebody has attached would run as each caller.
do $$
declare
  v_statement text;
begin
  for v_statement in
    select pg_catalog.format('drop trigger %I on notika._request', t.tgname)
      from pg_catalog.pg_trigger as t
     where t.tgrelid = 'notika._request'::pg_catalog.regclass and t.tgname <> 'carry_out'
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

-- pgls-ignore lint/safety/lockTimeoutWarning: nobody waits for this view
alter view notika._request alter column caller set default current_user;
