import { type Duration, interval, milliseconds } from "./duration.ts";

/** Columns of the event's `new`, of a delete's `old`: one, or several that are combined. */
export type Columns = string | readonly string[];

/** How the events of a workflow become runs.  They are published with `on`. */
export interface Options {
  /** One run for each value of these columns, while that run is remembered; a further event is logged as `cancelled`. */
  key?: Columns;
  /** The maximum number of runs at a time, over all runners; a run that waits or is to be retried later does not count. */
  concurrency?: number;
  /**
   * Runs with the same value of these columns start one after the other, in the order of their events.  A run that waits or
   * is to be retried later holds back those behind it; one that has failed permanently does not.
   */
  order?: Columns;
  /**
   * One run for the events of the same `by`, when no event has come for `window`, or `max` after the first (default: ten
   * windows).
   */
  debounce?: { by?: Columns; window: Duration; max?: Duration };
  /** One run for the events of the same `by`, `window` after the first, or when there are `max` events (default: 10,000). */
  digest?: { by?: Columns; window: Duration; max?: number };
  /**
   * What happens at a TRUNCATE if deletes wake the workflow, because it makes no events: it is recorded in `notika.guard_log`
   * and `notika.health` (default), also raises a warning, or is refused.
   */
  truncate?: "record" | "warn" | "refuse";
  /** Starts runs at these times, also without `on`; the event's `new` has the planned time as `planned_at`. */
  schedule?: Schedule;
  /**
   * A whole number from -1000 to 1000; default: 0.  Runs with a smaller number start first; workflows with the same number
   * take turns.
   */
  priority?: number;
}

/** Times at which runs of a workflow start. */
export interface Schedule {
  /** Minute, hour, day, month and weekday, as in `"30 2 * * mon-fri"`; or `"@daily"`. */
  cron: string;
  /** The time zone of these times, such as `"Europe/Berlin"`; default: UTC. */
  timeZone?: string;
  /** What happens to times that passed while no runner was running; default: `"skip"`. */
  missed?: "skip" | "catch up";
}

/** The options that are given, as the database expects them. */
export function optionsOf({
  key,
  concurrency,
  order,
  debounce,
  digest,
  schedule,
  truncate,
  priority,
}: Options): object {
  const given = {
    key,
    concurrency,
    order,
    debounce: debounce && {
      ...debounce,
      window: interval(debounce.window),
      ...(debounce.max !== undefined && { max: interval(debounce.max) }),
    },
    digest: digest && { ...digest, window: interval(digest.window) },
    schedule,
    truncate,
    priority,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

/** Throws a TypeError for an invalid option.  The database checks whether the columns exist. */
export function checkOptions({
  key,
  concurrency,
  order,
  debounce,
  digest,
  schedule,
  truncate,
  priority,
}: Options): void {
  for (const [name, columns] of Object.entries({ key, order, "debounce.by": debounce?.by, "digest.by": digest?.by })) {
    if (columns !== undefined && !areColumns(columns)) {
      throw new TypeError(`${name} must be a column or a list of columns, not ${JSON.stringify(columns)}`);
    }
  }
  for (const [name, count] of Object.entries({ concurrency, "digest.max": digest?.max })) {
    if (count !== undefined && !(Number.isInteger(count) && count >= 1 && count <= 10_000)) {
      throw new TypeError(`${name} must be a whole number from 1 to 10000, not ${JSON.stringify(count)}`);
    }
  }
  if (priority !== undefined && !(Number.isInteger(priority) && Math.abs(priority) <= 1000)) {
    throw new TypeError(`priority must be a whole number from -1000 to 1000, not ${JSON.stringify(priority)}`);
  }
  const times = {
    ...(debounce && { "debounce.window": debounce.window }),
    ...(debounce?.max !== undefined && { "debounce.max": debounce.max }),
    ...(digest && { "digest.window": digest.window }),
  };
  for (const [name, time] of Object.entries(times)) {
    if (time === undefined || !milliseconds(time)) {
      throw new TypeError(`${name} must be a length of time, such as "5 minutes", not ${JSON.stringify(time)}`);
    }
  }
  if (debounce && digest)
    throw new TypeError("debounce and digest exclude each other: both gather events into one run");
  if (truncate !== undefined && !["record", "warn", "refuse"].includes(truncate)) {
    throw new TypeError(`truncate must be "record", "warn" or "refuse", not ${JSON.stringify(truncate)}`);
  }
  // The database checks the fields of a cron expression.
  if (schedule !== undefined && typeof schedule?.cron !== "string") {
    throw new TypeError('schedule must be an object such as { cron: "30 2 * * *", timeZone: "Europe/Berlin" }');
  }
}

function areColumns(columns: Columns): boolean {
  const list = typeof columns === "string" ? [columns] : columns;
  return Array.isArray(list) && list.length > 0 && list.every((column) => typeof column === "string");
}
