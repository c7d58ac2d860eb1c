import { readdir } from "node:fs/promises";
import { describe, expect } from "vitest";
import { test } from "../support/database.ts";
import { readPage } from "../support/page.ts";
import { openShell } from "../support/shell.ts";

interface Setting {
  /** What the blocks of SQL take for granted. */
  sql: string;
  /** What each of their statements answers. */
  answers: unknown[];
  /** What the commands take for granted. */
  files: Record<string, string>;
  /** What they say. */
  said: string;
}

const settings: Record<string, Setting> = {
  "tasks.md": { sql: "", answers: [[]], files: {}, said: "" },
  "security.md": {
    sql: `
      create role app_admin; create role robot; create role support; create role watchman;
      create schema app;
      create table app.users (id int primary key, email text);
      select notika.publish('welcome_email', 'app.users', columns => '{id,email}', condition => 'new.email is not null');
      begin;
      select notika.allow_breaking_change('welcome_email', 'mails are sent by the shop now');
      alter table app.users drop column email;
      commit`,
    answers: [
      ...["grant_publisher", "grant_runner", "grant_reader", "grant_monitor"].map((verb) => [{ [verb]: "" }]),
      expect.arrayContaining([expect.objectContaining({ finding: "column_dropped", severity: "error" })]),
      [{ workflow: "welcome_email", published_by: "postgres", condition: "new.email is not null" }],
      expect.arrayContaining([
        expect.objectContaining({
          done_by: "postgres",
          workflow: "welcome_email",
          verdict: "allowed",
          reason: "mails are sent by the shop now",
        }),
      ]),
    ],
    files: {
      "schema.sql": "create schema app; create table app.users (id int primary key, email text);",
      "migrations/0042.sql": "alter table app.users add column name text;",
      "trusted/tasks/welcome_email.mjs": `export default { on: { table: "app.users", columns: ["id", "email"] }, run() {} };`,
    },
    said: "no workflow is affected\n",
  },
};

describe("docs", async () => {
  const names = await readdir(new URL("../../docs", import.meta.url));

  for (const name of names) {
    test(`${name}: its SQL runs as it is written there`, async ({ db }) => {
      const [page, setting] = [await readPage(`docs/${name}`), settingOf(name)];
      await db.script(setting.sql);

      const answers: unknown[] = [];
      for (const block of page.blocks("sql")) {
        for (const statement of block.split(/(?<=;)\n/).filter(Boolean)) answers.push(await db.query(statement));
      }

      expect(answers).toEqual(setting.answers);
    });

    test(`${name}: its commands run as they are written there`, async ({ onTestFinished }) => {
      const [page, { files, said }] = [await readPage(`docs/${name}`), settingOf(name)];
      const shell = await openShell({ files });
      onTestFinished(shell.close);

      expect(await shell.run(page.blocks("sh").join("\n"))).toBe(said);
    }, 60_000);
  }
});

function settingOf(name: string): Setting {
  const setting = settings[name];
  if (!setting) throw new Error(`say here what docs/${name} takes for granted`);
  return setting;
}
