import sql, { type Sql } from "sql-template-tag";
import { UsageError } from "../../errors.ts";
import { interval, milliseconds } from "../../workflow/duration.ts";

/** The time that an option names, in SQL: so long ago, such as `2h`, or a date, in UTC unless it says otherwise. */
export function since(text: string): Sql {
  const ago = milliseconds(text);
  if (ago !== undefined && ago < Date.now()) return sql`(clock_timestamp() - ${interval(ago)}::text::interval)`;

  const at = /^\d{4}-\d\d-\d\d$|:\d\d(\.\d+)?$/.test(text)
    ? new Date(`${text.replace(" ", "T").replace(/^\S{10}$/, "$&T00:00")}Z`)
    : new Date(text);
  if (!/^\d{4}-\d\d-\d\d/.test(text) || Number.isNaN(at.getTime())) {
    throw new UsageError(`--since has no time in it: ${text}`, {
      hint: "For instance: --since 2h, --since 2026-11-20, --since 2026-11-20T14:30Z",
    });
  }
  return sql`${at.toISOString()}::text::timestamptz`;
}
