import type { Client, PoolClient, QueryResult } from "pg";
import type { Sql as Statement } from "sql-template-tag";
import type { Execute } from "./database.ts";
import { NotikaError } from "./errors.ts";

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
  ).catch((error) => {
    throw Object.defineProperty(error, "statement", { value: text, configurable: true });
  });
  return (Array.isArray(result) ? result.at(-1) : result)?.rows ?? [];
}

/** Runs `work` in a transaction. */
export async function transact<T>(client: Client | PoolClient, work: (execute: Execute) => Promise<T>): Promise<T> {
  let failure: { error: unknown } | undefined;
  const execute: Execute = (statement) =>
    query(client, statement).catch((error) => {
      failure ??= { error };
      throw error;
    }) as never;

  await client.query("begin isolation level read committed");
  try {
    const result = await work(execute);
    const { command } = await client.query("commit");
    if (command !== "COMMIT") throw failure?.error;
    return result;
  } catch (error) {
    // A session whose transaction does not end is of no use to anybody else.
    await client.query("rollback").catch(() => (client as Client).end());
    throw error;
  }
}
