import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "pg";
import sql from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { expectAnswer, type TransactionId } from "../../runner/database/lost_answer.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";
import { openRelay } from "../support/relay.ts";

let server: Postgres;
let database: Database;
let other: Database;

beforeAll(async () => {
  server = await startPostgres({ major: 18 });
});
afterAll(() => server?.stop());

beforeEach(() => {
  database = openDatabase({ connect: server.url });
  other = openDatabase({ connect: server.url, connections: 1 });
});
afterEach(async () => {
  await Promise.all([database.close(), other.close()]);
});

test("every statement is answered, however often connections break, and it goes on", async () => {
  const end = Date.now() + 8000;
  const waiting = new Map<Promise<unknown>, number>();
  let answers = 0;
  const clients = Array.from({ length: 8 }, async (_, index) => {
    while (Date.now() < end) {
      const work =
        index % 2 === 0
          ? database.execute(sql`select ${index}::int`)
          : database.transaction(async (execute) => {
              await execute(sql`select ${index}::int`);
              await sleep(Math.random() * 3);
              await execute(sql`select ${index}::int`);
            });
      waiting.set(work, Date.now());
      await work.then(
        () => answers++,
        () => sleep(5),
      );
      waiting.delete(work);
    }
  });

  while (Date.now() < end) {
    await sleep(50 + Math.random() * 100);
    await terminateOthers();
  }
  await Promise.race([Promise.all(clients), sleep(15_000)]);

  expect([...waiting.values()]).toEqual([]);
  expect(answers).toBeGreaterThan(100);
  await sleep(200); // until it is known which connections are broken
  expect(await database.execute(sql`select 1 as one`)).toEqual([{ one: 1 }]);
});

test("a statement that may take so long and takes longer fails, and its connection is closed", async () => {
  const { execute, transaction } = database.within(300);
  await execute(sql`select 1`);
  const late = { code: "NOTIKA_NO_ANSWER", message: "the database did not answer within 300 ms" };

  await expect(execute(sql`select pg_sleep(60)`)).rejects.toMatchObject(late);
  await expect(transaction((execute) => execute(sql`select pg_sleep(60)`))).rejects.toMatchObject(late);

  await database.execute(sql`select 1`);
  await expect
    .poll(() =>
      other.execute(sql`select pid from pg_stat_activity where query like '%pg_sleep(60)' and state = 'idle'`),
    )
    .toEqual([]);
});

test("the wait for a free connection counts, too, and takes none away", async () => {
  const slow = Promise.all([1, 2, 3, 4].map(() => database.execute(sql`select pg_sleep(1)`)));

  await expect(database.within(200).execute(sql`select 1`)).rejects.toMatchObject({ code: "NOTIKA_NO_ANSWER" });

  await slow;
  expect(await database.execute(sql`select 2 as two`)).toEqual([{ two: 2 }]);
});

test("a transaction of which a statement failed is not committed, even if the error was caught", async () => {
  await database.script("create table note (text text)");

  const hiding = database.transaction(async (execute) => {
    await execute(sql`insert into note values ('kept?')`);
    await execute(sql`select 1 / 0`).catch(() => {});
    return "fine";
  });

  await expect(hiding).rejects.toMatchObject({ code: "22012" });
  expect(await database.execute(sql`select * from note`)).toEqual([]);
});

test("an undefined value is refused, since NULL may not be meant", async () => {
  const given: { id?: string } = {};

  await expect(database.execute(sql`select ${1}::int, ${given.id}::text`)).rejects.toMatchObject({
    code: "NOTIKA_UNDEFINED",
    message: "the value $2 of a statement is undefined: select $1::int, $2::text",
    hint: "Use null for NULL.",
  });
});

test("an answer that gets lost is missed and its transaction undone; a long statement is left alone", async () => {
  const relay = await openRelay(server.port);
  const client = new Client({ connectionString: relay.through(server.url) });
  await client.connect();
  await client.query("begin");
  const { rows } = await client.query<TransactionId>(
    "select pg_backend_pid() as pid, extract(epoch from now())::text as began",
  );
  const [transaction] = rows;
  const pause = { first: 200, last: 200 };
  const expected = (answer: Promise<unknown>) => expectAnswer(answer, { client, transaction, others: database, pause });

  await expected(client.query("select pg_sleep(1.5)"));
  relay.forget();
  await expect(expected(client.query("select 1"))).rejects.toThrow("Connection terminated");

  const isThere = sql`select count(*)::int as count from pg_stat_activity where pid = ${transaction?.pid}::int`;
  await expect.poll(() => other.execute(isThere)).toEqual([{ count: 0 }]);
  relay.close();
});

test("a listener hears again after its connection was lost", async () => {
  const heard: string[] = [];
  const changes: (string | undefined)[] = [];
  const listener = database.listen({
    channels: { news: (payload) => heard.push(payload) },
    onChange: (hears, reason) => changes.push(hears ? "hears" : reason),
  });
  await listener.known;

  await terminateOthers();

  await expect.poll(() => changes).toEqual(["hears", "terminating connection due to administrator command", "hears"]);
  await other.execute(sql`select pg_notify('news', 'extra')`);
  await expect.poll(() => heard).toEqual(["extra"]);
});

function terminateOthers() {
  return other.execute(sql`
    select pg_terminate_backend(pid)
      from pg_stat_activity
     where pid <> pg_backend_pid() and backend_type = 'client backend'`);
}
