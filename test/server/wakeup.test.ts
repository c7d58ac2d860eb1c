import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect } from "vitest";
import { isThorough } from "../support/database.ts";
import { type Arena, begin, commit, drain, jobs, startCluster, stopCluster, test, until } from "./cluster.ts";

describe("a writer", () => {
  test("notifies only while the dispatcher sleeps", async ({ db }) => {
    const rings = await listen(db);
    await db.query("insert into item values (1)");
    await drain(db);

    expect(await db.value("select notika._doze()")).toBe(true);
    expect(await drain(db)).toEqual([]);
    await db.query("insert into item values (2)");
    await rings.until(1);
    expect(await drain(db)).toEqual([1]);

    for (let id = 10; id < 110; id++) await db.query("insert into item values ($1::text::int)", [id]);
    await db.query("select notika.emit('watch_item')");
    await drain(db);
    await sleep(50);
    expect(rings.count()).toBe(1); // nobody notified in a busy period
  });

  test("that rolls back wakes nobody", async ({ db }) => {
    const rings = await listen(db);
    await db.query("select notika._doze()");
    await begin(db, "insert into item values (1)");
    await db.query("rollback");
    await db.query("insert into item values (2)");

    await rings.until(1);
    await sleep(50);
    expect(rings.count()).toBe(1);
  });

  test("that wrote before the dispatcher fell asleep keeps it from sleeping until it commits", async ({ db }) => {
    const writer = await db.connect();
    const rings = await listen(db);
    await begin(writer, "insert into item values (1)");

    expect(await db.value("select notika._doze()")).toBe(false);
    expect(await drain(db)).toEqual([]);
    await commit(writer);
    await sleep(50);

    expect(rings.count()).toBe(0); // the bell that a dispatcher must not wait for
    expect(await db.value("select notika._doze()")).toBe(true);
    expect(await drain(db)).toEqual([1]);
  });

  test("that is stalled on its way to the log keeps it from sleeping too, because it has looked already", async ({
    db,
  }) => {
    const [writer, blocker] = [await db.connect(), await db.connect()];
    const rings = await listen(db);
    await begin(blocker, "lock table notika.event_log_0 in share mode");
    const pid = await writer.value<number>("select pg_backend_pid()");
    const stalled = writer.query("insert into item values (1)");
    await until(db, `exists (select from pg_locks where pid = ${pid} and not granted)`);

    expect(await db.value("select notika._doze()")).toBe(false);
    expect(await drain(db)).toEqual([]);
    await commit(blocker);
    await stalled;
    await sleep(50);

    expect(rings.count()).toBe(0); // it looked while nobody slept
    expect(await db.value("select notika._doze()")).toBe(true);
    expect(await drain(db)).toEqual([1]);
  });

  test("that looked in a savepoint and rolled that back keeps it from sleeping all the same", async ({ db }) => {
    const [writer, blocker] = [await db.connect(), await db.connect()];
    const pid = await writer.value<number>("select pg_backend_pid()");
    await begin(writer, "savepoint before");
    await writer.query("insert into item values (1)");
    await writer.query("rollback to before");
    await begin(blocker, "lock table notika.event_log_0 in share mode");
    const stalled = writer.query("insert into item values (2)");
    await until(db, `exists (select from pg_locks where pid = ${pid} and not granted)`);

    expect(await db.value("select notika._doze()")).toBe(false);
    await commit(blocker);
    await stalled;
    expect(await drain(db)).toEqual([]);
    await commit(writer);

    expect(await db.value("select notika._doze()")).toBe(true);
    expect(await drain(db)).toEqual([1]);
  });

  test("never leaves an event behind that a sleeping dispatcher is not told of", async ({ db }) => {
    const end = Date.now() + 60_000;
    const rings = await listen(db);
    let isWriting = true;
    const enough = isThorough ? 100 : 30;
    const counts = { naps: 0, wakeups: 0, overslept: 0 };

    const writer = async (n: number) => {
      const session = await db.connect();
      for (let id = n * 1_000_000; counts.wakeups < enough && Date.now() < end; id++) {
        await begin(session, `insert into item values (${id})`);
        if (Math.random() < 0.3) await sleep(Math.random() * 5);
        await commit(session);
        await sleep(Math.random() * 30);
      }
    };
    const dispatcher = async () => {
      const session = await db.connect();
      while (isWriting) {
        if (await session.value<number | null>("select notika.dispatch()")) continue;
        if (!(await session.value<boolean>("select notika._doze()"))) {
          await sleep(1);
          continue;
        }
        const heard = rings.count();
        if (await session.value<number | null>("select notika.dispatch()")) continue;
        counts.naps++;
        if (await rings.until(heard + 1, 400)) counts.wakeups++;
        else if (await session.value<number>("select notika.dispatch()")) counts.overslept++;
      }
    };
    const writers = Promise.all(Array.from({ length: 6 }, (_, n) => writer(n)));
    const dispatching = dispatcher();
    await writers;
    await sleep(500);
    isWriting = false;
    await dispatching;

    expect(counts.wakeups).toBeGreaterThanOrEqual(enough);
    expect(counts.overslept).toBe(0);
    expect(await drain(db)).toEqual([]);
    expect(await db.value("select count(*)::int from item")).toBe((await jobs(db)).length);
  });
});

