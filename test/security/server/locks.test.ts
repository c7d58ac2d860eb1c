import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, onTestFinished } from "vitest";
import { type Arena, begin, commit, drain, openSession, type Session, test, until } from "../../server/cluster.ts";

const schema = `
  create table trial (id int);
  create table payment (user_id int);
  select notika.publish('drip', 'public.trial', columns => '{id}');
  select notika.publish('drip:payment', 'public.payment', columns => '{user_id}', match => '{user_id}');
  select notika.configure('watch_item', '{"order": "id", "concurrency": 2}')`;

const dispatch = "select notika.dispatch()";

/** Every advisory key that can be computed or seen, and every lock on a relation that Postgres gives this role. */
const takeAll = `
  begin;
  do $$
  declare
    v_relation record;
    v_statement text;
  begin
    perform pg_advisory_lock_shared(hashtextextended(k, s)), pg_advisory_lock(hashtextextended(k, s))
       from unnest('{notika.dispatch,notika.signal,notika.line,notika.install,notika.step 1 write,notika.step 2 write}'::text[]) as k
      cross join generate_series(0, 20) as s;
    perform pg_advisory_lock((k.classid::bigint << 32) + k.objid::bigint)
       from pg_locks as k where k.locktype = 'advisory' and k.objsubid = 1 and k.pid <> pg_backend_pid();
    perform pg_advisory_lock(k.classid::int, k.objid::int)
       from pg_locks as k where k.locktype = 'advisory' and k.objsubid = 2 and k.pid <> pg_backend_pid();

    for v_relation in
      select c.oid, format('%I.%I', n.nspname, c.relname) as name, format('locks_%s', c.oid) as plan
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
       where n.nspname = 'notika' or n.nspname = 'notika_worker' and current_user <> 'locks_runner'
    loop
      foreach v_statement in array array[
        format('select nextval(%s::regclass)', v_relation.oid),
        format('prepare %s_r as select from %s', v_relation.plan, v_relation.name),
        format('prepare %s_u as select from %s for update', v_relation.plan, v_relation.name),
        format('prepare %s_i as insert into %s default values', v_relation.plan, v_relation.name),
        format('prepare %s_d as delete from %s', v_relation.plan, v_relation.name),
        format('lock table %s in access share mode', v_relation.name),
        format('lock table %s in row share mode', v_relation.name),
        format('lock table %s in row exclusive mode', v_relation.name),
        format('lock table %s in share update exclusive mode', v_relation.name),
        format('lock table %s in share mode', v_relation.name),
        format('lock table %s in share row exclusive mode', v_relation.name),
        format('lock table %s in exclusive mode', v_relation.name),
        format('lock table %s in access exclusive mode', v_relation.name),
        format('select from %s for update', v_relation.name),
        format('create rule locks as on insert to %s do nothing', v_relation.name),
        format('comment on table %s is ''''', v_relation.name),
        format('select brin_summarize_range(%s, 0)', v_relation.oid)
      ] loop
        begin
          execute v_statement;
        exception when others then null;
        end;
      end loop;
    end loop;
  end;
  $$`;

