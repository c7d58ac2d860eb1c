import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { notikaCommand, start } from "../runner/process.ts";
import { pgbouncer } from "../support/pgbouncer.ts";
import { versions } from "./cluster.ts";
import { openPooled, type Pooled, type PooledServer, startPooledServer } from "./pooled.ts";

if (!pgbouncer) test("a pooler is tried", ({ skip }) => skip("PgBouncer is not installed: apt-get install pgbouncer"));

describe.skipIf(!pgbouncer).each(versions)("behind PgBouncer in transaction mode, PostgreSQL %i", (major) => {
  let servers: PooledServer;
  let db: Pooled;
  beforeAll(async () => {
    servers = await startPooledServer(major);
  });
  afterAll(() => servers?.stop());
  beforeEach(async () => {
    db = await openPooled(servers);
  });
  afterEach(() => db.close(), 30_000);

  test("every command works, and a run from end to end", async () => {
    expect(await notika("install")).toMatchObject({ code: 0 });
    await db.makeTables();
    expect(await notika("publish", "work", "--table", "public.work")).toMatchObject({ code: 0 });
    await db.database.script("update notika.setting set max_attempts = 1");
    const runner = await db.run();
    await db.add("polite");
    await db.until("done", 1);
    await db.add("faulty");
    await db.until("failed", 1);

    expect(await notika("retry", "2")).toMatchObject({ code: 0 });
    while ((await attempts()) < 2) await sleep(20);
    await db.database.script("select notika.pause('work')");
    await db.add("polite");
    await db.until("held", 1);
    expect(await notika("cancel", "3")).toMatchObject({ code: 0 });

    const asked = [["plan", "work", "--table", "public.work"], ["status"], ["check"], ["runs", "--json"]];
    const answers = await Promise.all(asked.map((args) => notika(...args)));
    expect(answers.map(({ code }) => code)).toEqual([0, 0, 0, 0]);
    const runs: { run: string; state: string }[] = JSON.parse(answers.at(-1)?.stdout ?? "");
    expect(runs.map(({ run, state }) => `${run} ${state}`)).toEqual(["3 cancelled", "2 failed", "1 done"]);
    expect(await notika("unpublish", "work")).toMatchObject({ code: 0 });
    expect(await runner.end("SIGTERM")).toBe(0);
    expect(await db.leaks()).toEqual([]);
  });

  test("nothing of a busy runner stays on a server connection, and nobody listens on one", async () => {
    await db.publishWork();
    const runner = await db.run();
    await db.add("polite", 500);
    const second = await db.run(); // it looks for a pooler while that is busy
    await db.until("done", 500);
    await runner.end("SIGKILL");

    expect(await db.leaks()).toEqual([]);
    expect(await second.end("SIGTERM")).toBe(0);
    expect(await db.leaks()).toEqual([]);
    expect(servers.pooler.said()).not.toMatch(/got packet 'A'|unsupported startup parameter/);
    expect(runner.said().map(({ message }) => message)).toContain("new events are found by polling");
  });

  test("what stays is found: so does this test see it", async () => {
    const { pooled } = db;
    await pooled.script("listen leak");
    await pooled.script("prepare leak as select 1");
    await pooled.script("set work_mem = '5MB'");
    await pooled.script("select pg_advisory_lock(42)");
    await pooled.script("create temp table leak ()");

    expect(new Set((await db.leaks()).map(({ what }) => what))).toEqual(
      new Set(["listens", "prepared statement", "setting work_mem", "advisory lock", "temporary objects"]),
    );
  });

  function notika(...args: string[]) {
    return start([...notikaCommand, ...args], process.cwd(), { DATABASE_URL: db.pooledUrl }).ended;
  }

  /** How often the faulty work was begun. */
  async function attempts(): Promise<number> {
    const [row] = await db.database.execute<{ times: number }>(
      sql`select count(*)::int as times from public.done where work_id = 2`,
    );
    return row?.times ?? 0;
  }
});
