import { setTimeout } from "node:timers/promises";
import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";

/** Tables and workflows of these names. */
const publish = (db: TestDatabase, ...names: string[]) =>
  db.script(
    names.map((name) => `create table ${name} (id int); select notika.publish('${name}', 'public.${name}');`).join(""),
  );

const add = (db: TestDatabase, name: string, count: number) =>
  db.query(`insert into ${name} select generate_series(1, ${count})`);

/** Hands over until there is nothing left, so many at a time. */
async function dispatch(db: TestDatabase, size = 1000) {
  while ((await db.query(`select notika.dispatch(${size}) as events`))[0]?.events) {}
}

/** Takes so many runs, as a runner does: the workflows that they are of. */
async function take(db: TestDatabase, count: number): Promise<string[]> {
  const rows = await db.query<{ workflow: string }>(
    `select t.identifier as workflow
       from notika._claim('runner', array(select id from notika_worker._private_tasks), $1::text::int) as c
       join notika_worker._private_tasks as t on t.id = c.task_id`,
    [String(count)],
  );
  return rows.map(({ workflow }) => workflow);
}

const many = (workflows: string[], name: string) => workflows.filter((it) => it === name).length;

/** What waits, in the order in which it will be taken. */
async function queue(db: TestDatabase): Promise<string[]> {
  const rows = await db.query<{ run: string }>(
    `select concat(t.identifier, coalesce(payload -> 'new' ->> 'id', key)) as run
       from notika_worker._private_jobs as j
       join notika_worker._private_tasks as t on t.id = j.task_id
      where j.is_available and j.run_at <= clock_timestamp()
      order by j.priority, j.run_at, j.id`,
  );
  return rows.map(({ run }) => run);
}

const numbered = (name: string, from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, i) => `${name}${from + i}`);

describe("runs of several workflows", () => {
  test("take turns in whatever order they came, and each workflow's in the order of its events", async ({ db }) => {
    await publish(db, "many", "few");
    await add(db, "many", 200);
    await dispatch(db, 70);
    await add(db, "few", 30);
    await dispatch(db, 7);

    const waiting = await queue(db);

    expect(waiting.filter((run) => run.startsWith("many"))).toEqual(numbered("many", 1, 200));
    expect(waiting.filter((run) => run.startsWith("few"))).toEqual(numbered("few", 1, 30));
    const first = waiting.slice(0, 40);
    expect(first.filter((run) => run.startsWith("few")).length).toBeGreaterThanOrEqual(19);
  });

  test("have equal shares of what is taken while both have a backlog", async ({ db }) => {
    await publish(db, "one", "two");
    await add(db, "one", 300);
    await dispatch(db);
    await take(db, 100);

    const shares = { one: 0, two: 0 };
    for (let round = 0; round < 10; round++) {
      await add(db, "one", 60); // what one brings is more
      await add(db, "two", 20);
      await dispatch(db);
      const taken = await take(db, 30);
      shares.one += many(taken, "one");
      shares.two += many(taken, "two");
    }

    expect(shares.one + shares.two).toBe(300);
    expect(Math.abs(shares.one - shares.two)).toBeLessThan(20);
  });

  test("the single event of one is next, however long the other's backlog is and has been", async ({ db }) => {
    await publish(db, "many", "single");
    await add(db, "many", 500);
    await dispatch(db);

    for (let round = 0; round < 5; round++) {
      await take(db, 50);
      await add(db, "single", 1);
      await dispatch(db);
      expect(many(await take(db, 3), "single")).toBe(1);
    }
  });

  test("a burst of one does not catch up on what the other has had before", async ({ db }) => {
    await publish(db, "steady", "burst");
    await add(db, "burst", 1);
    await add(db, "steady", 400);
    await dispatch(db);
    await take(db, 301);
    await add(db, "burst", 100);
    await dispatch(db);

    expect(many(await take(db, 60), "steady")).toBeGreaterThanOrEqual(28);
  });

  test("that no runner has a task for hold up nobody's turn", async ({ db }) => {
    await publish(db, "nobodys", "steady", "burst");
    await db.query("select notika._beat('runner', 'here', 1, '{steady,burst}')");
    await add(db, "nobodys", 20);
    await add(db, "steady", 200);
    await dispatch(db);
    const takeOurs = async (count: number) => {
      const rows = await db.query<{ workflow: string }>(
        `select t.identifier as workflow
           from notika._claim('runner', array(select id from notika_worker._private_tasks where identifier <> 'nobodys'),
                              $1::text::int) as c
           join notika_worker._private_tasks as t on t.id = c.task_id`,
        [String(count)],
      );
      return rows.map(({ workflow }) => workflow);
    };
    await takeOurs(120);
    await add(db, "burst", 60);
    await dispatch(db);

    const taken = await takeOurs(40);

    // Behind nobody's first place the burst would come before all of the others.
    expect(many(taken, "burst")).toBeLessThanOrEqual(21);
    expect(many(taken, "burst")).toBeGreaterThanOrEqual(19);
  });

  test("keep their order in chunks of any size, and when a workflow's events are backfilled", async ({ db }) => {
    await publish(db, "one", "two");
    for (let round = 0; round < 6; round++) {
      await db.query(`insert into one select ${round} * 20 + n from generate_series(1, 20) as n`);
      await db.query(`insert into two select ${round} * 5 + n from generate_series(1, 5) as n`);
      await db.query(`select notika.dispatch(${[1, 1000, 3, 17, 2, 8][round]})`);
      if (round % 2) await take(db, 6);
    }
    await dispatch(db, 9);
    await db.query("select notika.replay('two', now() - interval '1 hour')");
    await dispatch(db, 9);

    const rows = await db.query<{ ordered: boolean }>(
      `select bool_and(o.run_at > o.before) as ordered
         from (select run_at, lag(run_at) over (partition by task_id, priority order by key::bigint) as before
                 from notika_worker._private_jobs) as o`,
    );
    expect(rows).toEqual([{ ordered: true }]);
    expect((await queue(db)).slice(-30)).toEqual(numbered("two", 1, 30)); // the replayed ones, behind all others
  });
});

