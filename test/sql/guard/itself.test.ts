import { expect } from "vitest";
import { testBeside as test } from "../../support/database.ts";
import { inTransaction, noEventTriggers } from "../support.ts";

const users = `
  create schema app;
  create table app.users (id int, email text);
  select notika.publish('b', 'app.users', columns => '{id}');
  select notika.publish('a', 'app.users');`;

for (const ddl of [
  "drop schema notika cascade",
  'DROP SCHEMA IF EXISTS app , "notika"  CASCADE',
  "do $$ begin drop schema notika cascade; end $$",
  "create schema free; drop schema free; drop schema notika cascade",
  "drop owned by notika",
  "set role notika; drop owned by current_user cascade",
]) {
  test(`Notika does not go while a workflow is published: ${ddl}`, async ({ db }) => {
    await db.script(users);

    await expect(db.script(ddl)).rejects.toMatchObject({
      code: "NK001",
      message: `cannot drop schema notika because Notika's workflow "b" is published`,
      detail: "These workflows are published: b, a.",
      hint: "Run: select * from notika.uninstall();",
    });
    await db.query("reset role");
  });
}

for (const ddl of ["drop schema notika", "drop schema notika restrict"]) {
  test(`what Postgres refuses is left to it: ${ddl}`, async ({ db }) => {
    await db.script(users);

    await expect(db.query(ddl)).rejects.toMatchObject({ code: "2BP01" });
  });
}

for (const [name, before] of Object.entries({
  "in maintenance": "select notika.begin_maintenance('we leave')",
  "when nothing is published": "select notika.unpublish('a'); select notika.unpublish('b')",
  "when the guards only warn":
    "select notika.publish('a', 'app.users', guard => 'warn'); select notika.publish('b', 'app.users', guard => 'off')",
  // Nobody is there who could see it.
  "where there are no event triggers": noEventTriggers,
})) {
  test(`Notika goes ${name}, and the application's writes go on`, async ({ db }) => {
    await db.script(`${users} ${before}`);

    await db.query("drop schema notika cascade");

    await db.query("insert into app.users values (1, 'a')");
    expect(await db.query("select tgname from pg_trigger where not tgisinternal")).toEqual([]);
    expect(await db.query("select evtname from pg_event_trigger")).toEqual([]);
  });
}

test("Notika goes when each workflow allows it", async ({ db }) => {
  await db.script(users);
  const allow = (workflow: string) => `select notika.allow_breaking_change('${workflow}', 'we leave')`;

  await expect(inTransaction(db, allow("b"), "drop schema notika cascade")).rejects.toMatchObject({
    code: "NK001",
    detail: "These workflows are published: a.",
  });
  await inTransaction(db, allow("a"), allow("b"), "drop schema notika cascade");

  await db.query("insert into app.users values (1, 'a')");
});
