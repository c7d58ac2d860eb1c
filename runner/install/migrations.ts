import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

/** A released migration: applied once to a database, and never edited. */
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

/** The next migration, with its includes resolved; undefined: this is a release, which has none. */
export async function currentMigration(): Promise<string | undefined> {
  const text = await readText("migrations/current/1-current.sql").catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
  const lines = text?.split("\n").map((line) => {
    const file = /^--!\s*include\s+(\S+\.sql)\s*$/.exec(line)?.[1];
    return file === undefined ? line : readText(`sql/${tables}/${file}`);
  });
  return lines && (await Promise.all(lines)).join("\n");
}

const tables = "0_tables";

/** The files that create the present tables, in the order in which they are loaded; the migrations have the same result. */
export function tableFiles(): Promise<string[]> {
  return sqlFiles((room) => room === tables);
}

/** The files of the SQL code, which is replaced as a whole, in the order in which they are loaded. */
export function codeFiles(): Promise<string[]> {
  return sqlFiles((room) => room !== tables);
}

/** The text of all code files; it may be run repeatedly. */
export async function readCode(): Promise<string> {
  return (await Promise.all((await codeFiles()).map(readText))).join("\n");
}

async function sqlFiles(isWanted: (room: string) => boolean): Promise<string[]> {
  const files = await readdir(inPackage("sql/"), { recursive: true });
  return files
    .filter((file) => file.endsWith(".sql") && isWanted(path.dirname(file)))
    .sort()
    .map((file) => `sql/${file}`);
}

/** Reads a file of this package, wherever the package is, compiled or not. */
export function readText(path: string): Promise<string> {
  return readFile(inPackage(path), "utf8");
}

const packageJson = pathToFileURL(createRequire(import.meta.url).resolve("notika/package.json"));

/** The URL of a file of this package. */
export function inPackage(path: string): URL {
  return new URL(path, packageJson);
}
