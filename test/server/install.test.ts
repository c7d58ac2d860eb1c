import sql from "sql-template-tag";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openDatabase } from "../../runner/database/database.ts";
import { installScript } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { committedMigrations } from "../../runner/install/migrations.ts";
import { isThorough } from "../support/database.ts";
import { startPostgres } from "../support/postgres.ts";

let server: Awaited<ReturnType<typeof startPostgres>>;
beforeAll(async () => {
  server = await startPostgres({ major: 15 });
});
afterAll(() => server?.stop());

const many = isThorough ? 20 : 8;

test("many installs at once all succeed and have the effect of one", async () => {
  const url = await server.createDatabase();
  const clients = Array.from({ length: many }, () => openDatabase({ connect: url, connections: 1 }));

  const reports = await Promise.all(clients.map((client) => install(client)));

  const names = (await committedMigrations()).map(({ name }) => name);
  expect(reports.flatMap(({ applied }) => applied)).toEqual(names);
  expect(
    await clients[0]?.execute(sql`
      select count(*)::int as rows, count(distinct ts)::int as transactions from notika_worker.migrations`),
  ).toEqual([{ rows: 19, transactions: 1 }]);
  await Promise.all(clients.map((client) => client.close()));
});

test("installs and install scripts at once get along", async () => {
  const url = await server.createDatabase();
  const clients = Array.from({ length: many / 2 }, () => openDatabase({ connect: url, connections: 1 }));
  const script = await installScript();

  await Promise.all(clients.map((client, i) => (i % 2 ? install(client) : client.pool.query(script))));

  expect((await install(clients[0] as (typeof clients)[number])).applied).toEqual([]);
  await Promise.all(clients.map((client) => client.close()));
});
