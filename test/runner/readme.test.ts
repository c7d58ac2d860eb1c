import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect } from "vitest";
import { openEmbedded } from "../../runner/embedded/embedded.ts";
import { listenTcp } from "../../runner/embedded/server.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { built } from "../support/build.ts";
import { test } from "../support/database.ts";
import { quickWasm } from "../support/node.ts";
import { readPage } from "../support/page.ts";
import { notikaCommand, start } from "./process.ts";

const root = path.resolve(import.meta.dirname, "../..");
const { text, blocks } = await readPage("README.md");

describe("README", () => {
  const folder = path.join(root, ".notika/readme");
  beforeAll(() => mkdir(folder, { recursive: true }));
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test("its first session shows what it says", async ({ db }) => {
    const [session = ""] = blocks("sql");
    const [shown = ""] = blocks("");
    const statements = session.trim().split(/(?<=;)\n/);

    await db.script(statements.slice(0, -1).join("\n"));
    const rows = await db.query(`
      select run_id::text, workflow, state, coalesce(old_plan, '') as old_plan, new::text
        from (${statements.at(-1)?.replace(";", "")}) as shown`);

    expect(rows.map((row) => Object.values(row))).toEqual(
      shown
        .trim()
        .split("\n")
        .slice(2)
        .map((line) => line.split("|").map((cell) => cell.trim())),
    );
  });

  test("its safe ways to change a schema are safe", async ({ db }) => {
    await db.script(`
      create schema app;
      create table app.users (id bigint generated always as identity primary key, email text);
      select notika.publish('welcome_email', 'app.users', columns => '{id,email}', condition => 'new.email is not null')`);
    const refusal = blocks("").find((block) => block.startsWith("ERROR:")) ?? "";
    const [expand, together, onPurpose, maintenance] = blocks("sql").filter((block) => block.startsWith("-- "));
    const state = async () => (await db.query("select state from notika.workflows")).map(({ state }) => state);

    const refused = await db.query("alter table app.users drop column email").catch((error) => error);
    expect(`ERROR:  ${refused.message}\nDETAIL:  ${refused.detail}\nHINT:  ${refused.hint}\n`).toBe(refusal);
    for (const statement of (expand ?? "").split(/(?<=;)\n/).filter((text) => text.trim())) await db.query(statement);
    expect(await state()).toEqual(["published"]);
    await db.database.pool.query("alter table app.users alter column id drop identity");
    await db.database.pool.query(together ?? "");
    expect(await state()).toEqual(["published"]);
    await db.database.pool.query(onPurpose ?? "");
    expect(await state()).toEqual(["broken"]);
    await db.database.pool.query(maintenance ?? "");
    expect(await state()).toEqual(["published"]);
  });

  test("its call of configure is right", async ({ db }) => {
    const [configure = ""] = blocks("sql").filter((block) => block.includes("notika.configure("));
    await db.script(`
      create schema app;
      create table app.users (id bigint, email text);
      select notika.publish('welcome_email', 'app.users', columns => '{id,email}')`);

    await db.script(configure);

    expect(await db.query("select options from notika.workflows")).toEqual([
      { options: { order: ["email"], concurrency: 5 } },
    ]);
  });

  test("its sources in SQL are right", async ({ db }) => {
    const [sources = ""] = blocks("sql").filter((block) => block.includes("'reminder:order'"));
    await db.script(`
      create schema app;
      create table app.carts (id int primary key, email text);
      create table app.orders (cart_id int, total int);
      select notika.publish('reminder', 'app.carts', columns => '{id,email}')`);

    await db.script(sources);

    expect(await db.query("select workflow, match from notika.workflows order by 1")).toEqual([
      { workflow: "reminder", match: null },
      { workflow: "reminder:cancel", match: ["id=id"] },
      { workflow: "reminder:order", match: ["cart_id"] },
    ]);
  });

  test("its other ways to start, and what it asks of the past, are right", async ({ db }) => {
    const [starts = ""] = blocks("sql").filter((block) => block.includes("notika.backfill("));
    const [past = ""] = blocks("sql").filter((block) => block.includes("notika.timeline("));
    await db.script(`
      create schema app;
      create table app.users (id bigint primary key, email text);
      select notika.publish('welcome_email', 'app.users', columns => '{id,email}')`);
    await db.script("insert into app.users values (7, 'ada@example.com')");
    await db.query("select notika.dispatch()");

    await db.script(starts);
    await db.query("select notika.dispatch()");
    await db.query("select notika.dispatch()");
    await db.script(past);

    expect(await db.query("select operation, count(*)::int as n from notika.event_log group by 1 order by 1")).toEqual([
      { operation: "backfill", n: 1 },
      { operation: "emit", n: 1 },
      { operation: "insert", n: 1 },
      { operation: "replay", n: 1 },
    ]);
  });

  test("its commands about what happened are right", async () => {
    const [commands = ""] = blocks("sh").filter((block) => block.includes("notika runs"));
    const { db, wire, close } = await openEmbedded({ prepare: install, version: await installVersion() });
    const server = await listenTcp(wire, 0, "127.0.0.1");
    const url = `postgres://postgres@127.0.0.1:${server.port}/postgres`;
    await db.exec(`create schema app; create table app.users (id bigint primary key);
      select notika.publish('welcome_email', 'app.users');
      insert into app.users select generate_series(1, 42)`);
    await db.exec("select notika.dispatch()");
    await db.exec(
      `select notika._finish('[{"run_id": 42, "workflow": "welcome_email", "state": "failed", "attempts": 1}]')`,
    );
    const at = path.join(folder, "past");
    await mkdir(path.join(at, "tasks"), { recursive: true });
    await writeFile(path.join(at, "tasks/welcome_email.ts"), "export default async () => {}");

    for (const line of commands.trim().split("\n")) {
      const [, ...args] = line.replace(/ +#.*/, "").split(" ").slice(1);
      const command = start([...notikaCommand, ...args, "--url", url], at);
      if (args.includes("--tail")) {
        await command.says(/"run":"42"/);
        command.kill("SIGINT");
      }
      expect({ line, ...(await command.ended) }).toMatchObject({ line, code: 0, stderr: "" });
    }
    await server.close().then(close);
  }, 120_000);

  test("its tasks pass their tests", async () => {
    const ts = blocks("ts").map((block) =>
      block
        .replaceAll('from "notika/test"', `from "${path.join(built, "testing/index.js")}"`)
        .replaceAll('from "notika"', `from "${path.join(built, "index.js")}"`),
    );
    for (const block of ts) {
      const file = /^\/\/ (\S+\.ts)\n/.exec(block)?.[1];
      if (!file) continue;
      const place = path.join(folder, path.basename(file).replace(/(\.test)?\.ts$/, ""));
      await mkdir(path.join(place, "tasks"), { recursive: true });
      await writeFile(path.join(place, file), block.replace(`"tasks"`, JSON.stringify(path.join(place, "tasks"))));
    }
    await writeFile(
      path.join(folder, "vitest.config.ts"),
      `export default { test: { testTimeout: 60_000, execArgv: ${JSON.stringify(quickWasm)} } }`,
    );

    const { stdout } = await promisify(execFile)(
      process.execPath,
      [path.join(root, "node_modules/vitest/vitest.mjs"), "run", "--root", folder, "--reporter=json", "--no-isolate"],
      { cwd: folder },
    );

    expect(JSON.parse(stdout)).toMatchObject({ numPassedTests: 5, numFailedTests: 0 });
  }, 120_000);

  test("the errors it lists are those that Notika has", async () => {
    const files = await Promise.all(
      ["sql", "migrations"].map(async (folder) =>
        (await readdir(path.join(root, folder), { recursive: true }))
          .filter((file) => file.endsWith(".sql"))
          .map((file) => path.join(root, folder, file)),
      ),
    );
    const sources = await Promise.all(files.flat().map((file) => readFile(file, "utf8")));
    const raised = new Set(sources.join("\n").match(/\bNK0\d\d\b/g));

    expect(new Set(text.match(/(?<=\| `)NK0\d\d/g))).toEqual(raised);
  });
});
