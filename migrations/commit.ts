// npm run db:commit -- --message "what changes": makes migrations/current the next file of migrations/committed,
// once graphile-migrate, as .gmrc sets it up, has run all of them on a Postgres of its own.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";
import { raw } from "sql-template-tag";
import { openDatabase } from "../runner/database/database.ts";
import { startPostgres } from "../test/support/postgres.ts";

const { message } = parseArgs({ options: { message: { type: "string" } } }).values;

const require = createRequire(createRequire(import.meta.url).resolve("graphile-migrate"));
// All it is asked is whether there is anything to commit, but it fails on quotes inside dollar quotes.
const minifier = require.resolve("pg-minify");
require(minifier);
Object.assign(require.cache[minifier] ?? {}, { exports: (text: string) => text.replace(/^--.*$/gm, "").trim() });
const { commit } = require("graphile-migrate") as typeof import("graphile-migrate");

const server = await startPostgres({ major: 15 });
// An ordinary role, as it owns Notika wherever an administrator installs it.
const owner = "notika";
const admin = openDatabase({ connect: server.url, connections: 1 });
try {
  await admin.execute(raw(`create role ${owner} login`));
  await commit(
    {
      ...JSON.parse(await readFile(new URL("../.gmrc", import.meta.url), "utf8")),
      connectionString: await ownedDatabase(),
      shadowConnectionString: await ownedDatabase(),
      rootConnectionString: server.url,
    },
    message,
  );
} finally {
  await admin.close();
  await setTimeout(500); // it keeps its connections for a while, and ends the process when one breaks
  await server.stop();
}

async function ownedDatabase(): Promise<string> {
  const url = new URL(await server.createDatabase());
  await admin.execute(raw(`alter database "${url.pathname.slice(1)}" owner to ${owner}`));
  url.username = owner;
  return url.href;
}
