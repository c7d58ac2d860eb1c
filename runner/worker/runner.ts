import { hostname } from "node:os";
import { raw } from "sql-template-tag";
import { attemptOf } from "../attempt/attempt.ts";
import type { RunObserver } from "../attempt/conclusion.ts";
import { noteHeartbeat, now } from "../attempt/liveness.ts";
import { openStore } from "../attempt/store.ts";
import { catchUnhandled } from "../attempt/unhandled.ts";
import { namedDatabase } from "../connection/settings.ts";
import { type Database, openDatabase } from "../database/database.ts";
import { untilReady } from "../database/ready.ts";
import { atOnce } from "../database/statements.ts";
import { NotikaError } from "../errors.ts";
import { type Log, textLog } from "../log.ts";
import { type Tasks, toTasks } from "../workflow/load.ts";
import { warnOfUnpublished } from "./declared.ts";
import { startDispatcher } from "./dispatcher.ts";
import { atMostEvery, openHeartbeat, sendHeartbeat } from "./heartbeat.ts";
import { checkVersion, nameInstallation } from "./installation.ts";
import { startSupervisor } from "./supervisor.ts";
import { startWatchdog } from "./watchdog.ts";

/** Runs workflows until it is stopped. */
export interface Runner {
  /** Resolves when all runs have ended after a stop, or after an upgrade of the database. */
  readonly ended: Promise<void>;
  /**
   * Stops: runs may finish within `deadline` milliseconds (default 10,000), then they are aborted and given to other
   * runners.
   */
  stop(deadline?: number): Promise<void>;
}

export interface RunnerOptions {
  /** The connection string of the database; default: DATABASE_URL, or PGHOST, PGDATABASE or PGSERVICE. */
  url?: string;
  /** The same database, bypassing a pooler in transaction mode, for LISTEN; default: NOTIKA_DIRECT_URL. */
  directUrl?: string | undefined;
  /** The folder of the task modules, or their exports by name. */
  tasks: string | Record<string, unknown>;
  /** The maximum number of runs at a time; default: 10. */
  concurrency?: number;
  log?: Log;
  /** Ends the wait for a database that is starting. */
  signal?: AbortSignal;
}

/** Starts a runner for the database at `url`.  Any number of runners may run at the same time.  Throws a NotikaError. */
export async function createRunner({ url, directUrl, tasks, signal, ...options }: RunnerOptions): Promise<Runner> {
  const connect = namedDatabase(url);
  if (connect === undefined) {
    throw new NotikaError("NOTIKA_NO_DATABASE", "no database is specified", {
      hint: "Give createRunner a url, or set DATABASE_URL.",
    });
  }
  const loaded = await toTasks(tasks);
  if (Object.keys(loaded).length === 0) {
    throw new NotikaError("NOTIKA_TASKS", "there are no tasks to run", {
      hint:
        typeof tasks === "string"
          ? `Add one to ${tasks}, such as ${tasks}/welcome_email.ts.`
          : "Give createRunner tasks.",
    });
  }
  const direct = directUrl ?? (process.env.NOTIKA_DIRECT_URL || undefined);
  const database = openDatabase({ connect, direct, connections: (options.concurrency ?? 10) + 2 });
  try {
    await untilReady(database, options.log ?? textLog, signal);
    const runner = await startRunner({ database, tasks: loaded, ...options });
    await warnOfUnpublished(database, loaded, options.log ?? textLog).catch(async (error) => {
      await runner.stop(0);
      throw error;
    });
    return { ended: runner.ended, stop: (deadline) => runner.stop(deadline).finally(() => database.close()) };
  } catch (error) {
    await database.close();
    throw error;
  }
}

/** Starts a runner on an open database, which stays open. */
export async function startRunner({
  database,
  tasks,
  concurrency = 10,
  log = textLog,
  observe = logRuns(log),
}: {
  database: Database;
  tasks: Tasks;
  concurrency?: number;
  log?: Log;
  observe?: RunObserver;
}): Promise<Runner> {
  await checkVersion(database);
  const installation = await nameInstallation(database);

  const names = Object.keys(tasks);
  const endUnhandled = catchUnhandled();
  const watchdog = startWatchdog({ address: database.address, tasks: names, log });
  const { liveness } = watchdog;
  const store = openStore(database);
  const setting = { installation, database, store, liveness, log, observe };
  const supervisor = startSupervisor({
    database,
    attempts: Object.fromEntries(Object.entries(tasks).map(([name, task]) => [name, attemptOf(task, setting)])),
    concurrency,
    log,
    onStart: () => heartbeat.beat(),
    onIds: watchdog.follow,
    onUpgrade({ message }) {
      log.error("the database was upgraded: this runner claims no more runs, and finishes those that it has", {
        error: message,
      });
      void dispatcher.stop();
    },
  });
  const listener = database.listen({
    channels: {
      notika: () => dispatcher.wake(),
      "jobs:insert": (payload) => supervisor.wake(jobsIn(payload)), // sent by each dispatcher, and by graphile-worker's add_job
    },
    onChange(hears, reason) {
      if (hears) log.info("new events are notified");
      else log.warn("new events are found by polling", { reason });
    },
  });
  const dispatcher = startDispatcher({ database, log, hears: () => listener.hears, onDispatch: supervisor.wake });
  const { execute } = database.within(60_000);
  const heartbeat = openHeartbeat(async () => {
    const sentAt = now();
    await supervisor.heartbeat((id) => sendHeartbeat(database.within(10_000), { id, host: hostname(), tasks: names }));
    noteHeartbeat(liveness, sentAt);
    const done = await execute<{ did: string }>(atOnce("select notika.maintain() as did"));
    for (const { did } of done) log.info(did);
    await check();
  }, log);
  const check = atMostEvery(60_000, async () => {
    const found = await execute<{ detail: string }>(
      atOnce("select finding, workflow, detail, remedy from notika.check() where severity = 'error'"),
    );
    for (const { detail, ...fields } of found) log.error(detail, fields);
    const outdated = await execute(atOnce("select from notika._captured(true)"));
    if (outdated.length > 0) await execute(raw("call notika.refresh()"));
  });

  return {
    ended: supervisor.ended,
    async stop(deadline = 10_000) {
      await Promise.all([listener.close(), dispatcher.stop(), supervisor.stop(deadline)]);
      heartbeat.stop();
      watchdog.stop();
      endUnhandled();
    },
  };
}

/** The number of jobs in a notification; 1 if it has none, because any session may send one. */
function jobsIn(payload: string): number {
  return Number(/"count"\s*:\s*(\d+)/.exec(payload)?.[1] ?? 1);
}

function logRuns(log: Log): RunObserver {
  return (event, { ms, attempt, error, last }) => {
    const fields = { workflow: event.workflow, run: event.id, ms, attempt };
    if (!error) log.info("done", fields);
    else if (last) log.error("failed", { ...fields, error: error.message });
    else log.warn("failed, will be retried", { ...fields, error: error.message });
  };
}
