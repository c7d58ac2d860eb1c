import { existsSync } from "node:fs";
import { chmod, mkdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import type { Extensions, PGlite } from "@electric-sql/pglite";
import { type Database, openDatabase } from "../database/database.ts";
import { loadPglite } from "./pglite.ts";
import { snapshot } from "./snapshot.ts";
import { PgliteWire } from "./wire.ts";

/** A Postgres in this process, by PGlite. */
export interface Embedded {
  db: PGlite;
  wire: PgliteWire;
  database: Database;
  close(): Promise<void>;
}

export interface EmbeddedOptions {
  /** Prepares a new database. */
  prepare: (database: Database) => Promise<unknown>;
  /** A hash of what `prepare` does. */
  version: string;
  /** The folder of the data; default: they are in memory.  Existing data are not prepared again. */
  dataDir?: string;
  /** The folder of the snapshots from which new databases start; default: see `cacheFolder`. */
  cache?: string;
  /** The extensions that CREATE EXTENSION finds; default: none. */
  extensions?: Extensions;
}

/**
 * Opens a Postgres in this process.  `prepare` runs once for each version; later starts read a snapshot.  Throws
 * NOTIKA_NO_PGLITE if PGlite is not installed.
 */
export async function openEmbedded({
  prepare,
  version,
  dataDir,
  cache,
  extensions = {},
}: EmbeddedOptions): Promise<Embedded> {
  const { PGlite } = await loadPglite();
  const newData = () =>
    snapshot({
      version,
      cache,
      async prepare(db) {
        const { database, end } = connect(db);
        await prepare(database).finally(end);
      },
    });
  const db = await (dataDir
    ? openFolder(dataDir, newData)
    : PGlite.create({ loadDataDir: await newData(), extensions }));

  const { wire, database, end } = connect(db);
  return {
    db,
    wire,
    database,
    async close() {
      await end();
      await db.close();
    },
  };
}

function connect(db: PGlite) {
  const wire = new PgliteWire(db);
  const database = openDatabase({ connect: () => wire.connect() });
  const end = async () => {
    await database.close();
    wire.close();
  };
  return { wire, database, end };
}

async function openFolder(dataDir: string, newData: () => Promise<Blob>): Promise<PGlite> {
  const { PGlite } = await loadPglite();
  const folder = path.resolve(dataDir);
  if (!existsSync(path.join(folder, "PG_VERSION"))) {
    // Unpacked into another folder: a first start that is interrupted leaves no incomplete data.
    const aside = `${folder}.new`;
    await rm(aside, { recursive: true, force: true });
    await mkdir(aside, { recursive: true, mode: 0o700 });
    const db = await PGlite.create({ dataDir: aside, loadDataDir: await newData() });
    await db.close();
    await rename(aside, folder);
  }
  // The rights that Postgres requires; the data may have been copied, or created with others.
  await chmod(folder, 0o700);
  return PGlite.create({ dataDir: folder });
}
