import { createRequire } from "node:module";
import type { Extensions, PGlite } from "@electric-sql/pglite";

/** The extensions that scripts create and that PGlite includes; they are passed to it at its start. */
export async function shippedExtensions(...scripts: string[]): Promise<Extensions> {
  const names = new Set(
    scripts.flatMap((script) =>
      [...script.matchAll(/\bcreate\s+extension\s+(?:if\s+not\s+exists\s+)?"?([\w-]+)/gi)].map(([, name = ""]) =>
        name.toLowerCase(),
      ),
    ),
  );
  if (names.has("earthdistance")) names.add("cube"); // CREATE EXTENSION ... CASCADE
  const found = await Promise.all(
    [...names].map(async (name): Promise<[string, Extensions[string]][]> => {
      const module = name.replaceAll("-", "_");
      if (!isShipped(module)) return [];
      const exported = await import(`@electric-sql/pglite/contrib/${module}`);
      return exported[module] ? [[module, exported[module]]] : [];
    }),
  );
  return Object.fromEntries(found.flat());
}

function isShipped(module: string): boolean {
  try {
    createRequire(import.meta.url).resolve(`@electric-sql/pglite/contrib/${module}`);
    return true;
  } catch {
    return false;
  }
}

/** Makes CREATE EXTENSION succeed for an extension that PGlite does not have, by an empty one. */
export function standInForExtension(db: PGlite, name: string, versions: string[]) {
  const { FS, WASM_PREFIX } = db.Module;
  const folder = `${WASM_PREFIX}/share/postgresql/extension`;
  const all = new Set(["0", ...versions]);
  FS.writeFile(`${folder}/${name}.control`, "default_version = '0'\nrelocatable = true\n");
  for (const version of all) {
    FS.writeFile(`${folder}/${name}--${version}.sql`, "");
    for (const other of all) if (other !== version) FS.writeFile(`${folder}/${name}--${other}--${version}.sql`, "");
  }
}
