import type { Scene } from "./scene.ts";

/** A right of somebody's in Notika's schemas; `*` behind a privilege: with the right to grant it. */
export interface Right {
  kind: "schema" | "function" | "relation" | "column";
  object: string;
  /** Without schema, arguments and column. */
  name: string;
  schema: string;
  grantee: string;
  privilege: string;
}

/** All that anybody has in Notika's schemas but its owner. */
export function rights(scene: Scene) {
  return scene.as<Right>(
    "postgres",
    `select o.kind, o.object, o.name, o.schema, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee,
            a.privilege_type || case when a.is_grantable then '*' else '' end as privilege
       from (
         select 'schema' as kind, nspname::text as object, nspname as name, nspname as schema, nspacl as acl, nspowner as owner from pg_namespace
         union all
         select 'function', p.oid::regprocedure::text, p.proname, n.nspname, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
           from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
         union all
         select 'relation', c.oid::regclass::text, c.relname, n.nspname, c.relacl, c.relowner
           from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
         union all
         select 'column', c.oid::regclass || '.' || t.attname, c.relname, n.nspname, t.attacl, c.relowner
           from pg_class as c join pg_namespace as n on n.oid = c.relnamespace join pg_attribute as t on t.attrelid = c.oid
       ) as o
      cross join aclexplode(o.acl) as a
      where o.schema in ('notika', 'notika_worker') and a.grantee <> o.owner
      order by 1, 2, 5, 6`,
  );
}

/** Runs a statement for each function in schema notika that is the owner's; those of the guard's role are not his to grant. */
export const forOwnFunctions = (statement: string) => `
  do $do$
  declare
    v_function regprocedure;
  begin
    for v_function in
      select oid from pg_proc where pronamespace = 'notika'::regnamespace and pg_has_role(proowner, 'usage')
    loop
      execute format('${statement}', v_function);
    end loop;
  end;
  $do$`;
