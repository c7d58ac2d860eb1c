import { execFile } from "node:child_process";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { promisify } from "node:util";
import sql from "sql-template-tag";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { install } from "../../runner/install/install.ts";
import { isThorough } from "../support/database.ts";
import { findProgram, startPostgres } from "../support/postgres.ts";
import { type RunnerProcess, spawnRunner } from "../support/runner.ts";

const pgbench = findProgram("pgbench");
const seconds = isThorough ? 20 : 3;

let server: Awaited<ReturnType<typeof startPostgres>>;
let database: Database;
let runners: RunnerProcess[] = [];

beforeAll(async () => {
  server = await startPostgres({ major: 18 });
  database = openDatabase({ connect: server.url });
});
afterAll(async () => {
  await Promise.all(runners.map((runner) => runner.end("SIGKILL")));
  await database?.close();
  await server?.stop();
});

test.skipIf(!pgbench)(
  `while pgbench writes, two runners run once for each matching update that commits${pgbench ? "" : " (pgbench is missing: apt install postgresql)"}`,
  { timeout: 300_000 },
  async () => {
    const bench = async (...options: string[]) =>
      (await promisify(execFile)(pgbench as string, [...options, server.url])).stdout;
    await bench("--initialize", "--quiet");
    await install(database);
    // The shadow is told by a trigger that has nothing to do with Notika.
    await database.script(`
      create table public.shadow (aid integer, old_balance integer, new_balance integer);
      create table public.recorded (run_id bigint, aid integer, old_balance integer, new_balance integer);
      create function public.tell_shadow() returns trigger language plpgsql as $$
      begin
        insert into public.shadow values (new.aid, old.abalance, new.abalance);
        return null;
      end;
      $$;
      create trigger tell_shadow after update on public.pgbench_accounts
        for each row execute function public.tell_shadow();
      select notika.publish('record_balance', 'public.pgbench_accounts', operations => '{update}',
        columns => '{aid,abalance}', watch => '{abalance}', condition => 'new.abalance > old.abalance')`);
    const tasks = path.join(import.meta.dirname, "tasks");
    runners = [spawnRunner(server.url, tasks), spawnRunner(server.url, tasks)];
    await Promise.all(runners.map((runner) => runner.says("running")));

    const said = await bench("--client=8", `--time=${seconds}`, "--rate=1500");

    expect(said).toContain("number of clients: 8");
    await allRun();
    const [counts] = await database.execute<{ updates: number; matching: number; history: number }>(sql`
      select count(*)::int as updates, count(*) filter (where new_balance > old_balance)::int as matching,
             (select count(*)::int from public.pgbench_history) as history
        from public.shadow`);
    expect(counts?.updates).toBe(counts?.history);
    expect(counts?.matching).toBeGreaterThan(counts?.updates ? counts.updates / 3 : 1000);
    // Nothing in one that is not in the other, as often as it is there.
    expect(
      await database.execute(sql`
        with matching as (
          select aid, old_balance, new_balance from public.shadow where new_balance > old_balance
        ), recorded as (
          select aid, old_balance, new_balance from public.recorded
        )
        select (select count(*)::int from (table matching except all table recorded) as lost) as lost,
               (select count(*)::int from (table recorded except all table matching) as extra) as extra,
               (select count(distinct run_id)::int from public.recorded) as runs`),
    ).toEqual([{ lost: 0, extra: 0, runs: counts?.matching }]);
    expect(await database.execute(sql`select state, count(*)::int as runs from notika.runs group by state`)).toEqual([
      { state: "done", runs: counts?.matching },
    ]);
    expect(runners.map(({ child }) => child.exitCode)).toEqual([null, null]);
  },
);

async function allRun() {
  for (;;) {
    const [row] = await database.execute<{ open: number }>(
      sql`select count(*)::int as open from notika.runs where finished_at is null`,
    );
    if (row?.open === 0) return;
    await setTimeout(500);
  }
}
