import { EventEmitter } from "node:events";
import { setTimeout } from "node:timers/promises";
import { Logger, run, type Task, type WorkerEvents, type WorkerPool } from "graphile-worker";
import type { Pool } from "pg";
import sql from "sql-template-tag";
import type { Database } from "./database.ts";
import type { Log } from "./log.ts";
import type { makeTask } from "./run.ts";

export interface Worker {
  /** Says that there are new jobs. */
  nudge(jobs: number): void;
  /** Lets what runs finish, for so many milliseconds; then aborts it and gives it to others. */
  stop(deadline: number): Promise<void>;
}

interface Setting {
  database: Database;
  tasks: Record<string, ReturnType<typeof makeTask>>;
  concurrency: number;
  log: Log;
  /** Is told the id of graphile-worker's pool, which locks its jobs: a new one after each restart. */
  onStart: (id: string) => void;
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

/** Runs jobs with graphile-worker, and starts it again whenever it stops: one lost connection is enough for that. */
export function startWorker({ database, tasks, concurrency, log, onStart }: Setting): Worker {
  let pool: WorkerPool | undefined;
  let stopping = false;
  let stopRunner = async () => {};
  // graphile-worker's own signal aborts five seconds after the stop, whatever the deadline.
  const abort = new AbortController();
  const taskList = Object.fromEntries(
    Object.entries(tasks).map(([name, task]): [string, Task] => [
      name,
      async (payload, { job }) => {
        await task(payload, job, abort.signal);
        // The next in its line may go now, which where there is no LISTEN nobody else says.
        if (job.flags?.gated) pool?.nudge(1);
      },
    ]),
  );

  async function supervise() {
    for (let delay = 100; !stopping; delay = Math.min(delay * 2, 10_000)) {
      const started = Date.now();
      const events: WorkerEvents = new EventEmitter();
      events.on("pool:create", ({ workerPool }) => {
        pool = workerPool;
        onStart(workerPool.id);
      });
      // Otherwise said at debug level only, and a runner that gets no jobs looks like an idle one.
      events.on("worker:getJob:error", ({ error }) => log.warn("cannot get jobs", { error: describe(error) }));
      try {
        const runner = await run({
          pgPool: deaf(database.pool),
          taskList,
          events,
          logger: quiet(log),
          noHandleSignals: true,
          preset: workerPreset(concurrency),
        });
        stopRunner = () => runner.stop();
        if (stopping) void runner.stop();
        await runner.promise;
      } catch (error) {
        if (!stopping) log.warn("graphile-worker stopped, starting it again", { error: describe(error) });
      }
      await leave();
      if (Date.now() - started > 30_000) delay = 100;
      if (!stopping) await setTimeout(delay);
    }
  }

  async function leave() {
    if (!pool) return;
    await database
      .within(10_000)
      .execute(sql`select notika._leave(${pool.id})`)
      .catch((error) => {
        log.warn("cannot free the jobs of this runner; others will in a minute", { error: describe(error) });
      });
    pool = undefined;
  }

  const stopped = supervise();
  return {
    nudge: (jobs) => pool?.nudge(jobs),
    async stop(deadline) {
      stopping = true;
      void stopRunner().catch(() => {});
      const timer = new AbortController();
      const late = setTimeout(deadline, "late", { signal: timer.signal }).catch(() => "stopped");
      if ((await Promise.race([stopped, late])) === "late") {
        log.warn("the deadline is over: aborting what still runs");
        abort.abort();
        if ((await Promise.race([stopped, setTimeout(1000, "late")])) === "late") await leave();
      }
      timer.abort();
    },
  };
}

/**
 * A pool that never gives graphile-worker the connection that it would LISTEN on, which it asks for with a callback: the
 * runner listens itself.  Through a transaction-mode pooler that LISTEN would stay on a server connection of others.
 */
function deaf(pool: Pool): Pool {
  const connect = (callback?: unknown) => (callback ? undefined : pool.connect());
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

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
