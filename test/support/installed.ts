import { execFileSync } from "node:child_process";
import { openDatabase } from "../../runner/database/database.ts";
import { install } from "../../runner/install/install.ts";
import type { Major } from "./binaries.ts";
import { copyCluster } from "./clusters.ts";
import { type Postgres, startPostgres } from "./postgres.ts";

/** The database with Notika and nothing else. */
export const installed = "installed";

interface InstalledOptions {
  major: Major;
  settings?: Record<string, string>;
  env?: Record<string, string>;
  /** Whether no other server of the tests may have its system identifier. */
  isUnique?: boolean | undefined;
}

/** Starts a server with a database to copy in which Notika is installed, as by an administrator. */
export async function startInstalled({
  major,
  settings = {},
  env = {},
  isUnique,
}: InstalledOptions): Promise<Postgres> {
  if (isUnique) {
    const postgres = await startPostgres({ major, settings, env, isUnique });
    await makeInstalled(postgres);
    return postgres;
  }
  return startPostgres({
    major,
    settings,
    env,
    fill: (data) =>
      copyCluster(`installed-${major}`, data, async (folder) => {
        const first = await startPostgres({ major });
        await makeInstalled(first);
        await first.kill("SIGINT"); // which writes all of it into its files
        execFileSync("cp", ["-a", `${first.data}/.`, folder]);
        await first.stop();
      }),
  });
}

async function makeInstalled(postgres: Postgres) {
  const model = openDatabase({ connect: await postgres.createDatabase(installed), connections: 1 });
  await install(model).finally(model.close);
}
