import { readFileSync } from "node:fs";

/** The microseconds that all CPUs of this machine have worked since it started; NaN where that is not Linux. */
export function readMachineClock(): number {
  try {
    const [all = ""] = readFileSync("/proc/stat", "utf8").split("\n");
    const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = all.split(/ +/).map(Number);
    return (user + nice + system + irq + softirq) * tick;
  } catch {
    return Number.NaN;
  }
}

const tick = 10_000; // what /proc counts in, on every platform
