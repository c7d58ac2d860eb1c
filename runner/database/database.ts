import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, Pool, type PoolConfig } from "pg";
import sql from "sql-template-tag";
import { openConnector } from "../connection/connector.ts";
import { type Listener, type Listening, openListener } from "./listener.ts";
import { type Clients, openClients } from "./pool.ts";
import { query, type Statements } from "./statements.ts";
import { transact } from "./transaction.ts";

/** A Postgres database, on a server or in this process. */
export interface Database extends Statements {
  /** Runs a whole SQL file, several statements without parameters, in one implicit transaction unless it has its own. */
  script(text: string): Promise<void>;
  /** Statements with a deadline: one that takes longer fails with NOTIKA_NO_ANSWER, and its connection is closed. */
  within(milliseconds: number): Statements;
  /** Listens for NOTIFY, if the server supports it, on a connection of its own; reconnects when that connection is lost. */
  listen(listening: Listening): Listener;
  /** The connection string of the server; undefined: the Postgres runs in this process. */
  readonly address: string | undefined;
  /** The connections of all other statements, and of graphile-worker. */
  readonly pool: Pool;
  /** Takes a client of the pool, for callers that need a connection of their own. */
  acquire: Clients["acquire"];
  close(): Promise<void>;
}

export interface DatabaseOptions {
  /** A connection string as libpq reads it, or a function that opens a stream to a Postgres in this process. */
  connect: string | (() => Duplex);
  /** The connection string of the same database that bypasses a pooler without LISTEN. */
  direct?: string | undefined;
  connections?: number;
  onNotice?: (message: string) => void;
}

/** Opens a database lazily: nothing connects before the first statement. */
export function openDatabase({ connect, direct, connections = 4, onNotice }: DatabaseOptions): Database {
  const access = typeof connect === "string" ? toServer(connect) : toProcess(connect);
  const toListen = direct === undefined ? access : toServer(direct);
  const pool = openPool(access, connections, onNotice);
  const { withClient, acquire } = openClients(pool);
  const within = (milliseconds?: number): Statements => ({
    execute: (statement) => withClient((client) => query(client, statement), milliseconds) as never,
    transaction: (work) =>
      withClient(
        (client) => transact(client, work, milliseconds === undefined ? within(10_000) : undefined),
        milliseconds,
      ),
  });

  const listeners = new Set<Listener>();
  let closed: Promise<unknown> | undefined;
  return {
    ...within(),
    within,
    address: typeof connect === "string" ? connect : undefined,
    pool,
    acquire,
    async script(text) {
      await withClient((client) => client.query(text));
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
        // A task that does not end keeps its client, so the pool would never end.
        Promise.race([pool.end(), sleep(5000, undefined, { ref: false })]),
      ]);
      await closed;
    },
  };
}

/** The options of every connection. */
type Access = Pick<PoolConfig, "stream" | "user" | "database" | "password" | "application_name" | "options">;

function toServer(text: string): Access {
  const { settings, connect, password } = openConnector(text);
  const { user, database, startup } = settings;
  return { stream: connect, user, database, password, ...startup };
}

function toProcess(connect: () => Duplex): Access {
  return { stream: connect, user: "postgres", database: "postgres", password: "", application_name: "notika" };
}

/** The stream negotiates TLS itself, so the driver must not, whatever the environment sets. */
const unencrypted = { ssl: false, ...({ sslnegotiation: "postgres" } as object) };

function openPool(access: Access, connections: number, onNotice: DatabaseOptions["onNotice"]): Pool {
  const pool = new Pool({
    ...access,
    ...unencrypted,
    max: connections,
    idleTimeoutMillis: 60_000,
    maxLifetimeSeconds: 3600,
  });
  // graphile-worker expects both handlers.  The pool replaces a broken idle connection; a query that ran on it reports the error.
  pool.on("error", () => {});
  pool.on("connect", (client) => {
    client.on("error", () => {});
    client.on("notice", ({ message }) => onNotice?.(message ?? ""));
  });
  return pool;
}

/** A connection of its own, for short queries; the caller ends it. */
async function openClient(access: Access): Promise<Client> {
  const client = new Client({ ...access, ...unencrypted, query_timeout: 10_000 });
  client.on("error", () => {}); // a query that ran on it reports the error
  await client.connect();
  return client;
}
