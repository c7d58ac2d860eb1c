import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { cacheFolder } from "../../runner/embedded/snapshot.ts";
import { putInPlace } from "./binaries.ts";

/** The folder with the files of a package as published, without its dependencies; nothing of it is run. */
export async function unpack(name: string, version: string): Promise<string> {
  const folder = path.join(cacheFolder(), `${name.replace(/\W+/g, "-").replace(/^-/, "")}-${version}`);
  if (!existsSync(folder)) {
    await mkdir(path.dirname(folder), { recursive: true });
    await putInPlace(folder, async (aside) => {
      const run = promisify(execFile);
      await run("npm", ["pack", `${name}@${version}`, "--ignore-scripts", "--pack-destination", aside], { cwd: aside });
      const archive = (await readdir(aside)).find((file) => file.endsWith(".tgz"));
      await run("tar", ["-xzf", `${archive}`], { cwd: aside });
    });
  }
  return path.join(folder, "package");
}
