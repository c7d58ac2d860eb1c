import { readText } from "./migrations.ts";

/** The version of this package. */
export async function version(): Promise<string> {
  return (JSON.parse(await readText("package.json")) as { version: string }).version;
}

/** The command that brings this package, or the database, to the version of the other; null: they have the same. */
export function versionRemedy({ own, installed }: { own: string; installed: string }): string | null {
  if (installed === own) return null;
  const isAhead = installed.localeCompare(own, "en", { numeric: true }) > 0;
  return isAhead ? `npm install notika@${installed}` : "npx notika upgrade";
}