describe("behind a backlog", () => {
  const lasting = 1200; // milliseconds, by which the backlog has to be behind

  test("what falls due is next, and the order of the others stays", async ({ db }) => {
    await publish(db, "many", "other");
    await add(db, "other", 3);
    await dispatch(db);
    await db.query("update notika_worker._private_jobs set run_at = now() + interval '0.6 seconds', attempts = 1");
    await add(db, "many", 60);
    await dispatch(db);
    await setTimeout(lasting);

    await dispatch(db);

    expect(many(await take(db, 8), "other")).toBe(3);
    expect(await queue(db)).toEqual(numbered("many", 6, 60));
  });

  test("what falls due of a workflow's own is next as well, and many that fall due starve nobody", async ({ db }) => {
    await publish(db, "many", "single");
    await add(db, "many", 100);
    await dispatch(db);
    await db.query(`
      update notika_worker._private_jobs set run_at = now() + interval '0.6 seconds', attempts = 1
       where (payload -> 'new' ->> 'id')::int > 50`);
    await setTimeout(lasting);
    await dispatch(db);
    await add(db, "single", 1);
    await dispatch(db);

    expect((await queue(db)).slice(0, 6)).toContain("single1");
    const first = (await queue(db)).slice(0, 21).map((run) => Number(run.match(/^many(\d+)$/)?.[1]));
    expect(first.filter((id) => id > 50).length).toBeGreaterThanOrEqual(9);
    expect(first.filter((id) => id <= 50).length).toBeGreaterThanOrEqual(9);
  });

  test("a line goes on in the place that it had", async ({ db }) => {
    await publish(db, "line", "many");
    for (const options of ['{"order": "id"}', '{"concurrency": 1}', '{"order": "id", "concurrency": 1}']) {
      await db.query("select notika.configure('line', $1::text::jsonb)", [options]);
      await db.query("insert into line values (1), (1), (1)");
      await dispatch(db);
      await add(db, "many", 20);
      await dispatch(db);

      for (let turn = 0; turn < 3; turn++) {
        const [job] = await db.query<{ id: string; key: string }>(
          `select c.id::text, c.key
             from notika._claim('runner', array(select id from notika_worker._private_tasks), 2) as c
             join notika_worker._private_tasks as t on t.id = c.task_id
            where t.identifier = 'line'`,
        );
        expect({ options, turn, found: job !== undefined }).toEqual({ options, turn, found: true });
        await db.query(
          `select notika._finish(json_build_array(json_build_object(
             'run_id', $1::text::bigint, 'workflow', 'line', 'state', 'done', 'attempts', 1)))`,
          [job?.key],
        );
        await db.query("select notika_worker.complete_jobs(array[$1::text::bigint])", [job?.id]);
      }
      await db.query("delete from notika_worker._private_jobs");
    }
  });

  test("runs that were held keep their order, come before newer ones, and leave the others their turn", async ({
    db,
  }) => {
    await publish(db, "held", "single");
    await add(db, "held", 30);
    await dispatch(db);
    await db.query("select notika.pause('held')");
    await db.query("insert into held select generate_series(31, 50)");
    await dispatch(db);
    expect(await queue(db)).toEqual([]);

    await db.query("select notika.resume('held')");
    await db.query("insert into held select generate_series(51, 60)");
    await dispatch(db);
    await add(db, "single", 1);
    await dispatch(db);

    const waiting = await queue(db);
    expect(waiting.filter((run) => run.startsWith("held"))).toEqual(numbered("held", 1, 60));
    expect(waiting.slice(0, 3)).toContain("single1");
  });

  test("those who sleep until the same time have places one behind the other then", async ({ db }) => {
    await publish(db, "sleeper");
    await add(db, "sleeper", 5);
    await dispatch(db);
    for (const { id } of await db.query<{ id: string }>(
      "select id::text from notika._claim('runner', array(select id from notika_worker._private_tasks), 5)",
    )) {
      await db.query(`select notika._park($1::text::bigint, '[{"name": "morning", "at": "2100-01-01T09:00:00Z"}]')`, [
        id,
      ]);
    }

    const rows = await db.query<{ places: number; ms: number }>(
      `select count(distinct run_at)::int as places,
              (extract(epoch from max(run_at) - '2100-01-01T09:00:00Z') * 1000)::int as ms
         from notika_worker._private_jobs where key is not null`,
    );
    expect(rows).toEqual([{ places: 5, ms: 0 }]);
  });
});

