import type { Client, PoolClient } from "pg";
import { raw } from "sql-template-tag";
import { expectAnswer, type TransactionId } from "./lost_answer.ts";
import { noteLost } from "./lost_connection.ts";
import { type Execute, query, type Statements } from "./statements.ts";

/** Runs `work` in a transaction.  With `others`, it detects that an answer was lost on the network. */
export async function transact<T>(
  client: Client | PoolClient,
  work: (execute: Execute) => Promise<T>,
  others?: Statements,
): Promise<T> {
  let failure: { error: unknown } | undefined;
  let transaction: TransactionId | undefined;
  const expected = <Answer>(answer: Promise<Answer>): Promise<Answer> =>
    others ? expectAnswer(answer, { client: client as Client, transaction, others }) : answer;
  const execute: Execute = (statement) =>
    expected(query(client, statement)).catch((error) => {
      failure ??= { error };
      throw error;
    }) as never;

  [transaction] = await expected(query<TransactionId>(client, begin));
  try {
    const result = await work(execute);
    const { command } = await expected(client.query("commit")).catch(noteLost);
    if (command !== "COMMIT") throw failure?.error;
    return result;
  } catch (error) {
    // A session whose transaction cannot be ended must not be reused.
    await expected(client.query("rollback")).catch(() => (client as Client).end());
    throw error;
  }
}

// A transaction whose client is gone would keep its locks until the server notices, which takes hours.
const begin = raw(`
  begin isolation level read committed;
  select set_config('idle_in_transaction_session_timeout', '5min', true)
   where current_setting('idle_in_transaction_session_timeout') = '0';
  select pg_backend_pid() as pid, extract(epoch from now())::text as began`);
