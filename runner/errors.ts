import { inspect, types } from "node:util";

/** An error of Notika: `code` is stable, `hint` tells how to resolve it, or is undefined. */
export class NotikaError extends Error {
  readonly code: string;
  readonly hint: string | undefined;

  constructor(code: string, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.name = new.target.name;
    this.code = code;
    this.hint = options.hint;
  }
}

/** Thrown for an invalid command line: exit code 2. */
export class UsageError extends NotikaError {
  constructor(message: string, options: { hint?: string } = {}) {
    super("NOTIKA_USAGE", message, options);
  }
}

/** Thrown by a task that would fail at every retry: its run ends as `failed` at once. */
export class NonRetriable extends Error {
  override readonly name = "NonRetriable";
}

/** Thrown by a task or a step that knows when to retry: its run waits until then, and no attempt is counted. */
export class RetryAfter extends Error {
  override readonly name = "RetryAfter";
  readonly at: Date | number;

  /** An instant, or milliseconds from now. */
  constructor(at: Date | number, message = "to be retried later", options?: ErrorOptions) {
    super(message, options);
    this.at = at;
  }
}

/** Thrown by a step that has failed permanently; `cause` is the original error, in the attempt in which it was thrown. */
export class StepError extends Error {
  override readonly name = "StepError";
  readonly step: string;

  constructor({ name, error, thrown }: { name: string; error?: string | null; thrown?: Error | undefined }) {
    super(`step "${name}": ${error ?? "failed"}`, { cause: thrown });
    this.step = name;
  }
}

/** Turns anything that was thrown into an Error with a message. */
export function toError(thrown: unknown): Error {
  if (!(thrown instanceof Error) && !types.isNativeError(thrown)) {
    return new Error(
      typeof thrown === "string" && thrown.trim() ? thrown : `${shown(thrown)} was thrown, not an Error`,
    );
  }
  if (typeof thrown.message !== "string" || thrown.message === "") {
    // Node's AggregateError has no message of its own; the errors in it have one.
    const [part] = Array.isArray((thrown as AggregateError).errors) ? (thrown as AggregateError).errors : [];
    const { code } = thrown as NodeJS.ErrnoException;
    const message = thrown.message || (part ? toError(part).message : (code ?? thrown.name));
    try {
      thrown.message = typeof message === "string" ? message : shown(message);
    } catch {
      return new Error(shown(message), { cause: thrown });
    }
  }
  return thrown;
}

/** The stack of an error, with the path of each module instead of the loader's URL; undefined: it has no stack. */
export function stackOf({ stack }: Error): string | undefined {
  return stack
    ?.replace(/data:text\/javascript,\S*?[?&]filePath=([^\s?&:)]+)/g, (all, file) => {
      try {
        return decodeURIComponent(file);
      } catch {
        return all;
      }
    })
    .replace(/\?(?:tsx-)?namespace=notika-[-0-9a-f]+/g, "");
}

const longestShown = 1000; // characters

function shown(value: unknown): string {
  try {
    const text = inspect(value, { depth: 3, breakLength: Number.POSITIVE_INFINITY, compact: true });
    return text.length > longestShown ? `${text.slice(0, longestShown)} …` : text;
  } catch {
    return "a value that cannot be displayed";
  }
}
