import { expect } from "vitest";
import { major, test } from "../cluster.ts";

test("DDL that is about something else passes untouched", async ({ db }) => {
  await db.database.script(`
    create table free (id int primary key, n int);
    create materialized view sums as select id, sum(n) as n from free group by id;
    create unique index on sums (id);
    create table log (at int) partition by range (at);
    create table log_1 partition of log for values from (0) to (10);
    insert into free values (1, 1);`);

  for (const ddl of [
    "create index concurrently free_n on free (n)",
    "create index concurrently item_n on item (n)",
    "reindex index concurrently free_n",
    "reindex table concurrently item",
    "drop index concurrently free_n",
    "drop index concurrently item_n",
    "alter table log detach partition log_1 concurrently",
    "refresh materialized view concurrently sums",
    "refresh materialized view sums",
    "create temp table scratch (id int)",
    "create temp table item (id int)",
    "alter table pg_temp.item drop column id",
    "drop table pg_temp.item",
    "drop table scratch",
    "create table copy as select * from item",
    "select * into copy_2 from item",
    "drop table copy, copy_2",
    "vacuum full item",
    "cluster item using item_pkey",
    "analyze item",
    "comment on column item.n is 'a number'",
    "grant select on item to public",
    "revoke select on item from public",
    "alter default privileges grant select on tables to public",
    "create policy p on item using (true)",
    "drop policy p on item",
    "create view v as select * from item",
    "create or replace view v as select * from item",
    "drop view v",
    "create extension if not exists plpgsql",
    "create function f() returns int language sql as 'select 1'",
    "drop function f()",
    "create schema s",
    "drop schema s cascade",
    "create role nobody_here",
    "drop role nobody_here",
    "alter table item set (fillfactor = 70)",
    "create statistics item_s on id, n from item",
    "create publication p for table item",
    "drop publication p",
    "drop table if exists missing",
    "alter table if exists missing drop column n",
  ]) {
    await db.query(ddl);
  }

  expect(await db.query("select relname from pg_index join pg_class on oid = indexrelid where not indisvalid")).toEqual(
    [],
  );
  expect(await db.query("select * from notika.guard_log")).toEqual([]);
  expect(await db.query("select finding from notika.check()")).toEqual([]);
});

test("a role without any right on Notika does DDL of its own", async ({ db }) => {
  const role = `stranger_${major}`;
  await db.database.script(`
    create role ${role};
    create schema own authorization ${role};
    set role ${role};`);

  for (const ddl of [
    "create table own.item (id int, n int)",
    "alter table own.item drop column n",
    "alter table own.item add column n bigint, alter column id type bigint",
    "create type own.mood as enum ('good')",
    "alter type own.mood rename value 'good' to 'fine'",
    "create function own.f() returns trigger language plpgsql as 'begin return null; end'",
    "create trigger t after insert on own.item for each row execute function own.f()",
    "drop function own.f() cascade",
    "drop schema own cascade",
  ]) {
    await db.query(ddl);
  }

  await db.query("reset role");
  await db.database.script(`drop owned by ${role}; drop role ${role}`);
  expect(await db.query("select * from notika.guard_log")).toEqual([]);
});

test("drop owned is judged like the rest", async ({ db }) => {
  const role = `proprietor_${major}`;
  await db.database.script(`create role ${role}; alter table item owner to ${role}`);

  await expect(db.query(`drop owned by ${role} cascade`)).rejects.toMatchObject({ code: "NK001" });
  await expect(db.query(`drop owned by nobody, "${role}" restrict`)).rejects.toMatchObject({ code: "42704" });
  await expect(db.query(`drop owned by "${role}" restrict`)).rejects.toMatchObject({ code: "NK001" });
  await db.query(`set role ${role}`);
  await expect(db.query("DROP OWNED BY current_user")).rejects.toMatchObject({ code: "NK001" });
  await db.query("reset role");

  await db.database.script(`alter table item owner to postgres; drop role ${role}`);
});
