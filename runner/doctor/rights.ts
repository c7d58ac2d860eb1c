import type { Client } from "pg";
import { ask } from "./ask.ts";
import { error, type Finding, ok, warning } from "./finding.ts";

/** Reports what the role may do, and what each missing right prevents. */
export async function rights(client: Client): Promise<Finding[]> {
  const [found] = (await ask<Rights>(client, query)) as [Rights];
  if (found.is_installed && found.closed_schemas) return [role(found), schemas(found), roles(found)];
  return [role(found), schemas(found), tables(found), await eventTriggers(client)];
}

interface Rights {
  name: string;
  /** The name as SQL writes it. */
  role: string;
  is_superuser: boolean;
  may_create_schemas: boolean;
  is_installed: boolean;
  /** Schemas of Notika that exist and in which the role may not create objects; null: none. */
  closed_schemas: string[] | null;
  missing_schemas: string[] | null;
  tables: number;
  publishable: number;
  readable: number;
  /** Schemas with tables that the role may not publish; null: none. */
  closed_to_publish: string[] | null;
  /** Whether the role may publish, run and read what another role installed. */
  publishes: boolean;
  runs: boolean;
  reads: boolean;
  monitors: boolean;
}

const query = `
  with wanted (name) as (values ('notika'), ('notika_worker')),
  visible as (
    select c.oid, c.relnamespace
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and n.nspname !~ '^(pg_|information_schema$|notika)'
       and not c.relispartition
  ),
  usable as (
    select p.proname as name
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace and n.nspname = 'notika'
     where has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute')
    union all
    select c.relname
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace and n.nspname = 'notika'
     where has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
  )
  select current_user::text as name, quote_ident(current_user) as role,
         (select r.rolsuper from pg_roles as r where r.rolname = current_user) as is_superuser,
         has_database_privilege(current_database(), 'create') as may_create_schemas,
         exists (
           select from pg_proc as p
             join pg_namespace as n on n.oid = p.pronamespace
            where n.nspname = 'notika' and p.proname = 'version'
         ) as is_installed,
         (select array_agg(w.name) from wanted as w
           where to_regnamespace(w.name) is not null
             and not has_schema_privilege(w.name, 'create')) as closed_schemas,
         (select array_agg(w.name) from wanted as w where to_regnamespace(w.name) is null) as missing_schemas,
         (select count(*)::integer from visible) as tables,
         (select count(*)::integer from visible as v
           where has_table_privilege(v.oid, 'trigger') and has_schema_privilege(v.relnamespace, 'usage')
         ) as publishable,
         (select count(*)::integer from visible as v
           where has_table_privilege(v.oid, 'select') and has_schema_privilege(v.relnamespace, 'usage')
         ) as readable,
         (select array_agg(distinct n.nspname::text)
            from visible as v join pg_namespace as n on n.oid = v.relnamespace
           where not (has_table_privilege(v.oid, 'trigger') and has_schema_privilege(n.oid, 'usage'))
         ) as closed_to_publish,
         exists (select from usable as u where u.name = 'publish') as publishes,
         exists (select from usable as u where u.name = 'dispatch') as runs,
         exists (select from usable as u where u.name = 'runs') as reads,
         exists (select from usable as u where u.name = 'lag') as monitors`;

function role({ role, is_superuser }: Rights): Finding {
  if (!is_superuser) return ok("role", `${role}, not a superuser`);
  return ok(
    "role",
    `${role} is a superuser: it may install, and an ordinary role owns what it installs; a runner needs only what notika.grant_runner() grants`,
  );
}

function schemas({ role, may_create_schemas, is_installed, closed_schemas, missing_schemas }: Rights): Finding {
  if (is_installed) {
    if (!closed_schemas) return ok("install", "the role may install and upgrade");
    return ok("install", "another role owns Notika, and installs and upgrades it");
  }
  if (closed_schemas) {
    return error(
      "install",
      `another role owns the schemas ${closed_schemas.join(" and ")}, so Notika cannot be installed`,
      closed_schemas.map((name) => `alter schema ${name} owner to ${role};`).join(" "),
    );
  }
  if (!missing_schemas)
    return ok("install", "the role may install: both schemas exist, and it may create objects in them");
  if (may_create_schemas) return ok("install", "the role may install: it may create schemas");
  return error(
    "install",
    `the role may not create the schemas ${missing_schemas.join(" and ")}, so Notika cannot be installed`,
    missing_schemas.map((name) => `create schema ${name} authorization ${role};`).join(" "),
  );
}

/** Reports what the role may do with an installation of another role. */
function roles({ role, publishes, runs, reads, monitors }: Rights): Finding {
  const all = [
    { may: publishes, of: "publisher", detail: "publish workflows" },
    { may: runs, of: "runner", detail: "run workflows" },
    { may: reads, of: "reader", detail: "read events and runs" },
    { may: monitors, of: "monitor", detail: "read the health of Notika" },
  ];
  const [may, mayNot] = [all.filter(({ may }) => may), all.filter(({ may }) => !may)];
  const list = (some: typeof all) => some.map(({ detail }) => detail).join(", ");
  const remedy = mayNot
    .map(({ of }) => `select notika.grant_${of}('${role}');`)
    .concat("-- as the owner of notika")
    .join(" ");
  if (mayNot.length === 0) return ok("parts", `the role may ${list(may)}`);
  if (may.length === 0) return error("parts", "the role may do nothing with Notika", remedy);
  return ok("parts", `the role may ${list(may)}; it may not ${list(mayNot)}`, remedy);
}

function tables({ name, tables, publishable, readable, closed_to_publish }: Rights): Finding {
  if (tables === 0) return ok("tables", "there are none yet");
  const detail = `the role may publish ${publishable} of ${tables} and read ${readable}`;
  const remedy = `npx notika grant ${name} --schema ${closed_to_publish?.join(",")}`;
  if (!closed_to_publish) return ok("tables", detail);
  if (publishable > 0) return ok("tables", `${detail}; to publish more, run what ${remedy} prints`);
  return warning("tables", `${detail}: without TRIGGER on a table, none of its changes can wake a workflow`, remedy);
}

/** Creates an event trigger and rolls it back: which roles may do that depends on the hosting service. */
async function eventTriggers(client: Client): Promise<Finding> {
  try {
    await client.query("begin; set local search_path = pg_catalog, pg_temp; set local lock_timeout = '2s'");
    await client.query("create function pg_temp.notika_doctor() returns event_trigger language plpgsql as 'begin end'");
    await client.query(
      "create event trigger notika_doctor on sql_drop when tag in ('DROP TABLE') execute function pg_temp.notika_doctor()",
    );
    return ok("event triggers", "the role may create them, so the guard can judge migrations when they commit");
  } catch (cause) {
    const { code, message } = cause as { code?: string; message: string };
    if (code !== "42501")
      return warning("event triggers", `could not test whether the role may create them: ${message}`);
    return warning(
      "event triggers",
      "the role may not create them, so there are none: DROP … CASCADE is not refused, and pinned columns need notika.release() first",
      "Let an administrator, who may create roles and event triggers, install and upgrade: npx notika install",
    );
  } finally {
    await client.query("rollback");
  }
}
