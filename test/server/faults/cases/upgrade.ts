import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { install } from "../../../../runner/install/install.ts";
import { committedMigrations } from "../../../../runner/install/migrations.ts";
import { applyMigrations, installRelease } from "../../../support/release.ts";
import type { Fault } from "../harness/fault.ts";
import { prepareTables, type Stage } from "../harness/stage.ts";

export default {
  title: "upgrades from the first release to this one, with events in the ring and jobs that wait",
  runners: 0,
  once: true,
  async prepare(stage) {
    const [first] = await committedMigrations();
    if (first) await installRelease(stage.database, [first]);
    else await install(stage.database); // before the first release there is only this one
    await prepareTables(stage);
  },
  async strike(stage) {
    const releases = await committedMigrations();
    for (const release of releases.slice(1)) {
      await leaveWork(stage);
      await applyMigrations(stage.database, [release]);
    }
    await leaveWork(stage);
    await install(stage.database);
    await leaveWork(stage);
    await stage.startRunner();
  },
  object: ({ writers }) => [...new Set(writers.failures)].map((failure) => `a writer was told: ${failure}`),
} satisfies Fault;

/** Events in the ring, and jobs that wait. */
async function leaveWork({ database, isShort }: Stage) {
  await sleep(isShort ? 500 : 5000);
  await database.execute(sql`select notika.dispatch()`);
  await sleep(100);
}
