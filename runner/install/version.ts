import { committedMigrations, readText } from "./migrations.ts";

/** The version of this package. */
export async function version(): Promise<string> {
  return (JSON.parse(await readText("package.json")) as { version: string }).version;
}

/** The version of Notika in a database. */
export interface Installed {
  version: string;
  /** Its migrations; null: the version is too old to list them. */
  migrations: string[] | null;
}

/** How a database differs from this package, and the command that resolves it; null: they match. */
export async function differenceTo(installed: Installed): Promise<{ message: string; remedy: string } | null> {
  const own = await version();
  if (installed.version !== own) {
    const isAhead = installed.version.localeCompare(own, "en", { numeric: true }) > 0;
    return {
      message: `the database has notika ${installed.version}, this is notika ${own}`,
      remedy: isAhead ? `npm install notika@${installed.version}` : "npx notika upgrade",
    };
  }

  const known = (await committedMigrations()).map(({ name }) => name);
  const had = installed.migrations ?? known.slice(0, -1);
  const missing = known.find((name) => !had.includes(name));
  if (missing) return { message: `the database lacks migration "${missing}"`, remedy: "npx notika upgrade" };

  const unknown = had.find((name) => !known.includes(name));
  return unknown === undefined
    ? null
    : {
        message: `the database has migration "${unknown}", which this notika does not know`,
        remedy: "npm install notika@latest",
      };
}
