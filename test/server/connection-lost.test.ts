import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { installed, startInstalled } from "../support/installed.ts";
import { openRelay, type Relay } from "../support/relay.ts";
import { type RunnerProcess, spawnRunner } from "../support/runner.ts";

let server: Awaited<ReturnType<typeof startInstalled>>;
let relay: Relay;
let database: Database;
let runner: RunnerProcess;

beforeAll(async () => {
  server = await startInstalled({ major: 18 });
  relay = await openRelay(server.port);
});
afterAll(async () => {
  relay?.close();
  await server?.stop();
});

beforeEach(async () => {
  const url = await server.createDatabase(undefined, installed);
  database = openDatabase({ connect: url });
  await database.script(`
    create table public.work (id bigint generated always as identity primary key, kind text not null);
    create table public.begun (kind text, at timestamptz default clock_timestamp());
    select notika.publish('connected', 'public.work')`);
  runner = spawnRunner(relay.through(url), path.join(import.meta.dirname, "connected"));
  await runner.says("running");
});
afterEach(async () => {
  await runner.end("SIGKILL");
  await database.close();
});

test("an attempt that fails because the connection is lost does not count", async () => {
  await database.script("insert into public.work (kind) values ('query'), ('step.query'), ('step.run')");
  await begun(3);
  relay.cut("reset");
  await ended(3);

  expect(await outcomes()).toEqual([
    { kind: "query", state: "done", attempts: 1 },
    { kind: "step.query", state: "done", attempts: 1 },
    { kind: "step.run", state: "done", attempts: 1 },
  ]);
  const [again] = await database.execute<{ times: number }>(
    sql`select count(*)::int as times from public.begun where kind = 'query'`,
  );
  expect(again).toEqual({ times: 2 });
});

test("unless its own statements end the connection, each time", async () => {
  await database.script(`
    update notika.setting set max_attempts = 1;
    insert into public.work (kind) values ('ends it')`);
  for (let times = 1; times <= 6; times++) {
    await begun(times);
    await sleep(200);
    await database.script("update notika_worker._private_jobs set run_at = now() where locked_at is null");
  }
  await ended(1);

  expect(await outcomes()).toEqual([{ kind: "ends it", state: "failed", attempts: 1 }]);
});

async function begun(count: number) {
  await expect.poll(() => number(sql`select count(*)::int as n from public.begun`), { timeout: 20_000 }).toBe(count);
}

async function ended(count: number) {
  await expect.poll(() => number(sql`select count(*)::int as n from notika.run_log`), { timeout: 20_000 }).toBe(count);
}

async function number(statement: ReturnType<typeof sql>) {
  const [row] = await database.execute<{ n: number }>(statement);
  return row?.n;
}

const outcomes = () =>
  database.execute(sql`
    select e.new ->> 'kind' as kind, r.state, r.attempts
      from notika.runs as r join notika.event_log as e on e.event_id = r.run_id
     order by 1`);
