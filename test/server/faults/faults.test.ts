import { setTimeout as sleep } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Postgres } from "../../support/postgres.ts";
import { major } from "../cluster.ts";
import { faultNames, loadFault } from "./harness/fault.ts";
import { startServer } from "./harness/server.ts";
import { tryFault } from "./harness/trial.ts";

let server: Postgres;

beforeAll(async () => {
  server = await startServer(major);
});
afterAll(() => server?.stop());

test.each(faultNames)(
  "every committed change runs, and nothing else: %s",
  async (name) => {
    const { objections, written } = await tryFault({ server, fault: await loadFault(name), seed: 1, seconds: 0 });

    expect(objections).toEqual([]);
    expect(written).toBeGreaterThan(0);
  },
  240_000,
);

test("a job that gets lost is found: so does this test see it", async () => {
  const { objections } = await tryFault({
    server,
    seed: 1,
    seconds: 0,
    fault: {
      title: "a job is deleted",
      async strike({ database, runners, end, startRunner }) {
        for (const runner of [...runners]) await end(runner, "SIGTERM");
        await sleep(500);
        await database.execute(raw("select notika.dispatch()"));
        await database.execute(
          raw("select notika_worker.complete_jobs(array[min(id)]) from notika_worker._private_jobs"),
        );
        await startRunner();
      },
    },
  });

  expect(objections).toEqual([expect.stringMatching(/^1 changes were committed and have not run: /)]);
}, 240_000);
