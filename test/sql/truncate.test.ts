import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";

const schema = `
  create schema app;
  create table app.customers (id int primary key);
  create table app.orders (id int primary key, customer int references app.customers);
  insert into app.customers values (1);
  insert into app.orders values (1, 1);`;

const notes = (db: TestDatabase) =>
  db.query(`select workflow, verdict, kind, object, done_by from notika.guard_log where kind = 'table_truncated'`);
const events = (db: TestDatabase) => db.query("select operation from notika.event_log");
const rows = (db: TestDatabase) => db.query("select id from app.orders");

describe("TRUNCATE of a table whose deletes wake a workflow", () => {
  const note = { workflow: "w", kind: "table_truncated", object: "app.orders", done_by: "postgres" };

  test.for([
    ["itself", "truncate app.orders"],
    ["along with another", "truncate app.customers cascade"],
    ["as one of several", "truncate app.customers, app.orders restart identity"],
  ])("is recorded, and shown as a warning: %s", async ([, statement = ""], { db }) => {
    await db.script(`${schema} select notika.publish('w', 'app.orders', '{insert,delete}', '{id}')`);

    await db.query(statement);

    expect(await rows(db)).toEqual([]);
    expect(await events(db)).toEqual([]);
    expect(await notes(db)).toEqual([{ ...note, verdict: "recorded" }]);
    expect(await db.query("select * from notika.health where finding = 'table_truncated'")).toEqual([
      {
        finding: "table_truncated",
        severity: "warning",
        workflow: "w",
        detail: expect.stringMatching(/^app\.orders was truncated at .* by postgres: its rows gave no delete event$/),
        remedy: `If that must not happen again: select notika.configure('w', '{"truncate": "refuse"}');`,
      },
    ]);
    expect(await db.query("select * from notika.check() where severity = 'error'")).toEqual([]);
  });

  test("is refused where its option says so, with the calls that go on", async ({ db }) => {
    await db.script(`${schema}
      create role app_team; grant usage on schema app to app_team; alter table app.orders owner to app_team;
      select notika.publish('w', 'app.orders', '{delete}', '{id}', options => '{"truncate": "refuse", "order": "id"}')`);

    await expect(db.query("truncate app.customers cascade")).rejects.toMatchObject({
      code: "NK003",
      message: `cannot truncate app.orders because deletes wake Notika's workflow "w"`,
      detail: "TRUNCATE removes the rows without an event for any of them.",
      hint:
        "Delete them: delete from app.orders; or let the publisher of the workflow allow it: " +
        `select notika.configure('w', '{"order": ["id"], "truncate": "record"}');`,
    });
    await expect(db.script("begin; set local role app_team; truncate app.orders; commit")).rejects.toMatchObject({
      code: "NK003",
    });
    await db.query("rollback");
    expect(await rows(db)).toEqual([{ id: 1 }]);
    await db.script("begin; set local notika.mute = on; truncate app.orders; rollback");

    await db.query(`select notika.configure('w', '{"order": ["id"], "truncate": "record"}')`);
    await db.query("truncate app.customers cascade");
    expect(await notes(db)).toEqual([{ ...note, verdict: "recorded" }]);
  });

  test("is warned of where its option says so", async ({ db }) => {
    await db.script(`${schema}
      select notika.publish('w', 'app.orders', '{delete}', options => '{"truncate": "warn"}')`);
    const client = await db.database.pool.connect();
    const notices: (string | undefined)[] = [];
    client.on("notice", ({ message }) => notices.push(message));

    await client.query("truncate app.orders");
    client.removeAllListeners("notice");
    client.release();

    expect(notices).toEqual([`deletes of app.orders wake Notika's workflow "w", but TRUNCATE gave it no event`]);
    expect(await notes(db)).toEqual([{ ...note, verdict: "warned" }]);
  });

  test("goes through whatever happens to the record of it", async ({ db }) => {
    await db.script(`${schema}
      select notika.publish('w', 'app.orders', '{delete}', '{id}');
      alter table notika.guard_log add constraint never check (kind <> 'table_truncated')`);

    await db.query("truncate app.orders");

    expect(await rows(db)).toEqual([]);
  });

  test("is noticed on a partitioned table and on children, too", async ({ db }) => {
    await db.script(`
      create schema app;
      create table app.orders (id int, day date) partition by range (day);
      create table app.orders_1 partition of app.orders for values from ('2026-01-01') to ('2027-01-01');
      create table app.people (id int primary key);
      create table app.admins () inherits (app.people);
      select notika.publish('w', 'app.orders', '{delete}', '{id}');
      select notika.publish('v', 'app.people', '{delete}', '{id}');
      truncate app.orders, app.people`);

    expect(
      await db.query("select workflow, object from notika.guard_log where kind = 'table_truncated' order by object"),
    ).toEqual([
      { workflow: "v", object: "app.admins" },
      { workflow: "w", object: "app.orders" },
      { workflow: "v", object: "app.people" },
    ]);
  });

  test("is noticed by no workflow that deletes do not wake, or no longer", async ({ db }) => {
    const triggers = () =>
      db.query(`
        select tgrelid::regclass::text as table, tgname::text as trigger from pg_trigger
         where tgname like 'notika%truncate' order by 1, 2`);
    await db.script(`${schema} select notika.publish('w', 'app.orders', '{insert,update}', '{id}')`);
    expect(await triggers()).toEqual([]);

    await db.query("select notika.publish('w', 'app.orders', '{delete}', '{id}')");
    expect(await triggers()).toEqual([{ table: "app.orders", trigger: "notika_1_truncate" }]);
    expect(await db.query("select notika.publish('w', 'app.orders', '{delete}', '{id}') as said")).toEqual([
      { said: "unchanged" },
    ]);
    await db.query("drop trigger notika_1_truncate on app.orders");
    expect(await db.query("select notika.publish('w', 'app.orders', '{delete}', '{id}') as said")).toEqual([
      { said: "changed" },
    ]);
    await db.query("select notika.publish('w', 'app.customers', '{delete}', '{id}')");
    expect(await triggers()).toEqual([{ table: "app.customers", trigger: "notika_1_truncate" }]);
    await db.query("select notika.publish('w', 'app.customers', '{update}', '{id}')");
    expect(await triggers()).toEqual([]);
    await db.query("truncate app.customers cascade");
    expect(await notes(db)).toEqual([]);

    await db.query("select notika.publish('w', 'app.customers', '{delete}', '{id}')");
    await db.query("select notika.unpublish('w')");
    expect(await triggers()).toEqual([]);
  });

  test("its function is of no use to others: nobody can note a TRUNCATE of another table with it", async ({ db }) => {
    await db.script(`${schema}
      create role eve; grant create on schema app to eve; grant usage on schema app, notika to eve;
      select notika.publish('w', 'app.orders', '{delete}', '{id}');
      begin; set local role eve; create table app.own (id int); commit`);

    for (const attempt of [
      "create trigger t after truncate on app.own for each statement execute function notika._truncated_1()",
      "select notika._note_truncate(1, 'app.orders')",
    ]) {
      await expect(db.script(`begin; set local role eve; ${attempt}; commit`), attempt).rejects.toMatchObject({
        code: "42501",
      });
      await db.query("rollback");
    }
    await db.script(`
      create trigger t after truncate on app.own for each statement execute function notika._truncated_1();
      truncate app.own`);

    expect(await notes(db)).toEqual([]);
  });

  test("an option that is none is refused", async ({ db }) => {
    await db.script(`${schema} select notika.publish('w', 'app.orders', '{delete}', '{id}')`);

    await expect(db.query(`select notika.configure('w', '{"truncate": "never"}')`)).rejects.toMatchObject({
      code: "22023",
      message: `truncate of workflow "w" is not one of record, warn, refuse`,
      detail: 'It is "never".',
      hint: `For example: select notika.configure('w', '{"truncate": "refuse"}');`,
    });
  });
});
