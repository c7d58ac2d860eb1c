import { AsyncLocalStorage } from "node:async_hooks";
import type { Log } from "./log.ts";

/** An attempt of a run, as the code that it started is traced back to it. */
export interface Attempt {
  readonly workflow: string;
  readonly run: string;
  /** Takes an error that nothing in the task has caught: it fails the attempt, or is logged when that is over. */
  take(error: Error): void;
}

const storage = new AsyncLocalStorage<Attempt>();
const running = new Set<Attempt>();

/** Does the work of an attempt, so that whatever it starts is known to be the attempt's. */
export async function inAttempt<T>(attempt: Attempt, work: () => Promise<T>): Promise<T> {
  running.add(attempt);
  try {
    return await storage.run(attempt, work);
  } finally {
    running.delete(attempt);
  }
}

/** The attempt whose code is running now, also after the attempt is over. */
export const currentAttempt = (): Attempt | undefined => storage.getStore();

/** All that run in this process. */
export const runningAttempts = (): Attempt[] => [...running];

/** An attempt that takes errors: `first` resolves with the first of them while it is not closed. */
export function openStrays({ workflow, run, log }: { workflow: string; run: string; log: Log }) {
  let isOver = false;
  let resolve: (error: Error) => void = () => {};
  const first = new Promise<Error>((take) => {
    resolve = take;
  });
  const attempt: Attempt = {
    workflow,
    run,
    take(error) {
      const fields = { workflow, run, error: error.message, stack: error.stack };
      if (isOver) log.error("nothing caught an error of a run that is over, so its outcome stands", fields);
      else log.error("nothing caught an error of a run, so its attempt fails", fields);
      resolve(error);
    },
  };
  return {
    attempt,
    first,
    close() {
      isOver = true;
    },
  };
}
