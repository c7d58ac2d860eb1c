import type { Job } from "graphile-worker";
import sql from "sql-template-tag";
import type { Database } from "./database.ts";
import { interval, milliseconds } from "./duration.ts";
import { NonRetriable } from "./errors.ts";
import { type Log, withFields } from "./log.ts";
import type { Memory, Remembered } from "./memory.ts";
import { nameGrant } from "./missing_grant.ts";
import type { Outcome } from "./outcomes.ts";
import { type Halt, openSteps, type StepObserver } from "./steps.ts";
import type { Event, Workflow } from "./workflow.ts";

/** Sees each attempt of a run when it ends: with its error, and whether it was the last. */
export type RunObserver = (event: Event, result: { ms: number; attempt: number; error?: Error; last: boolean }) => void;

interface Setting {
  /** The name of the installation, which no other has. */
  installation: string;
  database: Database;
  memory: Memory;
  finish: (outcome: Outcome) => Promise<void>;
  log: Log;
  observe?: RunObserver | undefined;
  observeStep?: StepObserver | undefined;
}

type RunJob = Pick<Job, "id" | "attempts" | "max_attempts" | "flags">;
type End = Halt | { kind: "done" } | { kind: "throws"; error: Error };

const longestTimer = 2_147_483_647; // milliseconds: Node would fire a longer one at once

/**
 * Makes of a workflow what runs one attempt: it throws when the run is to be tried again, and calls `leave` when the work
 * is done and only its outcome has to be kept.
 */
