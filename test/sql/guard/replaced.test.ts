import { describe, expect } from "vitest";
import { testBeside as test } from "../../support/database.ts";
import { captured, grantedLater, inTransaction, noEventTriggers } from "../support.ts";

const orders = `
  ${grantedLater}
  create type public.stage as enum ('new', 'paid');
  create table public.orders (id int, stage public.stage, note varchar(9));
  select notika.publish('w', 'public.orders', columns => '{id,stage}');`;

describe("a table that takes the place of a published one", () => {
  test("is captured from then on, whatever the numbers of its columns", async ({ db }) => {
    await db.script(orders);

    await inTransaction(
      db,
      "alter table public.orders rename to orders_old",
      "create table public.orders (note text, place int, stage public.stage, id int)",
      "drop table public.orders_old",
    );
    await db.script("insert into public.orders (id, stage) values (1, 'paid')");

    expect(await captured(db)).toEqual([{ id: 1, stage: "paid" }]);
    expect(await db.query("select column_name, attnum from notika.contract order by 1")).toEqual([
      { column_name: "id", attnum: 4 },
      { column_name: "stage", attnum: 3 },
    ]);
  });

  test("is refused with the GRANT where Notika may not capture it", async ({ db }) => {
    await db.script(`${orders} alter default privileges revoke trigger on tables from notika`);
    const swap = [
      "alter table public.orders rename to orders_old",
      "create table public.orders (id int, stage public.stage)",
      "drop table public.orders_old",
    ];

    const refusal = await inTransaction(db, ...swap).catch((error) => error);

    expect(refusal).toMatchObject({
      code: "NK001",
      message: `role "notika" may not create triggers on table public.orders, which Notika's workflow "w" has to capture`,
      hint: "In the same transaction, as the owner of it, run: grant trigger on table public.orders to notika;",
    });
    await inTransaction(db, ...swap, refusal.hint.replace(/^.*run: /, ""));
    await db.script("insert into public.orders (id, stage) values (1, 'paid')");
    expect(await captured(db)).toEqual([{ id: 1, stage: "paid" }]);
  });

  test("is broken, with the GRANT, where the guard only warns", async ({ db }) => {
    await db.script(`${orders} select notika.publish('w', 'public.orders', columns => '{id,stage}', guard => 'warn');
      alter default privileges revoke trigger on tables from notika`);

    await inTransaction(
      db,
      "alter table public.orders rename to orders_old",
      "create table public.orders (id int, stage public.stage)",
      "drop table public.orders_old",
    );
    await db.script("insert into public.orders (id, stage) values (1, 'paid')");

    expect(await db.query("select state, reason from notika.workflows where workflow = 'w'")).toEqual([
      { state: "broken", reason: "right missing: table public.orders" },
    ]);
    const [health] = await db.query<{ remedy: string }>(
      "select remedy from notika.health where finding = 'right_missing'",
    );
    expect(health?.remedy).toBe(
      "grant trigger on table public.orders to notika; then: select * from notika.install();",
    );
  });

  test("is refused when it lacks a column, and another column has its number", async ({ db }) => {
    await db.script(orders);

    const replaced = inTransaction(
      db,
      "alter table public.orders rename to orders_old",
      "create table public.orders (stage public.stage, number int)",
      "drop table public.orders_old",
    );

    await expect(replaced).rejects.toMatchObject({
      code: "NK001",
      message: `cannot drop column "id" of table public.orders because Notika's workflow "w" uses it`,
    });
  });
});

describe("an enum that is replaced by another of its name", () => {
  const replacement = (labels: string) => `
    create type public.stage_new as enum (${labels});
    alter table public.orders alter column stage type public.stage_new using stage::text::public.stage_new;
    alter type public.stage rename to stage_old;
    alter type public.stage_new rename to stage;
    drop type public.stage_old;`;

  test("passes with all labels", async ({ db }) => {
    await db.script(orders);

    await inTransaction(db, ...replacement("'new', 'sent', 'paid'").trim().split("\n"));
    await db.script("insert into public.orders values (1, 'sent')");

    expect(await captured(db)).toEqual([{ id: 1, stage: "sent" }]);
    expect(await db.query("select labels from notika.contract where column_name = 'stage'")).toEqual([
      { labels: ["new", "sent", "paid"] },
    ]);
    expect(await db.query("select * from notika.check() where workflow = 'w'")).toEqual([]);
  });

  test("is refused without one of them", async ({ db }) => {
    await db.script(orders);

    await expect(inTransaction(db, ...replacement("'new', 'sent'").trim().split("\n"))).rejects.toMatchObject({
      code: "NK001",
      message:
        'cannot change the type of column "stage" of table public.orders from {new,paid} to {new,sent} ' +
        `because Notika's workflow "w" uses it`,
    });
  });
});

