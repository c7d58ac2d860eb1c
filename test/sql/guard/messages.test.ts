import { describe, expect } from "vitest";
import { type TestDatabase, testBeside as test } from "../../support/database.ts";
import { asRole, inTransaction } from "../support.ts";

const refusal = (attempt: Promise<unknown>) =>
  attempt.then(
    () => expect.fail("was not refused"),
    (error: { code: string; message: string; detail: string; hint: string; column: string }) => {
      expect(error.code).toBe("NK001");
      return error;
    },
  );

test("names are quoted once", async ({ db }) => {
  await db.script(`
    create schema app;
    create type app."Mood" as enum ('fine');
    create table app."Odd ""table""" (id int, "thankYouCard" text, "a.b" text, "Mood" app."Mood");
    select notika.publish('w', 'app."Odd ""table"""', columns => '{id,thankYouCard,a.b,Mood}', on_rename => 'block');`);

  for (const [ddl, message] of Object.entries({
    'alter table app."Odd ""table""" drop "thankYouCard"':
      'cannot drop column "thankYouCard" of table app."Odd ""table"""',
    'alter table app."Odd ""table""" rename "thankYouCard" to "It\'s"':
      'cannot rename column "thankYouCard" of table app."Odd ""table""" to "It\'s"',
    'alter table app."Odd ""table""" alter "a.b" type int using 1':
      'cannot change the type of column "a.b" of table app."Odd ""table""" from text to integer',
    'alter table app."Odd ""table""" rename to "It\'s"': 'cannot rename table app."Odd ""table""" to app."It\'s"',
    'drop table app."Odd ""table"""': 'cannot drop table app."Odd ""table"""',
    'drop trigger notika_1_insert on app."Odd ""table"""': 'cannot drop trigger notika_1_insert on app."Odd ""table"""',
    "alter type app.\"Mood\" rename value 'fine' to 'well'":
      'cannot rename a label of the type of column "Mood" of table app."Odd ""table"""',
  })) {
    const error = await refusal(db.query(ddl));

    expect(error.message).toBe(`${message} because Notika's workflow "w" uses it`);
    expect(error.column || undefined).toBe(/column "([^"]*)"/.exec(message)?.[1]);
  }
});

describe("the statement is the one that did it", () => {
  const scene = `
    create schema app;
    create table app.users (id int, email text, note text);
    create table app.others (id int);
    select notika.publish('w', 'app.users', columns => '{id,email,note}', on_rename => 'block');`;
  const statement = async (attempt: Promise<unknown>) =>
    /\nStatement: (.*)$/s.exec((await refusal(attempt)).detail)?.[1];
  const harmless = [
    "create table app.more (email text)",
    "alter table app.users add column email_2 text default 'drop column email'",
    "alter table app.others add column email text",
    "alter table app.users alter column id set default 7",
  ];
  const after = ["alter table app.users add column z int", "create index on app.users (note)"];

  test("in one text, in a transaction, in a block", async ({ db }) => {
    await db.script(scene);

    for (const culprit of [
      "alter table app.users drop column email",
      "alter table app.users alter column note type int using 1",
      "alter table app.users rename email to mail",
      "drop table app.users",
      "alter table app.users rename to people",
    ]) {
      const rest = culprit.includes("to people") || culprit.startsWith("drop") ? [] : after;
      const statements = [...harmless, culprit, ...rest];

      expect(await statement(db.script(statements.join(";\n"))), "in one text").toBe(culprit);
      expect(await statement(inTransaction(db, ...statements)), "in a transaction").toBe(culprit);
      // A block has no statement of its own: what command it was, and about what.
      expect(await statement(db.query(`do $$ begin ${statements.join("; ")}; end $$`)), "in a block").toMatch(
        /^(ALTER|DROP) TABLE app\.\w+(\.\w+)?$/,
      );
    }
  });

  test("what was mended by a later one is not it", async ({ db }) => {
    await db.script(scene);

    expect(
      await statement(
        inTransaction(
          db,
          "alter table app.users drop column email",
          "alter table app.users add column email text",
          "alter table app.users drop column note",
          "alter table app.users add column z int",
        ),
      ),
    ).toBe("alter table app.users drop column note");
  });

  test("guard_log has it, too", async ({ db }) => {
    await db.script(`${scene} select notika.publish('w', 'app.users', columns => '{id,email,note}', guard => 'warn')`);

    await inTransaction(
      db,
      "alter table app.users add column z int",
      "alter table app.users rename id to number",
      "alter table app.users drop column note",
      "alter table app.users drop column z",
    );

    expect(await db.query("select verdict, kind, statement from notika.guard_log order by guard_log_id")).toEqual([
      { verdict: "followed", kind: "column_renamed", statement: "alter table app.users rename id to number" },
      { verdict: "warned", kind: "column_dropped", statement: "alter table app.users drop column note" },
    ]);
  });
});

