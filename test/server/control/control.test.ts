import path from "node:path";
import { setTimeout } from "node:timers/promises";
import sql, { raw } from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import { isThorough } from "../../support/database.ts";
import { installed, startInstalled } from "../../support/installed.ts";
import { type RunnerProcess, spawnRunner } from "../../support/runner.ts";

let server: Awaited<ReturnType<typeof startInstalled>>;
let url: string;
let database: Database;
let runners: RunnerProcess[];

beforeAll(async () => {
  server = await startInstalled({ major: 18, settings: { max_connections: "100" } });
});
afterAll(() => server?.stop());

beforeEach(async () => {
  url = await server.createDatabase(undefined, installed);
  database = openDatabase({ connect: url });
  await database.script(`
    create table public.item (
      id int generated always as identity primary key, lane text, ms int not null, failures int not null default 0
    );
    create table public.attempt (item_id int, lane text, what text, at timestamptz default clock_timestamp());
    create index on public.attempt (item_id);
    create table public.gathered (run_id bigint, item_id int)`);
  runners = [];
});
afterEach(async () => {
  await Promise.all(runners.map((runner) => runner.end("SIGKILL")));
  await database.close();
}, 30_000);

test("no more than its concurrency run at a time on three runners, while runs fail and a runner is killed", async () => {
  await publish("watched", { concurrency: 4 });
  await startRunners(3);

  const items = isThorough ? 300 : 150;
  await database.script(`
    insert into public.item (ms, failures)
    select 20, case when n % 10 = 0 then 2 else 0 end from generate_series(1, ${items}) as n`);
  await until(`(select count(*) from public.attempt where what = 'ended') > 60`);
  await killOne();
  await until(`(select count(*) from notika.run_log where state = 'done') = ${items}`);

  expect(await mostAtOnce()).toBe(4);
  expect(await database.execute(sql`select * from notika.slot`)).toEqual([]);
}, 120_000);

test("runs of one lane keep their order on three runners, while runs fail and runners are killed", async () => {
  await publish("watched", { order: "lane" });
  await startRunners(3);

  const rounds = isThorough ? 4 : 2;
  for (let round = 0; round < rounds; round++) {
    await database.script(`
      insert into public.item (lane, ms, failures)
      select 'lane ' || n % 10, 5, case when n in (20, 40, 61, 80) then 1 else 0 end from generate_series(1, 100) as n`);
    await until(`(select count(*) from public.attempt where what = 'ended') > ${round * 100 + 30}`);
    if (round % 2 === 1) {
      await killOne();
      await startRunners(1);
    }
  }
  await until(`(select count(*) from notika.run_log where state = 'done') = ${rounds * 100}`);

  expect(
    await database.execute(sql`
      select a.item_id, a.what, b.item_id as too_early
        from (select *, lead(item_id) over (partition by lane order by at) as next_id from public.attempt) as a
        join public.attempt as b on b.lane = a.lane and b.item_id = a.next_id
       where a.next_id < a.item_id`),
  ).toEqual([]);
  expect(await mostAtOnce("lane 3")).toBe(1);
  expect(await database.execute(sql`select * from notika.lane`)).toEqual([]);
}, 180_000);

test("a lane with a failing run holds back no other", async () => {
  await publish("watched", { order: "lane" });
  await startRunners(2);
  await database.script(`
    insert into public.item (lane, ms, failures)
    select case when n <= 50 then 'stuck' else 'free' end, 1, case when n = 1 then 100 else 0 end
      from generate_series(1, 100) as n`);

  await until("(select count(*) from notika.run_log where state = 'done') = 50");

  expect(await database.execute(sql`select distinct lane from public.attempt where what = 'ended'`)).toEqual([
    { lane: "free" },
  ]);
  expect(
    await database.execute(sql`select state, count(*)::int from notika.runs group by state order by state`),
  ).toMatchObject([
    { state: "done", count: 50 },
    { state: expect.any(String), count: 1 },
    { state: "waiting", count: 49 },
  ]);
}, 60_000);

