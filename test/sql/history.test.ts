import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";

const published = `
  create table public.items (id int primary key, note text);
  create table public.orders (id int primary key);
  select notika.publish('work', 'public.items', '{insert,update}'), notika.publish('ship', 'public.orders');
  insert into public.items select i, 'n' || i from generate_series(1, 6) as i;
  insert into public.orders values (5), (7)`;

/** Eight runs that are handed over. */
async function start(db: TestDatabase) {
  await db.script(published);
  await db.query("select notika.dispatch()");
}

/** Runs 1 to 6 are of items, 7 and 8 of orders; each ends as told, so many hours ago. */
async function end(db: TestDatabase, ...outcomes: [run: number, state: string, hours: number][]) {
  for (const [run, state, hours] of outcomes) {
    const [job] = await db.query<{ id: string; workflow: string }>(
      `select r.workflow, j.id::text as id from notika.runs as r
         join notika_worker._private_jobs as j on j.key = r.run_id::text where r.run_id = $1::text::bigint`,
      [String(run)],
    );
    await db.query("select notika._finish($1::text::json)", [
      JSON.stringify([
        { run_id: run, workflow: job?.workflow, state, attempts: 2, error: state === "done" ? null : "boom" },
      ]),
    ]);
    await db.query("select notika_worker.complete_jobs(array[$1::text::bigint])", [job?.id]);
    await db.query(
      `update notika.run_log set finished_at = clock_timestamp() - $1::text::interval, started_at = created_at
        where run_id = $2::text::bigint and retried_at is null`,
      [`${hours} hours`, String(run)],
    );
  }
}

const found = async (db: TestDatabase, filter = "") =>
  (await db.query(`select run_id::int as run, state from notika.history(${filter})`)).map(({ run, state }) => [
    run,
    state,
  ]);

describe("history", () => {
  test("is filtered by workflow, state, time, table and key", async ({ db }) => {
    await start(db);
    await db.query("update public.items set id = 70 where id = 3");
    await end(db, [1, "done", 30], [2, "failed", 20], [3, "failed", 2], [7, "done", 1], [8, "cancelled", 1]);

    expect(await found(db)).toEqual([
      [9, "ready"],
      [8, "cancelled"],
      [7, "done"],
      [6, "ready"],
      [5, "ready"],
      [4, "ready"],
      [3, "failed"],
      [2, "failed"],
      [1, "done"],
    ]);
    expect(await found(db, "max_runs => 2")).toEqual([
      [9, "ready"],
      [8, "cancelled"],
    ]);
    expect(await found(db, "'work', 'failed'")).toEqual([
      [3, "failed"],
      [2, "failed"],
    ]);
    expect(await found(db, "state => 'ready', workflow => 'ship'")).toEqual([]);
    expect(await found(db, "since => now() - interval '10 hours', only_ended => true")).toEqual([
      [8, "cancelled"],
      [7, "done"],
      [3, "failed"],
    ]);
    expect(await found(db, "since => now() - interval '10 hours'")).toHaveLength(7);
    expect(await found(db, "table_name => 'public.orders'")).toEqual([
      [8, "cancelled"],
      [7, "done"],
    ]);
    expect(await found(db, "table_name => 'public.orders', workflow => 'work'")).toEqual([]);
    expect(await found(db, `key => '{"id": 5}'`)).toEqual([
      [7, "done"],
      [5, "ready"],
    ]);
    // Before and after a change; several values count together.
    expect(await found(db, `key => '{"id": 3}'`)).toEqual([
      [9, "ready"],
      [3, "failed"],
    ]);
    expect(await found(db, `key => '{"id": 70, "note": "n3"}'`)).toEqual([[9, "ready"]]);
    expect(await found(db, `key => '{"id": 70, "note": "n4"}'`)).toEqual([]);
  });

  test("has the event of a run that is done while the ring remembers it, of others for good", async ({ db }) => {
    await start(db);
    await end(db, [1, "done", 1], [2, "failed", 1]);
    const ids = async () =>
      (await db.query("select event -> 'new' ->> 'id' as id from notika.history(only_ended => true)")).map(
        ({ id }) => id,
      );
    expect(await ids()).toEqual(["2", "1"]);

    await db.script("truncate notika.event_log_0");

    expect(await ids()).toEqual(["2", null]);
    expect(await found(db, `key => '{"id": 2}'`)).toEqual([[2, "failed"]]);
  });

  test("finds a key in events that Postgres cannot read", async ({ db }) => {
    await db.script(`create table public.docs (id int primary key, doc json);
      select notika.publish('work', 'public.docs');
      insert into public.docs values (1, '{"a": "\\u0000"}'), (2, '{"a": "\\ud800"}');`);

    expect(await found(db, `key => '{"id": 2}'`)).toEqual([[2, "ready"]]);
  });
});

