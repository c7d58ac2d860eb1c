import { raw, type Sql } from "sql-template-tag";
import { test as base } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { type Embedded, openEmbedded } from "../../runner/embedded/embedded.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import type { Major } from "./binaries.ts";
import { installed, startInstalled } from "./installed.ts";

/** One session with its own transaction. */
export interface Connection {
  query<Row extends object = Record<string, unknown>>(text: string, values?: unknown[]): Promise<Row[]>;
  close(): Promise<void>;
}

/** A database with Notika installed and nothing else. */
export interface TestDatabase {
  engine: Engine;
  query: Connection["query"];
  /** Runs several statements. */
  script(text: string): Promise<void>;
  database: Database;
  /** A further session; only a real server has more than one. */
  connect(): Promise<Connection>;
}

export type Engine = "pglite" | `${Major}`;

/** What the tests run on. */
export const engine = (process.env.NOTIKA_TEST_POSTGRES ?? "pglite") as Engine;

/** Whether there is time for all cases of what has many, as in `npm run test:all`. */
export const isThorough = Boolean(process.env.NOTIKA_TEST_ALL);

/** A test that is given `db`. */
export const test = base
  // One a worker: starting it takes longer than most tests.
  .extend("server", { scope: "worker" }, async ({}, { onCleanup }) => {
    const server = await (engine === "pglite" ? startEmbedded() : startServer(Number(engine) as Major));
    onCleanup(server.stop);
    return server;
  })
  .extend("db", async ({ server }, { onCleanup }): Promise<TestDatabase> => {
    const { db, release } = await server.cleanDatabase();
    onCleanup(release);
    return db;
  });

/**
 * What every test of the guard, of roles, copies and the installation has beside its own: a workflow that is published on
 * no table, so that nobody forgets them.  Its id is 0, because tests name triggers by theirs.
 */
export const workflowWithoutTable = `
  alter sequence notika.workflow_workflow_id_seq minvalue 0 restart with 0;
  select notika.schedule('without_table', '0 7 29 2 *');
  alter sequence notika.workflow_workflow_id_seq minvalue 1 restart with 1;`;

/** A test that is given `db` with such a workflow. */
export const testBeside = test.extend("db", async ({ db }) => {
  await db.script(workflowWithoutTable);
  return db;
});

interface Server {
  cleanDatabase(): Promise<{ db: TestDatabase; release(): Promise<void> }>;
  stop(): Promise<void>;
}

async function startEmbedded(): Promise<Server> {
  let embedded = await openInstalled();
  let isUsed = false;
  return {
    async cleanDatabase() {
      if (isUsed) embedded = await reset(embedded);
      isUsed = true;
      const connect = async () => {
        throw new Error("PGlite has one session: a test that needs two belongs in test/server");
      };
      return { db: testDatabase(embedded.database, connect), async release() {} };
    },
    stop: () => embedded.close(),
  };
}

/** Undoes whatever a test did to its database. */
async function reset(used: Embedded): Promise<Embedded> {
  await used.close();
  return openInstalled();
}

async function openInstalled(): Promise<Embedded> {
  return openEmbedded({ prepare: install, version: await installVersion() });
}

async function startServer(major: Major): Promise<Server> {
  const postgres = await startInstalled({ major });
  const admin = openDatabase({ connect: postgres.url, connections: 1 });
  const roles = new Set(await roleNames(admin));

  return {
    async cleanDatabase() {
      const url = await postgres.createDatabase(undefined, installed);
      const open: { close(): Promise<void> }[] = [];
      const opened = (connections?: number) => {
        const database = openDatabase({ connect: url, ...(connections && { connections }) });
        open.push(database);
        return database;
      };
      const connect = async () => {
        const { execute, close } = opened(1);
        return { query: queryOn(execute), close };
      };
      return {
        db: testDatabase(opened(), connect),
        async release() {
          await Promise.all(open.map((it) => it.close()));
          await admin.execute(raw(`drop database "${url.split("/").at(-1)}" with (force)`));
          // Roles belong to all databases.
          for (const name of await roleNames(admin)) {
            if (!roles.has(name)) await admin.execute(raw(`drop role "${name.replaceAll('"', '""')}"`));
          }
        },
      };
    },
    async stop() {
      await admin.close();
      await postgres.stop();
    },
  };
}

function testDatabase(database: Database, connect: TestDatabase["connect"]): TestDatabase {
  return { engine, database, connect, query: queryOn(database.execute), script: database.script };
}

function queryOn(execute: Database["execute"]): Connection["query"] {
  return (text, values = []) => execute({ text, values } as Sql);
}

async function roleNames({ execute }: Database): Promise<string[]> {
  return (await execute<{ name: string }>(raw("select rolname as name from pg_roles"))).map(({ name }) => name);
}
