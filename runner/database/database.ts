import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Client, Pool, PoolConfig } from "pg";
import sql from "sql-template-tag";
import { openConnector } from "../connection/connector.ts";
import { PgClient, PgPool } from "../connection/pg.ts";
import { type Listener, type Listening, openListener } from "./listener.ts";
import { type Lending, openLending } from "./pool.ts";
import { query, type Statements } from "./statements.ts";
import { transact } from "./transaction.ts";

/** A Postgres, on a server or in this process. */
export interface Database extends Statements {
  /** Runs a whole SQL file, several statements without parameters, in one implicit transaction unless it has its own. */
  script(text: string): Promise<void>;
  /** The same for statements that take no longer: later they fail, and their connection is closed. */
  within(milliseconds: number): Statements;
  /** Hears NOTIFY, where that is possible, on a connection of its own, which it opens again when it is lost. */
  listen(listening: Listening): Listener;
  /** Where the server is, as it was named; undefined: in this process. */
  readonly address: string | undefined;
  /** The connections of all the others, and of graphile-worker. */
  readonly pool: Pool;
  /** One of them, for whoever has to have a connection. */
  borrow: Lending["borrow"];
  close(): Promise<void>;
}

export interface DatabaseOptions {
  /** Where the server is, as libpq reads it, or what connects to a Postgres in this process. */
  connect: string | (() => Duplex);
  /** The same database past a pooler that has no LISTEN. */
  direct?: string | undefined;
  connections?: number;
  onNotice?: (message: string) => void;
}

/** Opens a database lazily: nothing connects before the first statement. */
export function openDatabase({ connect, direct, connections = 4, onNotice }: DatabaseOptions): Database {
  const access = typeof connect === "string" ? toServer(connect) : toProcess(connect);
  const toListen = direct === undefined ? access : toServer(direct);
  const pool = openPool(access, connections, onNotice);
  const { lend, borrow } = openLending(pool);
  const within = (milliseconds?: number): Statements => ({
    execute: (statement) => lend((client) => query(client, statement), milliseconds) as never,
    transaction: (work) =>
      lend((client) => transact(client, work, milliseconds === undefined ? within(10_000) : undefined), milliseconds),
  });

  const listeners = new Set<Listener>();
  let closed: Promise<unknown> | undefined;
  return {
    ...within(),
    within,
    address: typeof connect === "string" ? connect : undefined,
    pool,
    borrow,
    async script(text) {
      await lend((client) => client.query(text));
    },
    listen(listening) {
      const listener = openListener({
        ...listening,
        connect: () => openClient(toListen),
        notify: (channel) => within(10_000).execute(sql`select pg_notify(${channel}, '')`),
      });
      listeners.add(listener);
      return listener;
    },
    async close() {
      closed ??= Promise.all([
        ...[...listeners].map((listener) => listener.close()),
        // A task that does not end keeps its connection.
        Promise.race([pool.end(), sleep(5000, undefined, { ref: false })]),
      ]);
      await closed;
    },
  };
}

/** What every connection is made with. */
type Access = Pick<PoolConfig, "stream" | "user" | "database" | "password" | "application_name" | "options">;

function toServer(text: string): Access {
  const { settings, connect, password } = openConnector(text);
  const { user, database, startup } = settings;
  return { stream: connect, user, database, password, ...startup };
}

function toProcess(connect: () => Duplex): Access {
  return { stream: connect, user: "postgres", database: "postgres", password: "", application_name: "notika" };
}

/** What the stream has done already must not be done again, whatever the environment says. */
const unencrypted = { ssl: false, ...({ sslnegotiation: "postgres" } as object) };

function openPool(access: Access, connections: number, onNotice: DatabaseOptions["onNotice"]): Pool {
  const pool = new PgPool({
    ...access,
    ...unencrypted,
    max: connections,
    idleTimeoutMillis: 60_000,
    maxLifetimeSeconds: 3600,
  });
  // graphile-worker wants both; a broken idle connection is replaced by the pool, what was running on it reports for itself.
  pool.on("error", () => {});
  pool.on("connect", (client) => {
    client.on("error", () => {});
    client.on("notice", ({ message }) => onNotice?.(message ?? ""));
  });
  return pool;
}

/** A connection of its own, for short questions; whoever opens it ends it. */
async function openClient(access: Access): Promise<Client> {
  const client = new PgClient({ ...access, ...unencrypted, query_timeout: 10_000 });
  client.on("error", () => {}); // what was running on it reports for itself
  await client.connect();
  return client;
}
