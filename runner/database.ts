import type { Duplex } from "node:stream";
import type { Pool, PoolConfig } from "pg";
import postgres from "postgres";
import type { Sql as Statement } from "sql-template-tag";
import { openConnector } from "./connection/connector.ts";
import { PgPool } from "./connection/pg.ts";

/** Runs one statement now and gives its rows. */
export type Execute = <Row extends object = Record<string, unknown>>(statement: Statement) => Promise<Row[]>;

/** A Postgres, on a server or in this process. */
export interface Database {
  execute: Execute;
  /** Runs statements in one READ COMMITTED transaction: all of them, or, when `work` throws, none. */
  transaction<T>(work: (execute: Execute) => Promise<T>): Promise<T>;
  /** Runs a whole SQL file, several statements without parameters, in one implicit transaction unless it has its own. */
  script(text: string): Promise<void>;
  /** Calls `onNotification` for each NOTIFY; listens again by itself after a lost connection. */
  listen(channel: string, onNotification: (payload: string) => void): Promise<() => Promise<void>>;
  /** Connections for graphile-worker. */
  readonly pool: Pool;
  close(): Promise<void>;
}

export interface DatabaseOptions {
  /** Where the server is, as libpq reads it, or what connects to a Postgres in this process. */
  connect: string | (() => Duplex);
  connections?: number;
  onNotice?: (message: string) => void;
}

/** Opens a database lazily: nothing connects before the first statement. */
export function openDatabase({ connect, connections = 4, onNotice }: DatabaseOptions): Database {
  const access = typeof connect === "string" ? toServer(connect) : toProcess(connect);
  const client = openClient(access, connections, onNotice);

  const executeOn =
    (on: postgres.Sql | postgres.TransactionSql): Execute =>
    async (statement) =>
      [...(await on.unsafe(statement.text, statement.values as postgres.ParameterOrJSON<never>[]))] as never;

  let pool: Pool | undefined;
  return {
    execute: executeOn(client),
    transaction: (work) => client.begin("isolation level read committed", (tx) => work(executeOn(tx))) as never,
    async script(text) {
      await client.unsafe(text).simple();
    },
    async listen(channel, onNotification) {
      const { unlisten } = await client.listen(channel, onNotification);
      return unlisten;
    },
    get pool() {
      pool ??= openPool(access, connections);
      return pool;
    },
    async close() {
      await Promise.all([client.end({ timeout: 5 }), pool?.end()]);
    },
  };
}

/** What both drivers are given, so that both do the same. */
interface Access {
  connect: () => Duplex;
  user: string;
  database: string;
  password: () => string;
  startup: { application_name: string; options?: string };
}

function toServer(text: string): Access {
  const { settings, connect, password } = openConnector(text);
  const { user, database, startup } = settings;
  return { connect, user, database, password, startup };
}

function toProcess(connect: () => Duplex): Access {
  const startup = { application_name: "notika" };
  return { connect, user: "postgres", database: "postgres", password: () => "", startup };
}

function openClient(
  { connect, user, database, password, startup }: Access,
  connections: number,
  onNotice: DatabaseOptions["onNotice"],
) {
  return postgres({
    // `socket` works but is missing from the type file.
    ...({ socket: async () => connect() } as object),
    user,
    database,
    pass: password,
    ssl: false,
    max: connections,
    prepare: false, // a transaction-mode pooler hands each statement to another server connection
    connect_timeout: 0, // the stream has its own
    connection: startup,
    onnotice: (notice) => onNotice?.(notice.message ?? ""),
  });
}

function openPool({ connect, user, database, password, startup }: Access, connections: number): Pool {
  const pool = new PgPool({
    stream: connect as NonNullable<PoolConfig["stream"]>,
    user,
    database,
    password,
    ...startup,
    ssl: false,
    // Not from the environment: the stream is encrypted already.
    ...({ sslnegotiation: "postgres" } as object),
    max: connections,
  });
  // graphile-worker wants both; a broken idle connection is replaced by the pool, what was running on it reports for itself.
  pool.on("error", () => {});
  pool.on("connect", (client) => void client.on("error", () => {}));
  return pool;
}
