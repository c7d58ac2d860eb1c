// Those of the globals may be fakes of a test.
import { clearTimeout, setTimeout } from "node:timers";
import type { Pool, PoolClient } from "pg";
import { NotikaError } from "./errors.ts";

/** Gives `work` a connection, for so many milliseconds if they are given. */
export type Lend = <T>(work: (client: PoolClient) => Promise<T>, milliseconds?: number) => Promise<T>;

/** Lends the connections of a pool, and takes each back whatever happens. */
export function openLending(pool: Pool): Lend {
  return async (work, milliseconds) => {
    let client: PoolClient | undefined;
    let late: NotikaError | undefined;

    async function borrow() {
      const borrowed = await pool.connect();
      if (late) borrowed.release();
      if (late) throw late;
      client = borrowed;
      try {
        return await work(client);
      } finally {
        client?.release();
        client = undefined;
      }
    }
    if (milliseconds === undefined) return borrow();

    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        late = new NotikaError("NOTIKA_NO_ANSWER", `the database did not answer within ${milliseconds} ms`);
        // A connection with an error is closed, and what waits for an answer on it fails.
        client?.release(late);
        client = undefined;
        reject(late);
      }, milliseconds);
    });
    return Promise.race([borrow(), deadline]).finally(() => clearTimeout(timer));
  };
}
