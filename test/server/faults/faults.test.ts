import { setTimeout as sleep } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isThorough } from "../../support/database.ts";
import type { Postgres } from "../../support/postgres.ts";
import { major } from "../cluster.ts";
import { type Fault, faultNames, loadFault } from "./harness/fault.ts";
import { startServer } from "./harness/server.ts";
import { tryFault } from "./harness/trial.ts";

let server: Postgres;

beforeAll(async () => {
  server = await startServer(major);
});
afterAll(() => server?.stop());

// Left to `npm run test:all`: what differs from another only in how many runners there are, or in how the network or a runner fails.
const variants = ["network_hangs", "network_forgets", "runner_out_of_memory", "three_runners", "two_of_three_killed"];
const names = faultNames.filter((name) => isThorough || !variants.includes(name));
const faults = await Promise.all(names.map(async (name) => ({ name, fault: await loadFault(name) })));
const title = "every committed change runs, and nothing else: $name";

// Most of the time is spent waiting.
test.concurrent.each(faults.filter(({ fault }) => !fault.ofServer))(title, { timeout: 240_000 }, proven);
test.each(faults.filter(({ fault }) => fault.ofServer))(title, { timeout: 240_000 }, proven);

async function proven({ fault }: { fault: Fault }) {
  const { objections, written } = await tryFault({ server, fault, seed: 1, seconds: 0 });

  expect(objections).toEqual([]);
  expect(written).toBeGreaterThan(0);
}

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
