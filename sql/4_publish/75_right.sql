-- The rights of Notika's owner on a published table: granted by publish, revoked by unpublish.

create or replace function notika._needed_rights(relation regclass, function regprocedure)
  returns table (privilege text, object text, is_had boolean, may_grant boolean)
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_owner constant name := notika._owner();
begin
  return query
    with part (oid) as (
      select f::oid from notika._family(_needed_rights.relation) as f
      union
      select p.relid from pg_partition_tree(_needed_rights.relation) as p
    ), schema (oid, is_tables) as (
      select c.relnamespace, true from pg_class as c where c.oid = _needed_rights.relation
      union
      -- The schemas that a condition names.
      select coalesce(p.pronamespace, t.typnamespace, o.oprnamespace), false
        from pg_depend as d
        left join pg_proc as p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
        left join pg_type as t on d.refclassid = 'pg_type'::regclass and t.oid = d.refobjid
        left join pg_operator as o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid
       where d.classid = 'pg_proc'::regclass and d.objid = _needed_rights.function
         and coalesce(p.pronamespace, t.typnamespace, o.oprnamespace) is not null
    )
    select n.privilege, n.object, n.is_had, n.may_grant
      from (
        select 1 as place, 'usage' as privilege, format('schema %I', n.nspname) as object,
               has_schema_privilege(v_owner, n.oid, 'usage') as is_had,
               pg_has_role(n.nspowner, 'usage') or has_schema_privilege(n.oid, 'usage with grant option')
                 as may_grant
          from pg_namespace as n
         where n.oid in (select s.oid from schema as s) and n.nspname !~ '^pg_'
        union all
        select 2, k.privilege, format('table %s', notika._quoted(c.oid)),
               has_table_privilege(v_owner, c.oid, k.privilege),
               pg_has_role(c.relowner, 'usage') or has_table_privilege(c.oid, k.privilege || ' with grant option')
          from pg_class as c
         cross join unnest('{select,trigger}'::text[]) as k (privilege)
         where c.oid in (select p.oid from part as p)
        union all
        -- PUBLIC has it unless it was revoked.
        select 3, 'usage', format('type %s', notika._quoted(c.oid)),
               has_type_privilege(v_owner, c.reltype, 'usage'),
               pg_has_role(c.relowner, 'usage') or has_type_privilege(c.reltype, 'usage with grant option')
          from pg_class as c
         where c.oid in (select p.oid from part as p)
      ) as n
     order by n.place, n.object, n.privilege;
end;
$$;

comment on function notika._needed_rights(regclass, regprocedure) is
  'The rights that the owner of Notika needs on a table to capture its changes, to read its rows, '
  'and to name what a condition uses; whether it has them, and whether the caller may grant them.';

create or replace function notika._grant_missing(relation regclass, function regprocedure)
  returns jsonb
  language plpgsql
  volatile
  security invoker -- as a role that may grant
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_owner constant name := notika._owner();
  v_right record;
  v_given jsonb := '[]'::jsonb;
begin
  for v_right in
    select n.* from notika._needed_rights(_grant_missing.relation, _grant_missing.function) as n
     where not n.is_had and n.may_grant
  loop
    execute format('grant %s on %s to %I', v_right.privilege, v_right.object, v_owner);
    v_given := v_given || jsonb_build_object('privilege', v_right.privilege, 'object', v_right.object);
  end loop;
  return v_given;
end;
$$;

comment on function notika._grant_missing(regclass, regprocedure) is
  'Grants the owner of Notika what it lacks on a table, as far as the caller may, and returns '
  'what.';

create or replace function notika._revoke_given(given json)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner constant name := notika._owner();
  v_right record;
begin
  for v_right in
    select g.privilege, g.object from json_to_recordset(given) as g (privilege text, object text)
  loop
    begin
      execute format('revoke %s on %s from %I', v_right.privilege, v_right.object, v_owner);
    exception when insufficient_privilege or undefined_table or undefined_object or invalid_schema_name then
      null; -- uninstall lists what is left
    end;
  end loop;
end;
$$;

comment on function notika._revoke_given(json) is
  'Revokes what _grant_missing granted, as far as the caller may.';

create or replace function notika._keep_given(before jsonb, given jsonb, spec notika.workflow)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Only rights on this table: what is recorded here will be revoked.
  select coalesce(jsonb_agg(distinct g.right), '[]')
    from jsonb_array_elements(_keep_given.before || coalesce(_keep_given.given, '[]')) as g ("right")
   where g.right in (
     select jsonb_build_object('privilege', n.privilege, 'object', n.object)
       from notika._needed_rights((spec).relation, null) as n
   );
$$;

comment on function notika._keep_given(jsonb, jsonb, notika.workflow) is
  'What publish has granted for a workflow, including what it has just granted.';

create or replace function notika._unneeded(spec notika.workflow)
  returns json
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(json_agg(g.right), '[]')
    from jsonb_array_elements((spec).given) as g ("right")
   where g.right not in (
     select jsonb_build_object('privilege', n.privilege, 'object', n.object)
       from notika.workflow as w
      cross join lateral notika._needed_rights(w.relation, null) as n
      where w.unpublished_at is null and w.relation is not null and w.workflow_id <> (spec).workflow_id
   );
$$;

comment on function notika._unneeded(notika.workflow) is
  'What publish has granted for a workflow and no other workflow needs.';

create or replace function notika._check_own_rights(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_right record;
begin
  select n.* into v_right
    from notika._needed_rights(spec.relation, null) as n
   where not n.is_had and n.privilege <> 'select'
     and (spec.columns is not null or n.object not like 'type %')
   order by n.object = 'table ' || spec.table_name desc
   limit 1;
  if found then
    raise exception 'role "%", which owns Notika, may not %', current_user,
        case when v_right.object like 'schema %' then format('use the schema of table %s', spec.table_name)
             when v_right.object like 'type %' then format('use the row type of table %s', substr(v_right.object, 6))
             else format('create triggers on table %s', substr(v_right.object, 7)) end
      using errcode = 'insufficient_privilege',
            detail = format('Its caller does not own the %s and may not grant it.', v_right.object),
            hint = format('Let its owner, or an administrator, run: grant %s on %s to %I;',
                          v_right.privilege, v_right.object, current_user);
  end if;
end;
$$;

comment on function notika._check_own_rights(notika.workflow) is
  'Refuses to publish a table on which the owner of Notika may not create what it needs.';
