import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect } from "vitest";
import { isThorough } from "../support/database.ts";
import { type Arena, begin, commit, drain, type Session, test } from "./cluster.ts";

const kinds = [0, 1, 2, 3, 4];

/** A table whose rows belong to five workflows, and what became of them, written down by hand. */
const schema = `
  create table piece (id int primary key, kind int not null, n int not null default 0);
  insert into piece select n, n % ${kinds.length} from generate_series(1, 60) as n;
  create table shadow (id int, n int);
  create function change(kind int, times int, naps boolean) returns void language plpgsql as $$
  declare v_id int; v_n int;
  begin
    for i in 1..times loop
      begin
        v_id := 1 + (floor(random() * 12) * ${kinds.length} + kind + ${kinds.length - 1})::int % 60;
        update piece set n = n + 1 where id = v_id returning n into v_n;
        insert into shadow values (v_id, v_n);
        if random() < 0.1 then raise exception 'undo' using errcode = 'P0001'; end if;
      exception when raise_exception then
      end;
      if naps and random() < 0.1 then perform pg_sleep(random() * 0.01); end if;
    end loop;
  end $$;
  ${kinds.map((kind) => `select notika.publish('kind_${kind}', 'public.piece', operations => '{update}', columns => '{id,kind,n}', condition => 'new.kind = ${kind}');`).join("\n")}
`;

