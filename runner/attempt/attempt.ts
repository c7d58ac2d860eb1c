import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { isLost } from "../database/lost_connection.ts";
import { NonRetriable, stackOf, toError } from "../errors.ts";
import { type Log, withFields } from "../log.ts";
import { interval, milliseconds } from "../workflow/duration.ts";
import type { Event } from "../workflow/event.ts";
import type { Workflow } from "../workflow/workflow.ts";
import { openContext } from "./context.ts";
import type { Liveness } from "./liveness.ts";
import { nameGrant } from "./missing_grant.ts";
import { NotOwned, openOwnership } from "./ownership.ts";
import { type Halt, openSteps, type StepObserver } from "./steps.ts";
import type { Outcome, Remembered, RunJob, Store } from "./store.ts";

/** Called at the end of each attempt of a run: with its error, and whether it was the last. */
export type RunObserver = (event: Event, result: { ms: number; attempt: number; error?: Error; last: boolean }) => void;

/**
 * Does the work of one attempt, and throws when the run is to be retried.  What it returns is still to be called: it writes
 * how the attempt ended, and needs no slot.
 */
export type Attempt = (payload: unknown, job: RunJob, stop: AbortSignal) => Promise<(() => Promise<void>) | undefined>;

interface Setting {
  /** The name of the installation; no other has it. */
  installation: string;
  database: Database;
  store: Store;
  /** The liveness of this runner; undefined: there is no other runner. */
  liveness?: Liveness | undefined;
  log: Log;
  observe?: RunObserver | undefined;
  observeStep?: StepObserver | undefined;
}

type End = Halt | { kind: "done" } | { kind: "throws"; error: Error };

const longestTimer = 2_147_483_647; // milliseconds: Node fires a longer timer at once

