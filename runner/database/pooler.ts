import { setTimeout as sleep } from "node:timers/promises";
import type { Client } from "pg";

/** How long a pooler keeps a client on one server connection; none: there is no pooler. */
export type PoolerMode = "none" | "session" | "transaction" | "statement";

/**
 * Detects by behaviour whether `client` is connected through a pooler, and in which mode.  Leaves nothing behind on a server
 * connection.
 */
export async function detectPooler(client: Client, openAnother: () => Promise<Client>): Promise<PoolerMode> {
  const own = await backend(client);
  // A server sends its process id at login; a pooler sends an invented one.
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

/** Whether one of the two clients is ever served by another process than before, or by that of the other. */
async function isShared(client: Client, own: number, other: Client): Promise<boolean> {
  const asked = backend(other);
  const others = await Promise.race([asked, sleep(2000)]);
  // No server connection is free.  If `client` is answered before `other`, which waits longer, it has its own process.
  if (others === undefined) return Promise.race([asked.then(() => true), backend(client).then((pid) => pid !== own)]);

  // In a busy pool each client may get the same process again by chance, but not 12 times.
  for (let round = 0; round < 12; round++) {
    if (others === own) return true;
    // A pooler assigns a free connection: while `other` holds one, `client` gets a different one.
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
