import { describe, expect } from "vitest";
import { isThorough } from "../support/database.ts";
import { begin, commit, drain, jobs, openSession, test } from "./cluster.ts";

describe("the cursor", () => {
  test("hands over what has the first id and commits last, once", async ({ db }) => {
    const [late, early] = [await db.connect(), await db.connect()];
    await begin(late, "insert into item values (1)");
    await early.query("insert into item values (2)");
    expect(await drain(db)).toEqual([1]);
    const last = await db.value<string>("select max(event_id) from notika._event");

    await commit(late);

    // A cursor on the id would be past it.
    expect(await db.value("select count(*)::int from notika._event where event_id > $1::text::bigint", [last])).toBe(0);
    expect(await drain(db)).toEqual([1]);
    expect(await jobs(db)).toEqual([2, 1]);
  });

  test("knows a writer with an xid that no snapshot has listed yet", async ({ db }) => {
    const [unlisted, other] = [await db.connect(), await db.connect()];
    // Its xid is the newest of all, and nothing completes after it: a snapshot's xmax stays at or below it.
    await begin(unlisted, "insert into item values (1)");
    for (let i = 0; i < 3; i++) expect(await drain(db)).toEqual([]);
    await other.query("insert into item values (2)");
    expect(await drain(db)).toEqual([1]);

    await commit(unlisted);

    expect(await drain(db)).toEqual([1]);
    expect(await jobs(db)).toEqual([2, 1]);
  });

  test("is not stalled by an idle writer, here or in another database", async ({ db, cluster }) => {
    const [here, elsewhere] = [await db.connect(), openSession(cluster.url)];
    await begin(here, "insert into item values (1)");
    await begin(elsewhere, "select pg_current_xact_id()");
    const horizon = "select count(*)::int from notika._event where xid < pg_snapshot_xmin(pg_current_snapshot())";

    for (let id = 2; id < 10; id++) {
      await db.query("insert into item values ($1::text::int)", [id]);
      expect(await drain(db)).toEqual([1]);
    }

    expect(await db.value(horizon)).toBe(0); // where a cursor that waits for the oldest transaction would be
    await commit(elsewhere);
    await commit(here);
    await elsewhere.close();
    expect(await drain(db)).toEqual([1]);
    expect(await jobs(db)).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 1]);
  });

  test("knows savepoints, rolled back and released", async ({ db }) => {
    const writer = await db.connect();
    await begin(
      writer,
      `insert into item values (1);
       savepoint a; insert into item values (2); rollback to a;
       savepoint b; insert into item values (3); release b;
       savepoint c; insert into item values (4);
         savepoint d; insert into item values (5); rollback to d; insert into item values (6); release d;
       release c;
       savepoint e; savepoint f; insert into item values (7); release f; rollback to e;
       insert into item values (8)`,
    );
    await db.query("insert into item values (9)");
    expect(await drain(db)).toEqual([1]);

    await commit(writer);

    expect(await drain(db)).toEqual([5]);
    expect(await jobs(db)).toEqual([9, 1, 3, 4, 6, 8]);
  });

  test("leaves nothing and waits for nothing after a rollback", async ({ db }) => {
    const writer = await db.connect();
    await begin(writer, "insert into item values (1)");
    await drain(db);
    await writer.query("rollback");
    await db.query("insert into item values (2)");

    expect(await drain(db)).toEqual([1]);
    expect(await drain(db)).toEqual([]);

    expect(await jobs(db)).toEqual([2]);
    const [here] = await db.query("select pending_xids, low = horizon as at_end from notika._position()");
    expect(here).toEqual({ pending_xids: "{}", at_end: true });
    const positions = "select count(*)::int from notika.position";
    const before = await db.value(positions);
    await drain(db);
    expect(await db.value(positions)).toBe(before); // an idle poll writes nothing
  });

  for (const isolation of ["repeatable read", "serializable"]) {
    test(`hands over what a ${isolation} writer adds long after its snapshot`, async ({ db }) => {
      const writer = await db.connect();
      await begin(writer, "select count(*) from item", isolation);
      for (let id = 1; id <= 5; id++) {
        await db.query("insert into item values ($1::text::int)", [id]);
        await drain(db);
      }

      await writer.query("insert into item values (6)");
      await drain(db);
      await commit(writer);

      expect(await drain(db)).toEqual([1]);
      expect(await jobs(db)).toEqual([1, 2, 3, 4, 5, 6]);
    });

    test(`does not move in a ${isolation} transaction`, async ({ db }) => {
      for (const call of ["select notika.dispatch()", "select notika.maintain()"]) {
        await db.query(`begin isolation level ${isolation}`);
        await expect(db.query(call)).rejects.toMatchObject({
          code: "25000",
          message: `cannot move the cursor in a ${isolation} transaction`,
          hint: "Begin with: begin isolation level read committed;",
        });
        await db.query("rollback");
      }
    });
  }

  test("refuses a chunk size that makes no sense", async ({ db }) => {
    for (const size of ["0", "100001", "null"]) {
      await expect(db.query(`select notika.dispatch(${size})`)).rejects.toMatchObject({
        code: "22023",
        message: "max_events must be between 1 and 100000",
      });
    }
  });

  test("moves several times in one transaction and loses nobody who was unlisted", async ({ db }) => {
    const [first, second] = [await db.connect(), await db.connect()];
    await begin(first, "insert into item values (1)");
    await begin(second, "insert into item values (2)");

    await db.query("begin");
    for (let i = 0; i < 4; i++) await db.query("select notika.dispatch()");
    await db.query("commit");
    await commit(second);
    await drain(db);
    await commit(first);

    await drain(db);
    expect(await jobs(db)).toEqual([2, 1]);
  });

  test("may be moved by a transaction that is older than a writer", async ({ db }) => {
    const [writer, dispatcher] = [await db.connect(), await db.connect()];
    await begin(dispatcher, "select pg_current_xact_id()");
    await begin(writer, "insert into item values (1)");
    await drain(dispatcher);
    await commit(dispatcher);
    await drain(db); // no xid beyond the writer's has been completed yet, so its snapshot does not list it

    await commit(writer);

    expect(await drain(db)).toEqual([1]);
  });

  test("hands over what its own transaction writes before and after, when that has committed", async ({ db }) => {
    const other = await db.connect();
    await begin(db, "insert into item values (1)");
    await other.query("insert into item values (2)"); // so that the snapshot's xmax is beyond our xid
    expect(await drain(db)).toEqual([1]);
    await db.query("insert into item values (3)");
    expect(await drain(db)).toEqual([]);
    await db.query("insert into item values (4)");
    await db.query("commit");

    expect(await drain(db)).toEqual([3]);

    expect(await jobs(db)).toEqual([2, 1, 3, 4]);
  });

  test("stays where it was when its transaction rolls back", async ({ db }) => {
    await db.query("insert into item select generate_series(1, 10)");
    await begin(db, "select notika.dispatch(3)");
    await db.query("rollback");

    expect(await drain(db, 4)).toEqual([4, 4, 2]);

    expect(await jobs(db)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });

  test("cuts one transaction of 50,000 rows into chunks, in the order of the ids", async ({ db }) => {
    await db.query("insert into item select generate_series(1, 50000)");

    const calls = await drain(db, 7000);

    expect(calls).toEqual([...Array(7).fill(7000), 1000]);
    expect(
      await db.value(`
        select count(*) = 50000 and min(id) = 1 and max(id) = 50000 and bool_and(id = place)
          from (select (payload -> 'new' ->> 'id')::int as id,
                       row_number() over (order by run_at, key::bigint) as place
                  from notika_worker._private_jobs) as j`),
    ).toBe(true);
  });

  test("keeps the order of run_at whatever the sizes of the chunks", async ({ db }) => {
    await db.query("insert into item select generate_series(1, 300)");

    for (const size of [1, 100_000]) await db.query(`select notika.dispatch(${size})`);

    // graphile-worker takes jobs with the same run_at in any order.
    expect(
      await db.value(`
        select bool_and(run_at > before)
          from (select run_at, lag(run_at) over (order by key::bigint) as before
                  from notika_worker._private_jobs) as j`),
    ).toBe(true);
  });

  test("makes one job of each event when eight sessions dispatch at once", async ({ db }) => {
    const writer = await db.connect();
    const dispatchers = await Promise.all(Array.from({ length: 8 }, () => db.connect()));
    let isWriting = true;
    let refusals = 0;

    const loops = dispatchers.map(async (dispatcher) => {
      for (;;) {
        const wasWriting = isWriting;
        const events = await dispatcher.value<number | null>("select notika.dispatch(7)");
        if (events === null) refusals++;
        if (events === 0 && !wasWriting) return;
      }
    });
    for (let i = 0; i < 300; i++) {
      await writer.query("insert into item select $1::text::int * 10 + g from generate_series(1, 10) as g", [i]);
    }
    isWriting = false;
    await Promise.all(loops);

    expect(refusals).toBeGreaterThan(0);
    expect((await jobs(db)).toSorted((a, b) => a - b)).toEqual(Array.from({ length: 3000 }, (_, i) => i + 1));
  });

  test("loses nothing when the server pauses between any two of its steps", async ({ db }) => {
    await db.database.script(`
      create function doze() returns void language sql as 'select pg_sleep(random() * 0.004)';
      alter function notika._last_event_id() rename to last_event_id;
      create function notika._last_event_id() returns bigint language plpgsql as $$
      declare v_id bigint;
      begin perform public.doze(); v_id := notika.last_event_id(); perform public.doze(); return v_id; end $$;
      alter function notika._snapshot() rename to snapshot;
      create function notika._snapshot() returns pg_snapshot language plpgsql as $$
      declare v_snapshot pg_snapshot;
      begin perform public.doze(); v_snapshot := notika.snapshot(); perform public.doze(); return v_snapshot; end $$`);
    const end = Date.now() + 3000;
    let written = 0;

    const writers = Array.from({ length: 4 }, async () => {
      const session = await db.connect();
      while (Date.now() < end) {
        await session.query("insert into item values ($1::text::int)", [++written]);
      }
    });
    const dispatchers = Array.from({ length: 2 }, async () => {
      const session = await db.connect();
      while (Date.now() < end) await session.query("select notika.dispatch(50)");
    });
    await Promise.all([...writers, ...dispatchers]);
    await drain(db);

    expect((await jobs(db)).toSorted((a, b) => a - b)).toEqual(Array.from({ length: written }, (_, i) => i + 1));
  });

  test("answers null while another session is at it", async ({ db }) => {
    const other = await db.connect();
    await begin(other, "select notika.dispatch()");

    expect(await db.value("select notika.dispatch()")).toBeNull();
    expect(await db.value("select notika._doze()")).toBe(false);
  });
});

