/** Somebody who captures the changes of a table. */
export interface Captor {
  name: string;
  /** SQL that attaches it to a table, under a number of its own. */
  attach: (table: string, number: number) => string;
  /** The tables that what it captures goes to. */
  logs: string[];
}

const ring = [0, 1, 2].map((segment) => `notika.event_log_${segment}`);
const projected = "columns => '{id,customer_id,status,amount}'";

export const captors = {
  none: { name: "no capture", attach: () => "", logs: [] },
  empty: triggered("empty trigger", "empty.capture", []),
  emptyWhen: {
    name: "empty trigger, no match",
    attach: (table, number) => `
      create trigger change_${number} after insert or update on ${table}
        for each row when (new.status = 'refunded') execute function empty.capture();
      create trigger delete_${number} after delete on ${table}
        for each row when (old.status = 'refunded') execute function empty.capture()`,
    logs: [],
  },
  appendRow: triggered("a constant row kept", "append.capture_row", ["append.log"]),
  appendEvent: triggered("a constant event kept", "append.capture_event", ["append.event_log"]),
  appendEvents: {
    name: "a constant event kept, by statement",
    attach: (table, number) =>
      Object.entries({ insert: "new", update: "new", delete: "old" })
        .map(
          ([operation, rows]) => `
            create trigger ${operation}_${number} after ${operation} on ${table}
              referencing ${rows} table as changed for each statement execute function append.capture_events()`,
        )
        .join(";"),
    logs: ["append.event_log"],
  },
  projected: notika("notika, 4 columns", projected),
  each: {
    name: "notika, 4 columns, a workflow each",
    attach: (table, number) =>
      ["insert", "update", "delete"]
        .map((operation) => publish(`${operation}_${number}`, table, `{${operation}}`, projected))
        .join(";"),
    logs: ring,
  },
  wholeRow: notika("notika, whole row", "columns => null"),
  noMatch: {
    name: "notika, no match",
    attach: (table, number) => `
      ${publish(`miss_${number}`, table, "{insert,update}", `${projected}, condition => 'new.status = ''refunded'''`)};
      ${publish(`miss_delete_${number}`, table, "{delete}", `${projected}, condition => 'old.status = ''refunded'''`)}`,
    logs: ring,
  },
  hasura: triggered("Hasura-style", "hasura.capture", ["hasura.event_log"]),
  hasuraColumns: triggered("Hasura-style, 4 columns", "hasura.capture_columns", ["hasura.event_log"]),
  pgmq: triggered("pgmq-style", "pgmq.capture", ["pgmq.q_orders"]),
  pgq: triggered("PgQ-style", "pgq.capture", ["pgq.event_1_0"]),
  audit: triggered("audit-style", "audit.capture", ["audit.record_version"]),
  addJob: triggered("add_job in the trigger", "add_job.capture", ["notika_worker._private_jobs"]),
} satisfies Record<string, Captor>;

const remarks: Partial<Record<keyof typeof captors, string>> = {
  projected: "all four are strings in json. With one that is not, such as an integer, it costs 0.7 µs more.",
  appendRow: "nobody who keeps anything in a trigger can go below it.",
  appendEvent: "nobody can go below it who keeps a log with a number, a transaction and a time for each event.",
  emptyWhen:
    "a trigger by hand with the condition of the one that matches nothing. Postgres reads and plans a condition again for " +
    "each statement, so no trigger with one costs less.",
  noMatch:
    "the condition compares text. A number that Postgres has to cast, as the 0 of amount < 0, it casts again for each " +
    "statement, which takes 1 µs more.",
  each: "one for inserts, one for updates, one for deletes. Postgres allows the first and the last to be captured by the statement.",
};

/** What one has to know of those who are compared. */
export function remarksOn(names: string[]): string {
  return Object.entries(remarks)
    .map(([key, remark]) => ({ name: captors[key as keyof typeof captors].name, remark }))
    .filter(({ name }) => names.includes(name))
    .map(({ name, remark }) => `${name}: ${remark}`)
    .join(" ");
}

function triggered(name: string, call: string, logs: string[]): Captor {
  return {
    name,
    attach: (table, number) => `
      create trigger capture_${number} after insert or update or delete on ${table}
        for each row execute function ${call}()`,
    logs,
  };
}

function notika(name: string, columns: string): Captor {
  return {
    name,
    attach: (table, number) => publish(`change_${number}`, table, "{insert,update,delete}", columns),
    logs: ring,
  };
}

function publish(workflow: string, table: string, operations: string, options: string): string {
  return `select notika.publish('${workflow}', '${table}', operations => '${operations}', ${options})`;
}
