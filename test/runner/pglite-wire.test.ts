import { execFile } from "node:child_process";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { PGlite } from "@electric-sql/pglite";
import type { PoolClient } from "pg";
import sql, { raw } from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { listenTcp } from "../../runner/embedded/server.ts";
import { PgliteWire } from "../../runner/embedded/wire.ts";
import { findProgram } from "../support/postgres.ts";

const patience = 200;
const psql = findProgram("psql");
let db: PGlite;
let wire: PgliteWire;
let database: Database;
const clients: PoolClient[] = [];

beforeAll(async () => {
  db = await PGlite.create();
});

beforeEach(async () => {
  wire = new PgliteWire(db, { patience });
  database = openDatabase({ connect: () => wire.connect(), connections: 4 });
  await database.script(
    "drop table if exists account; create table account (id int primary key, balance int not null)",
  );
});

afterEach(async () => {
  vi.useRealTimers();
  release();
  await database.close();
  wire.close();
});

afterAll(() => db.close());

describe("the database over the wire", () => {
  test("a transaction has the backend to itself until it commits", async () => {
    const order: string[] = [];

    const first = database.transaction(async (execute) => {
      await execute(sql`insert into account values (1, 100)`);
      order.push("first wrote");
      await sleep(50);
      order.push("first commits");
    });
    await sleep(10);
    const second = database.execute(sql`select balance from account`).then((rows) => {
      order.push("second read");
      return rows;
    });

    await first;
    expect(await second).toEqual([{ balance: 100 }]);
    expect(order).toEqual(["first wrote", "first commits", "second read"]);
  });

  test("a transaction that throws leaves nothing", async () => {
    const failing = database.transaction(async (execute) => {
      await execute(sql`insert into account values (1, 100)`);
      throw new Error("changed my mind");
    });

    await expect(failing).rejects.toThrow("changed my mind");
    expect(await database.execute(sql`select * from account`)).toEqual([]);
  });

  test("an error keeps its code, detail and hint", async () => {
    await database.execute(sql`insert into account values (1, 100)`);

    await expect(database.execute(sql`insert into account values (1, 100)`)).rejects.toMatchObject({
      code: "23505",
      detail: "Key (id)=(1) already exists.",
      constraint: "account_pkey",
    });
    await expect(database.execute(sql`select nonsense(1)`)).rejects.toMatchObject({
      code: "42883",
      hint: expect.stringContaining("No function matches"),
    });
  });

  test("a notification reaches another connection", async () => {
    const heard: string[] = [];
    await database.listen({ channels: { news: (payload) => heard.push(payload) } }).known;

    await database.execute(sql`select pg_notify('news', 'extra')`);

    await vi.waitFor(() => expect(heard).toEqual(["extra"]));
  });

  test("parameters and results of megabytes pass", async () => {
    const text = "é".repeat(2_000_000);

    const [row] = await database.execute<{ same: string }>(sql`select ${text}::text as same`);

    expect(row?.same === text).toBe(true);
  });
});

