import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";

const published = (options: object) => `
  create table public.orders (id int, customer text, note json);
  select notika.publish('ship', 'public.orders', operations => '{insert,delete}',
                        options => '${JSON.stringify(options)}');`;

describe("key", () => {
  test("lets the first event of a key run; another is logged as cancelled and names it", async ({ db }) => {
    await db.script(published({ key: "customer" }));
    await insert(db, "ada", "bob", "ada");
    await db.query("select notika.dispatch()");
    await insert(db, "bob", "cy");
    await db.query("select notika.dispatch()");

    expect(await runs(db)).toEqual([
      { run: 1, state: "ready", error: null },
      { run: 2, state: "ready", error: null },
      { run: 3, state: "cancelled", error: "run 1 has the same key" },
      { run: 4, state: "cancelled", error: "run 2 has the same key" },
      { run: 5, state: "ready", error: null },
    ]);
  });

  test("of several columns is the same when all are; null is like nothing else", async ({ db }) => {
    await db.script(published({ key: ["customer", "id"] }));
    await db.script(`
      insert into public.orders (customer, id) values ('ada', 1), ('ada', 2), ('ada', 1), ('ada', null), ('ada', null)`);
    await db.query("select notika.dispatch()");

    expect((await runs(db)).map(({ state }) => state)).toEqual(["ready", "ready", "cancelled", "ready", "ready"]);
  });

  test("is remembered after the run has ended, and a double may be run by hand", async ({ db }) => {
    await db.script(published({ key: "customer" }));
    await insert(db, "ada");
    await db.query("select notika.dispatch()");
    await finish(db, 1);
    await insert(db, "ada");
    await db.query("select notika.dispatch()");
    expect(await runs(db)).toMatchObject([{ state: "done" }, { state: "cancelled" }]);

    await db.query("select notika.retry(2)");

    expect(await runs(db)).toMatchObject([{ state: "done" }, { state: "ready" }]);
  });

  test("does not keep from running what is replayed", async ({ db }) => {
    await db.script(published({ key: "customer", order: "customer" }));
    await insert(db, "ada");
    await db.script("delete from public.orders");
    await db.query("select notika.dispatch()");
    await db.query("select notika.replay('ship', now() - interval '1 hour')");
    await db.query("select notika.dispatch()");

    expect(await states(db)).toEqual(["ready", "cancelled", "waiting", "waiting"]);
  });

  test("takes whatever a row may hold", async ({ db }) => {
    await db.script(published({ key: ["note", "customer"] }));
    await db.script(String.raw`
      insert into public.orders (note, customer)
      values ('{"a": "\u0000"}', 'x'), ('{"a": "\u0000"}', 'x'), ('{"a": "\\"}', 'x'), ('"\ud800"', 'x'),
             ('1', repeat('long', 100000)), ('1', repeat('long', 100000)), ('1', repeat('long', 99999) || 'short')`);
    await db.query("select notika.dispatch()");

    expect((await runs(db)).map(({ state }) => state)).toEqual([
      ...["ready", "cancelled", "ready", "ready"],
      ...["ready", "cancelled", "ready"],
    ]);
  });
});

test("keys and batches are forgotten when runs of their age are", async ({ db }) => {
  await db.script(published({ key: "customer", digest: { window: "1 hour", max: 1 } }));
  await insert(db, "ada", "bob");
  await db.query("select notika.dispatch()");
  await finish(db, 1);
  await db.script(`
    update notika.run_key set created_at = created_at - interval '31 days' where run_id = 1;
    update notika.batch set opened_at = opened_at - interval '31 days'`);

  await db.query("select notika.maintain()");
  expect(await db.query("select run_id::int from notika.run_key")).toEqual([{ run_id: 2 }]);
  expect(await db.query("select run_id::int from notika.batch_event order by 1")).toEqual([
    { run_id: 1 },
    { run_id: 2 },
  ]);
  await db.script("delete from notika.run_log; select notika.maintain()");
  expect(await db.query("select run_id::int from notika.batch_event")).toEqual([{ run_id: 2 }]);
  expect(await db.query("select run_id::int from notika.batch")).toEqual([{ run_id: 2 }]);
});

