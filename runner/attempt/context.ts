import { AsyncLocalStorage } from "node:async_hooks";
import type { Log } from "../log.ts";
import { stackOf } from "./thrown.ts";

/** An attempt of a run, as the code that it started is traced back to it. */
export interface Attempt {
  readonly workflow: string;
  readonly run: string;
  /** Does the work, so that whatever it starts is known to be the attempt's. */
  within<T>(work: () => T): T;
  /** Takes an error that nothing in the task has caught: it fails the attempt, or is logged when that is over. */
  take(error: Error): void;
  /** The attempt is over, unless it was before; gives the first error that it took. */
  end(): Error | undefined;
}

const storage = new AsyncLocalStorage<Attempt>();
const running = new Set<Attempt>();

/** The attempt whose code is running now, also after the attempt is over. */
export const currentAttempt = (): Attempt | undefined => storage.getStore();

/** All that run in this process. */
export const runningAttempts = (): Attempt[] => [...running];

interface Setting {
  workflow: string;
  run: string;
  log: Log;
  /** Is given an error that the attempt takes before it is over. */
  onError: (error: Error) => void;
}

/** Begins an attempt. */
export function openAttempt({ workflow, run, log, onError }: Setting): Attempt {
  let isOver = false;
  let first: Error | undefined;
  const attempt: Attempt = {
    workflow,
    run,
    within: (work) => storage.run(attempt, work),
    take(error) {
      const fields = { workflow, run, error: error.message, stack: stackOf(error) };
      if (isOver) {
        log.error("nothing caught an error of a run that is over, so its outcome stands", fields);
      } else {
        log.error("nothing caught an error of a run, so its attempt fails", fields);
        first ??= error;
        onError(error);
      }
    },
    end() {
      isOver = true;
      running.delete(attempt);
      return first;
    },
  };
  running.add(attempt);
  return attempt;
}