export function makeTask(
  workflow: Workflow,
  { installation, database, memory, finish, log, observe, observeStep }: Setting,
) {
  const timeout = workflow.timeout === undefined ? undefined : milliseconds(workflow.timeout);
  const expires = workflow.expires === undefined ? undefined : milliseconds(workflow.expires);

  return async (payload: unknown, job: RunJob, stop: AbortSignal, leave = () => {}): Promise<void> => {
    const event = payload as Event;
    const started = new Date();
    const isNew = !job.flags?.resumed;
    const isGated = job.flags?.gated === true;
    const entry = isNew && !isGated && job.attempts === 1 ? { steps: [] } : await enter(database, job, event);
    if (!entry.steps) return;
    const { steps: past, events } = entry;

    const outcome = {
      run_id: event.id,
      workflow: event.workflow,
      attempts: job.attempts,
      created_at: event.at,
      started_at: started.toISOString(),
    };
    if (isNew && expires !== undefined && started.getTime() - Date.parse(event.at) > expires) {
      return finish({ ...outcome, state: "expired", error: `not started within ${workflow.expires}` });
    }
    const isLastAttempt =
      job.attempts > (workflow.retries ?? Number.POSITIVE_INFINITY) || job.attempts >= job.max_attempts;
    const ended = (error?: Error, last = true) =>
      observe?.(event, { ms: Date.now() - started.getTime(), attempt: job.attempts, last, ...(error && { error }) });

    const end = await attempt();
    switch (end.kind) {
      case "done":
        leave();
        await finish({ ...outcome, state: "done" });
        return ended();
      case "waits":
        return park(end.waits).catch((error) => (isRefused(error) ? fail(asRefusal(error), true) : fail(error, false)));
      case "reenters":
        return park([], { for: "0" });
      case "ended":
        return exit();
      case "crashes":
        throw end.error;
      default:
        return fail(end.error, end.kind === "throws" && isFinal(end.error));
    }

    /** Runs the task until it is done, or can go no further. */
    async function attempt(): Promise<End> {
      const over = new AbortController();
      const { signal } = over;
      const stopped = () => over.abort(stop.reason); // AbortSignal.any would remember each attempt in `stop`
      stop.addEventListener("abort", stopped);
      if (stop.aborted) stopped();
      const run = { id: event.id, depth: event.depth };
      const steps = openSteps({
        run,
        installation,
        waitsFor: workflow.waitsFor,
        past,
        database,
        memory,
        signal,
        isLastAttempt,
        observe: observeStep,
      });
      let timer: NodeJS.Timeout | undefined;
      const timedOut = new Promise<End>((resolve) => {
        if (timeout === undefined) return;
        timer = setTimeout(
          () => {
            const error = new Error(`timed out after ${workflow.timeout}`);
            over.abort(error);
            resolve({ kind: "fails", error });
          },
          Math.min(timeout, longestTimer),
        );
      });
      const task = async (): Promise<End> => {
        try {
          await workflow.run({
            event,
            events: events ?? [event],
            step: steps.step,
            query: queryAs(event, database),
            log: withFields(log, { workflow: event.workflow, run: event.id }),
            signal,
          });
          return { kind: "done" };
        } catch (thrown) {
          return { kind: "throws", error: thrown instanceof Error ? thrown : new Error(String(thrown)) };
        }
      };
      return Promise.race([task(), steps.halted, timedOut]).finally(() => {
        clearTimeout(timer);
        stop.removeEventListener("abort", stopped);
        steps.close();
      });
    }

    async function fail(error: Error, isFinal: boolean): Promise<void> {
      await nameGrant(error, database);
      const retryAt = (error.name === "RetryAfter" ? error : error.cause) as { name?: string; at?: Date | number };
      if (retryAt?.name === "RetryAfter" && !isFinal) {
        ended(error, false);
        return park([], wakeAt(retryAt.at ?? 0));
      }
      const last = isFinal || isLastAttempt;
      ended(error, last);
      if (!last) {
        await exit();
        throw error;
      }
      const { stack } = error.cause instanceof Error ? error.cause : error;
      await finish({ ...outcome, state: "failed", error: error.message, stack });
    }

    async function park(waits: object[], wake?: object): Promise<void> {
      const [row] = await database.transaction((execute) =>
        execute<{ parked: boolean }>(sql`
          select notika._park(${job.id}::text::bigint, ${JSON.stringify(waits)}::text::json,
                              ${wake === undefined ? null : JSON.stringify(wake)}::text::json) as parked`),
      );
      if (!row?.parked) await exit();
    }

    /** The attempt is over without an outcome: in a line others may go on. */
    async function exit(): Promise<void> {
      if (!isGated) return;
      await database.transaction((execute) => execute(sql`select notika._exit(${event.id}::text::bigint)`));
    }
  };
}

interface Entry {
  /** Undefined: the run has ended since, or it is not its turn. */
  steps?: Remembered[];
  events?: Event[] | null;
}

/** What a run has to know that has been here before, or has to be admitted. */
async function enter(database: Database, job: RunJob, event: Event): Promise<Entry> {
  const [row] = await database.transaction((execute) =>
    execute<{ entry: Entry }>(sql`select notika._enter(${job.id}::text::bigint, ${event.id}::text::bigint) as entry`),
  );
  return row?.entry ?? {};
}

// Compared by name: a task may have been loaded with a copy of this package of its own.
function isFinal({ name }: Error): boolean {
  return name === NonRetriable.name || name === "StepError";
}

const isRefused = (error: { code?: string }) => error.code === "22023";

// A hint would be lost: what is kept of an error is its message.
function asRefusal(error: Error & { hint?: string }): NonRetriable {
  return new NonRetriable(error.hint ? `${error.message}. ${error.hint}` : error.message, { cause: error });
}

function wakeAt(at: Date | number): object {
  return at instanceof Date ? { at: at.toISOString() } : { for: interval(at) };
}

// Capture reads the setting, so that a run's writes name it as their cause and a loop can be cut.
function queryAs(event: Event, database: Database): Database["execute"] {
  return (statement) =>
    database.transaction(async (execute) => {
      await execute(sql`select set_config('notika.run', ${`${event.id}/${event.depth}`}, true)`);
      return execute(statement);
    });
}
