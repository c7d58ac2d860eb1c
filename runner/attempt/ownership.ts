import { setTimeout as sleep } from "node:timers/promises";
import { isLost } from "../database/lost_connection.ts";
import { type Liveness, openLease } from "./liveness.ts";
import type { RunJob, Store } from "./store.ts";

/** Thrown when another runner owns the run: nothing that this one still writes about it may count. */
export class NotOwned extends Error {
  constructor() {
    super("the run was given to another runner");
  }
}

export type Ownership = ReturnType<typeof openOwnership>;

interface Setting {
  store: Store;
  liveness: Liveness | undefined;
  job: RunJob;
  stop: AbortSignal;
}

/** Tells whether this runner still owns a run that it claimed, after the database or the runner itself was unreachable. */
export function openOwnership({ store, liveness, job, stop }: Setting) {
  const holds = liveness ? openLease(liveness) : () => true;
  const isOwn = async () => holds() || (await store.isOwn(job));

  return {
    /** Whether this runner still owns the run; asks the database only if this runner was unreachable. */
    isOwn,

    /**
     * Does `work`; throws NotOwned if another runner owns the run.  Retries while the connection is lost, until `stop`
     * aborts.
     */
    async whileOwned<T>(work: () => Promise<T>): Promise<T> {
      for (let delay = 100; ; delay = Math.min(delay * 2, 5000)) {
        try {
          if (!(await isOwn())) throw new NotOwned();
          return await work();
        } catch (error) {
          if (!isLost(error) || stop.aborted) throw error;
          await sleep(delay);
        }
      }
    },
  };
}