describe("order", () => {
  test("keeps all but the first run of a lane from starting; the next goes when one has ended", async ({ db }) => {
    await db.script(published({ order: "customer" }));
    await insert(db, "ada", "bob", "ada", "ada");
    await db.query("select notika.dispatch()");
    await insert(db, "bob");
    await db.query("select notika.dispatch()");
    expect(await states(db)).toEqual(["ready", "ready", "waiting", "waiting", "waiting"]);

    await finish(db, 1);
    expect(await states(db)).toEqual(["done", "ready", "ready", "waiting", "waiting"]);
    await finish(db, 3, "failed");
    await finish(db, 2);
    expect(await states(db)).toEqual(["done", "done", "failed", "ready", "ready"]);
  });

  test("a delete is in the lane of the row that was", async ({ db }) => {
    await db.script(published({ order: "customer" }));
    await insert(db, "ada", "bob");
    await db.script("delete from public.orders where customer = 'bob'");
    await db.query("select notika.dispatch()");

    expect(await states(db)).toEqual(["ready", "ready", "waiting"]);
  });

  test("a run that is cancelled in the middle of its lane leaves it, the first stays the first", async ({ db }) => {
    await db.script(published({ order: "customer" }));
    await insert(db, "ada", "ada", "ada");
    await db.query("select notika.dispatch()");

    await db.query("select notika.cancel(2)");
    expect(await states(db)).toEqual(["ready", "cancelled", "waiting"]);
    await db.query("select notika.cancel(1)");
    expect(await states(db)).toEqual(["cancelled", "cancelled", "ready"]);
  });

  test("a run that is woken though it is not first is put back, its attempts and its error as they were", async ({
    db,
  }) => {
    await db.script(published({ order: "customer" }));
    await insert(db, "ada", "ada");
    await db.query("select notika.dispatch()");
    await db.script(`
      select notika_worker.reschedule_jobs(array_agg(id), run_at => now(), attempts => 3)
        from notika_worker._private_jobs where key = '2';
      update notika_worker._private_jobs set last_error = 'lost' where key = '2'`);

    expect(await enter(db, 2)).toMatchObject({ ended: false, admitted: false });

    expect(await db.query("select state, attempts, error from notika.runs where run_id = 2")).toEqual([
      { state: "waiting", attempts: 3, error: "lost" },
    ]);
    expect(await enter(db, 1)).toMatchObject({ ended: false, admitted: true });
  });

  test("a failed run that is retried goes to the end of its lane", async ({ db }) => {
    await db.script(published({ order: "customer" }));
    await insert(db, "ada", "ada", "ada");
    await db.query("select notika.dispatch()");
    await finish(db, 1, "failed");

    await db.query("select notika.retry(1)");
    expect(await enter(db, 1)).toMatchObject({ admitted: false });
    await finish(db, 2);
    expect(await states(db)).toEqual(["waiting", "done", "ready"]);
    await finish(db, 3);
    expect(await states(db)).toEqual(["ready", "done", "done"]);
  });

  test("maintain wakes the first of a lane that was forgotten", async ({ db }) => {
    await db.script(published({ order: "customer" }));
    await insert(db, "ada", "ada", "bob");
    await db.query("select notika.dispatch()");
    await db.script(`
      select notika_worker.reschedule_jobs(array_agg(id), run_at => 'infinity') from notika_worker._private_jobs`);

    await db.query("select notika.maintain()");

    expect(await states(db)).toEqual(["ready", "waiting", "ready"]);
  });

  test("a paused workflow wakes nobody; when it is resumed, the first of each lane go", async ({ db }) => {
    await db.script(published({ order: "customer" }));
    await insert(db, "ada", "ada", "bob");
    await db.query("select notika.dispatch()");
    await db.query("select notika.pause('ship')");
    await insert(db, "bob", "cy");
    await db.query("select notika.dispatch()");
    await db.query("select notika.cancel(1)");
    expect(await states(db)).toEqual(["cancelled", "held", "held", "held", "held"]);

    await db.query("select notika.resume('ship')");

    expect(await states(db)).toEqual(["cancelled", "ready", "ready", "waiting", "ready"]);
  });

  test("given up, all runs go", async ({ db }) => {
    await db.script(published({ order: "customer" }));
    await insert(db, "ada", "ada");
    await db.query("select notika.dispatch()");

    await db.query("select notika.configure('ship', '{}')");

    expect(await states(db)).toEqual(["ready", "ready"]);
  });
});

