import sql, { raw } from "sql-template-tag";
import type { Database } from "../database/database.ts";
import type { Execute } from "../database/statements.ts";
import { NotikaError } from "../errors.ts";
import { readText } from "./migrations.ts";

/** A statement for an administrator, and its reason; null: it is obvious. */
export interface Statement {
  statement: string;
  reason: string | null;
}

export interface GrantOptions {
  /** The present or future owner of Notika. */
  role: string;
  /** All tables of these schemas, including future ones. */
  schemas?: string[] | undefined;
  /** Only these tables. */
  tables?: string[] | undefined;
  /** Revoke what was granted: for these tables or, without tables and schemas, everything. */
  revoke?: boolean;
  /** Run the statements. */
  apply?: boolean;
}

/**
 * The statements that grant what the role still lacks or, with `revoke`, that revoke what it has; also before Notika is
 * installed.  Throws NOTIKA_INSTALLED if everything would be revoked from the owner of an installation.
 */
export function grant(database: Database, options: GrantOptions): Promise<Statement[]> {
  return database.transaction(async (execute) => {
    await execute(sql`set local search_path = pg_catalog, pg_temp`);
    const statements = await needed(execute, options);
    if (options.apply) for (const { statement } of statements) await execute(raw(statement));
    return statements;
  });
}

async function needed(execute: Execute, { role, schemas, tables, revoke = false }: GrantOptions): Promise<Statement[]> {
  if (revoke && !schemas && !tables) await refuseWhileInstalled(execute, role);

  const functions = (await readText("sql/7_admin/30_owner.sql")).replaceAll("notika._", "pg_temp._");
  await execute(sql`savepoint before_functions`);
  await execute(raw(functions));
  const verb = raw(revoke ? "_owner_revokes" : "_owner_grants");
  const statements = await execute<Statement>(sql`
    select statement, reason from pg_temp.${verb}(${role}::text::name, ${array(schemas)}, ${array(tables)})`);
  await execute(sql`rollback to savepoint before_functions`);
  return statements;
}

async function refuseWhileInstalled(execute: Execute, role: string) {
  const [found] = await execute(sql`
    select from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
      join pg_roles as r on r.oid = n.nspowner
     where n.nspname = 'notika' and r.rolname = ${role}::text
     limit 1`);
  if (!found) return;
  throw new NotikaError("NOTIKA_INSTALLED", `role ${role} owns an installed notika`, {
    hint: "First: notika uninstall. To take back some tables only, name them: --tables app.users",
  });
}

// Text with a cast in SQL works the same with every driver.
function array(items: string[] | undefined) {
  return items ? sql`array(select json_array_elements_text(${JSON.stringify(items)}::text::json))` : sql`null::text[]`;
}
