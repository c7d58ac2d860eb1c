import { describe, expect } from "vitest";
import { begin, commit, type Session, test } from "../cluster.ts";

describe("publish and a migration at once", () => {
  for (const isolation of ["repeatable read", "serializable"]) {
    for (const ddl of ["alter table free drop column n", "alter table free rename n to m", "drop table free"]) {
      test(`${ddl}: ${isolation} does not slip past a workflow published since its snapshot`, async ({ db }) => {
        await db.query("create table free (id int, n int)");
        const migration = await db.connect();
        await begin(migration, "select count(*) from item", isolation);

        await db.query("select notika.publish('late', 'public.free', columns => '{id,n}')");

        await expect(migration.query(ddl)).rejects.toMatchObject({ code: "40001" });
        await migration.query("rollback");
        expect(await state(db, "late")).toBe("published");
      });
    }
  }

  test("publish waits for a migration of its table and then sees what it left", async ({ db }) => {
    await db.query("create table free (id int, n int)");
    const migration = await db.connect();
    await begin(migration, "alter table free rename n to m");

    const published = (await db.connect()).query("select notika.publish('late', 'public.free', columns => '{id,n}')");
    const refused = expect(published).rejects.toMatchObject({
      code: "42703",
      message: 'column "n" of table public.free does not exist',
      detail: "Its columns are id, m.",
    });
    await waiting(db);
    await commit(migration);

    await refused;
  });

  test("a migration waits for publish and is then judged by it", async ({ db }) => {
    await db.query("create table free (id int, n int)");
    const publisher = await db.connect();
    await begin(publisher, "select notika.publish('late', 'public.free', columns => '{id,n}')");

    const migrated = (await db.connect()).query("alter table free drop column n");
    const refused = expect(migrated).rejects.toMatchObject({ code: expect.stringMatching(/NK001|2BP01/) });
    await waiting(db);
    await commit(publisher);

    await refused;
  });
});

describe("locks", () => {
  test("two migrations of one table wait for each other and both pass", async ({ db }) => {
    const [one, two] = await Promise.all([db.connect(), db.connect()]);
    await begin(one, "alter table item drop column n; alter table item add column n int not null default 0");

    const second = two.query("alter table item drop column n, add column n integer default 2");
    await waiting(db);
    await commit(one);
    await second;

    await db.query("insert into item values (1)");
    expect(await db.value(`select new from notika.event_log order by event_id desc limit 1`)).toEqual({ id: 1, n: 2 });
  });

  test("a migration waits for a reader who then writes, without a deadlock", async ({ db }) => {
    const [reader, migration] = await Promise.all([db.connect(), db.connect()]);
    await begin(reader, "select * from item");

    const migrated = migration.query("alter table item drop column n, add column n integer not null default 0");
    await waiting(db);
    await reader.query("insert into item values (5)");
    await commit(reader);

    await migrated;
    expect(await state(db, "watch_item")).toBe("published");
  });

  for (const held of ["select * from item", "insert into item values (1)"]) {
    for (const ddl of ["alter table item drop column n", "alter table item alter n type bigint", "drop table item"]) {
      test(`${ddl}: gives up at its lock_timeout while another transaction did: ${held}`, async ({ db }) => {
        const other = await db.connect();
        await begin(other, held);

        await db.query("set lock_timeout = '100ms'");
        await expect(db.query(ddl)).rejects.toMatchObject({ code: "55P03" });

        await commit(other);
        expect(await state(db, "watch_item")).toBe("published");
      });
    }
  }

  for (const ddl of [
    "alter table free drop column n",
    "comment on table free is 'alter table item drop column n'",
    "do $$ begin perform 'drop table item; alter table item drop column n'; alter table free drop column n; end $$",
    "alter table free drop column n /* ; drop table item */ -- alter table item drop column n",
    `alter table "item ; drop table item" drop column n`,
    "create function f() returns void language sql as 'drop table item'; alter table free drop column n",
    "alter table other.item drop column n",
    "set search_path = other, public; alter table item drop column n",
    "drop table if exists free, other.item, missing",
    "alter table item add column more int",
    "alter table item validate constraint item_n_check; alter table free drop column n",
  ]) {
    test(`what another transaction reads is not waited for: ${ddl}`, async ({ db }) => {
      await db.database.script(`
        alter table item add constraint item_n_check check (n is not null) not valid;
        create schema other;
        create table other.item (id int, n int);
        create table free (id int, n int);
        create table "item ; drop table item" (id int, n int);`);
      const [reader, migration] = await Promise.all([db.connect(), db.connect()]);
      const isAboutItem = ddl.includes("item add column");
      await begin(reader, isAboutItem ? "select 1" : "select * from item");

      await migration.query("set lock_timeout = '100ms'");
      await migration.database.script(ddl);
      await migration.query("reset search_path");

      await commit(reader);
      expect(await state(db, "watch_item")).toBe("published");
    });
  }

  test("a command of somebody who may not alter the table fails without a lock", async ({ db, cluster: _ }) => {
    const reader = await db.connect();
    await begin(reader, "select * from item");
    await db.database.script(`
      drop role if exists visitor_of_item;
      create role visitor_of_item;
      set role visitor_of_item;
      set lock_timeout = '100ms';`);

    for (const ddl of ["alter table item drop column n", "drop table item"]) {
      await expect(db.query(ddl)).rejects.toMatchObject({ code: "42501" });
    }

    await commit(reader);
    await db.query("reset role");
  });
});

