import { Client } from "pg";
import sql from "sql-template-tag";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { detectPooler } from "../../runner/database/pooler.ts";
import { type PgBouncer, pgbouncer, startPgBouncer } from "../support/pgbouncer.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";

if (!pgbouncer) test("a pooler is tried", ({ skip }) => skip("PgBouncer is not installed: apt-get install pgbouncer"));

describe.skipIf(!pgbouncer)("what stands before a server", () => {
  let server: Postgres;
  const poolers: PgBouncer[] = [];
  beforeAll(async () => {
    server = await startPostgres({ major: 18 });
  });
  afterAll(async () => {
    for (const pooler of poolers) await pooler.stop();
    await server?.stop();
  });

  test("is nothing", async () => {
    expect(await poolerMode(server.url)).toBe("none");
    expect(await hears(server.url)).toBe(true);
  });

  test.each([
    ["transaction", 3, false],
    ["transaction", 1, false],
    ["session", 3, true],
    ["session", 1, undefined], // its one connection is taken by whoever listens, so nobody can notify
    ["statement", 3, false],
  ] as const)("is a pooler in %s mode with %i connections", async (mode, connections, canHear) => {
    const url = await behind(mode, connections);

    expect(await poolerMode(url)).toBe(mode);
    if (canHear !== undefined) expect(await hears(url)).toBe(canHear);
  });

  test("is recognized while many others use it, too", async () => {
    const url = await behind("transaction", 3);
    const others = openDatabase({ connect: url, connections: 12 });
    let isBusy = true;
    const busy = Array.from({ length: 12 }, async () => {
      while (isBusy) await others.execute(sql`select pg_sleep(0.002)`);
    });

    const found = new Set<string>();
    for (let times = 0; times < 30; times++) found.add(await poolerMode(url));
    isBusy = false;
    await Promise.all(busy);
    await others.close();

    expect([...found]).toEqual(["transaction"]);
  });

  async function behind(mode: "transaction" | "session" | "statement", connections: number): Promise<string> {
    const pooler = await startPgBouncer({ server: server.port, mode, connections });
    poolers.push(pooler);
    return pooler.through(server.url);
  }
});

async function poolerMode(url: string) {
  const open = async () => {
    const client = new Client({ connectionString: url });
    client.on("error", () => {});
    await client.connect();
    return client;
  };
  const client = await open();
  return detectPooler(client, open).finally(() => client.end());
}

async function hears(url: string): Promise<boolean> {
  const database: Database = openDatabase({ connect: url });
  const heard: string[] = [];
  const listener = database.listen({ channels: { news: (payload) => heard.push(payload) } });
  await listener.known;
  const { hears } = listener;
  if (hears) {
    await database.execute(sql`select pg_notify('news', 'extra')`);
    await expect.poll(() => heard).toEqual(["extra"]);
  }
  await database.close();
  return hears;
}
