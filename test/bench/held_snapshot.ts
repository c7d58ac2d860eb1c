import type { Database } from "../../runner/database/database.ts";

/** A transaction that goes on seeing what was there when it began, so that nothing since can be cleaned up. */
export interface HeldSnapshot {
  /** Ends it; fails where it had ended before, because then something was measured without it. */
  release(): Promise<void>;
}

/** Holds a snapshot of a database with connections to spare. */
export async function holdSnapshot(database: Database): Promise<HeldSnapshot> {
  // Not lent and taken back for each statement: a connection that lies idle in the pool is closed after a minute.
  const client = await database.pool.connect();
  const see = async () => (await client.query("select pg_current_snapshot()::text as seen")).rows[0]?.seen;
  await client.query("begin isolation level repeatable read");
  const seen = await see();
  return {
    async release() {
      const still = await see().catch(() => undefined);
      client.release(true);
      if (still !== seen) throw new Error("the snapshot was not held to the end");
    },
  };
}
