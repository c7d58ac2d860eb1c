import { setImmediate, setTimeout } from "node:timers/promises";
import sql from "sql-template-tag";
import type { Database } from "./database.ts";

/** How a run ended. */
export interface Outcome {
  run_id: string;
  workflow: string;
  state: "done" | "failed";
  attempts: number;
  error?: string | undefined;
  stack?: string | undefined;
  created_at: string;
  started_at: string;
}

/** Appends outcomes to `run_log`: those of one moment in one statement. */
export function openOutcomes(database: Database) {
  let waiting: { outcome: Outcome; resolve: () => void; reject: (reason: unknown) => void }[] = [];
  let writing = false;

  async function write() {
    await setImmediate();
    while (waiting.length > 0) {
      const batch = waiting;
      waiting = [];
      try {
        await writeOnce(batch.map(({ outcome }) => outcome));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    writing = false;
  }

  // The task has had its effect: rather wait for the database than run it again.
  async function writeOnce(outcomes: Outcome[]) {
    for (let delay = 100; ; delay *= 2) {
      try {
        await database.execute(sql`select notika._finish(${toJson(outcomes)}::text::json)`);
        return;
      } catch (error) {
        if (delay > 5000) throw error;
        await setTimeout(delay);
      }
    }
  }

  return {
    /** Resolves when the outcome is committed. */
    add(outcome: Outcome): Promise<void> {
      return new Promise((resolve, reject) => {
        waiting.push({ outcome, resolve, reject });
        if (!writing) {
          writing = true;
          void write();
        }
      });
    },
  };
}

// Postgres keeps no NUL in text.
function toJson(outcomes: Outcome[]): string {
  return JSON.stringify(outcomes).replaceAll("\\u0000", "");
}
