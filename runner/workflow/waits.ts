import { NonRetriable } from "../errors.ts";
import { type Duration, interval } from "./duration.ts";
import type { Operation, Trigger } from "./event.ts";

/** Changes that the runs of a workflow may wait for. */
export interface Source<O extends Operation = Operation> extends Trigger<O> {
  /** Columns whose values a wait names, for example to wait for one user; they must be among `columns`. */
  match?: readonly string[];
}

/** Changes that end runs. */
export interface Cancellation<O extends Operation = Operation> extends Trigger<O> {
  /** Maps columns of that table, which must be among `columns`, to the columns of the run's own row that they must equal. */
  match?: Readonly<Record<string, string>>;
}

/** Changes that affect runs of a workflow that have not ended.  They are published with it. */
export interface Sources {
  /** Changes that `step.waitFor` waits for, by name, each published as `workflow:name`. */
  waitsFor?: Readonly<Record<string, Source>>;
  /** A change that ends the runs it matches as `cancelled`; published as `workflow:cancel`. */
  cancelOn?: Cancellation;
}

/** The change that `step.waitFor` waits for: one of the workflow's `waitsFor`, and the values of its `match`. */
export interface Change<O extends Operation = Operation> {
  table: string;
  /** Needed if several sources have that table. */
  operations?: readonly O[];
  /** Needed if several sources have that table and those operations. */
  condition?: string;
  /** The values of the columns in the source's `match`, as they appear in events; compared as text. */
  match?: Readonly<Record<string, string | number | bigint | boolean>>;
}

/** The limit of a wait. */
export interface WaitOptions {
  /** A Postgres interval, such as `"3 days"`, or milliseconds; default: no timeout. */
  timeout?: Duration;
}

const cancel = "cancel";

/** The sources of a workflow by their names, as they are published. */
export function sourcesOf({ waitsFor = {}, cancelOn }: Sources): Record<string, Source> {
  if (!cancelOn) return { ...waitsFor };
  const { match, ...trigger } = cancelOn;
  const pairs = match && Object.entries(match).map(([column, own]) => (column === own ? column : `${column}=${own}`));
  return { ...waitsFor, [cancel]: { ...trigger, ...(pairs && { match: pairs }) } };
}

/** Throws a TypeError for an invalid source. */
export function checkSources({ waitsFor = {}, cancelOn }: Sources): void {
  if (typeof waitsFor !== "object" || waitsFor === null) throw new TypeError("waitsFor must be an object of sources");
  for (const [name, source] of Object.entries(waitsFor)) {
    if (!/^[A-Za-z][A-Za-z0-9_-]{0,62}$/.test(name)) {
      throw new TypeError(
        `waitsFor: ${JSON.stringify(name)} is not a valid name for a source: letters, digits, _ and -, starting with a letter`,
      );
    }
    if (name === cancel) throw new TypeError("waitsFor: the name cancel is reserved for cancelOn");
    if (typeof source?.table !== "string") throw new TypeError(`waitsFor: ${name} has no table`);
    const { match } = source;
    if (match !== undefined && !(Array.isArray(match) && match.every((column) => typeof column === "string"))) {
      throw new TypeError(`waitsFor: the match of ${name} must be a list of columns, such as ["user_id"]`);
    }
  }
  if (cancelOn === undefined) return;
  if (typeof cancelOn?.table !== "string") throw new TypeError("cancelOn has no table");
  const own = cancelOn.match === undefined ? [] : Object.values(cancelOn.match);
  if (Array.isArray(cancelOn.match) || own.some((column) => typeof column !== "string")) {
    throw new TypeError('cancelOn: match must map columns to those of the run\'s own row, such as { user_id: "id" }');
  }
}

/** A wait for a change, as the database expects it; throws NonRetriable if the workflow has no such source. */
export function waitFor(sources: Sources["waitsFor"] = {}, step: string, change: Change, { timeout }: WaitOptions) {
  const [name, source] = pick(sources, step, change);
  const match = change.match ?? {};
  const columns = source.match ?? [];
  const stray = Object.keys(match).find((column) => !columns.includes(column));
  if (stray !== undefined) {
    const declared = JSON.stringify([...columns, stray]);
    throw refusal(step, `source "${name}" does not compare ${stray}: declare match: ${declared} there, and publish it`);
  }
  const missing = columns.find((column) => match[column] === undefined || match[column] === null);
  if (missing !== undefined) {
    throw refusal(step, `source "${name}" compares ${missing}: give match: { ${missing}: … } with a value`);
  }
  const values = Object.entries(match).map(([column, value]) => {
    if (!["string", "number", "bigint", "boolean"].includes(typeof value) || String(value).includes("\0")) {
      throw refusal(step, `match: ${column} must be a value as it appears in events, such as a string`);
    }
    return [column, String(value)];
  });
  return {
    source: { name, ...source },
    match: Object.fromEntries(values),
    ...(timeout !== undefined && { for: interval(timeout) }),
  };
}

function pick(sources: NonNullable<Sources["waitsFor"]>, step: string, change: Change): [string, Source] {
  const { table, operations, condition } = change;
  const fitting = Object.entries(sources).filter(
    ([, source]) =>
      source.table === table &&
      (operations === undefined || key(operations) === key(source.operations ?? ["insert"])) &&
      (condition === undefined || condition.trim() === source.condition?.trim()),
  );
  const [only, other] = fitting;
  if (only && !other) return only;

  if (!only) {
    const { match, ...trigger } = change;
    const declared = { ...trigger, ...(match && { match: Object.keys(match) }) };
    throw refusal(
      step,
      `the workflow declares no such change: add waitsFor: { my_source: ${JSON.stringify(declared)} }, and publish it`,
    );
  }
  const names = fitting.map(([name]) => name).join(", ");
  throw refusal(step, `the sources ${names} fit: name one by its operations and condition`);
}

const key = (operations: readonly Operation[]) => [...operations].sort().join();

function refusal(step: string, problem: string): NonRetriable {
  return new NonRetriable(`step.waitFor(${JSON.stringify(step)}): ${problem}`);
}
