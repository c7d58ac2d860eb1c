import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { ConnectError } from "../connection/errors.ts";
import type { Log } from "../log.ts";
import type { Database } from "./database.ts";

const pause = { first: 200, longest: 5000 }; // milliseconds

/** Waits while the database is starting or has no connection left, until `signal` aborts; throws any other error. */
export async function untilReady(database: Database, log: Log, signal?: AbortSignal): Promise<void> {
  for (let delay = pause.first; ; delay = Math.min(delay * 2, pause.longest)) {
    try {
      await database.within(60_000).execute(sql`select`);
      if (delay > pause.first) log.info("the database accepts connections");
      return;
    } catch (error) {
      signal?.throwIfAborted();
      if (!isTemporary(error as Error)) throw error;
      if (delay === pause.first) log.warn("waiting for the database", { error: (error as Error).message });
      await sleep(delay, undefined, signal && { signal });
    }
  }
}

/** The server is starting or has no connection left, or a pooler that let us log in has lost its server. */
function isTemporary(error: Error & { code?: string }): boolean {
  const { code, message = "" } = ((error instanceof ConnectError && error.cause) || error) as Error & { code?: string };
  if (code === "57P03" || code === "53300") return true;
  return (
    code?.startsWith("08") === true && /server_login_retry|query_wait_timeout|cannot connect to server/.test(message)
  );
}
