import sql from "sql-template-tag";
import type { Database } from "../../database/database.ts";
import { indented, printable, printableJson } from "../../printable.ts";
import { output, table } from "../support/output.ts";

interface Entry {
  at: Date | null;
  entry: string;
  name: string | null;
  state: string | null;
  attempts: number | null;
  seconds: number | null;
  detail: string | null;
}

/** Prints the history of a run and what happens next; returns the exit code. */
export async function showRun(database: Database, run: string, json: boolean): Promise<number> {
  // JavaScript has no infinite Date.
  const timeline = await database.execute<Entry>(sql`
    select case when isfinite(at) then at end as at, entry, name, state, attempts,
           extract(epoch from took)::float8 as seconds, detail
      from notika.timeline(${run}::text::bigint)`);
  output(json, { run, timeline }, ({ timeline }) => screen(timeline));
  return 0;
}

function screen(timeline: Entry[]): string {
  const whole = timeline.filter(({ entry, detail }) => detail && (entry === "event" || detail.includes("\n")));
  return [
    table(
      timeline.map(({ seconds, detail, ...entry }) => ({
        ...entry,
        took: seconds === null ? null : length(seconds),
        detail: entry.entry === "event" ? null : detail?.split("\n", 1)[0],
      })),
    ),
    ...whole.map(
      ({ entry, detail }) => `\n${printable(entry)}\n${entry === "event" ? pretty(detail ?? "") : block(detail ?? "")}`,
    ),
  ].join("");
}

function pretty(json: string): string {
  try {
    return `${printableJson(JSON.parse(json), 2)}\n`;
  } catch {
    return block(json);
  }
}

function block(text: string): string {
  return `  ${indented(text)}\n`;
}

function length(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${Math.round(seconds * 10) / 10} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return seconds < 360_000 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}
