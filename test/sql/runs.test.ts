import { describe, expect } from "vitest";
import { test } from "../support/database.ts";

const published = `
  create table public.items (id int);
  select notika.publish('work', 'public.items');`;
const states = "select run_id::int as run, state, attempts from notika.runs order by run_id";
const jobs = "select key from notika_worker._private_jobs order by id";

describe("cancel", () => {
  test("ends a run whose event is not handed over, one that waits, and leaves one that has ended", async ({ db }) => {
    await db.script(`${published} insert into public.items values (1), (2), (3)`);
    expect(await db.query("select notika.cancel(1) as cancelled")).toEqual([{ cancelled: true }]);
    await db.query("select notika.dispatch()");
    expect(await db.query("select notika.cancel(2) as cancelled")).toEqual([{ cancelled: true }]);
    expect(await db.query("select notika.cancel(2) as cancelled")).toEqual([{ cancelled: false }]);

    expect(await db.query(states)).toEqual([
      { run: 1, state: "cancelled", attempts: 0 },
      { run: 2, state: "cancelled", attempts: 0 },
      { run: 3, state: "ready", attempts: 0 },
    ]);
    expect(await db.query(jobs)).toEqual([{ key: "3" }]);
    await expect(db.query("select notika.cancel(4)")).rejects.toMatchObject({
      code: "42704",
      message: "there is no run 4",
      hint: "The ids are in: select * from notika.runs;",
    });
  });
});

describe("retry", () => {
  test("runs again what was cancelled, once, also before its event was handed over", async ({ db }) => {
    await db.script(`${published} insert into public.items values (1), (2)`);
    await db.query("select notika.cancel(1)");

    await db.query("select notika.retry(1)");
    await db.query("select notika.dispatch()");

    expect(await db.query(states)).toEqual([
      { run: 1, state: "ready", attempts: 0 },
      { run: 2, state: "ready", attempts: 0 },
    ]);
    expect(await db.query(jobs)).toEqual([{ key: "1" }, { key: "2" }]);
  });

  test("runs again what is done while the ring remembers its event, and says when it does not", async ({ db }) => {
    await db.script(`${published} insert into public.items values (1), (2)`);
    await db.query("select notika.dispatch()");
    await db.script(`
      select notika._finish('[{"run_id": 1, "workflow": "work", "state": "done", "attempts": 1},
                              {"run_id": 2, "workflow": "work", "state": "done", "attempts": 1}]');
      select notika_worker.complete_jobs(array_agg(id)) from notika_worker._private_jobs;`);

    await db.query("select notika.retry(1)");
    await db.script("truncate notika.event_log_0");

    expect(await db.query(states)).toEqual([
      { run: 1, state: "ready", attempts: 0 },
      { run: 2, state: "done", attempts: 1 },
    ]);
    await expect(db.query("select notika.retry(2)")).rejects.toMatchObject({
      code: "P0002",
      message: "the event of run 2 is gone",
      hint: "Start a new run: select notika.emit('work', '{...}');",
    });
  });

  test("refuses a run that has not ended, and one that there is not", async ({ db }) => {
    await db.script(`${published} insert into public.items values (1)`);
    await db.query("select notika.dispatch()");

    await expect(db.query("select notika.retry(1)")).rejects.toMatchObject({
      code: "55000",
      message: "run 1 has not ended: it is ready",
      hint: "Wait for it, or end it first: select notika.cancel(1);",
    });
    await expect(db.query("select notika.retry(2)")).rejects.toMatchObject({ message: "there is no run 2" });
  });
});

describe("an outcome", () => {
  test("stands once it is written, whatever comes later", async ({ db }) => {
    await db.script(`${published} insert into public.items values (1)`);
    await db.query("select notika.dispatch()");
    const finish = (state: string) =>
      db.query(
        `select notika._finish('[{"run_id": 1, "workflow": "work", "state": "${state}", "attempts": 1, "error": "e"}]')`,
      );

    await finish("failed");
    await finish("done");

    expect(await db.query("select state, event -> 'new' ->> 'id' as id, error from notika.runs")).toEqual([
      { state: "failed", id: "1", error: "e" },
    ]);
  });
});

describe("the health of the ring", () => {
  test("says how many events wait, since when, and how large it is", async ({ db }) => {
    const ring = () => db.query("select detail from notika.health where finding = 'ring'");
    await db.script(published);
    expect(await ring()).toEqual([{ detail: expect.stringMatching(/^0 events wait; the ring has \d+ kB$/) }]);

    await db.query("insert into public.items values (1), (2)");
    expect(await ring()).toEqual([
      { detail: expect.stringMatching(/^2 events wait, the oldest since \d{4}-.*; the ring/) },
    ]);
  });
});
