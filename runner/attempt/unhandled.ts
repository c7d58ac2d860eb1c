import { inspect } from "node:util";
import { stackOf, toError } from "../errors.ts";
import type { Log } from "../log.ts";
import { currentAttempt } from "./context.ts";

const reported = new WeakSet<Error>();
const logs = new Set<Log>();
let users = 0;
let exit = process.exit;

/**
 * Reports unhandled rejections and uncaught exceptions to the attempt whose code they come from, and refuses a task's
 * process.exit().  An error that belongs to no attempt is logged if `log` is given; otherwise the process handles it as
 * usual.  Returns the function that ends this.
 */
export function catchUnhandled(log?: Log): () => void {
  if (log) logs.add(log);
  if (users++ === 0) {
    process.on("unhandledRejection", onRejection).on("uncaughtException", onException);
    exit = process.exit;
    process.exit = refuseExit;
  }
  let isOver = false;
  return () => {
    if (isOver) return;
    isOver = true;
    if (log) logs.delete(log);
    if (--users > 0) return;
    process.off("unhandledRejection", onRejection).off("uncaughtException", onException);
    if (process.exit === refuseExit) process.exit = exit;
  };
}

function onRejection(reason: unknown) {
  if (isHandled(reason) || process.listenerCount("unhandledRejection") > 1) return;
  throw reason; // as Node does without a listener: an uncaught exception
}

function onException(thrown: unknown) {
  if (isHandled(thrown) || process.listenerCount("uncaughtException") > 1) return;
  process.stderr.write(`${inspect(thrown)}\n`);
  exit(1);
}

function isHandled(thrown: unknown): boolean {
  const error = toError(thrown);
  const attempt = currentAttempt();
  if (reported.has(error)) return true;
  if (attempt) attempt.report(error);
  for (const log of attempt ? [] : logs) {
    log.error("uncaught error that belongs to no run", { error: error.message, stack: stackOf(error) });
  }
  if (!attempt && logs.size === 0) return false;
  reported.add(error);
  return true;
}

function refuseExit(code?: number | string | null): never {
  const attempt = currentAttempt();
  if (!attempt) return exit(code);
  const error = new Error(
    `the task called process.exit(${code ?? ""}), which would end the other runs in this process`,
  );
  attempt.report(error);
  reported.add(error);
  throw error;
}
