import { EventEmitter, once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Logger, type Runner, run, type TaskList, type WorkerEvents, type WorkerPool } from "graphile-worker";
import type { Pool } from "pg";
import type { Database } from "./database.ts";
import type { Log } from "./log.ts";

/** One start of graphile-worker, which runs jobs until it takes no more. */
export interface Shift {
  /** By which its jobs are locked. */
  readonly id: string;
  /** Says that there are new jobs. */
  nudge(jobs: number): void;
  /** Asks it to take no more jobs. */
  end(): void;
  /** Resolves when it takes no more: it was asked to, or because of an error, which may have cost jobs on their way. */
  over: Promise<Error | undefined>;
  /** Resolves when what it was running has ended. */
  done: Promise<void>;
}

interface Setting {
  database: Database;
  taskList: TaskList;
  concurrency: number;
  log: Log;
}

/** How graphile-worker is used here, in the runner and in tests. */
export function workerPreset(concurrency: number) {
  return {
    worker: {
      schema: "notika_worker",
      concurrentJobs: concurrency,
      localQueue: { size: concurrency + 1 },
      pollInterval: 1000,
      // A transaction-mode pooler hands each statement to another server connection.
      preparedStatements: false,
      // Without batching it does not wait for the answer, and a lost connection would end the process.
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  };
}

export async function startShift({ database, taskList, concurrency, log }: Setting): Promise<Shift> {
  const events: WorkerEvents = new EventEmitter();
  const created = once(events, "pool:create");
  let failure: Error | undefined;
  const over = once(events, "pool:gracefulShutdown").then(() => failure);
  const tasks = counted(taskList);
  let runner: Runner | undefined;
  let isEnding = false;
  events.on("pool:gracefulShutdown", () => {
    isEnding = true;
  });
  function end() {
    if (!isEnding) runner?.stop().catch(() => {});
    isEnding = true;
  }

  runner = await run({
    pgPool: guarded(database, {
      isEnding: () => isEnding,
      canFail: () => runner === undefined,
      fail(error) {
        failure ??= error;
        end();
      },
    }),
    taskList: tasks.list,
    events,
    logger: quiet(log),
    noHandleSignals: true,
    preset: workerPreset(concurrency),
  });
  const [{ workerPool }] = (await created) as [{ workerPool: WorkerPool }];
  const ended = runner.promise.catch(() => {});
  if (isEnding) runner.stop().catch(() => {}); // before it was there

  async function finish() {
    await over;
    // After a lost connection graphile-worker may never say that it has ended.
    do await Promise.race([ended, tasks.none().then(() => sleep(1000))]);
    while (tasks.running() > 0);
  }

  return { id: workerPool.id, nudge: (jobs) => workerPool.nudge(jobs), end, over, done: finish() };
}

function counted(taskList: TaskList) {
  let running = 0;
  const changes = new EventEmitter();
  const list = Object.fromEntries(
    Object.entries(taskList).map(([name, task]): [string, TaskList[string]] => [
      name,
      async (...given) => {
        running++;
        try {
          return await task?.(...given);
        } finally {
          running--;
          if (running === 0) changes.emit("none");
        }
      },
    ]),
  );
  return {
    list,
    running: () => running,
    none: async () => void (running > 0 && (await once(changes, "none"))),
  };
}

/**
 * The pool as graphile-worker gets it.  It is never given the connection that it would LISTEN on, which it asks for with a
 * callback: the runner listens itself, and through a transaction-mode pooler that LISTEN would stay on a server connection
 * of others.  And an error ends the shift, unless the statement is tried again: the answer may have been about jobs that are
 * ours now, unknown to us, and on a server that takes no writes it would ask without a pause and then never again.
 * Graphile-worker does not hear of it, because it would leave a rejection unhandled; whatever it could not say of its jobs,
 * they are freed when the shift is over.
 */
function guarded({ pool, borrow }: Database, { isEnding, canFail, fail }: Guard): Pool {
  const nothing = { rows: [], rowCount: 0 };
  function lose(error: Error & { code?: string }) {
    if (!isEnding() && (isTriedAgain(error) || (canFail() && isOfTheServer(error)))) throw error;
    fail(error);
    return nothing;
  }
  async function lend() {
    const loan = await borrow(patience).catch((error) => {
      if (!isEnding() && canFail()) throw error;
      fail(error);
    });
    return {
      query: async (...given: unknown[]) => loan?.query(...given).catch(lose) ?? nothing,
      release: () => loan?.release(),
    };
  }
  const connect = (callback?: unknown) => (callback ? undefined : lend());
  return new Proxy(pool, {
    get(_, name) {
      const value = Reflect.get(pool, name);
      return name === "connect" ? connect : typeof value === "function" ? value.bind(pool) : value;
    },
  });
}

const patience = 10_000; // milliseconds; graphile-worker's statements are short

interface Guard {
  isEnding: () => boolean;
  /** Whether somebody waits for the start, who is told that it failed. */
  canFail: () => boolean;
  fail: (error: Error) => void;
}

/** By graphile-worker itself: serialization failures and deadlocks. */
const isTriedAgain = ({ code = "" }: { code?: string }) => /^40(001|P01)$/.test(code);

/** And not of the way to it. */
const isOfTheServer = (error: { code?: string; severity?: string }) =>
  error.severity !== undefined && !/^(08|57P)/.test(error.code ?? "");

// What becomes of runs is said by the runner itself.
function quiet(log: Log): Logger {
  return new Logger(() => (level, message, meta) => {
    if (level === "error" && !(meta && "job" in meta)) log.warn(`graphile-worker: ${message}`);
  });
}
