import sql, { raw } from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { NotikaError } from "../errors.ts";
import { migrateScript } from "./bundle.ts";

export interface InstallReport {
  /** The migrations that this call applied. */
  applied: string[];
  /** What `notika.install()` did, and what it could not do and why. */
  steps: { step: string; outcome: string; detail: string | null }[];
}

/**
 * Brings Notika's schema in the database up to this package: all of it or, when something fails, nothing.  An administrator
 * may name the role that is to own it.
 */
export async function install(database: Database, { owner = "" }: { owner?: string } = {}): Promise<InstallReport> {
  const migrate = raw(await migrateScript());
  const once = () =>
    database.transaction(async (execute) => {
      await execute(sql`select set_config('notika.owner', ${owner}, true)`);
      await execute(migrate);
      const applied = await execute<{ name: string }>(
        sql`select name from notika.migration where xmin = pg_current_xact_id()::xid order by name`,
      );
      return {
        applied: applied.map(({ name }) => name),
        steps: await execute<InstallReport["steps"][number]>(sql`select step, outcome, detail from notika.install()`),
      };
    });
  // Several at once may meet in a deadlock, of which nothing is left.
  const again = (error: { code?: string }) => (error.code === "40P01" ? once() : Promise.reject(error));
  return once()
    .catch(again)
    .catch((error) => {
      throw asRefusal(error) ?? error;
    });
}

function asRefusal(cause: Error & { code?: string; hint?: string }): NotikaError | undefined {
  const code = { NK011: "NOTIKA_NEWER_INSTALLED", NK012: "NOTIKA_MIGRATION_CHANGED" }[cause.code ?? ""];
  if (code) return new NotikaError(code, cause.message, { ...(cause.hint && { hint: cause.hint }), cause });
  if (cause.code === "55P03") {
    cause.hint ??=
      "Nothing was changed. Try again. Which sessions hold a table of Notika: select l.pid, l.relation::regclass, a.usename, a.xact_start from pg_locks as l join pg_stat_activity as a using (pid) where l.granted and l.relation::regclass::text like 'notika%';";
  }
  return undefined;
}