describe("a straggler", () => {
  test("is handed over by the next call, for one pass over what was written meanwhile", async ({ db }) => {
    const straggler = await db.connect();
    const meanwhile = isThorough ? 60_000 : 20_000;
    await begin(straggler, "insert into item values (0)");
    for (let i = 0; i < meanwhile / 10_000; i++) {
      await db.query(`insert into item select generate_series(${i} * 10000 + 1, ${i + 1} * 10000)`);
      await drain(db, 20_000);
    }
    await commit(straggler);
    await db.query("insert into item values (-1)");

    const reads = await rowsRead(db, () => db.value("select notika.dispatch()"));

    expect(reads.result).toBe(2);
    expect(reads.rows).toBeLessThan(meanwhile * 1.01 + 1000);
    expect((await rowsRead(db, () => drain(db))).rows).toBeLessThan(10);
    expect((await jobs(db)).slice(-2)).toEqual([0, -1]);
    expect(await db.value("select count(distinct key)::int from notika_worker._private_jobs")).toBe(meanwhile + 2);
  });

  test("of 20,000 rows comes in chunks, and all of them together read each row three times at most", async ({ db }) => {
    const [straggler, other] = [await db.connect(), await db.connect()];
    await begin(straggler, "select pg_current_xact_id()");
    for (let i = 0; i < 10; i++) {
      await straggler.query(`insert into item select generate_series(${i} * 2000 + 1, ${i + 1} * 2000)`);
      await other.query(`insert into item select -g from generate_series(${i} * 1000 + 1, ${i + 1} * 1000) as g`);
      await drain(db, 1000);
    }
    await commit(straggler);

    const { result, rows } = await rowsRead(db, () => drain(db, 1000));

    expect(result).toEqual(Array(20).fill(1000));
    // Once to see whose they are, once for each of the two cursors.
    expect(rows).toBeLessThan(3 * 31_000);
    expect(await db.value("select count(*)::int from notika_worker._private_jobs")).toBe(30_000);
    expect((await jobs(db)).slice(-20_000)).toEqual(Array.from({ length: 20_000 }, (_, i) => i + 1));
  });

  /** What `work` reads of the ring, in a transaction around it. */
  async function rowsRead<Result>(
    db: { value<Value>(text: string): Promise<Value>; query(text: string): Promise<unknown> },
    work: () => Promise<Result>,
  ): Promise<{ result: Result; rows: number }> {
    // Counts go on from transaction to transaction until the server has collected them.
    const counter = `
      select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::int
        from pg_stat_xact_user_tables where relname like 'event_log_%'`;
    await db.query("begin");
    const before = await db.value<number>(counter);
    const result = await work();
    const rows = (await db.value<number>(counter)) - before;
    await db.query("commit");
    return { result, rows };
  }
});

