import type { Database } from "../../database.ts";
import type { Log } from "../../log.ts";
import { publish } from "../../publish.ts";
import type { Tasks } from "../../tasks.ts";

/** Publishes what tasks declare; what cannot be published yet, say for want of its table, is tried again until it can. */
export async function keepPublished(database: Database, tasks: Tasks, log: Log): Promise<() => Promise<void>> {
  const said = new Map<string, string>();
  let waiting = Object.entries(tasks).flatMap(([name, { on }]) => (on ? [{ name, on }] : []));
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  async function pass() {
    const failed: typeof waiting = [];
    for (const workflow of waiting) {
      const { name, on } = workflow;
      if (stopped) return;
      try {
        const outcome = await publish(database.execute, name, on);
        log.info(`${name} is ${outcome === "unchanged" ? "published" : outcome} on ${on.table}`);
      } catch (error) {
        failed.push(workflow);
        const { message } = error as Error;
        if (said.get(name) !== message) log.warn(`${name} cannot be published yet: ${message}`);
        said.set(name, message);
      }
    }
    waiting = failed;
    if (failed.length > 0 && !stopped) timer = setTimeout(next, 1000);
  }

  let running = pass();
  function next() {
    running = pass();
  }
  await running;
  return async () => {
    stopped = true;
    clearTimeout(timer);
    await running;
  };
}
