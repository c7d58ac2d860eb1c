import type { Pool, QueryResult } from "pg";
import type { Database } from "../database/database.ts";
import type { AcquiredClient } from "../database/pool.ts";

interface Guard {
  isEnding: () => boolean;
  /** Whether somebody waits for the start, who is told that it failed. */
  canFail: () => boolean;
  fail: (error: Error) => void;
  /** Takes jobs for the runner `id`, of the tasks with these numbers. */
  claim: (client: AcquiredClient, id: string, taskIds: number[]) => Promise<Claimed>;
}

type Claimed = Pick<QueryResult, "rows" | "rowCount">;

/**
 * The pool as graphile-worker gets it.  It is never given the connection that it would LISTEN on, which it asks for with a
 * callback: the runner listens itself, and through a transaction-mode pooler that LISTEN would stay on a server connection
 * of others.  And an error ends the shift, unless the statement is tried again: the answer may have been about jobs that are
 * ours now, unknown to us, and on a server that takes no writes it would ask without a pause and then never again.
 * Graphile-worker does not hear of it, because it would leave a rejection unhandled; whatever it could not say of its jobs,
 * they are freed when the shift is over.
 */
export function guardPool({ pool, acquire }: Database, { isEnding, canFail, fail, claim }: Guard): Pool {
  const nothing: Claimed = { rows: [], rowCount: 0 };
  function lose(error: Error & { code?: string }) {
    if (!isEnding() && (isTriedAgain(error) || (canFail() && isOfTheServer(error)))) throw error;
    fail(error);
    return nothing;
  }
  async function connectClient() {
    const client = await acquire(patience).catch((error) => {
      if (!isEnding() && canFail()) throw error;
      fail(error);
    });
    return {
      async query(...given: unknown[]): Promise<unknown> {
        if (!client) return nothing;
        const asked = jobsAsked(given[0]);
        return (asked ? claim(client, ...asked) : client.query(...given)).catch(lose);
      },
      release: () => client?.release(),
    };
  }
  const connect = (callback?: unknown) => (callback ? undefined : connectClient());
  // Only its cron asks the pool itself, and has nothing to do here.
  const query = async () => nothing;
  return new Proxy(pool, {
    get(_, name) {
      const value = Reflect.get(pool, name);
      if (name === "query") return query;
      return name === "connect" ? connect : typeof value === "function" ? value.bind(pool) : value;
    },
  });
}

const patience = 10_000; // milliseconds; graphile-worker's statements are short

/** By graphile-worker itself: serialization failures and deadlocks. */
const isTriedAgain = ({ code = "" }: { code?: string }) => /^40(001|P01)$/.test(code);

/** And not of the way to it. */
const isOfTheServer = (error: { code?: string; severity?: string }) =>
  error.severity !== undefined && !/^(08|57P)/.test(error.code ?? "");

/**
 * The runner and the tasks, if this is the statement by which graphile-worker takes jobs.  It would sort the whole backlog
 * each time: `notika._claim` does not.  One that is not recognized works all the same.
 */
function jobsAsked(statement: unknown): [string, number[]] | undefined {
  const { text = "", values = [] } = statement as { text?: string; values?: unknown[] };
  return /^with j as \(\s+select jobs\.job_queue_id/.test(text) && values.length === 2
    ? (values as [string, number[]])
    : undefined;
}
