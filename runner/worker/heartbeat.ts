import type { Log } from "../log.ts";

/** Calls `give` when it is asked to, and every ten seconds from then on; what is under way when it stops may fail. */
export function openHeartbeat(give: () => Promise<void>, log: Log) {
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  async function beat() {
    clearTimeout(timer);
    if (stopped) return;
    await give().catch((error: Error) => {
      if (!stopped) log.warn("no sign of life could be given", { error: error.message });
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

export function atMostEvery(ms: number, work: () => Promise<void>) {
  let last = Number.NEGATIVE_INFINITY;
  return async () => {
    if (Date.now() - last < ms) return;
    last = Date.now();
    await work();
  };
}
