import { expect } from "vitest";
import { begin, commit, type Session, test, until } from "../cluster.ts";

test("a run that joins its lane in the moment when the one before it ends is not forgotten", async ({ db }) => {
  await db.query(`select notika.configure('watch_item', '{"order": "id"}')`);
  await db.query("insert into item values (1)");
  await db.query("select notika.dispatch()");
  await db.query("update item set n = 1");
  const [dispatcher, runner] = [await db.connect(), await db.connect()];

  await begin(dispatcher, "select notika.dispatch()");
  const finished = finish(runner, 1);
  await until(db, "exists (select from pg_locks where not granted)");
  await commit(dispatcher);
  await finished;

  expect(await db.query("select run_id::int as run, state from notika.runs order by 1")).toEqual([
    { run: 1, state: "done" },
    { run: 2, state: "ready" },
  ]);
});

test("an event that comes in the moment when its digest closes is in it, or opens the next", async ({ db }) => {
  await db.query(`select notika.configure('watch_item', '{"digest": {"window": "1 hour"}}')`);
  await db.query("insert into item values (1)");
  await db.query("select notika.dispatch()");
  await db.query("update notika.batch set closes_at = now()");
  await db.query("insert into item values (2)");
  const [dispatcher, runner] = [await db.connect(), await db.connect()];
  const job = await db.value<string>("select id from notika_worker._private_jobs");

  await begin(dispatcher, "select notika.dispatch()");
  const entered = runner.value<{ events: { id: string }[] }>(`select notika._enter(${job}, 1)`);
  await until(db, "exists (select from pg_locks where not granted)");
  await db.query("insert into item values (3)");
  await commit(dispatcher);

  expect((await entered).events.map(({ id }) => id)).toEqual(["1", "2"]);
  await db.query("select notika.dispatch()");
  expect(await db.query("select run_id::int as run, events from notika.batch order by 1")).toEqual([
    { run: 1, events: 2 },
    { run: 3, events: 1 },
  ]);
});

test("configure gives up when another session is at the same workflow", async ({ db }) => {
  const other = await db.connect();
  await begin(other, `select notika.configure('watch_item', '{"concurrency": 5}')`);

  await expect(db.query(`select notika.configure('watch_item', '{"concurrency": 2}')`)).rejects.toMatchObject({
    code: "55P03",
    message: 'cannot configure workflow "watch_item": another session is changing it',
    detail: "Gave up after 3s.",
    hint: expect.stringContaining("Try again."),
  });
});

test("a run that is handed over in the moment when its workflow is resumed is not held for ever", async ({ db }) => {
  await db.query("select notika.pause('watch_item')");
  await db.query("insert into item values (1)");
  const dispatcher = await db.connect();

  await begin(dispatcher, "select notika.dispatch()");
  await db.query("select notika.resume('watch_item')");
  await commit(dispatcher);
  await db.query("select notika.maintain()");

  expect(await db.query("select state from notika.runs")).toEqual([{ state: "ready" }]);
});

async function finish(session: Session, run: number) {
  await session.query(
    `select notika._finish('[{"run_id": ${run}, "workflow": "watch_item", "state": "done", "attempts": 1}]')`,
  );
}
