import { expect } from "vitest";
import { test } from "../../support/database.ts";
import { asRole } from "../support.ts";

const scene = `
  create schema app;
  create table app.users (id int primary key, email text, name text);
  create table app.other (id int);
  create view app.others as select id from app.other;
  select notika.publish('w', 'app.users', columns => '{id,email}');`;

const [drop, add, rename] = [
  "alter table app.users drop column email;",
  "alter table app.users add column email text;",
  "alter table app.users rename column email to mail;",
];

test("check_ddl judges at each commit of a migration", async ({ db }) => {
  await db.script(scene);
  const said = (sql: string) =>
    db
      .query("select line, verdict, problem, remedy from notika.check_ddl($1)", [sql])
      .then((rows) => rows.map(({ line, verdict, problem, remedy }) => [`${line} ${verdict} ${problem}`, remedy]));
  const inOne = "Run the migration in one transaction: otherwise the guard refuses this statement.";
  const remedy =
    "Publish w again in the same transaction, or there: select notika.allow_breaking_change('w', '<reason>');";

  expect(await said(`${drop}\n${add}`)).toEqual([["2 healed column replaced app.users.email", inOne]]);
  expect(await said(`begin;\n${drop}\n${add}\ncommit;`)).toEqual([["3 healed column replaced app.users.email", inOne]]);
  expect(await said("alter table app.users drop column email, add column email text")).toEqual([
    ["1 healed column replaced app.users.email", null],
  ]);
  // What comes after a refusal is not run.
  expect(await said(`${drop}\ncommit;\n${add}\ndrop table nothing_like_it;`)).toEqual([
    ["1 breaks column dropped app.users.email", remedy],
  ]);
  expect(await said(`begin;\n${rename}\nend work;\nalter table app.users drop column mail;`)).toEqual([
    ["2 followed column renamed app.users.email: mail instead of email", null],
    ["4 breaks column dropped app.users.mail", remedy],
  ]);
  expect(
    await said(
      `${rename}\ncommit;\nalter table app.users rename column mail to email;\ncommit;\nalter table app.users add x int;`,
    ),
  ).toEqual([
    ["1 followed column renamed app.users.email: mail instead of email", null],
    ["3 followed column renamed app.users.mail: email instead of mail", null],
  ]);
  expect(await db.query("select state from notika.workflows")).toEqual([{ state: "published" }]);
});

test("a workflow that is only warned is told once, and what is dropped after it is judged", async ({ db }) => {
  await db.script(`${scene}
    select notika.publish('v', 'app.users', columns => '{id,name}', guard => 'warn');`);

  expect(
    await db.query("select line, workflow, verdict, problem from notika.check_ddl($1)", [
      `alter table app.users drop column name;\ncommit;\n${drop}\ncommit;`,
    ]),
  ).toEqual([
    { line: 1, workflow: "v", verdict: "warns", problem: "column dropped app.users.name" },
    { line: 3, workflow: "w", verdict: "breaks", problem: "column dropped app.users.email" },
  ]);
});

test("what Postgres refuses for the sake of others is an error", async ({ db }) => {
  await db.script(scene);
  const said = (sql: string) => db.query("select verdict, problem from notika.check_ddl($1)", [sql]);

  expect(await said("alter table app.other drop column id")).toEqual([
    { verdict: "error", problem: expect.stringContaining("cannot drop column id of table app.other") },
  ]);
  expect(await said("alter table app.other alter column id type bigint")).toEqual([
    { verdict: "error", problem: expect.stringContaining("cannot alter type of a column used by a view") },
  ]);
  expect(await said("create extension nothing_like_it")).toEqual([
    { verdict: "error", problem: expect.stringContaining('extension "nothing_like_it" is not available') },
  ]);
  // Made by Notika: without event triggers its functions and triggers refuse.
  expect(await said("drop function notika.payload_1(app.users)")).toEqual([
    { verdict: "breaks", problem: expect.stringContaining("notika") },
  ]);
});

test("check_ddl judges at each commit where only pins protect", async ({ db }) => {
  await db.script(`${scene}
    drop event trigger notika_guard_start; drop event trigger notika_guard_drop; drop event trigger notika_guard_end;`);
  const said = (sql: string) => db.query("select line, verdict, problem from notika.check_ddl($1)", [sql]);

  expect(await said(`alter table app.users add x int;\ncommit;\n${drop}\ncommit;\n${add}`)).toEqual([
    { line: 3, verdict: "breaks", problem: "column dropped app.users.email" },
  ]);
  expect(await said(`${rename}\ncommit;\nalter table app.users drop column mail;`)).toMatchObject([
    { line: 1, verdict: "followed" },
    { line: 3, verdict: "breaks", problem: "column dropped app.users.mail" },
  ]);
});

test("a publisher may ask what its own migration does, commit by commit", async ({ db }) => {
  await db.script(`${scene}
    create role pat; grant usage on schema app to pat; alter table app.users owner to pat;
    select notika.grant_publisher('pat');`);

  expect(
    await asRole(
      db,
      "pat",
      `select line, verdict, problem from notika.check_ddl($$${rename}\ncommit;\nalter table app.users drop mail;$$)`,
    ),
  ).toMatchObject([
    { line: 1, verdict: "followed" },
    { line: 3, verdict: "breaks", problem: "column dropped app.users.mail" },
  ]);
});

test("a rule with several commands is one statement", async ({ db }) => {
  await db.script(scene);

  expect(
    await db.query("select line, statement, verdict from notika.check_ddl($1)", [
      `create rule r as on insert to app.other do also (delete from app.other; select (1);\n);\n${drop}`,
    ]),
  ).toEqual([{ line: 3, statement: "alter table app.users drop column email", verdict: "breaks" }]);
});
