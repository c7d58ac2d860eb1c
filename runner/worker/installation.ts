import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { atOnce } from "../database/statements.ts";
import { NotikaError } from "../errors.ts";
import { differenceTo } from "../install/version.ts";

/** Throws NOTIKA_VERSION unless the database has the version of Notika that this package needs. */
export async function checkVersion({ execute }: Database) {
  const unlessMissing = (error: { code?: string }) => {
    if (error.code === "3F000" || error.code === "42883") return [];
    throw error;
  };
  const [installed] = await execute<{ version: string }>(sql`select notika.version()`).catch(unlessMissing);
  if (!installed) {
    throw new NotikaError("NOTIKA_VERSION", "notika is not installed in this database", {
      hint: "Run: npx notika install",
    });
  }
  const [had] = await execute<{ names: string[] }>(sql`select notika._migrations() as names`).catch(unlessMissing);
  const difference = await differenceTo({ ...installed, migrations: had?.names ?? null });
  if (difference) throw new NotikaError("NOTIKA_VERSION", difference.message, { hint: `Run: ${difference.remedy}` });
}

/** The unique name of the installation in this database; a copy of the database gets a new one here. */
export async function nameInstallation({ execute }: Database): Promise<string> {
  const [row] = await execute<{ installation: string }>(atOnce("select notika._installation() as installation"));
  return row?.installation ?? "";
}
