import { readFileSync } from "node:fs";
import { raw } from "sql-template-tag";
import type { Database } from "../../runner/database/database.ts";

/** The microseconds that the server process of a database with one connection has spent on a CPU. */
export type ProcessClock = () => number;

/** A clock that others on a busy machine do not stretch.  Linux only, and a server on this machine. */
export async function openProcessClock(database: Database): Promise<ProcessClock> {
  const [row] = await database.execute<{ pid: number }>(raw("select pg_backend_pid() as pid"));
  const file = `/proc/${row?.pid}/schedstat`;
  const clock = () => Number(readFileSync(file, "utf8").split(" ")[0]) / 1000;
  try {
    clock();
  } catch (cause) {
    throw new Error("--cpu needs Linux, and a server on this machine", { cause });
  }
  return clock;
}
