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
    select w.workflow_id, w.name, w.relation, w.condition, c.relnamespace
      from notika.workflow as w
      join pg_class as c on c.oid = w.relation
     where w.unpublished_at is null
  )
  -- A condition is evaluated with the rights of whoever writes.
  select distinct 'execute_missing', 'error', w.name,
         format('role "%s" writes to %s and may not execute function %s, which its condition calls: '
                'these writes fail', r.rolname, notika._quoted(w.relation), f.function),
         format('grant execute on function %s to %I;', f.function, r.rolname)
    from published as w
   cross join notika._triggers(w.workflow_id) as t
    join pg_trigger as g on g.tgrelid = t.relation and g.tgname = t.name
   cross join notika._called('pg_trigger'::regclass, g.oid) as f (function)
    join pg_proc as p on p.oid = f.function and p.pronamespace <> 'notika'::regnamespace
    join pg_roles as r on notika._may_write(r.oid, w.relation)
   where w.condition is not null and not has_function_privilege(r.oid, f.function, 'execute')
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
  -- By hand, or by default privileges that an administrator has set for all tables.
  select 'payloads_readable', 'warning', null::text,
         format('role %s may read %s and is not a reader', s.role, string_agg(s.relation, ', ')),
         format('revoke select on %s from %s;', string_agg(s.relation, ', '), s.role)
    from (
      select case a.grantee when 0 then 'public' else a.grantee::regrole::text end as role,
             c.oid::regclass::text as relation
        from pg_class as c
       cross join aclexplode(c.relacl) as a
       where c.relnamespace = 'notika'::regnamespace and c.relkind in ('r', 'v')
         and a.privilege_type = 'SELECT' and a.grantee <> c.relowner
         and exists (
           select from pg_attribute as t
            where t.attrelid = c.oid and t.atttypid = 'json'::regtype and not t.attisdropped
         )
         and a.grantee not in (select g.role_id from notika.grantee as g where g.part = 'reader')
         and has_schema_privilege(
               case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee) end,
               'notika', 'usage')
       order by 1, 2
    ) as s
   group by s.role;
$$;

comment on function notika._surplus_rights() is
  'Who may read payloads without having been made a reader, with the REVOKE.';
