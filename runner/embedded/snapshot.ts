import { accessSync, constants, existsSync, lstatSync, mkdirSync, mkdtempSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { crc32 } from "node:zlib";
import type { PGlite } from "@electric-sql/pglite";
import { loadPglite } from "./pglite.ts";

export interface Recipe {
  /** Must change whenever the result of `prepare` changes. */
  version: string;
  prepare(db: PGlite): Promise<void>;
  /** The folder of the snapshots. */
  cache?: string | undefined;
}

/** The data of a PGlite after `prepare`: created once, then read from a file in the cache. */
export async function snapshot({ version, prepare, cache = cacheFolder() }: Recipe): Promise<Blob> {
  const { PGlite } = await loadPglite();
  // Every snapshot starts from the snapshot of an empty database, because initdb takes most of the time.
  const empty = () => cached(path.join(cache, emptyFile()), () => dataOf(PGlite.create()));
  return cached(path.join(cache, `${pgliteVersion()}-${version}.tar`), async () =>
    dataOf(PGlite.create({ loadDataDir: await empty() }), prepare),
  );
}

/** The folder of caches: in node_modules of the current package, or else among the temporary files. */
export function cacheFolder(): string {
  for (let folder = process.cwd(); folder !== path.dirname(folder); folder = path.dirname(folder)) {
    const cache = path.join(folder, "node_modules/.cache/notika");
    if (existsSync(path.join(folder, "package.json")) && isWritable(cache)) return cache;
  }
  shared ??= temporaryFolder();
  return shared;
}

let shared: string | undefined;

/** A folder for this user among the temporary files; one for this process if another user could write to that. */
function temporaryFolder(): string {
  const folder = path.join(tmpdir(), `notika-${process.getuid?.() ?? "cache"}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { uid, mode } = lstatSync(folder);
  const isOwn = !process.getuid || (uid === process.getuid() && (mode & 0o022) === 0);
  return isOwn ? folder : mkdtempSync(path.join(tmpdir(), "notika-"));
}

const emptyFile = () => `${pgliteVersion()}.tar`;
const kept = 4;

async function dataOf(creation: Promise<PGlite>, prepare?: Recipe["prepare"]): Promise<Blob> {
  const db = await creation;
  try {
    await prepare?.(db);
    await db.exec("checkpoint");
    return await db.dumpDataDir("none");
  } finally {
    await db.close();
  }
}

async function cached(file: string, make: () => Promise<Blob>): Promise<Blob> {
  const found = await load(file);
  if (found) return found;
  const made = await make();
  await save(file, made).catch(() => {}); // without a cache only time is lost
  return made;
}

/** Writes the data with a checksum at the end: PGlite ends the process when it starts from incomplete files. */
async function save(file: string, data: Blob) {
  const bytes = Buffer.from(await data.arrayBuffer());
  const checksum = Buffer.alloc(4);
  checksum.writeUInt32BE(crc32(bytes));

  const folder = path.dirname(file);
  const unfinished = `${file}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  try {
    await writeFile(unfinished, Buffer.concat([bytes, checksum]));
    await rename(unfinished, file);
  } finally {
    await rm(unfinished, { force: true });
  }
  await removeOld(folder);
}

async function load(file: string): Promise<Blob | undefined> {
  const bytes = await readFile(file).catch(() => Buffer.alloc(0));
  const end = bytes.length - 4;
  if (end <= 0 || crc32(bytes.subarray(0, end)) !== bytes.readUInt32BE(end)) return undefined;
  return new Blob([bytes.subarray(0, end)]);
}

/** Removes old snapshots: each takes 40 MB, and each change of the SQL makes a new one. */
async function removeOld(folder: string) {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".tar") && name !== emptyFile());
  const files = await Promise.all(
    names.map(async (name) => ({ name, at: (await stat(path.join(folder, name))).mtimeMs })),
  );
  const old = files.sort((a, b) => b.at - a.at).slice(kept);
  await Promise.all(old.map(({ name }) => rm(path.join(folder, name), { force: true })));
}

function pgliteVersion(): string {
  const require = createRequire(import.meta.url);
  const packageFile = path.join(path.dirname(require.resolve("@electric-sql/pglite")), "../package.json");
  return require(packageFile).version;
}

function isWritable(folder: string): boolean {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
