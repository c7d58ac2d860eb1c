import { EventEmitter } from "node:events";
import { type Job, Logger, runOnce } from "graphile-worker";
import statement, { type RawValue, raw } from "sql-template-tag";
import { installVersion } from "../bundle.ts";
import { install } from "../install.ts";
import { silentLog } from "../log.ts";
import { openMemory } from "../memory.ts";
import { openOutcomes } from "../outcomes.ts";
import { openEmbedded } from "../pglite/embedded.ts";
import { publish } from "../publish.ts";
import { makeTask } from "../run.ts";
import { toTasks } from "../tasks.ts";
import { workerPreset } from "../worker.ts";
import type { Event } from "../workflow.ts";

/** A run, as `notika.runs` shows it. */
export interface TestRun {
  id: string;
  workflow: string;
  state: string;
  attempts: number;
  event: Event;
  error: string | null;
}

/** A Postgres in this process with Notika in it, your schema, and your tasks published. */
export interface TestNotika extends AsyncDisposable {
  /** Runs a statement and gives its rows: ``await t.sql`insert into app.users (id) values (${7})` ``. */
  sql<Row extends object = Record<string, unknown>>(
    strings: TemplateStringsArray,
    ...values: RawValue[]
  ): Promise<Row[]>;
  /** Hands captured events over and runs what is due, until nothing is. */
  settle(): Promise<void>;
  /** All runs, in the order of their events. */
  runs(): Promise<TestRun[]>;
  close(): Promise<void>;
}

export interface TestOptions {
  /** SQL that makes the tables. */
  schema?: string;
  /** The folder of the task modules, or what they export, by name. */
  tasks: string | Record<string, unknown>;
}

/**
 * Starts a test world: real Postgres, in process, from a snapshot that the first test of all makes.
 *
 *     const t = await createTestNotika({ schema: "create table users (…)", tasks: "tasks" });
 *     await t.sql`insert into public.users (email) values ('ada@example.com')`;
 *     await t.settle();
 *     expect(await t.runs()).toMatchObject([{ workflow: "welcome_email", state: "done" }]);
 */
export async function createTestNotika({ schema = "", tasks }: TestOptions): Promise<TestNotika> {
  const loaded = await toTasks(tasks);

  const embedded = await openEmbedded({ prepare: install, version: await installVersion() });
  const { database } = embedded;
  try {
    await database.script(schema);
    for (const [name, { on }] of Object.entries(loaded)) if (on) await publish(database.execute, name, on);
  } catch (error) {
    await embedded.close();
    throw error;
  }

  const finish = openOutcomes(database);
  const memory = openMemory(database);
  const signal = new AbortController().signal;
  const taskList = Object.fromEntries(
    Object.entries(loaded).map(([name, task]) => {
      const attempt = makeTask(task, { database, memory, finish, log: silentLog });
      return [name, (payload: unknown, { job }: { job: Job }) => attempt(payload, job, signal)];
    }),
  );

  async function dispatchAll() {
    for (;;) {
      const [row] = await database.execute<{ events: number }>(statement`select notika.dispatch() as events`);
      if (!row?.events) return;
    }
  }

  async function isDue() {
    const [row] = await database.execute<{ due: boolean }>(statement`
      select exists (select from notika.runs where state = 'ready' and workflow = any (
               array(select json_array_elements_text(${JSON.stringify(Object.keys(loaded))}::text::json)))) as due`);
    return row?.due === true;
  }

  const close = () => embedded.close();
  return {
    sql: (strings, ...values) => database.execute(statement(strings, ...values)),
    async settle() {
      do {
        await dispatchAll();
        await runOnce({
          pgPool: database.pool,
          taskList,
          events: new EventEmitter(),
          logger: new Logger(() => () => {}),
          noHandleSignals: true,
          preset: workerPreset(1),
        });
      } while (await isDue());
    },
    runs: () =>
      database.execute<TestRun>(
        raw("select run_id::text as id, workflow, state, attempts, event, error from notika.runs order by run_id"),
      ),
    close,
    [Symbol.asyncDispose]: close,
  };
}
