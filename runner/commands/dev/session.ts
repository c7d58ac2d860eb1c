import path from "node:path";
import type { Database } from "../../database/database.ts";
import type { Log } from "../../log.ts";
import { startRunner } from "../../worker/runner.ts";
import { loadTasks, type Tasks } from "../../workflow/load.ts";
import { onCodeChange } from "./code_changes.ts";
import { explained, runLine } from "./console.ts";
import { keepPublished } from "./publishing.ts";

/** Publishes and runs the tasks of a folder, and starts over when they change; returns the function that ends this. */
export async function startSession(database: Database, folder: string, log: Log): Promise<() => Promise<void>> {
  let tasks = await loadTasks(folder);
  let stop = await start(tasks);

  async function start(tasks: Tasks) {
    if (Object.keys(tasks).length === 0) {
      log.warn(
        `there is no task in ${path.relative("", folder)} yet: each file there exports a function, and its name is that of the workflow`,
      );
      return async () => {};
    }
    const stopPublishing = await keepPublished(database, tasks, log);
    const runner = await startRunner({ database, tasks, concurrency: 4, log, observe: runLine }).catch(
      async (error) => {
        await stopPublishing();
        throw error;
      },
    );
    return async () => {
      await stopPublishing();
      await runner.stop(2000);
    };
  }

  async function reload() {
    const before = tasks;
    try {
      tasks = await loadTasks(folder);
    } catch (error) {
      log.error(`${explained(error as Error)}\nThe tasks loaded before stay active.`);
      return;
    }
    log.info(`tasks reloaded: ${Object.keys(tasks).join(", ")}`);
    for (const name of Object.keys(before).filter((name) => !(name in tasks))) {
      log.warn(
        `${name} no longer has a task, so its runs wait; to end the workflow: select notika.unpublish('${name}')`,
      );
    }
    await stop();
    stop = async () => {};
    stop = await start(tasks);
  }

  let reloading = Promise.resolve();
  const endWatch = onCodeChange(folder, () => {
    reloading = reloading.then(reload).catch((error: Error) => log.error(error.message));
  });
  return async () => {
    endWatch();
    await reloading;
    await stop();
  };
}
