import { readText } from "./migrations.ts";

/** The version of this package. */
export async function version(): Promise<string> {
  return (JSON.parse(await readText("package.json")) as { version: string }).version;
}
