import { setTimeout } from "node:timers/promises";
import { describe, expect } from "vitest";
import { workflow } from "../../runner/index.ts";
import { createRunner } from "../../runner/worker/index.ts";
import { type Arena, begin, commit, drain, type Session, test } from "./cluster.ts";

const schema = `
  create table trial (id int);
  create table payment (user_id int, amount int default 1);
  select notika.publish('drip', 'public.trial', columns => '{id}');
  select notika.publish('drip:payment', 'public.payment', columns => '{user_id,amount}', match => '{user_id}')`;
const cancelling = `
  select notika.publish('drip:cancel', 'public.payment', columns => '{user_id}', match => '{user_id=id}')`;
const dispatch = "select notika.dispatch()";

describe("a change is not missed", () => {
  test("when it is handed over while the wait for it begins", async ({ db }) => {
    const [parker, dispatcher] = await sessions(db, 2);
    await db.database.script(`${schema}; insert into trial values (7)`);
    await drain(db);

    await begin(parker, park(1, 7));
    await db.query("insert into payment values (7)");
    const handedOver = dispatcher.query(dispatch);
    await waitsForLock(db, dispatcher);
    await commit(parker);
    await handedOver;

    expect(await outcome(db)).toEqual([{ run: 1, event: "2", due: true }]);
  });

  test("when its wait begins while it is handed over", async ({ db }) => {
    const [parker, dispatcher] = await sessions(db, 2);
    await db.database.script(`${schema}; insert into trial values (7)`);
    await drain(db);
    await db.query("insert into payment values (7)");

    await begin(dispatcher, dispatch);
    const parked = parker.query(park(1, 7));
    await waitsForLock(db, parker);
    await commit(dispatcher);
    await parked;

    expect(await outcome(db)).toEqual([{ run: 1, event: "2", due: true }]);
  });

  test("when its run parks once more while it is handed over", async ({ db }) => {
    const [parker, dispatcher] = await sessions(db, 2);
    await db.database.script(`${schema}; insert into trial values (7)`);
    await drain(db);
    await db.query(park(1, 7));
    await db.query("insert into payment values (7)");

    await begin(parker, park(1, 7, "other"));
    const handedOver = dispatcher.query(dispatch);
    await waitsForLock(db, dispatcher);
    await commit(parker);
    await handedOver;

    expect(await outcome(db)).toMatchObject([
      { event: "2", due: true },
      { event: "2", due: true },
    ]);
  });

  test("when it was made before the run's own, and committed after it", async ({ db }) => {
    const [straggler] = await sessions(db, 1);
    await db.database.script(schema);
    await begin(straggler, "insert into payment values (7)");
    await db.query("insert into trial values (7)");
    await drain(db);
    await db.query(park(2, 7));
    await commit(straggler);
    await drain(db);

    expect(await outcome(db)).toEqual([{ run: 2, event: "1", due: true }]);
  });

  test("when it was, and both are handed over together, or in two parts of one window", async ({ db }) => {
    const [straggler] = await sessions(db, 1);
    for (const maxEvents of [1000, 1]) {
      await db.database.script(
        "drop table if exists trial cascade; drop table if exists payment cascade; truncate notika.step",
      );
      await db.database.script(schema);
      await db.query("insert into payment values (7)"); // this one was there before
      await begin(straggler, "insert into payment values (7)");
      await db.query("insert into trial values (7)");
      await commit(straggler);
      await drain(db, maxEvents);
      const run = await db.value<number>("select max(key::int) from notika_worker._private_jobs");
      await db.query("update notika.workflow set published_at = published_at - interval '2 hours'");
      await db.query("select * from notika.maintain()");
      await db.query(park(run, 7));

      expect(await outcome(db)).toEqual([{ run, event: String(run - 1), due: true }]);
      await db.database.script("select notika.unpublish('drip')");
    }
  });

  test("when it was committed while the run's own change was under way", async ({ db }) => {
    const [slow] = await sessions(db, 1);
    await db.database.script(schema);
    await begin(slow, "insert into trial values (7)");
    await db.query("insert into payment values (7)");
    await drain(db);
    await commit(slow);
    await drain(db);
    await db.query(park(1, 7));

    expect(await outcome(db)).toEqual([{ run: 1, event: "2", due: true }]);
  });

  test("by any of many runs that park while many changes are handed over", async ({ db }) => {
    const [dispatcher, other, ...workers] = await sessions(db, 8);
    await db.database.script(schema);
    const count = 400;
    const waiting: number[] = [];
    let busy = true;

    const dispatching = [dispatcher, other].map(async (session) => {
      while (busy) await session.query(dispatch);
    });
    const working = workers.map(async (session, worker) => {
      for (let user = worker; user < count; user += workers.length) {
        await session.query(`insert into trial values (${user})`);
        await setTimeout(Math.random() * 5);
        // Paid and waited for at the same time, by somebody else.
        const paid = workers[(worker + 1) % workers.length]?.query(`insert into payment values (${user})`);
        const run = await jobOf(session, user);
        await setTimeout(Math.random() * 3);
        await session.query(park(run, user));
        waiting.push(run);
        await paid;
      }
    });
    await Promise.all(working);
    busy = false;
    await Promise.all(dispatching);
    await drain(db);

    expect(await db.query("select run_id, name from notika.wait")).toEqual([]);
    expect(
      await db.value(`
        select count(*)::int
          from notika.step as s
          join notika.event_log as e on e.event_id = s.event_id
          join notika.event_log as o on o.event_id = s.run_id
         where e.new ->> 'user_id' = o.new ->> 'id'`),
    ).toBe(waiting.length);
    expect(await db.value("select count(*)::int from notika_worker._private_jobs where run_at > now()")).toBe(0);
  });
});

