import { setTimeout } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { install } from "../../runner/install/install.ts";
import { dumpSchema, listObjects } from "../support/dump.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";
import { openSession, type Session, versions } from "./cluster.ts";

describe.each(versions)("uninstall by a superuser, on PostgreSQL %i", (major) => {
  let server: Postgres;
  let session: Session;
  let url: string;
  let before: { objects: Awaited<ReturnType<typeof listObjects>>; dump: ReturnType<typeof dumpSchema> };

  beforeAll(async () => {
    server = await startPostgres({ major });
    url = await server.createDatabase();
    session = openSession(url);
    await session.database.script(`
      create role pat; create role rex; create role ria;
      create schema app;
      create type app.mood as enum ('fine', 'tired');
      create domain app.amount as numeric check (value >= 0);
      create table app.users (id bigint generated always as identity primary key, email text unique, mood app.mood);
      create table app.admins () inherits (app.users);
      create table app.orders (id bigint, at date, total app.amount) partition by range (at);
      create table app.orders_2026 partition of app.orders for values from ('2026-01-01') to ('2027-01-01');
      create view app.people as select id, email from app.users;
      create function app.touch() returns trigger language plpgsql as 'begin return new; end';
      create trigger touch before update on app.users for each row execute function app.touch();
      comment on trigger touch on app.users is 'touches';
      create function app.note() returns event_trigger language plpgsql as 'begin end';
      create event trigger note on ddl_command_end execute function app.note();
      grant select on app.users to pat;
      grant usage on schema app to pat`);
    before = { objects: await listObjects(url), dump: dumpSchema(url, major) };

    await install(session.database);
    await session.database.script(`
      select notika.grant_publisher('pat'), notika.grant_runner('rex'), notika.grant_reader('ria');
      select notika.publish('pinned', 'app.users', '{update}', '{id,email,mood}', '{mood}', 'new.id > 0');
      select notika.publish('whole', 'app.orders', '{insert,delete}');
      select notika.publish('loose', 'app.users', '{insert}', '{email}', guard => 'warn', condition => 'new.id > 1');
      select notika.publish('gone', 'app.users');
      insert into app.users (email) values ('ada@example.com'), ('bob@example.com');
      insert into app.orders values (1, '2026-06-06', 5);
      update app.users set mood = 'tired';
      select notika.dispatch();
      select notika.unpublish('gone');
      select notika.pause('whole');
      begin; select notika.allow_breaking_change('loose', 'test'); alter table app.users rename email to mail; commit;
      alter table app.users rename mail to email;
      select * from notika.check()`);
    expect(await listObjects(url)).not.toEqual(before.objects);
    await session.query("select * from notika.uninstall()");
  });
  afterAll(async () => {
    await session?.close();
    await server?.stop();
  });

  test("leaves every object in the database as it was", async () => {
    expect(await listObjects(url)).toEqual(before.objects);
  });

  test("leaves what pg_dump says, byte for byte", ({ skip }) => {
    if ("reason" in before.dump) return skip(before.dump.reason);

    expect(dumpSchema(url, major)).toEqual(before.dump);
  });

  test("leaves tables that can be written to", async () => {
    await session.database.script("insert into app.users (email) values ('eve'); update app.users set mood = 'fine'");
  });
});

test("uninstall under load fails nobody's write, whatever tables he writes to in whatever order", async ({
  onTestFinished,
}) => {
  const server = await startPostgres({ major: 18 });
  onTestFinished(() => server.stop());
  const url = await server.createDatabase();
  const session = openSession(url);
  await install(session.database);
  const tables = ["a", "b", "c"];
  for (const table of tables) {
    await session.database.script(
      `create table ${table} (id int); select notika.publish('on_${table}', 'public.${table}')`,
    );
  }
  const errors: string[] = [];
  let isOver = false;
  const writers = [tables, tables.toReversed(), ["b", "c", "a"], ["c", "a", "b"]].map(async (order) => {
    const writer = openSession(url);
    while (!isOver) {
      await writer.database
        .transaction(async (execute) => {
          for (const table of order) await execute(raw(`insert into ${table} values (1)`));
        })
        .catch(({ message }) => errors.push(message));
      await setTimeout(20); // there must be a moment in which nobody has a lock
    }
    await writer.close();
  });

  const refusals: string[] = [];
  for (let uninstalled = false; !uninstalled; ) {
    uninstalled = await session.query("select * from notika.uninstall()").then(
      () => true,
      ({ message }) => refusals.push(message) < 0,
    );
  }
  isOver = true;
  await Promise.all(writers);

  expect(errors).toEqual([]);
  for (const refusal of refusals) expect(refusal).toMatch(/^cannot uninstall notika: \S+ is locked$/);
  expect(await session.query("select from pg_trigger where tgname ~ 'notika'")).toEqual([]);
  await session.close();
});
