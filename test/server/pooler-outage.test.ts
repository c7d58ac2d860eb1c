import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { pgbouncer } from "../support/pgbouncer.ts";
import type { RunnerProcess } from "../support/runner.ts";
import { openPooled, type Pooled, type PooledServer, startPooledServer } from "./pooled.ts";

if (!pgbouncer) test("a pooler is tried", ({ skip }) => skip("PgBouncer is not installed: apt-get install pgbouncer"));

describe.skipIf(!pgbouncer).each(["alone", "and a direct address"])("a runner with a pooler %s", (addresses) => {
  let servers: PooledServer;
  let db: Pooled;
  beforeAll(async () => {
    servers = await startPooledServer(18);
    db = await openPooled(servers);
    await db.publishWork();
  });
  afterAll(async () => {
    await db?.close();
    await servers?.stop();
  }, 30_000);

  test("loses nothing, whatever happens to the pooler and the server, and says so", { timeout: 240_000 }, async () => {
    const { server, pooler } = servers;
    const runner = await db.run(...(addresses === "alone" ? [] : ["--direct-url", db.url]));
    const disturbances = [
      () => pooler.kill("SIGKILL").then(pooler.restart),
      () => pooler.restart(),
      () =>
        pooler
          .command("pause")
          .then(() => sleep(2000))
          .then(() => pooler.command("resume")),
      () => pooler.command("reconnect"),
      () => terminateAll(),
      () => server.restart(),
      () => server.kill("SIGKILL").then(server.restart),
    ];
    let isWriting = true;
    const writing = (async () => {
      for (; isWriting; await sleep(20)) await db.add("polite", 5).catch(() => {}); // a server that is down takes none
    })();

    for (const disturb of disturbances) {
      await sleep(1500);
      await disturb();
      await recovery(runner);
    }
    isWriting = false;
    await writing;
    const [work] = await db.database.execute<{ count: number }>(sql`select count(*)::int as count from public.work`);
    await db.until("done", work?.count as number);

    const [counts] = await db.database.execute<{ works: number; ended: number; twice: number }>(sql`
      select count(*)::int as works, count(times)::int as ended, (count(*) filter (where times > 1))::int as twice
        from public.work as w
        left join (
          select d.work_id, count(*) as times from public.done as d where d.what = 'ended' group by d.work_id
        ) as d on d.work_id = w.id`);
    expect(counts).toEqual({ works: work?.count, ended: work?.count, twice: expect.any(Number) });
    // What was running when a connection broke; each runs ten at a time.
    expect(counts?.twice).toBeLessThanOrEqual(10 * disturbances.length);
    expect(runner.child.exitCode).toBe(null);
    const said = runner.said().map(({ message }) => message);
    expect(said).toContain("cannot dispatch, trying again");
    expect(said).toContain("the database is back");
    expect(await db.leaks()).toEqual([]);
  });

  /** Work is done again before half a minute is over. */
  async function recovery(runner: RunnerProcess) {
    const [start, before] = [Date.now(), await ended()];
    while ((await ended()) <= before) {
      expect(
        runner.child.exitCode,
        runner
          .said()
          .slice(-20)
          .map(({ message }) => message)
          .join("\n"),
      ).toBe(null);
      expect(Date.now() - start).toBeLessThan(30_000);
      await sleep(50);
    }
  }

  async function ended(): Promise<number> {
    const rows = await db.database
      .execute<{ ended: number }>(sql`select count(*)::int as ended from notika.run_log`)
      .catch(() => []);
    return rows[0]?.ended ?? 0;
  }

  function terminateAll() {
    return db.database.execute(sql`
      select pg_terminate_backend(pid)
        from pg_stat_activity
       where pid <> pg_backend_pid() and datname = current_database() and backend_type = 'client backend'`);
  }
});