test("no event of a digest is lost or comes twice, while runners are killed as windows close", async () => {
  await publish("gathered", { digest: { by: "lane", window: "300 milliseconds", max: 50 } });
  await startRunners(3);

  const total = isThorough ? 1500 : 900;
  const writers = Array.from({ length: 3 }, async (_, writer) => {
    for (let n = 0; n < total / 3; n += 5) {
      await database.execute(sql`
        insert into public.item (lane, ms)
        select 'lane ' || (${writer}::int + n) % 4, 30 from generate_series(1, 5) as n`);
      await setTimeout(10);
    }
  });
  for (let kills = 0; kills < (isThorough ? 3 : 2); kills++) {
    await setTimeout(700);
    await killOne();
    await startRunners(1);
  }
  await Promise.all(writers);
  await until("not exists (select from notika.runs where state <> 'done')");

  expect(
    await database.execute(sql`
      select count(*)::int as events, count(distinct item_id)::int as items, max(size)::int <= 50 as bounded
        from public.gathered
        join (select run_id, count(*) as size from public.gathered group by run_id) as run using (run_id)`),
  ).toEqual([{ events: total, items: total, bounded: true }]);
}, 180_000);

test("ten thousand events of one key become one digest, and ten thousand others of a lane wait cheaply", async () => {
  await publish("gathered", { digest: { window: "1 hour", max: 10_000 } });
  await publish("watched", { order: "lane" });
  await database.script(`
    insert into public.item (lane, ms) select 'hot', 0 from generate_series(1, 10000) as n;
    insert into public.item (lane, ms) values ('cold', 0)`);

  const started = Date.now();
  await startRunners(1);
  await until("(select count(*) from public.gathered) = 10000");
  await until("exists (select from public.attempt where lane = 'cold' and what = 'ended')");

  expect(Date.now() - started).toBeLessThan(30_000);
  expect(
    await database.execute(sql`select run_id::int, count(*)::int from public.gathered group by run_id order by 1`),
  ).toEqual([{ run_id: 1, count: 10_000 }]);
}, 120_000);

async function publish(workflow: string, options: object) {
  await database.execute(sql`
    select notika.publish(${workflow}::text, 'public.item', options => ${JSON.stringify(options)}::text::jsonb)`);
}

async function startRunners(count: number) {
  const started = Array.from({ length: count }, () =>
    spawnRunner(url, path.join(import.meta.dirname, "tasks"), ["--concurrency", "8"]),
  );
  runners.push(...started);
  await Promise.all(started.map((runner) => runner.says("running")));
}

/** Kills a runner in the middle of its work; a minute passes for what it held. */
async function killOne() {
  const runner = runners.shift();
  await runner?.end("SIGKILL");
  await database.script(`
    update notika.runner set seen_at = seen_at - interval '61 seconds', suspected_at = seen_at - interval '30 seconds' where pid = ${runner?.child.pid};
    update notika_worker._private_jobs set locked_at = locked_at - interval '61 seconds'
     where locked_by in (select runner_id from notika.runner where pid = ${runner?.child.pid});
    select notika.maintain()`);
}

async function until(condition: string) {
  for (;;) {
    const [row] = await database.execute<{ met: boolean }>(raw(`select ${condition} as met`));
    if (row?.met) return;
    await setTimeout(50);
  }
}

/** How many attempts overlapped at most.  Those of a runner that was killed are over when their run begins again. */
async function mostAtOnce(lane?: string): Promise<number> {
  const [row] = await database.execute<{ most: number }>(sql`
    select max(running)::int as most
      from (
        select sum(case what when 'began' then 1 else -1 end) over (order by at) as running
          from (
            select a.at, a.what
              from public.attempt as a
             where ${lane ?? null}::text is null or a.lane = ${lane ?? null}
            union all
            select min(next.at) - interval '1 microsecond', 'killed'
              from public.attempt as a
              join public.attempt as next
                on next.item_id = a.item_id and next.what = 'began' and next.at > a.at
             where a.what = 'began'
               and (${lane ?? null}::text is null or a.lane = ${lane ?? null})
               and not exists (
                 select from public.attempt as other
                  where other.item_id = a.item_id and other.what <> 'began'
                    and other.at between a.at and next.at
               )
             group by a.ctid
          ) as change
      ) as history`);
  return row?.most ?? 0;
}