/** What runs the attempts of a workflow. */
export function attemptOf(workflow: Workflow, setting: Setting): Attempt {
  const { installation, database, store, liveness, log, observe, observeStep } = setting;
  const timeout = workflow.timeout === undefined ? undefined : milliseconds(workflow.timeout);
  const expires = workflow.expires === undefined ? undefined : milliseconds(workflow.expires);

  return async (payload, job, stop) => {
    const event = payload as Event;
    const started = new Date();
    const fields = { workflow: event.workflow, run: event.id };
    const isNew = !job.flags?.resumed;
    const isGated = job.flags?.gated === true;
    const { isOwn, whileOwned } = openOwnership({ store, liveness, job, stop });
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
      const entry = isNew && !isGated && job.attempts === 1 ? { steps: [] } : await store.enter(job, event);
      if (!entry.steps) return undefined;
      ({ steps: past, events } = entry);
      if (isNew && expires !== undefined && started.getTime() - Date.parse(event.at) > expires) {
        return await conclude({ ...outcome, state: "expired", error: `not started within ${workflow.expires}` });
      }
      if (left < 0 && job.flags?.begun) return await endWithoutAttempt();
      if (left <= 0) await store.beginLastAttempt(job);
    } catch (error) {
      // Nothing of the task has run.
      if (isLost(error)) await giveBack(error as Error);
      throw error;
    }

    let interrupt: (end: End) => void = () => {};
    const interrupted = new Promise<End>((resolve) => {
      interrupt = resolve;
    });
    const over = new AbortController();
    const context = openContext({
      ...fields,
      log,
      onError(error) {
        over.abort(error);
        interrupt({ kind: "throws", error });
      },
    });
    const end = await context.within(run);
    if (end.kind !== "done") context.end();
    if (end.kind === "crashes") throw end.error;
    if (end.kind === "done") return endDone;
    if (end.kind === "lost" || !(await isOwn().catch(() => true))) throw notOwned();
    switch (end.kind) {
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
        store,
        signal,
        isLastAttempt,
        isOwn: liveness && isOwn,
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
          const error = steps.errorAtReturn();
          return error ? { kind: "throws", error } : { kind: "done" };
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

    /** The task is done: writes the outcome, unless an error that nothing caught is reported until then. */
    async function endDone(): Promise<void> {
      if (!(await isOwn().catch(() => true))) {
        context.end();
        throw notOwned();
      }
      await conclude({ ...outcome, state: "done" }, () => !context.end()).finally(() => context.end());
      const error = context.end();
      if (!error) return ended();
      await (await fail(error, isFinal({ kind: "throws", error })))?.();
    }

    /** The attempt has failed: the run fails, waits, or is to be retried. */
    async function fail(error: Error, isFinal: boolean): Promise<(() => Promise<void>) | undefined> {
      await nameGrant(error, database);
      const retryAt = (error.name === "RetryAfter" ? error : error.cause) as { name?: string; at?: Date | number };
      if (retryAt?.name === "RetryAfter" && !isFinal) {
        ended(error, false);
        return park([], wakeAt(retryAt.at ?? 0));
      }
      if (isFinal || !isLost(error)) return count(error, isFinal);
      // The database is away, which may take its time.
      return async () => {
        if (!(await giveBack(error))) return count(error, isFinal);
        ended(error, false);
        throw error;
      };
    }

    /** Counts a failed attempt: the run is to be retried, or ends as failed. */
    async function count(error: Error, isFinal: boolean): Promise<undefined> {
      const last = isFinal || isLastAttempt;
      ended(error, last);
      if (!last) {
        await exit();
        throw error;
      }
      const stack = stackOf(error.cause instanceof Error ? error.cause : error);
      await conclude({ ...outcome, state: "failed", error: error.message, stack });
    }

    /** There was an attempt too many: the one before it ended without an outcome. */
    async function endWithoutAttempt(): Promise<undefined> {
      const error = new Error(
        `attempt ${job.attempts - 1} ended without an outcome, as when its runner dies, and retries: ${workflow.retries} allows no other`,
      );
      ended(error);
      await conclude({ ...outcome, attempts: job.attempts - 1, state: "failed", error: error.message });
    }

    /** Writes the outcome, if the run is still this runner's, and if `holds` is still true then. */
    async function conclude(outcome: Outcome, holds?: () => boolean): Promise<undefined> {
      await whileOwned(() => store.keepOutcome(outcome, holds));
    }

    async function park(waits: object[], wake?: object): Promise<undefined> {
      if (!(await store.park(job, waits, wake))) await exit();
    }

    /** Puts the run back as if there had been no attempt; false: this attempt counts. */
    function giveBack(why: Error): Promise<boolean> {
      return whileOwned(async () => {
        await exit();
        return store.giveBack(job, why.message);
      });
    }

    /** Ends the attempt without an outcome. */
    async function exit(): Promise<undefined> {
      if (isGated) await store.exit(event);
    }

    function notOwned(): NotOwned {
      log.warn("the run was given to another runner while this one was away, and goes no further here", fields);
      return new NotOwned();
    }
  };
}

// Compared by name: a task may have been loaded with its own copy of this package.  The error of a step that has failed
// permanently is final where the task does not catch it.
function isFinal({ kind, error: { name } }: Extract<End, { error: Error }>): boolean {
  return name === NonRetriable.name || (kind === "throws" && name === "StepError");
}

const isRefused = (error: { code?: string }) => error.code === "22023";

// Only the message of an error is kept; a hint would be lost.
function asRefusal(error: Error & { hint?: string }): NonRetriable {
  return new NonRetriable(error.hint ? `${error.message}. ${error.hint}` : error.message, { cause: error });
}

function wakeAt(at: Date | number): object {
  return at instanceof Date ? { at: at.toISOString() } : { for: interval(at) };
}

// Capture reads the setting: what a run writes names the run as its cause, so that a loop can be cut.
function queryAs(event: Event, database: Database): Database["execute"] {
  return (statement) =>
    database.transaction(async (execute) => {
      await execute(sql`select set_config('notika.run', ${`${event.id}/${event.depth}`}, true)`);
      return execute(statement);
    });
}
