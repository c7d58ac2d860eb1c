import { describe, expect } from "vitest";
import { test, testBeside } from "../../support/database.ts";
import { captured, told } from "../support.ts";

// All tests of the guard have such a workflow beside their own; here are those that are about it.
const users = `
  create schema app;
  create table app.users (id int, email text);
  select notika.publish('w', 'app.users', columns => '{id,email}');`;

describe("beside a workflow without a table", () => {
  testBeside("DDL is not warned of, whose table it may be", async ({ db }) => {
    await db.script(users);

    for (const ddl of [
      "create table app.other (id int)",
      "alter table app.other add column note text",
      "alter table app.users add column note text",
      "drop table app.other",
      "create function app.f() returns int language sql as 'select 1'",
      "drop function app.f()",
      "create type app.mood as enum ('fine')",
      "drop type app.mood",
      "create schema empty",
      "drop schema empty",
    ]) {
      expect(await told(db, ddl), ddl).toEqual([]);
    }
    expect(await db.query("select * from notika.guard_log")).toEqual([]);
  });

  testBeside("a migration is checked", async ({ db }) => {
    await db.script(users);

    expect(
      await db.query("select workflow, verdict from notika.check_ddl('alter table app.users drop column email')"),
    ).toEqual([{ workflow: "w", verdict: "breaks" }]);
    expect(await db.query("select * from notika.check_ddl('create table app.more (); drop table app.more')")).toEqual(
      [],
    );
  });

  testBeside("maintenance ends, and says nothing of it but that it is published", async ({ db }) => {
    await db.script(`${users} select notika.begin_maintenance('x')`);
    await db.query("alter table app.users rename email to mail");

    expect(await db.query("select * from notika.end_maintenance()")).toEqual([
      { workflow: "without_table", state: "published", reason: null },
      { workflow: "w", state: "published", reason: null },
    ]);
    await db.query("insert into app.users values (1, 'a')");
    expect(await captured(db)).toEqual([{ id: 1, email: "a" }]);
  });

  testBeside("install, check and health have nothing to say of it", async ({ db }) => {
    await db.script(users);

    expect(await db.query("select * from notika.install() where outcome not in ('ok', 'created')")).toEqual([]);
    expect(await db.query("select * from notika.check()")).toEqual([]);
    expect(await db.query("select * from notika.health where workflow is not null")).toEqual([]);
  });

  testBeside("Notika is dropped like without it, where nothing else is published", async ({ db }) => {
    await db.query("drop schema notika cascade");
  });

  testBeside("a copy is bound to its tables", async ({ db }) => {
    await db.script(`${users} update notika.guard_state set workflow_table = 1`);

    expect(await told(db, "alter table app.users add column note text")).toEqual([
      expect.objectContaining({ message: expect.stringContaining("restored copy") }),
    ]);
    await expect(db.query("alter table app.users drop column email")).rejects.toMatchObject({ code: "NK001" });
  });
});

test("the ways past the guard are nothing to a workflow without a table, and say so to nobody", async ({ db }) => {
  await db.script("select notika.schedule('nightly', '0 7 * * *')");

  await db.query("select notika.allow_breaking_change('nightly', 'no matter')");
  await db.query("select notika.release('nightly', 'no matter')");

  expect(await db.query("select workflow, state from notika.workflows")).toEqual([
    { workflow: "nightly", state: "published" },
  ]);
  await db.query("select notika.unschedule('nightly')");
});
