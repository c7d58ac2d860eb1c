import { expect } from "vitest";
import { testBeside as test } from "../../support/database.ts";
import { told } from "../support.ts";

const users = `
  create schema app;
  create table app.users (id int, email varchar(50));
  select notika.publish('w', 'app.users', columns => '{id,email}', guard => 'warn');`;

test("a guard that warns says what broke and where to look", async ({ db }) => {
  await db.script(users);

  expect(await told(db, "alter table app.users drop column email")).toEqual([
    {
      message: `Notika's workflow "w": column dropped app.users.email`,
      detail: "Expected character varying(50), found nothing.",
      hint: "See: select * from notika.health where workflow = 'w';",
    },
  ]);
});

test("what only deserves a warning is said once until it is published again", async ({ db }) => {
  await db.script(users);
  const replace = "alter table app.users disable trigger notika_1_insert";

  expect(await told(db, replace)).toEqual([
    {
      message: `Notika's workflow "w": trigger disabled notika_1_insert on app.users`,
      detail: "Expected enabled, found disabled.",
      hint: "See: select * from notika.health where workflow = 'w';",
    },
  ]);
  expect(await told(db, replace)).toEqual([]);
  await db.query("select notika.publish('w', 'app.users', columns => '{id,email}', guard => 'warn')");
  expect(await told(db, replace)).toHaveLength(1);
});

test("a guard that fails says so, and lets the migration pass", async ({ db }) => {
  await db.script(users);
  const fails = (signature: string) => `
    create or replace function ${signature}
      language plpgsql as 'begin raise exception $x$oops$x$; end'`;
  const hint = "The command continues. Check the result: select * from notika.check();";
  const warning = {
    message: 'notika could not check ALTER TABLE for workflow "w": oops (P0001)',
    detail: "The other workflows were checked.",
    hint,
  };

  await db.query(fails("notika._judge(workflow_id integer, statement text, occasion text) returns void"));
  expect(await told(db, "alter table app.users add column a int")).toEqual([warning]);
  await db.query("update notika.workflow set broken_reason = 'x'");
  expect(await told(db, "select notika.check()")).toEqual([
    {
      message: 'notika could not check the contract for workflow "w": oops (P0001)',
      detail: "The other workflows were checked.",
      hint: "See: select * from notika.health where workflow = 'w';",
    },
  ]);

  await db.query(fails("notika._named_tables(command text, path text) returns setof regclass"));
  expect(await told(db, "alter table app.users drop column a")).toContainEqual({
    message: "notika could not check ALTER TABLE: oops (P0001)",
    hint,
  });

  await db.query(
    fails(
      "notika._queue_verdict(workflow_ids integer[], tag text, statement text, dropped text default null, found text[] default null) returns void",
    ),
  );
  expect(await told(db, "drop trigger notika_1_insert on app.users")).toContainEqual({
    message: "notika could not check DROP TRIGGER: oops (P0001)",
    hint,
  });
});

test("a restored copy is bound by name, once, and says so", async ({ db }) => {
  await db.script(`${users} update notika.guard_state set workflow_table = 1`);
  const check = "select notika.check()";

  expect(await told(db, check)).toEqual([
    {
      message: "notika: this is a restored copy; workflows were bound to its tables by name",
      hint: "What could not be bound: select * from notika.health;",
    },
  ]);
  expect(await told(db, check)).toEqual([]);
});
