import { existsSync } from "node:fs";
import { cp, mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { Database } from "../database.ts";
import { inPackage } from "../migrations.ts";

/** Writes the example's tasks to `folder` and its schema and rows beside it; a task that is there is left alone. */
export async function writeExample(folder: string): Promise<void> {
  const from = fileURLToPath(inPackage("runner/example/"));
  await mkdir(folder, { recursive: true });
  for (const file of ["schema.sql", "seed.sql"]) {
    const to = path.join(path.dirname(folder), file);
    if (!existsSync(to)) await cp(path.join(from, file), to);
  }
  await cp(path.join(from, "tasks"), folder, { recursive: true, force: false });
}

/** Runs one of the example's SQL files. */
export async function seedExample(database: Database, folder: string, file: "schema.sql" | "seed.sql"): Promise<void> {
  await database.script(await readFile(path.join(path.dirname(folder), file), "utf8"));
}
