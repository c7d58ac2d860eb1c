import type { Execute } from "../database/statements.ts";
import type { Log } from "../log.ts";
import { type Duration, milliseconds } from "./duration.ts";
import type { Event, Operation, Row, Trigger } from "./event.ts";
import { checkOptions, type Options, optionsOf } from "./options.ts";
import type { Step } from "./step.ts";
import { checkSources, type Sources } from "./waits.ts";

/** The argument of a task. */
export interface Context<R extends object = Row, O extends Operation = Operation> {
  /** The event; for a workflow with `debounce` or `digest` the first of its events. */
  event: Event<R, O>;
  /** All events that this run is for, oldest first: more than one with `debounce` or `digest`. */
  events: Event<R, O>[];
  /** The durable steps and the waits of the run. */
  step: Step;
  /** Runs a statement now, in a transaction of its own; the events of its writes record this run as their cause. */
  query: Execute;
  log: Log;
  /** Aborts when the runner has to stop, or the attempt's time is up. */
  signal: AbortSignal;
}

/** The default export of a task module, if it is not just a function. */
export interface Definition<R extends object = Row, O extends Operation = Operation> extends Options, Sources {
  /**
   * The table and changes on which it is published; leave it out if a DBA publishes it in SQL, or if it only has a
   * `schedule`.
   */
  on?: Trigger<O>;
  /** The number of retries of a failed run before it ends as `failed`; default: the database's `max_attempts`. */
  retries?: number;
  /** How long an attempt may take, such as `"30 seconds"`, before it counts as failed; default: no limit. */
  timeout?: Duration;
  /** A run that has not begun after this time, such as `"1 hour"`, is too late to be useful: it ends as `expired`. */
  expires?: Duration;
  run(context: Context<R, O>): unknown;
}

/** A workflow as the runner knows it. */
export interface Workflow extends Readonly<Options>, Readonly<Sources> {
  readonly on?: Trigger;
  readonly retries?: number;
  readonly timeout?: Duration;
  readonly expires?: Duration;
  run(context: Context): unknown;
}

/**
 * Declares a workflow, as the default export of `tasks/<name>.ts`.
 *
 *     export default workflow({
 *       on: { table: "app.users", operations: ["insert"], columns: ["id", "email"] },
 *       async run({ event, log }) {
 *         log.info(`welcome, ${event.new.email}`);
 *       },
 *     });
 */
export function workflow<R extends object = Row, const O extends Operation = "insert">(
  definition: Definition<R, O>,
): Workflow {
  return asWorkflow(definition);
}

/** Checks what a task module exports; throws a TypeError if it is invalid. */
export function asWorkflow(exported: unknown): Workflow {
  if (typeof exported === "function") return { run: exported as Workflow["run"] };
  if (typeof exported !== "object" || exported === null) {
    throw new TypeError("the default export is neither a function nor workflow({ … })");
  }
  const { on, retries, timeout, expires, run } = exported as Partial<Workflow>;
  if (typeof run !== "function") throw new TypeError("workflow({ … }) has no function run");
  if (retries !== undefined && (!Number.isInteger(retries) || retries < 0)) {
    throw new TypeError(`retries must be a whole number from 0, not ${String(retries)}`);
  }
  for (const [name, duration] of Object.entries({ timeout, expires })) {
    if (duration !== undefined && milliseconds(duration) === undefined) {
      throw new TypeError(`${name} must be a length of time, such as "30 seconds", not ${JSON.stringify(duration)}`);
    }
  }
  if (on !== undefined && typeof on?.table !== "string") throw new TypeError("workflow({ on }) has no table");
  checkSources(exported as Sources);
  const options = exported as Options;
  checkOptions(options);
  const [option] = Object.keys(optionsOf(options));
  if (option !== undefined && on === undefined && options.schedule === undefined) {
    throw new TypeError(
      `${option} is published with on, which is missing; for a workflow that a DBA publishes, set it with notika.configure(…)`,
    );
  }
  return exported as Workflow;
}
