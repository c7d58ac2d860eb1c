import path from "node:path";
import { setTimeout } from "node:timers/promises";
import sql from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { createRunner } from "../../runner/worker/runner.ts";
import { installed, startInstalled } from "../support/installed.ts";
import { type RunnerProcess, spawnRunner } from "../support/runner.ts";

let server: Awaited<ReturnType<typeof startInstalled>>;
let url: string;
let database: Database;
let runners: RunnerProcess[];

beforeAll(async () => {
  server = await startInstalled({ major: 18, settings: { synchronous_commit: "on" } }); // it will crash
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
    select notika.publish('work', 'public.work')`);
  runners = [];
});
afterEach(async () => {
  await Promise.all(runners.map((runner) => runner.end("SIGKILL")));
  await database.close();
}, 30_000);

test("a runner that is asked to stop lets its runs finish and exits with 0", async () => {
  const runner = await startRunner();
  await add({ ms: 1500, kind: "polite" });
  await until("running");

  const code = await runner.end("SIGTERM");

  expect(code).toBe(0);
  expect(await runs()).toEqual([{ state: "done", attempts: 1, locked: false }]);
  expect(await history()).toEqual(["began", "ended"]);
  expect(await database.execute(sql`select * from notika.runner`)).toEqual([]);
});

test("one that is stopped as soon as it has started leaves nothing, and complains of nothing", async () => {
  const complaints: string[] = [];
  const complain = (message: string, fields?: object) => complaints.push(`${message} ${JSON.stringify(fields)}`);
  const log = { info() {}, warn: complain, error: complain };

  for (let delay = 0; delay < 100; delay += 5) {
    const runner = await createRunner({ url, tasks: { work: async () => {} }, log });
    await setTimeout(delay);
    await runner.stop();
    expect(await database.execute(sql`select runner_id from notika.runner`)).toEqual([]);
  }
  expect(complaints).toEqual([]);
});

test("after the deadline a polite run is aborted and tried again elsewhere", async () => {
  const first = await startRunner("--deadline", "1");
  await add({ ms: 4000, kind: "polite" });
  await until("running");

  const code = await first.end("SIGINT");

  expect(code).toBe(0);
  expect(await runs()).toEqual([{ state: "retrying", attempts: 1, locked: false }]);
  await startRunner();
  await until("done");
  expect(await history()).toEqual(["began", "began", "ended"]);
});

test("after the deadline a stubborn run is free at once for another runner", async () => {
  const first = await startRunner("--deadline", "1");
  await add({ ms: 60_000, kind: "stubborn" });
  await until("running");

  const code = await first.end("SIGTERM");

  expect(code).toBe(0);
  expect(await runs()).toEqual([{ state: "ready", attempts: 1, locked: false }]);
});

test("the jobs of a runner that was killed are freed by another, a minute after it was last heard of", async () => {
  const first = await startRunner();
  await add({ ms: 60_000, kind: "stubborn" });
  while ((await history()).length < 1) await setTimeout(50);
  await first.end("SIGKILL");
  expect(await runs()).toEqual([{ state: "running", attempts: 1, locked: true }]);

  // A minute passes.
  await database.script(`
    update notika.runner set seen_at = seen_at - interval '61 seconds', suspected_at = seen_at - interval '30 seconds';
    update notika_worker._private_jobs set locked_at = locked_at - interval '61 seconds'`);
  await database.script("update public.work set ms = 1");
  await startRunner();

  while ((await history()).length < 2) await setTimeout(50);
  expect(await runs()).toEqual([{ state: "running", attempts: 2, locked: true }]);
});

test("a task that throws is tried again with back-off; the error, the attempts and the event are kept", async () => {
  await database.script("update notika.setting set max_attempts = 2");
  await startRunner();
  await add({ ms: 1, kind: "faulty" });

  await until("failed");

  expect(
    await database.execute(sql`
      select l.state, l.attempts, l.error, l.event -> 'new' ->> 'kind' as kind,
             l.stack like 'Error: work 1 is faulty%' as has_stack, r.event ->> 'id' as event
        from notika.run_log as l join notika.runs as r using (run_id)`),
  ).toEqual([{ state: "failed", attempts: 2, error: "work 1 is faulty", kind: "faulty", has_stack: true, event: "1" }]);
  const [first, second] = await database.execute<{ at: Date }>(sql`select at from public.done order by at`);
  expect((second?.at.getTime() ?? 0) - (first?.at.getTime() ?? 0)).toBeGreaterThan(2000); // e seconds
  expect(await database.execute(sql`select * from notika_worker._private_jobs`)).toEqual([]);

  await database.execute(sql`select notika.retry(1)`);
  await until("failed");
  expect(await history()).toEqual(["began", "began", "began", "began"]);
});

test("an idle runner sleeps until a writer wakes it", async () => {
  await startRunner();
  const isAsleep = async () => {
    const [row] = await database.execute<{ asleep: boolean }>(
      sql`select pg_sequence_last_value('notika.control_seq') & 1 = 1 as asleep`,
    );
    return row?.asleep;
  };
  while (!(await isAsleep())) await setTimeout(50);

  await add({ ms: 1, kind: "polite" });

  await until("done");
  while (!(await isAsleep())) await setTimeout(50);
});

test("a runner works where transactions are serializable by default", async () => {
  await database.script(
    `do $$ begin execute format('alter database %I set default_transaction_isolation = serializable', current_database()); end $$`,
  );
  const runner = await startRunner();
  for (let i = 0; i < 20; i++) await add({ ms: 1, kind: "polite" });

  await until("done", 1, 20);

  expect(runner.said().filter(({ message }) => /dispatch|heartbeat failed/.test(message))).toEqual([]);
});

test("a workflow whose table is altered against the pins is marked within a minute", async () => {
  await database.script(`
    drop event trigger notika_guard_start;
    drop event trigger notika_guard_drop;
    drop event trigger notika_guard_end;
    select notika.publish('work', 'public.work', columns => '{id,ms,kind}')`);
  await add({ ms: 1, kind: "polite" });
  await database.script("set client_min_messages = warning; alter table public.work drop column kind cascade");

  await startRunner();

  for (;;) {
    const [row] = await database.execute<{ state: string; reason: string }>(
      sql`select state, reason from notika.workflows`,
    );
    if (row?.state === "broken") {
      expect(row.reason).toBe("column dropped: public.work.kind");
      break;
    }
    await setTimeout(100);
  }
});

test("a runner without the task leaves the run to one that has it", async () => {
  await database.script("select notika.publish('elsewhere', 'public.work')");
  await startRunner();
  await add({ ms: 1, kind: "polite" });

  await until("done");

  await setTimeout(1500);
  expect(await database.execute(sql`select workflow, state, attempts from notika.runs order by workflow`)).toEqual([
    { workflow: "elsewhere", state: "ready", attempts: 0 },
    { workflow: "work", state: "done", attempts: 1 },
  ]);
});

test("a paused workflow's runs are held, and go on when it is resumed", async () => {
  await startRunner();
  await database.script("select notika.pause('work')");
  await add({ ms: 1, kind: "polite" });
  await until("held");
  await setTimeout(1500);
  expect(await history()).toEqual([]);

  await database.script("select notika.resume('work')");

  await until("done");
});

async function startRunner(...options: string[]) {
  const runner = spawnRunner(url, path.join(import.meta.dirname, "tasks"), options);
  runners.push(runner);
  await runner.says("running");
  return runner;
}

async function add({ ms, kind }: { ms: number; kind: string }) {
  for (;;) {
    // A connection of its own: the server may be coming up again.
    const own = openDatabase({ connect: url, connections: 1 });
    try {
      await own.execute(sql`insert into public.work (ms, kind) values (${ms}, ${kind})`);
      return;
    } catch {
      await setTimeout(200);
    } finally {
      await own.close();
    }
  }
}

async function until(state: string, attempts = 0, count = 1) {
  for (;;) {
    const own = openDatabase({ connect: url, connections: 1 });
    const [row] = await own
      .execute<{ runs: number }>(
        sql`select count(*)::int as runs from notika.runs where state = ${state} and attempts >= ${attempts}::int`,
      )
      .catch(() => [])
      .finally(own.close);
    if ((row?.runs ?? 0) >= count) return;
    await setTimeout(50);
  }
}

function runs() {
  return database.execute(sql`
    select r.state, r.attempts, coalesce(j.locked_at is not null, false) as locked
      from notika.runs as r
      left join notika_worker._private_jobs as j on j.key = r.run_id::text`);
}

async function history() {
  return (await database.execute<{ what: string }>(sql`select what from public.done order by at`)).map(
    ({ what }) => what,
  );
}
