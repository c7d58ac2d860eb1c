import { execFileSync } from "node:child_process";
import { describe, expect } from "vitest";
import { findProgram } from "../../support/postgres.ts";
import { major, openSession, startCluster, test } from "../cluster.ts";

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
  await expect(db.query(`drop owned by ${role}`)).rejects.toMatchObject({ code: expect.stringMatching("NK001|2BP01") });

  await db.database.script(`alter table item owner to postgres; drop role ${role}`);
});

describe("pg_dump and pg_restore", () => {
  test("a copy in another server is bound by name, and what cannot be bound is reported", async ({ db, skip }) => {
    const tools = dumpTools();
    if (typeof tools === "string") return skip(tools);
    await db.database.script(`
      create type mood as enum ('good', 'bad');
      create table gone (a int, id int, mood mood, note text);
      alter table gone drop column a;
      create table lost (id int);
      select notika.publish('kept', 'public.gone', columns => '{id,mood,note}', condition => $$new.mood = 'good'$$);
      select notika.publish('lost', 'public.lost', columns => '{id}');
      insert into gone values (1, 'good', 'x');`);
    const dump = execFileSync(tools.pg_dump, ["--format=custom", "--dbname", db.url], { maxBuffer: 1e8 });

    const other = await startCluster();
    try {
      const url = await other.createDatabase("copy");
      execFileSync(tools.pg_restore, ["--exit-on-error", "--dbname", url], { input: dump, stdio: "pipe" });
      const notices: string[] = [];
      const copy = openSession(url, (message) => notices.push(message));

      // Before anybody looked, nothing is judged by numbers of another server.
      await copy.query("alter table gone add column more int");
      expect(await copy.query("select finding, workflow from notika.check()")).toEqual([]);
      expect(notices).toEqual(["notika: this is a restored copy; workflows were bound to its tables by name"]);
      await copy.query("insert into gone values (2, 'good', 'y'), (3, 'bad', 'z')");
      expect(await copy.query("select new from notika.event_log where workflow = 'kept' order by event_id")).toEqual([
        { new: { id: 1, mood: "good", note: "x" } },
        { new: { id: 2, mood: "good", note: "y" } },
      ]);
      await expect(copy.query("alter table gone drop column note")).rejects.toMatchObject({ code: "NK001" });
      await copy.query("alter table gone drop column more");
      await expect(copy.query("alter table gone rename id to key; alter table gone drop key")).rejects.toMatchObject({
        code: "NK001",
      });

      // A table that the restore does not replace stays as it is; a published one is guarded.
      const clean = (table: string) =>
        execFileSync(tools.pg_restore, ["--clean", "-t", table, "--exit-on-error", "--dbname", url], {
          input: dump,
          stdio: "pipe",
        });
      await copy.query("create table free (id int)");
      expect(() => clean("gone")).toThrow(/NK001|because workflow "kept" uses it|depends on/);
      await copy.close();
    } finally {
      await other.stop();
    }
  });
});

/** The programs that dump and restore, or why they cannot. */
function dumpTools(): { pg_dump: string; pg_restore: string } | string {
  const pg_dump = findProgram("pg_dump");
  if (!pg_dump) return "this machine has no pg_dump";
  const version = execFileSync(pg_dump, ["--version"], { encoding: "utf8" }).match(/\d+/)?.[0];
  if (Number(version) < major) return `pg_dump is of PostgreSQL ${version}, too old for a server of ${major}`;
  return { pg_dump, pg_restore: pg_dump.replace(/pg_dump$/, "pg_restore") };
}
