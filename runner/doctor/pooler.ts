import type { Client } from "pg";
import { ConnectError } from "../connection/errors.ts";
import { findRoute } from "../connection/route.ts";
import { readSettings, type Settings, shown } from "../connection/settings.ts";
import { detectPooler, type PoolerMode } from "../database/pooler.ts";
import { ask } from "./ask.ts";
import { error, type Finding, ok, warning } from "./finding.ts";

/** Reports whether there is a pooler, and its mode, detected by its behaviour. */
export async function pooler(client: Client, settings: Settings, direct: string | undefined): Promise<Finding> {
  switch (await poolerMode(client, settings)) {
    case "none":
      return ok("pooler", "none: each connection has its server process");
    case "session":
      return ok("pooler", "there is one in session mode: a client keeps a server process for a whole connection");
    case "transaction": {
      const detail = "there is one in transaction mode: a client keeps a server process for one transaction";
      if (direct) return ok("pooler", `${detail}; NOTIKA_DIRECT_URL bypasses it`);
      return warning(
        "pooler",
        `${detail}: new events are found by polling, up to a second late, because LISTEN does not work through it`,
        "export NOTIKA_DIRECT_URL=postgres://… with the address of the server itself",
      );
    }
    case "statement":
      return error(
        "pooler",
        "there is one in statement mode: a client keeps a server process for one statement, but Notika needs transactions",
        "pool_mode = transaction for this database in pgbouncer.ini, or connect to the server itself",
      );
  }
}

/** Reports whether the direct address bypasses the pooler and is the same database. */
export async function directAddress(client: Client, text: string): Promise<Finding> {
  const settings = readSettings(text);
  const place = shown(settings);
  const found = await findRoute(settings).catch((cause) => {
    if (cause instanceof ConnectError) return cause;
    throw cause;
  });
  if (found instanceof ConnectError) return error("direct", `${place}: ${found.message}`, found.hint ?? null);
  try {
    const [here, there] = [await identity(client), await identity(found.client)];
    if (here !== there) {
      return error(
        "direct",
        `${place} is another database`,
        "NOTIKA_DIRECT_URL must be the address of the same database.",
      );
    }
    if (["none", "session"].includes(await poolerMode(found.client, settings)))
      return ok("direct", `${place} is the same database, and LISTEN works there`);
    return error("direct", `${place} goes through a pooler, too`, "NOTIKA_DIRECT_URL must name the server itself.");
  } finally {
    await found.client.end();
  }
}

async function identity(client: Client): Promise<string | undefined> {
  const [row] = await ask<{ id: string }>(
    client,
    "select concat_ws(' ', pg_postmaster_start_time(), oid) as id from pg_database where datname = current_database()",
  );
  return row?.id;
}

function poolerMode(client: Client, settings: Settings): Promise<PoolerMode> {
  return detectPooler(client, async () => (await findRoute(settings)).client);
}
