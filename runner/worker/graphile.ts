/*
 * The only file that depends on the internals of graphile-worker.  It replaces the statement by which graphile-worker claims
 * jobs, limits the number of its workers in a function that it calls before each fetch, prevents its LISTEN, and ends it when
 * a connection is lost.  test/runner/graphile.test.ts tests these assumptions on the version that package.json pins.
 */
import { EventEmitter, once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Job,
  Logger,
  type Runner,
  run,
  runOnce,
  type TaskList,
  type WorkerEvents,
  type WorkerPool,
} from "graphile-worker";
import type { Pool, QueryResult } from "pg";
import sql from "sql-template-tag";
import type { Attempt } from "../attempt/attempt.ts";
import type { Database } from "../database/database.ts";
import type { AcquiredClient } from "../database/pool.ts";
import { version } from "../install/version.ts";
import type { Log } from "../log.ts";
import { openSlots, type Slots, writers } from "./slots.ts";

/** One start of graphile-worker, which runs jobs until it claims no more. */
export interface Graphile {
  /** The id by which its jobs are locked. */
  readonly id: string;
  /** Makes it look for jobs immediately: there are new ones. */
  wake(jobs: number): void;
  /** Asks it to claim no more jobs. */
  end(): void;
  /** Resolves when it claims no more: it was asked to, or an error ended it, which may have lost jobs that it was claiming. */
  over: Promise<Error | undefined>;
  /** Resolves when all its runs have ended. */
  done: Promise<void>;
}

interface Setting {
  database: Database;
  attempts: Record<string, Attempt>;
  concurrency: number;
  /** Aborts its runs. */
  signal: AbortSignal;
  log: Log;
}

/** Starts graphile-worker on the jobs of `attempts`. */
export async function startGraphile({ database, attempts, concurrency, signal, log }: Setting): Promise<Graphile> {
  const events: WorkerEvents = new EventEmitter();
  let failure: Error | undefined;
  const over = once(events, "pool:gracefulShutdown").then(() => failure);
  const slots = openSlots(concurrency, () => mayBeMore && wake(1));
  const { taskList, running, none } = tasksOf(attempts, { slots, signal, wake });
  let workers: WorkerPool | undefined;
  let runner: Runner | undefined;
  let queue: LocalQueue | undefined;
  let mayBeMore = false;
  let isEnding = false;
  const own = version();
  events.on("pool:create", ({ workerPool }) => {
    workers = workerPool;
  });
  events.on("worker:getJob:empty", slots.giveUp);
  events.on("worker:getJob:error", slots.giveUp);
  // A local queue that is released while it waits with jobs does not return them, and fails an assertion.
  events.on("localQueue:init", ({ localQueue }) => {
    queue = localQueue as unknown as LocalQueue;
  });
  events.on("pool:gracefulShutdown", () => {
    isEnding = true;
    if (queue?.mode === "WAITING") queue.setModeTtlExpired();
    slots.open();
  });
  function wake(jobs: number) {
    workers?.nudge(jobs);
  }
  function end() {
    if (!isEnding) runner?.stop().catch(() => {});
    isEnding = true;
  }

  async function claim(client: AcquiredClient, id: string, taskIds: number[]) {
    const wanted = slots.wanted();
    mayBeMore = true;
    if (wanted === 0) return { rows: [], rowCount: 0 };
    const claimed = await client.query("select * from notika._claim($1::text, $2::integer[], $3::integer, $4::text)", [
      id,
      taskIds,
      wanted,
      await own,
    ]);
    mayBeMore = claimed.rows.length === wanted;
    if (mayBeMore) wake(1); // fewer than its local queue has room for: it would not ask again
    return claimed;
  }

  runner = await run({
    pgPool: poolFor(database, {
      isEnding: () => isEnding,
      canFail: () => runner === undefined,
      fail(error) {
        failure ??= error;
        end();
      },
      claim,
    }),
    taskList,
    events,
    logger: quiet(log, () => isEnding),
    noHandleSignals: true,
    // A worker calls this function before it asks for a job, and awaits the answer.
    forbiddenFlags: () => slots.take().then(() => null),
    preset: preset(concurrency + writers),
  }).catch((error) => {
    throw failure ?? error; // the error of graphile-worker is only about the missing answer
  });
  const { id } = workers as unknown as WorkerPool; // created before the runner
  const ended = runner.promise.catch(() => {});
  if (isEnding) runner.stop().catch(() => {}); // end() was called before there was a runner to stop

  async function finish() {
    await over;
    // After a lost connection graphile-worker may never report that it has ended.
    do await Promise.race([ended, none().then(() => sleep(1000))]);
    while (running() > 0);
  }

  return { id, wake, end, over, done: finish() };
}

/** For tests: runs the jobs that are due, one after the other, until none is left. */
export async function runDueJobs(database: Database, attempts: Record<string, Attempt>, signal: AbortSignal) {
  await runOnce({
    pgPool: database.pool,
    taskList: Object.fromEntries(
      Object.entries(attempts).map(([name, attempt]): [string, TaskList[string]] => [
        name,
        async (payload, { job }) => (await attempt(payload, asRunJob(job), signal))?.(),
      ]),
    ),
    events: new EventEmitter(),
    logger: new Logger(() => () => {}),
    noHandleSignals: true,
    preset: preset(1),
  });
}

