import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Postgres } from "../support/postgres.ts";
import { type Arena, begin, commit, drain, jobs, openArena, startCluster, stopCluster } from "./cluster.ts";

describe("the ring", () => {
  let server: Postgres;
  const arenas: Arena[] = [];
  beforeAll(async () => {
    server = await startCluster({ max_prepared_transactions: "4" });
  });
  afterAll(async () => {
    await Promise.all(arenas.map((arena) => arena.close()));
    if (server) await stopCluster(server);
  });

  /** A database whose ring turns whenever there is an event in its current segment. */
  async function arena(): Promise<Arena> {
    const db = await openArena(server);
    arenas.push(db);
    await db.query("update notika.setting set segment_age = '1 microsecond'");
    return db;
  }

  test("waits for a prepared transaction with an event, names it, and goes on when it is decided", async () => {
    const db = await arena();
    await db.database.script("begin; insert into item values (1); prepare transaction 'left over'");

    const answers: string[] = [];
    for (const id of [2, 3, 4]) {
      await db.query(`insert into item values (${id})`);
      await drain(db);
      answers.push(...(await maintain(db)));
    }

    expect(answers.at(-1)).toBe("the ring is due to turn, but notika.event_log_0 is in use");
    expect(await db.query("select blocked_by from notika.lag")).toEqual([
      { blocked_by: [expect.stringMatching(/^prepared transaction 'left over' of postgres since /)] },
    ]);
    await db.query("insert into item values (5)");
    expect(await drain(db)).toEqual([1]);
    await db.query("commit prepared 'left over'");
    expect(await drain(db)).toEqual([1]);
    expect(await maintain(db)).toEqual(["the ring turned to notika.event_log_0"]);
    expect(await jobs(db)).toEqual([2, 3, 4, 5, 1]);
  });

  test("turns past an idle writer in another database", async () => {
    const [db, other] = [await arena(), await arena()];
    await begin(other, "insert into item values (1)");

    for (const id of [2, 3, 4, 5, 6]) {
      await db.query(`insert into item values (${id})`);
      expect(await drain(db)).toEqual([1]);
      expect(await maintain(db)).toEqual([expect.stringContaining("the ring turned")]);
    }

    expect(await db.query("select blocked_by, events_waiting::int from notika.lag")).toEqual([
      { blocked_by: null, events_waiting: 0 },
    ]);
    await commit(other);
    expect(await drain(other)).toEqual([1]);
  });

  test("numbers events beyond what JavaScript counts", async () => {
    const db = await arena();
    await db.query("alter sequence notika.event_id_seq restart with 999999999999999990");

    await db.query("insert into item select generate_series(1, 20)");
    await drain(db, 7);

    expect(await jobs(db)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    expect(
      await db.query(
        "select max(run_id)::text as run, max(event ->> 'id') as event from notika.runs where workflow = 'watch_item'",
      ),
    ).toEqual([{ run: "1000000000000000009", event: "999999999999999999" }]);
    expect(await maintain(db)).toEqual([expect.stringContaining("the ring turned")]);
    expect(await db.query("select finding from notika.check()")).toEqual([]);
  });
});

async function maintain(db: Arena): Promise<string[]> {
  return (await db.query<{ said: string }>("select said from notika.maintain() as said")).map(({ said }) => said);
}
