import { existsSync } from "node:fs";
import { cp, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { Database } from "../../database/database.ts";
import { NotikaError } from "../../errors.ts";
import { inPackage } from "../../install/migrations.ts";
import { version } from "../../install/version.ts";

/** Writes the example's tasks to a folder and its SQL beside that; existing files are not changed. */
export async function writeExample(tasks: string): Promise<void> {
  const project = path.dirname(tasks);
  const example = fileURLToPath(inPackage("runner/example/"));
  await mkdir(tasks, { recursive: true });
  for (const [from, to] of [
    ["tasks", tasks],
    ["schema.sql", path.join(project, "schema.sql")],
    ["seed.sql", path.join(project, "seed.sql")],
  ] as const) {
    await cp(path.join(example, from), to, { recursive: true, force: false });
  }
  await makeResolvable(project);
}

/** Runs one of the example's SQL files; throws NOTIKA_EXAMPLE if it fails. */
export async function runExample(database: Database, tasks: string, file: "schema.sql" | "seed.sql"): Promise<void> {
  const script = path.relative("", path.join(path.dirname(tasks), file));
  await database.script(await readFile(script, "utf8")).catch((cause) => {
    throw new NotikaError("NOTIKA_EXAMPLE", `${script}: ${cause.message}`, {
      hint: "Correct it, or remove it to restore the file of the example.",
      cause,
    });
  });
}

/** Makes the tasks, and an editor, find notika and its types in a folder without npm install. */
async function makeResolvable(project: string) {
  const { resolve } = createRequire(path.join(project, "package.json"));
  try {
    resolve("notika/package.json");
    return;
  } catch {}

  const packageJson = path.join(project, "package.json");
  if (!existsSync(packageJson)) {
    const content = { private: true, type: "module", dependencies: { notika: `^${await version()}` } };
    await writeFile(packageJson, `${JSON.stringify(content, null, 2)}\n`);
  }
  const link = path.join(project, "node_modules/notika");
  await mkdir(path.dirname(link), { recursive: true });
  await rm(link, { force: true }); // it may point to a folder that npx has removed
  await symlink(fileURLToPath(inPackage("./")), link, "junction");
}
