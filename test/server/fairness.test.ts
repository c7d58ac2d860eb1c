import { setTimeout } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { workflow } from "../../runner/index.ts";
import { silentLog } from "../../runner/log.ts";
import { createRunner, type Runner } from "../../runner/worker/index.ts";
import { installed, startInstalled } from "../support/installed.ts";

let server: Awaited<ReturnType<typeof startInstalled>>;
let url: string;
let database: Database;
let runner: Runner | undefined;

beforeAll(async () => {
  server = await startInstalled({ major: 18 });
});
afterAll(() => server?.stop());

beforeEach(async () => {
  url = await server.createDatabase(undefined, installed);
  database = openDatabase({ connect: url, connections: 4 });
  await database.script(`
    create table public.many (id int);
    create table public.single (id int);
    select notika.publish('many', 'public.many'), notika.publish('single', 'public.single')`);
});
afterEach(async () => {
  await runner?.stop(0);
  runner = undefined;
  await database.close();
});

test("single events start within a second while another workflow has a backlog of many, and so does a retry", async () => {
  const committed: number[] = [];
  const started: number[] = [];
  let refused: number | undefined;
  let retried: number | undefined;
  let many = 0;
  await start({
    async many() {
      await setTimeout(5);
      many++;
    },
    async single(id) {
      started[id] ??= performance.now();
      if (id > 0) return;
      if (refused !== undefined) retried = performance.now();
      else {
        refused = performance.now();
        throw new Error("not yet");
      }
    },
  });
  await add("single", 0);
  await until(() => refused !== undefined);
  await database.script("insert into public.many select generate_series(1, 16000)");
  await handedOver();

  for (let id = 1; id <= 25; id++) {
    await add("single", id);
    committed[id] = performance.now();
    await setTimeout(100);
  }
  await until(() => retried !== undefined);
  expect(many).toBeLessThan(16_000);
  await until(() => started.length === 26);

  const waits = committed.map((at, id) => (started[id] as number) - at).slice(1);
  expect(Math.max(...waits)).toBeLessThan(1000);
  expect(waits.toSorted((a, b) => a - b)[12]).toBeLessThan(300);
  // graphile-worker tries again e seconds after the failure; then it is seen within a second.
  expect((retried ?? 0) - (refused ?? 0)).toBeLessThan(2718 + 2000);
});

test("two workflows with a backlog have equal shares of a runner", async () => {
  const runs = { many: 0, single: 0 };
  await database.script(`
    insert into public.many select generate_series(1, 6000);
    insert into public.single select generate_series(1, 2000)`);
  await database.execute(raw("select notika.dispatch(10000)"));
  await start({
    many: () => setTimeout(2).then(() => void runs.many++),
    single: () => setTimeout(2).then(() => void runs.single++),
  });

  await until(() => runs.single > 800);

  expect(runs.many / runs.single).toBeGreaterThan(0.8);
  expect(runs.many / runs.single).toBeLessThan(1.25);
});

async function start(tasks: Record<string, (id: number) => Promise<void>>) {
  runner = await createRunner({
    url,
    tasks: Object.fromEntries(
      Object.entries(tasks).map(([name, run]) => [
        name,
        workflow<{ id: number }>({ run: ({ event }) => run(Number(event.new?.id)) }),
      ]),
    ),
    concurrency: 10,
    log: silentLog,
  });
}

async function add(table: string, id: number) {
  await database.script(`insert into public.${table} values (${id})`);
}

async function handedOver() {
  await until(async () => {
    const [row] = await database.execute<{ done: boolean }>(raw("select events_waiting = 0 as done from notika.lag"));
    return row?.done === true;
  });
}

async function until(isSo: () => boolean | Promise<boolean>) {
  while (!(await isSo())) await setTimeout(5);
}
