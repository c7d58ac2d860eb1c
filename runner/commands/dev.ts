import { existsSync, watch } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { installVersion } from "../bundle.ts";
import type { Database } from "../database.ts";
import { NotikaError, UsageError } from "../errors.ts";
import { install } from "../install.ts";
import { type Log, textLog } from "../log.ts";
import { openEmbedded } from "../pglite/embedded.ts";
import { listenTcp } from "../pglite/server.ts";
import { publish } from "../publish.ts";
import { startRunner } from "../runner.ts";
import { loadTasks, type Tasks } from "../tasks.ts";
import { type Command, text } from "./context.ts";
import { seedExample, writeExample } from "./example.ts";
import { runLine } from "./run_line.ts";
import { stopSignal } from "./stop_signal.ts";

export const command: Command = {
  options: {
    example: { type: "boolean", default: false },
    port: { type: "string", default: "54320" },
    data: { type: "string", default: ".notika" },
  },
  async run(context) {
    const folder = path.resolve(context.values.tasks);
    const data = path.resolve(text(context, "data") ?? "");
    const port = Number(text(context, "port"));
    if (!Number.isInteger(port) || port < 0 || port > 65535) throw new UsageError("--port needs a port");
    const example = context.values.example === true;
    if (example) await writeExample(folder);
    else if (!existsSync(folder)) {
      throw new NotikaError("NOTIKA_TASKS", `there is no folder ${context.values.tasks}`, {
        hint: "To start from an example, with a schema, two tasks and some rows: notika dev --example",
      });
    }

    const stop = stopSignal();
    await mkdir(data, { recursive: true });
    const release = await claim(path.join(data, "dev.pid"));
    try {
      const embedded = await openEmbedded({
        prepare: install,
        version: await installVersion(),
        dataDir: path.join(data, "data"),
      });
      const server = await listenTcp(embedded.wire, port, "127.0.0.1").catch((error: NodeJS.ErrnoException) => {
        if (error.code === "EADDRINUSE") return listenTcp(embedded.wire, 0, "127.0.0.1");
        throw error;
      });
      textLog.info(`Postgres is at postgres://postgres@127.0.0.1:${server.port}/postgres`);
      try {
        await install(embedded.database);
        if (example) await seedExample(embedded.database, folder, "schema.sql");
        const session = await startSession(embedded.database, folder, textLog);
        if (example) await seedExample(embedded.database, folder, "seed.sql");
        await stop;
        await session.stop();
      } finally {
        await server.close();
        await embedded.close();
      }
    } finally {
      await release();
    }
    return 0;
  },
};

/** Two processes on one data folder would ruin it. */
async function claim(file: string) {
  const pid = Number(await readFile(file, "utf8").catch(() => "0"));
  if (pid && pid !== process.pid && isAlive(pid)) {
    throw new NotikaError("NOTIKA_DEV_RUNNING", `notika dev runs here already, as process ${pid}`, {
      hint: "Stop it, or give this one another folder: notika dev --data .notika-2 --port 0",
    });
  }
  await writeFile(file, String(process.pid));
  return () => rm(file, { force: true });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Runs the tasks of a folder, publishes what they declare, and starts over when a file changes. */
async function startSession(database: Database, folder: string, log: Log) {
  let tasks = await loadTasks(folder);
  let runner = await start();
  let publishing = await publishAll(database, tasks, log);

  function start() {
    return startRunner({
      database,
      tasks,
      concurrency: 4,
      log: { ...log, info: log.info, warn() {} },
      observe: runLine,
    });
  }

  let reloading = Promise.resolve();
  async function reload() {
    try {
      tasks = await loadTasks(folder);
    } catch (error) {
      log.error((error as Error).message, { kept: "the tasks as they were" });
      return;
    }
    publishing.stop();
    await runner.stop(2000);
    runner = await start();
    publishing = await publishAll(database, tasks, log);
    log.info("tasks reloaded");
  }

  let settled: NodeJS.Timeout | undefined;
  const watcher = watch(folder, { recursive: true }, () => {
    clearTimeout(settled);
    settled = setTimeout(() => {
      reloading = reloading.then(reload);
    }, 100);
  });

  return {
    async stop() {
      watcher.close();
      clearTimeout(settled);
      publishing.stop();
      await reloading;
      await runner.stop(2000);
    },
  };
}

/** Publishes what the tasks declare; what cannot be published yet, for want of its table, is tried again. */
async function publishAll(database: Database, tasks: Tasks, log: Log) {
  const said = new Map<string, string>();
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  async function pass() {
    let failed = false;
    for (const [name, { on }] of Object.entries(tasks)) {
      if (!on || stopped) continue;
      try {
        const outcome = await publish(database.execute, name, on);
        if (outcome !== "unchanged") log.info(`${outcome} ${name}`, { table: on.table });
        said.delete(name);
      } catch (error) {
        failed = true;
        const { message, hint } = error as Error & { hint?: string };
        if (said.get(name) !== message) log.warn(`cannot publish ${name} yet: ${message}`, hint ? { hint } : {});
        said.set(name, message);
      }
    }
    if (failed && !stopped) timer = setTimeout(pass, 2000);
  }

  await pass();
  return {
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
