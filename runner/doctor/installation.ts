import type { Client } from "pg";
import { knownMigrations, thisRelease } from "../install/bundle.ts";
import { differenceTo } from "../install/version.ts";
import { ask } from "./ask.ts";
import { error, type Finding, ok, warning } from "./finding.ts";

/** Examines whether Notika is installed, has this version, and is healthy. */
export async function installation(client: Client): Promise<Finding[]> {
  const [found] = await ask<{ may_use: boolean; role: string }>(
    client,
    `select has_schema_privilege(n.oid, 'usage') as may_use, quote_ident(current_user) as role
       from pg_namespace as n
       join pg_proc as p on p.pronamespace = n.oid and p.proname = 'version'
      where n.nspname = 'notika'`,
  );
  if (!found) return [warning("notika", "it is not installed in this database", "npx notika install")];
  if (!found.may_use) return []; // rights.ts reports what is missing
  return [await versions(client), await worker(client), ...(await health(client, found.role))];
}

async function versions(client: Client): Promise<Finding> {
  const [installed] = (await ask<{ version: string }>(client, "select notika.version()")) as [{ version: string }];
  const had = await ask<{ names: string[] }>(client, "select notika._migrations() as names").catch(unlessMissing);
  const difference = await differenceTo({ ...installed, migrations: had?.[0]?.names ?? null });
  return difference
    ? error("notika", difference.message, difference.remedy)
    : ok("notika", `version ${installed.version}`);
}

async function worker(client: Client): Promise<Finding> {
  const known = knownMigrations(await thisRelease()).worker;
  const found = await ask<{ revision: number | null; is_newer_breaking: boolean | null }>(
    client,
    `select max(m.id) as revision, bool_or(m.breaking and m.id > $1::integer) as is_newer_breaking
       from notika_worker.migrations as m`,
    [known],
  ).catch(unlessDenied);
  if (!found) return ok("worker", "this role has no access to graphile-worker's schema, and needs none");
  const { revision, is_newer_breaking } = found[0] as (typeof found)[number];
  if (revision === known) return ok("worker", `graphile-worker in schema notika_worker, revision ${revision}`);
  if (revision === null || revision < known) {
    const has = revision === null ? "no revision" : `revision ${revision}`;
    return error("worker", `its schema has ${has}, this version needs ${known}`, "npx notika upgrade");
  }
  const judge = is_newer_breaking ? error : warning;
  return judge(
    "worker",
    `its schema has revision ${revision}, this version knows ${known}`,
    "npm install notika@latest",
  );
}

async function health(client: Client, role: string): Promise<Finding[]> {
  const found = await ask<Finding>(
    client,
    "select finding, severity, workflow, detail, remedy from notika.health",
  ).catch(unlessDenied);
  const remedy = `select notika.grant_reader('${role}'); -- as the owner of notika`;
  return found ?? [warning("health", "this role may not read notika.health", remedy)];
}

function unlessDenied(cause: { code?: string }): undefined {
  if (cause.code !== "42501") throw cause;
}

function unlessMissing(cause: { code?: string }): undefined {
  if (cause.code !== "42883") throw cause;
}
