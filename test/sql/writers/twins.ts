import type { PoolClient, QueryResult } from "pg";
import { raw } from "sql-template-tag";
import { expect } from "vitest";
import type { TestDatabase } from "../../support/database.ts";

/** What is written to two schemas that are alike; the tables of one are published. `<schema>` stands for its name. */
export interface Writing {
  /** Makes the tables and their first rows, before anything is published. */
  given: string;
  /** Run one after the other by one session, whose search_path is the schema; the SQLSTATE of one that is to fail. */
  write: (string | [statement: string, fails: string])[];
  /** How many events there must be. */
  captured: Record<`${"insert" | "update" | "delete"} ${string}`, number>;
  /** Whether rows come or go without an event. */
  truncated?: boolean;
  /** How the tables are published, if not in every way. */
  forms?: string[];
  /** Whether a trigger of another writes a row again before the event of the first write: events are in that order. */
  nested?: boolean;
}

type Row = Record<string, unknown>;

interface Event {
  operation: string;
  table: string;
  new: Row | null;
  old: Row | null;
  truncated: boolean;
}

interface Table {
  name: string;
  columns: string[];
  /** Columns that a trigger does not see. */
  virtual: string[];
}

const [plain, noted] = ["plain_twin", "noted_twin"];
const schemas = [plain, noted];

interface Form {
  operations: string[];
  columns?: string[];
  watch?: string[];
  condition?: string;
}

const all = ["insert", "update", "delete"];

/** The ways to publish a table; each is a workflow of its own. */
const publishing: Record<string, (table: Table) => Form> = {
  whole: () => ({ operations: all }),
  some: ({ columns }) => ({ operations: all, columns }),
  filtered: ({ columns }) => ({ operations: all, columns, watch: columns, condition: "true" }),
  // Of one operation, it may be captured by the statement.
  inserted: ({ columns }) => ({ operations: ["insert"], columns }),
  deleted: ({ columns }) => ({ operations: ["delete"], columns }),
};

/**
 * Writes the same with and without Notika, and expects the same results, errors and notices, the same rows in the end, and
 * events that lead, in each form of publishing, from the rows there were to those there are.
 */
export async function expectTwins(
  db: TestDatabase,
  { given, write, captured, truncated = false, forms = Object.keys(publishing), nested = false }: Writing,
) {
  for (const schema of schemas) {
    const made = await inSchema(db, schema, [`create schema ${schema}`, given]);
    expect(made.filter(({ outcome }) => codeOf(outcome))).toEqual([]);
  }
  const tables = await publishTables(db, forms);
  const before = await rowsOf(db, noted, tables);

  const statements = write.map((it) => (typeof it === "string" ? it : it[0]));
  const without = await inSchema(db, plain, statements);
  const results = await inSchema(db, noted, statements);
  for (const [i, statement] of statements.entries()) {
    expect(results[i], statement).toEqual(without[i]);
    expect(codeOf(results[i]?.outcome), statement).toBe(typeof write[i] === "string" ? undefined : write[i]?.[1]);
  }

  const after = await rowsOf(db, noted, tables);
  expect(after).toEqual(await rowsOf(db, plain, tables));
  const events = await eventsOf(db);
  for (const [i, table] of tables.entries()) {
    for (const form of truncated ? [] : ["whole", "some", "filtered"].filter((it) => forms.includes(it))) {
      const its = (events.get(`${form}_${i}`) ?? []).map((event) => ({
        ...event,
        old: ofTable(table, event.old),
        new: ofTable(table, event.new),
      }));
      const led = folded(before.get(table) ?? [], its, nested);
      expect(led, `${form} of ${table.name}`).toEqual(folded(after.get(table) ?? [], [], nested));
    }
  }
  for (const [i, table] of tables.entries()) {
    for (const form of ["inserted", "deleted"].filter((it) => forms.includes(it))) {
      const its = (events.get(`some_${i}`) ?? []).filter(({ operation }) => form.startsWith(operation));
      expect(events.get(`${form}_${i}`) ?? [], `${form} of ${table.name}`).toEqual(its);
    }
  }
  for (const form of ["whole", "some"]) expect(counted(events.get(form) ?? []), form).toEqual(captured);

  await db.script(`
    select notika.unpublish(workflow) from notika.workflows;
    truncate notika.event_log_0, notika.event_log_1, notika.event_log_2;
    set client_min_messages = warning;
    drop schema ${schemas} cascade;`);
}

/** What statements give in a session of their own, in words that are the same for both schemas. */
async function inSchema({ database }: TestDatabase, schema: string, statements: string[]) {
  const client = await database.pool.connect();
  const notices: unknown[] = [];
  const listen = (notice: object) => notices.push(told(notice));
  client.on("notice", listen);
  const results: { outcome: unknown; notices: unknown[] }[] = [];
  try {
    await client.query(`set search_path = ${schema}, public`);
    for (const statement of statements) {
      const outcome = await run(client, statement.replaceAll("<schema>", schema));
      const text = JSON.stringify({ outcome, notices: notices.splice(0) });
      results.push(JSON.parse(text.replaceAll(schema, "<schema>")));
    }
    return results;
  } finally {
    await client.query("rollback");
    await client.query("reset session authorization; reset role; reset all; discard temp");
    client.off("notice", listen);
    client.release();
  }
}

