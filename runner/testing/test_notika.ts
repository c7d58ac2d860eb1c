import statement, { type RawValue, raw } from "sql-template-tag";
import { attemptOf } from "../attempt/attempt.ts";
import { openStore } from "../attempt/store.ts";
import { catchUnhandled } from "../attempt/unhandled.ts";
import { openEmbedded } from "../embedded/embedded.ts";
import { installVersion } from "../install/bundle.ts";
import { install } from "../install/install.ts";
import { publications, publish } from "../install/publish.ts";
import { silentLog } from "../log.ts";
import { releaseJobs, runDueJobs } from "../worker/graphile.ts";
import { nameInstallation } from "../worker/installation.ts";
import { type Duration, milliseconds } from "../workflow/duration.ts";
import type { Event } from "../workflow/event.ts";
import { type Tasks, toTasks } from "../workflow/load.ts";
import { openClock } from "./clock.ts";
import { openFaults } from "./faults.ts";

/** A row of `notika.runs`. */
export interface TestRun {
  id: string;
  workflow: string;
  state: string;
  attempts: number;
  event: Event;
  error: string | null;
}

/** A step of a run. */
export interface TestStep {
  name: string;
  state: "done" | "failed" | "retrying" | "waiting";
  result: unknown;
  attempts: number;
  error: string | null;
}

/** A Postgres in this process with Notika, your schema, and your tasks, which are published. */
export interface TestNotika extends AsyncDisposable {
  /** Runs a statement and returns its rows: ``await t.sql`insert into app.users (id) values (${7})` ``. */
  sql<Row extends object = Record<string, unknown>>(
    strings: TemplateStringsArray,
    ...values: RawValue[]
  ): Promise<Row[]>;
  /** Dispatches captured events and executes the runs that are due, until none is left. */
  settle(): Promise<void>;
  /**
   * Moves the time forward, for JavaScript's `Date` and for Postgres: `await t.advance("3 days")`.  Runs that become due
   * meanwhile are executed in order, each at its own time.
   */
  advance(duration: Duration): Promise<void>;
  /** All runs, in the order of their events. */
  runs(): Promise<TestRun[]>;
  /** The steps of a run, in the order in which they ended, and then its waits. */
  steps(run: string): Promise<TestStep[]>;
  /** Makes the next step of this name throw `error` instead of doing its work. */
  failNext(step: string, error?: Error): void;
  /** After the next step of this name is kept, the runner dies as by kill -9; another takes over immediately. */
  crashAfter(step: string): void;
  /** From now on each run starts over after every step, so that code outside of steps runs again and becomes visible. */
  replayEveryStep(on?: boolean): void;
  /** Deploys new tasks: from now on they execute all runs, also those that the old ones began. */
  upgrade(tasks: TestOptions["tasks"]): Promise<void>;
  close(): Promise<void>;
}

export interface TestOptions {
  /** SQL that creates the tables. */
  schema?: string;
  /** The folder of the task modules, or their exports by name. */
  tasks: string | Record<string, unknown>;
}

/**
 * Starts an embedded Postgres for a test, from a snapshot that the very first test makes.
 *
 *     const t = await createTestNotika({ schema: "create table users (…)", tasks: "tasks" });
 *     await t.sql`insert into public.users (email) values ('ada@example.com')`;
 *     await t.settle();
 *     expect(await t.runs()).toMatchObject([{ workflow: "welcome_email", state: "done" }]);
 */
export async function createTestNotika({ schema = "", tasks }: TestOptions): Promise<TestNotika> {
  let loaded: Tasks = await toTasks(tasks);

  const clock = openClock();
  const { database, close } = await openEmbedded({ prepare: install, version: await installVersion() });
  const store = openStore(database);
  const faults = openFaults();
  let installation: string;
  const endUnhandled = catchUnhandled();
  const neverStops = new AbortController().signal;

  async function publishAll() {
    for (const publication of publications(loaded)) await publish(database.execute, publication);
  }

  async function dispatchAll() {
    for (;;) {
      const [row] = await database.execute<{ events: number }>(statement`select notika.dispatch() as events`);
      if (!row?.events) return;
    }
  }

  async function runJobs() {
    const setting = { installation, database, store, log: silentLog, observeStep: faults.observer };
    const attempts = Object.entries(loaded).map(([name, task]) => [name, attemptOf(task, setting)]);
    await runDueJobs(database, Object.fromEntries(attempts), neverStops);
    await takeOver(faults.crashed());
  }

  /**
   * Takes over the runs of a dead runner, as other runners do: graphile-worker considers them failed, and would delay them.
   */
  async function takeOver(crashed: string[]) {
    if (crashed.length === 0) return;
    await releaseJobs(database, crashed);
    await database.transaction((execute) => execute(statement`select notika.maintain()`));
  }

  /** When the next run is due, in milliseconds since 1970; infinity: never. */
  async function nextDue(): Promise<number> {
    const names = JSON.stringify(Object.keys(loaded));
    const [row] = await database.execute<{ at: number | null }>(statement`
      select extract(epoch from notika._next_due(array(select json_array_elements_text(${names}::text::json))))
               ::float8 * 1000 as at`);
    return row?.at ?? Number.POSITIVE_INFINITY;
  }

  async function settle() {
    do {
      await dispatchAll();
      await runJobs();
    } while ((await nextDue()) <= Date.now());
  }

  async function shut() {
    clock[Symbol.dispose]();
    endUnhandled();
    await close();
  }

  try {
    await database.script(schema);
    await publishAll();
    installation = await nameInstallation(database);
  } catch (error) {
    await shut();
    throw error;
  }

  return {
    sql: (strings, ...values) => database.execute(statement(strings, ...values)),
    settle,
    async advance(duration) {
      const length = milliseconds(duration);
      if (length === undefined) {
        throw new TypeError(`advance needs a length of time, such as "3 days", not ${JSON.stringify(duration)}`);
      }
      // Only skipped time counts, not the moments in which runs work: a sleep of three days has ended after three days.
      let left = length;
      await settle();
      for (let due = await nextDue(); due - Date.now() <= left; due = await nextDue()) {
        const next = Math.max(Math.ceil(due), Date.now());
        left -= next - Date.now();
        clock.moveTo(next);
        await settle();
      }
      clock.moveTo(Date.now() + Math.max(0, left));
      await settle();
    },
    runs: () =>
      database.execute<TestRun>(
        raw("select run_id::text as id, workflow, state, attempts, event, error from notika.runs order by run_id"),
      ),
    steps: (run) =>
      database.execute<TestStep>(statement`
        select name, state, result, attempts::int, error
          from (select name, state, result, attempts, error, step_id, finished_at
                  from notika.step where run_id = ${run}::text::bigint
                union all
                select name, 'waiting', null, 0, null, null, created_at
                  from notika.wait where run_id = ${run}::text::bigint) as s
         order by step_id, finished_at, name`),
    failNext: faults.failNext,
    crashAfter: faults.crashAfter,
    replayEveryStep: faults.replayEveryStep,
    async upgrade(tasks) {
      loaded = await toTasks(tasks);
      await publishAll();
    },
    close: shut,
    [Symbol.asyncDispose]: shut,
  };
}
