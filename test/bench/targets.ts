import { raw } from "sql-template-tag";
import type { Database } from "../../runner/database/database.ts";
import type { Captor } from "./captors.ts";
import type { ProcessClock } from "./process_clock.ts";

export type Operation = "insert" | "update" | "delete";

/** A table of its own for a captor, so that all can be measured in turn in one database. */
export interface Target {
  table: string;
  /** Empties the table and what was captured, and puts so many rows into the table that nobody captures. */
  reset(rows: number): Promise<void>;
  /** The microseconds that each of so many statements took, one after the other, without the way to the client. */
  statements(operation: Operation, times: number): Promise<number>;
  /** The microseconds that each row of one statement for so many rows took, without the way to the client. */
  bulk(operation: "insert" | "update", rows: number): Promise<number>;
}

export interface TargetOptions {
  /** How often the captor is attached. */
  attachments?: number;
  model?: "orders" | "wide_orders";
  /** The clock of the database's process; without one the server's clock on the wall counts. */
  clock?: ProcessClock | undefined;
}

let number = 0;

export async function openTarget(
  database: Database,
  captor: Captor,
  { attachments = 1, model = "orders", clock }: TargetOptions = {},
): Promise<Target> {
  const table = `bench.target_${++number}`;
  await database.script(`create table ${table} (like bench.${model} including all)`);
  for (let n = 1; n <= attachments; n++) await database.script(captor.attach(table, number * 100 + n));

  const functions = `${table}_`;
  await database.script(
    Object.entries(statementsOn(table))
      .map(([name, statement]) => timed(`${functions}${name}`, name.startsWith("each_"), statement))
      .join("\n"),
  );

  const time = async (name: string, count: number) => {
    const before = clock?.() ?? 0;
    const [row] = await database.execute<{ us: number }>(raw(`select ${functions}${name}(${count}) as us`));
    return clock ? (clock() - before) / count : (row?.us ?? Number.NaN);
  };
  return {
    table,
    async reset(rows) {
      // Triggers do not fire for a replica.
      await database.script(`
        truncate ${[table, ...captor.logs].join(", ")};
        set local session_replication_role = replica;
        ${insertRows(table, rows)}`);
    },
    statements: (operation, times) => time(`each_${operation}`, times),
    bulk: (operation, rows) => time(`all_${operation}`, rows),
  };
}

export const columns = "(id, customer_id, status, amount, currency, email, address, note)";

/** A row whose number is `n`. */
export const row = (n: string) =>
  `${n}, ${n}, 'pending', 12.50, 'EUR', 'ada@example.com', '{"city": "London", "street": "St James''s Square 12"}', 'ring twice'`;

function insertRows(table: string, rows: number | string): string {
  return `insert into ${table} ${columns} select ${row("n")} from generate_series(1, ${rows}) as n;`;
}

function statementsOn(table: string): Record<string, string> {
  return {
    each_insert: `insert into ${table} ${columns} values (${row("n")});`,
    each_update: `update ${table} set status = 'paid', amount = amount + 1 where id = n;`,
    each_delete: `delete from ${table} where id = n;`,
    all_insert: insertRows(table, "times"),
    all_update: `update ${table} set status = 'paid', amount = amount + 1;`,
  };
}

function timed(name: string, isLoop: boolean, statement: string): string {
  return `
    create function ${name}(times integer) returns float8 language plpgsql as $$
    declare
      v_started timestamptz := clock_timestamp();
    begin
      ${isLoop ? `for n in 1..times loop ${statement} end loop;` : statement}
      return extract(epoch from clock_timestamp() - v_started) * 1e6 / times;
    end;
    $$;`;
}
