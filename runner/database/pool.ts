// A test may have replaced the global ones by fakes.
import { clearTimeout, setTimeout } from "node:timers";
import type { Pool, PoolClient, QueryResult } from "pg";
import { NotikaError } from "../errors.ts";
import { markLost, noteLost } from "./lost_connection.ts";

/** The clients of a pool.  Each is returned to the pool, also after an error. */
export interface Clients {
  /** Runs `work` with a client, with a deadline if `milliseconds` is given. */
  withClient<T>(work: (client: PoolClient) => Promise<T>, milliseconds?: number): Promise<T>;
  /** A client until it is released; acquiring it, and each query, has a deadline of `milliseconds`. */
  acquire(milliseconds: number): Promise<AcquiredClient>;
}

export interface AcquiredClient {
  query(...given: unknown[]): Promise<QueryResult>;
  release(): void;
}

export function openClients(pool: Pool): Clients {
  const answeredAt = new WeakMap<PoolClient, number>();
  // When one connection hangs, those that have been silent for as long may hang too; each would cost a deadline.
  let suspectUntil = 0;

  async function take(): Promise<PoolClient> {
    for (;;) {
      const client = await pool.connect().catch(noteLost);
      if ((answeredAt.get(client) ?? Number.POSITIVE_INFINITY) > suspectUntil) return client;
      client.release(true);
    }
  }

  function release(client: PoolClient) {
    answeredAt.set(client, performance.now());
    client.release();
  }

  /** Closes a connection; queries that wait for an answer on it fail. */
  function discard(client: PoolClient, since: number, why: Error) {
    suspectUntil = Math.max(suspectUntil, since);
    client.release(why);
  }

  return {
    async withClient(work, milliseconds) {
      let client: PoolClient | undefined;
      let late: NotikaError | undefined;
      let since = 0;

      async function use() {
        const taken = await take();
        if (late) release(taken);
        if (late) throw late;
        client = taken;
        since = performance.now();
        try {
          return await work(client);
        } finally {
          if (client) release(client);
          client = undefined;
        }
      }
      if (milliseconds === undefined) return use();

      return inTime(use(), milliseconds, (error) => {
        late = error;
        if (client) discard(client, since, error);
        client = undefined;
      });
    },

    async acquire(milliseconds) {
      const taking = take();
      let client: PoolClient | undefined = await inTime(taking, milliseconds, () => {
        taking.then(release, () => {});
      });
      return {
        async query(...given) {
          if (!client) throw new Error("this connection has been closed");
          const since = performance.now();
          const answer = (client.query as (...given: unknown[]) => Promise<QueryResult>)(...given);
          return inTime(answer, milliseconds, (error) => {
            if (client) discard(client, since, error);
            client = undefined;
          });
        },
        release() {
          if (client) release(client);
          client = undefined;
        },
      };
    },
  };
}

const grace = 1000; // milliseconds

/** Fails when `work` takes longer than `milliseconds`; calls `onLate` first. */
async function inTime<T>(work: Promise<T>, milliseconds: number, onLate: (error: NotikaError) => void): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    const wait = (ms: number) => {
      const due = performance.now() + ms;
      timer = setTimeout(() => {
        // A task has blocked the event loop: the answer may have arrived and not been read yet.
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
