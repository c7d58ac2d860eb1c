import { execFile } from "node:child_process";
import { mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { built } from "../support/build.ts";
import { quickWasm } from "../support/node.ts";
import { pageNames, readPage } from "../support/page.ts";

const root = path.resolve(import.meta.dirname, "../..");
const folder = path.join(root, ".notika/docs");
const entries = Object.entries({
  notika: "index.ts",
  "notika/runner": "worker/index.ts",
  "notika/test": "testing/index.ts",
});

interface Source {
  /** Where it stands on its page. */
  place: string;
  /** What its first line calls it. */
  file: string | undefined;
  text: string;
}

const sources: Source[] = [];
for (const page of [...(await pageNames()), "llms.txt"]) {
  for (const { text, line } of (await readPage(page)).all.filter(({ language }) => language === "ts")) {
    sources.push({ place: `${page}:${line}`, file: /^\/\/ (\S+\.ts)\n/.exec(text)?.[1], text });
  }
}
const tests = sources.filter(({ file }) => file?.endsWith(".test.ts"));

beforeAll(() => mkdir(folder, { recursive: true }));
afterAll(() => rm(folder, { recursive: true, force: true }));

test("the tests of the pages pass", async () => {
  for (const { place, file = "", text } of tests) {
    const tasks = path.join(folder, `${place.replace(/\W/g, "_")}`, "tasks");
    await mkdir(tasks, { recursive: true });
    const located = text.replace(`tasks: "tasks"`, `tasks: ${JSON.stringify(tasks)}`);
    await writeFile(path.join(tasks, "..", file), withSource(located));
    // The task of the same page; else that of the page which explains it.
    const name = `tasks/${file.replace(/\.test\.ts$/, ".ts")}`;
    const [page] = place.split(":");
    const task =
      sources.find((source) => source.file === name && source.place.startsWith(`${page}:`)) ??
      sources.find((source) => source.file === name);
    if (task) await writeFile(path.join(tasks, path.basename(name)), withSource(task.text));
  }
  await writeFile(
    path.join(folder, "vitest.config.ts"),
    `export default { test: { testTimeout: 60_000, execArgv: ${JSON.stringify(quickWasm)} } }`,
  );

  const { stdout } = await promisify(execFile)(
    process.execPath,
    [path.join(root, "node_modules/vitest/vitest.mjs"), "run", "--root", folder, "--reporter=json", "--no-isolate"],
    { cwd: folder },
  ).catch((error) => error);

  const { testResults, numPassedTests } = JSON.parse(stdout);
  const failed = testResults.filter(({ status }: { status: string }) => status !== "passed");
  expect({ failed, numPassedTests }).toEqual({ failed: [], numPassedTests: tests.length });
}, 120_000);

test("the TypeScript of the pages has no errors of types", async () => {
  const place = path.join(folder, "types");
  await mkdir(place, { recursive: true });
  const files = await Promise.all(
    sources.map(async ({ place: { length }, text, ...source }, index) => {
      const file = path.join(place, `${index}_${source.file?.replace(/\W/g, "_") ?? length}.ts`);
      await writeFile(file, text);
      return file;
    }),
  );
  await writeFile(
    path.join(place, "tsconfig.json"),
    JSON.stringify({
      extends: path.join(root, "tsconfig.json"),
      compilerOptions: { noEmit: true },
      include: [],
      files,
    }),
  );

  const { stdout } = await promisify(execFile)(
    process.execPath,
    [path.join(root, "node_modules/typescript/bin/tsc"), "-p", place],
    { cwd: root },
  ).catch((error) => error);

  expect(stdout).toBe("");
}, 60_000);

/** Tasks are not loaded by vitest: they get the built source by its path. */
function withSource(text: string): string {
  return entries.reduce(
    (result, [name, file]) =>
      result.replaceAll(`from "${name}"`, `from "${path.join(built, file.replace(/ts$/, "js"))}"`),
    text,
  );
}