async function run(client: PoolClient, statement: string) {
  try {
    const result: QueryResult | QueryResult[] = await client.query(statement);
    return [result].flat().map(({ command, rowCount, rows }) => ({ command, rowCount, rows }));
  } catch (error) {
    return told(error as object);
  }
}

const codeOf = (outcome: unknown) => (outcome as { code?: string } | undefined)?.code;

/** All that an error or a notice says. */
function told(said: object) {
  const { severity, code, message, detail, hint, where, schema, table, column, dataType, constraint } = said as Row;
  return { severity, code, message, detail, hint, where, schema, table, column, dataType, constraint };
}

/** Publishes each table in each form; a partition or a child is published with its parent. */
async function publishTables(db: TestDatabase, forms: string[]): Promise<Table[]> {
  const tables = await db.query<Table>(`
    select c.relname as name,
           array_agg(a.attname::text order by a.attnum) as columns,
           coalesce(array_agg(a.attname::text) filter (where a.attgenerated = 'v'), '{}') as virtual
      from pg_class as c
      join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relnamespace = '${noted}'::regnamespace and c.relkind in ('r', 'p')
       and not exists (select from pg_inherits as i where i.inhrelid = c.oid)
     group by c.relname
     order by c.relname`);
  for (const [i, table] of tables.entries()) {
    for (const [name, publish] of Object.entries(publishing)) {
      if (!forms.includes(name)) continue;
      const { operations, columns = null, watch = null, condition = null } = publish(table);
      await db.query(
        `select notika.publish($1::text, format('${noted}.%I', $2::text), $3::text[], $4::text[], $5::text[], $6::text)`,
        [`${name}_${i}`, table.name, operations, columns, watch, condition],
      );
    }
  }
  return tables;
}

/** The rows of each table as events would show them. */
async function rowsOf(db: TestDatabase, schema: string, tables: Table[]) {
  const rows = new Map<Table, Row[]>();
  for (const table of tables) {
    const found = await db.database.transaction(async (execute) => {
      await execute(
        raw("set local timezone = 'UTC'; set local intervalstyle = 'iso_8601'; set local datestyle = 'ISO, YMD'"),
      );
      const [columns] = await execute<{ list: string }>(
        raw(`
          select string_agg(
                   case when a.attgenerated = 'v' then 'null'
                        when a.atttypid in ('int8'::regtype, 'numeric'::regtype) then quote_ident(a.attname) || '::text'
                        else quote_ident(a.attname) end
                   || ' as ' || quote_ident(a.attname), ', ' order by a.attnum) as list
            from pg_attribute as a
           where a.attrelid = to_regclass('${`${schema}.${name(table)}`.replaceAll("'", "''")}') and a.attnum > 0 and not a.attisdropped`),
      );
      if (!columns?.list) return [];
      return execute<{ row: Row }>(
        raw(
          `select row_to_json(o)::text as row from (select ${columns.list} from ${schema}.${name(table)}) as o order by 1`,
        ),
      );
    });
    rows.set(
      table,
      found.map(({ row }) => JSON.parse(String(row)) as Row),
    );
  }
  return rows;
}

const name = (table: Table) => `"${table.name.replaceAll('"', '""')}"`;

/** The events of each workflow, and of each form for all tables, oldest first. */
async function eventsOf(db: TestDatabase) {
  const rows = await db.query<{
    workflow: string;
    operation: string;
    table_name: string;
    truncated: boolean;
    new: string;
    old: string;
  }>(`
    select workflow, operation, table_name, truncated, new::text, old::text from notika.event_log order by event_id`);
  const events = new Map<string, Event[]>();
  for (const row of rows) {
    const event = {
      operation: row.operation,
      table: row.table_name.replace(`${noted}.`, ""),
      new: JSON.parse(row.new) as Row | null,
      old: JSON.parse(row.old) as Row | null,
      truncated: row.truncated,
    };
    for (const key of [row.workflow, row.workflow.replace(/_\d+$/, "")]) {
      events.set(key, [...(events.get(key) ?? []), event]);
    }
  }
  return events;
}

/** A row as its table has it: a row of a child may have more columns. */
function ofTable({ columns }: Table, row: Row | null) {
  return row && Object.fromEntries(Object.entries(row).filter(([column]) => columns.includes(column)));
}

/** How often there is which row after the events. */
function folded(rows: Row[], events: Event[], nested: boolean) {
  const counts = new Map<string, number>();
  const count = (row: Row | null, by: number) => {
    if (row === null) return;
    const text = JSON.stringify(Object.entries(row).sort(([a], [b]) => (a < b ? -1 : 1)));
    const times = (counts.get(text) ?? 0) + by;
    if (!nested) expect(times, `of ${text}`).toBeGreaterThanOrEqual(0);
    if (times === 0) counts.delete(text);
    else counts.set(text, times);
  };
  for (const row of rows) count(row, 1);
  for (const event of events) {
    expect(event).toMatchObject({ truncated: false });
    expect([event.old === null, event.new === null], event.operation).toEqual([
      event.operation === "insert",
      event.operation === "delete",
    ]);
    count(event.old, -1);
    count(event.new, 1);
  }
  return [...counts].sort();
}

function counted(events: Event[]) {
  const counts: Record<string, number> = {};
  for (const { operation, table } of events) {
    const what = `${operation} ${table}`;
    counts[what] = (counts[what] ?? 0) + 1;
  }
  return counts;
}