describe("concurrency", () => {
  test("lets so many runs start; each that ends lets the next go, in the order of their ids", async ({ db }) => {
    await db.script(published({ concurrency: 2 }));
    await insert(db, "a", "b", "c");
    await db.query("select notika.dispatch()");
    await insert(db, "d");
    await db.query("select notika.dispatch()");
    expect(await states(db)).toEqual(["ready", "ready", "waiting", "waiting"]);

    await finish(db, 2);
    expect(await states(db)).toEqual(["ready", "done", "ready", "waiting"]);
    await finish(db, 1, "failed");
    expect(await states(db)).toEqual(["failed", "done", "ready", "ready"]);
  });

  test("a run that sleeps or is tried again later holds no slot, and asks for one when it goes on", async ({ db }) => {
    await db.script(published({ concurrency: 1 }));
    await insert(db, "a", "b", "c");
    await db.query("select notika.dispatch()");

    expect(await enter(db, 1)).toMatchObject({ admitted: true });
    await park(db, 1, "1 hour");
    expect(await states(db)).toEqual(["waiting", "ready", "waiting"]);
    expect(await enter(db, 2)).toMatchObject({ admitted: true });
    await db.query("select notika._exit(2)");
    expect(await states(db)).toEqual(["waiting", "running", "ready"]);

    await wake(db, 1);
    expect(await enter(db, 1)).toMatchObject({ admitted: false });
    await finish(db, 3);
    expect(await states(db)).toEqual(["ready", "running", "done"]);
  });

  test("raised, it lets more runs go; given up, all", async ({ db }) => {
    await db.script(published({ concurrency: 1 }));
    await insert(db, "a", "b", "c", "d");
    await db.query("select notika.dispatch()");

    await db.query(`select notika.configure('ship', '{"concurrency": 2}')`);
    expect(await states(db)).toEqual(["ready", "ready", "waiting", "waiting"]);
    await db.query(`select notika.configure('ship', '{}')`);
    expect(await states(db)).toEqual(["ready", "ready", "ready", "ready"]);
  });

  test("with order, only the first of each lane wait for a slot", async ({ db }) => {
    await db.script(published({ concurrency: 1, order: "customer" }));
    await insert(db, "ada", "ada", "bob");
    await db.query("select notika.dispatch()");
    expect(await states(db)).toEqual(["ready", "waiting", "waiting"]);

    await finish(db, 1, "failed");

    expect(await states(db)).toEqual(["failed", "ready", "waiting"]);
    await finish(db, 2);
    expect(await states(db)).toEqual(["failed", "done", "ready"]);
  });

  test("a run that is cancelled while it runs keeps its slot until its attempt ends", async ({ db }) => {
    await db.script(published({ concurrency: 1 }));
    await insert(db, "a", "b");
    await db.query("select notika.dispatch()");
    await enter(db, 1);

    await db.query("select notika.cancel(1)");
    await db.query("select notika.maintain()");
    expect(await states(db)).toEqual(["cancelled", "waiting"]);
    await db.query("select notika._exit(1)");

    expect(await states(db)).toEqual(["cancelled", "ready"]);
  });

  test("maintain frees the slots of attempts that ended without a word, and of runs that are gone", async ({ db }) => {
    await db.script(published({ concurrency: 2 }));
    await insert(db, "a", "b", "c", "d");
    await db.query("select notika.dispatch()");
    await db.script(`
      update notika.slot set taken_at = taken_at - interval '2 seconds';
      select notika_worker.reschedule_jobs(array_agg(id), run_at => now() + interval '1 minute')
        from notika_worker._private_jobs where key = '1';
      insert into notika.run_log (run_id, workflow, state, attempts) values (2, 'ship', 'failed', 1);
      select notika_worker.remove_job('2')`);

    await db.query("select notika.maintain()");
    await db.query("select notika.maintain()");

    expect(await states(db)).toEqual(["waiting", "failed", "ready", "ready"]);
  });

  test("a transaction with an older snapshot gives no slot away, maintain does", async ({ db }) => {
    await db.script(published({ concurrency: 1 }));
    await insert(db, "a", "b");
    await db.query("select notika.dispatch()");

    await db.script("begin isolation level repeatable read; select notika.cancel(1); commit");
    expect(await states(db)).toEqual(["cancelled", "waiting"]);
    await db.query("select notika.maintain()");

    expect(await states(db)).toEqual(["cancelled", "ready"]);
  });

  test("a paused workflow gives no slots away; when it is resumed, as many go as may", async ({ db }) => {
    await db.script(published({ concurrency: 1 }));
    await insert(db, "a", "b", "c");
    await db.query("select notika.dispatch()");
    await db.query("select notika.pause('ship')");
    await db.query("select notika.cancel(1)");
    expect(await states(db)).toEqual(["cancelled", "held", "held"]);

    await db.query("select notika.resume('ship')");

    expect(await states(db)).toEqual(["cancelled", "ready", "waiting"]);
  });
});