const testPrepared = test.extend("cluster", { scope: "worker" }, async ({}, { onCleanup }) => {
  const cluster = await startCluster({ max_prepared_transactions: "10", synchronous_commit: "on" });
  onCleanup(() => stopCluster(cluster));
  return cluster;
});

describe("a prepared transaction", () => {
  testPrepared("is handed over when somebody commits it, and not when it is rolled back", async ({ db }) => {
    for (const id of [1, 2]) await begin(db, `insert into item values (${id}); prepare transaction 'tx${id}'`);
    await db.query("insert into item values (3)");
    for (let i = 0; i < 3; i++) await drain(db);
    await db.query("rollback prepared 'tx1'");
    expect(await drain(db)).toEqual([]);
    await (await db.connect()).query("commit prepared 'tx2'");

    expect(await drain(db)).toEqual([1]);

    expect(await jobs(db)).toEqual([3, 2]);
  });

  testPrepared("keeps the segment that it has written to", async ({ db }) => {
    await db.query("update notika.setting set segment_age = '1 microsecond'");
    await begin(db, "insert into item values (0); prepare transaction 'held'");
    const answers: string[] = [];
    for (const id of [1, 2, 3]) {
      await db.query("insert into item values ($1::text::int)", [id]);
      await drain(db);
      answers.push(await db.value("select notika.maintain()"));
    }
    await db.query("commit prepared 'held'");

    expect(answers.at(-1)).toBe("the ring is due to turn, but notika.event_log_0 is in use");
    expect(await drain(db)).toEqual([1]);
    expect(await jobs(db)).toEqual([1, 2, 3, 0]);
  });

  testPrepared("may be prepared while the dispatcher sleeps, so nobody notifies and it must not", async ({ db }) => {
    expect(await db.value("select notika._doze()")).toBe(false);
    await begin(db, "insert into item values (1); prepare transaction 'asleep'");
    await drain(db);
    await db.query("commit prepared 'asleep'");

    expect(await drain(db)).toEqual([1]);
  });

  testPrepared("survives a crash of the server", async ({ db, cluster }) => {
    // In a crash before the next checkpoint Postgres forgets nextval in a database that was just copied.
    await db.query("checkpoint");
    await begin(db, "insert into item values (1); prepare transaction 'crash'");
    await db.query("insert into item values (2)");
    await drain(db);
    await cluster.kill("SIGKILL");
    await cluster.restart();
    await db.query("select 1").catch(() => {}); // the lost connection

    expect(await drain(db)).toEqual([]);
    await db.query("commit prepared 'crash'");

    expect(await drain(db)).toEqual([1]);
    expect(await jobs(db)).toEqual([2, 1]);
  });
});

async function listen(db: Arena) {
  const session = await db.connect();
  let heard = 0;
  let wake = () => {};
  const notika = () => {
    heard++;
    wake();
  };
  await session.database.listen({ channels: { notika } }).known;
  return {
    count: () => heard,
    /** Waits until so many notifications have come; false: it took too long. */
    async until(wanted: number, ms = 5000): Promise<boolean> {
      const end = Date.now() + ms;
      while (heard < wanted && Date.now() < end) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, end - Date.now());
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
      return heard >= wanted;
    },
  };
}
