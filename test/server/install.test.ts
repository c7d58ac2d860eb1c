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

  const outcomes = await Promise.allSettled(
    clients.map((client, i) => (i % 2 ? install(client) : client.pool.query(script))),
  );

  // A script is for a database without Notika: one that comes too late is refused, and says so.
  for (const [i, outcome] of outcomes.entries()) {
    if (outcome.status === "fulfilled") continue;
    expect({ i, reason: outcome.reason }).toMatchObject({
      i: expect.toSatisfy((n) => n % 2 === 0),
      reason: { code: "55000" },
    });
  }
  expect((await install(clients[0] as (typeof clients)[number])).applied).toEqual([]);
  await Promise.all(clients.map((client) => client.close()));
});
