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
