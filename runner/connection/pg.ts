import { createRequire } from "node:module";

/** The pg that graphile-worker brings along, so that there is one: it calls its own pool's methods. */
export const { Client: PgClient, Pool: PgPool } = createRequire(
  createRequire(import.meta.url).resolve("graphile-worker"),
)("pg") as typeof import("pg");
