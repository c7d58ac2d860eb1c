import sql, { type Sql } from "sql-template-tag";
import type { Database } from "../../database/database.ts";
import { since } from "../support/arguments.ts";

/** Conditions for runs; undefined: any. */
export interface Filter {
  workflow: string | undefined;
  state: string | undefined;
  since: string | undefined;
  table: string | undefined;
  /** Values of columns, before or after the change. */
  key: Record<string, string> | undefined;
  limit: number;
}

/** A run as printed by the command. */
export interface Found {
  run: string;
  workflow: string;
  state: string;
  attempts: number;
  created_at: Date;
  wake_at: string | null;
  finished_at: Date | null;
  error: string | null;
}

/** The latest runs, newest first. */
export function findRuns(database: Database, filter: Filter, ended = false): Promise<Found[]> {
  return database.execute<Found>(sql`
    select run_id::text as run, workflow, state, attempts, created_at, wake_at::text, finished_at, error
      from notika.history(
             workflow => ${filter.workflow ?? null}::text,
             state => ${filter.state ?? null}::text,
             since => ${time(filter.since)},
             table_name => ${filter.table ?? null}::text,
             key => ${filter.key ? JSON.stringify(filter.key) : null}::text::jsonb,
             max_runs => ${String(filter.limit)}::text::int,
             only_ended => ${String(ended)}::text::boolean)`);
}

function time(text: string | undefined): Sql {
  return text === undefined ? sql`null::timestamptz` : since(text);
}
