import { setImmediate, setTimeout } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { install } from "../../runner/install/install.ts";
import { silentLog } from "../../runner/log.ts";
import { createRunner, type Runner } from "../../runner/worker/index.ts";
import { startPostgres } from "../support/postgres.ts";

let server: Awaited<ReturnType<typeof startPostgres>>;
let url: string;
let database: Database;
let runners: Runner[];

beforeAll(async () => {
  server = await startPostgres({ major: 18 });
});
afterAll(() => server?.stop());

beforeEach(async () => {
  url = await server.createDatabase();
  database = openDatabase({ connect: url, connections: 2 });
  await install(database);
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