describe("timeline", () => {
  test("tells a run from its event to its end, with steps, retries and errors", async ({ db }) => {
    await start(db);
    await db.query(`select * from notika._remember('[
      {"run_id": 2, "name": "send mail", "state": "done", "result": "{\\"id\\": 4}", "ms": 1500},
      {"run_id": 2, "name": "book", "state": "retrying", "error": "busy", "ms": 20}]')`);
    await end(db, [2, "failed", 0]);
    await db.query("select notika.retry(2)");
    await end(db, [2, "done", 0]);

    const rows = await db.query(
      `select entry, name, state, attempts, (round(extract(epoch from took) * 2) / 2)::float8 as seconds, detail
         from notika.timeline(2)`,
    );

    expect(rows.map(({ entry, name, state, attempts }) => [entry, name, state, attempts])).toEqual(
      expect.arrayContaining([
        ["event", "work", "insert", null],
        ["outcome", null, "failed", 2],
        ["retry", null, null, null],
        ["step", "send mail", "done", 1],
        ["outcome", null, "done", 2],
      ]),
    );
    expect(rows[0]).toMatchObject({ entry: "event", detail: expect.stringContaining('"note" : "n2"') });
    expect(rows.at(-1)).toMatchObject({ entry: "outcome", state: "done", detail: null });
    expect(rows.find(({ name }) => name === "send mail")).toMatchObject({ seconds: 1.5, detail: '{"id": 4}' });
    expect(rows.find(({ state }) => state === "failed")).toMatchObject({ detail: "boom" });
  });

  test("ends with what comes next, and when", async ({ db }) => {
    await start(db);
    await db.query(
      `select notika._park(id, '[{"name": "cool down", "for": "3 days"}]') from notika_worker._private_jobs where key = '3'`,
    );
    await db.query("delete from notika_worker._private_jobs where key is null");

    expect(
      await db.query(`select entry, name, state, round(extract(epoch from at - clock_timestamp()) / 86400)::int as days
                        from notika.timeline(3)`),
    ).toEqual([
      { entry: "event", name: "work", state: "insert", days: 0 },
      { entry: "wait", name: "cool down", state: "waiting", days: 0 },
      { entry: "next", name: null, state: "waiting", days: 3 },
    ]);
    expect(await db.query("select workflow, step, runs::int, run_id::int from notika._remembered()")).toEqual([
      { workflow: "work", step: "cool down", runs: 1, run_id: 3 },
    ]);
  });

  test("says that there is no such run, and where they are", async ({ db }) => {
    await expect(db.query("select * from notika.timeline(99)")).rejects.toMatchObject({
      code: "42704",
      message: "there is no run 99",
      hint: "The ids are in: select * from notika.history();",
    });
  });
});

