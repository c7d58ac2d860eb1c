import { once } from "node:events";
import { createConnection } from "node:net";
import sql, { type Sql } from "sql-template-tag";
import { describe, expect, test } from "vitest";
import { openDatabase } from "../../runner/database/database.ts";
import { startPostgres } from "./postgres.ts";

describe.each([15, 18] as const)("PostgreSQL %i", (major) => {
  test("starts with its settings, and keeps its data through a restart and a crash", async () => {
    const server = await startPostgres({ major, settings: { wal_level: "logical" } });
    const url = await server.createDatabase("my_data");
    await ask(url, sql`create table note as select 'first' as text`);

    await server.restart();
    await ask(url, sql`insert into note values ('second')`);
    await ask(url, sql`checkpoint`);
    await server.kill("SIGKILL");
    await server.restart();

    expect(await ask(url, sql`select text from note`)).toEqual([{ text: "first" }, { text: "second" }]);
    expect(
      await ask(
        url,
        sql`
        select current_setting('server_version_num')::int / 10000 as major,
               current_setting('wal_level') as wal_level,
               current_database() as database`,
      ),
    ).toEqual([{ major, wal_level: "logical", database: "my_data" }]);
    await server.stop();
  });

  test("copies a template", async () => {
    const server = await startPostgres({ major });
    await ask(await server.createDatabase("model"), sql`create table note as select 'hello' as text`);

    const copies = [await server.createDatabase(undefined, "model"), await server.createDatabase(undefined, "model")];

    for (const url of copies) expect(await ask(url, sql`select text from note`)).toEqual([{ text: "hello" }]);
    await server.stop();
  });

  test("frees its port when it stops", async () => {
    const server = await startPostgres({ major });

    await server.stop();

    const [error] = await once(createConnection(server.port, "127.0.0.1"), "error");
    expect(error).toMatchObject({ code: "ECONNREFUSED" });
  });
});

async function ask(url: string, statement: Sql) {
  const database = openDatabase({ connect: url, connections: 1 });
  return database.execute(statement).finally(database.close);
}
