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

/** Thrown by a task that would fail again however often it were tried: the run ends as `failed` at once. */
export class NonRetriable extends Error {
  override readonly name = "NonRetriable";
}

/** Thrown by a task that knows when to try again: at a date, or after some milliseconds. */
export class RetryAfter extends Error {
  override readonly name = "RetryAfter";
  readonly at: Date;

  constructor(when: Date | number, message?: string, options?: ErrorOptions) {
    const at = when instanceof Date ? when : new Date(Date.now() + when);
    if (Number.isNaN(at.getTime())) throw new TypeError("RetryAfter needs a date or a number of milliseconds");
    super(message ?? `try again at ${at.toISOString()}`, options);
    this.at = at;
  }
}
