import type { Sql } from "sql-template-tag";
import type { Execute } from "../database/statements.ts";
import type { Duration } from "./duration.ts";
import type { Event, Operation, Row } from "./event.ts";
import type { Kept } from "./json.ts";
import type { Change, WaitOptions } from "./waits.ts";

/** What the work of a step is given. */
export interface StepCall {
  /** The same at every attempt and for no other step: for services that take an `Idempotency-Key`. */
  idempotencyKey: string;
  /** Aborts when the attempt is over: the runner stops, or its time is up. */
  signal: AbortSignal;
}

/** Named pieces of a run, each remembered when it is done: after a crash, a retry or a wait its result comes back. */
export interface Step {
  /** Does `work` once and remembers what it returns, as JSON.  An outside effect may happen twice when the runner dies in between. */
  run<T>(name: string, work: (call: StepCall) => T | Promise<T>): Promise<Kept<T>>;
  /** Runs a statement exactly once: it is remembered in its own transaction. */
  query<Row extends object = Record<string, unknown>>(name: string, statement: Sql): Promise<Kept<Row>[]>;
  /**
   * Runs statements exactly once: they and the memory of them are one transaction.  It is undone when it is idle for five
   * minutes in between, unless the database has a limit of its own (`idle_in_transaction_session_timeout`).
   */
  transaction<T>(name: string, work: (query: Execute) => Promise<T>): Promise<Kept<T>>;
  /**
   * Does `work` for each item, some at a time, and remembers each under its key.  An item that fails keeps none of the others
   * from being done, and is tried again alone.
   */
  each<Item, T>(
    name: string,
    items: Iterable<Item>,
    key: (item: Item) => string | number,
    work: (item: Item, call: StepCall) => T | Promise<T>,
    options?: { concurrency?: number },
  ): Promise<Kept<T>[]>;
  /** Waits for a Postgres interval, such as `"3 days"`, or milliseconds.  The run leaves memory, and survives restarts. */
  sleep(name: string, duration: Duration): Promise<void>;
  /** Waits until an instant, or, given a time of day such as `"09:00"`, until the next one. */
  sleepUntil(name: string, until: Date | string, options?: { timeZone?: string }): Promise<void>;
  /**
   * Waits for a row to change, as one of the workflow's `waitsFor` declares it, and gives the event, or null when the time is
   * up.  A change counts that was made after the one that started the run, also before the wait began; of several the first.
   * A later wait gets the next one.
   */
  waitFor<R extends object = Row, const O extends Operation = Operation>(
    name: string,
    change: Change<O>,
    options?: WaitOptions,
  ): Promise<Event<R, O> | null>;
}
