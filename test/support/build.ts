import { execFile } from "node:child_process";
import { chmodSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import type { TestProject } from "vitest/node";
import { hireUndertaker } from "./postgres.ts";

const root = path.resolve(import.meta.dirname, "../..");

/** Where the tests' own build is: nobody else replaces it while they run. */
export const built = path.join(root, ".notika/built/runner");

/** Does once what all tests need. */
export async function setup(project: TestProject): Promise<void> {
  const shared = globalThis as { [key: symbol]: Promise<unknown> | undefined };
  const key = Symbol.for("notika.test.build"); // once, however many projects there are
  shared[key] ??= Promise.all([build(), openShelf(project.config.env.NOTIKA_TEST_DATA || tmpdir())]);
  await shared[key];
}

/** Compiles the runner before the first test: tsx would do it again in each of the hundreds of processes that tests start. */
export function build() {
  return promisify(execFile)(
    process.execPath,
    [path.join(root, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json", "--outDir", ".notika/built"],
    { cwd: root },
  );
}

/** A folder for the clusters that servers are copies of; it goes when this process ends. */
function openShelf(folder: string) {
  const shelf = mkdtempSync(path.join(folder, "notika-clusters-"));
  chmodSync(shelf, 0o755);
  hireUndertaker(shelf);
  process.env.NOTIKA_TEST_CLUSTERS = shelf;
}
