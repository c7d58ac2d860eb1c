import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";
import { captured, events, grantedLater, inTransaction, noEventTriggers, undone } from "./support.ts";

const nothing = "create function app.note() returns trigger language plpgsql as 'begin return null; end'";

// A condition that is always true keeps a workflow in the row form, which the other one is compared with.
const inBothForms = `
  select notika.publish('insert', 'app.items', '{insert}', '{id,v}');
  select notika.publish('insert_by_row', 'app.items', '{insert}', '{id,v}', condition => 'true');
  select notika.publish('delete', 'app.items', '{delete}', '{id,v}');
  select notika.publish('delete_by_row', 'app.items', '{delete}', '{id,v}', condition => 'true');`;

const items = `
  create schema app;
  create table app.items (id int primary key, v text);`;

describe("a workflow of one operation is captured for each statement", () => {
  /** Ways to write to app.items, each of them in a transaction. */
  const writes: Record<string, string[]> = {
    "one row and many": [
      "insert into app.items values (1, 'a')",
      "insert into app.items select n, 'b' || n from generate_series(2, 40) as n order by n % 7, n",
      "delete from app.items where id % 3 = 0",
      "delete from app.items where false",
      "insert into app.items select 1 where false",
    ],
    conflicts: [
      "insert into app.items values (1, 'a'), (2, 'b')",
      "insert into app.items values (3, 'c'), (1, 'd'), (4, 'e') on conflict (id) do update set v = excluded.v",
      "insert into app.items values (1, 'f'), (5, 'g') on conflict do nothing",
    ],
    "a merge": [
      "insert into app.items values (1, 'a'), (2, 'b'), (3, 'c')",
      `merge into app.items as t using (values (1), (2), (7), (8)) as s (id) on t.id = s.id
         when matched and t.id = 1 then delete when matched then update set v = 'm'
         when not matched then insert values (s.id, 'n')`,
    ],
    "statements inside of one": [
      "insert into app.items values (1, 'a'), (2, 'b'), (3, 'c')",
      "with gone as (delete from app.items where id < 3 returning *) insert into app.items select id, v || '!' from gone",
      `with one as (insert into app.items values (10, 'x')), two as (insert into app.items values (11, 'y')),
            gone as (delete from app.items where id = 3) insert into app.items values (12, 'z')`,
      "with gone as (delete from app.items returning *) select * from gone limit 1",
    ],
    "keys that change hands": [
      "create temp table swapped on commit drop as select 1",
      "insert into app.items values (1, 'a'), (2, 'b')",
      "update app.items set id = case id when 1 then 3 else 1 end where id in (1, 2)",
      "delete from app.items",
    ],
    "functions that write to the same table": [
      `create function app.also(n int) returns text language plpgsql as $$
       begin
         insert into app.items values (n + 100, 'also');
         delete from app.items where id = n + 99;
         return 'with';
       end $$`,
      "insert into app.items select n, app.also(n) from generate_series(1, 3) as n",
      "delete from app.items where app.also(id + 200) = 'with'",
    ],
    "triggers before a write": [
      `create function app.before() returns trigger language plpgsql as $$
       begin
         if tg_op = 'DELETE' then
           return case when old.id <> 2 then old end;
         end if;
         if new.id < 100 then
           insert into app.items values (new.id + 100, 'before');
         end if;
         new.v := upper(new.v);
         return case when new.id <> 3 then new end;
       end $$`,
      "create trigger before before insert or delete on app.items for each row execute function app.before()",
      "insert into app.items values (1, 'a'), (2, 'b'), (3, 'c')",
      "delete from app.items",
    ],
    cascades: [
      "create table app.parents (id int primary key)",
      "alter table app.items add parent int references app.parents on delete cascade",
      "insert into app.parents values (1), (2)",
      "insert into app.items values (1, 'a', 1), (2, 'b', 2), (3, 'c', 1), (4, 'd', null)",
      "delete from app.parents",
    ],
    savepoints: [
      "insert into app.items values (1, 'a')",
      "savepoint one",
      "insert into app.items values (2, 'b'), (3, 'c')",
      "rollback to one",
      "insert into app.items values (2, 'd')",
      "do $$ begin insert into app.items values (9, 'x'); raise division_by_zero; exception when division_by_zero then end $$",
      "delete from app.items where id = 1",
    ],
    "constraints that are checked later": [
      "create table app.parents (id int primary key)",
      "alter table app.items add parent int references app.parents deferrable initially deferred",
      "alter table app.items add constraint other unique (v) deferrable initially deferred",
      "insert into app.items values (1, 'a', 7), (2, 'a', 7)",
      "delete from app.items where id = 1",
      "insert into app.parents values (7)",
    ],
    "views and rules": [
      "create view app.view as select * from app.items",
      "create table app.log (id int)",
      "create rule also as on insert to app.items do also insert into app.log values (new.id)",
      "insert into app.view values (1, 'a'), (2, 'b')",
      "delete from app.view where id = 1",
    ],
    policies: [
      "create role writer",
      "grant usage on schema app to writer",
      "grant insert, delete, select on app.items to writer",
      "alter table app.items enable row level security",
      "create policy own on app.items using (id > 1)",
      "insert into app.items values (1, 'hidden')",
      "set local role writer",
      "insert into app.items values (2, 'a'), (3, 'b')",
      "delete from app.items",
      "reset role",
    ],
    "what fires nothing": [
      "insert into app.items values (1, 'a'), (2, 'b')",
      "set local session_replication_role = replica",
      "delete from app.items where id = 1",
      "set local session_replication_role = origin",
      "alter table app.items disable trigger user",
      "delete from app.items where id = 2",
      "alter table app.items enable trigger user",
      "insert into app.items values (3, 'c')",
    ],
    "more than fits into memory": [
      "set local work_mem = '64kB'",
      "insert into app.items select n, repeat('x', 100) from generate_series(1, 5000) as n",
      "delete from app.items",
    ],
  };

  test.for(Object.entries(writes))(
    "and sees the same in the same order as for each row: %s",
    async ([, statements], { db }) => {
      await db.script(`${items} ${inBothForms}`);
      expect(await forms(db)).toEqual({
        delete: "statement",
        delete_by_row: "row",
        insert: "statement",
        insert_by_row: "row",
      });

      const seen = await undone<Event>(db, ...statements, eventsByForm);

      const [byStatement, byRow] = inForms(seen);
      expect(byStatement).toEqual(byRow);
      expect(byRow.length).toBeGreaterThan(1);
    },
  );

  test("with the keys of rows that are too big, after the others", async ({ db }) => {
    await db.script(`${items} alter table app.items add r text; ${inBothForms}`);

    const seen = await undone<Event>(
      db,
      "insert into app.items select n, case when n % 2 = 0 then repeat('x', 2000000) end from generate_series(1, 5) as n",
      "insert into app.items values (6, repeat(chr(1), 500000)), (7, 'small')", // six times as long as json
      "delete from app.items where id = 6",
      "insert into app.items values (8, 'small')",
      eventsByForm,
    );

    const [byStatement, byRow] = inForms(seen);
    expect(byStatement.filter(({ truncated }) => truncated).map((event) => event.new ?? event.old)).toEqual([
      { id: 2 },
      { id: 4 },
      { id: 6 },
      { id: 6 },
    ]);
    expect(byStatement.map((event) => (event.new ?? event.old)?.id)).toEqual([1, 3, 5, 2, 4, 7, 6, 8, 6]);
    const inOrder = (all: Event[]) => all.map((event) => JSON.stringify(event)).toSorted();
    expect(inOrder(byStatement)).toEqual(inOrder(byRow));
  });

  test("under the settings of a transaction", async ({ db }) => {
    await db.script(`${items} ${inBothForms}`);

    await inTransaction(db, "set local notika.mute = on", "insert into app.items values (1)");
    await inTransaction(
      db,
      "set local notika.run = '41/2'",
      "insert into app.items values (2, null), (3, null), (4, repeat('x', 2000000))",
    );

    expect(
      await db.query(
        `select workflow_id, truncated, cause_id, depth from notika.event_log_0 order by workflow_id, truncated`,
      ),
    ).toEqual(
      [1, 2].flatMap((workflow_id) =>
        [false, false, true].map((truncated) => ({ workflow_id, truncated, cause_id: "41", depth: 3 })),
      ),
    );
  });

  test("whatever its columns are called, and under any new name", async ({ db }) => {
    await db.script(`
      create schema app;
      create table app.items (id int primary key, gone int, r text, c text, changed text, image text, new text, old text);
      alter table app.items drop column gone;
      select notika.publish('w', 'app.items', columns => '{id,r,c,changed,image,new,old}');
      insert into app.items values (1, 'r', 'c', 'changed', 'image', 'new', 'old');
      alter table app.items rename column r to "R ""%s""";
      alter table app.items add more int default 7;
      alter table app.items rename to things;
      alter schema app rename to "a %L";
      insert into "a %L".things (id, image) values (2, null), (3, repeat('x', 2000000));`);

    const none = { r: null, c: null, changed: null, image: null, new: null, old: null };
    expect(await forms(db)).toEqual({ w: "statement" });
    expect(await captured(db)).toEqual([
      { id: 1, r: "r", c: "c", changed: "changed", image: "image", new: "new", old: "old" },
      { id: 2, ...none },
      { id: 3 },
    ]);
  });
});

