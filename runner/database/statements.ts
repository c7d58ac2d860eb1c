import type { Client, PoolClient, QueryResult } from "pg";
import { raw, type Sql as Statement } from "sql-template-tag";
import { NotikaError } from "../errors.ts";
import type { Execute, Statements } from "./database.ts";
import { expectAnswer, type Place } from "./lost_answer.ts";
import { noteLost } from "./lost_connection.ts";

/** Runs a statement and gives its rows; of several statements those of the last. */
export async function query<Row extends object>(
  client: Pick<Client, "query">,
  { text, values }: Statement,
): Promise<Row[]> {
  const missing = values.indexOf(undefined) + 1;
  if (missing > 0) {
    throw new NotikaError("NOTIKA_UNDEFINED", `the value $${missing} of a statement is undefined: ${text.trim()}`, {
      hint: "Give null where NULL is meant.",
    });
  }
  // Without values it may be several statements.
  const result: QueryResult<Row> | QueryResult<Row>[] = await (values.length > 0
    ? client.query<Row>(text, values)
    : client.query<Row>(text)
  ).catch((error) => noteLost(Object.defineProperty(error, "statement", { value: text, configurable: true })));
  return (Array.isArray(result) ? result.at(-1) : result)?.rows ?? [];
}

/** Runs `work` in a transaction; with `others` at hand it is noticed when an answer got lost on the way. */
export async function transact<T>(
  client: Client | PoolClient,
  work: (execute: Execute) => Promise<T>,
  others?: Statements,
): Promise<T> {
  let failure: { error: unknown } | undefined;
  let place: Place | undefined;
  const expected = <Answer>(answer: Promise<Answer>): Promise<Answer> =>
    others ? expectAnswer(answer, { client: client as Client, place, others }) : answer;
  const execute: Execute = (statement) =>
    expected(query(client, statement)).catch((error) => {
      failure ??= { error };
      throw error;
    }) as never;

  [place] = await expected(query<Place>(client, begin));
  try {
    const result = await work(execute);
    const { command } = await expected(client.query("commit")).catch(noteLost);
    if (command !== "COMMIT") throw failure?.error;
    return result;
  } catch (error) {
    // A session whose transaction does not end is of no use to anybody else.
    await expected(client.query("rollback")).catch(() => (client as Client).end());
    throw error;
  }
}

// What is left open by a process that is gone would keep its locks for as long as the server believes in it: hours.
const begin = raw(`
  begin isolation level read committed;
  select set_config('idle_in_transaction_session_timeout', '5min', true)
   where current_setting('idle_in_transaction_session_timeout') = '0';
  select pg_backend_pid() as pid, extract(epoch from now())::text as began`);

/**
 * A statement without values in a READ COMMITTED transaction of its own, whatever the database's default is: in one
 * message, so that no lost connection leaves it open.
 */
export const atOnce = (statement: string): Statement =>
  raw(`set transaction isolation level read committed; ${statement}`);
