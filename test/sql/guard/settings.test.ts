import { expect } from "vitest";
import { testBeside as test } from "../../support/database.ts";
import { captured, told } from "../support.ts";

test("quote_all_identifiers changes nothing for the guard", async ({ db }) => {
  await db.script(`
    alter database ${(await db.query<{ name: string }>("select quote_ident(current_database()) as name"))[0]?.name}
      set quote_all_identifiers = on;
    set quote_all_identifiers = on;
    create schema app;
    create type app.mood as enum ('fine', 'well');
    create table app.users (id int, email varchar(9), mood app.mood);
    select notika.publish('row', 'app.users', '{insert,update}', '{id,email,mood}', watch => '{email}',
                          condition => $$new.mood = 'fine'$$);
    select notika.publish('statement', 'app.users', columns => '{id,mood}');
    select notika.publish('whole', 'app.users', condition => 'new.id > 0');`);

  const session = await db.database.pool.connect();
  const query = async (text: string) => (await session.query(text)).rows;
  try {
    await session.query("set quote_all_identifiers = on");
    expect(await query("select * from notika.check()")).toEqual([]);
    expect(await query("select * from notika.health where workflow is not null")).toEqual([]);
    expect(await query("select * from notika.check_ddl('alter table app.users add column a int')")).toEqual([]);
    expect(
      await query("select workflow, problem from notika.check_ddl('alter table app.users rename email to mail')"),
    ).toEqual([{ workflow: "row", problem: "column renamed app.users.email: mail instead of email" }]);
    await query("alter table app.users add column a int");
    await query("begin");
    await query("alter table app.users drop column mood");
    await query("alter table app.users add column mood app.mood");
    await query("alter table app.users rename email to mail");
    await query("alter type app.mood rename value 'fine' to 'great'");
    await query("commit");
    await expect(query("alter table app.users drop mail")).rejects.toMatchObject({
      message: `cannot drop column "mail" of table app.users because Notika's workflow "row" uses it`,
    });
    await query("insert into app.users (id, mail, mood) values (1, 'a', 'great'), (2, 'b', 'well')");
    expect(await query("select * from notika.end_maintenance() where state <> 'published'")).toEqual([]);
    expect(await query("select * from notika.check()")).toEqual([]);
    expect(
      await query(
        "select verdict, kind, object from notika.guard_log where workflow is not null order by verdict, object",
      ),
    ).toEqual([
      { verdict: "followed", kind: "column_renamed", object: "app.users.email" },
      { verdict: "followed", kind: "label_renamed", object: "app.users.mood" },
      { verdict: "followed", kind: "label_renamed", object: "app.users.mood" },
      { verdict: "healed", kind: "column_replaced", object: "app.users.mood" },
      { verdict: "healed", kind: "column_replaced", object: "app.users.mood" },
    ]);
  } finally {
    session.release(true);
  }
  expect(await captured(db, "row")).toEqual([{ id: 1, email: "a", mood: "great" }]);
  expect(await told(db, "alter table app.users add column b int")).toEqual([]);
});

test("a condition that reads no column is as published, with watch too", async ({ db }) => {
  await db.script(`
    create schema app;
    create table app.users (id int, email text);
    select notika.publish('w', 'app.users', '{insert,update}', '{id}', watch => '{email}', condition => 'random() < 2');
    select notika.publish('row', 'app.users', '{insert,update,delete}', '{id}', watch => '{email}',
                          condition => $$current_user <> 'new.x'$$);`);

  expect(await db.query("select * from notika.check()")).toEqual([]);
  expect(await told(db, "alter table app.users add column a int")).toEqual([]);
  expect(await db.query("select * from notika.guard_log where workflow is not null")).toEqual([]);
  await db.script(`create or replace trigger notika_1_insert after insert on app.users for each row
    when (new.id > 3) execute function notika._capture_1()`);
  expect(await db.query("select distinct kind, expected from notika.guard_log where workflow = 'w'")).toEqual([
    { kind: "trigger_replaced", expected: "as published" },
  ]);
});

test("plan names the partitions that are locked along with their table", async ({ db }) => {
  await db.script(`
    create schema app;
    create table app.log (id int, at int) partition by range (at);
    create table app.log_1 partition of app.log for values from (0) to (10);
    create table app.log_2 partition of app.log for values from (10) to (20) partition by range (id);
    create table app."Log 3" partition of app.log_2 default;`);

  expect(
    await db.query("select lock from notika.plan('w', 'app.log', columns => '{id}') where lock like 'share row%'"),
  ).toEqual([{ lock: 'share row exclusive on app.log, app.log_1, app.log_2, app."Log 3"' }]);
  await db.script("begin; select notika.publish('w', 'app.log', columns => '{id}')");
  expect(
    await db.query(
      "select relation::regclass::text as name from pg_locks where mode = 'ShareRowExclusiveLock' and relation::regclass::text ~ 'log|Log' order by 1",
    ),
  ).toEqual([{ name: 'app."Log 3"' }, { name: "app.log" }, { name: "app.log_1" }, { name: "app.log_2" }]);
  await db.script("commit");
  expect(
    await db.query(
      "select lock from notika.plan('w', 'app.log', '{update}', columns => '{id}') where lock like 'access exclusive%'",
    ),
  ).toEqual([{ lock: 'access exclusive on app.log, app.log_1, app.log_2, app."Log 3"' }]);
});