describe("a workflow is captured for each row", () => {
  test("where conditions choose rows, columns are watched, or changes of several kinds have an order", async ({
    db,
  }) => {
    await db.script(`${items}
      create table app.parted (id int primary key) partition by range (id);
      select notika.publish('whole', 'app.items');
      select notika.publish('update', 'app.items', '{update}', '{id}');
      select notika.publish('several', 'app.items', '{insert,delete}', '{id}');
      select notika.publish('some', 'app.items', columns => '{id}', condition => 'new.id > 0');
      select notika.publish('parted', 'app.parted', columns => '{id}');`);

    expect(new Set(Object.values(await forms(db)))).toEqual(new Set(["row"]));
  });

  test("where nobody would notice that it has to be", async ({ db }) => {
    await db.script(`${items} ${noEventTriggers} select notika.publish('w', 'app.items', columns => '{id}')`);

    expect(await forms(db)).toEqual({ w: "row" });
  });

  /** What makes a form unfit, and what mends that. */
  const changes: Record<string, { ddl: string[]; insert?: string; undo: string; still?: string }> = {
    "a partition": {
      ddl: [
        "create table app.all (id int not null, v text) partition by range (id)",
        "alter table app.all attach partition app.items for values from (0) to (1000)",
      ],
      insert: "insert into app.all",
      undo: "alter table app.all detach partition app.items",
    },
    "a child": {
      ddl: ["create table app.all (id int, v text)", "alter table app.items inherit app.all"],
      undo: "alter table app.items no inherit app.all",
    },
    "a parent": {
      ddl: ["create table app.part () inherits (app.items)"],
      insert: "insert into app.part",
      undo: "drop table app.part",
    },
    "a parent of one that was there": {
      ddl: ["create table app.part (id int not null, v text)", "alter table app.part inherit app.items"],
      insert: "insert into app.part",
      undo: "alter table app.part no inherit app.items",
    },
    "triggered by others for each row": {
      ddl: [
        nothing,
        "create trigger note after insert or delete on app.items for each row execute function app.note()",
      ],
      undo: "drop trigger note on app.items",
    },
    "triggered by others for each statement": {
      ddl: [nothing, "create trigger note after insert or delete on app.items execute function app.note()"],
      undo: "drop function app.note() cascade",
    },
    "where it cascades to others": {
      ddl: ["create table app.others (id int references app.items on delete cascade)"],
      undo: "drop table app.others",
      still: "insert",
    },
    "where others come to refer to it": {
      ddl: [
        "create table app.others (id int)",
        "alter table app.others add foreign key (id) references app.items on delete set null",
      ],
      undo: "drop table app.others",
      still: "insert",
    },
  };

  test.for(Object.entries(changes))(
    "as soon as its table is %s",
    async ([, { ddl, insert = "insert into app.items", undo, still }], { db }) => {
      await db.script(`${grantedLater} ${items}
      select notika.publish('insert', 'app.items', '{insert}', '{id,v}');
      select notika.publish('delete', 'app.items', '{delete}', '{id,v}');
      insert into app.items values (1, 'a')`);
      expect(await forms(db)).toEqual({ delete: "statement", insert: "statement" });

      // In the transaction that changes it, and after.
      await inTransaction(db, ...ddl, `${insert} values (2, 'b'), (3, 'c')`);
      expect(await forms(db)).toEqual({ delete: "row", insert: still ? "statement" : "row" });
      await db.script(`${insert} values (4, 'd'); delete from app.items`);
      expect(await captured(db, "insert")).toEqual(["a", "b", "c", "d"].map((v, i) => ({ id: i + 1, v })));
      expect((await events(db, "delete")).map(({ old }) => old).toSorted()).toEqual(await captured(db, "insert"));

      await db.script(`${undo}; alter table app.items add more int; truncate notika.event_log_0`);
      expect(await forms(db)).toEqual({ delete: "statement", insert: "statement" });
      await db.script(`insert into app.items values (5, 'e'), (6, 'f'); delete from app.items where id = 5`);
      expect(await captured(db, "insert")).toEqual([
        { id: 5, v: "e" },
        { id: 6, v: "f" },
      ]);
      expect(await captured(db, "delete")).toHaveLength(1);
      expect(await db.query(`select * from notika.check() where finding <> 'partition_detached'`)).toEqual([]);
    },
  );

  test("as soon as its trigger fires always, because what is replicated is told row by row", async ({ db }) => {
    await db.script(`${items}
      select notika.publish('w', 'app.items', columns => '{id}');
      alter table app.items enable always trigger notika_1_insert`);
    // Notika's owner may make it a trigger for each row, and not enable it: that is for the table's.
    await db.script("alter table app.items enable always trigger notika_1_insert");
    const always = () =>
      db.query(
        `select tgenabled::text as fires, tgtype & 1 = 1 as by_row from pg_trigger where tgname = 'notika_1_insert'`,
      );
    expect(await always()).toEqual([{ fires: "A", by_row: true }]);

    // Also when it is replaced.
    await db.script("alter table app.items drop column v");
    await db.script("select notika.publish('w', 'app.items')");
    await db.script("alter table app.items enable always trigger notika_1_insert");

    expect(await always()).toEqual([{ fires: "A", by_row: true }]);
    await inTransaction(db, "set local session_replication_role = replica", "insert into app.items values (1)");
    expect(await captured(db)).toEqual([{ id: 1 }]);
  });
});

