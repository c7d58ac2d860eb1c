import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Postgres } from "../support/postgres.ts";
import { type Arena, begin, drain, jobs, openArena, type Session, startCluster, stopCluster } from "./cluster.ts";

let cluster: Postgres;
let db: Arena;

beforeAll(async () => {
  cluster = await startCluster({ max_prepared_transactions: "10" });
  db = await openArena(cluster);
});
afterAll(async () => {
  await db?.close();
  await stopCluster(cluster);
});

/** One table for each form of publishing. */
const tables = ["plain", "whole", "projected", "watched", "inserted"];
const publications = `
  select notika.publish('whole', 'public.whole', '{insert,update,delete}');
  select notika.publish('projected', 'public.projected', '{insert,update,delete}', '{id,n}');
  select notika.publish('watched', 'public.watched', '{insert,update,delete}', '{id,n}', '{n}', 'true');
  select notika.publish('inserted', 'public.inserted', columns => '{id,n}');`;

describe("a transaction that is prepared", () => {
  test("has its events when it is committed, however much later, and none when it is not", async () => {
    const writer = await db.connect();
    await begin(writer, "insert into item values (1); update item set n = 1 where id = 1");
    await writer.query("prepare transaction 'first'");
    await begin(writer, "insert into item values (2)");
    await writer.query("prepare transaction 'second'");
    await db.query("insert into item values (3)");

    await drain(db);
    expect(await jobs(db)).toEqual([3]);

    await db.query("commit prepared 'first'");
    await db.query("rollback prepared 'second'");
    await drain(db);
    expect(await jobs(db)).toEqual([3, 1, 1]);
  });

  test("can be one that wrote in savepoints by the hundred, of which some were undone", async () => {
    const writer = await db.connect();
    await begin(
      writer,
      Array.from(
        { length: 300 },
        (_, i) => `savepoint s; insert into item values (${1000 + i}); ${i % 3 ? "release s" : "rollback to s"};`,
      ).join(""),
    );
    await drain(db); // its snapshot cannot name all the subtransactions
    await writer.query("prepare transaction 'third'");
    await drain(db);
    const before = await jobs(db);
    await db.query("commit prepared 'third'");
    await drain(db);

    expect((await jobs(db)).slice(before.length)).toEqual(
      Array.from({ length: 300 }, (_, i) => 1000 + i).filter((id) => (id - 1000) % 3),
    );
  });
});

describe("SERIALIZABLE", () => {
  beforeAll(async () => {
    await db.database.script(`
      ${tables.map((name) => `create table ${name} (id int primary key, n int); insert into ${name} values (1, 0), (2, 0);`).join("")}
      create table tally (id int primary key, n int);
      ${publications}`);
  });

  test("writers that share no row fail with Notika as little as without, whoever hands over, looks and publishes", async () => {
    let writing = true;
    const write = async (table: string, from: number) => {
      const session = await db.connect();
      const failed: unknown[] = [];
      for (let i = from; i < from + 60; i++) {
        // Each writer reads what it writes, through an index of a table of its own.
        await serializable(session, [
          `select n from ${table} where id = 1`,
          `insert into ${table} values (${i}, 0)`,
          `update ${table} set n = n + 1 where id = ${i}`,
          "select notika.emit('whole', '{}')",
          `delete from ${table} where id = ${i}`,
        ]).catch((error) => failed.push({ table, code: error.code, detail: error.detail }));
      }
      return failed;
    };
    const others = [
      "select count(*) from notika.event_log",
      "select * from notika.runs limit 10",
      "select * from notika.lag",
    ].map(async (look) => {
      const session = await db.connect();
      while (writing) await serializable(session, [look]).catch(() => {});
    });
    const dispatcher = (async () => {
      const session = await db.connect();
      while (writing) await drain(session);
    })();
    const publisher = (async () => {
      const session = await db.connect();
      for (let i = 0; writing; i++) {
        await session.query(
          `select notika.publish('other', 'public.tally', columns => '{id}', condition => 'new.n <> ${i}')`,
        );
        await session.query(`select notika.pause('other'), notika.resume('other')`);
      }
    })();

    const failed = await Promise.all(tables.map((table) => write(table, 100))).finally(() => {
      writing = false;
    });
    await Promise.all([...others, dispatcher, publisher]);
    expect(failed.flat()).toEqual([]);
  });

  test.each(tables)(
    "writers who each read what the other writes fail once, and succeed when they try again: %s",
    async (table) => {
      const [one, other] = [await db.connect(), await db.connect()];
      for (const [session, id] of [
        [one, 1],
        [other, 2],
      ] as const) {
        await begin(
          session,
          `select sum(n) from ${table}; update ${table} set n = n + 1 where id = ${id}`,
          "serializable",
        );
      }

      const ended = await Promise.allSettled([one.query("commit"), other.query("commit")]);
      expect(ended.map((it) => (it.status === "rejected" ? it.reason.code : "done")).sort()).toEqual(["40001", "done"]);

      await serializable(ended[0]?.status === "rejected" ? one : other, [
        `select sum(n) from ${table}`,
        `update ${table} set n = n + 1 where id = ${ended[0]?.status === "rejected" ? 1 : 2}`,
      ]);
      expect(await db.query(`select id, n from ${table} where id in (1, 2) order by id`)).toEqual([
        { id: 1, n: 1 },
        { id: 2, n: 1 },
      ]);
      const events = await db.query(
        "select new ->> 'id' as id from notika.event_log where workflow = $1 and operation = 'update' and new ->> 'id' in ('1', '2') order by 1",
        [table],
      );
      expect(events).toEqual(["plain", "inserted"].includes(table) ? [] : [{ id: "1" }, { id: "2" }]);
    },
  );
});

async function serializable(session: Session, statements: string[]) {
  await session.query("begin isolation level serializable");
  try {
    for (const statement of statements) await session.query(statement);
    await session.query("commit");
  } catch (error) {
    await session.query("rollback");
    throw error;
  }
}