test("a change is looked up among the waits, not compared with each", async ({ db }) => {
  await db.database.script(`${schema}; ${cancelling}; insert into trial select n from generate_series(1, 3000) as n`);
  await drain(db);
  await db.query(`
    insert into notika.wait (run_id, name, wake_at, source_id, match_values)
    select l.run_id, 'paid', 'infinity', w.workflow_id, l.cancel_values
      from notika.listener as l
      join notika.workflow as w on w.name = 'drip:payment'`);
  await db.query("insert into payment values (5000), (7), (5001)");

  const [fresh] = await sessions(db, 1); // its counts begin now
  await begin(fresh, dispatch);
  const read = await fresh.query(`
    select relname as table, seq_tup_read + idx_tup_fetch < 20 as few
      from pg_stat_xact_user_tables where relname in ('wait', 'listener') order by 1`);
  await commit(fresh);

  expect(read).toEqual([
    { table: "listener", few: true },
    { table: "wait", few: true },
  ]);
  expect(await db.query("select run_id::int as run, state from notika.run_log")).toEqual([
    { run: 7, state: "cancelled" },
  ]);
});

describe("a timeout and a change at the same time", () => {
  test("have one outcome: the change, if it was committed when the time was up", async ({ db }) => {
    const [runner, dispatcher] = await sessions(db, 2);
    await db.database.script(`${schema}; insert into trial values (7)`);
    await drain(db);
    await db.query(park(1, 7, "paid", "0"));
    await db.query("insert into payment values (7)");

    await begin(runner, enter(1));
    await dispatcher.query(dispatch); // does not wait for the run
    await commit(runner);

    expect(await outcome(db)).toMatchObject([{ run: 1, event: "2" }]);
  });

  test("have one outcome: none, if it was not, and then the next wait gets the change", async ({ db }) => {
    const [runner, dispatcher] = await sessions(db, 2);
    await db.database.script(`${schema}; insert into trial values (7)`);
    await drain(db);
    await db.query(park(1, 7, "paid", "0"));

    await begin(runner, enter(1));
    await db.query("insert into payment values (7)");
    await dispatcher.query(dispatch);
    await commit(runner);
    await db.query(park(1, 7, "paid late"));

    expect(await outcome(db)).toMatchObject([
      { run: 1, event: null },
      { run: 1, event: "2" },
    ]);
  });

  test("have one outcome: the change, if its hand-over is first", async ({ db }) => {
    const [runner, dispatcher] = await sessions(db, 2);
    await db.database.script(`${schema}; insert into trial values (7)`);
    await drain(db);
    await db.query(park(1, 7, "paid", "0"));
    await db.query("insert into payment values (7)");

    await begin(dispatcher, dispatch);
    const entered = runner.query(enter(1));
    await waitsForLock(db, runner);
    await commit(dispatcher);

    expect(await entered).toMatchObject([{ entry: { steps: [{ name: "paid", result: { id: "2" } }] } }]);
    expect(await outcome(db)).toMatchObject([{ run: 1, event: "2" }]);
  });

  test("leave nothing undecided when the runner dies meanwhile", async ({ db }) => {
    const [runner, dispatcher] = await sessions(db, 2);
    await db.database.script(`${schema}; insert into trial values (7)`);
    await drain(db);
    await db.query(park(1, 7, "paid", "0"));

    await begin(runner, enter(1));
    await db.query("insert into payment values (7)");
    await dispatcher.query(dispatch);
    await runner.query("rollback");
    expect(await outcome(db)).toEqual([]);
    await db.query(enter(1));

    expect(await outcome(db)).toMatchObject([{ run: 1, event: "2" }]);
  });
});