describe("digest", () => {
  const digest = { digest: { by: "customer", window: "1 hour", max: 3 } };

  test("makes one run of the events of a window, which gets them all, oldest first", async ({ db }) => {
    await db.script(published(digest));
    await insert(db, "ada", "bob");
    await db.query("select notika.dispatch()");
    await insert(db, "ada");
    await db.query("select notika.dispatch()");
    expect(await states(db)).toEqual(["waiting", "waiting"]);
    expect(
      await db.query(`
        select run_id::int, wake_at - now() between interval '59 minutes' and interval '1 hour' as in_an_hour
          from notika.runs order by 1`),
    ).toEqual([
      { run_id: 1, in_an_hour: true },
      { run_id: 2, in_an_hour: true },
    ]);

    await pass(db, "1 hour");
    expect(await events(db, 1)).toEqual(["1", "3"]);
    expect(await events(db, 2)).toEqual(["2"]);
  });

  test("closes when its run starts: what comes then opens the next", async ({ db }) => {
    await db.script(published(digest));
    await insert(db, "ada");
    await db.query("select notika.dispatch()");
    await pass(db, "1 hour");
    expect(await events(db, 1)).toEqual(["1"]);

    await insert(db, "ada");
    await db.query("select notika.dispatch()");

    expect(await states(db)).toEqual(["running", "waiting"]);
    expect(await db.query("select run_id::int, events from notika.batch order by 1")).toEqual([
      { run_id: 1, events: 1 },
      { run_id: 2, events: 1 },
    ]);
  });

  test("closes when it is full, and its run starts at once", async ({ db }) => {
    await db.script(published(digest));
    await insert(db, "ada");
    await db.query("select notika.dispatch()");
    await insert(db, "ada", "ada", "ada", "ada", "ada", "ada");
    await db.query("select notika.dispatch()");

    expect(await runs(db)).toMatchObject([
      { run: 1, state: "ready" },
      { run: 4, state: "ready" },
      { run: 7, state: "waiting" },
    ]);
    expect(await events(db, 1)).toEqual(["1", "2", "3"]);
    expect(await events(db, 4)).toEqual(["4", "5", "6"]);
  });

  test("has room for one more when max was lowered below what it has", async ({ db }) => {
    await db.script(published(digest));
    await insert(db, "ada", "ada");
    await db.query("select notika.dispatch()");
    await db.query(`select notika.configure('ship', '{"digest": {"by": "customer", "window": "1 hour", "max": 1}}')`);
    await insert(db, "ada", "ada");
    await db.query("select notika.dispatch()");

    expect(await runs(db)).toMatchObject([
      { run: 1, state: "ready" },
      { run: 4, state: "ready" },
    ]);
    expect(await events(db, 1)).toEqual(["1", "2", "3"]);
    expect(await events(db, 4)).toEqual(["4"]);
  });

  test("a run that is woken before its time is put back, and still open", async ({ db }) => {
    await db.script(published(digest));
    await insert(db, "ada");
    await db.query("select notika.dispatch()");
    await wake(db, 1);

    expect(await enter(db, 1)).toMatchObject({ admitted: false });
    await insert(db, "ada");
    await db.query("select notika.dispatch()");

    expect(await states(db)).toEqual(["waiting"]);
    await pass(db, "1 hour");
    expect(await events(db, 1)).toEqual(["1", "2"]);
  });

  test("a run that failed gets the same events when it is retried", async ({ db }) => {
    await db.script(published(digest));
    await insert(db, "ada", "ada");
    await db.query("select notika.dispatch()");
    await pass(db, "1 hour");
    await events(db, 1);
    await finish(db, 1, "failed");
    await insert(db, "ada");
    await db.query("select notika.dispatch()");

    await db.query("select notika.retry(1)");

    expect(await events(db, 1)).toEqual(["1", "2"]);
  });

  test("a run that is cancelled takes no more events", async ({ db }) => {
    await db.script(published(digest));
    await insert(db, "ada", "ada");
    await db.query("select notika.dispatch()");
    await db.query("select notika.cancel(1)");
    await insert(db, "ada");
    await db.query("select notika.dispatch()");

    expect(await runs(db)).toMatchObject([
      { run: 1, state: "cancelled" },
      { run: 3, state: "waiting" },
    ]);
  });

  test("without by gathers all events of the workflow", async ({ db }) => {
    await db.script(published({ digest: { window: "1 hour" } }));
    await insert(db, "ada", "bob");
    await db.query("select notika.dispatch()");
    await pass(db, "1 hour");

    expect(await events(db, 1)).toEqual(["1", "2"]);
  });

  test("a double is not gathered", async ({ db }) => {
    await db.script(published({ key: "id", digest: { window: "1 hour" } }));
    await db.script("insert into public.orders (id) values (1), (1), (2)");
    await db.query("select notika.dispatch()");
    await pass(db, "1 hour");

    expect(await events(db, 1)).toEqual(["1", "3"]);
  });
});

