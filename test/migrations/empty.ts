import { PGlite } from "@electric-sql/pglite";
import { type Database, openDatabase } from "../../runner/database.ts";
import { PgliteWire } from "../../runner/pglite/wire.ts";

/** A Postgres of its own without Notika. */
export async function openEmpty(): Promise<Database & AsyncDisposable> {
  dataDir ??= emptyDataDir();
  const pglite = await PGlite.create({ loadDataDir: await dataDir });
  const wire = new PgliteWire(pglite);
  const database = openDatabase({ connect: () => wire.connect() });
  return Object.assign(database, {
    async [Symbol.asyncDispose]() {
      await database.close();
      wire.close();
      await pglite.close();
    },
  });
}

// Made once a file: initdb takes three times as long as unpacking what it made.
let dataDir: Promise<Blob> | undefined;

async function emptyDataDir(): Promise<Blob> {
  const pglite = await PGlite.create();
  const dump = await pglite.dumpDataDir("none");
  await pglite.close();
  return dump;
}
