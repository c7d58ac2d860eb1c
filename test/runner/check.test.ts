import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Embedded, openEmbedded } from "../../runner/embedded/embedded.ts";
import { listenTcp } from "../../runner/embedded/server.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { workflowWithoutTable } from "../support/database.ts";
import { notikaCommand } from "./process.ts";

let folder: string;
let embedded: Embedded;
let server: Awaited<ReturnType<typeof listenTcp>>;

const schema = `
  create schema app;
  create table app.users (id bigint generated always as identity primary key, email text, name text);`;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "notika-check-"));
  await mkdir(path.join(folder, "tasks"));
  const files = {
    "schema.sql": schema,
    "tasks/welcome_email.mjs": `export default { on: { table: "app.users", columns: ["id", "email"] }, run() {} };`,
    "1.sql": "alter table app.users add column phone text;\n",
    "2.sql":
      "-- two statements\nalter table app.users rename column email to mail;\n\nalter table app.users drop column mail;\n",
    "3.sql": "create index concurrently on app.users (name);\nalter table app.users rename column name to full_name;\n",
    "4.sql": "alter table app.users drop column nothing_like_it;",
    "5.sql": "alter table app.users drop column email;",
    "6.sql": "\\ufeffalter table app.users add column email text;\r\n",
    "7.sql":
      "alter table app.users add phone text;\ncommit;\nalter table app.users drop email;\ncommit;\nalter table app.users add email text;",
  };
  for (const [file, text] of Object.entries(files)) await writeFile(path.join(folder, file), text);

  embedded = await openEmbedded({ prepare: install, version: await installVersion() });
  server = await listenTcp(embedded.wire, 0, "127.0.0.1");
  await embedded.database.script(`${workflowWithoutTable} ${schema}
    select notika.publish('welcome_email', 'app.users', columns => '{id,email}')`);
});
afterAll(async () => {
  await server.close();
  await embedded.close();
  await rm(folder, { recursive: true, force: true });
});

describe("notika check", () => {
  test("says nothing would break, and changes nothing", async () => {
    expect(await check("1.sql")).toEqual({ code: 0, stdout: "no workflow is affected\n" });
    expect(await check("1.sql")).toEqual({ code: 0, stdout: "no workflow is affected\n" });
  });

  test("names the file, the line and the workflow that would break, one migration building on the other", async () => {
    expect(await check("1.sql", "2.sql")).toEqual({
      code: 1,
      stdout: `2.sql:4: breaks welcome_email: column dropped app.users.email
  Publish welcome_email again in the same transaction, or there: select notika.allow_breaking_change('welcome_email', '<reason>');
  Unless 2.sql is run in one transaction, the changes of line 2 stay after the refusal, and a second attempt begins with them. For a tool that commits each statement, begin maintenance before the migration: select notika.begin_maintenance('<reason>'); and end it afterwards: select * from notika.end_maintenance();
`,
    });
  });

  test("speaks JSON, and GitHub's language", async () => {
    expect(JSON.parse((await check("--json", "1.sql", "2.sql")).stdout)).toMatchObject([
      { file: "2.sql", line: 4, workflow: "welcome_email", verdict: "breaks" },
    ]);
    expect((await check("--github", "1.sql", "2.sql")).stdout).toMatch(
      /^::error file=2\.sql,line=4::breaks welcome_email: column dropped app\.users\.email%0A/,
    );
  });

  test("says what cannot be tried, and checks the rest", async () => {
    expect(await check("3.sql")).toEqual({
      code: 0,
      stdout:
        "3.sql:1: unknown: cannot be tried: CONCURRENTLY cannot run in a transaction\n  Check the other statements without this one.\n",
      stderr: "3.sql is not one transaction (CONCURRENTLY in line 1)\n",
    });
  });

  test("fails on a migration that Postgres refuses", async () => {
    expect(await check("4.sql")).toEqual({
      code: 1,
      stdout: '4.sql:1: error: column "nothing_like_it" of relation "users" does not exist\n',
    });
  });

  test("judges each file, and each transaction in it, by itself", async () => {
    expect(await check("5.sql", "6.sql")).toEqual({
      code: 1,
      stdout: `5.sql:1: breaks welcome_email: column dropped app.users.email
  Publish welcome_email again in the same transaction, or there: select notika.allow_breaking_change('welcome_email', '<reason>');
`,
    });
    expect(await check("7.sql")).toEqual({
      code: 1,
      stdout: `7.sql:3: breaks welcome_email: column dropped app.users.email
  Publish welcome_email again in the same transaction, or there: select notika.allow_breaking_change('welcome_email', '<reason>');
  7.sql is not one transaction (COMMIT in line 2): the changes of line 1 stay after the refusal, and a second attempt begins with them. Make it one, or begin maintenance before the migration: select notika.begin_maintenance('<reason>'); and end it afterwards: select * from notika.end_maintenance();
`,
      stderr: "7.sql is not one transaction (COMMIT in line 2)\n",
    });
  });

  test("reads standard input", async () => {
    expect(await check("-", "drop table app.users")).toMatchObject({
      code: 1,
      stdout: expect.stringContaining("-:1: breaks welcome_email: table dropped app.users"),
    });
  });

  test("needs no database with --schema, which takes the workflows from the tasks", async () => {
    const { code, stdout } = await run(["check", "--schema", "schema.sql", "1.sql", "2.sql"], {});

    expect(code).toBe(1);
    expect(stdout).toMatch(/^2\.sql:4: breaks welcome_email: column dropped/);
  });

  test("looks after the fact when it is given no file", async () => {
    expect(await check()).toEqual({ code: 0, stdout: "all is well\n" });

    await embedded.database.script("alter table app.users disable trigger notika_1_insert");
    expect(await check()).toMatchObject({ code: 0, stdout: expect.stringContaining("trigger_disabled") });
    await embedded.database.script("alter table app.users enable trigger notika_1_insert");
  });
});

function check(...args: string[]) {
  return run(["check", ...args.filter((arg) => !arg.includes(" "))], { DATABASE_URL: url() }, args.at(-1));
}

function url() {
  return `postgres://postgres@127.0.0.1:${server.port}/postgres`;
}

function run(args: string[], env: Record<string, string>, input = "") {
  const [file = "", ...rest] = [...notikaCommand, ...args];
  return new Promise<{ code: number; stdout: string; stderr?: string }>((resolve) => {
    const options = { cwd: folder, env: { PATH: process.env.PATH, ...env } };
    const child = execFile(file, rest, options, (error, stdout, stderr) =>
      resolve({ code: Number(error?.code ?? 0), stdout, ...(stderr && { stderr }) }),
    );
    child.stdin?.end(input);
  });
}
