import sql, { type Sql } from "sql-template-tag";
import { namedDatabase, readSettings } from "../../connection/settings.ts";
import { UsageError } from "../../errors.ts";
import { interval, milliseconds } from "../../workflow/duration.ts";

/** The connection string of --url or the environment; throws an error if there is none, or it is invalid. */
export function databaseUrl(given: unknown): string {
  const text = namedDatabase(typeof given === "string" ? given : undefined);
  if (text === undefined) {
    throw new UsageError("no database is specified", {
      hint: "Set DATABASE_URL, or use --url postgres://user@host/database. Without a server: notika dev",
    });
  }
  readSettings(text);
  return text;
}

/** The connection string of --direct-url, or, without --url, of NOTIKA_DIRECT_URL; undefined: none.  Throws NOTIKA_URL. */
export function directUrl({ url, "direct-url": given }: { url?: unknown; "direct-url"?: unknown }): string | undefined {
  const fromEnvironment = url === undefined ? process.env.NOTIKA_DIRECT_URL || undefined : undefined;
  const text = typeof given === "string" ? given : fromEnvironment;
  if (text !== undefined) readSettings(text);
  return text;
}

/** Checks that the arguments are ids of runs, at least one; throws UsageError. */
export function runIds(given: string[]): string[] {
  const hint = "List runs with: notika runs";
  if (given.length === 0) throw new UsageError("no run is specified", { hint });
  const wrong = given.find((id) => !/^\d{1,18}$/.test(id));
  if (wrong !== undefined) throw new UsageError(`${wrong} is not the id of a run`, { hint });
  return given;
}

/** The time of an option as SQL: a length of time ago, such as `2h`, or a date, in UTC by default.  Throws UsageError. */
export function since(text: string): Sql {
  const ago = milliseconds(text);
  if (ago !== undefined && ago < Date.now()) return sql`(clock_timestamp() - ${interval(ago)}::text::interval)`;

  const at = /^\d{4}-\d\d-\d\d$|:\d\d(\.\d+)?$/.test(text)
    ? new Date(`${text.replace(" ", "T").replace(/^\S{10}$/, "$&T00:00")}Z`)
    : new Date(text);
  if (!/^\d{4}-\d\d-\d\d/.test(text) || Number.isNaN(at.getTime())) {
    throw new UsageError(`--since needs a time, not ${text}`, {
      hint: "For example: --since 2h, --since 2026-11-20, --since 2026-11-20T14:30Z",
    });
  }
  return sql`${at.toISOString()}::text::timestamptz`;
}

/** The items of a comma-separated list. */
export function items(text: string | undefined): string[] | undefined {
  return text?.split(",").map((item) => item.trim());
}

/** The value of an option that is a whole number from 1. */
export function wholeNumber(option: string, value: string): number {
  if (!/^[1-9]\d{0,5}$/.test(value)) throw new UsageError(`${option} needs a whole number from 1, not ${value}`);
  return Number(value);
}
