import { expect } from "vitest";
import { begin, commit, test } from "./cluster.ts";

test("while a backfill runs, writers insert and update, and every row gets exactly one run", async ({ db }) => {
  await db.database.script(`
    create table public.person (id int primary key, n int not null default 0);
    insert into public.person select i * 10 from generate_series(1, 4000) as i;`);
  const writers = await Promise.all([...Array(4)].map(() => db.connect()));
  const dispatchers = await Promise.all([db.connect(), db.connect()]);
  // One is in the middle of its transaction when the backfill starts, and ends much later.
  const straggler = await db.connect();
  await db.database.script("select notika.publish('greet', 'public.person', columns => '{id}')");
  await begin(straggler, "insert into public.person select i * 10 + 5 from generate_series(1, 100) as i");

  let writing = true;
  const written = writers.map(async (writer, nth) => {
    for (let i = 0; writing; i++) {
      // In front of the backfill, behind it and at its end; some are updated, some come and go.
      const id = 10 * Math.ceil(Math.random() * 4500) + 1 + nth;
      await writer.query("begin");
      await writer.query(`insert into public.person values (${id}) on conflict do nothing`);
      await writer.query(`update public.person set n = n + 1 where id = ${10 * Math.ceil(Math.random() * 4000)}`);
      await writer.query(i % 10 === 9 ? "rollback" : "commit");
    }
  });
  await new Promise((go) => setTimeout(go, 200));
  await db.query("begin");
  await db.query("select notika.backfill('greet')");
  const before = await db.value<number>(
    "select count(*)::int from notika._event where pg_visible_in_snapshot(xid, (select snapshot from notika.backfill))",
  );
  await db.query("commit");

  const done = () => db.value<boolean>("select state = 'done' from notika.backfills");
  const dispatched = dispatchers.map(async (dispatcher, nth) => {
    while (!(await done())) {
      await dispatcher.query("select notika.dispatch(200)");
      if (nth === 0) await dispatcher.query("update notika_worker._private_jobs set attempts = 1 where attempts = 0");
    }
  });
  await new Promise((go) => setTimeout(go, 1000));
  await commit(straggler);
  await Promise.all(dispatched);
  writing = false;
  await Promise.all(written);
  while ((await db.value("select notika.dispatch(1000)")) !== 0);

  expect(
    await db.query(`
      with run as (
        select (new ->> 'id')::int as id, operation,
               -- Those that were there at the start may have had a run before it.
               pg_visible_in_snapshot(xid, (select snapshot from notika.backfill)) as is_before
          from notika._event
      )
      select count(*)::int as wrong
        from public.person as p
       where (select count(*) from run as r where r.id = p.id and not r.is_before) <> 1
         and not exists (select from run as r where r.id = p.id and r.is_before)`),
  ).toEqual([{ wrong: 0 }]);
  expect(before).toBeGreaterThan(0);
  // The race was on: rows were inserted in its way, and it left them alone.
  const [seen] = await db.query<{ live: number; filled: number }>(`
    select count(*) filter (where operation = 'insert' and not pg_visible_in_snapshot(xid, (select snapshot from notika.backfill)))::int as live,
           count(*) filter (where operation = 'backfill')::int as filled from notika._event`);
  expect(seen?.live).toBeGreaterThan(100);
  expect(seen?.filled).toBeGreaterThanOrEqual(4000);
});

test("a backfill goes on where the last page was committed, after its dispatcher was ended in the middle", async ({
  db,
}) => {
  await db.database.script(`
    create table public.person (id int primary key, n int not null default 0);
    insert into public.person select i from generate_series(1, 5000) as i;
    select notika.publish('greet', 'public.person', columns => '{id}')`);
  await db.query("select notika.backfill('greet')");
  for (let turn = 0; turn < 3; turn++) {
    const victim = await db.connect();
    const pid = await victim.value<number>("select pg_backend_pid()");
    await victim.query("begin");
    await victim.query("select notika.dispatch()");
    await db.query("select pg_terminate_backend($1::text::int)", [String(pid)]);
    await victim.query("commit").catch(() => {});
    await db.query("select notika.dispatch()");
    await db.query("update notika_worker._private_jobs set attempts = 1");
  }
  expect(await db.value("select state from notika.backfills")).toBe("running");

  while ((await db.value("select notika.dispatch()")) !== 0) {
    await db.query("update notika_worker._private_jobs set attempts = 1");
  }

  expect(
    await db.query(`select b.state, b.rows_seen::int, b.events::int, count(*)::int as runs, count(distinct e.new ->> 'id')::int as rows
                      from notika.backfills as b, notika._event as e group by 1, 2, 3`),
  ).toEqual([{ state: "done", rows_seen: 5000, events: 5000, runs: 5000, rows: 5000 }]);
});

test("a table that a migration has locked holds up its backfill, and nothing else", async ({ db }) => {
  await db.database.script(`
    create table public.person (id int primary key);
    insert into public.person select i from generate_series(1, 10) as i;
    select notika.publish('greet', 'public.person', columns => '{id}')`);
  await db.query("select notika.backfill('greet')");
  const migration = await db.connect();
  await begin(migration, "lock table public.person in access exclusive mode");
  await db.query("insert into public.item values (1)");

  const started = Date.now();
  expect(await db.value("select notika.dispatch()")).toBe(1);
  expect(Date.now() - started).toBeLessThan(2000);
  expect(await db.value("select state from notika.backfills")).toBe("running");

  await commit(migration);
  expect(await db.value("select notika.dispatch()")).toBe(10);
});

test("a backfill stops where the owner may not read the table any more, and says which grant mends it", async ({
  db,
}) => {
  await db.database.script(`
    create table public.person (id int primary key);
    insert into public.person select i from generate_series(1, 10) as i;
    select notika.publish('greet', 'public.person', columns => '{id}')`);
  await db.query("select notika.backfill('greet')");
  await db.query("revoke select on public.person from notika");

  await db.query("select notika.dispatch()");

  expect(await db.query("select state, error from notika.backfills")).toEqual([
    {
      state: "failed",
      error: `role "notika" may not read table public.person
Run: grant select on public.person to notika;
Then it continues with: select notika.backfill('greet');`,
    },
  ]);
  await db.query("grant select on public.person to notika");
  expect(await db.value("select notika.backfill('greet')")).toBe("continued");
  expect(await db.value("select notika.dispatch()")).toBe(10);
});
