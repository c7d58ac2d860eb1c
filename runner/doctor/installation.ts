import type { Client } from "pg";
import { knownMigrations } from "../bundle.ts";
import { version } from "../version.ts";
import { error, type Finding, ok, warning } from "./finding.ts";

/** Whether Notika is there, is of this version, and is well. */
export async function installation(client: Client): Promise<Finding[]> {
  const { rows } = await client.query<{ is_there: boolean; may_use: boolean; role: string }>(`
    select n.oid is not null as is_there, coalesce(has_schema_privilege(n.oid, 'usage'), false) as may_use,
           quote_ident(current_user) as role
      from (select to_regnamespace('notika')) as n (oid)`);
  const [found] = rows;
  if (!found?.is_there) return [notInstalled];
  if (!found.may_use) return []; // what it lacks was said already
  const installed = await client.query<{ version: string }>("select notika.version()").catch(absent);
  if (!installed) return [notInstalled];
  return [await versions(installed.rows[0]?.version), await worker(client), ...(await health(client, found.role))];
}

const notInstalled = warning("notika", "it is not installed in this database", "npx notika install");

function absent(cause: { code?: string }) {
  if (["3F000", "42883"].includes(cause.code ?? "")) return undefined;
  throw cause;
}

async function versions(installed: string | undefined): Promise<Finding> {
  const own = await version();
  if (installed === own) return ok("notika", `version ${own}`);
  return error("notika", `the database has version ${installed}, this is ${own}`, "npx notika upgrade");
}

async function worker(client: Client): Promise<Finding> {
  const known = (await knownMigrations()).worker;
  try {
    const { rows } = await client.query<{ revision: number; is_newer_breaking: boolean }>(
      `select max(m.id) as revision, coalesce(bool_or(m.breaking and m.id > $1), false) as is_newer_breaking
         from notika_worker.migrations as m`,
      [known],
    );
    const revision = rows[0]?.revision ?? 0;
    if (revision === known) return ok("worker", `graphile-worker in schema notika_worker, revision ${revision}`);
    if (revision < known) {
      return error("worker", `its schema has revision ${revision}, this version needs ${known}`, "npx notika upgrade");
    }
    const detail = `its schema has revision ${revision}, this version knows ${known}`;
    const remedy = "npm install notika@latest";
    return rows[0]?.is_newer_breaking ? error("worker", detail, remedy) : warning("worker", detail, remedy);
  } catch (cause) {
    return unseen("worker", cause as Error);
  }
}

async function health(client: Client, role: string): Promise<Finding[]> {
  try {
    const { rows } = await client.query<Finding>(
      "select finding, severity, workflow, detail, remedy from notika.health",
    );
    return rows;
  } catch (cause) {
    if ((cause as { code?: string }).code !== "42501") throw cause;
    return [
      warning("health", "this role may not see it", `select notika.grant_reader('${role}'); -- as the owner of notika`),
    ];
  }
}

function unseen(finding: string, cause: Error & { code?: string }): Finding {
  if (cause.code !== "42501") throw cause;
  return ok(finding, "this role may not see it, and need not");
}