describe("a hand-over", () => {
  test("makes no job of an event that was cancelled before", async ({ db }) => {
    await db.query("insert into item select generate_series(1, 5)");
    await db.query("select notika.cancel(run_id) from notika.runs where (event -> 'new' ->> 'id')::int in (2, 5)");

    expect(await drain(db)).toEqual([5]);

    expect(await jobs(db)).toEqual([1, 3, 4]);
    expect(await db.query("select (event -> 'new' ->> 'id')::int as id, state from notika.runs order by id")).toEqual([
      { id: 1, state: "ready" },
      { id: 2, state: "cancelled" },
      { id: 3, state: "ready" },
      { id: 4, state: "ready" },
      { id: 5, state: "cancelled" },
    ]);
  });

  test("ends what runs too deep as a failed run", async ({ db }) => {
    await db.query("update notika.setting set max_depth = 2");
    for (const [id, run] of [
      [1, "70/1"],
      [2, "71/2"],
    ] as const) {
      await begin(db, `set local notika.run = '${run}'; insert into item values (${id})`);
      await commit(db);
    }

    expect(await drain(db)).toEqual([2]);

    expect(await jobs(db)).toEqual([1]);
    expect(
      await db.query("select workflow, state, attempts, error, event -> 'new' as new from notika.run_log"),
    ).toEqual([
      {
        workflow: "watch_item",
        state: "failed",
        attempts: 0,
        error: "stopped at depth 3: runs wake each other in a loop (the run before is 71)",
        new: { id: 2, n: 0 },
      },
    ]);
  });

  test("reads the front of the indexes, whatever the plan knows about the tables", async ({ db }) => {
    await db.query("insert into item select generate_series(1, 20000)");
    const notices: string[] = [];
    const session = await db.connect((message) => notices.push(message));
    await session.database.script(`
      load 'auto_explain';
      set auto_explain.log_min_duration = 0;
      set auto_explain.log_nested_statements = on;
      set auto_explain.log_level = notice`);

    // Beyond the fifth call a plan is made for any parameters.
    for (let i = 0; i < 8; i++) await session.query("select notika.dispatch(100)");

    const plans = notices.filter((plan) => plan.includes("CTE target"));
    expect(plans.length).toBeGreaterThanOrEqual(8); // two where a burst was set aside
    for (const plan of plans) {
      // The chunk itself is sorted by workflow, to count the events of each.
      const [, chunk = ""] = (plan.split("CTE target")[0] ?? "").split(/\bLimit\b/);
      expect(chunk).toMatch(/Merge Append/);
      for (const segment of [0, 1, 2]) expect(chunk).toContain(`event_log_${segment}_event_id_idx`);
      expect(chunk).not.toMatch(/Seq Scan|Sort {2}\(|Bitmap/);
    }
  });
});

describe("positions", () => {
  test("are forgotten now and then, also while a snapshot is held, and dispatch goes on", async ({ db }) => {
    const reader = await db.connect();
    await begin(reader, "select count(*) from item", "repeatable read");
    await db.query("insert into item select generate_series(1, 1100)");
    await db.database.script("do $$ begin for i in 1..1000 loop perform notika.dispatch(1); commit; end loop; end $$");
    const positions = "select count(*)::int from notika.position";
    expect(await db.value(positions)).toBeGreaterThan(1_000);
    expect(await db.value("select pg_table_size('notika.position') > 80000")).toBe(true);
    expect(await db.query("select * from notika.maintain()")).toEqual([]); // they are few
    await db.query("select setval('notika.position_position_id_seq', 20000)");
    expect(await drain(db, 1)).toHaveLength(100);

    expect(await db.query("select * from notika.maintain()")).toEqual([
      { maintain: "old positions of the cursor are gone" },
    ]);

    expect(await db.value(positions)).toBe(1);
    expect(await db.value("select pg_table_size('notika.position') < 40000")).toBe(true);
    await db.query("insert into item values (0)");
    expect(await drain(db)).toEqual([1]);
    await commit(reader);
    expect(await db.value("select count(distinct key)::int from notika_worker._private_jobs")).toBe(1_101);
  });

  test("stay while somebody reads them", async ({ db }) => {
    const reader = await db.connect();
    await db.query("insert into item select generate_series(1, 2)");
    await drain(db, 1);
    await db.query("select setval('notika.position_position_id_seq', 20000)");
    await db.query("insert into item values (3)");
    await drain(db);
    await begin(reader, "select * from notika.lag");

    expect(await db.query("select * from notika.maintain()")).toEqual([]);
    await commit(reader);
    expect(await db.query("select * from notika.maintain()")).toHaveLength(1);
  });
});