describe("pg over the wire", () => {
  test("a savepoint undoes only what came after it", async () => {
    const client = await checkOut();
    await client.query("begin");
    await client.query("insert into account values (1, 100)");
    await client.query("savepoint here");
    await expect(client.query("insert into account values (1, 200)")).rejects.toMatchObject({ code: "23505" });
    await client.query("rollback to savepoint here");
    await client.query("insert into account values (2, 200)");
    await client.query("commit");

    expect(await database.execute(sql`select id from account order by id`)).toEqual([{ id: 1 }, { id: 2 }]);
  });

  test("two connections prepare different statements under one name", async () => {
    const [one, two] = await Promise.all([checkOut(), checkOut()]);

    for (const _ of [1, 2]) {
      const answers = await Promise.all([
        one.query({ name: "get", text: "select 'one' as who" }),
        two.query({ name: "get", text: "select 'two' as who, $1::int as n", values: [2] }),
      ]);
      expect(answers.map(({ rows }) => rows)).toEqual([[{ who: "one" }], [{ who: "two", n: 2 }]]);
    }

    release();
    expect(await database.execute(sql`select name from pg_prepared_statements`)).toEqual([]);
  });

  test("one connection that stops listening does not deafen another, nor a direct NOTIFY", async () => {
    const [one, two] = await Promise.all([checkOut(), checkOut()]);
    const heard: string[] = [];
    one.on("notification", ({ payload }) => heard.push(`one ${payload}`));
    two.on("notification", ({ payload }) => heard.push(`two ${payload}`));

    await one.query('listen "Big News"');
    await two.query('listen "Big News"');
    await one.query(`notify "Big News", 'first'`);
    await one.query("unlisten *");
    await one.query(`notify "Big News", 'second'`);
    await db.query(`notify "Big News", 'third'`);

    await vi.waitFor(() => expect(heard).toEqual(["one first", "two first", "two second", "two third"]));
  });

  test("a connection that breaks inside a transaction leaves the backend clean", async () => {
    const streams: Duplex[] = [];
    const other = openDatabase({ connect: () => streams[streams.push(wire.connect()) - 1] as Duplex });
    const client = await other.pool.connect();
    client.on("error", () => {});
    await client.query("begin");
    await client.query({ name: "write", text: "insert into account values (1, 100)" });
    await client.query("listen news");

    streams[0]?.destroy();

    expect(
      await database.execute(sql`
        select (select count(*)::int from account) as rows,
               (select count(*)::int from pg_prepared_statements) as statements,
               (select count(*)::int from pg_listening_channels()) as channels`),
    ).toEqual([{ rows: 0, statements: 0, channels: 0 }]);
    client.release(true);
    await other.close();
  });

  test("50 clients that read and write back lose no update", async () => {
    await database.execute(sql`insert into account values (1, 0)`);
    const many = openDatabase({ connect: () => wire.connect(), connections: 50 });

    const deposits = Array.from({ length: 50 }, async () => {
      const client = await many.pool.connect();
      await client.query("begin");
      const { rows } = await client.query("select balance from account where id = 1");
      await sleep(1);
      await client.query("update account set balance = $1 where id = 1", [rows[0].balance + 1]);
      await client.query("commit");
      client.release();
    });
    await Promise.all(deposits);

    expect(await database.execute(sql`select balance from account`)).toEqual([{ balance: 50 }]);
    await many.close();
  });

  test("timers that a test fakes do not stop it", async () => {
    const client = await checkOut();
    vi.useFakeTimers();

    for (const n of [1, 2, 3, 4, 5]) {
      expect((await client.query("select $1::int as n", [n])).rows).toEqual([{ n }]);
    }
  });

  test("a wire that is closed ends its clients and takes no new ones", async () => {
    const client = await checkOut();
    const ended = new Promise((resolve) => client.once("error", resolve));

    wire.close();

    await expect(ended).resolves.toMatchObject({ message: "Connection terminated unexpectedly" });
    await expect(database.pool.query("select 1")).rejects.toThrow("this Postgres is closed");
  });
});

describe("a transaction that sits idle while others wait", () => {
  test("is rolled back, and its owner is told until it ends it", async () => {
    const idler = await checkOut();
    await idler.query("begin");
    await idler.query("insert into account values (1, 100)");

    const waiting = await database.execute(sql`select * from account`);

    expect(waiting).toEqual([]);
    const refused = {
      code: "25P03",
      message: expect.stringContaining(`idle for ${patience} ms while 1 other connection`),
    };
    await expect(idler.query("insert into account values (2, 100)")).rejects.toMatchObject(refused);
    await expect(idler.query("insert into account values ($1, 100)", [3])).rejects.toMatchObject(refused);
    await idler.query("rollback");
    expect((await idler.query("select * from account")).rows).toEqual([]);
  });

  test("cannot be committed", async () => {
    const idler = await checkOut();
    await idler.query("begin");
    await idler.query("insert into account values (1, 100)");
    await database.execute(sql`select 1`);

    await expect(idler.query("commit")).rejects.toMatchObject({ code: "25P03" });

    expect((await idler.query("select * from account")).rows).toEqual([]);
  });

  test("is left alone when nobody waits", async () => {
    await database.transaction(async (execute) => {
      await execute(sql`insert into account values (1, 100)`);
      await sleep(2 * patience);
    });

    expect(await database.execute(sql`select id from account`)).toEqual([{ id: 1 }]);
  });

  test("fails, in place of a wait for ever", async () => {
    const tangled = database.transaction(async (execute) => {
      await execute(sql`insert into account values (1, 100)`);
      await database.execute(sql`select 1`); // on a second connection, which waits for the first
      await execute(sql`insert into account values (2, 100)`);
    });

    await expect(tangled).rejects.toMatchObject({ code: "25P03" });
    expect(await database.execute(sql`select id from account`)).toEqual([]);
  });
});

