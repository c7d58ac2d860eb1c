import { readFileSync } from "node:fs";

/**
 * Resolves with what asks this process to stop: a signal, that nobody reads its output, or that npm is gone; a second
 * signal ends it at once.
 */
export function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.once(signal, () => {
        resolve(signal);
        process.once(signal, () => process.exit(1));
      });
    }
    process.stdout.once("error", () => resolve("closed output"));
    onParentGone(() => resolve("npm is gone"));
  });
}

/**
 * Calls `onGone` when npm is gone, or the shell by which it has started this process: it passes no signal on.  Where
 * nothing of npm's stands in between, a parent that goes is somebody who has put this process into the background.
 */
function onParentGone(onGone: () => void): void {
  if (process.env.npm_command === undefined && process.env.npm_lifecycle_event === undefined) return;
  const before = parents();
  const timer = setInterval(() => {
    if (parents() === before) return;
    clearInterval(timer);
    onGone();
  }, 1000);
  timer.unref();
}

/** The parent, and the parent of a shell. */
function parents(): string {
  try {
    const [, name = "", parent] = /\((.*)\) \S (\d+)/.exec(readFileSync(`/proc/${process.ppid}/stat`, "utf8")) ?? [];
    return `${process.ppid} ${/^(a|ba|da|k|z)?sh$|^busybox$/.test(name) ? parent : ""}`;
  } catch {
    return `${process.ppid}`; // no Linux, or it is gone already
  }
}