/** What was committed and what became jobs: nothing may be lost, invented, twice, or not in the order of its workflow. */
const verdict = `
  with job as (
    select (payload -> 'new' ->> 'id')::int as id, (payload -> 'new' ->> 'n')::int as n, key::bigint as event_id,
           row_number() over (partition by task_id order by run_at, id) as place
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

/** Bursts of a few events are set aside, too, so that it happens all the time. */
const setAsideSoon = (db: Session, events = 3) =>
  db.database.script(
    `do $do$ begin execute replace(pg_get_functiondef('notika._begin_burst(notika.position)'::regprocedure), '10000', '${events}'); end $do$`,
  );

const waitsAside = (db: Session) => db.value<boolean>("select burst_ids <> '{}' from notika._position()");
const ran = async (db: Session) =>
  (
    await db.query<{ run: string }>(
      `select concat(right(t.identifier, 1), '/', payload -> 'new' ->> 'n') as run
         from notika_worker._private_jobs as j
         join notika_worker._private_tasks as t on t.id = j.task_id
        order by j.id`,
    )
  ).map(({ run }) => run);

describe("a burst", () => {
  async function open(db: Arena) {
    await db.database.script(schema);
    await setAsideSoon(db);
    return db.connect();
  }
  const burst = (kind: number, events = 20) =>
    `update piece set n = n + 1 where id in (select ${kind || kinds.length}) ; ${`update piece set n = n + 1 where id = ${kind || kinds.length};`.repeat(events - 1)}`;

  test("is handed over in turns with what comes after it, and one workflow's events keep their order", async ({
    db,
  }) => {
    const writer = await open(db);
    await begin(writer, burst(1));
    await commit(writer);
    expect(await db.value("select notika.dispatch(4)")).toBe(4);
    expect(await waitsAside(db)).toBe(true);
    await db.database.script("update piece set n = n + 1 where id = 2; update piece set n = n + 1 where id = 1");

    expect(await db.value("select notika.dispatch(4)")).toBe(4);

    expect((await ran(db)).slice(4, 5)).toEqual(["2/1"]);
    expect(await db.value("select events_waiting::int from notika.lag")).toBe(14);
    expect(
      await db.query(`select workflow, count(*) filter (where dispatched)::int as dispatched, count(*)::int as events
                        from notika.event_log group by 1 order by 1`),
    ).toEqual([
      { workflow: "kind_1", dispatched: 7, events: 21 },
      { workflow: "kind_2", dispatched: 1, events: 1 },
    ]);
    await drain(db, 4);
    expect((await ran(db)).filter((run) => run.startsWith("1"))).toEqual(
      Array.from({ length: 21 }, (_, i) => `1/${i + 1}`),
    );
    expect(await waitsAside(db)).toBe(false);
  });

  test("does not hide a straggler of its own workflow, nor one of another", async ({ db }) => {
    const writer = await open(db);
    const [own, others] = [await db.connect(), await db.connect()];
    await begin(own, "update piece set n = n + 1 where id = 6");
    await begin(others, "update piece set n = n + 1 where id = 7");
    await begin(writer, burst(1));
    await commit(writer);
    await db.query("select notika.dispatch(4)");
    await commit(others);
    expect(await db.value("select notika.dispatch(4)")).toBe(4);
    expect((await ran(db)).slice(4, 5)).toEqual(["2/1"]);
    await commit(own);

    await drain(db, 4);

    expect((await ran(db)).length).toBe(22);
    expect(await waitsAside(db)).toBe(false);
    expect(await db.value("select cardinality(pending_xids) from notika._position()")).toBe(0);
  });

  test("may be followed by bursts of the same workflow and of others, while writers wait", async ({ db }) => {
    const writer = await open(db);
    const idle = await db.connect();
    await begin(idle, "update piece set n = n + 1 where id = 8");
    for (const kind of [1, 1, 2, 1, 3, 0]) {
      await begin(writer, burst(kind, 12));
      await commit(writer);
      await db.query("select notika.dispatch(5)");
    }
    await commit(idle);

    await drain(db, 5);

    const runs = await ran(db);
    expect(runs.length).toBe(73);
    for (const kind of ["0", "1", "2"]) {
      const own = runs.filter((run) => run.startsWith(`${kind}/`));
      expect(own).toEqual(own.map((_, i) => `${kind}/${i + 1}`));
    }
  });

  test("finds a writer of its workflow that was in no snapshot when the cursor aside went on", async ({ db }) => {
    const writer = await open(db);
    const unlisted = await db.connect();
    const more = () => writer.database.script(`begin; ${burst(1)} commit`);
    await more();
    await db.query("select notika.dispatch(4)");
    await more();
    // Its xid is the newest, and its event lies before the last id that the next dispatch reads.
    await begin(unlisted, "update piece set n = n + 1 where id = 6");

    await db.query("select notika.dispatch(30)"); // what was left of the first burst, and some of the second
    await db.query("select notika.dispatch(6)");
    await more();
    await db.query("select notika.dispatch(4)"); // lists it
    await commit(unlisted);
    await drain(db, 4);

    expect((await ran(db)).length).toBe(61);
  });

  test("of a workflow goes on with its signals", async ({ db }) => {
    const writer = await open(db);
    await db.query(
      `select notika.publish('kind_1:cancel', 'public.piece', operations => '{update}', columns => '{id,n}',
                             match => '{id}', condition => 'new.kind = 2')`,
    );
    await begin(writer, burst(1));
    await commit(writer);
    await db.query("select notika.dispatch(4)");

    expect(
      await db.value(
        `select string_agg(w.name, ' ' order by w.name) from notika.workflow as w
          where w.workflow_id = any ((select burst_ids from notika._position())::int[])`,
      ),
    ).toBe("kind_1 kind_1:cancel");
  });

  test("that is retried, replayed and looked at meanwhile is neither lost nor twice", async ({ db }) => {
    const writer = await open(db);
    await begin(writer, burst(1));
    await commit(writer);
    await db.query("select notika.dispatch(4)");

    expect(await db.value("select notika.replay('kind_1', now() - interval '1 hour')::int")).toBe(4);
    expect(
      await db.value(
        "select notika.cancel((select max(event_id) from notika.event_log where workflow = 'kind_1' and operation = 'update'))",
      ),
    ).toBe(true);
    expect(await db.value("select count(*)::int from notika.runs where workflow = 'kind_1' and state = 'ready'")).toBe(
      23,
    );
    await db.query("update notika.setting set segment_age = '1 microsecond'");
    for (let turn = 0; turn < 4; turn++) await db.query("select notika.maintain()");
    await drain(db, 4);

    expect((await ran(db)).length).toBe(23);
  });
});

test("bursts set aside all the time: every committed change becomes one job, in the order of its row", async ({
  db,
}) => {
  const seconds = Number(process.env.NOTIKA_STRESS_SECONDS ?? (isThorough ? 3 : 2));
  await db.database.script(schema);
  await setAsideSoon(db);
  await db.query("update notika.setting set segment_age = '1 microsecond'");
  const end = Date.now() + seconds * 1000;
  const counts = { committed: 0, aside: 0, turns: 0 };

  const writer = async (n: number) => {
    const session = await db.connect();
    const isolation = n % 3 === 2 ? "repeatable read" : "read committed";
    while (Date.now() < end) {
      try {
        await session.query(`begin isolation level ${isolation}`);
        const isBurst = Math.random() < 0.15;
        await session.query(
          `select change(${Math.floor(Math.random() * kinds.length)}, ${isBurst ? 60 : 3}, ${!isBurst})`,
        );
        if (Math.random() < 0.05) await sleep(Math.random() * 200);
        await session.query(Math.random() < 0.15 ? "rollback" : "commit");
        counts.committed++;
      } catch (error) {
        if (!["40P01", "40001"].includes((error as { code: string }).code)) throw error;
        await session.query("rollback");
      }
    }
  };
  const dispatcher = async () => {
    const session = await db.connect();
    while (Date.now() < end) {
      const times = Math.random() < 0.2 ? 3 : 1; // several calls in one transaction
      await session.query("begin");
      for (let i = 0; i < times; i++)
        await session.query(`select notika.dispatch(${1 + Math.floor(Math.random() * 30)})`);
      if (await waitsAside(session)) counts.aside++;
      await session.query(Math.random() < 0.1 ? "rollback" : "commit");
      await sleep(Math.random() * 5);
    }
  };
  const caretaker = async () => {
    const session = await db.connect();
    while (Date.now() < end) {
      const said = await session.query<{ said: string }>("select said from notika.maintain() as said");
      counts.turns += said.filter((it) => it.said.includes("turned")).length;
      await sleep(Math.random() * 30);
    }
  };
  await Promise.all([...Array.from({ length: 6 }, (_, n) => writer(n)), dispatcher(), dispatcher(), caretaker()]);
  await drain(db);
  await drain(db);

  expect(counts.committed).toBeGreaterThan(10 * seconds);
  expect(counts.aside).toBeGreaterThan(5 * seconds);
  expect(counts.turns).toBeGreaterThan(0);
  expect(await db.query(verdict)).toEqual([{ lost: 0, invented: 0, twice: 0, disorderly: 0 }]);
  expect(await db.query("select events_waiting::int from notika.lag")).toEqual([{ events_waiting: 0 }]);
  expect(await waitsAside(db)).toBe(false);
}, 300_000);
