import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { pgbouncer } from "../support/pgbouncer.ts";
import { type RunnerProcess, spawnRunner } from "../support/runner.ts";
import { openPooled, type Pooled, type PooledServer, startPooledServer } from "./pooled.ts";

describe.skipIf(!pgbouncer)("behind a pooler that has lost its server", () => {
  let servers: PooledServer;
  let db: Pooled;
  const runners: RunnerProcess[] = [];
  beforeAll(async () => {
    servers = await startPooledServer(18);
  });
  afterAll(() => servers?.stop());
  beforeEach(async () => {
    db = await openPooled(servers);
    await db.publishWork();
  });
  afterEach(async () => {
    await Promise.all(runners.map((runner) => runner.end("SIGKILL")));
    await db.close();
  }, 30_000);

  test("a runner that is started waits, and can be stopped; one that runs says what the matter is, and goes on", async () => {
    const old = run();
    await old.says("running");
    await db.until("done", 0);
    await servers.server.kill("SIGKILL");
    await sleep(1500); // the pooler notices
    const [fresh, impatient] = [run(), run()];
    await Promise.all([fresh.says("waiting for the database"), impatient.says("waiting for the database")]);
    await old.says("cannot dispatch, retrying");
    await old.says("graphile-worker cannot start, retrying");
    await sleep(1000); // and says so once

    expect(await impatient.end("SIGTERM")).toBe(0);
    await servers.server.restart();
    await fresh.says("running");
    await old.says("the database can be reached again");
    await db.add("polite", 20);
    await db.until("done", 20);

    const said = [old, fresh].flatMap((runner) => runner.said());
    expect(said.filter(({ error }) => error?.includes("Cannot read properties"))).toEqual([]);
    expect(old.said().filter(({ message }) => message.startsWith("graphile-worker cannot start"))).toHaveLength(1);
  });

  function run() {
    const runner = spawnRunner(db.pooledUrl, path.join(import.meta.dirname, "tasks"));
    runners.push(runner);
    return runner;
  }
});
