/** An error of Notika's own: `code` is stable, `hint` says what to do about it. */
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

/** The command line was not understood: exit code 2. */
export class UsageError extends NotikaError {
  constructor(message: string, options: { hint?: string } = {}) {
    super("NOTIKA_USAGE", message, options);
  }
}

/** Thrown by a task that would fail again however often it were tried: its run ends as `failed` at once. */
export class NonRetriable extends Error {
  override readonly name = "NonRetriable";
}

/** Thrown by a task, or in a step, that knows when to try again: its run waits until then, and no attempt is counted. */
export class RetryAfter extends Error {
  override readonly name = "RetryAfter";
  readonly at: Date | number;

  /** An instant, or milliseconds from now. */
  constructor(at: Date | number, message = "to be tried again later", options?: ErrorOptions) {
    super(message, options);
    this.at = at;
  }
}

/** What a step throws that has failed for good: `cause` is what its work threw, in the attempt in which it did. */
export class StepError extends Error {
  override readonly name = "StepError";
  readonly step: string;

  constructor({ name, error, thrown }: { name: string; error?: string | null; thrown?: Error | undefined }) {
    super(`step "${name}": ${error ?? "failed"}`, { cause: thrown });
    this.step = name;
  }
}
