import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunnerProcess } from "../../../support/runner.ts";
import type { Stage } from "./stage.ts";

// What becomes of each run is said once.
const linesOf = (runner: RunnerProcess) => runner.said().filter(({ run }) => run === undefined);

const limit = { cpu: 0.25, lines: 5 };

/**
 * Waits while the database is away, and objects to a runner that meanwhile is busy, or tells it again and again, or not
 * at all; what hangs is not known to be away before some seconds have passed.
 */
export async function away(
  { runners, object }: Stage,
  milliseconds: number,
  { isKnown = true }: { isKnown?: boolean } = {},
): Promise<void> {
  await sleep(500); // what it was at ends with errors
  const before = runners.map((runner) => ({ cpu: cpuSeconds(runner.child.pid), lines: linesOf(runner).length }));
  await sleep(Math.max(0, milliseconds - 500));
  const seconds = Math.max(0, milliseconds - 500) / 1000;
  if (seconds < 0.5) return;
  for (const [index, runner] of runners.entries()) {
    const { cpu = 0, lines = 0 } = before[index] ?? {};
    const used = (cpuSeconds(runner.child.pid) - cpu) / seconds;
    if (used > limit.cpu) {
      object(`a runner used ${Math.round(used * 100)} % of a processor while the database was away`);
    }
    const told = linesOf(runner).slice(lines);
    if (told.length > limit.lines * seconds) {
      const last = told.slice(-3).map(({ message, error = "" }) => `${message} ${error}`);
      object(`a runner wrote ${told.length} lines in ${seconds} s while the database was away: ${last.join("; ")}`);
    }
    if (isKnown && !linesOf(runner).some(({ level }) => level === "warn" || level === "error")) {
      object("a runner did not say that the database is away");
    }
  }
}

/** The time that a process has spent on a processor; 0 where there is no /proc. */
function cpuSeconds(pid: number | undefined): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return 0;
  }
}
