import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import packageJson from "../../package.json" with { type: "json" };
import { built } from "../support/build.ts";
import { notikaCommand, start } from "./process.ts";

const hint = `Optional dependencies were left out. Run: npm install --save-dev @electric-sql/pglite@${packageJson.optionalDependencies["@electric-sql/pglite"]}`;
const message = "the Postgres in this process needs @electric-sql/pglite, which is not installed";

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "notika-without-"));
  await mkdir(path.join(folder, "tasks"));
  await writeFile(path.join(folder, "tasks/welcome_email.mjs"), "export default () => {};");
  await writeFile(path.join(folder, "schema.sql"), "create table users (id int primary key);");
  await writeFile(path.join(folder, "migration.sql"), "drop table users;");
  await writeFile(path.join(folder, "hooks.mjs"), hooks);
  await writeFile(
    path.join(folder, "register.mjs"),
    `import { register } from "node:module"; register(${JSON.stringify(pathToFileURL(path.join(folder, "hooks.mjs")).href)});`,
  );
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test.each([
  ["dev", ["dev", "--port", "0"]],
  ["check --schema", ["check", "--schema", "schema.sql", "migration.sql"]],
])("notika %s says what to install", async (_, args) => {
  const { code, stdout, stderr } = await run(...notikaCommand, ...args);

  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toMatch(new RegExp(`(^|\\n)error: ${escaped(message)}\\nhint: ${escaped(hint)}\\n$`));
});

test("notika/test says it, too, and what needs no such Postgres works", async () => {
  const [node = "", ...options] = notikaCommand.slice(0, -1);
  await writeFile(
    path.join(folder, "script.mjs"),
    `import { createTestNotika } from ${JSON.stringify(pathToFileURL(path.join(built, "testing/index.js")).href)};
     await createTestNotika({ tasks: {} }).catch(({ code, message, hint }) => console.log(JSON.stringify({ code, message, hint })));`,
  );

  const tested = await run(node, ...options, "script.mjs");
  expect(tested.stderr).toBe("");
  expect(JSON.parse(tested.stdout)).toEqual({ code: "NOTIKA_NO_PGLITE", message, hint });
  expect(await run(...notikaCommand, "--version")).toMatchObject({ code: 0, stdout: `${packageJson.version}\n` });
});

/** As if it had been left out of node_modules. */
const hooks = `export async function resolve(specifier, context, next) {
  if (!/^@electric-sql\\/pglite(\\/|$)/.test(specifier)) return next(specifier, context);
  throw Object.assign(new Error("Cannot find package '@electric-sql/pglite' imported from " + context.parentURL), {
    code: "ERR_MODULE_NOT_FOUND",
  });
}`;

function run(...[node = "", ...args]: string[]) {
  return start([node, "--import", pathToFileURL(path.join(folder, "register.mjs")).href, ...args], folder).ended;
}

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
