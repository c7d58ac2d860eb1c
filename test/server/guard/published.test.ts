import { expect } from "vitest";
import { test } from "../cluster.ts";

// The other DDL on what is published, which needs no second transaction and no extension, is in test/sql/guard.

test("an extension whose type a published column has goes only past the guard", async ({ db }) => {
  await db.database.script(`
    create extension citext;
    create table account (id int primary key, email citext);
    select notika.publish('welcome', 'public.account', columns => '{id,email}');`);

  await expect(db.query("drop extension citext cascade")).rejects.toMatchObject({
    code: "NK001",
    message: expect.stringContaining('workflow "welcome"'),
  });

  await db.query("insert into account values (1, 'Ada@example.com')");
  expect(await db.query(`select new -> 'email' as email from notika.event_log`)).toEqual([
    { email: "Ada@example.com" },
  ]);

  await db.query("select notika.unpublish('welcome')");
  await db.query("drop extension citext cascade");
  expect(await db.query("select finding from notika.check()")).toEqual([]);
});

test("a part is detached concurrently, and the workflow said to miss it", async ({ db }) => {
  await db.database.script(`
    create table visit (id int, at int) partition by range (at);
    create table visit_1 partition of visit for values from (0) to (10);
    create table visit_2 partition of visit for values from (10) to (20);
    select notika.publish('count_visit', 'public.visit', columns => '{id}');`);

  await db.query("alter table visit detach partition visit_1 concurrently");

  expect(await db.query("select finding, workflow from notika.check()")).toEqual([
    { finding: "partition_detached", workflow: "count_visit" },
  ]);
  await db.database.script(`
    insert into visit_1 values (1, 1);
    insert into visit values (2, 12);`);
  expect(await db.query(`select new ->> 'id' as id from notika.event_log`)).toEqual([{ id: "2" }]);
});
