import { NotikaError } from "../errors.ts";
import { readText } from "../install/migrations.ts";

const name = "@electric-sql/pglite";

/** Loads PGlite, an optional dependency; throws NOTIKA_NO_PGLITE if it is not installed. */
export async function loadPglite(): Promise<typeof import("@electric-sql/pglite")> {
  try {
    return await import("@electric-sql/pglite");
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code !== "ERR_MODULE_NOT_FOUND" || !message.includes(name)) throw cause;
    const { optionalDependencies } = JSON.parse(await readText("package.json"));
    throw new NotikaError("NOTIKA_NO_PGLITE", `the Postgres in this process needs ${name}, which is not installed`, {
      hint: `Optional dependencies were left out. Run: npm install --save-dev ${name}@${optionalDependencies[name]}`,
      cause,
    });
  }
}