describe("COPY FROM STDIN", () => {
  test.each(["copy account from stdin", "/* data */ COPY account FROM STDIN with (format csv)"])(
    "is refused: %s",
    async (copy) => {
      await expect(database.execute(raw(copy))).rejects.toMatchObject({
        code: "0A000",
        message: "COPY FROM STDIN is not supported by the Postgres in this process",
      });
      await expect(database.script(copy)).rejects.toMatchObject({ code: "0A000" });
      expect(await database.execute(sql`select 'stdin' as word`)).toEqual([{ word: "stdin" }]);
    },
  );

  test("fails the transaction it is in", async () => {
    const client = await checkOut();
    await client.query("begin");

    await expect(client.query("copy account from stdin")).rejects.toMatchObject({ code: "0A000" });

    await expect(client.query("insert into account values (1, 100)")).rejects.toMatchObject({ code: "25P02" });
    await client.query("rollback");
  });
});

describe("COPY with PROGRAM", () => {
  const refused = { code: "0A000", message: "COPY with PROGRAM is not supported by the Postgres in this process" };

  test.each([
    "copy account to program 'cat'",
    "copy account from program 'echo 1'",
    "/* data */ CoPy (select 1) -- all of it\n TO\tPROGRAM E'c\\x61t'",
    "do $$ begin execute 'copy account to pro' || 'gram ''cat'''; end $$",
  ])("is refused, and nothing hangs: %s", async (copy) => {
    await expect(database.execute(raw(copy))).rejects.toMatchObject(refused);
    await expect(database.script(`insert into account values (1, 100); ${copy}; select 1`)).rejects.toMatchObject(
      refused,
    );
    const client = await checkOut();
    await expect(client.query({ name: copy.slice(0, 20), text: copy })).rejects.toMatchObject(refused);
    await client.query("begin");
    await expect(client.query(copy)).rejects.toMatchObject(refused);
    await expect(client.query("select 1")).rejects.toMatchObject({ code: "25P02" });
    await client.query("rollback");

    expect(await database.execute(sql`select count(*)::int as rows from account`)).toEqual([{ rows: 0 }]);
  });

  test("is an error that a function may handle", async () => {
    await database.script(`
      create function pg_temp.say(program text) returns text language plpgsql as $$
      begin
        execute format('copy account to program %L', program);
        return 'went out';
      exception
        when others then return 'stayed';
      end $$`);

    expect(await database.execute(sql`select pg_temp.say('cat') as it`)).toEqual([{ it: "stayed" }]);
    await database.script("drop function pg_temp.say(text)");
  });

  test("leaves the one program that Postgres itself asks for", async () => {
    await database.execute(sql`select pg_import_system_collations('pg_catalog')`);
  });
});

describe("over TCP", () => {
  test("any client connects, and its broken connection harms nobody", async () => {
    const patient = new PgliteWire(db, { patience: 60_000 });
    const local = openDatabase({ connect: () => patient.connect() });
    const server = await listenTcp(patient, 0, "127.0.0.1");
    const remote = openDatabase({ connect: `postgres://anybody@127.0.0.1:${server.port}/anything` });

    const client = await remote.pool.connect();
    client.on("error", () => {});
    await client.query("begin");
    await client.query("insert into account values (1, 100)");
    const { rows } = await client.query("select length($1) as length", ["é".repeat(1_000_000)]); // comes in pieces
    await server.close();

    expect(rows).toEqual([{ length: 1_000_000 }]);
    expect(await local.execute(sql`select * from account`)).toEqual([]);
    client.release(true);
    await remote.close();
    await local.close();
    patient.close();
  });

  test.skipIf(!psql)("psql runs a script with a transaction and a table of results", async () => {
    const server = await listenTcp(wire, 0, "127.0.0.1");
    const script = "begin; insert into account values (1, 100); commit; select balance from account; \\dt";

    const { stdout } = await promisify(execFile)(
      psql as string,
      [
        `postgres://127.0.0.1:${server.port}/postgres`,
        "-XAt",
        ...script.split(/(?<=;) /).flatMap((line) => ["-c", line]),
      ],
      { timeout: 20_000 },
    );

    expect(stdout.split("\n")).toEqual(["BEGIN", "INSERT 0 1", "COMMIT", "100", "public|account|table|postgres", ""]);
    await server.close();
  });
});

/** A session of its own, for the length of the test. */
async function checkOut(): Promise<PoolClient> {
  const client = await database.pool.connect();
  clients.push(client);
  return client;
}

function release() {
  for (const client of clients.splice(0)) client.release(true);
}
