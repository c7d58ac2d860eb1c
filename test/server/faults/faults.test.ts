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

test.each(faultNames)("every committed change runs, and nothing else: %s", async (name) => {
  const { objections, written } = await tryFault({ server, fault: await loadFault(name), seed: 1, seconds: 0 });

  expect(objections).toEqual([]);
  expect(written).toBeGreaterThan(0);
});
