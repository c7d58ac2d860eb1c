import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { isLost } from "../database/lost_connection.ts";
import { toError } from "../errors.ts";
import { type Log, withFields } from "../log.ts";
import { milliseconds } from "../workflow/duration.ts";
import type { Event } from "../workflow/event.ts";
import type { Workflow } from "../workflow/workflow.ts";
import { isFinal, openConclusion, type Rest, type RunObserver } from "./conclusion.ts";
import { openContext } from "./context.ts";
import type { Liveness } from "./liveness.ts";
import { NotOwned, openOwnership } from "./ownership.ts";
import { type Halt, openSteps, type StepObserver } from "./steps.ts";
import type { Remembered, RunJob, Store } from "./store.ts";

/**
 * Does the work of one attempt; throws when the run is to be retried.  The caller must call the returned function: it writes
 * how the attempt ended, and needs no slot.
 */
export type Attempt = (payload: unknown, job: RunJob, stop: AbortSignal) => Promise<Rest>;

interface Setting {
  /** The unique name of the installation. */
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

/** Returns the function that runs the attempts of a workflow. */
export function attemptOf(workflow: Workflow, setting: Setting): Attempt {
  const { installation, database, store, liveness, log, observe, observeStep } = setting;
  const timeout = workflow.timeout === undefined ? undefined : milliseconds(workflow.timeout);
  const expires = workflow.expires === undefined ? undefined : milliseconds(workflow.expires);

  return async (payload, job, stop) => {
    const event = payload as Event;
    const fields = { workflow: event.workflow, run: event.id };
    const isNew = !job.flags?.resumed;
    const left = workflow.retries === undefined ? 1 : workflow.retries + 1 - job.attempts;
    const isLastAttempt = left <= 0 || job.attempts >= job.max_attempts;
    const ownership = openOwnership({ store, liveness, job, stop });
    const conclusion = openConclusion({ event, job, isLastAttempt, ownership, database, store, observe });

    let past: Remembered[] = [];
    let events: Event[] | null | undefined;
    try {
      const isFirst = isNew && !job.flags?.gated && job.attempts === 1;
      const entry = isFirst ? { steps: [] } : await store.enter(job, event);
      if (!entry.steps) return undefined;
      ({ steps: past, events } = entry);
      if (isNew && expires !== undefined && Date.now() - Date.parse(event.at) > expires) {
        return await conclusion.expire(String(workflow.expires));
      }
      if (left < 0 && job.flags?.begun) return await conclusion.failWithoutAttempt(workflow.retries);
      if (left <= 0) await store.beginLastAttempt(job);
    } catch (error) {
      // No code of the task has run yet.
      if (isLost(error)) await conclusion.giveBack(error as Error);
      throw error;
    }

    const over = new AbortController();
    let interrupt: (end: End) => void = () => {};
    const interrupted = new Promise<End>((resolve) => {
      interrupt = resolve;
    });
    const context = openContext({
      ...fields,
      log,
      onError(error) {
        over.abort(error);
        interrupt({ kind: "throws", error });
      },
    });
    const end = await context.within(run);
    if (end.kind === "done") {
      return async () => {
        if (await isOwned()) return conclusion.done(context.end);
        context.end();
        throw notOwned();
      };
    }
    context.end();
    if (end.kind === "crashes") throw end.error;
    if (end.kind === "lost" || !(await isOwned())) throw notOwned();
    switch (end.kind) {
      case "waits":
        return conclusion.wait(end.waits);
      case "reenters":
        return conclusion.startOver();
      case "ended":
        return conclusion.exit();
      default:
        return conclusion.fail(end.error, isFinal(end.error, { isThrown: end.kind === "throws" }));
    }

    /** Whether this runner still owns the run; true if the database cannot be asked. */
    async function isOwned(): Promise<boolean> {
      return ownership.isOwn().catch(() => true);
    }

    function notOwned(): NotOwned {
      log.warn("the run was given to another runner while this one could not be reached, and stops here", fields);
      return new NotOwned();
    }

    /** Runs the task until it returns, throws, or halts. */
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
        isOwn: liveness && ownership.isOwn,
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
  };
}

// Capture reads the setting: the events of a run's writes name the run as their cause, so that a loop can be stopped.
function queryAs(event: Event, database: Database): Database["execute"] {
  return (statement) =>
    database.transaction(async (execute) => {
      await execute(sql`select set_config('notika.run', ${`${event.id}/${event.depth}`}, true)`);
      return execute(statement);
    });
}
