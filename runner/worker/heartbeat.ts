import sql from "sql-template-tag";
import type { Statements } from "../database/statements.ts";
import type { Log } from "../log.ts";

/** Calls `send` on `beat`, and every ten seconds from then on; an error of a call in progress at `stop` is not logged. */
export function openHeartbeat(send: () => Promise<void>, log: Log) {
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  async function beat() {
    clearTimeout(timer);
    if (stopped) return;
    await send().catch((error: Error) => {
      if (!stopped) log.warn("heartbeat failed", { error: error.message });
    });
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(beat, 10_000);
  }
  return {
    beat,
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}

interface Heartbeat {
  /** The id by which its jobs are locked. */
  id: string;
  host: string;
  tasks: string[];
  /** For how many milliseconds its event loop has been blocked. */
  blockedFor?: number;
}

/** Sends a runner's heartbeat; false: its event loop has been blocked for too long to count as alive. */
export async function sendHeartbeat({ execute }: Statements, { id, host, tasks, blockedFor }: Heartbeat) {
  const [row] = await execute<{ counts: boolean }>(sql`
    select notika._beat(${id}, ${host}, ${process.pid}::int,
             array(select json_array_elements_text(${JSON.stringify(tasks)}::text::json)),
             ${blockedFor ?? null}::float8 * interval '1 millisecond') as counts`);
  return row?.counts === true;
}

export function atMostEvery(ms: number, work: () => Promise<void>) {
  let last = Number.NEGATIVE_INFINITY;
  return async () => {
    if (Date.now() - last < ms) return;
    last = Date.now();
    await work();
  };
}
