import type { Job } from "graphile-worker";
import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { isLost } from "../database/lost_connection.ts";
import { NonRetriable } from "../errors.ts";
import { type Log, withFields } from "../log.ts";
import { interval, milliseconds } from "../workflow/duration.ts";
import type { Event } from "../workflow/event.ts";
import type { Workflow } from "../workflow/workflow.ts";
import { openAttempt } from "./context.ts";
import type { Cells } from "./liveness.ts";
import { nameGrant } from "./missing_grant.ts";
import type { Finish, Outcome } from "./outcomes.ts";
import { openHolding, TakenAway } from "./ownership.ts";
import { type Halt, openSteps, type StepObserver } from "./steps.ts";
import type { Memory, Remembered } from "./store.ts";
import { stackOf, toError } from "./thrown.ts";

/** Sees each attempt of a run when it ends: with its error, and whether it was the last. */
export type RunObserver = (event: Event, result: { ms: number; attempt: number; error?: Error; last: boolean }) => void;

interface Setting {
  /** The name of the installation, which no other has. */
  installation: string;
  database: Database;
  memory: Memory;
  /** Notes that the last attempt that a run has begins, so that no crash gives it another. */
  begin: (job: string) => Promise<void>;
  finish: Finish;
  /** What is known of this runner's signs of life; without them nobody else is there. */
  cells?: Cells | undefined;
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
export function makeTask(workflow: Workflow, setting: Setting) {
  const { installation, database, memory, begin, finish, cells, log, observe, observeStep } = setting;
  const timeout = workflow.timeout === undefined ? undefined : milliseconds(workflow.timeout);
  const expires = workflow.expires === undefined ? undefined : milliseconds(workflow.expires);

  return async (payload: unknown, job: RunJob, stop: AbortSignal, leave = () => {}): Promise<void> => {
    const event = payload as Event;
    const started = new Date();
    const fields = { workflow: event.workflow, run: event.id };
    const isNew = !job.flags?.resumed;
    const isGated = job.flags?.gated === true;
    const { isCertain, isOwn, patiently, giveBack } = openHolding({ database, cells, job, stop });
    const outcome = {
      run_id: event.id,
      workflow: event.workflow,
      attempts: job.attempts,
      created_at: event.at,
      started_at: started.toISOString(),
    };
    const left = workflow.retries === undefined ? 1 : workflow.retries + 1 - job.attempts;
    const isLastAttempt = left <= 0 || job.attempts >= job.max_attempts;
    const ended = (error?: Error, last = true) =>
      observe?.(event, { ms: Date.now() - started.getTime(), attempt: job.attempts, last, ...(error && { error }) });

    let past: Remembered[] = [];
    let events: Event[] | null | undefined;
    try {
      const entry = isNew && !isGated && job.attempts === 1 ? { steps: [] } : await enter(database, job, event);
      if (!entry.steps) return;
      ({ steps: past, events } = entry);
      if (isNew && expires !== undefined && started.getTime() - Date.parse(event.at) > expires) {
        await conclude({ ...outcome, state: "expired", error: `not started within ${workflow.expires}` });
        return;
      }
      if (left < 0 && job.flags?.begun) return await endWithoutAttempt();
      if (left <= 0) await begin(job.id);
    } catch (error) {
      // Nothing of the task has run.
      if (isLost(error)) await giveBack(error as Error, exit);
      throw error;
    }

    let interrupt: (end: End) => void = () => {};
    const interrupted = new Promise<End>((resolve) => {
      interrupt = resolve;
    });
    const over = new AbortController();
    const attempt = openAttempt({
      ...fields,
      log,
      onError(error) {
        over.abort(error);
        interrupt({ kind: "throws", error });
      },
    });
    const end = await attempt.within(run);
    if (end.kind !== "done") attempt.end();
    if (end.kind === "crashes") throw end.error;
    if (end.kind === "lost" || !(isCertain() || (await isOwn().catch(() => true)))) {
      attempt.end();
      log.warn("the run was given to another runner while this one was away, and goes no further here", fields);
      throw new TakenAway();
    }
    switch (end.kind) {
      case "done": {
        // What it has left to itself may have failed by the time that the outcome is written.
        await conclude({ ...outcome, state: "done" }, () => !attempt.end()).finally(() => attempt.end());
        const error = attempt.end();
        return error ? fail(error, isFinal({ kind: "throws", error })) : ended();
      }
      case "waits":
        return park(end.waits).catch((error) => (isRefused(error) ? fail(asRefusal(error), true) : fail(error, false)));
      case "reenters":
        return park([], { for: "0" });
      case "ended":
        return exit();
      default:
        return fail(end.error, isFinal(end));
    }

    /** Runs the task until it is done, or can go no further. */
    function run(): Promise<End> {
      const { signal } = over;
      const stopped = () => over.abort(stop.reason); // AbortSignal.any would remember each attempt in `stop`
      stop.addEventListener("abort", stopped);
      if (stop.aborted) stopped();
      const steps = openSteps({
        run: { id: event.id, depth: event.depth },
        installation,
        waitsFor: workflow.waitsFor,
        past,
        database,
        memory,
        signal,
        isLastAttempt,
        isOwn: cells && (async () => isCertain() || isOwn()),
        observe: observeStep,
      });
      const late = () => {
        const error = new Error(`timed out after ${workflow.timeout}`);
        over.abort(error);
        interrupt({ kind: "fails", error });
      };
      const timer = timeout === undefined ? undefined : setTimeout(late, Math.min(timeout, longestTimer));
      const task = async (): Promise<End> => {
        try {
          await workflow.run({
            event,
            events: events ?? [event],
            step: steps.step,
            query: queryAs(event, database),
            log: withFields(log, fields),
            signal,
          });
          const error = steps.forgotten();
          if (error) return { kind: "throws", error };
          leave();
          return { kind: "done" };
        } catch (thrown) {
          return { kind: "throws", error: toError(thrown) };
        }
      };
      return Promise.race([task(), steps.halted, interrupted]).finally(() => {
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
      if (!isFinal && isLost(error)) {
        leave();
        if (await giveBack(error, exit)) {
          ended(error, false);
          throw error;
        }
      }
      const last = isFinal || isLastAttempt;
      ended(error, last);
      if (!last) {
        await exit();
        throw error;
      }
      const stack = stackOf(error.cause instanceof Error ? error.cause : error);
      await conclude({ ...outcome, state: "failed", error: error.message, stack });
    }

    /** An attempt too many: the one before it ended without a word. */
    async function endWithoutAttempt(): Promise<void> {
      const error = new Error(
        `attempt ${job.attempts - 1} ended without an outcome, as when its runner dies, and retries: ${workflow.retries} allows no other`,
      );
      ended(error);
      await conclude({ ...outcome, attempts: job.attempts - 1, state: "failed", error: error.message });
    }

    /** Keeps the outcome, if it still holds when it is written; unless somebody else has the run by now. */
    function conclude(outcome: Outcome, holds?: () => boolean): Promise<boolean> {
      return patiently(async () => {
        if (!(isCertain() || (await isOwn()))) throw new TakenAway();
        return finish(outcome, holds);
      });
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

// Compared by name: a task may have been loaded with a copy of this package of its own.  What a step throws that has failed
// for good is final where the task lets it through.
function isFinal({ kind, error: { name } }: Extract<End, { error: Error }>): boolean {
  return name === NonRetriable.name || (kind === "throws" && name === "StepError");
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
