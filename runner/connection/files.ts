import { readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { NotikaError } from "../errors.ts";
import type { Given } from "./text.ts";

/** A file of the user's own that libpq looks for, such as `~/.pgpass`. */
export function homeFile(...parts: string[]): string {
  return path.join(homedir(), ...parts);
}

/** Reads the settings of a service from `~/.pg_service.conf` or the system's file; throws NOTIKA_URL if there is none. */
export function readService(name: string, environment: NodeJS.ProcessEnv, file?: string): Given {
  const own = file ?? environment.PGSERVICEFILE ?? homeFile(".pg_service.conf");
  const files = environment.PGSYSCONFDIR ? [own, path.join(environment.PGSYSCONFDIR, "pg_service.conf")] : [own];
  for (const file of files) {
    const found = sections(readIfThere(file) ?? "").get(name);
    if (found) return found;
  }
  // A name with other characters may be a piece of a password, so it is not shown.
  const which = /^[\w.-]{1,63}$/.test(name) ? `service "${name}"` : "such service";
  const where = file === undefined ? files.join(" or ") : "its file";
  throw new NotikaError("NOTIKA_URL", `there is no ${which} in ${where}`, {
    hint: "Services are sections there, such as [my_service], with lines name=value. PGSERVICEFILE names another file.",
  });
}

function sections(text: string): Map<string, Given> {
  const found = new Map<string, Given>();
  let section: Given = {};
  for (const line of text.split(/\r?\n/)) {
    const name = /^\s*\[([^\]]+)\]/.exec(line)?.[1];
    if (name !== undefined) {
      section = {};
      if (!found.has(name)) found.set(name, section);
    }
    const [, key, value] = /^\s*([^#\s[=][^=]*?)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    // The first value of a setting counts.
    if (key !== undefined && value !== undefined) section[key] ??= value;
  }
  return found;
}

/** The password for a place from a password file; undefined: there is none, or others than the file's owner may read it. */
export function passwordFromFile(file: string, place: (string | undefined)[]): string | undefined {
  const state = statSync(file, { throwIfNoEntry: false });
  if (!state?.isFile() || (process.platform !== "win32" && state.mode & 0o077)) return undefined;
  for (const line of (readIfThere(file) ?? "").split(/\r?\n/)) {
    if (line.startsWith("#")) continue;
    const fields = [...line.matchAll(/((?:[^:\\]|\\.)*)(?::|$)/g)].map(([, field = ""]) => field);
    const matches = place.every((value, index) => fields[index] === "*" || plain(fields[index]) === value);
    if (matches && fields.length > place.length) return plain(fields[place.length]);
  }
  return undefined;
}

function plain(field: string | undefined): string | undefined {
  return field?.replace(/\\(.)/g, "$1");
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw new NotikaError("NOTIKA_URL", `cannot read ${file}: ${(error as NodeJS.ErrnoException).code}`, {
      cause: error,
    });
  }
}
