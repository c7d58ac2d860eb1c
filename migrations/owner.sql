-- Runs first in the transaction of an installation, as the role that installs: decides which role
-- owns Notika, creates its schemas, and refuses what other roles have put there. An administrator,
-- which is a role that may create roles and event triggers, makes an ordinary role the owner; an
-- installation by any other role is owned by that role. This reads catalogs and changes owners. It
-- calls nothing that is in the schemas: until the code is replaced it may belong to another role.

set local client_min_messages = warning; -- without "does not exist, skipping"
set local search_path = pg_catalog, pg_temp;

do $$
declare
  v_chosen constant name := nullif(current_setting('notika.owner', true), '')::name; -- --owner
  v_is_administrator boolean := false;
  v_installed_for name;
  v_owner name;
  v_flaws text;
  v_hint text;
  v_object record;
  v_timeout constant text := current_setting('lock_timeout');
begin
  -- One installation at a time, and no dispatch during it. A first one has nothing to lock: there,
  -- a second one waits for the names that the first is about to create.
  begin
    set local lock_timeout = '30s';
    if to_regclass('notika.dispatch_lock') is not null then
      lock table notika.dispatch_lock in share update exclusive mode;
    end if;
  exception
    when lock_not_available then
      raise exception 'cannot install notika: another session has held notika.dispatch_lock for 30 seconds'
        using errcode = 'lock_not_available',
              hint = 'Try again. Which sessions hold it: select l.pid, a.usename, a.xact_start, a.query '
                     'from pg_locks as l join pg_stat_activity as a using (pid) '
                     'where l.relation = ''notika.dispatch_lock''::regclass and l.granted;';
    when insufficient_privilege then
      null; -- the right to install is checked below
  end;

  begin
    execute format('create role notika_probe_%s', pg_backend_pid());
    execute 'create function pg_temp.notika_probe() returns event_trigger language plpgsql as ''begin end''';
    execute 'create event trigger notika_probe on sql_drop when tag in (''DROP TABLE'') '
            'execute function pg_temp.notika_probe()';
    v_is_administrator := true;
    raise exception 'undo' using errcode = 'NKUND';
  exception
    when sqlstate 'NKUND' or insufficient_privilege then null;
  end;

  select r.rolname into v_installed_for
    from pg_namespace as n
    join pg_class as c on c.relnamespace = n.oid and c.relname = 'migration'
    join pg_roles as r on r.oid = n.nspowner
   where n.nspname = 'notika';

  v_owner := case
    -- Restored without its owners, it belongs to the superuser who restored it.
    when v_installed_for is not null and not (
      v_is_administrator and (select r.rolsuper from pg_roles as r where r.rolname = v_installed_for)
    ) then v_installed_for
    when v_chosen is not null then v_chosen
    when v_is_administrator then 'notika'
    else current_user
  end;
  if v_chosen <> v_owner then
    raise exception 'notika is installed already, and its owner is "%"', v_owner
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Leave --owner out, or name %s.', v_owner);
  end if;

  if not exists (select from pg_roles as r where r.rolname = v_owner) then
    if not v_is_administrator then
      raise exception 'role "%" does not exist', v_owner
        using errcode = 'undefined_object',
              hint = 'An administrator, who may create roles, creates it by: npx notika install --owner '
                     || v_owner;
    end if;
    begin
      execute format('create role %I nologin', v_owner);
      execute format('comment on role %I is %L', v_owner, 'Owns Notika. Made by notika install.');
    exception when duplicate_object or unique_violation then
      null; -- another session was faster
    end;
  end if;

  if v_is_administrator then
    select string_agg(f.flaw, '; ') into v_flaws
      from pg_roles as r
     cross join lateral (
       select 'it is a superuser' where r.rolsuper
       union all
       select 'it may create roles' where r.rolcreaterole
       union all
       select 'it may create databases' where r.rolcreatedb
       union all
       select 'it bypasses row security' where r.rolbypassrls
       union all
       select 'it may replicate' where r.rolreplication
       union all
       select 'it is a member of ' || string_agg(quote_ident(g.rolname), ', ' order by g.rolname)
         from pg_roles as g
        where g.oid <> r.oid and not r.rolsuper and pg_has_role(r.oid, g.oid, 'member')
          and (g.rolname ~ '^pg_' or g.rolsuper or g.rolcreaterole or g.rolbypassrls or g.rolreplication)
       having count(*) > 0
       union all
       -- An existing role that was not named may be a trap.
       select 'it may log in'
        where r.rolcanlogin and v_chosen is null and v_installed_for is null
       union all
       select format('%s is a member of it', string_agg(quote_ident(m.rolname), ', ' order by m.rolname))
         from pg_auth_members as a
         join pg_roles as m on m.oid = a.member and not m.rolsuper and m.rolname <> current_user
        where a.roleid = r.oid and v_chosen is null and v_installed_for is null
       having count(*) > 0
       union all
       (select format('it owns %s', pg_describe_object(d.classid, d.objid, d.objsubid))
          from pg_shdepend as d
         where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid and d.deptype = 'o'
           -- An installation finds default privileges of its owner, and revokes what they granted.
           and (d.classid <> 'pg_default_acl'::regclass or v_installed_for is null and v_chosen is null)
           and (d.dbid = 0 or d.dbid = (select b.oid from pg_database as b where b.datname = current_database()))
           and coalesce(
                 case when d.classid = 'pg_namespace'::regclass
                      then (select n.nspname from pg_namespace as n where n.oid = d.objid)
                      when d.dbid <> 0
                      then (pg_identify_object(d.classid, d.objid, d.objsubid)).schema end, '')
               not in ('notika', 'notika_worker')
         limit 1)
     ) as f (flaw)
     where r.rolname = v_owner;
    if v_flaws is not null then
      v_hint := case
        when v_chosen is null and v_installed_for is null then format(
          'Drop the role, name it on purpose: npx notika install --owner %1$s, or name another: '
          'npx notika install --owner <role>', v_owner)
        else 'Take that from it, or name an ordinary role that owns nothing: '
             'npx notika install --owner <role>'
      end;
      raise exception 'role "%" cannot own notika: %', v_owner, v_flaws
        using errcode = 'invalid_grant_operation',
              detail = 'The owner of Notika is an ordinary role that owns nothing else.',
              hint = v_hint;
    end if;
    -- To give an object to a role, the current role must be able to SET ROLE to it.
    if not pg_has_role(current_user, v_owner, 'usage') then
      execute format('grant %I to %I', v_owner, current_user);
    end if;
  elsif not pg_has_role(current_user, v_owner, 'usage') then
    raise exception 'must be the owner of notika, "%", to install or upgrade it', v_owner
      using errcode = 'insufficient_privilege',
            hint = format('Connect as %1$I, or let an administrator run: grant %1$I to %2$I;', v_owner,
                          current_user);
  end if;

  for v_object in
    select s.name, n.oid is not null as is_there, pg_get_userbyid(n.nspowner) as owner,
           coalesce((select r.rolsuper from pg_roles as r where r.oid = n.nspowner), false)
             or pg_get_userbyid(n.nspowner) = current_user as is_ours
      from unnest('{notika,notika_worker}'::name[]) with ordinality as s (name, place)
      left join pg_namespace as n on n.nspname = s.name
     order by s.place
  loop
    if v_object.is_there then
      continue when v_object.owner = v_owner;
      if not (v_is_administrator and v_object.is_ours) then
        raise exception 'schema "%" already exists and is owned by "%"', v_object.name, v_object.owner
          using errcode = 'object_not_in_prerequisite_state',
                detail = format('The owner of a schema may replace what is in it. Notika would be owned by "%s".',
                                v_owner),
                hint = case when v_is_administrator
                  then format('Drop it: drop schema %I; or let its owner own Notika: '
                              'npx notika install --owner %s', v_object.name, v_object.owner)
                  else format('Let its owner or an administrator run: alter schema %I owner to %I;',
                              v_object.name, v_owner) end;
      end if;
      execute format('alter schema %I owner to %I', v_object.name, v_owner);
    elsif v_is_administrator then
      begin
        execute format('create schema %I authorization %I', v_object.name, v_owner);
      exception when duplicate_schema or unique_violation then
        null; -- another session was faster
      end;
    elsif has_database_privilege(current_database(), 'create') then
      begin
        execute format('create schema %I authorization %I', v_object.name, v_owner);
      exception when duplicate_schema or unique_violation then
        null;
      end;
    else
      raise exception 'permission denied to create schema "%" in database "%"',
          v_object.name, current_database()
        using errcode = 'insufficient_privilege',
              hint = format('Let the owner of the database run: create schema notika authorization %1$I; '
                            'create schema notika_worker authorization %1$I; '
                            'All that a role needs is printed by: npx notika grant %1$s', v_owner);
    end if;
  end loop;

  for v_object in
    with ours (oid) as (
      select n.oid from pg_namespace as n where n.nspname in ('notika', 'notika_worker')
    ), object as (
      select c.relowner as owner, format('%I.%I', c.relnamespace::regnamespace::name, c.relname) as name,
             case c.relkind when 'v' then 'view' when 'S' then 'sequence' when 'm' then 'materialized view'
                            when 'f' then 'foreign table' else 'table' end as kind
        from pg_class as c
       where c.relnamespace in (select o.oid from ours as o) and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
         -- They follow their tables.
         and not exists (
           select from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')
              and d.refclassid = 'pg_class'::regclass
         )
       union all
      select p.proowner, p.oid::regprocedure::text, 'routine'
        from pg_proc as p
       where p.pronamespace in (select o.oid from ours as o)
         and not (p.proname in ('_guard_start', '_guard_drop', '_guard_end') and p.pronargs = 0
                  and p.proowner = (select r.oid from pg_roles as r where r.rolname = 'notika_guard'))
       union all
      select t.typowner, t.oid::regtype::text, case t.typtype when 'd' then 'domain' else 'type' end
        from pg_type as t
        left join pg_class as c on c.oid = t.typrelid
       where t.typnamespace in (select o.oid from ours as o) and t.typtype in ('c', 'd', 'e', 'r')
         and coalesce(c.relkind, 'c') = 'c'
       union all
      select o.oprowner, o.oid::regoperator::text, 'operator'
        from pg_operator as o
       where o.oprnamespace in (select o.oid from ours as o)
       union all
      select l.collowner, l.oid::regcollation::text, 'collation'
        from pg_collation as l
       where l.collnamespace in (select o.oid from ours as o)
    )
    select o.kind, o.name, pg_get_userbyid(o.owner) as owner,
           (select r.rolsuper from pg_roles as r where r.oid = o.owner)
             or pg_get_userbyid(o.owner) = current_user as is_ours
      from object as o
     where pg_get_userbyid(o.owner) <> v_owner
  loop
    if not (v_is_administrator and v_object.is_ours) then
      raise exception '% % is owned by "%", not by the owner of notika, "%"',
          v_object.kind, v_object.name, v_object.owner, v_owner
        using errcode = 'object_not_in_prerequisite_state',
              detail = 'Another role created it in the schema, and may replace it at any time.',
              hint = format('Look at it, then drop it: drop %s %s;', v_object.kind, v_object.name);
    end if;
    execute format('alter %s %s owner to %I', v_object.kind, v_object.name, v_owner);
  end loop;

  -- A session that holds a lock on a table must not stop this silently.
  perform set_config('lock_timeout', case v_timeout when '0' then '30s' else v_timeout end, true);
  perform set_config('notika.owner', v_owner, true);
end;
$$;
