import { readFileSync } from "node:fs";
import { arch, cpus, platform, release, totalmem } from "node:os";
import path from "node:path";

/** What was measured on, and with which versions. */
export function describeMachine(): Record<string, string> {
  const dependency = (name: string) =>
    JSON.parse(readFileSync(path.resolve(import.meta.dirname, `../../node_modules/${name}/package.json`), "utf8"))
      .version;
  return {
    cpu: `${cpus().length} × ${cpus()[0]?.model.trim()}, ${arch()}`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    system: `${platform()} ${release()}`,
    node: process.versions.node,
    "graphile-worker": dependency("graphile-worker"),
    pglite: dependency("@electric-sql/pglite"),
  };
}

/** Facts as a list of Markdown. */
export const factList = (facts: Record<string, string>) =>
  Object.entries(facts)
    .map(([name, value]) => `- ${name}: ${value}`)
    .join("\n");
