import { execFile } from "node:child_process";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import packageJson from "../../package.json" with { type: "json" };
import { committedMigrations } from "../../runner/install/migrations.ts";

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "notika-package-"));
  await promisify(execFile)("npm", ["run", "build"]);
  await promisify(execFile)("npm", ["pack", "--ignore-scripts", "--pack-destination", folder]);
  await writeFile(join(folder, "package.json"), JSON.stringify({ private: true, type: "module" }));
  await inFolder(
    "npm",
    "install",
    `./notika-${packageJson.version}.tgz`,
    "--prefer-offline",
    "--no-audit",
    "--no-fund",
  );
}, 180_000);
afterAll(() => rm(folder, { recursive: true, force: true }));

test("the package has the documentation, and neither tests nor what is not released", async () => {
  const files = await readdir(join(folder, "node_modules/notika"), { recursive: true });

  for (const file of ["migrations/prepare.sql", "docs/tutorial.md", "docs/reference.md", "llms.txt"]) {
    expect(files).toContain(file);
  }
  expect(
    files.filter((file) => /^test\/|\.test\.|^docs\/.*\.ts$|^migrations\/(current|fixtures|commit\.)/.test(file)),
  ).toEqual([]);
});

test("the command runs from the package", async () => {
  const version = await inFolder("npx", "--no-install", "notika", "--version");
  const script = await inFolder("npx", "--no-install", "notika", "sql");

  expect(version.trim()).toBe(packageJson.version);
  expect(script).toContain(`-- Notika ${packageJson.version}, graphile-worker `);
  for (const { name, hash } of await committedMigrations()) expect(script).toContain(`('${name}', '${hash}')`);
});

test("its entries load and have types", async () => {
  await writeFile(
    join(folder, "entries.ts"),
    `import { NonRetriable, NotikaError, sql, workflow } from "notika";
import { createRunner } from "notika/runner";
import { createTestNotika } from "notika/test";

for (const entry of [createRunner, NonRetriable, NotikaError, sql, workflow, createTestNotika]) {
  console.log(typeof entry);
}
// @ts-expect-error: it is not any
const one: number = workflow;
// @ts-expect-error: it is not any
const two: number = createTestNotika;
`,
  );
  const options = [
    "--strict",
    "--noEmit",
    "--module",
    "nodenext",
    "--target",
    "es2023",
    "--lib",
    "es2023,esnext.disposable",
  ];

  await inFolder(resolve("node_modules/.bin/tsc"), ...options, "entries.ts");
  const output = await inFolder(resolve("node_modules/.bin/tsx"), "entries.ts");

  expect(output.trim().split("\n")).toEqual(Array(6).fill("function"));
});

test("importing notika loads nothing of the runner, nor what that needs", async () => {
  const hooks = `import { writeSync } from "node:fs";
    export const load = (url, context, next) => (writeSync(1, url + "\\n"), next(url, context));`;
  await writeFile(join(folder, "hooks.mjs"), hooks);
  await writeFile(
    join(folder, "register.mjs"),
    `import { register } from "node:module"; register("./hooks.mjs", import.meta.url);`,
  );
  await writeFile(join(folder, "definitions.mjs"), `import "notika";`);
  await writeFile(join(folder, "runner.mjs"), `import "notika/runner";`);

  const loadedBy = async (script: string) =>
    (await inFolder(process.execPath, "--import", "./register.mjs", script))
      .split("\n")
      .flatMap((url) => /\/node_modules\/((?:@[^/]+\/)?[^/]+\/.*)$/.exec(url)?.[1] ?? []);
  const loaded = await loadedBy("definitions.mjs");

  expect(loaded).toContain("notika/dist/runner/index.js");
  expect(
    loaded.filter(
      (file) => !/^(notika\/dist\/runner\/(index|errors|workflow\/\w+)\.js$|sql-template-tag\/)/.test(file),
    ),
  ).toEqual([]);
  // What would be seen.
  expect(await loadedBy("runner.mjs")).toEqual(
    expect.arrayContaining([expect.stringMatching(/^pg\//), expect.stringMatching(/^graphile-worker\//)]),
  );
});

async function inFolder(command: string, ...args: string[]): Promise<string> {
  return (await promisify(execFile)(command, args, { cwd: folder, maxBuffer: Number.POSITIVE_INFINITY })).stdout;
}
