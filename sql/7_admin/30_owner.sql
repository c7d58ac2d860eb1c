-- What the owner of Notika needs from other roles, and how to take it back: statements for an
-- administrator. This file stands alone: `notika grant` also loads it into databases without
-- Notika, as temporary functions, so it calls no functions of notika but those that it defines.

create or replace function notika._chosen_tables(schemas text[], tables text[])
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text;
  v_parts text[];
  v_chosen oid[] := array[]::oid[];
  v_relation oid;
begin
  foreach v_name in array coalesce(schemas, '{}') loop
    if not exists (select from pg_namespace as n where n.nspname = v_name) then
      raise exception 'schema "%" does not exist', v_name
        using errcode = 'invalid_schema_name',
              hint = format('The schemas of this database: %s.', (
                select string_agg(n.nspname, ', ' order by n.nspname)
                  from pg_namespace as n
                 where n.nspname !~ '^(pg_.*|information_schema|notika|notika_worker)$'
              ));
    end if;
    if v_name ~ '^(pg_.*|information_schema|notika|notika_worker)$' then
      raise exception 'schema "%" has no tables of an application', v_name
        using errcode = 'invalid_schema_name',
              hint = 'Name the schema whose tables are to be published.';
    end if;
  end loop;

  foreach v_name in array coalesce(tables, '{}') loop
    begin
      v_parts := parse_ident(v_name);
    exception when invalid_parameter_value then
      v_parts := null;
    end;
    if cardinality(v_parts) = 1 and cardinality(schemas) = 1 then
      v_parts := schemas || v_parts;
    end if;
    select c.oid into v_relation
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     where n.nspname = v_parts[1] and c.relname = v_parts[2] and cardinality(v_parts) = 2
       and c.relkind in ('r', 'p');
    if v_relation is null then
      raise exception 'table "%" does not exist', v_name
        using errcode = 'undefined_table',
              hint = 'Write schema.table, or name one schema and tables of it.';
    end if;
    v_chosen := v_chosen || v_relation;
  end loop;

  -- A trigger on a table with partitions or children is created on each of them.
  return query
    with recursive family (oid) as (
      select c.oid
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
       where c.relkind in ('r', 'p') and c.relpersistence <> 't'
         and case when tables is null then n.nspname = any (schemas) else c.oid = any (v_chosen) end
      union
      select i.inhrelid
        from family as f
        join pg_inherits as i on i.inhparent = f.oid
        join pg_class as c on c.oid = i.inhrelid and c.relkind in ('r', 'p')
    )
    select f.oid::regclass
      from family as f
      join pg_class as c on c.oid = f.oid
      join pg_namespace as n on n.oid = c.relnamespace
     order by n.nspname, c.relname;
end;
$$;

comment on function notika._chosen_tables(text[], text[]) is
  'These tables, or all tables of these schemas, with their partitions and children.';

