import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createTestNotika } from "../../runner/testing/index.ts";
import { loadTasks } from "../../runner/workflow/load.ts";
import type { Context } from "../../runner/workflow/workflow.ts";

let project: string;
let folder: string;

beforeEach(async () => {
  project = await mkdtemp(path.join(tmpdir(), "notika-tasks-"));
  folder = path.join(project, "tasks");
  await write("package.json", '{ "type": "module" }');
  await mkdir(folder);
  await linkNotika();
});
afterEach(() => rm(project, { recursive: true, force: true }));

describe("a folder of task modules", () => {
  test("holds functions and workflows, in TypeScript and JavaScript", async () => {
    await write("tasks/greet.ts", "export default async (context: object): Promise<string> => 'from ts';");
    await write("tasks/farewell-1.js", "export default () => 'from js';");
    await write("tasks/Shout.mjs", "export default { run: () => 'from mjs' };");
    await write(
      "tasks/welcome.ts",
      `import { workflow } from "notika";
       export default workflow({
         on: { table: "app.users", operations: ["insert", "update"] },
         retries: 3,
         run: async ({ event }) => event.new?.id,
       });`,
    );

    const tasks = await loadTasks(folder);

    expect(Object.keys(tasks).sort()).toEqual(["Shout", "farewell-1", "greet", "welcome"]);
    expect(tasks.welcome).toMatchObject({ on: { table: "app.users", operations: ["insert", "update"] }, retries: 3 });
    expect(await tasks.welcome?.run({ event: { new: { id: 7 } } } as unknown as Context)).toBe(7);
    expect(await Promise.all(["greet", "farewell-1", "Shout"].map((name) => tasks[name]?.run({} as Context)))).toEqual([
      "from ts",
      "from js",
      "from mjs",
    ]);
  });

  test("may hold helpers, tests, types and folders beside them", async () => {
    for (const file of ["_helper.ts", ".hidden.ts", "greet.test.ts", "greet.spec.js", "types.d.ts", "letter.html"]) {
      await write(`tasks/${file}`, "this is no task");
    }
    await write("tasks/_lib/deeper.ts", "this is no task");
    await write("tasks/folder.ts/deeper.ts", "this is no task");
    await write("tasks/greet.ts", "export default () => {};");

    expect(Object.keys(await loadTasks(folder))).toEqual(["greet"]);
  });

  test("works in a package of CommonJS", async () => {
    await write("package.json", "{}");
    await write("tasks/_word.ts", "export const word: string = 'hello';");
    await write(
      "tasks/greet.ts",
      'import { word } from "./_word"; export default { run: async () => (await Promise.resolve(word)) };',
    );
    await write("tasks/shout.js", "const { EOL } = require('node:os'); module.exports = () => EOL;");

    const tasks = await loadTasks(folder);

    expect(await tasks.greet?.run({} as Context)).toBe("hello");
    expect(await tasks.shout?.run({} as Context)).toBe("\n");
  });

  test("shares what two tasks import", async () => {
    await write("tasks/_counter.ts", "let count = 0; export default () => ++count;");
    for (const name of ["a", "b"]) {
      await write(`tasks/${name}.ts`, 'import count from "./_counter.ts"; export default count;');
    }

    const tasks = await loadTasks(folder);

    expect([await tasks.a?.run({} as Context), await tasks.b?.run({} as Context)]).toEqual([1, 2]);
  });

  test.each(["module", "commonjs"])("is loaded anew each time, helpers included (%s)", async (type) => {
    await write("package.json", JSON.stringify({ type }));
    await write("lib/word.ts", "export const word = 'before';");
    await write("tasks/greet.ts", 'import { word } from "../lib/word.ts"; export default () => word;');

    const before = await loadTasks(folder);
    await write("lib/word.ts", "export const word = 'after';");
    const after = await loadTasks(folder);

    expect(await before.greet?.run({} as Context)).toBe("before");
    expect(await after.greet?.run({} as Context)).toBe("after");
  });

  test("may import notika, whose NonRetriable ends a run", async () => {
    await write(
      "tasks/greet.ts",
      `import { NonRetriable, workflow } from "notika";
       export default workflow({ on: { table: "public.users" }, run() { throw new NonRetriable("nobody lives here"); } });`,
    );
    await using t = await createTestNotika({ schema: "create table users (id int primary key)", tasks: folder });

    await t.sql`insert into users values (1)`;
    await t.settle();

    expect(await t.runs()).toMatchObject([{ state: "failed", attempts: 1, error: "nobody lives here" }]);
  });
});