describe("bulk retry", () => {
  test("lets the runs of a workflow that failed since then run again, with their steps or without", async ({ db }) => {
    await start(db);
    await db.query(`select * from notika._remember('[
      {"run_id": 2, "name": "a", "state": "done", "result": "1", "ms": 1},
      {"run_id": 3, "name": "a", "state": "done", "result": "1", "ms": 1},
      {"run_id": 3, "name": "b", "state": "failed", "error": "no", "ms": 1}]')`);
    await end(db, [1, "failed", 30], [2, "failed", 2], [3, "failed", 1], [4, "cancelled", 1], [7, "failed", 1]);
    const steps = () => db.query("select run_id::int as run, name from notika.step order by 1, 2");

    expect(await db.query("select notika.retry('work', now() - interval '90 minutes') as n")).toEqual([{ n: 1 }]);
    expect(await steps()).toEqual([
      { run: 2, name: "a" },
      { run: 3, name: "a" },
    ]);
    expect(await db.query("select notika.retry('work', now() - interval '3 hours', true) as n")).toEqual([{ n: 1 }]);
    expect(await steps()).toEqual([{ run: 3, name: "a" }]);

    expect(await found(db, "only_ended => true")).toEqual([
      [7, "failed"],
      [4, "cancelled"],
      [1, "failed"],
    ]);
    expect(await found(db, "'work'")).toContainEqual([3, "ready"]);
    await expect(db.query("select notika.retry('lunch', now())")).rejects.toMatchObject({
      message: 'workflow "lunch" is not published',
    });
  });
});

describe("runs that ended long ago", () => {
  test("are forgotten with their steps, some at a time, oldest first", async ({ db }) => {
    await start(db);
    await db.query("update notika.setting set runs_kept = '10 hours'");
    await db.query(`select * from notika._remember('[
      {"run_id": 1, "name": "a", "state": "done", "result": "1", "ms": 1},
      {"run_id": 2, "name": "a", "state": "done", "result": "1", "ms": 1},
      {"run_id": 3, "name": "a", "state": "done", "result": "1", "ms": 1}]')`);
    await end(db, [1, "done", 30], [2, "failed", 20], [3, "done", 9], [7, "done", 25]);
    await db.query("select notika.retry(2)"); // what it was is old, what it is is not

    expect(await db.query("select count(*)::int as n from notika._forget_runs(2)")).toEqual([{ n: 1 }]);
    expect(await found(db, "only_ended => true")).toEqual([[3, "done"]]);
    const did = (await db.query<{ did: string }>("select notika.maintain() as did")).map(({ did }) => did);

    expect(did).toContainEqual(expect.stringMatching(/^0 runs that ended before .* are forgotten$/));
    expect(await db.query("select run_id::int as run from notika.step order by 1")).toEqual([{ run: 2 }, { run: 3 }]);
    expect(await db.query("select notika.maintain() as did")).toEqual([]);
    expect(await found(db, "'work'")).toContainEqual([2, "ready"]);
  });

  test("make room for new ones: the tables stop growing", async ({ db }) => {
    await db.script("update notika.setting set runs_kept = '1 hour'");
    const sizes: number[] = [];
    for (let round = 0; round < 8; round++) {
      await db.script(`
        insert into notika.run_log (run_id, workflow, state, attempts, created_at, started_at, finished_at)
          select nextval('notika.event_id_seq'), 'work', 'done', 1, now(), now(), now() - interval '2 hours'
            from generate_series(1, 3000);
        insert into notika.step (run_id, name, state, result, started_at)
          select run_id, s.name, 'done', '{"a": 1}', now() from notika.run_log, (values ('a'), ('b')) as s (name);
        select notika._forget_runs();`);
      // As autovacuum does in its own time.
      await db.query("vacuum notika.run_log");
      await db.query("vacuum notika.step");
      const [row] = await db.query<{ bytes: string }>(
        "select (pg_total_relation_size('notika.run_log') + pg_total_relation_size('notika.step'))::text as bytes",
      );
      sizes.push(Number(row?.bytes));
    }

    expect(await db.query("select count(*)::int as n from notika.run_log")).toEqual([{ n: 0 }]);
    expect(Math.max(...sizes.slice(2))).toBeLessThanOrEqual(1.1 * (sizes[1] as number));
  });
});
