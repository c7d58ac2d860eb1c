import type { Client, QueryResult } from "pg";
import { raw, type Sql as Statement } from "sql-template-tag";
import { NotikaError } from "../errors.ts";
import { noteLost } from "./lost_connection.ts";

/** Runs one statement now and returns its rows. */
export type Execute = <Row extends object = Record<string, unknown>>(statement: Statement) => Promise<Row[]>;

/** Runs statements, alone or in a transaction. */
export interface Statements {
  execute: Execute;
  /** Runs statements in one READ COMMITTED transaction: all of them, or, when `work` throws, none. */
  transaction<T>(work: (execute: Execute) => Promise<T>): Promise<T>;
}

/** Runs a statement and returns its rows; of several statements, those of the last. */
export async function query<Row extends object>(
  client: Pick<Client, "query">,
  { text, values }: Statement,
): Promise<Row[]> {
  const missing = values.indexOf(undefined) + 1;
  if (missing > 0) {
    throw new NotikaError("NOTIKA_UNDEFINED", `the value $${missing} of a statement is undefined: ${text.trim()}`, {
      hint: "Use null for NULL.",
    });
  }
  // Without values, the text may have several statements.
  const result: QueryResult<Row> | QueryResult<Row>[] = await (values.length > 0
    ? client.query<Row>(text, values)
    : client.query<Row>(text)
  ).catch((error) => noteLost(Object.defineProperty(error, "statement", { value: text, configurable: true })));
  return (Array.isArray(result) ? result.at(-1) : result)?.rows ?? [];
}

/**
 * A statement without values in a READ COMMITTED transaction of its own, whatever the database's default is: in one
 * message, so that no lost connection leaves it open.
 */
export const atOnce = (statement: string): Statement =>
  raw(`set transaction isolation level read committed; ${statement}`);
