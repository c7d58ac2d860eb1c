import type { Database } from "../../runner/database/database.ts";
import { openEmbedded } from "../../runner/embedded/embedded.ts";

/** A Postgres of its own without Notika. */
export async function openEmpty(): Promise<Database & AsyncDisposable> {
  const { database, close } = await openEmbedded({ prepare: async () => {}, version: "empty" });
  return Object.assign(database, { [Symbol.asyncDispose]: close });
}
