import type { Execute } from "../database/database.ts";
import type { Log } from "../log.ts";
import { type Duration, milliseconds } from "./duration.ts";
import { checkOptions, type Options, optionsOf } from "./options.ts";
import type { Step } from "./step.ts";
import { checkSources, type Sources } from "./waits.ts";

/** A change of a row that wakes a workflow. */
export type Operation = "insert" | "update" | "delete";

/** A row as json: int8 and numeric are strings, timestamps ISO 8601 in UTC. */
// biome-ignore lint/suspicious/noExplicitAny: like the result of JSON.parse; `Context<User>` says more
export type Row = Record<string, any>;

/** One captured change.  `id` is the id of the run, too. */
export interface Event<R extends object = Row, O extends Operation = Operation> {
  id: string;
  workflow: string;
  /** What happened to the row; `emit`, `schedule`, `backfill` and `replay` are other ways to start a run. */
  operation: O | "emit" | "schedule" | "backfill" | "replay";
  /** The table as `schema.name`; null for a workflow that is published on none, only on a `schedule`. */
  table: string | null;
  /** When it was captured, as an ISO string in UTC. */
  at: string;
  /** The published columns after the change; null after a delete. */
  new: Image<O, "insert" | "update", R>;
  /** The published columns before the change; null before an insert. */
  old: Image<O, "update" | "delete", R>;
  /** Whether the row was too big, and `new` and `old` have only its key. */
  truncated: boolean;
  /** How many runs stand between this change and a write that no run made. */
  depth: number;
}

type Image<O extends Operation, Present extends Operation, R> = O extends Present ? R : null;

/** What a task works with. */
export interface Context<R extends object = Row, O extends Operation = Operation> {
  /** The event; for a workflow with `debounce` or `digest` the first of its events. */
  event: Event<R, O>;
  /** All events that this run is for, oldest first: more than one with `debounce` or `digest`. */
  events: Event<R, O>[];
  /** Named pieces of the run that are remembered, and waits. */
  step: Step;
  /** Runs a statement now, in a transaction of its own; a write that wakes a workflow knows this run as its cause. */
  query: Execute;
  log: Log;
  /** Aborts when the runner has to stop, or the attempt's time is up. */
  signal: AbortSignal;
}

/** What a workflow is published with, when it is published from code. */
export interface Trigger<O extends Operation = Operation> {
  /** The table as `schema.name`. */
  table: string;
  /** Default: `["insert"]`. */
  operations?: readonly O[];
  /** What the event carries; default: the whole row. */
  columns?: readonly string[];
  /** An update counts only when one of these columns changes; default: any update. */
  watch?: readonly string[];
  /** SQL over `new` and `old`. */
  condition?: string;
  guard?: "block" | "warn" | "off";
  onRename?: "follow" | "block";
}

/** What a task module exports by default: a function, or more about it. */
export interface Definition<R extends object = Row, O extends Operation = Operation> extends Options, Sources {
  /** Where it is published; leave it out when a DBA publishes it in SQL, or when it only has a `schedule`. */
  on?: Trigger<O>;
  /** How often a failed run is tried again before it ends as `failed`; default: the database's `max_attempts`. */
  retries?: number;
  /** How long an attempt may take, such as `"30 seconds"`, before it counts as failed; default: as long as it likes. */
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

/** Takes what a task module exports; throws a TypeError that says what is wrong with it. */
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
    throw new TypeError(`${option} is published with on, which is missing; a DBA sets it with notika.configure(…)`);
  }
  return exported as Workflow;
}
