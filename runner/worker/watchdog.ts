import { createRequire } from "node:module";
import { hostname } from "node:os";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { currentAttempt, runningAttempts } from "../attempt/context.ts";
import { breakOff, type Cells, openCells, stillFor, turn } from "../attempt/liveness.ts";
import { stackOf } from "../attempt/thrown.ts";
import { jsonLog, type Log, textLog } from "../log.ts";
import type { PulseMessage, PulseSetting } from "./watchdog_thread.ts";

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
const patience = 3000;
const jump = 30_000;

export function openPulse({ address, tasks, log }: Setting): Pulse {
  const cells = openCells();
  let culprit: PulseMessage | undefined;
  let wall = Date.now();
  Object.assign(globalThis, { [Symbol.for("notika.findBlocked")]: findBlocked });

  const timer = setInterval(() => {
    // A machine that slept, or whose clock was set, may have been away for others.
    if (Date.now() - wall > jump) breakOff(cells);
    wall = Date.now();
    const ms = stillFor(cells);
    turn(cells);
    if (ms <= patience) return;
    const running = runningAttempts().map(({ workflow, run }) => `${workflow} ${run}`);
    setImmediate(report, ms, running); // what the thread has found comes first
  }, tick);
  timer.unref();

  function report(ms: number, running: string[]) {
    const { workflow, run } = culprit ?? {};
    // While no task runs it is Notika itself that starts, or a Postgres in this process.
    if (workflow === undefined && running.length === 0) return;
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

/** For the thread, which makes the blocked code call this. */
function findBlocked(): PulseMessage {
  const { workflow, run } = currentAttempt() ?? {};
  const [, , ...lines] = stackOf(new Error())?.split("\n") ?? []; // but for this function
  const stack = lines.filter((line) => !line.includes("eval at ")).join("\n");
  return { ...(workflow !== undefined && run !== undefined && { workflow, run }), stack };
}

function startThread(setting: PulseSetting): Worker {
  const isSource = import.meta.url.endsWith(".ts");
  const file = new URL(isSource ? "./watchdog_thread.ts" : "./watchdog_thread.js", import.meta.url);
  const options = { workerData: setting, execArgv: [], env: process.env };
  const thread = isSource ? new Worker(loading(file), { ...options, eval: true }) : new Worker(file, options);
  thread.unref();
  return thread;
}

/** What loads a module of the source, which in a new thread nothing does by itself. */
function loading(file: URL): string {
  const at = pathToFileURL(createRequire(import.meta.url).resolve("tsx/package.json"));
  const tsx = new URL("dist/esm/api/index.mjs", at).href;
  return `import(${JSON.stringify(tsx)}).then(({ register }) => (register(), import(${JSON.stringify(file.href)})))`;
}
