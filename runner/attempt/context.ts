import { AsyncLocalStorage } from "node:async_hooks";
import { stackOf } from "../errors.ts";
import type { Log } from "../log.ts";

/** The attempt that code belongs to, including code that it has started and does not await. */
export interface AttemptContext {
  readonly workflow: string;
  readonly run: string;
  /** Calls `work` in this context. */
  within<T>(work: () => T): T;
  /** Reports an uncaught error of the task: it fails the attempt, or is only logged when the attempt is over. */
  report(error: Error): void;
  /** Ends the attempt, if it has not ended yet; returns the first error that was reported before. */
  end(): Error | undefined;
}

const storage = new AsyncLocalStorage<AttemptContext>();
const running = new Set<AttemptContext>();

/** The attempt whose code is running now, also after the attempt is over. */
export const currentAttempt = (): AttemptContext | undefined => storage.getStore();

/** All attempts that run in this process. */
export const runningAttempts = (): AttemptContext[] => [...running];

interface Setting {
  workflow: string;
  run: string;
  log: Log;
  /** Called with an error that is reported before the attempt is over. */
  onError: (error: Error) => void;
}

/** Opens the context of an attempt that begins. */
export function openContext({ workflow, run, log, onError }: Setting): AttemptContext {
  let isOver = false;
  let first: Error | undefined;
  const context: AttemptContext = {
    workflow,
    run,
    within: (work) => storage.run(context, work),
    report(error) {
      const fields = { workflow, run, error: error.message, stack: stackOf(error) };
      if (isOver) {
        log.error("uncaught error of a run that is over; its outcome stands", fields);
      } else {
        log.error("uncaught error of a run; its attempt fails", fields);
        first ??= error;
        onError(error);
      }
    },
    end() {
      isOver = true;
      running.delete(context);
      return first;
    },
  };
  running.add(context);
  return context;
}