describe.each(["writer", "reader", "runner", "publisher"])("a %s that holds every lock it can get", (part) => {
  test("stops neither the hand-over, lines, signals, steps nor what an operator does", async ({ db }) => {
    await db.database.script(schema);
    await drain(db);
    const other = await asRole(db, part);
    await begin(await connect(db), "select pg_current_xact_id()"); // somebody whose locks can be seen
    await other.database.script(takeAll);
    expect(await db.query(held("dispatch_lock", other))).toContainEqual({ mode: "RowExclusiveLock" });
    expect(await db.query(held("line_lock", other))).toContainEqual({ mode: "RowExclusiveLock" });

    await db.query("set statement_timeout = '5s'");
    await db.database.script("insert into item values (1), (2); update item set n = 1; insert into trial values (7)");
    expect(await db.value(dispatch)).toBe(5);
    expect(await db.value(`select notika._enter(${job(1)}, 1) ->> 'admitted'`)).toBe("true");
    expect(await takeStep(db, 1)).toEqual([]);
    await db.query(finish(1));
    await db.query(park(5, 7));
    await db.query("insert into payment values (7)");
    expect(await db.value(dispatch)).toBe(1);
    expect(await db.value("select notika.cancel(2)")).toBe(true);
    await db.query("insert into item values (3)");
    expect(await db.value(`select notika.cancel(${await db.value("select max(event_id) from notika._event")})`)).toBe(
      true,
    );
    await db.query("select notika.configure('watch_item', '{\"order\": \"n\"}')");
    expect(await db.query("select * from notika.maintain() as said where said like '%skipped%'")).toEqual([]);
    expect(await db.value(dispatch)).toBe(1);

    expect(await db.query("select run_id::int as run, state from notika.runs order by 1")).toEqual([
      { run: 1, state: "done" },
      { run: 2, state: "cancelled" },
      { run: 3, state: "ready" },
      { run: 4, state: "ready" },
      { run: 5, state: "ready" },
      { run: 7, state: "cancelled" },
    ]);
    expect(await db.query("select run_id::int as run, name, state from notika.step order by 1, 2")).toEqual([
      { run: 1, name: "write", state: "done" },
      { run: 5, name: "paid", state: "done" },
    ]);
  });
});

describe("within a second lag names", () => {
  test("who has the right to dispatch, and does not give it back", async ({ db }) => {
    const holder = await connect(db);
    await begin(holder, "insert into item values (1); select notika.dispatch()");

    expect(await blockers(db, holder)).toEqual(["the right to dispatch"]);
    expect(await holder.value("select blocked_by from notika.lag")).toBe(null);
    expect(await db.value(dispatch)).toBe(null);
    await commit(holder);
    expect(await db.value("select blocked_by from notika.lag")).toBe(null);
  });

  test("who holds the line of a workflow, also while nobody waits for it", async ({ db }) => {
    const holder = await connect(db);
    await db.database.script(`${schema}; insert into item values (1)`);
    await drain(db);
    await begin(holder, "select notika.cancel(1)");

    expect(await blockers(db, holder)).toEqual(['the line of workflow "watch_item"']);
    await db.query("insert into item values (2)");
    expect(await db.value(dispatch)).toBe(null);
    expect(await blockers(db, holder)).toContain('the line of workflow "watch_item"');
    await commit(holder);
    expect(await db.value(dispatch)).toBe(1);
  });

  test("who has locked signals", async ({ db }) => {
    const [holder, dispatcher] = [await connect(db), await connect(db)];
    await db.database.script(`${schema}; insert into trial values (7)`);
    await drain(db);
    await begin(holder, park(1, 7));
    await db.query("insert into payment values (7)");
    const handedOver = dispatcher.value(dispatch);

    expect(await blockers(db, holder)).toEqual(["the lock on signals"]);
    expect(await blockers(db, dispatcher)).toEqual([]);
    expect(await handedOver).toBe(null);
    await commit(holder);
    expect(await db.value(dispatch)).toBe(1);
  });

  test("who has locked a table of Notika's, and whoever waits for one in front of the hand-over", async ({ db }) => {
    const [holder, dispatcher] = [await connect(db), await connect(db)];
    const [reader, other] = [await asRole(db, "reader"), await asRole(db, "reader")];
    await begin(holder, "lock table notika.run_key in share mode");
    await begin(reader, "select from notika.run_log limit 1");
    const refused = other.query("create rule locks as on insert to notika.run_log do nothing").catch(String);
    await until(db, "exists (select from pg_locks where not granted)");
    await db.query("insert into item values (1)");
    const handedOver = dispatcher.value(dispatch).catch(String);

    const waited = `what pid ${pid(dispatcher)} waits for`;
    expect(await blockers(db, holder)).toEqual(["a lock on notika.run_key"]);
    expect(await blockers(db, other)).toEqual([waited]);
    expect(await blockers(db, reader)).toEqual([expect.stringMatching(/^what pid \d+ waits for$/)]);
    expect(await handedOver).toBe(null);
    await commit(reader);
    expect(await refused).toContain("must be owner of table run_log");
    expect(await db.value(dispatch)).toBe(1);
  });

  test("who holds up the one that holds up the hand-over", async ({ db }) => {
    const [far, near, dispatcher] = [await connect(db), await connect(db), await connect(db)];
    await db.database.script(
      `${schema}; insert into item values (1); create table app (id int); insert into app values (1)`,
    );
    await drain(db);
    await begin(far, "update app set id = 2");
    await begin(near, "select notika.cancel(1)");
    const updated = near.query("update app set id = 3");
    await db.query("insert into item values (2)");
    const handedOver = dispatcher.value(dispatch);

    await until(
      db,
      `exists (select from notika._blocker where holder like 'pid ${pid(far)} %' and holds like 'what pid%')`,
    );
    expect(await blockers(db, near)).toContain('the line of workflow "watch_item"');
    await Promise.all([handedOver, commit(far), updated]);
    await commit(near);
  });

  test("sessions by role and application, to a reader that may not see when they began", async ({ db }) => {
    const [holder, reader] = [await connect(db), await asRole(db, "reader")];
    await db.query("insert into item values (1)");
    await begin(
      holder,
      "set local application_name = 'console'; insert into item values (2); select notika.dispatch()",
    );

    await until(reader, "blocked_by is not null from notika.lag");

    expect(await reader.value("select blocked_by from notika.lag")).toEqual([
      `pid ${pid(holder)} (postgres, console): the right to dispatch`,
    ]);
    expect(await db.value("select blocked_by from notika.lag")).toEqual([
      expect.stringMatching(/^pid \d+ \(postgres, console\): the right to dispatch since 2/),
    ]);
  });
});

