import { createRequire } from "node:module";
import { hostname } from "node:os";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { currentAttempt, runningAttempts } from "../attempt/context.ts";
import { blockedFor, type Liveness, noteGap, noteTurn, openLiveness } from "../attempt/liveness.ts";
import { stackOf } from "../errors.ts";
import { jsonLog, type Log, textLog } from "../log.ts";
import type { BlockedCode, WatchdogSetting } from "./watchdog_thread.ts";

/** Watches the event loop, and sends heartbeats from another thread while it is blocked. */
export interface Watchdog {
  readonly liveness: Liveness;
  /** The ids by which the jobs of this runner are locked. */
  follow(ids: string[]): void;
  stop(): void;
}

interface Setting {
  /** The connection string of the database; undefined: it is embedded in this process, and another thread cannot reach it. */
  address: string | undefined;
  tasks: string[];
  log: Log;
}

const tick = 1000; // milliseconds
/** An event loop that has not turned for this long is blocked. */
const patience = 3000;
const jump = 30_000;

export function startWatchdog({ address, tasks, log }: Setting): Watchdog {
  const liveness = openLiveness();
  let blocked: BlockedCode | undefined;
  let wall = Date.now();
  Object.assign(globalThis, { [Symbol.for("notika.findBlockedCode")]: findBlockedCode });

  const timer = setInterval(() => {
    // Other runners may have considered a machine that slept dead; a clock that was set looks the same.
    if (Date.now() - wall > jump) noteGap(liveness);
    wall = Date.now();
    const ms = blockedFor(liveness);
    noteTurn(liveness);
    if (ms <= patience) return;
    const running = runningAttempts().map(({ workflow, run }) => `${workflow} ${run}`);
    setImmediate(report, ms, running); // after the message of the thread
  }, tick);
  timer.unref();

  function report(ms: number, running: string[]) {
    const { workflow, run } = blocked ?? {};
    // If no task is running, Notika itself is starting, or a Postgres in this process is working.
    if (workflow === undefined && running.length === 0) return;
    log.warn("the event loop was blocked, and nothing else ran in this process", {
      seconds: Math.round(ms / 1000),
      ...(workflow === undefined ? { running } : { workflow, run }),
    });
    blocked = undefined;
  }

  const thread =
    address === undefined ? undefined : startThread({ address, tasks, liveness, patience, ...settingOf(log) });
  thread?.on("message", (message: BlockedCode) => {
    blocked = message;
  });
  thread?.on("error", (error) => {
    log.warn("no thread watches the event loop: a runner whose task blocks it is considered dead", {
      error: error.message,
    });
  });

  return {
    liveness,
    follow: (ids) => thread?.postMessage(ids),
    stop() {
      clearInterval(timer);
      void thread?.terminate();
    },
  };
}

function settingOf(log: Log): Pick<WatchdogSetting, "format" | "host"> {
  return { format: log === jsonLog ? "json" : log === textLog ? "text" : undefined, host: hostname() };
}

/** Called by the thread, in the blocked code. */
function findBlockedCode(): BlockedCode {
  const { workflow, run } = currentAttempt() ?? {};
  const [, , ...lines] = stackOf(new Error())?.split("\n") ?? []; // without the frame of this function
  const stack = lines.filter((line) => !line.includes("eval at ")).join("\n");
  return { ...(workflow !== undefined && run !== undefined && { workflow, run }), stack };
}

function startThread(setting: WatchdogSetting): Worker {
  const isSource = import.meta.url.endsWith(".ts");
  const file = new URL(isSource ? "./watchdog_thread.ts" : "./watchdog_thread.js", import.meta.url);
  const options = { workerData: setting, execArgv: [], env: process.env };
  const thread = isSource ? new Worker(loading(file), { ...options, eval: true }) : new Worker(file, options);
  thread.unref();
  return thread;
}

/** Loads a TypeScript module in a new thread, where no loader is registered. */
function loading(file: URL): string {
  const at = pathToFileURL(createRequire(import.meta.url).resolve("tsx/package.json"));
  const tsx = new URL("dist/esm/api/index.mjs", at).href;
  return `import(${JSON.stringify(tsx)}).then(({ register }) => (register(), import(${JSON.stringify(file.href)})))`;
}