describe("what is wrong with tasks is said", () => {
  test("with file and line, all of it at once", async () => {
    await write("tasks/_broken.ts", "export const a = 1;\n\nexport const b = = 2;");
    await write("tasks/a_helper.ts", 'import { b } from "./_broken.ts";\nexport default () => b;');
    await write("tasks/b_helper.ts", 'import { b } from "./_broken.ts";\nexport default () => b;');
    await write("tasks/c_syntax.ts", "export default () => {\n  const x: number = ;\n};");
    await write("tasks/d_syntax.js", "\nexport default () => {\n  const x = ;\n};");
    await write("tasks/e_import.ts", 'import x from "no-such-package";\nexport default x;');
    await write("tasks/f_import.ts", 'import x from "./nowhere.ts";\nexport default x;');
    await write("tasks/g_import.ts", 'import { no } from "../lib.ts";\nexport default no;');
    await write("lib.ts", "export const yes = 1;");
    await write("tasks/h_throws.ts", "missing();\nexport default () => {};");
    await write("tasks/i_throws.ts", "throw 'a text';");
    await write("tasks/j_default.ts", "export const run = () => {};");
    await write("tasks/k_default.ts", "export default 7;");
    await write("tasks/l_default.ts", "export default {};");
    await write("tasks/m_retries.ts", "export default { retries: -1, run() {} };");
    await write("tasks/n_table.ts", "export default { on: {}, run() {} };");
    await write("tasks/o_twice.js", "export default () => {};");
    await write("tasks/o_twice.ts", "export default () => {};");
    await write("tasks/2nd task.ts", "export default () => {};");
    await write("tasks/fine.ts", "export default () => {};");

    const error = await loadTasks(folder).catch((error) => error);

    expect(error).toMatchObject({ code: "NOTIKA_TASKS", hint: expect.stringContaining("files that begin with _") });
    const at = `${path.relative("", folder)}/`;
    expect(error.message.replaceAll(at, "").replaceAll(folder, "…").split("\n")).toEqual([
      "2nd task.ts: 2nd task is not a valid name for a workflow: up to 63 letters, digits, _ and -, starting with a letter",
      "o_twice.ts: o_twice.js is already the task o_twice",
      '_broken.ts:3: Unexpected "="',
      'c_syntax.ts:2: Unexpected ";"',
      "d_syntax.js:3: Unexpected token ';'",
      "e_import.ts: Cannot find package 'no-such-package' imported from …/e_import.ts",
      "f_import.ts: Cannot find module '…/nowhere.ts' imported from …/f_import.ts",
      "g_import.ts:1: The requested module '../lib.ts' does not provide an export named 'no'",
      "h_throws.ts:1: missing is not defined",
      "i_throws.ts: a text",
      "j_default.ts: it has no default export",
      "k_default.ts: the default export is neither a function nor workflow({ … })",
      "l_default.ts: workflow({ … }) has no function run",
      "m_retries.ts: retries must be a whole number from 0, not -1",
      "n_table.ts: workflow({ on }) has no table",
    ]);
  });

  test("with what mends it: a package to install, nothing where the place says all", async () => {
    const hint = async (text: string) => {
      await write("tasks/a.ts", text);
      return (await loadTasks(folder).catch((error) => error)).hint;
    };

    expect(await hint('import x from "@scope/missing/part";\nexport default x;')).toBe(
      "Install the missing package: npm install @scope/missing",
    );
    expect(await hint('import x from "./nowhere.ts";\nexport default x;')).toBeUndefined();
    expect(await hint("export default () => {")).toBeUndefined();
    expect(await hint("export const run = 1;")).toMatch(/^The default export of a task module/);
    await write("package.json", "{}"); // of CommonJS
    expect(await hint('import x from "missing";\nexport default x;')).toBe(
      "Install the missing package: npm install missing",
    );
  });

  test("in a package of CommonJS, too", async () => {
    await write("package.json", "{}");
    await write("tasks/a.ts", "\nexport default () => {\n  const x: number = ;\n};");
    await write("tasks/b.ts", 'import x from "./nowhere.ts";\nexport default () => x;');
    await write("tasks/c.ts", "export const run = () => {};");

    const error = await loadTasks(folder).catch((error) => error);

    expect(error.message.replaceAll(`${path.relative("", folder)}/`, "").split("\n")).toEqual([
      'a.ts:3: Unexpected ";"',
      "b.ts: Cannot find module './nowhere.ts'",
      "c.ts: it has no default export",
    ]);
  });

  test("when there is no folder", async () => {
    await expect(loadTasks("no/such/folder")).rejects.toMatchObject({
      code: "NOTIKA_TASKS",
      message: "there is no folder no/such/folder",
      hint: "Name the folder of the task modules with --tasks.",
    });
  });
});

async function write(file: string, text: string) {
  await mkdir(path.dirname(path.join(project, file)), { recursive: true });
  await writeFile(path.join(project, file), text);
}

/** As npm would install it, but from the source. */
async function linkNotika() {
  const source = pathToFileURL(path.resolve("runner/index.ts")).href;
  await write("node_modules/notika/package.json", '{ "name": "notika", "type": "module", "exports": "./index.ts" }');
  await write("node_modules/notika/index.ts", `export * from ${JSON.stringify(source)};`);
}
