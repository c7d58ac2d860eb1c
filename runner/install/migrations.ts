import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

/** A released step of the schema: taken once in a database's life, and never edited. */
export interface Migration {
  name: string;
  hash: string;
  text: string;
}

/** The released migrations, oldest first. */
export async function committedMigrations(): Promise<Migration[]> {
  const files = (await readdir(inPackage("migrations/committed/"))).filter((file) => file.endsWith(".sql")).sort();
  return Promise.all(
    files.map(async (file) => {
      const text = await readText(`migrations/committed/${file}`);
      return { name: file.replace(/\.sql$/, ""), hash: createHash("sha256").update(text).digest("hex"), text };
    }),
  );
}

/** What is to be the next migration, its includes resolved; the repository has it, a release does not. */
export async function currentMigration(): Promise<string | undefined> {
  const text = await readText("migrations/current/1-current.sql").catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
  const lines = text?.split("\n").map((line) => {
    const file = /^--!\s*include\s+(\S+\.sql)\s*$/.exec(line)?.[1];
    return file === undefined ? line : readText(`sql/${file}`);
  });
  return lines && (await Promise.all(lines)).join("\n");
}

/** All of `sql/`, in the order in which it is loaded; it may be run again. */
export async function readCode(): Promise<string> {
  const files = (await readdir(inPackage("sql/"))).filter((file) => file.endsWith(".sql")).sort();
  return (await Promise.all(files.map((file) => readText(`sql/${file}`)))).join("\n");
}

/** Reads a file of this package, wherever the package is, compiled or not. */
export function readText(path: string): Promise<string> {
  return readFile(inPackage(path), "utf8");
}

const packageJson = pathToFileURL(createRequire(import.meta.url).resolve("notika/package.json"));

/** Where a file of this package is. */
export function inPackage(path: string): URL {
  return new URL(path, packageJson);
}
