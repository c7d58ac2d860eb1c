import { createRequire } from "node:module";
import type { Duplex } from "node:stream";
import type { Pool, PoolConfig } from "pg";
import postgres from "postgres";
import type { Sql as Statement } from "sql-template-tag";

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
  /** Where the server is, or what connects to a Postgres in this process. */
  connect: string | (() => Duplex);
  connections?: number;
  onNotice?: (message: string) => void;
}

// The pg that graphile-worker brings along, so that there is one: it calls its own pool's methods.
const { Pool: PgPool } = createRequire(createRequire(import.meta.url).resolve("graphile-worker"))(
  "pg",
) as typeof import("pg");

/** Opens a database lazily: nothing connects before the first statement. */
export function openDatabase({ connect, connections = 4, onNotice }: DatabaseOptions): Database {
  const settings = {
    max: connections,
    prepare: false, // a transaction-mode pooler hands each statement to another server connection
    connect_timeout: 10,
    connection: { application_name: "notika" },
    onnotice: (notice: postgres.Notice) => onNotice?.(notice.message ?? ""),
  } satisfies postgres.Options<Record<string, never>>;
  const client =
    typeof connect === "string"
      ? postgres(connect, settings)
      : // `socket` works but is missing from the type file.
        postgres({
          ...settings,
          socket: async () => connect(),
          user: "postgres",
          database: "postgres",
        } as typeof settings);

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
      pool ??= openPool(connect, connections);
      return pool;
    },
    async close() {
      await Promise.all([client.end({ timeout: 5 }), pool?.end()]);
    },
  };
}

function openPool(connect: DatabaseOptions["connect"], connections: number): Pool {
  const config: PoolConfig =
    typeof connect === "string"
      ? { connectionString: connect }
      : { stream: connect as NonNullable<PoolConfig["stream"]>, user: "postgres", database: "postgres" };
  const pool = new PgPool({ ...config, max: connections, application_name: "notika" });
  // graphile-worker wants both; a broken idle connection is replaced by the pool, what was running on it reports for itself.
  pool.on("error", () => {});
  pool.on("connect", (client) => void client.on("error", () => {}));
  return pool;
}
