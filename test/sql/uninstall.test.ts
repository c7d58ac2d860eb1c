import { describe, expect } from "vitest";
import { test } from "../support/database.ts";

const scene = `
  create schema app;
  create table app.users (id int primary key, email text);
  create table app.admins () inherits (app.users);
  create table app.parted (id int) partition by list (id);
  create table app.parted_1 partition of app.parted for values in (1);
  select notika.publish('w', 'app.users', '{insert,update}', '{id,email}');
  select notika.publish('whole', 'app.parted', '{delete}');
  insert into app.users values (1, 'ada@example.com'), (2, 'bob@example.com');
  select notika.dispatch(1)`;

describe("uninstall", () => {
  test("leaves nothing, and says what it removed", async ({ db }) => {
    await db.script(scene);

    const dryRun = await db.query("select * from notika.uninstall(dry_run => true)");
    const steps = await db.query<{ step: string; outcome: string }>("select * from notika.uninstall()");
    console.log(steps);

    expect(dryRun).toEqual(
      steps.map((row) => ({ ...row, outcome: row.outcome === "removed" ? "would be removed" : row.outcome })),
    );
    expect(
      await db.query(`
        select nspname as name from pg_namespace where nspname ~ 'notika'
        union all select tgname from pg_trigger where tgname ~ 'notika'
        union all select evtname from pg_event_trigger
        union all select proname from pg_proc where oid >= 16384`),
    ).toEqual([]);
    await db.script(
      "insert into app.users values (3); alter table app.users drop column email; drop schema app cascade",
    );
  });
});
