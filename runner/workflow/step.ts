import type { Sql } from "sql-template-tag";
import type { Execute } from "../database/statements.ts";
import type { Duration } from "./duration.ts";
import type { Event, Operation, Row } from "./event.ts";
import type { Kept } from "./json.ts";
import type { Change, WaitOptions } from "./waits.ts";

/** The argument of the work of a step. */
export interface StepCall {
  /** The same at every attempt, and different for every other step: for services that accept an `Idempotency-Key`. */
  idempotencyKey: string;
  /** Aborts when the attempt is over: the runner stops, or its time is up. */
  signal: AbortSignal;
}

/** Durable steps of a run.  The result of each is kept when it is done, and returned after a crash, a retry or a wait. */
export interface Step {
  /**
   * Does `work` once and keeps its result as JSON.  An effect outside the database may happen twice if the runner dies before
   * the result is kept.
   */
  run<T>(name: string, work: (call: StepCall) => T | Promise<T>): Promise<Kept<T>>;
  /** Runs a statement exactly once: its result is kept in the same transaction. */
  query<Row extends object = Record<string, unknown>>(name: string, statement: Sql): Promise<Kept<Row>[]>;
  /**
   * Runs statements exactly once: the result is kept in the same transaction.  It is rolled back when it is idle for five
   * minutes, unless the database has a limit of its own (`idle_in_transaction_session_timeout`).
   */
  transaction<T>(name: string, work: (query: Execute) => Promise<T>): Promise<Kept<T>>;
  /**
   * Does `work` for each item, `concurrency` at a time (default: 10), and keeps each result under the key of its item.  An
   * item that fails does not prevent the others, and is retried alone.
   */
  each<Item, T>(
    name: string,
    items: Iterable<Item>,
    key: (item: Item) => string | number,
    work: (item: Item, call: StepCall) => T | Promise<T>,
    options?: { concurrency?: number },
  ): Promise<Kept<T>[]>;
  /**
   * Waits for a Postgres interval, such as `"3 days"`, or milliseconds.  The run takes no memory meanwhile, and survives
   * restarts.
   */
  sleep(name: string, duration: Duration): Promise<void>;
  /** Waits until an instant, or, given a time of day such as `"09:00"`, until the next one. */
  sleepUntil(name: string, until: Date | string, options?: { timeZone?: string }): Promise<void>;
  /**
   * Waits for a change of a row that one of the workflow's `waitsFor` declares, and returns its event, or null at the timeout.
   * Every change counts that was made after the one that started the run, even before the wait began; of several, the first
   * ends the wait.  A later wait gets the next one.
   */
  waitFor<R extends object = Row, const O extends Operation = Operation>(
    name: string,
    change: Change<O>,
    options?: WaitOptions,
  ): Promise<Event<R, O> | null>;
}
