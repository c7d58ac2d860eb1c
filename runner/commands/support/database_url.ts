import { namedDatabase, readSettings } from "../../connection/settings.ts";
import { UsageError } from "../../errors.ts";

/** Where the database is, from --url or the environment; refused here already when it cannot be read. */
export function databaseUrl(given: unknown): string {
  const text = namedDatabase(typeof given === "string" ? given : undefined);
  if (text === undefined) {
    throw new UsageError("no database was named", {
      hint: "Set DATABASE_URL, or give --url postgres://user@host/database. Without a server: notika dev",
    });
  }
  readSettings(text);
  return text;
}

/** Where the same database is past a pooler, if that is named: by --direct-url, or by the environment that names the database. */
export function directUrl({ url, "direct-url": given }: { url?: unknown; "direct-url"?: unknown }): string | undefined {
  const fromEnvironment = url === undefined ? process.env.NOTIKA_DIRECT_URL || undefined : undefined;
  const text = typeof given === "string" ? given : fromEnvironment;
  if (text !== undefined) readSettings(text);
  return text;
}
