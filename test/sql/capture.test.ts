import { describe, expect } from "vitest";
import { openDatabase } from "../../runner/database/database.ts";
import { engine, isThorough, test } from "../support/database.ts";
import { asRole, captured, events, generatedNames, inTransaction, noEventTriggers, undone } from "./support.ts";

const users = `
  create schema app;
  create table app.users (id bigint primary key, email text, name text);`;

describe("a partitioned table", () => {
  const parted = `
    create schema app;
    create table app.log (id int8, kind text not null, note text, gone int, at timestamptz) partition by list (kind);
    create table app.log_a partition of app.log for values in ('a');
    create table app.log_b (dropped text, note text, at timestamptz, kind text not null, gone int, id int8);
    alter table app.log_b drop column dropped;
    alter table app.log attach partition app.log_b for values in ('b');
    alter table app.log drop column gone;`;

  test("is captured wherever its rows are written, and events name the table itself", async ({ db }) => {
    await db.script(`${parted}
      select notika.publish('w', 'app.log', '{insert,update,delete}', '{id,note,kind}', watch => '{note}',
        condition => 'true');
      select notika.publish('whole', 'app.log', condition => 'new.note is distinct from ''skipped''');
      create table app.log_c partition of app.log for values in ('c', 'd') partition by list (kind);
      create table app.log_c_1 partition of app.log_c for values in ('c');
      create table app.log_e (at timestamptz, note text, id int8, kind text not null);
      alter table app.log attach partition app.log_e for values in ('e');`);
    const row = (id: string, kind: string, note: string | null = null) => ({ id, note, kind });

    await db.script(`
      insert into app.log (id, kind) values (1, 'a'), (2, 'b'), (3, 'c'), (4, 'e');
      insert into app.log_b (id, kind) values (5, 'b');
      insert into app.log_c_1 (id, kind) values (6, 'c');
      insert into app.log_e (id, kind) values (7, 'e');`);
    expect(await captured(db)).toEqual([
      row("1", "a"),
      row("2", "b"),
      row("3", "c"),
      row("4", "e"),
      row("5", "b"),
      row("6", "c"),
      row("7", "e"),
    ]);
    expect(await captured(db, "whole")).toEqual((await captured(db)).map((it) => ({ ...(it as object), at: null })));

    await db.script(`
      truncate notika.event_log_0;
      update app.log set note = 'x' where id = 2;
      update app.log_b set note = note where id = 2;
      update app.log_e set note = 'y' where id = 7;
      delete from app.log where id in (2, 7);
      update app.log set kind = 'b' where id = 1;`);
    expect(await events(db)).toEqual([
      { operation: "update", table_name: "app.log", new: row("2", "b", "x"), old: row("2", "b") },
      { operation: "update", table_name: "app.log", new: row("7", "e", "y"), old: row("7", "e") },
      { operation: "delete", table_name: "app.log", new: null, old: row("2", "b", "x") },
      { operation: "delete", table_name: "app.log", new: null, old: row("7", "e", "y") },
      // A row that moves to another partition.
      { operation: "delete", table_name: "app.log", new: null, old: row("1", "a") },
      { operation: "insert", table_name: "app.log", new: row("1", "b"), old: null },
    ]);
  });

  test("can be published again, and its parts leave it without harm", async ({ db }) => {
    await db.script(`${parted}
      select notika.publish('w', 'app.log', '{insert,update}', '{id}');
      select notika.publish('leaf', 'app.log_a', columns => '{note}');
      select notika.publish('w', 'app.log', '{insert,update}', '{id,note}', watch => '{id}');
      alter table app.log detach partition app.log_b;
      insert into app.log_b (id, kind) values (1, 'b');
      insert into app.log (id, kind, note) values (2, 'a', 'n');
      alter table app.log_a rename to part_a;
      drop table app.part_a cascade;
      select notika.publish('leaf', 'app.log');
      select notika.unpublish('leaf');`);

    expect(await captured(db)).toEqual([{ id: "2", note: "n" }]);
    expect(await generatedNames(db)).toEqual([
      "notika_1_insert on app.log",
      "notika_1_update on app.log",
      "notika._capture_1()",
      "notika.payload_1(app.log)",
    ]);
  });
});

