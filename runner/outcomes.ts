import sql from "sql-template-tag";
import { batched } from "./batched.ts";
import type { Database } from "./database.ts";
import { toJson } from "./json.ts";

/** How a run ended. */
export interface Outcome {
  run_id: string;
  workflow: string;
  state: "done" | "failed" | "expired";
  attempts: number;
  error?: string | undefined;
  stack?: string | undefined;
  created_at: string;
  started_at: string;
}

/** Appends outcomes to `run_log`: those of one moment in one statement.  Resolves when they are committed. */
export function openOutcomes(database: Database): (outcome: Outcome) => Promise<void> {
  const { execute } = database.within(10_000);
  return batched(
    async (outcomes) => {
      await execute(sql`select notika._finish(${toJson(outcomes)}::text::json)`);
      return [];
    },
    { patient: true },
  );
}

/** Notes of jobs that the last attempt that their run has begins: of those of one moment in one statement. */
export function openBegin(database: Database): (job: string) => Promise<void> {
  const { execute } = database.within(10_000);
  return batched(async (jobs) => {
    await execute(sql`select notika._begin(${toJson(jobs)}::text::json)`);
    return [];
  });
}
