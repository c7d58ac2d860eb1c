import { setTimeout as sleep } from "node:timers/promises";
import { isLost } from "../database/lost_connection.ts";
import { type Liveness, openLease } from "./liveness.ts";
import type { RunJob, Store } from "./store.ts";

/** The run belongs to another runner by now: what this one still does about it must not count. */
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

/** Whether a claimed run still belongs to this runner after the database, or the runner itself, was away. */
export function openOwnership({ store, liveness, job, stop }: Setting) {
  const holds = liveness ? openLease(liveness) : () => true;
  const isOwn = async () => holds() || (await store.isOwn(job));

  return {
    /** Whether the run is still this runner's; asks the database only where this runner was away. */
    isOwn,

    /** Does `work` if the run is still this runner's.  While the connection is lost it retries, unless the runner has to stop. */
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
