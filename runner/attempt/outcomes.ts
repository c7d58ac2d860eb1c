import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { toJson } from "../workflow/json.ts";
import { batched } from "./write_together.ts";

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

/** Keeps an outcome, if it still holds when it is written; gives whether it did, when that is committed. */
export type Finish = (outcome: Outcome, holds?: () => boolean) => Promise<boolean>;

/** Appends outcomes to `run_log`: those of one moment in one statement. */
export function openOutcomes(database: Database): Finish {
  const { execute } = database.within(10_000);
  const keep = batched(
    async (given: { outcome: Outcome; holds: (() => boolean) | undefined }[]) => {
      const holding = given.map(({ holds }) => holds?.() ?? true);
      const outcomes = given.flatMap(({ outcome }, index) => (holding[index] ? [outcome] : []));
      if (outcomes.length > 0) await execute(sql`select notika._finish(${toJson(outcomes)}::text::json)`);
      return holding;
    },
    { patient: true },
  );
  return (outcome, holds) => keep({ outcome, holds });
}

/** Notes of jobs that the last attempt that their run has begins: of those of one moment in one statement. */
export function openBegin(database: Database): (job: string) => Promise<void> {
  const { execute } = database.within(10_000);
  return batched(async (jobs) => {
    await execute(sql`select notika._begin(${toJson(jobs)}::text::json)`);
    return [];
  });
}
