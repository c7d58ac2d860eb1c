import { EventEmitter, once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { type Job, Logger, type Runner, run, type TaskList, type WorkerEvents, type WorkerPool } from "graphile-worker";
import type { Database } from "../database/database.ts";
import type { AcquiredClient } from "../database/pool.ts";
import type { Log } from "../log.ts";
import { guardPool } from "./guarded_pool.ts";
import { openGate, unwritten } from "./slots.ts";

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

/** Does what a job asks for; calls `leave` when all that is left is to write down what came of it. */
export type ShiftTask = (payload: unknown, job: Job, leave: () => void) => Promise<void>;

interface Setting {
  database: Database;
  tasks: Record<string, ShiftTask>;
  concurrency: number;
  log: Log;
}

/** How graphile-worker is used here, in the runner and in tests. */
export function workerPreset(slots: number) {
  return {
    worker: {
      schema: "notika_worker",
      concurrentJobs: slots,
      // What was fetched and cannot begin goes back to where other runners find it.
      localQueue: { size: slots + 1, ttl: 1000 },
      pollInterval: 1000,
      // A transaction-mode pooler hands each statement to another server connection.
      preparedStatements: false,
      // Without batching it does not wait for the answer, and a lost connection would end the process.
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  };
}

export async function startShift({ database, tasks, concurrency, log }: Setting): Promise<Shift> {
  const events: WorkerEvents = new EventEmitter();
  let failure: Error | undefined;
  const over = once(events, "pool:gracefulShutdown").then(() => failure);
  const gate = openGate(concurrency, () => mayBeMore && nudge(1));
  const { list, running, none } = counted(tasks, gate);
  let workers: WorkerPool | undefined;
  let runner: Runner | undefined;
  let queue: LocalQueue | undefined;
  let mayBeMore = false;
  let isEnding = false;
  events.on("pool:create", ({ workerPool }) => {
    workers = workerPool;
  });
  events.on("worker:getJob:empty", gate.giveUp);
  events.on("worker:getJob:error", gate.giveUp);
  // What waits in its local queue when that is released it forgets to return, and stumbles over it.
  events.on("localQueue:init", ({ localQueue }) => {
    queue = localQueue as unknown as LocalQueue;
  });
  events.on("pool:gracefulShutdown", () => {
    isEnding = true;
    if (queue?.mode === "WAITING") queue.setModeTtlExpired();
    gate.open();
  });
  const nudge = (jobs: number) => workers?.nudge(jobs);
  function end() {
    if (!isEnding) runner?.stop().catch(() => {});
    isEnding = true;
  }

  async function claim(client: AcquiredClient, id: string, taskIds: number[]) {
    const wanted = gate.wanted();
    mayBeMore = true;
    if (wanted === 0) return { rows: [], rowCount: 0 };
    const claimed = await client.query("select * from notika._claim($1::text, $2::integer[], $3::integer)", [
      id,
      taskIds,
      wanted,
    ]);
    mayBeMore = claimed.rows.length === wanted;
    if (mayBeMore) nudge(1); // it would not ask again, because this is less than its local queue can take
    return claimed;
  }

  runner = await run({
    pgPool: guardPool(database, {
      isEnding: () => isEnding,
      canFail: () => runner === undefined,
      fail(error) {
        failure ??= error;
        end();
      },
      claim,
    }),
    taskList: list,
    events,
    logger: quiet(log, () => isEnding),
    noHandleSignals: true,
    // It asks for them before it asks for a job, and waits for the answer.
    forbiddenFlags: () => gate.enter().then(() => null),
    preset: workerPreset(concurrency + unwritten),
  }).catch((error) => {
    throw failure ?? error; // without an answer it stumbles over what is not there
  });
  const { id } = workers as unknown as WorkerPool; // it was there before the runner
  const ended = runner.promise.catch(() => {});
  if (isEnding) runner.stop().catch(() => {}); // before it was there

  async function finish() {
    await over;
    // After a lost connection graphile-worker may never say that it has ended.
    do await Promise.race([ended, none().then(() => sleep(1000))]);
    while (running() > 0);
  }

  return { id, nudge, end, over, done: finish() };
}

function counted(tasks: Setting["tasks"], gate: ReturnType<typeof openGate>) {
  let running = 0;
  const changes = new EventEmitter();
  const list = Object.fromEntries(
    Object.entries(tasks).map(([name, task]): [string, TaskList[string]] => [
      name,
      async (payload, { job }) => {
        let isInside = true;
        const leave = () => {
          if (isInside) gate.leave();
          isInside = false;
        };
        running++;
        gate.begin();
        try {
          await task(payload, job, leave);
        } finally {
          leave();
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

/** What of graphile-worker's local queue is used here. */
interface LocalQueue {
  mode: string;
  /** Returns the jobs that wait. */
  setModeTtlExpired(): void;
}

// What becomes of runs is said by the runner itself, and so is why a shift ends.
function quiet(log: Log, isEnding: () => boolean): Logger {
  return new Logger(() => (level, message, meta) => {
    if (level === "error" && !isEnding() && !(meta && "job" in meta)) log.warn(`graphile-worker: ${message}`);
  });
}
