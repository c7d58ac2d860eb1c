import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** The folder with the clusters that this run of the tests has made once, and copies for each server. */
const shelf = () => process.env.NOTIKA_TEST_CLUSTERS;

/**
 * Fills a data folder with a copy of that cluster, which the first to want it makes; without a shelf everybody makes one.
 * Copies have one system identifier.
 */
export async function copyCluster(name: string, data: string, make: (folder: string) => unknown): Promise<void> {
  const folder = shelf() && path.join(shelf() as string, name);
  if (!folder) return void (await make(data));
  await once(folder, make);
  execFileSync("cp", ["-a", `${folder}/.`, data]);
}

/** Makes a folder, unless it is there; several processes may want it at a time. */
async function once(folder: string, make: (folder: string) => unknown): Promise<void> {
  const aside = `${folder}.new`;
  while (!existsSync(folder)) {
    try {
      mkdirSync(aside, { mode: 0o700 });
    } catch {
      await sleep(50); // another process makes it
      continue;
    }
    try {
      if (existsSync(folder)) break; // since it was looked for
      await make(aside);
      renameSync(aside, folder);
    } finally {
      rmSync(aside, { recursive: true, force: true });
    }
  }
}