describe("a change that cancels", () => {
  test("waits for a run that is ending, which is done then, and does not stop the hand-over", async ({ db }) => {
    const [runner, dispatcher] = await sessions(db, 2);
    await db.database.script(`${schema}; ${cancelling}; insert into trial values (7), (8)`);
    await drain(db);
    await db.query("insert into payment values (7), (8)");

    await begin(runner, `select notika._finish('[{"run_id": 1, "workflow": "drip", "state": "done", "attempts": 1}]')`);
    const handedOver = dispatcher.query(dispatch);
    await waitsForLock(db, dispatcher);
    await commit(runner);
    await handedOver;

    expect(await db.query("select run_id::int as run, state from notika.run_log order by run_id")).toEqual([
      { run: 1, state: "done" },
      { run: 2, state: "cancelled" },
    ]);
    expect(await db.query("select * from notika.listener")).toEqual([]);
  });

  test("counts for a run that was begun before it and committed after it", async ({ db }) => {
    const [slow] = await sessions(db, 1);
    await db.database.script(`${schema}; ${cancelling}`);
    await begin(slow, "insert into trial values (7)");
    await db.query("insert into payment values (7)");
    await drain(db);
    await commit(slow);
    await drain(db);

    expect(await db.query("select state from notika.runs")).toEqual([{ state: "cancelled" }]);
  });
});

const pids = new Map<Session, number>();

test("a runner says at its start which sources are missing, or differ from what its tasks declare", async ({ db }) => {
  await db.database.script(schema);
  const said: unknown[] = [];
  const warn = (message: string, fields?: object) => void said.push([message, fields]);
  const log = { info() {}, error() {}, warn };
  const payment = { table: "public.payment", columns: ["user_id", "amount"], match: ["user_id"] };
  const warnings = async (waitsFor: Record<string, object>) => {
    said.length = 0;
    const drip = workflow({ on: { table: "public.trial" }, waitsFor: waitsFor as never, run() {} });
    const runner = await createRunner({ url: db.url, tasks: { drip }, log });
    await runner.stop();
    return said.filter((line) => String(line).includes("published")); // it was stopped before it could do anything
  };
  const hint = "npx notika publish drip";

  expect(await warnings({ payment })).toEqual([]);
  expect(await warnings({ payment: { ...payment, condition: "new.amount > 0" }, refund: payment })).toEqual([
    ["drip:payment is published differently from what the task declares", { hint }],
    ["drip:refund is not published, so no change ends a wait for it", { hint }],
  ]);
});

async function sessions(db: Arena, count: number) {
  const opened = await Promise.all(Array.from({ length: count }, () => db.connect()));
  for (const session of opened) pids.set(session, await session.value("select pg_backend_pid()"));
  return opened as [Session, Session, ...Session[]];
}

/** Lets a run wait for the payment of a user, as a runner does when its task can go no further. */
function park(run: number, user: number, name = "paid", timeout?: string) {
  const wait = {
    name,
    source: { name: "payment", table: "public.payment", match: ["user_id"] },
    match: { user_id: String(user) },
    ...(timeout && { for: timeout }),
  };
  return `select notika._park(id, '${JSON.stringify([wait])}') from notika_worker._private_jobs where key = '${run}'`;
}

function enter(run: number) {
  return `select notika._enter(id, key::bigint) as entry from notika_worker._private_jobs where key = '${run}'`;
}

/** The run of a user, once it is handed over. */
async function jobOf(session: Session, user: number): Promise<number> {
  for (;;) {
    const run = await session.value<number | undefined>(
      `select key::int from notika_worker._private_jobs where payload -> 'new' ->> 'id' = '${user}'`,
    );
    if (run !== undefined) return run;
    await setTimeout(1);
  }
}

async function waitsForLock(db: Session, session: Session) {
  const pid = pids.get(session);
  while (!(await db.value<boolean>(`select cardinality(pg_blocking_pids(${pid})) > 0`))) await setTimeout(5);
}

/** What the waits gave, and whether their runs go on now. */
function outcome(db: Session) {
  return db.query(`
    select s.run_id::int as run, s.event_id::text as event, j.run_at <= now() as due
      from notika.step as s
      left join notika_worker._private_jobs as j on j.key = s.run_id::text
     order by s.step_id`);
}
