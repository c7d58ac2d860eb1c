import { hostname } from "node:os";
import { Worker } from "node:worker_threads";
import { currentAttempt, runningAttempts } from "./attempts.ts";
import { breakOff, type Cells, openCells, stillFor, turn } from "./lease.ts";
import { jsonLog, type Log, textLog } from "./log.ts";
import type { PulseMessage, PulseSetting } from "./pulse_thread.ts";

/** Watches the event loop, and gives signs of life from another thread while it is blocked. */
export interface Pulse {
  readonly cells: Cells;
  /** By what ids the jobs of this runner are locked. */
  follow(ids: string[]): void;
  close(): void;
}

interface Setting {
  /** Where the database is; undefined: in this process, where another thread cannot reach it. */
  address: string | undefined;
  tasks: string[];
  log: Log;
}

const tick = 1000; // milliseconds
/** A loop that has not turned for this long is blocked. */
const patience = 5000;
const jump = 30_000;

export function openPulse({ address, tasks, log }: Setting): Pulse {
  const cells = openCells();
  let culprit: PulseMessage | undefined;
  let wall = Date.now();
  Object.assign(globalThis, { [Symbol.for("notika.attempt")]: named });

  const timer = setInterval(() => {
    // A machine that slept, or whose clock was set, may have been away for others.
    if (Date.now() - wall > jump) breakOff(cells);
    wall = Date.now();
    const ms = stillFor(cells);
    turn(cells);
    if (ms > patience) setImmediate(report, ms); // what the thread has found comes first
  }, tick);
  timer.unref();

  function report(ms: number) {
    const { workflow, run } = culprit ?? {};
    const running = runningAttempts().map((attempt) => `${attempt.workflow} ${attempt.run}`);
    log.warn("the event loop was blocked, and nothing else ran in this process", {
      seconds: Math.round(ms / 1000),
      ...(workflow === undefined ? { running } : { workflow, run }),
    });
    culprit = undefined;
  }

  const thread =
    address === undefined ? undefined : startThread({ address, tasks, cells, patience, ...settingOf(log) });
  thread?.on("message", (message: PulseMessage) => {
    culprit = message;
  });
  thread?.on("error", (error) => {
    log.warn("no thread watches the event loop: a task that blocks it counts as death", { error: error.message });
  });

  return {
    cells,
    follow: (ids) => thread?.postMessage(ids),
    close() {
      clearInterval(timer);
      void thread?.terminate();
    },
  };
}

function settingOf(log: Log): Pick<PulseSetting, "format" | "host"> {
  return { format: log === jsonLog ? "json" : log === textLog ? "text" : undefined, host: hostname() };
}

/** For the thread, which asks the blocked code itself. */
function named() {
  const attempt = currentAttempt();
  return attempt && { workflow: attempt.workflow, run: attempt.run };
}

function startThread(setting: PulseSetting): Worker {
  const source = import.meta.url.endsWith(".ts");
  const thread = new Worker(new URL(source ? "./pulse_thread.ts" : "./pulse_thread.js", import.meta.url), {
    workerData: setting,
    // From the source it needs what the source is loaded with.
    execArgv: source ? ["--import", import.meta.resolve("tsx")] : [],
    stdout: false,
    stderr: false,
  });
  thread.unref();
  return thread;
}