/** For tests: makes the jobs of runs due whose runner has died, which graphile-worker considers failed. */
export async function releaseJobs(database: Database, runs: string[]): Promise<void> {
  await database.execute(sql`
    select notika_worker.reschedule_jobs(array(
             select id from notika_worker._private_jobs
              where key in (select json_array_elements_text(${JSON.stringify(runs)}::text::json))), run_at => now())`);
}

function preset(workers: number) {
  return {
    worker: {
      schema: "notika_worker",
      concurrentJobs: workers,
      // Jobs that were fetched and cannot begin are returned, so that other runners find them.
      localQueue: { size: workers + 1, ttl: 1000 },
      pollInterval: 1000,
      // A pooler in transaction mode may send each statement to another server connection.
      preparedStatements: false,
      // With -1, the default, it does not await the answer, and a lost connection would end the process.
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  };
}

/** The tasks of graphile-worker, and how many of them are running. */
function tasksOf(
  attempts: Record<string, Attempt>,
  { slots, signal, wake }: { slots: Slots; signal: AbortSignal; wake: (jobs: number) => void },
) {
  let running = 0;
  const changes = new EventEmitter();
  const taskOf =
    (attempt: Attempt): TaskList[string] =>
    async (payload, { job }) => {
      running++;
      slots.begin();
      try {
        const write = await attempt(payload, asRunJob(job), signal).finally(slots.release);
        await write?.();
        // The next run in the line may start now.  Without LISTEN nothing else reports that.
        if (job.flags?.gated) wake(1);
      } finally {
        running--;
        if (running === 0) changes.emit("none");
      }
    };
  return {
    taskList: Object.fromEntries(Object.entries(attempts).map(([name, attempt]) => [name, taskOf(attempt)])),
    running: () => running,
    none: async () => void (running > 0 && (await once(changes, "none"))),
  };
}

const asRunJob = ({ id, attempts, max_attempts, flags }: Job) => ({ id, attempts, max_attempts, flags });

interface PoolSetting {
  isEnding: () => boolean;
  /** Whether the start is still awaited, so that it can report an error. */
  canFail: () => boolean;
  fail: (error: Error) => void;
  /** Claims jobs of the tasks with these ids for the runner `id`. */
  claim: (client: AcquiredClient, id: string, taskIds: number[]) => Promise<Claimed>;
}

type Claimed = Pick<QueryResult, "rows" | "rowCount">;

/**
 * The pool that graphile-worker gets.  It never gets the connection for its LISTEN, which it asks for with a callback: the
 * runner listens itself, and through a pooler in transaction mode that LISTEN would stay on a server connection that others
 * use.  An error ends this start of graphile-worker, unless the statement is retried: the lost answer may have been about jobs
 * that are now locked for this runner, and on a read-only server graphile-worker would ask without a pause and then never
 * again.  The error is not passed to it, because it would leave a rejection unhandled.  Jobs that it could not complete are
 * freed later.
 */
function poolFor({ pool, acquire }: Database, { isEnding, canFail, fail, claim }: PoolSetting): Pool {
  const nothing: Claimed = { rows: [], rowCount: 0 };
  function lose(error: Error & { code?: string }) {
    if (!isEnding() && (isRetried(error) || (canFail() && isOfServer(error)))) throw error;
    fail(error);
    return nothing;
  }
  async function connectClient() {
    const client = await acquire(deadline).catch((error) => {
      if (!isEnding() && canFail()) throw error;
      fail(error);
    });
    return {
      async query(...given: unknown[]): Promise<unknown> {
        if (!client) return nothing;
        const claimed = claimedBy(given[0]);
        return (claimed ? claim(client, ...claimed) : client.query(...given)).catch(lose);
      },
      release: () => client?.release(),
    };
  }
  const connect = (callback?: unknown) => (callback ? undefined : connectClient());
  // Only the cron of graphile-worker queries the pool itself, and Notika does not use that cron.
  const query = async () => nothing;
  return new Proxy(pool, {
    get(_, name) {
      const value = Reflect.get(pool, name);
      if (name === "query") return query;
      return name === "connect" ? connect : typeof value === "function" ? value.bind(pool) : value;
    },
  });
}

const deadline = 10_000; // milliseconds; graphile-worker's statements are short

/** graphile-worker itself retries serialization failures and deadlocks. */
const isRetried = ({ code = "" }: { code?: string }) => /^40(001|P01)$/.test(code);

/** Whether an error comes from the server, and not from the connection to it. */
const isOfServer = (error: { code?: string; severity?: string }) =>
  error.severity !== undefined && !/^(08|57P)/.test(error.code ?? "");

/**
 * The ids of the runner and of the tasks, if this is the statement by which graphile-worker claims jobs: it would sort the
 * whole backlog each time, and `notika._claim` does not.  If it is not recognized, graphile-worker claims jobs itself, slowly.
 */
export function claimedBy(statement: unknown): [string, number[]] | undefined {
  const { text = "", values = [] } = statement as { text?: string; values?: unknown[] };
  return /^with j as \(\s+select jobs\.job_queue_id/.test(text) && values.length === 2
    ? (values as [string, number[]])
    : undefined;
}

/** The members of graphile-worker's local queue that are used here. */
interface LocalQueue {
  mode: string;
  /** Returns the waiting jobs to the database. */
  setModeTtlExpired(): void;
}

// The runner logs how runs end, and why graphile-worker is restarted.
function quiet(log: Log, isEnding: () => boolean): Logger {
  return new Logger(() => (level, message, meta) => {
    if (level === "error" && !isEnding() && !(meta && "job" in meta)) log.warn(`graphile-worker: ${message}`);
  });
}
