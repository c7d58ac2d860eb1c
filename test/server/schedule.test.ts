import path from "node:path";
import { expect } from "vitest";
import { spawnRunner } from "../support/runner.ts";
import { test, until } from "./cluster.ts";

test("each time of a schedule starts one run, however many dispatchers there are", async ({ db }) => {
  await db.query("select notika.schedule('report', '* * * * *', missed => 'catch up')");
  await db.query(
    "update notika.schedule set next_at = date_trunc('minute', clock_timestamp()) - interval '499 minutes'",
  );
  const dispatchers = await Promise.all([...Array(6)].map(() => db.connect()));

  await Promise.all(
    dispatchers.map(async (dispatcher) => {
      for (let idle = 0; idle < 20; ) {
        // Some are undone: what they started was not started.
        await dispatcher.query("begin");
        const events = await dispatcher.value<number | null>("select notika.dispatch(50)");
        await dispatcher.query(Math.random() < 0.2 ? "rollback" : "commit");
        if (events === null)
          await new Promise((go) => setTimeout(go, 1)); // another dispatcher is at it
        else idle = events === 0 ? idle + 1 : 0;
      }
    }),
  );

  const [row] = await db.query<{ events: number; times: number; jobs: number; minutes: number }>(`
    select count(*)::int as events, count(distinct new ->> 'planned_at')::int as times,
           (select count(*)::int from notika_worker._private_jobs) as jobs,
           (extract(epoch from max((new ->> 'planned_at')::timestamptz) - min((new ->> 'planned_at')::timestamptz)) / 60)::int + 1 as minutes
      from notika._event`);
  expect(row?.events).toBeGreaterThanOrEqual(500);
  expect(row).toEqual({ events: row?.events, times: row?.events, jobs: row?.events, minutes: row?.events });
});

test("with a runner that sleeps a run starts within two seconds of its time", async ({ db }) => {
  await db.query("select notika.schedule('work', '@yearly')");
  const runner = spawnRunner(db.url, path.join(import.meta.dirname, "tasks"));
  await runner.says("running");
  await new Promise((go) => setTimeout(go, 2000));

  await db.query("update notika.schedule set next_at = clock_timestamp() + interval '1.5 seconds'");
  const planned = await db.value<string>("select next_at::text from notika.schedule");
  await until(db, "exists (select from notika._event)");

  const late = await db.value<number>(
    "select extract(epoch from min(captured_at) - $1::text::timestamptz)::float8 from notika._event",
    [planned],
  );
  await runner.end("SIGTERM");
  expect(late).toBeGreaterThanOrEqual(0);
  expect(late).toBeLessThan(2);
});
