import type { Sql } from "sql-template-tag";
import { test as base } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import type { Major } from "../support/binaries.ts";
import { isThorough, workflowWithoutTable } from "../support/database.ts";
import { installed, startInstalled } from "../support/installed.ts";
import type { Postgres } from "../support/postgres.ts";

/** The PostgreSQL that these tests run on. */
export const major = Number(process.env.NOTIKA_TEST_POSTGRES ?? 18) as Major;

/** Where what hardly depends on the version is tried, if the tests start their own servers: on the oldest too if there is time. */
export const versions: readonly Major[] = major === 18 && !isThorough ? [18] : [15, 18];

/** One session, its transactions its own. */
export interface Session {
  query<Row extends object = Record<string, unknown>>(text: string, values?: unknown[]): Promise<Row[]>;
  /** The first column of the first row. */
  value<Value = unknown>(text: string, values?: unknown[]): Promise<Value>;
  database: Database;
  close(): Promise<void>;
}

/** A database with Notika and a published table: `item (id int primary key, n int)`, workflow `watch_item`. */
export interface Arena extends Session {
  url: string;
  connect(onNotice?: (message: string) => void): Promise<Session>;
}

/** A test on a real server, which is given a database of its own. */
export const test = base
  .extend("cluster", { scope: "worker" }, async ({}, { onCleanup }) => {
    const cluster = await startCluster();
    onCleanup(() => stopCluster(cluster));
    return cluster;
  })
  .extend("db", async ({ cluster }, { onCleanup }): Promise<Arena> => {
    const db = await openArena(cluster);
    onCleanup(db.close);
    return db;
  });

/** A server with a database to copy for each test; unique: no other has its system identifier. */
export async function startCluster(
  settings: Record<string, string> = {},
  version = major,
  env: Record<string, string> = {},
  isUnique = false,
): Promise<Postgres> {
  const postgres = await startInstalled({
    major: version,
    env,
    isUnique,
    settings: { max_connections: "60", deadlock_timeout: "50ms", lock_timeout: "10s", ...settings },
  });
  const model = openDatabase({ connect: await postgres.createDatabase("model", installed), connections: 1 });
  await model.script(`
    ${workflowWithoutTable}
    create table item (id int primary key, n int not null default 0);
    select notika.publish('watch_item', 'public.item', operations => '{insert,update,delete}', columns => '{id,n}');`);
  await model.close();
  return postgres;
}

/** Ends it at once: a server that writes down all that was done to it takes its time. */
export async function stopCluster(cluster: Postgres): Promise<void> {
  await cluster.kill("SIGQUIT");
  await cluster.stop();
}

/** A server to restore into what was dumped at another. */
export const startAnotherCluster = (version: Major) => startCluster({}, version, {}, true);

export async function openArena(cluster: Postgres): Promise<Arena> {
  const url = await cluster.createDatabase(undefined, "model");
  const sessions: Session[] = [];
  const connect = async (onNotice?: (message: string) => void) => {
    const session = openSession(url, onNotice);
    sessions.push(session);
    return session;
  };
  return {
    url,
    connect,
    ...(await connect()),
    async close() {
      await Promise.all(sessions.map((session) => session.close()));
    },
  };
}

export function openSession(connect: string, onNotice?: (message: string) => void): Session {
  const database = openDatabase({ connect, connections: 1, ...(onNotice && { onNotice }) });
  const query: Session["query"] = (text, values = []) => database.execute({ text, values } as Sql);
  return {
    query,
    async value(text, values) {
      const [row] = await query(text, values);
      return Object.values(row ?? {})[0] as never;
    },
    database,
    close: () => database.close(),
  };
}

/** Hands over until there is nothing left; how many events each call handed over. */
export async function drain(session: Session, maxEvents = 1000): Promise<number[]> {
  const calls: number[] = [];
  for (;;) {
    const events = await session.value<number | null>(`select notika.dispatch(${maxEvents})`);
    if (events === 0) return calls;
    if (events !== null) calls.push(events);
  }
}

/** The `id` of the row that each job is about, in the order of the jobs. */
export async function jobs(session: Session): Promise<number[]> {
  const rows = await session.query<{ id: number }>(`
    select (payload -> 'new' ->> 'id')::int as id
      from notika_worker._private_jobs
     order by run_at, key::bigint`);
  return rows.map(({ id }) => id);
}

/** Runs SQL in a transaction that this session leaves open. */
export async function begin(session: Session, text: string, isolation = "read committed"): Promise<void> {
  await session.query(`begin isolation level ${isolation}`);
  await session.database.script(text);
}

export const commit = (session: Session) => session.query("commit");

/** Ends when `condition` is true in the eyes of this session. */
export async function until(session: Session, condition: string): Promise<void> {
  while (!(await session.value<boolean>(`select ${condition}`))) await new Promise((go) => setTimeout(go, 10));
}
