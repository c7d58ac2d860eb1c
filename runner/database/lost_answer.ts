// Those of the globals may be fakes of a test.
import { clearTimeout, setTimeout } from "node:timers";
import type { Client } from "pg";
import sql from "sql-template-tag";
import type { Statements } from "./statements.ts";

/** A transaction as its server knows it, once it has begun. */
export interface Place {
  pid: number;
  /** When it began, in seconds. */
  began: string;
}

const patience = { first: 10_000, last: 1000 }; // milliseconds

interface Setting {
  client: Pick<Client, "end">;
  place: Place | undefined;
  /** What else can be asked. */
  others: Statements;
  pause?: typeof patience;
}

/**
 * Waits for the answer to a statement of a transaction, and closes the connection when the answer got lost on the way.
 * A statement may take as long as it likes, but then the server is at it.
 */
export async function expectAnswer<T>(
  answer: Promise<T>,
  { client, place, others, pause = patience }: Setting,
): Promise<T> {
  let isOver = false;
  let timer = setTimeout(look, pause.first, false);

  async function look(wasIdle: boolean) {
    const question = place ? (wasIdle ? terminate(place) : ask(place)) : sql`select true as idle`;
    const isIdle = await others
      .transaction((execute) => execute<{ idle: boolean }>(question))
      .then(([found]) => found?.idle ?? true)
      .catch(() => false); // the database is away, and says so itself
    if (isOver) return;
    if (isIdle && wasIdle) return void client.end();
    timer = setTimeout(look, isIdle ? pause.last : pause.first, isIdle); // the answer may be on its way
  }

  try {
    return await answer;
  } finally {
    isOver = true;
    clearTimeout(timer);
  }
}

/** Whether the server waits for us in this transaction; no row: it has ended. */
const ask = ({ pid, began }: Place) => sql`
  select a.state like 'idle%' as idle
    from pg_stat_activity as a
   where a.pid = ${pid}::int and extract(epoch from a.xact_start)::text = ${began}::text`;

/** The same, and ends it then, because it would keep its locks for as long as the server believes in us: hours. */
const terminate = (place: Place) => sql`
  select b.idle and pg_terminate_backend(${place.pid}::int) as idle from (${ask(place)}) as b`;