test("triggers that rely on a guard that is gone are told of, and install mends them", async ({ db }) => {
  await db.script(`${items}
    select notika.publish('w', 'app.items', columns => '{id,v}');
    ${noEventTriggers}
    ${grantedLater}
    create table app.part () inherits (app.items);`);

  const found = () =>
    db.query(
      `select workflow, finding, severity, remedy from notika.check() where finding = 'form_outdated' order by 1`,
    );
  const remedy = "select * from notika.install();";
  expect(await found()).toEqual([{ workflow: "w", finding: "form_outdated", severity: "warning", remedy }]);

  await db.query(remedy);

  expect(await found()).toEqual([]);
  expect(await forms(db)).toEqual({ w: "row" });
  await db.script(`insert into app.part values (1, 'a')`);
  expect(await captured(db)).toEqual([{ id: 1, v: "a" }]);
});

describe("changes of a table that nobody watched", () => {
  test("fail no write, and a whole row has what is there", async ({ db }) => {
    await db.script(`
      create schema app;
      create table app.users (id int8 primary key, email text, name varchar(20), born date);
      select notika.publish('whole', 'app.users', '{insert,update,delete}');
      select notika.publish('some', 'app.users', '{insert,update}', '{id,email,name}');
      ${noEventTriggers}
      insert into app.users values (1, 'a@x', 'Ada', null);
      set client_min_messages = warning;
      alter table app.users rename name to full_name;
      alter table app.users drop column email cascade;
      alter table app.users alter full_name type text, add more int default 7;
      reset client_min_messages;
      insert into app.users values (2, 'Bob', null, 9);
      update app.users set more = 8 where id = 2;
      delete from app.users where id = 1;`);

    const ada = { id: "1", full_name: "Ada", born: null, more: 7 };
    const bob = { id: "2", full_name: "Bob", born: null, more: 9 };
    expect(await changes(db, "whole")).toEqual([
      ["insert", null, { id: "1", email: "a@x", name: "Ada", born: null }],
      ["insert", null, bob],
      ["update", bob, { ...bob, more: 8 }],
      ["delete", ada, null],
    ]);
    expect(await changes(db, "some")).toEqual([
      ["insert", null, { id: "1", email: "a@x", name: "Ada" }],
      ["insert", null, { id: "2", name: "Bob" }],
      ["update", { id: "2", name: "Bob" }, { id: "2", name: "Bob" }],
    ]);
  });

  test("are told of, and install puts them right", async ({ db }) => {
    await db.script(`${items}
      select notika.publish('w', 'app.items');
      ${noEventTriggers}
      alter table app.items add more int default 7;
      insert into app.items values (1);`);

    expect(await db.query(`select workflow, remedy from notika.check() where finding = 'form_outdated'`)).toEqual([
      { workflow: "w", remedy: "select * from notika.install();" },
    ]);
    await db.script(`select * from notika.install(); insert into app.items values (2)`);

    expect(await captured(db)).toEqual([
      { id: 1, v: null },
      { id: 2, v: null, more: 7 },
    ]);
    expect(await db.query(`select * from notika.check() where finding = 'form_outdated'`)).toEqual([]);
  });
});