describe("the ways out are those of the role that is refused", () => {
  const scene = `
    create role proprietor;
    create role publishing;
    create role typist;
    create schema app;
    grant usage on schema app to proprietor, publishing, typist, notika;
    create type app.mood as enum ('fine');
    alter type app.mood owner to typist;
    grant create on schema app to typist, proprietor;
    create table app.users (id int, email text, mood app.mood);
    alter table app.users owner to proprietor;
    grant select, trigger on app.users to publishing, notika;
    select notika.grant_publisher('publishing');
    set role publishing;
    select notika.publish('w', 'app.users', columns => '{id,email,mood}', on_rename => 'block');
    reset role;`;
  const drop = "alter table app.users drop column email";
  const hint = async (attempt: Promise<unknown>) => (await refusal(attempt)).hint;
  const maintenance = "select notika.begin_maintenance('<reason>');";
  const ways =
    "publish the workflow again, or run: select notika.unpublish('w'); or: " +
    "select notika.allow_breaking_change('w', '<reason>'); A tool that commits each statement has committed those " +
    "before this one: undo them, and before the next try ";

  /** Runs what a hint says, each call as the role that it names, and then the change. */
  const follow = async (db: TestDatabase, role: string, calls: [role: string, call: string][]) => {
    for (const [as, call] of calls) await asRole(db, as, call);
    await asRole(db, role, drop);
    expect(await db.query("select attname from pg_attribute where attname = 'email'")).toEqual([]);
  };

  test("an administrator's", async ({ db }) => {
    await db.script(scene);

    expect(await hint(db.query(drop))).toBe(`In the same transaction ${ways}run: ${maintenance}`);
    await db.query(maintenance);
    await db.query(drop);
  });

  test("a table's owner's who has no part in Notika", async ({ db }) => {
    await db.script(scene);

    expect(await hint(asRole(db, "proprietor", drop))).toBe(
      `Role "proprietor" may not call Notika: let a member of "notika" run: select notika.grant_publisher('proprietor'); ` +
        `After that, in the same transaction, ${ways}let a member of "notika" run: ${maintenance}`,
    );
    await asRole(db, "notika", "select notika.grant_publisher('proprietor')");
    await asRole(db, "proprietor", "select notika.allow_breaking_change('w', 'x')", drop);
  });

  test("a table's owner's who is a publisher", async ({ db }) => {
    await db.script(`${scene} select notika.grant_publisher('proprietor');`);

    expect(await hint(asRole(db, "proprietor", drop))).toBe(
      `In the same transaction ${ways}let a member of "notika" run: ${maintenance}`,
    );
    await follow(db, "proprietor", [["notika", maintenance]]);
  });

  test("of somebody who may not decide about the workflow: who may", async ({ db }) => {
    await db.script(scene);
    const rename = "alter type app.mood rename value 'fine' to 'well'";

    expect(await hint(asRole(db, "typist", rename))).toBe(
      `Role "typist" may not decide about this workflow. Before the next try let a member of "notika" or "proprietor" ` +
        `or "publishing" run: select notika.unpublish('w'); or let a member of "notika" run: ${maintenance}`,
    );
    await asRole(db, "publishing", "select notika.unpublish('w')");
    await asRole(db, "typist", rename);
  });

  test("of the owner of a table that is gone", async ({ db }) => {
    await db.script(scene);

    expect(await hint(asRole(db, "proprietor", "drop table app.users"))).toContain(
      "select notika.grant_publisher('proprietor')",
    );
  });
});
