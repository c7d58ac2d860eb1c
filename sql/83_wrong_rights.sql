-- Rights that are not as they should be, for notika.health: those that have gone missing since a workflow
-- was published, when they were all there, and those to read payloads that nobody meant to give.

create or replace function notika._missing_rights()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
  with published as (
    select w.workflow_id, w.name, w.relation, w.condition_uses, c.relnamespace
      from notika.workflow as w
      join pg_class as c on c.oid = w.relation
     where w.unpublished_at is null
  )
  -- A condition is evaluated with the rights of whoever writes.
  select distinct 'execute_missing', 'error', w.name,
         format('role "%s" writes to %s and may not execute function %s, which its condition calls: '
                'these writes fail', r.rolname, notika._quoted(w.relation), e.name),
         format('grant execute on function %s to %I;', e.name, r.rolname)
    from published as w
   cross join lateral notika._executed(w.condition_uses, w.relation) as e
    join pg_roles as r on notika._may_write(r.oid, w.relation)
   where e.kind = 'function' and not has_function_privilege(r.oid, e.object, 'execute')
  union all
  select 'usage_missing', 'warning', w.name,
         format('role "%s" may not use schema %I any more: changes are captured, but the workflow '
                'cannot be published anew', current_user, n.nspname),
         format('grant usage on schema %I to %I;', n.nspname, current_user)
    from published as w
    join pg_namespace as n on n.oid = w.relnamespace
   where not has_schema_privilege(n.oid, 'usage')
  union all
  select 'trigger_missing', 'warning', w.name,
         format('role "%s" may not create triggers on %s: changes are captured, but the workflow '
                'cannot be published anew', current_user, notika._quoted(d.relation)),
         format('grant trigger on %s to %I;', notika._quoted(d.relation), current_user)
    from published as w
    join notika.contract_table as d on d.workflow_id = w.workflow_id
    join pg_class as c on c.oid = d.relation
   where not has_table_privilege(d.relation, 'trigger');
$$;

comment on function notika._missing_rights() is
  'The rights that published workflows need and have not any more, with the GRANT.';

create or replace function notika._surplus_rights()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- By hand, or by default privileges that an administrator has set for all that is made.
  select 'surplus_rights', 'warning', null::text,
         format('role %s has %s right%s in Notika''s schemas that nobody granted it by a part: %s%s',
                s.role, s.count, case when s.count > 1 then 's' end, s.first,
                case when s.count > 1 then ', ...' end),
         'select * from notika.install();'
    from (
      select notika._role_name(x.role) as role, count(*) as count,
             min(format('%s on %s', x.privilege, x.object)) as first
        from (select * from notika._granted() except select * from notika._all_due()) as x
       -- A copy without its data does not know any more who has which part.
       where exists (select from notika.setting)
       group by x.role
    ) as s
  union all
  select 'superuser_owner', 'error', null, format(
           'Notika is owned by superuser "%s": whatever it does for others is done with the rights of a '
           'superuser, so requests are refused', r.rolname),
         'As an administrator: npx notika install, or psql with what npx notika sql prints'
    from pg_roles as r
   where r.rolname = notika._owner() and r.rolsuper
  union all
  select 'powerful_owner', 'warning', null, format('the owner of Notika, "%s", %s', r.rolname, concat_ws(', ',
           case when r.rolcreaterole then 'may create roles' end,
           case when r.rolcreatedb then 'may create databases' end,
           case when r.rolbypassrls then 'bypasses row security' end,
           case when r.rolreplication then 'may replicate' end)),
         format('alter role %I nocreaterole nocreatedb nobypassrls noreplication;', r.rolname)
    from pg_roles as r
   where r.rolname = notika._owner() and not r.rolsuper
     and (r.rolcreaterole or r.rolcreatedb or r.rolbypassrls or r.rolreplication)
  union all
  select 'guard_role', 'error', null,
         format('role "notika_guard", which owns the functions of the event triggers: %s', notika._guard_flaws()),
         'Take that from it, then as an administrator: npx notika install'
   where notika._guard_flaws() is not null;
$$;

comment on function notika._surplus_rights() is
  'Rights that are more than anybody was given, and owners that have more than they need.';
