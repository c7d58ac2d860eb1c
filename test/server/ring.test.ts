import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect } from "vitest";
import { isThorough } from "../support/database.ts";
import { type Arena, begin, commit, drain, jobs, type Session, test, until } from "./cluster.ts";

describe("the ring", () => {
  test("turns when its current segment is old or large, and not before", async ({ db }) => {
    await write(db, 1);
    expect(await maintain(db)).toEqual([]);

    await db.query("update notika.setting set segment_bytes = 1");
    expect(await maintain(db)).toEqual(["the ring turned to notika.event_log_1"]);
    expect(await maintain(db)).toEqual([]); // the current segment is empty

    await turnAlways(db);
    await write(db, 2);
    expect(await maintain(db)).toEqual(["the ring turned to notika.event_log_2"]);
    expect(await drain(db)).toEqual([2]);
    await write(db, 3);
    expect(await maintain(db)).toEqual(["the ring turned to notika.event_log_0"]);
    expect(await remembered(db)).toEqual([2, 3]);
  });

  test("does not turn over events that wait: the current segment grows, and lag and maintain say so", async ({
    db,
  }) => {
    await turnAlways(db);
    for (const id of [1, 2, 3]) {
      await write(db, id);
      await maintain(db);
    }
    await write(db, 4);

    expect(await maintain(db)).toEqual(["the ring is due to turn, but notika.event_log_0 holds events that wait"]);
    expect(await remembered(db)).toEqual([1, 2, 3, 4]);
    expect(await db.query("select events_waiting::int, ring_bytes > 0 as grows from notika.lag")).toEqual([
      { events_waiting: 4, grows: true },
    ]);

    expect(await drain(db, 1)).toEqual([1, 1, 1, 1]);
    expect(await maintain(db)).toEqual(["the ring turned to notika.event_log_0"]);
    expect(await jobs(db)).toEqual([1, 2, 3, 4]);
  });

  test("does not turn in the middle of a window over what is not handed over yet", async ({ db }) => {
    await turnAlways(db);
    for (const id of [1, 2, 3]) {
      await write(db, id, id + 10);
      await maintain(db);
    }

    const answers: string[] = [];
    for (let i = 0; i < 3; i++) {
      await db.query("select notika.dispatch(1)");
      answers.push(...(await maintain(db)));
    }

    const waits = "the ring is due to turn, but notika.event_log_0 holds events that wait";
    expect(answers).toEqual([waits, "the ring turned to notika.event_log_0"]);
    await drain(db, 1);
    expect(await jobs(db)).toEqual([1, 11, 2, 12, 3, 13]);
  });

  test("turns past a transaction that is idle and has written no event", async ({ db }) => {
    const idle = await db.connect();
    await begin(idle, "select pg_current_xact_id()");
    await turnAlways(db);

    expect(await turns(db, 7)).toBe(7);

    await idle.query("insert into item values (0)");
    await commit(idle);
    expect(await drain(db)).toEqual([1]);
    expect(await jobs(db)).toEqual([1, 2, 3, 4, 5, 6, 7, 0]);
  });

  test("waits for an idle transaction that has written to the oldest segment, and loses nothing", async ({ db }) => {
    const idle = await db.connect();
    await begin(idle, "insert into item values (0)");
    await turnAlways(db);
    expect(await turns(db, 2)).toBe(2);
    await write(db, 9);
    await drain(db);

    expect(await maintain(db)).toEqual(["the ring is due to turn, but notika.event_log_0 is in use"]);
    expect(await db.query("select blocked_by is not null as named from notika.lag")).toEqual([{ named: true }]);
    await commit(idle);
    expect(await maintain(db)).toEqual(["the ring is due to turn, but notika.event_log_0 holds events that wait"]);
    expect(await drain(db)).toEqual([1]);
    expect(await maintain(db)).toEqual(["the ring turned to notika.event_log_0"]);
    expect(await jobs(db)).toEqual([1, 2, 9, 0]);
  });

  test("is not kept from turning by a held snapshot, and leaves no dead rows", async ({ db }) => {
    const reader = await db.connect();
    await begin(reader, "select count(*) from item", "repeatable read");
    await turnAlways(db);

    for (let round = 0; round < 7; round++) {
      await db.query(`insert into item select generate_series(${round * 1000}, ${round * 1000 + 999})`);
      await drain(db, 100);
      expect(await maintain(db)).toHaveLength(1);
    }

    await db.query("select pg_stat_force_next_flush()");
    expect(
      await db.query(`
        select sum(n_dead_tup)::int as dead, sum(n_tup_upd + n_tup_del)::int as touched,
               min(pg_table_size(relid))::int as smallest
          from pg_stat_user_tables
         where relname like 'event_log_%'`),
    ).toEqual([{ dead: 0, touched: 0, smallest: 8192 }]); // what is left is the root of an empty toast index
    expect((await jobs(db)).length).toBe(7000);
    await commit(reader);
  });

  test("is only put off by somebody who reads the oldest segment, a pg_dump say", async ({ db }) => {
    const [reader, writer] = [await db.connect(), await db.connect()];
    await turnAlways(db);
    expect(await turns(db, 2)).toBe(2);
    await begin(reader, "lock table notika.event_log_0 in access share mode", "repeatable read");
    await write(db, 8);
    await drain(db);

    expect(await maintain(db)).toEqual(["the ring is due to turn, but notika.event_log_0 is in use"]);
    await writer.query("insert into item values (9)"); // writers do not queue behind the attempt
    expect(await drain(db)).toEqual([1]);
    await commit(reader);
    expect(await maintain(db)).toEqual(["the ring turned to notika.event_log_0"]);
    expect(await jobs(db)).toEqual([1, 2, 8, 9]);
  });

  for (const isolation of ["read committed", "repeatable read", "serializable"]) {
    test(`loses nothing of a ${isolation} writer that is older than two of its turns`, async ({ db }) => {
      // Control: what a pointer in a table would say.
      await db.query("create table pointer as select notika._segment(0) as segment");
      const writer = await db.connect();
      await begin(writer, "select count(*) from item", isolation);
      await turnAlways(db);
      for (let turn = 1; turn <= 4; turn++) {
        await write(db, turn);
        await drain(db);
        await maintain(db);
        await db.query("update pointer set segment = notika._segment(0)");
      }

      const [pointer] = await writer.query("select segment, notika._segment(0) as current from pointer");
      expect(pointer).toEqual({ segment: isolation === "read committed" ? 1 : 0, current: 1 });
      await writer.query("insert into item values (5)");
      await write(db, 6);
      await drain(db);
      await maintain(db);
      await commit(writer);

      expect(await drain(db)).toEqual([1]);
      expect(await jobs(db)).toEqual([1, 2, 3, 4, 6, 5]);
    });
  }

  test("loses nothing of a writer that is stalled between its xid and its insert", async ({ db }) => {
    const writer = await db.connect();
    await begin(writer, "select pg_current_xact_id()");
    await turnAlways(db);
    expect(await turns(db, 5)).toBe(5);

    await writer.query("insert into item values (0)");
    await write(db, 6);
    await drain(db);
    expect(await maintain(db)).toHaveLength(1);
    await commit(writer);

    expect(await drain(db)).toEqual([1]);
    expect(await jobs(db)).toEqual([1, 2, 3, 4, 5, 6, 0]);
  });

  test("loses nothing of a writer that is stalled after it has picked a segment", async ({ db }) => {
    const [writer, blocker] = [await db.connect(), await db.connect()];
    await begin(blocker, "lock table notika.event_log_0 in share mode");
    const pid = await writer.value<number>("select pg_backend_pid()");
    const stalled = writer.query("insert into item values (0)");
    await until(db, `exists (select from pg_locks where pid = ${pid} and not granted)`);
    // The ring turns twice; the segment that was picked is the next to go.
    await turnAlways(db);
    await db.query("select setval('notika.control_seq', pg_sequence_last_value('notika.control_seq') + 2)");
    expect(await turns(db, 1)).toBe(1);
    await write(db, 2);
    await drain(db);
    expect(await maintain(db)).toEqual(["the ring is due to turn, but notika.event_log_0 is in use"]);

    await commit(blocker);
    await stalled;

    expect(await maintain(db)).toEqual(["the ring is due to turn, but notika.event_log_0 holds events that wait"]);
    await drain(db);
    expect(await maintain(db)).toEqual(["the ring turned to notika.event_log_0"]);
    expect((await jobs(db)).toSorted()).toEqual([0, 1, 2]);
  });

  test("survives a turn that is rolled back", async ({ db }) => {
    await turnAlways(db);
    expect(await turns(db, 3)).toBe(3);
    await write(db, 4);
    await drain(db);
    await begin(db, "select notika.maintain()");
    await db.query("rollback");

    await write(db, 5);
    expect(await drain(db)).toEqual([1]);
    expect(await turns(db, 4, 6)).toBe(4);
    expect(await jobs(db)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });
});

test("under stress every committed change becomes one job, in the order of its row", async ({ db }) => {
  const seconds = Number(process.env.NOTIKA_STRESS_SECONDS ?? (isThorough ? 10 : 2));
  await db.database.script(stressSchema);
  await turnAlways(db);
  const end = Date.now() + seconds * 1000;
  const counts = { committed: 0, undone: 0, turns: 0, dispatches: 0 };

  const writer = async (n: number) => {
    const session = await db.connect();
    const isolation = n % 3 === 2 ? "repeatable read" : "read committed";
    while (Date.now() < end) {
      try {
        await session.query(`begin isolation level ${isolation}`);
        await session.query(Math.random() < 0.02 ? "select linger()" : "select churn()");
        const isUndone = Math.random() < 0.15;
        await session.query(isUndone ? "rollback" : "commit");
        counts[isUndone ? "undone" : "committed"]++;
      } catch (error) {
        if (!["40P01", "40001"].includes((error as { code: string }).code)) throw error;
        counts.undone++;
        await session.query("rollback");
      }
    }
  };
  const dispatcher = async () => {
    const session = await db.connect();
    while (Date.now() < end) {
      const events = await session.value<number | null>(
        `select notika.dispatch(${1 + Math.floor(Math.random() * 12)})`,
      );
      counts.dispatches++;
      if (!events) await sleep(Math.random() * 10);
    }
  };
  const caretaker = async () => {
    const session = await db.connect();
    while (Date.now() < end) {
      counts.turns += (await maintain(session)).filter((it) => it.includes("turned")).length;
      await sleep(Math.random() * 30);
    }
  };
  await Promise.all([
    ...Array.from({ length: 8 }, (_, n) => writer(n)),
    ...Array.from({ length: 3 }, dispatcher),
    caretaker(),
  ]);
  await drain(db);

  // A control that gives wrong numbers to compare with would not be noticed if nothing had happened.
  expect(counts.committed).toBeGreaterThan(20 * seconds);
  expect(counts.turns).toBeGreaterThan(seconds);
  expect(await db.query(stressVerdict)).toEqual([{ lost: 0, invented: 0, twice: 0, disorderly: 0 }]);
  expect(await db.query("select events_waiting::int from notika.lag")).toEqual([{ events_waiting: 0 }]);
});

const stressSchema = `
  create table shadow (id int, n int);
  with new as (insert into item select generate_series(1, 20) returning id, n)
  insert into shadow select id, n from new;

  -- Changes hot rows, and writes down by hand what it did.
  create function churn() returns void language plpgsql as $$
  declare
    v_id int;
    v_n int;
  begin
    if random() < 0.2 then
      perform pg_current_xact_id();
      perform pg_sleep(random() * 0.03);
    end if;
    for i in 1..1 + (random() * 4)::int loop
      begin -- a savepoint
        v_id := 1 + floor(random() * 20);
        update item set n = n + 1 where id = v_id returning n into v_n;
        insert into shadow values (v_id, v_n);
        if random() < 0.1 then
          begin
            update item set n = n + 1 where id = v_id returning n into v_n;
            insert into shadow values (v_id, v_n);
          end;
        end if;
        if random() < 0.2 then
          raise exception 'undo' using errcode = 'P0001';
        end if;
      exception when raise_exception then
      end;
      if random() < 0.1 then
        perform pg_sleep(random() * 0.01);
      end if;
    end loop;
  end $$;

  -- The same to a row that nobody else wants, and it takes several turns of the ring.
  create function linger() returns void language plpgsql as $$
  declare
    v_id int := 100 + pg_backend_pid();
    v_n int;
  begin
    insert into item values (v_id) on conflict (id) do update set n = item.n + 1 returning n into v_n;
    insert into shadow values (v_id, v_n);
    perform pg_sleep(random() * 1.5);
    update item set n = n + 1 where id = v_id returning n into v_n;
    insert into shadow values (v_id, v_n);
  end $$`;

const stressVerdict = `
  with job as (
    select (payload -> 'new' ->> 'id')::int as id, (payload -> 'new' ->> 'n')::int as n,
           key::bigint as event_id, row_number() over (order by run_at, id) as place
      from notika_worker._private_jobs
  ), step as (
    select n - lag(n) over (partition by id order by event_id) as by_id,
           n - lag(n) over (partition by id order by place) as by_place
      from job
  )
  select (select count(*)::int from (select id, n from shadow except select id, n from job) as s) as lost,
         (select count(*)::int from (select id, n from job except select id, n from shadow) as s) as invented,
         (select (count(*) - count(distinct event_id) + count(*) - count(distinct (id, n)))::int from job) as twice,
         (select count(*)::int from step where by_id <> 1 or by_place <> 1) as disorderly`;

/** The ring turns whenever there is an event in its current segment. */
async function turnAlways(db: Session) {
  await db.query("update notika.setting set segment_age = '1 microsecond'");
}

async function maintain(db: Session): Promise<string[]> {
  return (await db.query<{ said: string }>("select said from notika.maintain() as said")).map(({ said }) => said);
}

/** Writes, hands over and turns, `wanted` times; how often it turned. */
async function turns(db: Arena, wanted: number, firstId = 1): Promise<number> {
  let turned = 0;
  for (let id = firstId; id < firstId + wanted; id++) {
    await write(db, id);
    await drain(db);
    turned += (await maintain(db)).filter((it) => it.includes("turned")).length;
  }
  return turned;
}

async function write(db: Session, ...ids: number[]) {
  await db.query(`insert into item values ${ids.map((id) => `(${id})`).join()}`);
}

/** The ids of the rows whose events are in the ring. */
async function remembered(db: Session): Promise<number[]> {
  const rows = await db.query<{ id: number }>(
    "select (new ->> 'id')::int as id from notika.event_log order by event_id",
  );
  return rows.map(({ id }) => id);
}
