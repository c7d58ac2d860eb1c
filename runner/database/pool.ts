// Those of the globals may be fakes of a test.
import { clearTimeout, setTimeout } from "node:timers";
import type { Pool, PoolClient, QueryResult } from "pg";
import { NotikaError } from "../errors.ts";
import { markLost, noteLost } from "./lost_connection.ts";

/** Lends the connections of a pool, and takes each back whatever happens. */
export interface Lending {
  /** Gives `work` a connection, for so many milliseconds if they are given. */
  lend<T>(work: (client: PoolClient) => Promise<T>, milliseconds?: number): Promise<T>;
  /** A connection until it is released; it, and each query, has to be there within so many milliseconds. */
  borrow(milliseconds: number): Promise<Loan>;
}

export interface Loan {
  query(...given: unknown[]): Promise<QueryResult>;
  release(): void;
}

export function openLending(pool: Pool): Lending {
  const answeredAt = new WeakMap<PoolClient, number>();
  // Where one connection hangs those that were silent as long may hang too, and each would cost a deadline.
  let doubtedUntil = 0;

  async function take(): Promise<PoolClient> {
    for (;;) {
      const client = await pool.connect().catch(noteLost);
      if ((answeredAt.get(client) ?? Number.POSITIVE_INFINITY) > doubtedUntil) return client;
      client.release(true);
    }
  }

  function takeBack(client: PoolClient) {
    answeredAt.set(client, performance.now());
    client.release();
  }

  /** Closes a connection; what waits for an answer on it fails. */
  function giveUp(client: PoolClient, since: number, why: Error) {
    doubtedUntil = Math.max(doubtedUntil, since);
    client.release(why);
  }

  return {
    async lend(work, milliseconds) {
      let client: PoolClient | undefined;
      let late: NotikaError | undefined;
      let since = 0;

      async function use() {
        const taken = await take();
        if (late) takeBack(taken);
        if (late) throw late;
        client = taken;
        since = performance.now();
        try {
          return await work(client);
        } finally {
          if (client) takeBack(client);
          client = undefined;
        }
      }
      if (milliseconds === undefined) return use();

      return inTime(use(), milliseconds, (error) => {
        late = error;
        if (client) giveUp(client, since, error);
        client = undefined;
      });
    },

    async borrow(milliseconds) {
      const taking = take();
      let client: PoolClient | undefined = await inTime(taking, milliseconds, () => {
        taking.then(takeBack, () => {});
      });
      return {
        async query(...given) {
          if (!client) throw new Error("this connection has been closed");
          const since = performance.now();
          const answer = (client.query as (...given: unknown[]) => Promise<QueryResult>)(...given);
          return inTime(answer, milliseconds, (error) => {
            if (client) giveUp(client, since, error);
            client = undefined;
          });
        },
        release() {
          if (client) takeBack(client);
          client = undefined;
        },
      };
    },
  };
}

const grace = 1000; // milliseconds

/** Fails when `work` takes longer than so many milliseconds, and says so first. */
async function inTime<T>(work: Promise<T>, milliseconds: number, onLate: (error: NotikaError) => void): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    const wait = (ms: number) => {
      const due = performance.now() + ms;
      timer = setTimeout(() => {
        // A task has blocked the event loop: the answer may be here, unread.
        if (performance.now() - due > grace) return wait(grace);
        const late = new NotikaError("NOTIKA_NO_ANSWER", `the database did not answer within ${milliseconds} ms`);
        onLate(late);
        reject(markLost(late));
      }, ms);
    };
    wait(milliseconds);
  });
  return Promise.race([work, deadline]).finally(() => clearTimeout(timer));
}
