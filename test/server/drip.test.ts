import { readFile } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";
import sql from "sql-template-tag";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { publications, publish } from "../../runner/install/publish.ts";
import drip from "../drip/tasks/trial_drip.ts";
import { isThorough } from "../support/database.ts";
import { installed, startInstalled } from "../support/installed.ts";
import { spawnRunner } from "../support/runner.ts";

const trials = isThorough ? 60 : 30;
let server: Awaited<ReturnType<typeof startInstalled>>;
let url: string;
let database: Database;

beforeAll(async () => {
  server = await startInstalled({ major: 18 });
  url = await server.createDatabase(undefined, installed);
  database = openDatabase({ connect: url });
  await database.script(await readFile("test/drip/schema.sql", "utf8"));
  for (const publication of publications({ trial_drip: drip })) await publish(database.execute, publication);
  process.env.DRIP_DAY_MS = "400";
});
afterAll(async () => {
  delete process.env.DRIP_DAY_MS;
  await database?.close();
  await server?.stop();
});

test("trials end right while runners are killed one after the other", async () => {
  await database.execute(sql`
    insert into app.users select n, 'user ' || n, 'free' from generate_series(100, ${99 + trials}::int) as n`);

  let kills = 0;
  for (;;) {
    const runner = spawnRunner(url, "test/drip/tasks");
    await runner.says("running");
    await setTimeout(200 + 200 * (kills % 4) + 50 * kills); // a busy machine gets something done, too
    if (kills === 1) {
      await database.execute(
        sql`insert into app.payments (user_id, amount) select n, n from generate_series(100, ${99 + trials}::int, 2) as n`,
      );
    }
    await runner.end("SIGKILL");
    kills += 1;
    if ((await unfinished()) === 0) break;
    expect(kills).toBeLessThan(80);
    await aMinutePasses();
  }

  expect(kills).toBeGreaterThan(3);
  expect(await database.execute(sql`select state, count(*)::int from notika.runs group by state`)).toEqual([
    { state: "done", count: trials },
  ]);
  // What a step writes in its own transaction happens once; the outside may hear twice, with the same key.
  expect(
    await database.execute(sql`
      select text, count(*)::int, count(distinct run_id)::int as runs
        from (select run_id, split_part(text, ' ', 1) as text from app.notes) as n group by text order by text`),
  ).toEqual([
    { text: "began", count: trials, runs: trials },
    { text: "paid", count: trials / 2, runs: trials / 2 },
    { text: "timed", count: trials / 2, runs: trials / 2 },
  ]);
  expect(
    await database.execute(
      sql`select count(distinct key)::int as keys, count(*) >= count(distinct key) as at_least from app.mails`,
    ),
  ).toEqual([{ keys: trials * 4, at_least: true }]);
});

async function unfinished(): Promise<number> {
  const [row] = await database.execute<{ count: number }>(
    sql`select count(*)::int from notika.runs where finished_at is null`,
  );
  return row?.count ?? 0;
}

/** As far as the silence of dead runners goes. */
async function aMinutePasses() {
  await database.execute(
    sql`update notika.runner set seen_at = seen_at - interval '61 seconds', suspected_at = seen_at - interval '30 seconds'`,
  );
  await database.execute(sql`update notika_worker._private_jobs set locked_at = locked_at - interval '61 seconds'`);
}
