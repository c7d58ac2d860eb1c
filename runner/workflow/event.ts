/** A change of a row that wakes a workflow. */
export type Operation = "insert" | "update" | "delete";

/** A row as json: int8 and numeric are strings, timestamps ISO 8601 in UTC. */
// biome-ignore lint/suspicious/noExplicitAny: like the result of JSON.parse; `Context<User>` gives it a type
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
  /** Whether the row was too big, so that `new` and `old` have only its key. */
  truncated: boolean;
  /** The number of runs that led to this change, each caused by a write of the one before; 0: no run made the change. */
  depth: number;
}

type Image<O extends Operation, Present extends Operation, R> = O extends Present ? R : null;

/** The table and the changes on which a workflow is published from code. */
export interface Trigger<O extends Operation = Operation> {
  /** The table as `schema.name`. */
  table: string;
  /** Default: `["insert"]`. */
  operations?: readonly O[];
  /** The columns in the event; default: the whole row. */
  columns?: readonly string[];
  /** An update counts only when one of these columns changes; default: any update. */
  watch?: readonly string[];
  /** An SQL condition over `new` and `old`; default: none. */
  condition?: string;
  guard?: "block" | "warn" | "off";
  onRename?: "follow" | "block";
}