create or replace function notika._owner_grants(owner name, schemas text[], tables text[])
  returns table (statement text, reason text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_owner pg_roles;
  v_who name; -- a role that does not exist yet has the rights of PUBLIC
  v_must_join boolean;
  v_chosen regclass[] := array(select c from notika._chosen_tables(schemas, tables) as c);
  v_other text;
begin
  select r.* into v_owner from pg_roles as r where r.rolname = _owner_grants.owner;
  v_who := coalesce(v_owner.rolname, 'public');

  -- An empty schema can change its owner; one that is in use has an owner already.
  select n.nspowner::regrole::text into v_other
    from pg_namespace as n
   where n.nspname in ('notika', 'notika_worker') and n.nspowner is distinct from v_owner.oid
     and exists (select from pg_class as c where c.relnamespace = n.oid)
   limit 1;
  if found then
    raise exception 'notika is installed already, for role %', v_other
      using errcode = 'object_not_in_prerequisite_state',
            detail = 'The rights are for the owner of its schemas.',
            hint = format('Name %s. For %2$s as a further login that runs workflows: '
                          'select notika.grant_runner(%3$L);', v_other, owner, quote_ident(owner));
  end if;

  if v_owner.oid is null then
    return query
      values (format('create role %I login', owner),
              format(E'The owner of Notika, and the login of its runner. It has no password yet;\n'
                     'in psql: \\password %I', owner)),
             (format('comment on role %I is %L', owner,
                     format('The owner of Notika in database %s.', current_database())),
              null);
  -- For the owner of an installed Notika it is decided which roles connect: an owner that an
  -- administrator created cannot log in, and runners log in as roles of their own.
  elsif not v_owner.rolcanlogin and not exists (
    select from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     where n.nspname = 'notika' and n.nspowner = v_owner.oid
  ) then
    return query select format('alter role %I login', owner), 'The runner connects as this role.'::text;
  end if;

  if not has_database_privilege(v_who, current_database(), 'connect') then
    return query
      select format('grant connect on database %I to %I', current_database(), owner), null::text;
  end if;

  -- To give a schema to a role, the current role must be able to SET ROLE to it.
  v_must_join := not (select r.rolsuper from pg_roles as r where r.rolname = current_user)
                 and owner <> current_user
                 and not case
                   when v_owner.oid is null then false
                   when current_setting('server_version_num')::integer >= 160000
                     then pg_has_role(v_owner.oid, 'set')
                   else pg_has_role(v_owner.oid, 'member')
                 end
                 and exists (
                   select from unnest('{notika,notika_worker}'::name[]) as s (name)
                    where not exists (
                      select from pg_namespace as n
                       where n.nspname = s.name and n.nspowner = v_owner.oid
                    )
                 );
  if v_must_join then
    return query select format('grant %I to %I', owner, current_user),
                        'For a moment: to give a schema to a role requires SET ROLE to it.'::text;
  end if;
  return query
    select case when n.oid is null then format('create schema %s authorization %I', s.name, owner)
                else format('alter schema %s owner to %I', s.name, owner) end,
           case when s.place = 1 then 'All that it owns.' end
      from unnest('{notika,notika_worker}'::name[]) with ordinality as s (name, place)
      left join pg_namespace as n on n.nspname = s.name
     where n.oid is null or n.nspowner is distinct from v_owner.oid
     order by s.place;
  if v_must_join then
    return query select format('revoke %I from %I', owner, current_user), null::text;
  end if;

  if v_owner.rolsuper then
    return;
  end if;

  return query
    select format('grant usage on schema %I to %I', n.nspname, owner), null::text
      from pg_namespace as n
     where (n.nspname = any (schemas)
            or exists (
              select from pg_class as c
               where c.oid = any (v_chosen) and c.relnamespace = n.oid and not c.relispartition
            ))
       and not has_schema_privilege(v_who, n.oid, 'usage')
     order by n.nspname;

  return query
    select format('grant %s on %s to %I', string_agg(k.privilege, ', ' order by k.privilege),
                  c.name, owner),
           case when c.place = 1
                then 'What captures a change is a trigger; what is published is what it may read.' end
      from (
        select u.relation, u.relation::text as name, u.place
          from unnest(v_chosen) with ordinality as u (relation, place)
      ) as c
     cross join unnest('{select,trigger}'::text[]) as k (privilege)
     where not has_table_privilege(v_who, c.relation, k.privilege)
     group by c.relation, c.name, c.place
     order by c.place;
  -- PUBLIC has it unless it was revoked.
  return query
    select format('grant usage on type %s to %I', format_type(t.oid, null), owner), null::text
      from pg_class as c
      join pg_type as t on t.oid = c.reltype
     where c.oid = any (v_chosen) and not has_type_privilege(v_who, t.oid, 'usage')
     order by 1;

  return query
    select format('create policy notika on %s for select to %I using (true)', c.oid::regclass, owner),
           'Row security would hide rows from it.'::text
      from pg_class as c
     where c.oid = any (v_chosen) and c.relrowsecurity and not c.relispartition
       and not coalesce(
         v_owner.rolbypassrls or pg_has_role(v_owner.oid, c.relowner, 'usage') and not c.relforcerowsecurity,
         false
       )
       and not exists (
         select from pg_policy as p
          cross join unnest(p.polroles) as r (oid)
          where p.polrelid = c.oid and p.polpermissive and p.polcmd in ('r', '*')
            and pg_get_expr(p.polqual, p.polrelid) = 'true'
            and case when r.oid = 0 then true else coalesce(pg_has_role(v_owner.oid, r.oid, 'usage'), false) end
       )
     order by c.oid::regclass::text;

  if tables is null then
    return query
      select format('alter default privileges for role %s in schema %I grant %s on tables to %I',
                    m.creator::regrole, n.nspname, string_agg(k.privilege, ', ' order by k.privilege),
                    owner),
             'Tables that are made later.'::text
        from pg_namespace as n
       cross join lateral (
         select n.nspowner
         union
         select c.relowner from pg_class as c
          where c.relnamespace = n.oid and c.relkind in ('r', 'p')
       ) as m (creator)
       cross join unnest('{select,trigger}'::text[]) as k (privilege)
       where n.nspname = any (schemas)
         and m.creator is distinct from v_owner.oid
         and not exists (
           select from pg_default_acl as d
            cross join aclexplode(d.defaclacl) as a
            where d.defaclrole = m.creator and d.defaclnamespace = n.oid and d.defaclobjtype = 'r'
              and a.grantee = v_owner.oid and lower(a.privilege_type) = k.privilege
         )
       group by m.creator, n.nspname
       order by n.nspname, m.creator::regrole::text;
  end if;
end;
$$;

comment on function notika._owner_grants(name, text[], text[]) is
  'What a role lacks to own Notika and to publish these tables, or those of these schemas: the '
  'statements, and why. No rows if nothing is missing.';

create or replace function notika._owner_revokes(owner name, schemas text[], tables text[])
  returns table (statement text, reason text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_owner pg_roles;
  v_all constant boolean := schemas is null and tables is null;
  v_chosen regclass[] := array(select c from notika._chosen_tables(schemas, tables) as c);
begin
  select r.* into v_owner from pg_roles as r where r.rolname = _owner_revokes.owner;
  if not found then
    raise exception 'role "%" does not exist', owner
      using errcode = 'undefined_object',
            hint = 'There is nothing to revoke.';
  end if;

  return query
    select format('drop policy notika on %s', p.polrelid::regclass), null::text
      from pg_policy as p
     where p.polname = 'notika' and p.polroles = array[v_owner.oid]
       and (v_all or p.polrelid = any (v_chosen))
     order by p.polrelid::regclass::text;

  return query
    select format('alter default privileges for role %s%s revoke %s on tables from %I',
                  d.defaclrole::regrole, ' in schema ' || quote_ident(n.nspname),
                  string_agg(lower(a.privilege_type), ', ' order by a.privilege_type), owner),
           null::text
      from pg_default_acl as d
      join pg_namespace as n on n.oid = d.defaclnamespace
     cross join aclexplode(d.defaclacl) as a
     where d.defaclobjtype = 'r' and a.grantee = v_owner.oid
       and a.privilege_type in ('SELECT', 'TRIGGER')
       and (v_all or tables is null and n.nspname = any (schemas))
     group by d.defaclrole, n.nspname
     order by n.nspname, d.defaclrole::regrole::text;

  return query
    select format('revoke %s on %s from %I',
                  string_agg(lower(a.privilege_type), ', ' order by a.privilege_type),
                  c.oid::regclass, owner),
           null::text
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     cross join aclexplode(c.relacl) as a
     where a.grantee = v_owner.oid and c.relowner <> v_owner.oid and c.relkind in ('r', 'p')
       and a.privilege_type in ('SELECT', 'TRIGGER')
       and (v_all or c.oid = any (v_chosen))
     group by c.oid, n.nspname, c.relname
     order by n.nspname, c.relname;
  return query
    select format('revoke usage on type %s from %I', format_type(t.oid, null), owner), null::text
      from pg_type as t
      join pg_class as c on c.oid = t.typrelid and c.relkind in ('r', 'p')
     cross join aclexplode(t.typacl) as a
     where a.grantee = v_owner.oid and t.typowner <> v_owner.oid
       and (v_all or c.oid = any (v_chosen))
     order by 1;

  return query
    select format('revoke usage on schema %I from %I', n.nspname, owner), null::text
      from pg_namespace as n
     cross join aclexplode(n.nspacl) as a
     where a.grantee = v_owner.oid and n.nspowner <> v_owner.oid and a.privilege_type = 'USAGE'
       and (v_all or tables is null and n.nspname = any (schemas))
     order by n.nspname;

  if not v_all then
    return;
  end if;
  return query
    select format('drop schema %s', n.nspname), null::text
      from pg_namespace as n
     where n.nspname in ('notika', 'notika_worker') and n.nspowner = v_owner.oid
       and not exists (select from pg_class as c where c.relnamespace = n.oid)
     order by n.nspname;
  return query
    select format('revoke connect on database %I from %I', d.datname, owner), null::text
      from pg_database as d
     cross join aclexplode(d.datacl) as a
     where d.datname = current_database() and a.grantee = v_owner.oid and d.datdba <> v_owner.oid
       and a.privilege_type = 'CONNECT';

  -- Only the role that `notika grant` has created; Postgres refuses to drop it while it owns
  -- anything else.
  return query
    select format('drop role %I', owner), null::text
     where shobj_description(v_owner.oid, 'pg_authid')
           = format('The owner of Notika in database %s.', current_database());
end;
$$;

comment on function notika._owner_revokes(name, text[], text[]) is
  'The statements that revoke what _owner_grants grants, for these tables or, if null, for all.';
