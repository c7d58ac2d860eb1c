import sql, { raw } from "sql-template-tag";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { install } from "../../runner/install/install.ts";
import { startPostgres } from "../support/postgres.ts";

let server: Awaited<ReturnType<typeof startPostgres>>;
let database: Database;

beforeAll(async () => {
  server = await startPostgres({ major: 15 });
  database = openDatabase({ connect: server.url, connections: 8 });
  await install(database);
  await database.script("create table public.items (id bigint generated always as identity primary key, name text)");
});
afterAll(async () => {
  await database?.close();
  await server?.stop();
});

test("while a workflow is published anew, again and again, no write fails and none is missed", async () => {
  const publish = (more: string) =>
    database.execute(raw(`select notika.publish('watch_items', 'public.items'${more})`));
  await publish("");
  let writing = true;
  const writers = Array.from({ length: 4 }, async () => {
    let written = 0;
    while (writing) {
      await database.execute(sql`insert into public.items (name) values ('a'), ('b')`);
      written += 2;
    }
    return written;
  });

  for (let round = 0; round < 10; round++) {
    await publish(", columns => '{id}'");
    await publish(", columns => '{id,name}', operations => '{insert,update,delete}'");
    await publish(", condition => 'new.id > 0'");
  }
  writing = false;
  const written = (await Promise.all(writers)).reduce((sum, rows) => sum + rows, 0);

  expect(written).toBeGreaterThan(100);
  expect(
    await database.execute(sql`
      select count(*)::int as events, count(distinct new ->> 'id')::int as items
        from notika.event_log where operation = 'insert'`),
  ).toEqual([{ events: written, items: written }]);
});
