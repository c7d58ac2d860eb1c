import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { readMachineClock } from "./machine_clock.ts";
import { pgbenchProgram } from "./programs.ts";

/** Lets each of so many clients, with a connection of its own, run a script so many times. */
export type Pgbench = (url: string, script: string, clients: number, times: number) => Promise<Pace>;

export interface Pace {
  /** The transactions a second of all clients. */
  tps: number;
  /** The microseconds that this machine worked for a transaction, connecting included; NaN where it does not say. */
  cpu: number;
}

export function findPgbench(bin?: string): Pgbench {
  const program = pgbenchProgram(bin);
  return async (url, script, clients, times) => {
    const folder = await mkdtemp(path.join(tmpdir(), "notika-pgbench-"));
    try {
      const file = path.join(folder, "script.sql");
      await writeFile(file, script);
      const before = readMachineClock();
      const { stdout } = await promisify(execFile)(program, [
        "--no-vacuum",
        "--protocol=prepared",
        `--client=${clients}`,
        `--jobs=${Math.min(clients, 2)}`,
        `--transactions=${times}`,
        `--file=${file}`,
        url,
      ]);
      const cpu = (readMachineClock() - before) / (clients * times);
      const tps = /^tps = ([\d.]+)/m.exec(stdout)?.[1];
      if (!tps || /number of failed transactions: [1-9]/.test(stdout)) throw new Error(`pgbench said: ${stdout}`);
      return { tps: Number(tps), cpu };
    } finally {
      await rm(folder, { recursive: true });
    }
  };
}
