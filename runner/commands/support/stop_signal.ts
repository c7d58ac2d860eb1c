import { readFileSync } from "node:fs";

/**
 * Resolves with the reason to stop: a signal, a closed output, or the end of npm.  A second signal ends the process
 * immediately.
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
    onParentGone(() => resolve("npm has ended"));
  });
}

/**
 * Calls `onGone` when npm, or the shell by which npm started this process, has ended: npm passes no signal on.  Without npm,
 * the end of the parent only means that this process runs in the background.
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
    return `${process.ppid}`; // not Linux, or the parent has ended
  }
}
