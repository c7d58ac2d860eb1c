import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database.ts";
import { install } from "../../runner/install.ts";
import { startPostgres } from "../support/postgres.ts";
import { type RunnerProcess, spawnRunner } from "../support/runner.ts";

const fine = "is well-behaved";
let server: Awaited<ReturnType<typeof startPostgres>>;
let url: string;
let database: Database;
let runners: RunnerProcess[];

beforeAll(async () => {
  server = await startPostgres({ major: 18 });
});
afterAll(() => server?.stop());

beforeEach(async () => {
  url = await server.createDatabase();
  database = openDatabase({ connect: url });
  await install(database);
  await database.script(`
    create table public.work (id bigint generated always as identity primary key, kind text not null, seconds int);
    select notika.publish('misbehave', 'public.work')`);
  runners = [];
});
afterEach(async () => {
  await Promise.all(runners.map((runner) => runner.end("SIGKILL")));
  await database.close();
}, 30_000);

const floating = "nothing caught an error of a run, so its attempt fails";
const late = "nothing caught an error of a run that is over, so its outcome stands";
const misdeeds: { kind: string; state?: string; error: string | RegExp | null; says?: string }[] = [
  { kind: "leaves a promise to itself, which fails", error: "left alone", says: floating },
  { kind: "leaves one to itself that fails after the run has ended", state: "done", error: null, says: late },
  { kind: "throws in a timer", error: "left alone", says: floating },
  { kind: "throws in a listener", error: "left alone", says: floating },
  { kind: "emits an error that nobody listens to", error: "left alone", says: floating },
  { kind: "calls `process.exit(1)`", error: /^the task called process.exit\(1\)/, says: floating },
  { kind: "calls it where errors are caught", error: /^the task called process.exit\(1\)/, says: floating },
  { kind: "throws what is no Error", error: "{ code: 422, reason: [ 'refused' ] } was thrown, not an Error" },
  { kind: "throws nothing at all", error: "undefined was thrown, not an Error" },
  {
    kind: "forgets `await` before `step.sleep`",
    error: /^step "a day" is not awaited, and was not over when step "next" began/,
  },
  {
    kind: "forgets it before the last wait",
    error: /^step "a day" is not awaited, and was not over when the task returned/,
  },
  {
    kind: "forgets it before `step.run`",
    error: /^step "slow" is not awaited, and was not over when the task returned/,
  },
  { kind: fine, state: "done", error: null },
];

test("whatever a task does, its own run fails, the log says where, and the runs beside it do not notice", async () => {
  const runner = await startRunner();
  for (const { kind } of misdeeds) await add(kind);
  await until(misdeeds.length);
  await sleep(500);

  const runs = await database.execute<{
    run: string;
    kind: string;
    state: string;
    attempts: number;
    error: string;
  }>(sql`
    select run_id::text as run, event -> 'new' ->> 'kind' as kind, state, attempts, error from notika.runs order by run_id`);
  expect(runs).toMatchObject(
    misdeeds.map(({ kind, state = "failed", error }) => ({
      kind,
      state,
      attempts: 1,
      error: error instanceof RegExp ? expect.stringMatching(error) : error,
    })),
  );
  for (const { kind, says } of misdeeds) {
    if (!says) continue;
    const run = runs.find((one) => one.kind === kind)?.run;
    expect(runner.said()).toContainEqual(
      expect.objectContaining({
        level: "error",
        message: says,
        workflow: "misbehave",
        run,
        stack: expect.stringContaining("test/server/misbehaviour/misbehave.ts:"),
      }),
    );
  }
  expect(await runner.end("SIGTERM")).toBe(0);
});

test("a run whose runner dies is tried again no more often than it may, and no run that had not begun is lost", async () => {
  const runner = await startRunner("--concurrency", "1");
  await database.script("insert into public.work (kind) values ('kills its process'), ('is well-behaved')");
  await runner.end("SIGCONT"); // it ends by itself
  await minuteLater();

  await startRunner();
  await until(2);

  expect(
    await database.execute(sql`select event -> 'new' ->> 'kind' as kind, state, attempts, error from notika.runs`),
  ).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ kind: fine, state: "done", error: null }),
      {
        kind: "kills its process",
        state: "failed",
        attempts: 1,
        error: "attempt 1 ended without an outcome, as when its runner dies, and retries: 0 allows no other",
      },
    ]),
  );
});

test("a runner whose event loop is blocked gives signs of life, and says who blocks it", async () => {
  const runner = await startRunner();
  await database.script(
    "insert into public.work (kind, seconds) values ('blocks the event loop', 6), ('is well-behaved', 0)",
  );
  const [blocked] = await poll<{ blocked: boolean }>(
    "select clock_timestamp() - blocked_since > interval '3 seconds' as blocked from notika.runner where blocked_since is not null",
  );
  const [said] = runner.said().filter(({ message }) => message.startsWith("the event loop is blocked"));
  await until(2);
  await runner.says("the event loop was blocked, and nothing else ran in this process");

  expect(blocked).toEqual({ blocked: true });
  expect(said).toMatchObject({ level: "warn", workflow: "misbehave", run: "1" });
  expect(said).toHaveProperty("stack", expect.stringContaining("misbehaviour/misbehave.ts:"));
  expect(runner.said().filter(({ level }) => level !== "info")).toHaveLength(2);
  expect(await database.execute(sql`select state, attempts from notika.runs`)).toEqual([
    { state: "done", attempts: 1 },
    { state: "done", attempts: 1 },
  ]);
});

/** A minute passes for what has died. */
async function minuteLater() {
  await database.script(`
    update notika.runner set seen_at = seen_at - interval '61 seconds', suspected_at = seen_at - interval '30 seconds';
    update notika_worker._private_jobs set locked_at = locked_at - interval '61 seconds'`);
}

async function startRunner(...options: string[]) {
  const runner = spawnRunner(url, path.join(import.meta.dirname, "misbehaviour"), options);
  runners.push(runner);
  await runner.says("running");
  return runner;
}

const add = (kind: string) => database.execute(sql`insert into public.work (kind) values (${kind})`);

async function until(count: number) {
  await poll(`select 1 from notika.run_log having count(*) >= ${count}`);
}

async function poll<Row extends object>(text: string): Promise<Row[]> {
  for (;;) {
    const rows = await database.execute<Row>({ text, values: [] } as never);
    if (rows.length > 0) return rows;
    await sleep(50);
  }
}
