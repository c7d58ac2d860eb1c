-- What requires an administrator: the event triggers, and the role that owns their functions. Runs
-- as the administrator. An event trigger runs in everybody's DDL, so its function has the rights
-- of notika_guard, a role that may only call the guard, which runs as the owner. An error in it is
-- a warning; only a verdict refuses a command.

create or replace function notika._guard_entries()
  returns table (name text, event text, tags text[], definition text)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $function$
  select e.name, e.event, e.tags::text[],
         format($definition$create function notika.%I()
  returns event_trigger
  language plpgsql
  security definer%s
as $entry$%s$entry$$definition$, e.name, e.setting, format($body$%s
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %%: %% (%%)', tg_tag, sqlerrm, sqlstate
      using hint = 'The command continues. Check the result: select * from notika.check();';
end;
$body$, e.body))
    from (
      values
        -- No search_path of its own, because the names in the command are found on that of the
        -- caller. So every name in this function is qualified.
        ('_guard_start', 'ddl_command_start',
         '{ALTER TABLE,ALTER TYPE,DROP OWNED,DROP SCHEMA,DROP TABLE}',
         '
declare
  v_context pg_catalog.text;
begin
  get diagnostics v_context = pg_context;
  perform notika._unpin_for_command(tg_tag, v_context, pg_catalog.current_setting(''search_path''));', ''),
        ('_guard_drop', 'sql_drop', null,
         '
begin
  perform notika._note_dropped(tg_tag);', E'\n  set search_path = pg_catalog, pg_temp'),
        -- GRANT, because a right may have been missing to capture a new table.
        ('_guard_end', 'ddl_command_end',
         '{ALTER DOMAIN,ALTER FUNCTION,ALTER SCHEMA,ALTER TABLE,ALTER TRIGGER,ALTER TYPE,'
         'CREATE FOREIGN TABLE,CREATE FUNCTION,CREATE RULE,CREATE TABLE,CREATE TABLE AS,'
         'CREATE TRIGGER,DROP CAST,DROP COLLATION,DROP DOMAIN,DROP EXTENSION,DROP FUNCTION,'
         'DROP OWNED,DROP ROUTINE,DROP SCHEMA,DROP TABLE,DROP TRIGGER,DROP TYPE,GRANT,SELECT INTO}',
         '
begin
  -- The right of this function to call the next one is a GRANT too.
  if tg_tag <> ''GRANT''
     or has_function_privilege(to_regprocedure(''notika._note_commands(text)''), ''execute'')
  then
    perform notika._note_commands(tg_tag);
  end if;', E'\n  set search_path = pg_catalog, pg_temp')
    ) as e (name, event, tags, body, setting);
$function$;

comment on function notika._guard_entries() is
  'The event triggers, the commands that they are for, and the statements that create their '
  'functions.';

create or replace function notika._guard_flaws()
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select string_agg(f.flaw, '; ')
    from pg_roles as r
   cross join lateral (
     select 'it may log in' where r.rolcanlogin
     union all
     select 'it has rights of its own'
      where r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolbypassrls or r.rolreplication
     union all
     select 'it is a member of ' || string_agg(quote_ident(g.rolname), ', ' order by g.rolname)
       from pg_auth_members as a
       join pg_roles as g on g.oid = a.roleid
      where a.member = r.oid
     having count(*) > 0
     union all
     select format('%s is a member of it', string_agg(quote_ident(m.rolname), ', ' order by m.rolname))
       from pg_auth_members as a
       join pg_roles as m on m.oid = a.member and not m.rolsuper and m.rolname <> current_user
      where a.roleid = r.oid
     having count(*) > 0
     union all
     (select format('it owns %s', pg_describe_object(d.classid, d.objid, d.objsubid))
        from pg_shdepend as d
       where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid and d.deptype = 'o'
         and (d.dbid = 0 or d.dbid = (select b.oid from pg_database as b where b.datname = current_database()))
         and not (d.classid = 'pg_proc'::regclass and d.objid in (
           select p.oid from pg_proc as p
            where p.pronamespace = 'notika'::regnamespace
              and p.proname in ('_guard_start', '_guard_drop', '_guard_end')
         ))
       limit 1)
   ) as f (flaw)
   where r.rolname = 'notika_guard';
$$;

comment on function notika._guard_flaws() is
  'Why role notika_guard cannot own the functions of the event triggers; null if it can, or does '
  'not exist.';

create or replace function notika._is_guarded()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 3 = (
    select count(*)
      from notika._guard_entries() as g
      join pg_event_trigger as e
        on e.evtname = 'notika' || g.name and e.evtevent = g.event and e.evtenabled = 'A'
       and (select array_agg(t order by t) from unnest(e.evttags) as t)
           is not distinct from (select array_agg(t order by t) from unnest(g.tags) as t)
      join pg_proc as p
        on p.oid = e.evtfoid and p.pronamespace = 'notika'::regnamespace and p.proname = g.name
       and p.prosecdef and strpos(g.definition, p.prosrc) > 0
       and p.proowner = (select r.oid from pg_roles as r where r.rolname = 'notika_guard')
       and not exists (
         select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
          where a.grantee <> p.proowner
       )
  ) and notika._guard_flaws() is null;
$$;

comment on function notika._is_guarded() is
  'Whether the event triggers exist, are enabled, and call the functions of notika_guard.';

create or replace function notika._administer()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  security invoker -- as the administrator
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning
as $$
declare
  v_flaws text;
  v_entry record;
  v_grantee oid;
begin
  step := 'guard';
  outcome := 'ok';
  detail := 'judges migrations when they commit';
  if notika._is_guarded() then
    return next;
    return;
  end if;

  begin
    if not exists (select from pg_roles as r where r.rolname = 'notika_guard') then
      begin
        create role notika_guard nologin;
        comment on role notika_guard is 'Owns the functions of Notika''s event triggers. Made by notika install.';
      exception when duplicate_object or unique_violation then
        null; -- another session was faster
      end;
    end if;
    v_flaws := notika._guard_flaws();
    if v_flaws is not null then
      raise exception 'role "notika_guard" cannot own the functions of the event triggers: %', v_flaws
        using errcode = 'invalid_grant_operation',
              detail = 'It must be a role without members, without login and without other rights.',
              hint = 'Drop the role, or correct that, and install again.';
    end if;

    for v_entry in select g.* from notika._guard_entries() as g loop
      execute format('drop event trigger if exists notika%s', v_entry.name);
      execute format('drop function if exists notika.%I()', v_entry.name);
      execute v_entry.definition;
      for v_grantee in
        select a.grantee
          from pg_proc as p
         cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
         where p.pronamespace = 'notika'::regnamespace and p.proname = v_entry.name
           and a.grantee <> p.proowner
      loop
        execute format('revoke execute on function notika.%I() from %s', v_entry.name,
                       case v_grantee when 0 then 'public' else quote_ident(pg_get_userbyid(v_grantee)) end);
      end loop;
      execute format('comment on function notika.%I() is %L', v_entry.name,
                     'Event trigger: passes a command on to the guard, with the rights of notika_guard.');
    end loop;
    if not pg_has_role(current_user, 'notika_guard', 'usage') then
      grant notika_guard to current_user;
    end if;
    execute format('grant create on schema notika to notika_guard');
    for v_entry in select g.* from notika._guard_entries() as g loop
      execute format('alter function notika.%I() owner to notika_guard', v_entry.name);
      execute format('create event trigger notika%s on %s %s execute function notika.%I()',
        v_entry.name, v_entry.event, (
          select format('when tag in (%s)', string_agg(quote_literal(t), ', ' order by t))
            from unnest(v_entry.tags) as t
          having count(*) > 0
        ), v_entry.name);
      -- Also under session_replication_role = replica.
      execute format('alter event trigger notika%s enable always', v_entry.name);
    end loop;
    execute format('revoke create on schema notika from notika_guard');
    if exists (
      select from pg_auth_members as a
        join pg_roles as g on g.oid = a.roleid and g.rolname = 'notika_guard'
        join pg_roles as m on m.oid = a.member and m.rolname = current_user and not m.rolsuper
    ) then
      revoke notika_guard from current_user;
    end if;
    outcome := 'created';
  exception when insufficient_privilege then
    outcome := 'limited';
    detail := case
      when notika._has_event_triggers() then format(
        'role "%s" may not replace the event triggers, which are of another version: let an '
        'administrator run npx notika install', current_user)
      else format(
        'role "%s" may not create event triggers. Without them, columns in use cannot be dropped '
        'or retyped without notika.release(workflow, reason). An administrator, who may create roles '
        'and event triggers, adds them by npx notika install', current_user)
    end;
  end;
  return next;
end;
$$;

comment on function notika._administer() is
  'Creates role notika_guard and the event triggers, or says why the caller may not.';
