import { setTimeout } from "node:timers/promises";
import type { Client } from "pg";
import { ConnectError } from "../connection/error.ts";
import { readSettings, type Settings, shown } from "../connection/settings.ts";
import { findWay } from "../connection/way.ts";
import { error, type Finding, ok, warning } from "./finding.ts";

/** Whether a pooler is in between, and when it takes the server away from a client: told by what it does. */
export async function pooler(client: Client, settings: Settings, direct: string | undefined): Promise<Finding> {
  switch (await mode(client, settings)) {
    case "none":
      return ok("pooler", "none: each connection has its server process");
    case "session":
      return ok("pooler", "there is one, which lends a server process for a whole connection (session mode)");
    case "transaction": {
      const detail = "there is one, which lends a server process for a transaction (transaction mode)";
      if (direct) return ok("pooler", `${detail}; NOTIKA_DIRECT_URL leads past it`);
      return warning(
        "pooler",
        `${detail}: new events are found by polling, up to a second late, because LISTEN does not work through it`,
        "export NOTIKA_DIRECT_URL=postgres://… with the address of the server itself",
      );
    }
    case "statement":
      return error(
        "pooler",
        "there is one, which lends a server process for a statement (statement mode): Notika needs transactions",
        "pool_mode = transaction for this database in pgbouncer.ini, or connect to the server itself",
      );
  }
}

/** Whether the address that is to lead past the pooler leads there, and to the same database. */
export async function directAddress(client: Client, text: string): Promise<Finding> {
  const settings = readSettings(text);
  const place = shown(settings);
  const found = await findWay(settings).catch((cause) => {
    if (cause instanceof ConnectError) return cause;
    throw cause;
  });
  if (found instanceof ConnectError) return error("direct", `${place}: ${found.message}`, found.hint ?? null);
  try {
    const [here, there] = [await identity(client), await identity(found.client)];
    if (here !== there) {
      return error("direct", `${place} is another database`, "NOTIKA_DIRECT_URL has to lead to the same one.");
    }
    if (["none", "session"].includes(await mode(found.client, settings))) return ok("direct", `${place} leads there`);
    return error("direct", `${place} leads through a pooler, too`, "NOTIKA_DIRECT_URL has to name the server itself.");
  } finally {
    await found.client.end();
  }
}

async function identity(client: Client): Promise<string> {
  const { rows } = await client.query<{ id: string }>(
    "select concat_ws(' ', pg_postmaster_start_time(), oid) as id from pg_database where datname = current_database()",
  );
  return (rows[0] as { id: string }).id;
}

type Mode = "none" | "session" | "transaction" | "statement";

async function mode(client: Client, settings: Settings): Promise<Mode> {
  // A pooler hands out keys of its own to cancel by.
  const { processID } = client as unknown as { processID: number };
  if ((await serverProcess(client)) === processID) return "none";
  if (await refusesTransactions(settings)) return "statement";
  return (await sharesProcesses(client, settings)) ? "transaction" : "session";
}

async function serverProcess(client: Client): Promise<number> {
  const { rows } = await client.query<{ pid: number }>("select pg_backend_pid() as pid");
  return (rows[0] as { pid: number }).pid;
}

/** Tried on a connection of its own, because the pooler closes it. */
async function refusesTransactions(settings: Settings): Promise<boolean> {
  return withAnother(settings, (other) =>
    other.query("begin").then(
      () => other.query("rollback").then(() => false),
      () => true,
    ),
  );
}

/** Whether another connection gets the process of this one while both are open, or this one changes it. */
async function sharesProcesses(client: Client, settings: Settings): Promise<boolean> {
  return withAnother(settings, async (other) => {
    const own = new Set<number>();
    for (let count = 0; count < 5; count++) {
      own.add(await serverProcess(client));
      // A pooler without another process lets it wait: this one is kept.
      const taken = await soon(other.query("begin").then(() => serverProcess(other)));
      if (taken === undefined) return false;
      if (own.has(taken)) return true;
      const again = await soon(serverProcess(client));
      await other.query("rollback");
      if (again === undefined || !own.has(again)) return true;
    }
    return false;
  });
}

async function withAnother<T>(settings: Settings, work: (other: Client) => Promise<T>): Promise<T> {
  const { client, socket } = await findWay(settings);
  try {
    return await work(client);
  } finally {
    client.end().catch(() => {});
    socket.destroy();
  }
}

async function soon<T>(work: Promise<T>): Promise<T | undefined> {
  const timer = new AbortController();
  work.catch(() => {});
  return Promise.race([work, setTimeout(2000, undefined, { signal: timer.signal })]).finally(() => timer.abort());
}