test("the columns of a whole row are listed where the guard keeps the list, and looked up elsewhere", async ({
  db,
}) => {
  await db.script(`${grantedLater}
    create schema app;
    create type app.pair as (a int8, b int8);
    create table app.plain (id int8, sums numeric[]);
    create table app.typed (id int8, pair app.pair);
    create table app.parent (id int8);
    create table app.child (more int8) inherits (app.parent);
    create table app.parted (id int8) partition by list (id);
    create table app.part partition of app.parted default;
    select notika.publish(t, 'app.' || t) from unnest('{plain,typed,parent,child,parted,part}'::text[]) as t;`);
  const listed = async () =>
    (
      await db.query<{ name: string }>(
        `select name from notika.workflow where definition::text like '%-- columns %' order by 1`,
      )
    ).map(({ name }) => name);
  expect(await listed()).toEqual(["parted", "plain", "typed"]);

  await db.script(
    `select notika.unpublish('child'); drop table app.child; create table app.grandchild () inherits (app.plain)`,
  );
  expect(await listed()).toEqual(["parent", "parted", "typed"]);

  await db.script(`
    alter table app.parted add v text;
    insert into app.typed values (4, row(5, 6));
    alter type app.pair add attribute at timestamptz;
    insert into app.typed values (7, row(8, null, '2026-01-01 12:00+01'));
    insert into app.parted values (1, 'a');
    insert into app.grandchild values (2, '{1.50}');
    insert into app.parent values (3);`);
  expect(await captured(db, "parted")).toEqual([{ id: "1", v: "a" }]);
  expect(await captured(db, "plain")).toEqual([{ id: "2", sums: ["1.50"] }]);
  expect(await captured(db, "parent")).toEqual([{ id: "3" }]);
  expect(await captured(db, "typed")).toEqual([
    { id: "4", pair: { a: "5", b: "6" } },
    { id: "7", pair: { a: "8", b: null, at: "2026-01-01T11:00:00+00:00" } },
  ]);
});

const changes = async (db: TestDatabase, workflow: string) =>
  (await events(db, workflow)).map((event) => [event.operation, event.old, event.new]);

interface Event {
  workflow: string;
  operation: string;
  new: { id: number } | null;
  old: { id: number } | null;
  truncated: boolean;
}

const eventsByForm = "select workflow, operation, new, old, truncated from notika.event_log order by event_id";

/** Events as each form saw them. */
function inForms(seen: Event[]): [Event[], Event[]] {
  const [byRow, byStatement] = [true, false].map((isByRow) =>
    ["insert", "delete"].flatMap((operation) =>
      seen
        .filter((event) => event.workflow === operation + (isByRow ? "_by_row" : ""))
        .map((event) => ({ ...event, workflow: operation })),
    ),
  ) as [Event[], Event[]];
  return [byStatement, byRow];
}

async function forms({ query }: TestDatabase) {
  const rows = await query<{ workflow: string; capture: string }>(
    `select workflow, capture from notika.workflows order by workflow`,
  );
  return Object.fromEntries(rows.map(({ workflow, capture }) => [workflow, capture]));
}
