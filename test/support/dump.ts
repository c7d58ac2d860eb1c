import { execFileSync } from "node:child_process";
import { raw } from "sql-template-tag";
import { openDatabase } from "../../runner/database/database.ts";
import type { Major } from "./binaries.ts";
import { findProgram } from "./postgres.ts";

/** What `pg_dump --schema-only` says, or why it cannot be asked. */
export function dumpSchema(url: string, major: Major): { dump: string } | { reason: string } {
  const pg_dump = findProgram("pg_dump");
  if (!pg_dump) return { reason: "this machine has no pg_dump" };
  const version = execFileSync(pg_dump, ["--version"], { encoding: "utf8" }).match(/\d+/)?.[0];
  if (Number(version) < major)
    return { reason: `pg_dump is of PostgreSQL ${version}, too old for a server of ${major}` };
  const dump = execFileSync(pg_dump, ["--schema-only", "--dbname", url], { encoding: "utf8", maxBuffer: 1e8 });
  // Newer ones put a random word around what they dump.
  return { dump: dump.replace(/^\\(un)?restrict .*$/gm, "") };
}

/** Every object in a database that did not come with Postgres, with its owner, rights and definition, and the roles. */
export async function listObjects(url: string): Promise<Record<string, string>> {
  const database = openDatabase({ connect: url, connections: 1 });
  try {
    const rows = await database.execute<{ object: string; definition: string }>(raw(objects));
    return Object.fromEntries(rows.map(({ object, definition }) => [object, definition]));
  } finally {
    await database.close();
  }
}

const rights = (acl: string, kind: string, owner: string) =>
  `(select array_agg(a::text order by a::text) from unnest(coalesce(${acl}, acldefault('${kind}', ${owner}))) as a)`;

const objects = `
with object (classid, objid, subid, definition) as (
  select 'pg_namespace'::regclass, oid, 0, concat_ws(' ', nspowner::regrole, ${rights("nspacl", "n", "nspowner")})
    from pg_namespace where nspname !~ '^pg_(toast_)?temp'
  union all
  select 'pg_class'::regclass, oid, 0,
         concat_ws(' ', relkind, relowner::regrole, reloptions, relrowsecurity, relforcerowsecurity,
                   case relkind when 'S' then ${rights("relacl", "s", "relowner")} else ${rights("relacl", "r", "relowner")} end,
                   case when relkind in ('v', 'm') then pg_get_viewdef(oid) end,
                   case when relkind in ('i', 'I') then pg_get_indexdef(oid) end)
    from pg_class where relpersistence <> 't'
  union all
  select 'pg_class'::regclass, attrelid, attnum,
         concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attacl, pg_get_expr(adbin, adrelid))
    from pg_attribute
    left join pg_attrdef on (adrelid, adnum) = (attrelid, attnum)
   where attnum > 0 and not attisdropped
  union all
  select 'pg_proc'::regclass, oid, 0,
         concat_ws(' ', proowner::regrole, ${rights("proacl", "f", "proowner")},
                   case when prokind <> 'a' then pg_get_functiondef(oid) end)
    from pg_proc
  union all
  select 'pg_type'::regclass, oid, 0, concat_ws(' ', typowner::regrole, ${rights("typacl", "T", "typowner")})
    from pg_type
  union all
  select 'pg_constraint'::regclass, oid, 0, pg_get_constraintdef(oid) from pg_constraint
  union all
  select 'pg_trigger'::regclass, oid, 0, pg_get_triggerdef(oid) || tgenabled::text from pg_trigger where not tgisinternal
  union all
  select 'pg_event_trigger'::regclass, oid, 0, concat_ws(' ', evtowner::regrole, evtfoid::regprocedure) from pg_event_trigger
  union all
  select 'pg_policy'::regclass, oid, 0, concat_ws(' ', polcmd, polroles, pg_get_expr(polqual, polrelid)) from pg_policy
  union all
  select 'pg_default_acl'::regclass, oid, 0, defaclacl::text from pg_default_acl
  union all
  select 'pg_extension'::regclass, oid, 0, extversion from pg_extension
  union all
  select 'pg_cast'::regclass, oid, 0, castfunc::text from pg_cast
  union all
  select 'pg_operator'::regclass, oid, 0, oprcode::text from pg_operator
  union all
  select 'pg_publication'::regclass, oid, 0, pubowner::text from pg_publication
  union all
  select 'pg_statistic_ext'::regclass, oid, 0, stxowner::text from pg_statistic_ext
)
select coalesce(id.type, '?') || ' ' || coalesce(id.identity, objid::text) as object,
       concat_ws(' ', string_agg(definition, ' ' order by definition),
                 obj_description(objid, classid::regclass::name)) as definition
  from object
 cross join lateral pg_identify_object(classid, objid, subid) as id
 where objid >= 16384 or classid = 'pg_namespace'::regclass
 group by id.type, id.identity, objid, classid
union all
select 'role ' || rolname, concat_ws(' ', rolsuper, rolcanlogin, shobj_description(oid, 'pg_authid')) from pg_roles
union all
select 'database', array(select a::text from unnest(coalesce(datacl, acldefault('d', datdba))) as a order by 1)::text
  from pg_database where datname = current_database()
`;
