// npm run db:commit -- --message "what changes": makes migrations/current the next file of migrations/committed,
// once graphile-migrate has run all of them on a Postgres of its own.
import { createRequire } from "node:module";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";
import { startPostgres } from "../test/support/postgres.ts";

const { message } = parseArgs({ options: { message: { type: "string" } } }).values;

const require = createRequire(createRequire(import.meta.url).resolve("graphile-migrate"));
// All it is asked is whether there is anything to commit, but it fails on quotes inside dollar quotes.
const minifier = require.resolve("pg-minify");
require(minifier);
Object.assign(require.cache[minifier] ?? {}, { exports: (text: string) => text.replace(/^--.*$/gm, "").trim() });
const { commit } = require("graphile-migrate") as typeof import("graphile-migrate");

const server = await startPostgres({ major: 15 });
try {
  await commit(
    {
      connectionString: await server.createDatabase(),
      shadowConnectionString: await server.createDatabase(),
      rootConnectionString: server.url,
      blankMigrationContent: "-- Alter and drop by hand, then --!include what changed in sql/.\n",
      // What an install runs before the migrations.
      beforeAllMigrations: [
        { _: "sql", file: "prepare.sql" },
        { _: "command", command: "graphile-worker --schema-only --schema notika_worker --connection $GM_DBURL" },
      ],
    },
    message,
  );
} finally {
  await setTimeout(500); // it keeps its connections for a while, and ends the process when one breaks
  await server.stop();
}