describe("a guard that is broken or switched off", () => {
  const breaks = [
    "create or replace function notika._findings(spec notika.workflow) returns table (kind text, object text, expected text, actual text) language plpgsql as 'begin raise exception $x$oops$x$; end'",
    "create or replace function notika._reconcile(workflow_id integer, statement text, settled boolean) returns void language plpgsql as 'begin raise exception $x$oops$x$; end'",
    "create or replace function notika._queue_verdict(workflow_ids integer[], tag text, statement text, dropped text default null, found text[] default null) returns void language plpgsql as 'begin raise exception $x$oops$x$; end'",
    "drop function notika._check_snapshot()",
  ];
  for (const broken of breaks) {
    test(`is a warning and fails no migration: ${broken.slice(0, 60)}`, async ({ db }) => {
      await db.query(broken);
      const notices: string[] = [];
      const migration = await db.connect((message) => notices.push(message));

      await migration.query("alter table item add column more int");
      await migration.query("create table unrelated (id int)");
      await migration.query("drop table unrelated");
      await migration.query("alter table item drop column n cascade");
      await migration.query("insert into item values (1)");
      await migration.query("drop table item cascade");

      expect(notices.join("\n")).toMatch(/notika could not check/);
    });
  }

  test("session_replication_role = replica does not mute it", async ({ db }) => {
    await db.query("set session_replication_role = replica");

    await expect(db.query("alter table item drop column n")).rejects.toMatchObject({ code: "NK001" });
  });

  for (const off of [
    "alter event trigger notika_guard_start disable; alter event trigger notika_guard_end disable; alter event trigger notika_guard_drop disable",
    "set event_triggers = off",
  ]) {
    test(`leaves the pins, and health says so: ${off.split(";")[0]}`, async ({ db, skip }) => {
      const version = await db.value<number>("select current_setting('server_version_num')::int");
      if (version < 170000 && off.startsWith("set")) skip("that came with PostgreSQL 17");
      await db.database.script(off);

      expect(await db.query("select severity, detail from notika.health where finding = 'guard'")).toMatchObject([
        { severity: "warning" },
      ]);
      await expect(db.query("alter table item drop column n")).rejects.toMatchObject({ code: "2BP01" });
      await db.query("alter table item drop column n cascade");
      await db.query("insert into item values (1)");

      expect(
        await db.query("select finding, severity, workflow from notika.check() where workflow is not null"),
      ).toContainEqual({
        finding: "column_dropped",
        severity: "error",
        workflow: "watch_item",
      });
      expect(await state(db, "watch_item")).toBe("broken");
    });
  }
});

const state = (db: Session, workflow: string) =>
  db.value(`select state from notika.workflows where workflow = $1`, [workflow]);

/** Ends when a session waits for a lock. */
async function waiting(db: Session) {
  while (!(await db.value("select exists (select from pg_locks where not granted)"))) {
    await new Promise((go) => setTimeout(go, 10));
  }
}
