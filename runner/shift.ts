import { EventEmitter, once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Logger, run, type TaskList, type WorkerEvents, type WorkerPool } from "graphile-worker";
import type { Pool, PoolClient } from "pg";
import type { Log } from "./log.ts";

/** One start of graphile-worker, which runs jobs until it takes no more. */
export interface Shift {
  /** By which its jobs are locked. */
  readonly id: string;
  /** Says that there are new jobs. */
  nudge(jobs: number): void;
  /** Asks it to take no more jobs. */
  end(): void;
  /** Resolves when it takes no more: it was asked to, or a connection was lost, and with it, maybe, jobs on their way. */
  over: Promise<unknown>;
  /** Resolves when what it was running has ended. */
  done: Promise<void>;
}

interface Setting {
  pool: Pool;
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

export async function startShift({ pool, taskList, concurrency, log }: Setting): Promise<Shift> {
  const events: WorkerEvents = new EventEmitter();
  const created = once(events, "pool:create");
  const over = once(events, "pool:gracefulShutdown");
  const tasks = counted(taskList);
  const runner = await run({
    pgPool: guarded(pool, end),
    taskList: tasks.list,
    events,
    logger: quiet(log),
    noHandleSignals: true,
    preset: workerPreset(concurrency),
  });
  const [{ workerPool }] = (await created) as [{ workerPool: WorkerPool }];
  const ended = runner.promise.catch(() => {});
  let isAsked = false;

  function end() {
    if (isAsked) return;
    isAsked = true;
    runner.stop().catch(() => {});
  }

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
 * of others.  And it is watched: an answer that is lost may have been about jobs that are ours now, unknown to us.
 */
function guarded(pool: Pool, onLostAnswer: () => void): Pool {
  async function lend(): Promise<Pick<PoolClient, "query" | "release">> {
    const client = await pool.connect();
    const query = async (...given: unknown[]) => {
      try {
        return await (client.query as (...given: unknown[]) => Promise<unknown>)(...given);
      } catch (error) {
        // The classes of lost connections and of servers that go away; what is lost on the way has no code of Postgres.
        if (!/^(?!08|57P)[0-9A-Z]{5}$/.test((error as { code?: string }).code ?? "")) onLostAnswer();
        throw error;
      }
    };
    return { query: query as PoolClient["query"], release: (error) => client.release(error) };
  }
  const connect = (callback?: unknown) => (callback ? undefined : lend());
  return new Proxy(pool, {
    get(_, name) {
      const value = Reflect.get(pool, name);
      return name === "connect" ? connect : typeof value === "function" ? value.bind(pool) : value;
    },
  });
}

// What becomes of runs is said by the runner itself.
function quiet(log: Log): Logger {
  return new Logger(() => (level, message, meta) => {
    if (level === "error" && !(meta && "job" in meta)) log.warn(`graphile-worker: ${message}`);
  });
}
