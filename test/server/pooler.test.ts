import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database.ts";
import { install } from "../../runner/install.ts";
import { notikaCommand, start } from "../runner/process.ts";
import { type PgBouncer, pgbouncer, startPgBouncer } from "../support/pgbouncer.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";
import { type RunnerProcess, spawnRunner } from "../support/runner.ts";

if (!pgbouncer) test("a pooler is tried", ({ skip }) => skip("PgBouncer is not installed: apt-get install pgbouncer"));

const connections = 3;
const tasks = path.join(import.meta.dirname, "tasks");

describe.skipIf(!pgbouncer).each([15, 18] as const)("behind PgBouncer in transaction mode, PostgreSQL %i", (major) => {
  let server: Postgres;
  let pooler: PgBouncer;
  let url: string;
  /** Past the pooler: what a test looks with. */
  let database: Database;
  let pooled: Database;
  let runners: RunnerProcess[];

  beforeAll(async () => {
    server = await startPostgres({ major });
    pooler = await startPgBouncer({ server: server.port, connections });
  });
  afterAll(async () => {
    await pooler?.stop();
    await server?.stop();
  });

  beforeEach(async () => {
    url = await server.createDatabase();
    database = openDatabase({ connect: url });
    pooled = openDatabase({ connect: pooler.through(url), connections: 10 });
    runners = [];
  });
  afterEach(async () => {
    await Promise.all(runners.map((runner) => runner.end("SIGKILL")));
    await Promise.all([pooled.close(), database.close()]);
  }, 30_000);

  test("every command works, and a run from end to end", async () => {
    expect(await notika("install")).toMatchObject({ code: 0 });
    await makeTables();
    expect(await notika("publish", "work", "--table", "public.work")).toMatchObject({ code: 0 });
    await database.script("update notika.setting set max_attempts = 1");
    const runner = await run();
    await add(1, "polite");
    await until("done", 1);
    await add(1, "faulty");
    await until("failed", 1);

    expect(await notika("retry", "2")).toMatchObject({ code: 0 });
    while ((await attempts()) < 2) await sleep(20);
    await database.script("select notika.pause('work')");
    await add(1, "polite");
    await until("held", 1);
    expect(await notika("cancel", "3")).toMatchObject({ code: 0 });

    const asked = [["plan", "work", "--table", "public.work"], ["status"], ["check"], ["runs", "--json"]];
    const answers = await Promise.all(asked.map((args) => notika(...args)));
    expect(answers.map(({ code }) => code)).toEqual([0, 0, 0, 0]);
    const runs: { run: string; state: string }[] = JSON.parse(answers.at(-1)?.stdout ?? "");
    expect(runs.map(({ run, state }) => `${run} ${state}`)).toEqual(["3 cancelled", "2 failed", "1 done"]);
    expect(await notika("unpublish", "work")).toMatchObject({ code: 0 });
    expect(await runner.end("SIGTERM")).toBe(0);
    expect(await leaks()).toEqual([]);
  });

  test("nothing of a busy runner stays on a server connection, and nobody listens on one", async () => {
    await publishWork();
    const runner = await run();
    await database.script("insert into public.work (ms, kind) select 1, 'polite' from generate_series(1, 500)");
    await until("done", 500);
    await runner.end("SIGKILL");
    const second = await run();
    await database.script("insert into public.work (ms, kind) select 1, 'polite' from generate_series(1, 100)");
    await until("done", 600);

    expect(await leaks()).toEqual([]);
    expect(await second.end("SIGTERM")).toBe(0);
    expect(await leaks()).toEqual([]);
    expect(pooler.said()).not.toMatch(/got packet 'A'|unsupported startup parameter/);
    expect(runner.said().map(({ message }) => message)).toContain("new events are found by polling");
  });

  test("what stays is found: so does this test see it", async () => {
    await pooled.script("listen leak");
    await pooled.script("prepare leak as select 1");
    await pooled.script("set work_mem = '5MB'");
    await pooled.script("select pg_advisory_lock(42)");
    await pooled.script("create temp table leak ()");

    expect(new Set((await leaks()).map(({ what }) => what))).toEqual(
      new Set(["listens", "prepared statement", "setting work_mem", "advisory lock", "temporary objects"]),
    );
  });

  test("a runner that may connect directly is notified there", async () => {
    await publishWork();
    const runner = await run("--direct-url", url);
    const latencies: number[] = [];

    for (let id = 1; id <= 5; id++) {
      await asleep();
      await sleep(1800); // by now it would poll once a second
      await add(1, "polite");
      await until("done", id);
      latencies.push(await latency());
    }

    expect(median(latencies)).toBeLessThan(250);
    expect(runner.said().map(({ message }) => message)).toContain("new events are notified");
    expect(await leaks()).toEqual([]);
  });

  test("a runner that polls finds the next event of many within a fraction of a second", async () => {
    await publishWork();
    await run();
    const latencies: number[] = [];

    for (let id = 1; id <= 20; id++) {
      await sleep(Math.random() * 300);
      await add(1, "polite");
      await until("done", id);
      latencies.push(await latency());
    }

    expect(median(latencies)).toBeLessThan(250);
    expect(await isAsleep()).toBe(false); // so no writer notifies
  });

  test("a direct address that is another database is not relied on", async () => {
    await publishWork();
    const runner = await run("--direct-url", await server.createDatabase());

    await runner.says("new events are found by polling");

    await add(1, "polite");
    await until("done", 1);
    expect(await isAsleep()).toBe(false);
  });

  test.each([
    ["killed and started again", () => pooler.kill("SIGKILL").then(() => pooler.restart())],
    ["restarted", () => pooler.restart()],
    [
      "paused",
      () =>
        pooler
          .command("pause")
          .then(() => sleep(2000))
          .then(() => pooler.command("resume")),
    ],
    ["told to connect anew", () => pooler.command("reconnect")],
    ["cut off from its server", () => terminate("application_name = 'notika'")],
    ["up while the server crashes", () => server.kill("SIGKILL").then(() => server.restart())],
  ] as const)("nothing is lost when the pooler is %s under load", async (_, disturb) => {
    await publishWork();
    const runner = await run();
    const end = Date.now() + 6000;
    const disturbing = (async () => {
      for (let times = 0; times < 2; times++) {
        await sleep(1500);
        await disturb();
      }
    })();

    let written = 0;
    for (; Date.now() < end; await sleep(10)) written += await insert(5);
    await disturbing;
    await add(1, "polite");
    const before = Date.now();
    await until("done", written + 1);

    expect(Date.now() - before).toBeLessThan(30_000);
    const [counts] = await database.execute<{ works: number; runs: number; begun: number }>(sql`
      select (select count(*)::int from public.work) as works,
             (select count(*)::int from notika.run_log where state = 'done') as runs,
             (select count(distinct work_id)::int from public.done where what = 'ended') as begun`);
    expect(counts).toEqual({ works: written + 1, runs: written + 1, begun: written + 1 });
    const [twice] = await database.execute<{ times: number }>(sql`
      select count(*)::int as times
        from (select from public.done where what = 'ended' group by work_id having count(*) > 1) as d`);
    expect(twice?.times).toBeLessThanOrEqual(2 * 11); // what was running, or claimed, at each disturbance
    expect(runner.child.exitCode).toBe(null);
    expect(await leaks()).toEqual([]);
  });

  async function publishWork() {
    await install(pooled);
    await makeTables();
    await database.script("select notika.publish('work', 'public.work')");
  }

  function makeTables() {
    return database.script(`
      create table public.work (
        id bigint generated always as identity primary key,
        ms integer not null, kind text not null, at timestamptz not null default clock_timestamp()
      );
      create table public.done (work_id bigint, what text, at timestamptz not null default clock_timestamp())`);
  }

  async function run(...options: string[]) {
    const runner = spawnRunner(pooler.through(url), tasks, ...options);
    runners.push(runner);
    await runner.says("running");
    return runner;
  }

  function notika(...args: string[]) {
    return start([...notikaCommand, ...args], process.cwd(), { DATABASE_URL: pooler.through(url) }).ended;
  }

  function add(ms: number, kind: string) {
    return database.execute(sql`insert into public.work (ms, kind) values (${ms}, ${kind})`);
  }

  /** How many were written: a server that is down takes none. */
  async function insert(count: number): Promise<number> {
    try {
      await database.execute(
        sql`insert into public.work (ms, kind) select 1, 'polite' from generate_series(1, ${count}::int)`,
      );
      return count;
    } catch {
      return 0;
    }
  }

  async function until(state: string, count: number) {
    for (;;) {
      const [row] = await database.execute<{ runs: number }>(
        sql`select count(*)::int as runs from notika.runs where state = ${state}`,
      );
      if ((row?.runs ?? 0) >= count) return;
      await sleep(20);
    }
  }

  /** How often the faulty work was begun. */
  async function attempts(): Promise<number> {
    const [row] = await database.execute<{ times: number }>(
      sql`select count(*)::int as times from public.done where work_id = 2`,
    );
    return row?.times ?? 0;
  }

  async function isAsleep() {
    const [row] = await database.execute<{ asleep: boolean }>(
      sql`select pg_sequence_last_value('notika.control_seq') & 1 = 1 as asleep`,
    );
    return row?.asleep;
  }

  async function asleep() {
    while (!(await isAsleep())) await sleep(20);
  }

  /** How long the latest work waited, in milliseconds. */
  async function latency(): Promise<number> {
    const [row] = await database.execute<{ ms: number }>(sql`
      select extract(epoch from min(d.at) - w.at)::float8 * 1000 as ms
        from public.work as w
        join public.done as d on d.work_id = w.id
       group by w.id
       order by w.id desc
       limit 1`);
    return row?.ms as number;
  }

  function terminate(condition: string) {
    return database.script(`
      select pg_terminate_backend(pid)
        from pg_stat_activity
       where pid <> pg_backend_pid() and datname = current_database() and client_port is not null and ${condition}`);
  }

  /** What is left on the pooler's connections to the server, looked at through the pooler itself. */
  async function leaks(): Promise<{ pid: number; what: string }[]> {
    const seen = new Map<number, { pid: number; what: string }[]>();
    let meet = () => {};
    const all = new Promise<void>((resolve) => {
      meet = resolve;
    });
    // Each transaction has one server connection to itself, and so all of them together have all there are.
    await Promise.all(
      Array.from({ length: connections }, () =>
        pooled.transaction(async (execute) => {
          const [row] = await execute<{ pid: number }>(sql`select pg_backend_pid() as pid`);
          const found = await execute<{ pid: number; what: string }>(sql`
            select pg_backend_pid() as pid, what
              from (
                select 'listens' as what from pg_listening_channels()
                union all select 'prepared statement' from pg_prepared_statements
                union all select 'advisory lock' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
                union all select 'temporary objects' where pg_my_temp_schema() <> 0
                union all select 'setting ' || name from pg_settings
                  where source = 'session'
                    -- What PgBouncer keeps for each client, and begin.
                    and name not in ('application_name', 'client_encoding', 'transaction_isolation')
              ) as found`);
          seen.set(row?.pid as number, found);
          if (seen.size === connections) meet();
          await all;
        }),
      ),
    );
    return [...seen.values()].flat();
  }
});

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number;
}