test("varchar may become text", async ({ db }) => {
  await db.script(`${orders} select notika.publish('n', 'public.orders', columns => '{note}');`);

  await db.script("alter table public.orders alter column note type text");
  await db.script("insert into public.orders (note) values ('longer than nine')");

  expect(await captured(db, "n")).toEqual([{ note: "longer than nine" }]);
  expect(await db.query("select verdict, kind, object, expected, actual from notika.guard_log")).toEqual([
    {
      verdict: "warned",
      kind: "type_widened",
      object: "public.orders.note",
      expected: "character varying(9)",
      actual: "text",
    },
  ]);
});

describe("a type that goes by another name now", () => {
  const renames = {
    "was renamed": ["alter type public.stage rename to step"],
    "was moved": ["create schema kinds", "alter type public.stage set schema kinds"],
    "is in a schema that was renamed": [
      "create schema kinds",
      "alter type public.stage set schema kinds",
      "alter schema kinds rename to sorts",
    ],
  };
  for (const [name, rename] of Object.entries(renames)) {
    test(`is the same type: a column of it may be dropped and added again, when it ${name}`, async ({ db }) => {
      await db.script(orders);
      for (const ddl of rename) await db.query(ddl);
      const [{ type } = { type: "" }] = await db.query<{ type: string }>(
        "select atttypid::regtype::text as type from pg_attribute where attname = 'stage' and attrelid = 'orders'::regclass",
      );

      const again = [
        "alter table public.orders drop column stage",
        `alter table public.orders add column stage ${type}`,
      ];
      await inTransaction(db, ...again);
      await db.script("insert into public.orders (id, stage) values (1, 'paid')");

      expect(await captured(db)).toEqual([{ id: 1, stage: "paid" }]);
      expect(
        await db.query("select type_name::regtype::text as type from notika.contract where column_name = 'stage'"),
      ).toEqual([{ type }]);
      expect(await db.query("select * from notika.check() where workflow = 'w'")).toEqual([]);
    });
  }

  test("is followed in the middle of a transaction", async ({ db }) => {
    await db.script(orders);

    await inTransaction(
      db,
      "alter type public.stage rename to step",
      "alter table public.orders drop column stage",
      "alter table public.orders add column stage public.step",
      "insert into public.orders (id, stage) values (1, 'paid')",
    );

    expect(await captured(db)).toEqual([{ id: 1, stage: "paid" }]);
    expect(await db.query("select verdict, kind from notika.guard_log")).toEqual([
      { verdict: "healed", kind: "column_replaced" },
    ]);
  });

  test("is not an older one that takes its name", async ({ db }) => {
    await db.script(orders);

    await expect(
      inTransaction(
        db,
        "alter type public.stage rename to step",
        "create type public.stage as enum ('new')",
        "alter table public.orders drop column stage",
        "alter table public.orders add column stage public.stage",
      ),
    ).rejects.toMatchObject({
      code: "NK001",
      message: expect.stringContaining("from public.step to public.stage"),
    });
  });
});

test("a label that is renamed keeps its old name where the same word is a text", async ({ db }) => {
  await db.script(`
    create type public.stage as enum ('new', 'paid');
    create table public.orders (id int, stage public.stage, note text);
    select notika.publish('w', 'public.orders', columns => '{id}',
      condition => $$new.note = 'new' or new.stage in ('new') and 'x''new''' <> new.note$$);`);

  await db.query("alter type public.stage rename value 'new' to 'it''s'");
  await inTransaction(
    db,
    "alter table public.orders drop column id",
    "alter table public.orders add column id int", // its triggers are made anew
  );
  await db.query(
    "insert into public.orders (id, stage, note) values (1, 'it''s', ''), (2, 'paid', 'new'), (3, 'paid', '')",
  );

  expect(await captured(db)).toEqual([{ id: 1 }, { id: 2 }]);
  expect(await db.query("select condition from notika.workflows where workflow = 'w'")).toEqual([
    { condition: "new.note = 'new' or new.stage in ('it''s') and 'x''new''' <> new.note" },
  ]);
});

test("where a condition is parsed in each session, it follows columns and labels at the next look", async ({ db }) => {
  await db.script(`${noEventTriggers}
    create type public.stage as enum ('new', 'paid');
    create table public.orders (id int, stage public.stage, note text);
    select notika.publish('w', 'public.orders', columns => '{id}', guard => 'warn',
      condition => $$new.stage = 'new' and new.note = 'x'$$);
    alter type public.stage rename value 'new' to 'fresh';
    alter type public.stage add value 'new';
    alter table public.orders rename note to remark;
    alter table public.orders add column note text;`);

  await db.query("insert into public.orders values (1, 'fresh', 'x')");
  await db.query("select notika.check()");
  await db.query(
    "insert into public.orders values (2, 'fresh', 'x', null), (3, 'new', 'x', null), (4, 'fresh', 'y', null), (5, 'fresh', 'y', 'x')",
  );

  expect(await captured(db)).toEqual([{ id: 1 }, { id: 2 }]);
  expect(await db.query("select condition from notika.workflows where workflow = 'w'")).toEqual([
    { condition: "new.stage = 'fresh' and new.remark = 'x'" },
  ]);
});
