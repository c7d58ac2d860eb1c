import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Stage } from "./stage.ts";

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
  const before = runners.map(({ child, said }) => ({ cpu: cpuSeconds(child.pid), lines: said().length }));
  await sleep(Math.max(0, milliseconds - 500));
  const seconds = Math.max(0, milliseconds - 500) / 1000;
  if (seconds < 0.5) return;
  for (const [index, { child, said }] of runners.entries()) {
    const { cpu = 0, lines = 0 } = before[index] ?? {};
    const hasTold = said().some(({ message }) => message === "cannot dispatch, trying again");
    if (isKnown && !hasTold) object("a runner did not say that it cannot dispatch");
    const used = (cpuSeconds(child.pid) - cpu) / seconds;
    const told = (said().length - lines) / seconds;
    if (used > limit.cpu)
      object(`a runner used ${Math.round(used * 100)} % of a processor while the database was away`);
    if (told > limit.lines) object(`a runner wrote ${Math.round(told)} lines a second while the database was away`);
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
