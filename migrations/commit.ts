// npm run db:commit -- --message "what changes": makes migrations/current the next file of migrations/committed,
// once graphile-migrate, as .gmrc sets it up, has run all of them on a Postgres of its own.
import { readFile } from "node:fs/promises";
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
      ...JSON.parse(await readFile(new URL("../.gmrc", import.meta.url), "utf8")),
      connectionString: await server.createDatabase(),
      shadowConnectionString: await server.createDatabase(),
      rootConnectionString: server.url,
    },
    message,
  );
} finally {
  await setTimeout(500); // it keeps its connections for a while, and ends the process when one breaks
  await server.stop();
}
