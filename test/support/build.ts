import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";

const root = path.resolve(import.meta.dirname, "../..");

/** Where the tests' own build is: nobody else replaces it while they run. */
export const built = path.join(root, ".notika/built/runner");

/** Compiles the runner before the first test: tsx would do it anew in each of the hundreds of processes that tests start. */
export async function setup(): Promise<void> {
  const shared = globalThis as { [key: symbol]: Promise<unknown> | undefined };
  const key = Symbol.for("notika.test.build"); // once, however many projects there are
  shared[key] ??= promisify(execFile)(
    process.execPath,
    [path.join(root, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json", "--outDir", ".notika/built"],
    { cwd: root },
  );
  await shared[key];
}