test("inheritance children are captured with their parent, and leave it without harm", async ({ db }) => {
  await db.script(`${users}
    create table app.admins (rank int) inherits (app.users);
    create table app.staff (id bigint not null, email text, name text, extra int);
    alter table app.staff drop column extra;
    alter table app.staff inherit app.users;
    create table app.third (level int) inherits (app.staff);
    select notika.publish('w', 'app.users', '{insert,update,delete}', '{id,name}', watch => '{name}');
    select notika.publish('whole', 'app.users');
    insert into app.users values (1);
    insert into app.admins values (2, null, null, 9);
    insert into app.third values (3);
    update app.users set name = 'x';`);

  expect((await events(db)).map((event) => [event.operation, event.table_name, event.new])).toEqual([
    ["insert", "app.users", { id: "1", name: null }],
    ["insert", "app.users", { id: "2", name: null }],
    ["insert", "app.users", { id: "3", name: null }],
    ["update", "app.users", { id: "1", name: "x" }],
    ["update", "app.users", { id: "2", name: "x" }],
    ["update", "app.users", { id: "3", name: "x" }],
  ]);

  await db.script(`
    truncate notika.event_log_0;
    alter table app.admins no inherit app.users;
    insert into app.admins values (4);
    alter table app.admins drop column name cascade;
    insert into app.admins values (5);
    select notika.publish('w', 'app.users', '{insert,update,delete}', '{id,name}', watch => '{name}');
    insert into app.third values (6);`);
  expect(await captured(db)).toEqual([{ id: "6", name: null }]);
  expect((await generatedNames(db)).filter((name) => name.includes("_1"))).toEqual([
    "notika_1_delete on app.staff",
    "notika_1_delete on app.third",
    "notika_1_delete on app.users",
    "notika_1_insert on app.staff",
    "notika_1_insert on app.third",
    "notika_1_insert on app.users",
    "notika_1_truncate on app.staff",
    "notika_1_truncate on app.third",
    "notika_1_truncate on app.users",
    "notika_1_update on app.staff",
    "notika_1_update on app.third",
    "notika_1_update on app.users",
    "notika._capture_1()",
    "notika._truncated_1()",
    "notika.payload_1(app.staff)",
    "notika.payload_1(app.third)",
    "notika.payload_1(app.users)",
  ]);
});

