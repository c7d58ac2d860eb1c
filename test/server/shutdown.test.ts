import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { notikaCommand, start } from "../runner/process.ts";
import { installed, startInstalled } from "../support/installed.ts";
import { spawnRunner } from "../support/runner.ts";

const tasks = path.join(import.meta.dirname, "tasks");
let server: Awaited<ReturnType<typeof startInstalled>>;
let url: string;
let database: Database;

beforeAll(async () => {
  server = await startInstalled({ major: 18 });
});
afterAll(() => server?.stop());

beforeEach(async () => {
  url = await server.createDatabase(undefined, installed);
  database = openDatabase({ connect: url });
  await database.script(`
    create table public.work (
      id bigint generated always as identity primary key, ms integer not null, kind text not null
    );
    create table public.done (work_id bigint, what text, at timestamptz default clock_timestamp());
    select notika.publish('work', 'public.work'), notika.publish('record_balance', 'public.work', operations => '{delete}')`);
});
afterEach(() => database.close());

test("a runner that is stopped under a backlog returns what had not begun, and warns of nothing", async () => {
  await database.script("insert into public.work (ms, kind) select 5, 'polite' from generate_series(1, 10000)");
  const runner = spawnRunner(url, tasks);
  await runner.says("done");
  await sleep(1000); // several jobs wait at hand

  expect(await runner.end("SIGTERM")).toBe(0);

  expect(runner.said().filter(({ level }) => level !== "info")).toEqual([]);
  expect(
    await database.execute(sql`
      select count(*) > 0 as waiting, count(*) filter (where attempts > 0 or locked_at is not null)::int as begun
        from notika_worker._private_jobs`),
  ).toEqual([{ waiting: true, begun: 0 }]);
});

test("a runner that npm has started stops when npm is gone", async () => {
  const npm = start(["npm", "exec", "--offline", "--", ...notikaCommand, "run", "--tasks", tasks], process.cwd(), {
    DATABASE_URL: url,
    HOME: process.env.HOME ?? "/",
  });
  const [, pid = ""] = await npm.says(/running .*pid=(\d+)/);

  npm.kill("SIGKILL");

  await npm.says(/stopping .*npm has ended/);
  await npm.says(/stopped/);
  await expect.poll(() => isAlive(Number(pid))).toBe(false);
});

function isAlive(pid: number) {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
