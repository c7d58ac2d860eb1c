import { existsSync } from "node:fs";
import path from "node:path";
import type { Database } from "../../database/database.ts";
import { openEmbedded } from "../../embedded/embedded.ts";
import { listenTcp } from "../../embedded/server.ts";
import { installVersion } from "../../install/bundle.ts";
import { install } from "../../install/install.ts";
import { lockFolder } from "./folder_lock.ts";

export interface DevPostgres {
  database: Database;
  port: number;
  /** Whether its data were created by this start. */
  isNew: boolean;
  close(): Promise<void>;
}

/** Starts an embedded Postgres with its data in a folder.  It listens on the port or, if that is in use, on a free one. */
export async function startPostgres(folder: string, port: number): Promise<DevPostgres> {
  const closing: (() => Promise<void>)[] = [await lockFolder(folder)];
  const close = async () => {
    for (const step of closing.splice(0).reverse()) await step();
  };
  try {
    const dataDir = path.join(folder, "data");
    const isNew = !existsSync(dataDir);
    const embedded = await openEmbedded({ prepare: install, version: await installVersion(), dataDir });
    closing.push(embedded.close);
    if (!isNew) await install(embedded.database);

    const listen = (port: number) => listenTcp(embedded.wire, port, "127.0.0.1");
    const server = await listen(port).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") return listen(0);
      throw error;
    });
    closing.push(server.close);
    return { database: embedded.database, port: server.port, isNew, close };
  } catch (error) {
    await close();
    throw error;
  }
}
