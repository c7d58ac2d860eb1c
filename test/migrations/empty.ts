import type { Database } from "../../runner/database/database.ts";
import { openEmbedded } from "../../runner/embedded/embedded.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";

/** A Postgres of its own without Notika. */
export async function openEmpty(): Promise<Database & AsyncDisposable> {
  const { database, close } = await openEmbedded({ prepare: async () => {}, version: "empty" });
  return Object.assign(database, { [Symbol.asyncDispose]: close });
}

/** The same after an install. */
export async function openInstalled(): Promise<Database & AsyncDisposable> {
  const { database, close } = await openEmbedded({ prepare: install, version: await installVersion() });
  return Object.assign(database, { [Symbol.asyncDispose]: close });
}
