import { inspect } from "node:util";
import type { Log } from "../log.ts";
import { currentAttempt } from "./context.ts";
import { stackOf, toError } from "./thrown.ts";

const reported = new WeakSet<Error>();
const survivors = new Set<Log>();
let users = 0;
let exit = process.exit;

/**
 * Gives errors that nothing has caught to the attempt whose code they come from, and keeps a task from ending the process.
 * What comes from no attempt is logged where `log` is given; otherwise it is left to the process, as if this were not here.
 * Returns what ends that.
 */
export function catchStrays(log?: Log): () => void {
  if (log) survivors.add(log);
  if (users++ === 0) {
    process.on("unhandledRejection", onRejection).on("uncaughtException", onException);
    exit = process.exit;
    process.exit = refuseExit;
  }
  let isOver = false;
  return () => {
    if (isOver) return;
    isOver = true;
    if (log) survivors.delete(log);
    if (--users > 0) return;
    process.off("unhandledRejection", onRejection).off("uncaughtException", onException);
    if (process.exit === refuseExit) process.exit = exit;
  };
}

function onRejection(reason: unknown) {
  if (isTaken(reason) || process.listenerCount("unhandledRejection") > 1) return;
  throw reason; // as Node does where nobody listens: it is an uncaught exception then
}

function onException(thrown: unknown) {
  if (isTaken(thrown) || process.listenerCount("uncaughtException") > 1) return;
  process.stderr.write(`${inspect(thrown)}\n`);
  exit(1);
}

function isTaken(thrown: unknown): boolean {
  const error = toError(thrown);
  const attempt = currentAttempt();
  if (reported.has(error)) return true;
  if (attempt) attempt.take(error);
  for (const log of attempt ? [] : survivors) {
    log.error("nothing caught an error that belongs to no run", { error: error.message, stack: stackOf(error) });
  }
  if (!attempt && survivors.size === 0) return false;
  reported.add(error);
  return true;
}

function refuseExit(code?: number | string | null): never {
  const attempt = currentAttempt();
  if (!attempt) return exit(code);
  const error = new Error(`the task called process.exit(${code ?? ""}), which would end the runs of others`);
  attempt.take(error);
  reported.add(error);
  throw error;
}
