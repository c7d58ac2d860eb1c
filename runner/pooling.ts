import { setTimeout as sleep } from "node:timers/promises";
import type { Client } from "pg";

/** What keeps a session, between a client and its server: nothing or a pooler, for so long. */
export type Pooling = "none" | "session" | "transaction" | "statement";

/**
 * Finds out by behaviour whether a pooler stands before the server of `client`, and what it keeps.  Nothing stays behind
 * on a server connection.
 */
export async function detectPooling(client: Client, openAnother: () => Promise<Client>): Promise<Pooling> {
  const first = await backend(client);
  // A server says at the start which process it is; a pooler makes something up.
  if (first === (client as Client & { processID: number | null }).processID) return "none";

  const other = await openAnother();
  try {
    // A pooler gives what is free: to the other the server connection of this one, and to this one another while its own
    // is taken.
    for (let round = 0; round < 3; round++) {
      const another = await soon(backend(other));
      if (another === undefined) {
        // Nothing is free.  If this one has its answer at once all the same, its server connection is its own.
        return (await soon(backend(client))) === first ? "session" : "transaction";
      }
      if (another === first) return "transaction";
      await other.query("begin");
      await backend(other);
      if ((await backend(client)) !== first) return "transaction";
      await other.query("rollback");
    }
    return "session";
  } catch (error) {
    if ((error as { code?: string }).code === "08P01") return "statement"; // it has no transactions
    throw error;
  } finally {
    await other.end();
  }
}

async function soon<T>(work: Promise<T>): Promise<T | undefined> {
  const timer = new AbortController();
  work.catch(() => {}); // when it is late, nobody waits for it
  return Promise.race([work, sleep(2000, undefined, { signal: timer.signal })]).finally(() => timer.abort());
}

async function backend(client: Client): Promise<number> {
  const { rows } = await client.query<{ pid: number }>("select pg_backend_pid() as pid");
  return rows[0]?.pid as number;
}
