import { setImmediate, setTimeout } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { silentLog } from "../../runner/log.ts";
import { createRunner, type Runner } from "../../runner/worker/index.ts";
import { installed, startInstalled } from "../support/installed.ts";

let server: Awaited<ReturnType<typeof startInstalled>>;
let url: string;
let database: Database;
let runners: Runner[];

beforeAll(async () => {
  server = await startInstalled({ major: 18 });
});
afterAll(() => server?.stop());

beforeEach(async () => {
  url = await server.createDatabase(undefined, installed);
  database = openDatabase({ connect: url, connections: 2 });
  await database.script("create table public.work (id int); select notika.publish('work', 'public.work')");
  runners = [];
});
afterEach(async () => {
  await Promise.all(runners.map((runner) => runner.stop(0)));
  await database.close();
});

describe("a runner", () => {
  test("has as many tasks at work as it may, and never one more, however quick they are", async () => {
    const seen: string[] = [];
    let atWork = 0;
    let peak = 0;
    await add(1, 3000);

    await start(5, async (id) => {
      peak = Math.max(peak, ++atWork);
      await setImmediate();
      seen.push(id);
      atWork--;
    });
    await until(() => seen.length === 3000);

    expect(peak).toBe(5);
    expect(new Set(seen).size).toBe(3000);
    await untilDone(3000);
  });

  test("begins the next run while the outcome of the last one is still being written", async () => {
    const first = holdBack();
    const seen: string[] = [];
    await start(1, async (id) => {
      seen.push(id);
      await first.over;
    });
    await add(1, 3);
    await until(() => seen.length === 1);
    const blocker = openDatabase({ connect: url, connections: 1 });
    await blocker.transaction(async (execute) => {
      await execute(raw("lock table notika.run_log in exclusive mode"));
      first.end();
      await until(() => seen.length === 3);
    });
    await blocker.close();

    expect(seen.sort()).toEqual(["1", "2", "3"]);
    await untilDone(3);
  });

  test("looks once for the jobs of an event that it has dispatched itself", async () => {
    await database.script(
      `do $$ begin execute format('alter database %I set track_functions = ''all''', current_database()); end $$`,
    );
    let seen = 0;
    await start(5, async () => void seen++);
    await add(1, 1);
    await until(() => seen === 1);
    const before = await claims();

    for (let id = 2; id <= 61; id++) {
      await add(id, id);
      await until(() => seen === id);
      await setTimeout(20); // for a second look, if there were one
    }

    const looks = (await claims()) - before;
    expect(looks).toBeGreaterThan(30);
    expect(looks).toBeLessThan(85); // 60, and those of its poll
  });

  test("leaves to another what would have to wait for its own slow tasks", async () => {
    const slow = holdBack();
    const first: string[] = [];
    const second: string[] = [];
    await start(2, (id) => {
      first.push(id);
      return slow.over;
    });
    await add(1, 3);
    await until(() => first.length === 2);

    await start(2, async (id) => void second.push(id));
    await until(() => second.length === 1);

    expect(first).toHaveLength(2);
    expect([...first, ...second].sort()).toEqual(["1", "2", "3"]);
    slow.end();
    await untilDone(3);
  });

  test("gives to another what it fetched ahead, when its quick tasks become slow", async () => {
    const slow = holdBack();
    const hanging: string[] = [];
    const second: string[] = [];
    await add(1, 4000);
    await start(2, async (id) => {
      if (Number(id) <= 1000) return;
      hanging.push(id);
      await slow.over;
    });
    await until(() => hanging.length === 2);

    await start(2, async (id) => void second.push(id));
    await until(() => second.length === 2998);

    expect(hanging).toHaveLength(2);
    slow.end();
    await untilDone(4000);
    expect(await database.execute(raw("select max(attempts)::int as attempts from notika.run_log"))).toEqual([
      { attempts: 1 },
    ]);
  });
});

async function start(concurrency: number, work: (id: string) => Promise<void>) {
  const tasks = { work: ({ event }: { event: { new: { id: number } } }) => work(String(event.new.id)) };
  runners.push(await createRunner({ url, tasks, concurrency, log: silentLog }));
}

async function add(from: number, to: number) {
  await database.script(`insert into public.work select generate_series(${from}, ${to})`);
}

async function until(isSo: () => boolean | Promise<boolean>) {
  while (!(await isSo())) await setTimeout(5);
}

/** How often runners have looked for jobs; a session reports what it did within a second. */
async function claims(): Promise<number> {
  await setTimeout(1200);
  const [row] = await database.execute<{ calls: number }>(
    raw("select coalesce(sum(calls), 0)::int as calls from pg_stat_user_functions where funcname = '_claim'"),
  );
  return row?.calls ?? 0;
}

async function untilDone(runs: number) {
  await until(async () => {
    const [row] = await database.execute<{ done: number }>(
      raw("select count(*)::int as done from notika.run_log where state = 'done'"),
    );
    return row?.done === runs;
  });
}

function holdBack() {
  let end = () => {};
  const over = new Promise<void>((resolve) => {
    end = resolve;
  });
  return { over, end };
}
