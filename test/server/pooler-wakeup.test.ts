import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { notikaCommand, start } from "../runner/process.ts";
import { pgbouncer } from "../support/pgbouncer.ts";
import { openPooled, type Pooled, type PooledServer, startPooledServer } from "./pooled.ts";

if (!pgbouncer) test("a pooler is tried", ({ skip }) => skip("PgBouncer is not installed: apt-get install pgbouncer"));

describe.skipIf(!pgbouncer)("behind PgBouncer in transaction mode", () => {
  let servers: PooledServer;
  let db: Pooled;
  beforeAll(async () => {
    servers = await startPooledServer(18);
  });
  afterAll(() => servers?.stop());
  beforeEach(async () => {
    db = await openPooled(servers);
    await db.publishWork();
  });
  afterEach(() => db.close(), 30_000);

  test("a runner that may connect directly is notified there", async () => {
    const runner = await db.run("--direct-url", db.url);
    const latencies: number[] = [];

    for (let id = 1; id <= 3; id++) {
      while (!(await db.isAsleep())) await sleep(20);
      await sleep(1500 + 300 * id); // by now it would look once a second
      latencies.push(await latencyOfOne(id));
    }

    expect(median(latencies)).toBeLessThan(250);
    expect(runner.said().map(({ message }) => message)).toContain("new events are notified");
    expect(await db.leaks()).toEqual([]);
  });

  test("a runner that polls finds the next event of many within a fraction of a second, and asks for no NOTIFY", async () => {
    await db.run();
    const latencies: number[] = [];

    for (let id = 1; id <= 20; id++) {
      await sleep(15 * id);
      latencies.push(await latencyOfOne(id));
      expect(await db.isAsleep()).toBe(false);
    }

    expect(median(latencies)).toBeLessThan(250);
  });

  test("a direct address that is another database is not relied on", async () => {
    const runner = await db.run("--direct-url", await servers.server.createDatabase());

    await runner.says("new events are found by polling");

    await latencyOfOne(1);
    expect(await db.isAsleep()).toBe(false);
  });

  test("install takes the direct address, unless another database is named", async () => {
    const [one, other] = [await servers.server.createDatabase(), await servers.server.createDatabase()];
    const environment = { DATABASE_URL: "postgres://127.0.0.1:1/nobody", NOTIKA_DIRECT_URL: one };
    const install = (...args: string[]) =>
      start([...notikaCommand, "install", ...args], process.cwd(), environment).ended;

    expect(await install()).toMatchObject({ code: 0, stdout: expect.stringMatching(/^cursor +created/m) });
    expect(await install("--url", other)).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^cursor +created/m),
    });
    expect(await install()).toMatchObject({ code: 0, stdout: expect.stringMatching(/^cursor +ok/m) });
  });

  async function latencyOfOne(id: number): Promise<number> {
    await db.add("polite");
    await db.until("done", id);
    return db.latency();
  }
});

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number;
}
