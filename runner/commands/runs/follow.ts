import { setTimeout } from "node:timers/promises";
import type { Database } from "../../database/database.ts";
import { printable, printableJson } from "../../printable.ts";
import { stopSignal } from "../support/stop_signal.ts";
import { type Filter, type Found, findRuns } from "./find.ts";

const pause = 1000; // milliseconds
// The time of an outcome is set before it is committed, so each query overlaps with the one before.
const overlap = "30 seconds";

/** Prints the latest runs that have ended, and then each run that ends, until it is stopped; returns the exit code. */
export async function followRuns(database: Database, filter: Filter, json: boolean): Promise<number> {
  let stopped = false;
  const stop = stopSignal().then(() => {
    stopped = true;
  });
  const recent: Filter = { ...filter, since: overlap, limit: 10_000 };
  let seen = new Set((await findRuns(database, recent, true)).map(name));
  show(await findRuns(database, filter, true));

  while (!stopped) {
    await Promise.race([setTimeout(pause), stop]);
    const found = await findRuns(database, recent, true);
    show(found.filter((run) => !seen.has(name(run))));
    seen = new Set(found.map(name));
  }
  return 0;

  function show(found: Found[]) {
    for (const run of found.reverse())
      process.stdout.write(json ? `${printableJson(run)}\n` : `${printable(line(run))}\n`);
  }
}

/** A name for one end of a run: it may end again after a retry. */
function name({ run, finished_at }: Found): string {
  return `${run} ${finished_at?.getTime()}`;
}

function line({ run, workflow, state, attempts, finished_at, error }: Found): string {
  const time = finished_at?.toISOString().replace("T", " ").slice(0, 19);
  const tried = attempts === 1 ? "" : ` after ${attempts} attempts`;
  return `${time}  ${run}  ${workflow}  ${state}${tried}${error ? `: ${error.replace(/\s+/g, " ")}` : ""}`;
}