describe("a lock that is not free", () => {
  test("makes dispatch give up without a dead row, and maintain do the rest", async ({ db }) => {
    const holder = await connect(db);
    await db.database.script(`${schema}; update notika.setting set segment_age = '1 microsecond'`);
    await db.query("insert into item values (1), (2)");
    await drain(db);
    await begin(holder, finish(1));
    await db.database.script(`
      select notika.publish('plain', 'public.payment', columns => '{user_id}');
      insert into payment select generate_series(1, 500);
      insert into item values (3)`);

    const before = await db.value("select pg_relation_size('notika_worker._private_jobs')");
    for (let i = 0; i < 2; i++) expect(await db.value(dispatch)).toBe(null);
    expect(await db.value("select pg_relation_size('notika_worker._private_jobs')")).toBe(before);
    await db.database.script("delete from notika_worker._private_jobs where key = '2'"); // it is out of line
    expect(
      (await db.query<{ said: string }>("select said from notika.maintain() as said")).map(({ said }) => said),
    ).toEqual([
      "_repair_lines was skipped: a lock was not free within two seconds",
      "the ring turned to notika.event_log_1",
    ]);

    await holder.query("rollback");
    expect(await drain(db)).toEqual([1000, 1]);
  });

  test("of a schedule that is being changed does not hold up the others, nor the hand-over", async ({ db }) => {
    const holder = await connect(db);
    await db.database.script(`
      select notika.schedule('one', '* * * * *'); select notika.schedule('two', '* * * * *');
      update notika.schedule set next_at = now() - interval '1 second' where workflow_id > 0`);
    await begin(holder, "select notika.schedule('one', '@daily')");
    await db.query("insert into item values (1)");

    expect(await drain(db)).not.toEqual([]);

    expect(
      await db.query("select workflow, count(*)::int from notika.runs group by workflow order by workflow"),
    ).toEqual([
      { workflow: "two", count: 1 },
      { workflow: "watch_item", count: 1 },
    ]);
    await commit(holder);
  });

  test("is named by health when it has stopped the hand-over or the ring for a minute", async ({ db }) => {
    const holder = await connect(db);
    const ring = "select severity, detail, remedy from notika.health where finding = 'ring'";
    await db.database.script(
      "insert into item values (1); update notika.event_log_0 set captured_at = now() - interval '2 minutes'",
    );
    expect(await db.query(ring)).toMatchObject([{ severity: "warning", remedy: "Is a runner alive? npx notika run" }]);
    await begin(holder, dispatch);

    expect(await blockers(db, holder)).toEqual(["the right to dispatch"]);
    expect(await db.query(ring)).toEqual([
      {
        severity: "warning",
        // Notika's owner may not see when the transaction began.
        detail: expect.stringMatching(/; held up by pid \d+ \(postgres, notika\): the right to dispatch$/),
        remedy: `select pg_terminate_backend(${pid(holder)}); ends what holds it up`,
      },
    ]);
    await commit(holder);
    await begin(holder, "select from notika.event_log_1");
    expect(await db.query(ring)).toMatchObject([{ severity: "ok" }]);
    await db.query("update notika.setting set segment_age = '1 second'");
    expect(await db.query(ring)).toEqual([
      {
        severity: "warning",
        detail: expect.stringMatching(/; held up by pid \d+ \(postgres, notika\): a lock on notika.event_log_1$/),
        remedy: `select pg_terminate_backend(${pid(holder)}); ends what holds it up`,
      },
    ]);
    await commit(holder);
    expect(await db.query(ring)).toMatchObject([{ severity: "ok", remedy: null }]);
  });
});

