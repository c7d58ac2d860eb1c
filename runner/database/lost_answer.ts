// A test may have replaced the global ones by fakes.
import { clearTimeout, setTimeout } from "node:timers";
import type { Client } from "pg";
import sql from "sql-template-tag";
import type { Statements } from "./statements.ts";

/** A transaction as the server identifies it. */
export interface TransactionId {
  pid: number;
  /** When it began, in seconds. */
  began: string;
}

const patience = { first: 10_000, last: 1000 }; // milliseconds

interface Setting {
  client: Pick<Client, "end">;
  transaction: TransactionId | undefined;
  /** Other connections, to ask about this one. */
  others: Statements;
  pause?: typeof patience;
}

/**
 * Waits for the answer to a statement of a transaction, for any time while the server is busy with it.  If the server is
 * idle, the answer was lost on the network: the connection is closed.
 */
export async function expectAnswer<T>(
  answer: Promise<T>,
  { client, transaction, others, pause = patience }: Setting,
): Promise<T> {
  let isOver = false;
  let timer = setTimeout(look, pause.first, false);

  async function look(wasIdle: boolean) {
    const question = transaction ? (wasIdle ? terminate(transaction) : ask(transaction)) : sql`select true as idle`;
    const isIdle = await others
      .transaction((execute) => execute<{ idle: boolean }>(question))
      .then(([found]) => found?.idle ?? true)
      .catch(() => false); // the database cannot be reached; the statement itself fails
    if (isOver) return;
    if (isIdle && wasIdle) return void client.end();
    timer = setTimeout(look, isIdle ? pause.last : pause.first, isIdle); // the answer may still arrive
  }

  try {
    return await answer;
  } finally {
    isOver = true;
    clearTimeout(timer);
  }
}

/** Whether the server waits for a statement of ours in this transaction; no row: it has ended. */
const ask = ({ pid, began }: TransactionId) => sql`
  select a.state like 'idle%' as idle
    from pg_stat_activity as a
   where a.pid = ${pid}::int and extract(epoch from a.xact_start)::text = ${began}::text`;

/**
 * The same, and ends the session: it would keep its locks until the server notices that the connection is dead, which takes
 * hours.
 */
const terminate = (transaction: TransactionId) => sql`
  select b.idle and pg_terminate_backend(${transaction.pid}::int) as idle from (${ask(transaction)}) as b`;
