import { watchParent } from "./parent.ts";

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
    watchParent(() => resolve("npm is gone"));
  });
}