describe("priority", () => {
  test("goes before places: the smaller first, also when a run is tried again", async ({ db }) => {
    await publish(db, "late", "plain", "early");
    await db.query(`select notika.configure('late', '{"priority": 5}')`);
    await db.query(`select notika.configure('early', '{"priority": -1, "order": "id"}')`);
    await add(db, "late", 2);
    await add(db, "plain", 2);
    await add(db, "early", 2);
    await dispatch(db);
    expect(await queue(db)).toEqual(["early1", "early2", "plain1", "plain2", "late1", "late2"]);

    await db.query(`select notika._finish('[{"run_id": 1, "workflow": "late", "state": "failed", "attempts": 1}]')`);
    await db.query("select notika_worker.remove_job('1')");
    await db.query(`update notika.run_log set event = '{"new": {"id": 1}}'`);
    await db.query("select notika.retry(1)");
    expect(await queue(db)).toEqual(["early1", "early2", "plain1", "plain2", "late2", "late1"]);
  });

  test("that is none is refused", async ({ db }) => {
    await publish(db, "work");
    for (const given of ["1.5", '"high"', "1001", "-1001", "true"]) {
      await expect(
        db.query("select notika.configure('work', $1::text::jsonb)", [`{"priority": ${given}}`]),
      ).rejects.toMatchObject({
        code: "22023",
        message: 'priority of workflow "work" is not a whole number from -1000 to 1000',
        detail: `It is ${given}.`,
        hint: `For example: select notika.configure('work', '{"priority": 10}');`,
      });
    }
    expect(await db.query(`select notika.configure('work', '{"priority": 0}') as did`)).toEqual([{ did: "changed" }]);
  });
});
