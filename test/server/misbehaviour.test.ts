import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { installed, startInstalled } from "../support/installed.ts";
import { readPage } from "../support/page.ts";
import { type RunnerProcess, spawnRunner } from "../support/runner.ts";

const fine = "is well-behaved";
let server: Awaited<ReturnType<typeof startInstalled>>;
let url: string;
let database: Database;
let runners: RunnerProcess[];

beforeAll(async () => {
  server = await startInstalled({ major: 18 });
});
afterAll(() => server?.stop());

beforeEach(async () => {
  url = await server.createDatabase(undefined, installed);
  database = openDatabase({ connect: url });
  await database.script(`
    create table public.work (id bigint generated always as identity primary key, kind text not null, seconds int);
    select notika.publish('misbehave', 'public.work', condition => 'new.kind not like ''never%''');
    select notika.publish('hang', 'public.work', condition => 'new.kind like ''never%''');
    select notika.publish('patient', 'public.work', condition => 'false')`);
  runners = [];
});
afterEach(async () => {
  await Promise.all(runners.map((runner) => runner.end("SIGKILL")));
  await database.close();
}, 30_000);

/** The table of docs/tasks.md. */
const misdeeds = (await readPage("docs/tasks.md")).text
  .split("\n")
  .filter((line) => line.startsWith("| "))
  .slice(1)
  .map((line) => {
    const cells = line.split("|").map((cell) => cell.trim());
    const [kind = "", state, error, says] = [cells[1], ...cells.slice(2).map((cell) => cell.replaceAll("`", ""))];
    return { kind, state, error, says };
  });
const apart = ["blocks the event loop", "kills its process"];

test("whatever a task does, its run ends as docs/tasks.md says, and the runs beside it do not notice", async () => {
  const runner = await startRunner();
  const together = misdeeds.filter(({ kind }) => !apart.includes(kind));
  for (const { kind } of together) await add(kind);
  await add(fine);
  await until(together.length + 1);
  await sleep(500);

  const runs = await database.execute<{
    run: string;
    kind: string;
    state: string;
    attempts: number;
    error: string;
  }>(sql`
    select run_id::text as run, event -> 'new' ->> 'kind' as kind, state, attempts, error from notika.runs order by run_id`);
  expect(runs).toMatchObject([
    ...together.map(({ kind, state, error }) => ({
      kind,
      state,
      attempts: 1,
      error: error ? expect.stringContaining(error) : null,
    })),
    { kind: fine, state: "done", attempts: 1, error: null },
  ]);
  for (const { kind, error, says } of together) {
    const run = runs.find((one) => one.kind === kind)?.run;
    const said = runner.said().filter((line) => line.run === run && line.message.startsWith("uncaught "));
    const entry = {
      level: "error",
      message: expect.stringMatching(`^${says}; its`),
      workflow: "misbehave",
      error: expect.stringContaining(error || "left alone"),
      stack: expect.stringContaining("test/server/misbehaviour/misbehave.ts:"),
    };
    expect(said).toMatchObject(says ? [entry] : []);
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

  const { kind, state, error = "" } = misdeed("kills its process");
  expect(
    await database.execute(sql`select event -> 'new' ->> 'kind' as kind, state, attempts, error from notika.runs`),
  ).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ kind: fine, state: "done", error: null }),
      { kind, state, attempts: 1, error: expect.stringContaining(error) },
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
  const [said] = runner
    .said()
    .filter(({ message }) => message.startsWith(misdeed("blocks the event loop").says ?? "?"));
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

function misdeed(kind: string) {
  const found = misdeeds.find((one) => one.kind === kind);
  if (!found) throw new Error(`docs/tasks.md has no row for: ${kind}`);
  return found;
}

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
