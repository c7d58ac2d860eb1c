import { EventEmitter, once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Logger, type Runner, run, type TaskList, type WorkerEvents, type WorkerPool } from "graphile-worker";
import type { Pool } from "pg";
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
    pgPool: guarded(pool, { isEnding: () => isEnding, end }),
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
 * of others.  And a lost connection ends the shift: the answer may have been about jobs that are ours now, unknown to us.
 * Graphile-worker does not hear of it, because it would leave a rejection unhandled; whatever it could not say of its jobs,
 * they are freed when the shift is over.
 */
function guarded(pool: Pool, { isEnding, end }: { isEnding: () => boolean; end: () => void }): Pool {
  const nothing = { rows: [], rowCount: 0 };
  function lose(error: { code?: string }) {
    if (!isLoss(error)) throw error;
    end();
    return nothing;
  }
  async function lend() {
    const client = await pool.connect().catch((error) => {
      if (!isEnding()) throw error;
    });
    return {
      async query(...given: unknown[]) {
        if (!client) return nothing;
        return (client.query as (...given: unknown[]) => Promise<unknown>)(...given).catch(lose);
      },
      release: () => client?.release(),
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

/** Of the classes of lost connections and of servers that go away; or, from this side, with no code of Postgres. */
function isLoss({ code = "" }: { code?: string }): boolean {
  return !/^(?!08|57P)[0-9A-Z]{5}$/.test(code);
}

// What becomes of runs is said by the runner itself.
function quiet(log: Log): Logger {
  return new Logger(() => (level, message, meta) => {
    if (level === "error" && !(meta && "job" in meta)) log.warn(`graphile-worker: ${message}`);
  });
}
