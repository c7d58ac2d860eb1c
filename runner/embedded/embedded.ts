import { existsSync } from "node:fs";
import { chmod, mkdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import type { Extensions, PGlite } from "@electric-sql/pglite";
import { type Database, openDatabase } from "../database/database.ts";
import { loadPglite } from "./pglite.ts";
import { snapshot } from "./snapshot.ts";
import { PgliteWire } from "./wire.ts";

/** A Postgres in this process. */
export interface Embedded {
  db: PGlite;
  wire: PgliteWire;
  database: Database;
  close(): Promise<void>;
}

export interface EmbeddedOptions {
  /** Puts into a new database what it starts with. */
  prepare: (database: Database) => Promise<unknown>;
  /** A hash of what `prepare` puts there. */
  version: string;
  /** The folder to keep the data in; without it they are in memory.  What is there already stays as it is. */
  dataDir?: string;
  /** The folder of the snapshots that new databases start from. */
  cache?: string;
  /** What CREATE EXTENSION shall find. */
  extensions?: Extensions;
}

/** Opens a Postgres in this process.  `prepare` runs once a version; later starts read what it made. */
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
    // Unpacked aside: a first start that is interrupted leaves nothing half done.
    const aside = `${folder}.new`;
    await rm(aside, { recursive: true, force: true });
    await mkdir(aside, { recursive: true, mode: 0o700 });
    const db = await PGlite.create({ dataDir: aside, loadDataDir: await newData() });
    await db.close();
    await rename(aside, folder);
  }
  // As Postgres has it; the data may have been made with other rights, or copied.
  await chmod(folder, 0o700);
  return PGlite.create({ dataDir: folder });
}