test("any name will do for a schema, a table or a column", async ({ db }) => {
  const names = [
    "Upper Case",
    'quo"te',
    "it's",
    "a.b",
    "100%s %1$s %",
    "back\\slash",
    "$dollar$ $$",
    "☃ é",
    "select",
    "new",
    "old",
    "r",
    "o",
    "i0",
    "tg_op",
    "line\nbreak",
    "NULL",
    "null",
    "{",
    "a,b",
    " ",
    "semi;colon -- comment /*",
    `"`,
    "'",
    "x".repeat(63),
  ];
  const quote = (name: string) => `"${name.replaceAll('"', '""')}"`;
  const literal = (text: string) => `E'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
  const array = `array[${names.map(literal)}]`;
  const value = Object.fromEntries(names.map((name) => [name, "1"]));

  for (const [i, name] of names.entries()) {
    if (engine === "15" && !isThorough && i % 3 > 0) continue; // each is the name of a column all the same
    const table = `${quote(`${name.slice(0, 50)} s`)}.${quote(name)}`;
    await db.script(`
      create schema ${quote(`${name.slice(0, 50)} s`)};
      create table ${table} (${names.map((column) => `${quote(column)} text`)});
      select notika.publish('some', ${literal(table)}, '{insert,update}', ${array}, watch => ${array},
        condition => ${literal(`new.${quote(name)} = '1'`)});
      select notika.publish('whole', ${literal(table)});
      insert into ${table} values (${names.map(() => "'1'")});
      update ${table} set ${quote(name)} = '1';`);
    expect((await captured(db, "some")).at(-1), name).toEqual(value);
    expect((await captured(db, "whole")).at(-1), name).toEqual(value);
    expect(
      await db.query(
        `select notika.publish('whole', table_name) as said from notika.workflows where workflow = 'whole'`,
      ),
    ).toEqual([{ said: "unchanged" }]);
  }
});

test("tables without a key, without columns, unlogged, with more columns than a function has arguments", async ({
  db,
}) => {
  const columns = Array.from({ length: 1000 }, (_, i) => `c${i}`);
  const numbers = Object.fromEntries(columns.map((column, i) => [column, String(i)]));
  await db.script(`
    create schema app;
    create table app.keyless (a int);
    create table app.empty ();
    create unlogged table app.unlogged (a int primary key);
    create table app.wide (${columns.map((column) => `${column} numeric`)}, j json);
    select notika.publish('keyless', 'app.keyless', '{insert,update,delete}');
    select notika.publish('empty', 'app.empty');
    select notika.publish('unlogged', 'app.unlogged', columns => '{a}');
    select notika.publish('wide', 'app.wide', columns => '{${columns}}');
    select notika.publish('whole', 'app.wide');
    insert into app.keyless values (1), (1);
    update app.keyless set a = 2;
    delete from app.keyless;
    insert into app.empty default values;
    insert into app.unlogged values (1);
    insert into app.wide values (${columns.map((_, i) => i)}, '"\\u0000"');`);

  expect((await events(db, "keyless")).map((event) => [event.operation, event.old, event.new])).toEqual([
    ["insert", null, { a: 1 }],
    ["insert", null, { a: 1 }],
    ["update", { a: 1 }, { a: 2 }],
    ["update", { a: 1 }, { a: 2 }],
    ["delete", { a: 2 }, null],
    ["delete", { a: 2 }, null],
  ]);
  expect(await captured(db, "empty")).toEqual([{}]);
  expect(await captured(db, "unlogged")).toEqual([{ a: 1 }]);
  expect(await captured(db, "wide")).toEqual([numbers]);
  expect(await captured(db, "whole")).toEqual([{ ...numbers, j: "\u0000" }]);
});

test("a row that is too big is written all the same; its event has the key and says so", async ({ db }) => {
  const size = db.engine === "pglite" || !isThorough ? 8_000_000 : 30_000_000;
  await db.script(`
    create schema app;
    create table app.documents (
      tenant int8, id text, body text, data jsonb, raw bytea, many text[], included text,
      primary key (tenant, id) include (included)
    );
    create function app.noise(length int) returns text language sql as
      $$ select string_agg(md5(random()::text), '') from generate_series(1, length / 32) $$;
    select notika.publish('some', 'app.documents', '{insert,update,delete}', '{tenant,body,data,raw,many}');
    select notika.publish('whole', 'app.documents', '{insert,update,delete}');`);
  const big = [
    `body) values (%, '%', repeat('x', ${size}))`,
    `body) values (%, '%', app.noise(${size}))`,
    `body) values (%, '%', repeat(chr(1), 500000))`, // six times as long as json
    `data) values (%, '%', jsonb_build_object('a', repeat('x', ${size})))`,
    `data) values (%, '%', jsonb_build_object('a', app.noise(${size})))`,
    `raw) values (%, '%', convert_to(app.noise(${size}), 'UTF8'))`,
    `raw) values (%, '%', decode(repeat('00', 600000), 'hex'))`, // twice as long as text
    `many) values (%, '%', array_fill('x'::text, array[400000]))`,
  ];
  for (const [i, values] of big.entries()) {
    await db.query(`insert into app.documents (tenant, id, ${values.replaceAll("%", String(i))}`);
  }
  await db.script(
    `update app.documents set body = null, data = null, raw = null, many = null; delete from app.documents`,
  );

  for (const workflow of ["some", "whole"]) {
    expect(
      await db.query(
        `select operation, new::text, truncated, count(*)::int from notika.event_log
          where workflow = $1 and operation = 'insert' group by 1, 2, 3 order by 2`,
        [workflow],
      ),
    ).toEqual(
      big.map((_, i) => ({
        operation: "insert",
        new: `{"tenant" : "${i}", "id" : "${i}"}`,
        truncated: true,
        count: 1,
      })),
    );
    const rest = { body: null, data: null, raw: null, many: null };
    const small = workflow === "some" ? { tenant: "0", ...rest } : { tenant: "0", id: "0", ...rest, included: null };
    expect(
      await db.query(
        `select operation, old, new, truncated from notika.event_log
          where workflow = $1 and operation <> 'insert' order by event_id`,
        [workflow],
      ),
    ).toEqual([
      ...big.map((_, i) => ({
        operation: "update",
        old: { tenant: String(i), id: String(i) },
        new: { ...small, tenant: String(i), ...(workflow === "whole" && { id: String(i) }) },
        truncated: true,
      })),
      ...big.map((_, i) => ({
        operation: "delete",
        old: { ...small, tenant: String(i), ...(workflow === "whole" && { id: String(i) }) },
        new: null,
        truncated: false,
      })),
    ]);
  }
});

test("values that are too big for an event are not even read", async ({ db }) => {
  await db.script(`
    create schema app;
    create table app.documents (id int primary key, n int, one text, two text, three jsonb);
    alter table app.documents alter one set storage external, alter two set storage external;
    insert into app.documents select 1, 1, repeat('x', 3000000), repeat('x', 3000000),
      (select jsonb_agg(md5(i::text)) from generate_series(1, 100000) as i);`);
  const blocksRead = async () => {
    await db.query("select pg_stat_force_next_flush()");
    const [table] = await db.query<{ blocks: string }>(`
      select toast_blks_read + toast_blks_hit as blocks from pg_statio_user_tables where relname = 'documents'`);
    return Number(table?.blocks);
  };
  await db.query("select notika.publish('some', 'app.documents', '{update}', '{id,n,one,two,three}')");
  const before = await blocksRead();

  await db.query("update app.documents set n = 2");

  expect((await blocksRead()) - before).toBe(0);
  expect(await db.query("select old, new, truncated from notika.event_log")).toEqual([
    { old: { id: 1 }, new: { id: 1 }, truncated: true },
  ]);
});

test("rows just under the limit are whole; the limit is a setting, in force at the next publish", async ({ db }) => {
  await db.script(`
    create schema app;
    create table app.notes (id int, note text);
    create unique index notes_id on app.notes (id);
    alter table app.notes alter id set not null, replica identity using index notes_id;
    update notika.setting set payload_bytes = 2000;
    select notika.publish('some', 'app.notes', columns => '{id,note}');
    select notika.publish('whole', 'app.notes');
    insert into app.notes values (1, repeat('x', 1900)), (2, repeat('x', 2100));
    update notika.setting set payload_bytes = 4000;
    select notika.publish('some', 'app.notes', columns => '{id,note}');
    insert into app.notes values (3, repeat('x', 2100));`);

  const outcome = (workflow: string) =>
    db.query(
      `select (new ->> 'id')::int as id, length(new ->> 'note') as length, truncated from notika.event_log
        where workflow = $1 order by event_id`,
      [workflow],
    );
  expect(await outcome("some")).toEqual([
    { id: 1, length: 1900, truncated: false },
    { id: 2, length: null, truncated: true },
    { id: 3, length: 2100, truncated: false },
  ]);
  expect(await outcome("whole")).toEqual([
    { id: 1, length: 1900, truncated: false },
    { id: 2, length: null, truncated: true },
    { id: 3, length: null, truncated: true },
  ]);
});

test("generated columns have their values if they are stored", async ({ db }) => {
  await db.script(`
    create schema app;
    create table app.sums (a int, b int generated always as (a * 2) stored);
    select notika.publish('w', 'app.sums', '{insert,update}', '{a,b}', watch => '{b}');
    insert into app.sums values (1);
    update app.sums set a = 2;
    update app.sums set a = 2;`);

  expect(await captured(db)).toEqual([
    { a: 1, b: 2 },
    { a: 2, b: 4 },
  ]);
});

test("virtual columns can be watched but not published, and publish warns", async ({ db, skip }) => {
  if (db.engine !== "18") skip("it takes PostgreSQL 18, and notices");
  const [server] = await db.query<{ url: string }>(
    `select format('postgres://%s@%s:%s/%s', session_user, host(inet_server_addr()), inet_server_port(), current_database())
       as url`,
  );
  const notices: string[] = [];
  const database = openDatabase({ connect: server?.url ?? "", onNotice: (notice) => notices.push(notice) });
  await database
    .script(`
      create schema app;
      create table app.sums (a int, b int generated always as (a * 3) virtual);
      select notika.publish('watched', 'app.sums', '{update}', '{a}', watch => '{b}', condition => 'new.b > 10');
      select notika.publish('some', 'app.sums', columns => '{a,b}');
      select notika.publish('whole', 'app.sums');
      insert into app.sums values (1);
      update app.sums set a = 2;
      update app.sums set a = 20;
      update app.sums set a = 20;`)
    .finally(database.close);

  expect(await captured(db, "watched")).toEqual([{ a: 20 }]);
  expect(await captured(db, "some")).toEqual([{ a: 1, b: null }]);
  expect(await captured(db, "whole")).toEqual([{ a: 1, b: null }]);
  expect(notices).toEqual(Array(2).fill('column "b" of table app.sums is virtual and always null in events'));
});

describe("a write", () => {
  test("gives what it would give without Notika", async ({ db }) => {
    const statements = [
      `insert into % values (1, 'a'), (2, 'b') returning *`,
      `insert into % values (1, 'c'), (3, 'c') on conflict (id) do update set v = excluded.v || 'x' returning *`,
      `insert into % values (1, 'd') on conflict do nothing returning *`,
      `merge into % as t using (values (1, 'm'), (9, 'n')) as s (id, v) on t.id = s.id
         when matched then update set v = s.v when not matched then insert values (s.id, s.v)`,
      `with gone as (delete from % where id = 9 returning *), more as (insert into % select id + 1, v from gone returning *)
       select * from gone union all select * from more`,
      `update % set id = id + 100 returning *`,
      `insert into % values (101, 'x')`,
      `insert into % values (7, 'check')`,
      `select * from % order by id`,
    ];
    await db.script(`
      create schema app;
      create table app.plain (id int primary key deferrable, v text check (v <> 'check'));
      alter table app.plain drop constraint plain_pkey;
      alter table app.plain add constraint plain_pkey primary key (id);
      create table app.published (like app.plain including all);
      select notika.publish('w', 'app.published', '{insert,update,delete}', '{id,v}', watch => '{v}');
      select notika.publish('whole', 'app.published', '{insert,update,delete}');`);
    const run = async (table: string) => {
      const results: unknown[] = [];
      for (const statement of statements) {
        results.push(
          await db.query(statement.replaceAll("%", table)).catch((error) => ({ code: error.code, where: error.where })),
        );
      }
      return results;
    };

    expect(await run("app.published")).toEqual(await run("app.plain"));
    expect((await events(db)).map((event) => [event.operation, event.old, event.new])).toEqual([
      ["insert", null, { id: 1, v: "a" }],
      ["insert", null, { id: 2, v: "b" }],
      ["update", { id: 1, v: "a" }, { id: 1, v: "cx" }],
      ["insert", null, { id: 3, v: "c" }],
      ["update", { id: 1, v: "cx" }, { id: 1, v: "m" }],
      ["insert", null, { id: 9, v: "n" }],
      ["delete", { id: 9, v: "n" }, null],
      ["insert", null, { id: 10, v: "n" }],
    ]);
  });

  test("is captured whatever makes it: cascades, functions, deferred triggers, and none that is undone", async ({
    db,
  }) => {
    await db.script(`
      create schema app;
      create table app.parents (id int primary key);
      create table app.children (id int primary key, parent_id int references app.parents on delete cascade on update cascade);
      create function app.touch() returns trigger language plpgsql as
        'begin update app.children set id = id + 10 where id = new.id and id < 10; return null; end';
      create constraint trigger touch after insert on app.children deferrable initially deferred
        for each row execute function app.touch();
      create function app.stamp() returns trigger language plpgsql as
        'begin if new.id = 3 then return null; end if; return new; end';
      create trigger a_stamp before insert on app.children for each row execute function app.stamp();
      create function app.note() returns trigger language plpgsql as 'begin return null; end';
      create trigger a_first after insert on app.children for each row execute function app.note();
      create trigger z_last after insert on app.children for each row execute function app.note();
      select notika.publish('w', 'app.children', '{insert,update,delete}', '{id,parent_id}');
      insert into app.parents values (1), (2);`);

    await db.script(`insert into app.children values (1, 1), (2, 2), (3, 1)`);
    expect((await events(db)).map((event) => [event.operation, event.new])).toEqual([
      ["insert", { id: 1, parent_id: 1 }],
      ["insert", { id: 2, parent_id: 2 }],
      ["update", { id: 11, parent_id: 1 }],
      ["update", { id: 12, parent_id: 2 }],
    ]);

    await db.script(
      `truncate notika.event_log_0; update app.parents set id = 5 where id = 1; delete from app.parents where id = 5`,
    );
    expect((await events(db)).map((event) => [event.operation, event.old, event.new])).toEqual([
      ["update", { id: 11, parent_id: 1 }, { id: 11, parent_id: 5 }],
      ["delete", { id: 11, parent_id: 5 }, null],
    ]);

    await db.script(`truncate notika.event_log_0`);
    await undone(db, `insert into app.children values (21, 2)`);
    await inTransaction(
      db,
      `insert into app.children values (31, 2)`,
      `savepoint one`,
      `insert into app.children values (32, 2)`,
      `rollback to one`,
      `insert into app.children values (33, 2)`,
      `release one`,
    );
    expect(await captured(db)).toEqual([
      { id: 31, parent_id: 2 },
      { id: 33, parent_id: 2 },
    ]);
  });

  test("needs no right on Notika, and may be made by a function, a view or a rule", async ({ db }) => {
    await db.script(`${users}
      create role writer;
      grant usage on schema app to writer;
      grant insert, update, delete, select on app.users to writer;
      create view app.people as select id, name from app.users;
      grant insert on app.people to writer;
      create function app.is_fine(app.users) returns boolean language sql immutable as 'select true';
      select notika.publish('some', 'app.users', '{insert,update,delete}', '{id,name}', '{name}', 'true');
      select notika.publish('whole', 'app.users', '{insert}', condition => 'app.is_fine(new)');`);

    await asRole(
      db,
      "writer",
      "insert into app.users values (1)",
      "insert into app.people values (2, 'x')",
      "update app.users set name = 'y' where id = 1",
      "delete from app.users",
    );

    expect((await events(db, "some")).map(({ operation }) => operation)).toEqual([
      "insert",
      "insert",
      "update",
      "delete",
      "delete",
    ]);
    expect(await captured(db, "whole")).toHaveLength(2);
    for (const forbidden of [
      "select * from notika.event_log_0",
      "select notika.payload_1(null)",
      "select nextval('notika.event_id_seq')",
      "create temp table t (id int); create trigger t after insert on t execute function notika._capture_1()",
    ]) {
      const statements = forbidden.split("; ");
      await expect(asRole(db, "writer", ...statements)).rejects.toMatchObject({ code: "42501" });
    }
  });

  test("may be made with COPY", async ({ db, skip }) => {
    if (db.engine === "pglite") skip("its server reads no files");
    await db.script(`${users}
      select notika.publish('w', 'app.users', columns => '{id,name}');
      copy app.users (id, name) from program 'printf "1,Ada\n2,\n"' with (format csv);`);

    expect(await captured(db)).toEqual([
      { id: "1", name: "Ada" },
      { id: "2", name: null },
    ]);
  });
});

describe("the settings of a session", () => {
  test("change nothing in what is captured, not even in the first write of a session", async ({ db }) => {
    const odd = [
      "set local standard_conforming_strings = off",
      "set local escape_string_warning = off",
      "set local timezone = 'Asia/Kathmandu'",
      "set local datestyle = 'SQL, DMY'",
      "set local search_path = ''",
      "set local quote_all_identifiers = on",
      "set local bytea_output = 'escape'",
      "set local transform_null_equals = on",
    ];
    await db.script(`
      create schema app;
      create table app.odd (
        at timestamptz, spent interval, key bytea, sums numeric[], doc json, primary key (at, spent, key));
      select notika.publish('whole', 'app.odd');
      select notika.publish('some', 'app.odd', columns => '{sums,doc}');
`);
    const values = `'2026-11-22 12:00+00', '1 day 2 hours', decode('00ff5c', 'hex'), '{1.50,NaN,NULL}'`;

    await inTransaction(
      db,
      ...odd,
      `insert into app.odd values (${values}, '{"a": 1}')`,
      `insert into app.odd values (${values.replace("2026-11-22", "2026-11-23")}, ('{"a": "' || chr(92) || 'u0000"}')::json)`,
      `insert into app.odd values (${values.replace("2026-11-22", "2026-11-24")}, to_json(repeat('x', 2000000)))`,
    );

    const key = (day: number) => ({ at: `2026-11-${day}T12:00:00+00:00`, spent: "P1DT2H", key: "\\x00ff5c" });
    const sums = ["1.50", "NaN", null];
    expect(await captured(db, "whole")).toEqual([
      { ...key(22), sums, doc: { a: 1 } },
      { ...key(23), sums, doc: { a: "\u0000" } },
      key(24),
    ]);
    expect(await captured(db, "some")).toEqual([{ sums, doc: { a: 1 } }, { sums, doc: { a: "\u0000" } }, key(24)]);
  });
});

describe("the settings of a transaction", () => {
  test("carry the run and its depth, for members of the owner alone", async ({ db }) => {
    await db.script(`${users}
      create role stranger login;
      create role colleague login;
      grant notika to colleague;
      grant usage on schema app to stranger, colleague;
      grant insert on app.users to stranger, colleague;
      select notika.publish('w', 'app.users', columns => '{id}')`);
    const write = (user: string, id: number, run: string) =>
      inTransaction(
        db,
        `set local session authorization ${user}`,
        `select set_config('notika.run', '${run}', true)`,
        `insert into app.users values (${id})`,
      );

    await write("postgres", 1, "41/0");
    await write("colleague", 2, "999999999999999999/9999");
    await write("stranger", 3, "41/0");
    for (const [i, garbage] of [
      "x",
      "41",
      "41/",
      "/3",
      "41/x",
      "-1/2",
      "1/-2",
      "41/99999",
      "9999999999999999999/1",
      " 41/1",
      "41/1 ",
      "٣/٣",
      "1/1/1",
      "%s",
      "{}",
    ].entries()) {
      await write("postgres", 10 + i, garbage);
    }

    const rows = await db.query(`select cause_id, depth from notika.event_log order by event_id`);
    expect(rows.slice(0, 3)).toEqual([
      { cause_id: "41", depth: 1 },
      { cause_id: "999999999999999999", depth: 10000 },
      { cause_id: null, depth: 0 },
    ]);
    expect(rows.slice(3)).toEqual(Array(15).fill({ cause_id: null, depth: 0 }));
  });

  test("end a chain of runs that wake each other", async ({ db }) => {
    await db.script(`${users}
      update notika.setting set max_depth = 2;
      select notika.publish('w', 'app.users', columns => '{id}')`);
    for (const depth of [0, 1, 2, 3]) {
      await inTransaction(db, `set local notika.run = '7/${depth}'`, `insert into app.users values (${depth})`);
    }
    await db.query(`select notika.dispatch()`);

    expect(await db.query(`select state, error from notika.runs order by run_id`)).toEqual([
      { state: "ready", error: null },
      { state: "ready", error: null },
      ...[3, 4].map((depth) => ({
        state: "failed",
        error: `stopped at depth ${depth}: runs wake each other in a loop (the run before is 7)`,
      })),
    ]);
  });

  test("mute the capture, for members of the owner alone", async ({ db }) => {
    await db.script(`${users}
      create role stranger login;
      grant usage on schema app to stranger;
      grant insert on app.users to stranger;
      select notika.publish('w', 'app.users', columns => '{id}')`);
    const write = (user: string, id: number, mute: string) =>
      inTransaction(
        db,
        `set local session authorization ${user}`,
        `select set_config('notika.mute', '${mute}', true)`,
        `insert into app.users values (${id})`,
      );

    for (const [i, on] of ["on", "true", "1", "yes"].entries()) await write("postgres", i, on);
    await write("stranger", 10, "on");
    for (const [i, off] of ["off", "", "garbage"].entries()) await write("postgres", 20 + i, off);
    await db.script(`insert into app.users values (30)`);

    expect(await captured(db)).toEqual(["10", "20", "21", "22", "30"].map((id) => ({ id })));
  });
});

describe("a later change of the table", () => {
  test("of names is followed: the keys of the payload stay as published", async ({ db }) => {
    await db.script(`${users}
      select notika.publish('w', 'app.users', '{insert,update}', '{id,email,name}', '{email}', 'new.name is not null');
      alter table app.users rename column email to "E-mail";
      alter table app.users rename column name to full_name;
      alter table app.users rename to people;
      alter schema app rename to application;
      create schema elsewhere;
      alter table application.people set schema elsewhere;
      insert into elsewhere.people values (1, 'a@x', 'Ada'), (2, 'b@x', null);
      update elsewhere.people set full_name = 'A';
      update elsewhere.people set "E-mail" = 'a@y' where id = 1;`);

    expect(await events(db)).toEqual([
      { operation: "insert", table_name: "elsewhere.people", new: { id: "1", email: "a@x", name: "Ada" }, old: null },
      {
        operation: "update",
        table_name: "elsewhere.people",
        new: { id: "1", email: "a@y", name: "A" },
        old: { id: "1", email: "a@x", name: "A" },
      },
    ]);
    expect(await db.query(`select table_name, columns, state from notika.workflows`)).toEqual([
      { table_name: "elsewhere.people", columns: ["id", "email", "name"], state: "published" },
    ]);

    await db.script(`
      select notika.publish('w', 'elsewhere.people', '{insert}', '{id,E-mail}');
      insert into elsewhere.people values (3, 'c@x');`);
    expect((await captured(db)).at(-1)).toEqual({ id: "3", "E-mail": "c@x" });
  });

  test("that takes a published column away is refused by Postgres itself where nobody judges it, or takes the capture along", async ({
    db,
  }) => {
    await db.script(`${users} ${noEventTriggers}
      select notika.publish('w', 'app.users', '{insert,update,delete}', '{id,email}');
      select notika.publish('x', 'app.users', '{insert,update}', '{id}', watch => '{email}', condition => 'new.email <> ''''');`);

    await expect(db.query(`alter table app.users drop column email`)).rejects.toMatchObject({
      code: "2BP01",
      detail: expect.stringContaining(
        "function notika.payload_1(app.users) depends on column email of table app.users",
      ),
    });
    await expect(db.query(`drop table app.users`)).rejects.toMatchObject({ code: "2BP01" });
    await expect(db.query(`alter table app.users alter email type varchar(10)`)).rejects.toMatchObject({
      code: "0A000",
    });
    await db.script(`alter table app.users add column more int, drop column name`);
    await db.script(`insert into app.users values (1, 'a@x')`);
    expect(await captured(db)).toEqual([{ id: "1", email: "a@x" }]);

    await db.script(`set client_min_messages = warning; alter table app.users drop column email cascade`);
    await db.script(`
      insert into app.users values (2);
      update app.users set id = 3 where id = 2;
      delete from app.users;`);
    expect(await captured(db)).toHaveLength(1);
    expect(await generatedNames(db)).toEqual([
      "notika_1_truncate on app.users",
      "notika._capture_1()",
      "notika._capture_2()",
      "notika._truncated_1()",
      "notika.payload_2(app.users)",
    ]);
  });

  test("is seen by a whole row at once", async ({ db }) => {
    await db.script(`${users}
      select notika.publish('w', 'app.users');
      insert into app.users values (1);
      alter table app.users rename column name to full_name;
      alter table app.users drop column email, add column born date default '2000-01-01';
      insert into app.users values (2, 'Bob');
      alter table app.users alter full_name type int8 using 7;
      insert into app.users values (3, 9);`);

    expect(await captured(db)).toEqual([
      { id: "1", email: null, name: null },
      { id: "2", full_name: "Bob", born: "2000-01-01" },
      { id: "3", full_name: "9", born: "2000-01-01" },
    ]);
  });
});
