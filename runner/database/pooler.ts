import { setTimeout as sleep } from "node:timers/promises";
import type { Client } from "pg";

/** What keeps a session, between a client and its server: nothing or a pooler, for so long. */
export type PoolerMode = "none" | "session" | "transaction" | "statement";

/**
 * Finds out by behaviour whether a pooler stands before the server of `client`, and what it keeps.  Nothing stays behind
 * on a server connection.
 */
export async function detectPooler(client: Client, openAnother: () => Promise<Client>): Promise<PoolerMode> {
  const own = await backend(client);
  // A server says at the start which process it is; a pooler makes something up.
  if (own === (client as Client & { processID: number | null }).processID) return "none";

  const other = await openAnother();
  try {
    if (!(await isShared(client, own, other))) return "session";
    await other.query("begin");
    return "transaction";
  } catch (error) {
    if ((error as { code?: string }).code === "08P01") return "statement"; // it has no transactions
    throw error;
  } finally {
    await other.end();
  }
}

/** Whether one of the two is ever served by another process than before, or by that of the other. */
async function isShared(client: Client, own: number, other: Client): Promise<boolean> {
  const asked = backend(other);
  const others = await Promise.race([asked, sleep(2000)]);
  // Nothing is free.  Who has an answer before those who wait longer has a process for itself.
  if (others === undefined) return Promise.race([asked.then(() => true), backend(client).then((pid) => pid !== own)]);

  // In a pool that is busy each may get the same one again by chance, but not so often.
  for (let round = 0; round < 12; round++) {
    if (others === own) return true;
    // A pooler gives what is free, so while the other keeps one, this one gets another.
    await other.query("begin");
    if ((await backend(other)) !== others || (await backend(client)) !== own) return true;
    await other.query("rollback");
    if ((await backend(other)) !== others) return true;
  }
  return false;
}

async function backend(client: Pick<Client, "query">): Promise<number> {
  const { rows } = await client.query<{ pid: number }>("select pg_backend_pid() as pid");
  return rows[0]?.pid as number;
}
