import type { Database } from "../../database/database.ts";
import { publications, publish } from "../../install/publish.ts";
import type { Log } from "../../log.ts";
import type { Tasks } from "../../workflow/load.ts";
import { explained } from "./console.ts";

/** Publishes the workflows of tasks; retries every second those that fail, for example because a table does not exist yet. */
export async function keepPublished(database: Database, tasks: Tasks, log: Log): Promise<() => Promise<void>> {
  const said = new Map<string, string>();
  let waiting = publications(tasks);
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  async function pass() {
    const failed: typeof waiting = [];
    for (const publication of waiting) {
      const { name, on } = publication;
      if (stopped) return;
      try {
        const outcome = await publish(database.execute, publication);
        log.info(`${name} is ${outcome === "unchanged" ? "published" : outcome} ${on ? `on ${on.table}` : "by time"}`);
      } catch (error) {
        failed.push(publication);
        const why = explained(error as Error);
        if (said.get(name) !== why) log.warn(`${name} cannot be published yet: ${why}`);
        said.set(name, why);
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