describe("the locks", () => {
  test("cost an idle poll no transaction id", async ({ db }) => {
    await drain(db);

    await begin(db, dispatch);

    expect(await db.value("select pg_current_xact_id_if_assigned()")).toBe(null);
    await commit(db);
  });

  test("go with the savepoint that they were taken in, and do not fail an older snapshot", async ({ db }) => {
    const other = await connect(db);
    await db.database.script(`${schema}; insert into item values (1), (2)`);
    await drain(db);

    await begin(other, "select count(*) from item", "repeatable read");
    await begin(db, "savepoint a; select notika.cancel(1); rollback to a; insert into item values (3)");
    expect(await other.value("select notika.cancel(1)")).toBe(true);
    await commit(other);
    await commit(db);
    expect(await drain(db)).toEqual([1]);
  });

  test("leave the position of the cursor as one of this cluster, also when older ones are forgotten", async ({
    db,
  }) => {
    await db.query("insert into item values (1)");
    await drain(db);
    await db.query("select setval('notika.position_position_id_seq', 20000)");
    await db.query("insert into item values (2)");
    await drain(db);

    expect(await db.query("select * from notika.maintain()")).toEqual([
      { maintain: "old positions of the cursor are gone" },
    ]);

    expect(await db.query("select notika._is_own_row(xmin, xid) as own from notika.position")).toEqual([{ own: true }]);
  });

  test("are put back where a copy has lost their rows", async ({ db }) => {
    await db.database.script(`${schema}; insert into item values (1); insert into trial values (7)`);
    await drain(db);
    await db.database.script("truncate notika.line_lock; delete from notika.signal_lock where place > 1");

    await db.query(park(2, 7));
    await db.query("insert into payment values (7); insert into item values (2)");
    expect(await drain(db)).toEqual([2]);

    expect(await db.query("select count(*)::int from notika.signal_lock")).toEqual([{ count: 32 }]);
    expect(await db.query("select count(*)::int from notika.line_lock")).toEqual([{ count: 1 }]);
  });
});