describe("debounce", () => {
  test("waits until no event has come for its window, at most until max", async ({ db }) => {
    await db.script(published({ debounce: { by: "customer", window: "10 minutes", max: "25 minutes" } }));
    await insert(db, "ada");
    await db.query("select notika.dispatch()");
    await pass(db, "9 minutes");
    await insert(db, "ada");
    await db.query("select notika.dispatch()");
    await pass(db, "9 minutes");
    expect(await enter(db, 1)).toMatchObject({ admitted: false });
    await insert(db, "ada");
    await db.query("select notika.dispatch()");
    await pass(db, "6 minutes");
    expect(await enter(db, 1)).toMatchObject({ admitted: false });
    await pass(db, "1 minute");

    expect(await events(db, 1)).toEqual(["1", "2", "3"]);
  });

  test("without max waits ten windows at most", async ({ db }) => {
    await db.script(published({ debounce: { window: "1 minute" } }));
    await insert(db, "ada");
    await db.query("select notika.dispatch()");

    expect(await db.query("select hard_close_at - opened_at = interval '10 minutes' as ten from notika.batch")).toEqual(
      [{ ten: true }],
    );
  });
});

test("a workflow without options in the same chunk is not touched", async ({ db }) => {
  await db.script(published({ order: "customer", digest: { by: "customer", window: "1 hour" }, key: "id" }));
  await db.script("select notika.publish('plain', 'public.orders')");
  await insert(db, "ada", "ada");
  await db.query("select notika.dispatch()");

  expect(await db.query("select workflow, state from notika.runs order by run_id")).toEqual([
    { workflow: "ship", state: "waiting" },
    { workflow: "plain", state: "ready" },
    { workflow: "plain", state: "ready" },
  ]);
  expect(await db.query("select flags from notika_worker._private_jobs order by key::int")).toEqual([
    { flags: { gated: true } },
    { flags: null },
    { flags: null },
  ]);
});

type Db = Pick<TestDatabase, "query" | "script">;

let lastId = 0;
async function insert({ query }: Db, ...customers: string[]) {
  for (const customer of customers) {
    lastId += 1;
    await query("insert into public.orders (id, customer) values ($1, $2)", [lastId, customer]);
  }
}

function runs({ query }: Db) {
  return query<{ run: number; state: string; error: string | null }>(
    "select run_id::int as run, state, error from notika.runs order by run_id",
  );
}

async function states(db: Db) {
  return (await runs(db)).map(({ state }) => state);
}

/** Starts the job of a run, as a worker does, and asks what the run has to know. */
async function enter({ query }: Db, run: number) {
  const [row] = await query<{ entry: { admitted?: boolean; events?: { id: string }[] } }>(
    `with job as (
       update notika_worker._private_jobs set locked_at = now(), locked_by = 'me', attempts = attempts + 1
        where key = $1::text and run_at <= now() and locked_at is null
       returning id
     )
     select notika._enter(job.id, $1::text::bigint) as entry from job`,
    [`${run}`],
  );
  return row?.entry ?? "not started";
}

async function events(db: Db, run: number) {
  const entry = await enter(db, run);
  return typeof entry === "string" ? entry : entry.events?.map(({ id }) => id);
}

async function park({ query }: Db, run: number, wait: string) {
  await query(
    `select notika._park(j.id, json_build_array(json_build_object('name', 'nap', 'for', $2::text)))
       from notika_worker._private_jobs as j where j.key = $1`,
    [`${run}`, wait],
  );
}

/** Lets a run start, whether it is time or not. */
async function wake({ script }: Db, run: number) {
  await script(`
    select notika_worker.reschedule_jobs(array_agg(id), run_at => now())
      from notika_worker._private_jobs where key = '${run}'`);
}

/** Ends a run and its job. */
async function finish({ query, script }: Db, run: number, state = "done") {
  await query(
    "select notika._finish(json_build_array(json_build_object('run_id', $1::int, 'workflow', 'ship', 'state', $2::text, 'attempts', 1)))",
    [run, state],
  );
  await script(`delete from notika_worker._private_jobs where key = '${run}'`);
}

/** Lets time pass for what waits. */
async function pass({ script }: Db, time: string) {
  await script(`
    update notika.batch set closes_at = closes_at - interval '${time}', hard_close_at = hard_close_at - interval '${time}';
    update notika_worker._private_jobs set run_at = run_at - interval '${time}' where run_at < 'infinity'`);
}
