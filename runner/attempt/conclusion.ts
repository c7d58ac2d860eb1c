import type { Database } from "../database/database.ts";
import { isLost } from "../database/lost_connection.ts";
import { NonRetriable, stackOf } from "../errors.ts";
import { interval } from "../workflow/duration.ts";
import type { Event } from "../workflow/event.ts";
import { nameGrant } from "./missing_grant.ts";
import type { Ownership } from "./ownership.ts";
import type { Outcome, RunJob, Store } from "./store.ts";

/** Called at the end of each attempt of a run: with its error, and whether it was the last. */
export type RunObserver = (event: Event, result: { ms: number; attempt: number; error?: Error; last: boolean }) => void;

/** Writes what is left to write of an attempt whose work is done; undefined: nothing. */
export type Rest = (() => Promise<void>) | undefined;

interface Setting {
  event: Event;
  job: RunJob;
  isLastAttempt: boolean;
  ownership: Ownership;
  database: Database;
  store: Store;
  observe: RunObserver | undefined;
}

/** Writes how an attempt ends.  A function that throws leaves the run to be retried. */
export function openConclusion({ event, job, isLastAttempt, ownership, database, store, observe }: Setting) {
  const started = new Date();
  const outcome = {
    run_id: event.id,
    workflow: event.workflow,
    attempts: job.attempts,
    created_at: event.at,
    started_at: started.toISOString(),
  };

  function report(error?: Error, last = true) {
    observe?.(event, { ms: Date.now() - started.getTime(), attempt: job.attempts, last, ...(error && { error }) });
  }

  /** Writes an outcome, if `holds` is still true then. */
  async function write(outcome: Outcome, holds?: () => boolean): Promise<undefined> {
    await ownership.whileOwned(() => store.keepOutcome(outcome, holds));
  }

  /** Ends the attempt without an outcome: the next run in its line may start. */
  async function exit(): Promise<undefined> {
    if (job.flags?.gated) await store.exit(event);
  }

  /** Puts the run back as if there had been no attempt; false: this attempt counts. */
  function giveBack(why: Error): Promise<boolean> {
    return ownership.whileOwned(async () => {
      await exit();
      return store.giveBack(job, why.message);
    });
  }

  /** Makes the run wait. */
  async function park(waits: object[], wake?: object): Promise<undefined> {
    if (!(await store.park(job, waits, wake))) await exit();
  }

  /** The attempt has failed: the run waits, is to be retried, or ends as failed. */
  async function fail(error: Error, isFinal: boolean): Promise<Rest> {
    await nameGrant(error, database);
    const retryAt = (error.name === "RetryAfter" ? error : error.cause) as { name?: string; at?: Date | number };
    if (retryAt?.name === "RetryAfter" && !isFinal) {
      report(error, false);
      return park([], wakeAt(retryAt.at ?? 0));
    }
    if (isFinal || !isLost(error)) return count(error, isFinal);
    // The database may be unreachable for a while.
    return async () => {
      if (!(await giveBack(error))) return count(error, isFinal);
      report(error, false);
      throw error;
    };
  }

  /** Counts a failed attempt. */
  async function count(error: Error, isFinal: boolean): Promise<undefined> {
    const last = isFinal || isLastAttempt;
    report(error, last);
    if (!last) {
      await exit();
      throw error;
    }
    const stack = stackOf(error.cause instanceof Error ? error.cause : error);
    await write({ ...outcome, state: "failed", error: error.message, stack });
  }

  return {
    exit,
    giveBack,
    fail,

    /** Ends the run as done, unless `end` returns an error by the time that the outcome is written. */
    async done(end: () => Error | undefined): Promise<void> {
      await write({ ...outcome, state: "done" }, () => !end()).finally(end);
      const error = end();
      if (!error) return report();
      await (await fail(error, isFinal(error, { isThrown: true })))?.();
    },

    /** Makes the run start over at once, from the steps that are kept. */
    startOver: () => park([], { for: "0" }),

    /** Makes the run wait; if the database refuses the waits, the run fails. */
    wait: (waits: object[]): Promise<Rest> =>
      park(waits).catch((error) => (isRefused(error) ? fail(asRefusal(error), true) : fail(error, false))),

    /** Ends a run that has not started in time as expired. */
    expire: (after: string) => write({ ...outcome, state: "expired", error: `not started within ${after}` }),

    /** Fails a run that has no attempt left: the last one ended without an outcome. */
    async failWithoutAttempt(retries: number | undefined): Promise<undefined> {
      const attempts = job.attempts - 1;
      const error = new Error(
        `attempt ${attempts} ended without an outcome, as when its runner dies, and retries: ${retries} allows no further attempt`,
      );
      report(error);
      await write({ ...outcome, attempts, state: "failed", error: error.message });
    },
  };
}

/**
 * Whether an error ends a run.  Compared by name: a task may have been loaded with its own copy of this package.  The error of
 * a step that has failed permanently is final if the task does not catch it, and so throws it.
 */
export function isFinal({ name }: Error, { isThrown }: { isThrown: boolean }): boolean {
  return name === NonRetriable.name || (isThrown && name === "StepError");
}

const isRefused = (error: { code?: string }) => error.code === "22023";

// Only the message of an error is kept; a hint would be lost.
function asRefusal(error: Error & { hint?: string }): NonRetriable {
  return new NonRetriable(error.hint ? `${error.message}. ${error.hint}` : error.message, { cause: error });
}

function wakeAt(at: Date | number): object {
  return at instanceof Date ? { at: at.toISOString() } : { for: interval(at) };
}