describe("a step that two runners take", () => {
  test("is taken by the second when the first fails, and not when it is done", async ({ db }) => {
    const [first, second, third] = [await connect(db), await connect(db), await connect(db)];
    await db.query("insert into item values (1)");
    await drain(db);

    await begin(first, "select notika._begin_step(1, 1, 'write')");
    await second.query("begin");
    const begun = second.query("select * from notika._begin_step(1, 1, 'write')");
    await until(db, "exists (select from pg_locks where not granted)");
    await first.query("rollback");
    expect(await begun).toEqual([{ ended: false, state: null, result: null, error: null }]);
    const late = takeStep(third, 1);
    await until(db, "exists (select from pg_locks where not granted)");
    await second.query(remember(1, "done"));
    await commit(second);

    expect(await late).toEqual([{ ended: false, state: "done", result: 7, error: null }]);
    expect(await db.query("select state, attempts from notika.step")).toEqual([{ state: "done", attempts: 1 }]);
  });

  test("is taken by one after the other also when it was tried before", async ({ db }) => {
    const [first, second] = [await connect(db), await connect(db)];
    await db.query("insert into item values (1)");
    await drain(db);
    await db.query(remember(1, "retrying"));

    await begin(first, "select notika._begin_step(1, 1, 'write')");
    const late = takeStep(second, 1);
    await until(db, "exists (select from pg_locks where not granted)");
    await first.query(remember(1, "done"));
    await commit(first);

    expect(await late).toMatchObject([{ state: "done" }]);
    expect(await db.query("select state, attempts from notika.step")).toEqual([{ state: "done", attempts: 2 }]);
  });

  test("leaves nothing behind of a run that has ended, or ends meanwhile", async ({ db }) => {
    const other = await connect(db);
    await db.query("insert into item values (1), (2)");
    await drain(db);
    await db.query("select notika.cancel(1)");

    expect(await takeStep(db, 1)).toMatchObject([{ ended: true }]);
    await begin(other, "select notika._begin_step(2, 1, 'write')");
    await db.query("select notika.cancel(2)");
    expect(await other.query(remember(2, "done"))).toMatchObject([{ ended: true }]);
    await commit(other);

    expect(await db.query("select * from notika.step")).toEqual([]);
  });
});

/** A session of an ordinary role, or of one with a part. */
async function asRole(db: Arena, part: string): Promise<Session> {
  const role = `locks_${part}`;
  await db.database.script(`
    do $$ begin create role ${role} login; exception when duplicate_object or unique_violation then null; end $$;
    ${part === "writer" ? "" : `select notika.grant_${part}('${role}')`}`);
  const session = openSession(db.url.replace("postgres@", `${role}@`));
  onTestFinished(() => session.close());
  return know(session);
}

async function connect(db: Arena): Promise<Session> {
  return know(await db.connect());
}

const pids = new WeakMap<Session, number>();

/** Asks a session for its pid while it is idle. */
async function know(session: Session): Promise<Session> {
  pids.set(session, await session.value("select pg_backend_pid()"));
  return session;
}

const pid = (session: Session) => pids.get(session) as number;

/** What a session is said to hold, within a second, but for what it wrote. */
async function blockers(db: Session, session: Session): Promise<string[]> {
  await sleep(700);
  const [row] = await db.query<{ blocked_by: string[] | null }>("select blocked_by from notika.lag");
  return (row?.blocked_by ?? [])
    .filter((text) => text.startsWith(`pid ${pid(session)} `))
    .map((text) => text.replace(/^.*?\): /, "").replace(/ since 2.*/, ""))
    .filter((what) => what !== "uncommitted writes" && !what.startsWith("a lock on notika.event_log"));
}

const held = (table: string, session: Session) =>
  `select mode from pg_locks where relation = 'notika.${table}'::regclass and granted and pid = ${pid(session)}`;

const job = (run: number) => `(select id from notika_worker._private_jobs where key = '${run}')`;

const finish = (run: number) =>
  `select notika._finish('[{"run_id": ${run}, "workflow": "watch_item", "state": "done", "attempts": 1}]')`;

const remember = (run: number, state: "done" | "retrying") =>
  `select * from notika._remember('[{"run_id": ${run}, "name": "write", "state": "${state}", "result": "7", "ms": 1}]')`;

/** Takes a step in a transaction of its own, unless it is taken: what stands of it then. */
async function takeStep(session: Session, run: number): Promise<object[]> {
  await session.query("begin");
  const [stands] = await session.query<{ ended: boolean; state: string | null }>(
    `select * from notika._begin_step(${run}, 1, 'write')`,
  );
  const isTaken = stands && (stands.ended || stands.state);
  if (!isTaken) await session.query(remember(run, "done"));
  await commit(session);
  return isTaken ? [stands] : [];
}

/** Lets a run wait for the payment of a user. */
function park(run: number, user: number): string {
  const source = { name: "payment", table: "public.payment", match: ["user_id"] };
  const wait = { name: "paid", source, match: { user_id: String(user) } };
  return `select notika._park(${job(run)}, '${JSON.stringify([wait])}')`;
}
