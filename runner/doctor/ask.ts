import type { Client } from "pg";

/**
 * Runs a query that finds only objects of the catalogs, never a user's function of the same name.  Leaves nothing behind on a
 * pooler's connection.
 */
export async function ask<Row extends object>(client: Client, text: string, values: unknown[] = []): Promise<Row[]> {
  await client.query("begin; set local search_path = pg_catalog, pg_temp");
  try {
    return (await client.query<Row>(text, values)).rows;
  } finally {
    await client.query("rollback");
  }
}
