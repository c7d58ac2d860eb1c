import { describe, expect } from "vitest";
import { test } from "../support/database.ts";

const tasks = "array(select t.id from notika_worker._private_tasks as t where t.identifier = 'work')";
const claim = (most: number) => `select key, attempts from notika._claim('runner', ${tasks}, ${most})`;

describe("taking jobs", () => {
  test("takes those of the runner's tasks in the order of their events, those of backfills last", async ({ db }) => {
    await db.script(`
      create table public.items (id int);
      select notika.publish('other', 'public.items'), notika.publish('work', 'public.items');
      insert into public.items values (1), (2), (3)`);
    await db.query("select notika.dispatch()");
    await db.query("update notika_worker._private_jobs set priority = 10 where key = '2'");

    expect(await db.query(claim(2))).toEqual([
      { key: "4", attempts: 1 },
      { key: "6", attempts: 1 },
    ]);
    expect(await db.query(claim(2))).toEqual([{ key: "2", attempts: 1 }]);
    expect(await db.query(claim(2))).toEqual([]);
    expect(
      await db.query("select run_id::int as run, workflow from notika.runs where state = 'ready' order by 1"),
    ).toEqual([
      { run: 1, workflow: "other" },
      { run: 3, workflow: "other" },
      { run: 5, workflow: "other" },
    ]);
  });

  test("gives none to a runner of another version, which is told which one to start", async ({ db }) => {
    await db.script(`
      create table public.items (id int);
      select notika.publish('work', 'public.items');
      insert into public.items values (1)`);
    await db.query("select notika.dispatch()");
    const [{ version } = {}] = await db.query<{ version: string }>("select notika.version() as version");
    const claimAs = (own: string) => db.query(`select key from notika._claim('runner', ${tasks}, 1, '${own}')`);

    await expect(claimAs("0.0.9")).rejects.toMatchObject({
      code: "NK013",
      message: `the database has notika ${version}, this runner is notika 0.0.9`,
      hint: `It takes no more runs. Start one of the installed version: npm install notika@${version}`,
    });
    expect(await claimAs(`${version}`)).toEqual([{ key: "1" }]);
  });

  test("reads no more of a backlog than it takes, also when Postgres knows nothing of the table", async ({ db }) => {
    await db.script(`
      create table public.items (id int);
      select notika.publish('work', 'public.items');
      insert into public.items select generate_series(1, 5000)`);
    await db.query("select notika.dispatch(5000)");
    await db.query(claim(10));

    const [row] = await db.query<{ "QUERY PLAN": [{ Plan: Record<string, number> }] }>(
      `explain (analyze, buffers, format json) ${claim(10)}`,
    );

    const { "Shared Hit Blocks": hit = 0, "Shared Read Blocks": read = 0 } = row?.["QUERY PLAN"][0].Plan ?? {};
    const [table] = await db.query<{ blocks: number }>(
      "select (pg_relation_size('notika_worker._private_jobs') / 8192)::int as blocks",
    );
    expect(table?.blocks).toBeGreaterThan(150);
    expect(hit + read).toBeGreaterThan(10);
    expect(hit + read).toBeLessThan(200);
  });
});
