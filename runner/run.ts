import type { Job } from "graphile-worker";
import sql from "sql-template-tag";
import type { Database } from "./database.ts";
import { type Log, withFields } from "./log.ts";
import type { Outcome } from "./outcomes.ts";
import type { Event, Workflow } from "./workflow.ts";

/** Sees each attempt of a run when it ends: with its error, and whether it was the last. */
export type RunObserver = (event: Event, result: { ms: number; attempt: number; error?: Error; last: boolean }) => void;

interface Setting {
  database: Database;
  finish: (outcome: Outcome) => Promise<void>;
  log: Log;
  observe?: RunObserver | undefined;
}

/** Makes of a workflow what runs one attempt: it throws when the run is to be tried again. */
export function makeTask(workflow: Workflow, { database, finish, log, observe }: Setting) {
  return async (payload: unknown, job: Pick<Job, "attempts" | "max_attempts">, signal: AbortSignal): Promise<void> => {
    const event = payload as Event;
    const started = new Date();
    const outcome = {
      run_id: event.id,
      workflow: event.workflow,
      attempts: job.attempts,
      created_at: event.at,
      started_at: started.toISOString(),
    };
    const ended = (error?: Error, last = true) =>
      observe?.(event, {
        ms: Date.now() - started.getTime(),
        attempt: job.attempts,
        last,
        ...(error && { error }),
      });

    try {
      await workflow.run({
        event,
        query: queryAs(event, database),
        log: withFields(log, { workflow: event.workflow, run: event.id }),
        signal,
      });
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      // Compared by name: a task may have been loaded with a copy of this package of its own.
      const last =
        error.name === "NonRetriable" ||
        job.attempts > (workflow.retries ?? Number.POSITIVE_INFINITY) ||
        job.attempts >= job.max_attempts;
      ended(error, last);
      if (!last) throw error;
      await finish({ ...outcome, state: "failed", error: error.message, stack: error.stack });
      return;
    }
    await finish({ ...outcome, state: "done" });
    ended();
  };
}

// Capture reads the setting, so that a run's writes name it as their cause and a loop can be cut.
function queryAs(event: Event, database: Database): Database["execute"] {
  return (statement) =>
    database.transaction(async (execute) => {
      await execute(sql`select set_config('notika.run', ${`${event.id}/${event.depth}`}, true)`);
      return execute(statement);
    });
}
