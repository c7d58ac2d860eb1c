import sql, { raw } from "sql-template-tag";
import { expect, test } from "vitest";
import { nameGrant } from "../../runner/attempt/missing_grant.ts";
import { openEmpty } from "../migrations/empty.ts";

test("a task that lacks a right is told each GRANT that it needs, until it works", async () => {
  await using database = await openEmpty();
  await database.script(`
    create role "Robot";
    create schema app;
    create table app.users (id int primary key, name text);
    create table app."Odd ""x""" (id int);
    create table app.log (id serial, name text);
    create function app.secret() returns int language sql as 'select 1';
    revoke execute on function app.secret from public`);
  const asRobot = (text: string) =>
    database.transaction(async (execute) => {
      await execute(sql`set local role "Robot"`);
      return execute(raw(text));
    });
  const granted: string[] = [];

  for (const statement of [
    "select * from app.users",
    "update app.users set name = 'x' where id = 1",
    "insert into app.users values (1) on conflict (id) do nothing returning id",
    "delete from only app . users",
    'insert into app."Odd ""x""" select id from app.users',
    "insert into app.log (name) values ('x')",
    "select app.secret()",
  ]) {
    for (let attempt = 0; attempt < 4; attempt++) {
      const error = await asRobot(statement).then(
        () => undefined,
        (error) => error,
      );
      if (!error) break;
      await nameGrant(error, {
        execute: (statement) =>
          database.transaction(async (execute) => {
            await execute(sql`set local role "Robot"`);
            return execute(statement);
          }) as never,
      });
      const grant = /^permission denied for .*\. Run: (grant .*;)$/.exec(error.message)?.[1] ?? error.message;
      granted.push(grant);
      await database.execute(raw(grant));
    }
    await asRobot(statement);
  }

  expect(granted).toEqual([
    'grant usage on schema app to "Robot";',
    'grant select on app.users to "Robot";',
    'grant select, update on app.users to "Robot";',
    'grant select, insert on app.users to "Robot";',
    'grant delete on app.users to "Robot";',
    'grant insert on app."Odd ""x""" to "Robot";',
    'grant insert on app.log to "Robot";',
    'grant usage on sequence app.log_id_seq to "Robot";',
    'grant execute on function app.secret() to "Robot";',
  ]);
});

test("an error that is no missing right, or says itself what to do, stays as it is", async () => {
  for (const [error, message] of [
    [Object.assign(new Error("no"), { code: "23505" }), "no"],
    [
      Object.assign(new Error("permission denied for table x"), { code: "42501", hint: "ask" }),
      "permission denied for table x",
    ],
    [
      Object.assign(new Error("Zugriff auf Tabelle x verweigert"), { code: "42501" }),
      "Zugriff auf Tabelle x verweigert",
    ],
    [new Error("permission denied for table x"), "permission denied for table x"],
  ] as const) {
    await nameGrant(error, { execute: async () => [{ role: "robot", object: "x" }] as never });
    expect(error.message).toBe(message);
  }
});
