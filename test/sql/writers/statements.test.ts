import { test } from "../../support/database.ts";
import { expectTwins } from "./twins.ts";

const item = `
  create table item (id int primary key, note text, n numeric);
  insert into item values (1, 'one', 1), (2, 'two', 2.50), (3, null, 'NaN');`;

test("a write does the same to several rows, to none, and to one that is written twice", async ({ db }) => {
  await expectTwins(db, {
    given: `${item} create table other (id int, note text); insert into other values (2, 'x'), (2, 'y'), (9, 'z');`,
    write: [
      "insert into item values (4, 'four', 4), (5, 'five', 5) returning *",
      "insert into item select id + 100, note from other where id > 100",
      ["insert into item values (1, 'again', 0)", "23505"],
      "update item set note = note",
      "update item set n = n + 1 where id < 0",
      "update item as i set note = o.note from other as o where o.id = i.id and o.note = 'x' returning i.*, o.*",
      "delete from item as i using other as o where i.id = o.id - 4 returning i.id",
      "update item set id = id + 1000 returning id",
      "delete from item",
      "delete from item",
    ],
    captured: { "insert item": 2, "update item": 10, "delete item": 5 },
  });
});

test("an upsert inserts a row, updates it, or leaves it alone", async ({ db }) => {
  await expectTwins(db, {
    given: item,
    write: [
      "insert into item values (1, 'x', 1), (4, 'four', 4) on conflict (id) do update set note = excluded.note returning *",
      "insert into item values (1, 'y', 1), (5, 'five', 5) on conflict do nothing returning *",
      "insert into item values (2, 'y', 1) on conflict (id) do update set note = 'no' where item.n > 100 returning *",
      ["insert into item values (7, 'a'), (7, 'b') on conflict (id) do update set note = excluded.note", "21000"],
      ["insert into item values (2, 'y', 1) on conflict (note) do nothing", "42P10"],
    ],
    captured: { "insert item": 2, "update item": 1 },
  });
});

test("MERGE takes all of its actions", async ({ db }) => {
  await expectTwins(db, {
    given: item,
    write: [
      `merge into item as t using (values (1, 'm'), (2, 'gone'), (8, 'new'), (9, 'skipped')) as s (id, note) on t.id = s.id
         when matched and s.note = 'gone' then delete
         when matched then update set note = s.note
         when not matched and s.note = 'skipped' then do nothing
         when not matched then insert values (s.id, s.note, 0)`,
      [
        "merge into item as t using (values (1), (1)) as s (id) on t.id = s.id when matched then update set n = 0",
        "21000",
      ],
    ],
    captured: { "insert item": 1, "update item": 1, "delete item": 1 },
  });
  if (db.engine === "15" || db.engine === "16") return;

  await expectTwins(db, {
    given: item,
    write: [
      `merge into item as t using (values (1, 'm'), (8, 'new')) as s (id, note) on t.id = s.id
         when matched then update set note = s.note
         when not matched then insert values (s.id, s.note, 0)
         when not matched by source then delete
         returning merge_action(), t.*`,
    ],
    captured: { "insert item": 1, "update item": 1, "delete item": 2 },
  });
});

test("a statement has several writes in it", async ({ db }) => {
  await expectTwins(db, {
    given: `${item} create table archive (like item);`,
    write: [
      `with gone as (delete from item where id = 1 returning *), kept as (insert into archive select * from gone returning *)
         select * from kept`,
      `with one as (update item set note = 'a' where id = 2 returning id), two as (update item set note = 'b' where id = 2 returning id)
         select * from one, two`,
      "with new as (insert into item values (20, 'x', 0) returning *) insert into archive select * from new returning *",
      ["with r as (insert into item values (2, 'x', 0)) select 1", "23505"],
      "table item",
    ],
    captured: { "insert archive": 2, "delete item": 1, "update item": 1, "insert item": 1 },
  });
});

test("TRUNCATE makes no event, and works where the table was written to before", async ({ db }) => {
  await expectTwins(db, {
    given: `
      create table item (id int generated always as identity primary key, note text);
      create table part (item_id int references item);`,
    write: [
      "insert into item (note) values ('x'), ('y')",
      "delete from item",
      ["truncate item", "0A000"],
      "truncate item restart identity cascade",
      "insert into item (note) values ('z') returning *",
      "begin",
      "insert into item (note) values ('never')",
      "truncate item, part",
      "rollback",
    ],
    captured: { "insert item": 3, "delete item": 2 },
  });
});

test("COPY reads each of its formats, and into a table that is made anew", async ({ db, skip }) => {
  if (db.engine === "pglite") skip("its server reads no files");
  const [server] = await db.query<{ file: string }>("select current_setting('data_directory') || '/copied' as file");
  const copies = ["(format text)", "(format csv, header)", "(format binary)"].flatMap((format) => [
    `copy (select id + 10, note, n from item where id < 10) to '${server?.file}' ${format}`,
    `copy item from '${server?.file}' ${format}`,
    "delete from item where id > 10",
  ]);
  await expectTwins(db, {
    given: item,
    write: [
      ...copies,
      [`copy item from program 'printf "1\\\\tagain\\\\t0\\\\n"'`, "23505"],
      [`copy item from program 'printf "x\\\\n"'`, "22P02"],
      "copy item (note, id) from program 'printf \"only,4\\\\nodd,5\\\\n\"' with (format csv) where note <> 'odd'",
      "begin",
      "truncate item",
      "copy item from program 'printf \"1,frozen,0\\\\n\"' with (format csv, freeze)",
      "commit",
      // What TRUNCATE took away has no event.
      "truncate item",
      "insert into item values (1, 'one', 1), (2, 'two', 2.50), (3, null, 'NaN'), (4, 'only', null)",
      "delete from item where id = 1 and note = 'frozen'",
    ],
    captured: { "insert item": 15, "delete item": 9 },
    truncated: true,
  });
});

test("savepoints come by the thousand, blocks fail, and cursors point at rows", async ({ db }) => {
  await expectTwins(db, {
    given: item,
    write: [
      `do $$
       begin
         for i in 1..2000 loop
           begin
             insert into item values (i + 10, 'n', i);
             if i % 4 = 0 then raise exception 'undo'; end if;
           exception when raise_exception then
             null;
           end;
         end loop;
       end $$`,
      "begin",
      "savepoint a",
      "insert into item values (5000, 'undone')",
      "rollback to a",
      "insert into item values (5001, 'kept')",
      "savepoint b",
      ["insert into item values (1)", "23505"],
      "rollback to b",
      "declare c cursor for select * from item where id < 10 order by id for update",
      "fetch 2 from c",
      "update item set note = 'current' where current of c returning *",
      "delete from item where current of c",
      "fetch 1 from c",
      "delete from item where current of c returning *",
      "commit",
    ],
    captured: { "insert item": 1501, "update item": 1, "delete item": 2 },
  });
});

test("values are at the edge of their types", async ({ db }) => {
  await expectTwins(db, {
    given: `
      create type mood as enum ('sad', 'ok');
      create table item (
        id serial, i8 int8, n numeric, f8 float8, f4 float4, d date, ts timestamp, tz timestamptz, iv interval, by bytea,
        j json, jb jsonb, t text, arr int[], grid text[], moods mood[], r int4range, mr int4multirange, u uuid, b bit(3), p point
      );`,
    write: [
      `insert into item (i8, n, f8, f4, d, ts, tz) values
        (-9223372036854775808, 'NaN', 'NaN', 'NaN', '-infinity', '-infinity', '-infinity'),
        (9223372036854775807, 'Infinity', '-Infinity', 'Infinity', 'infinity', 'infinity', 'infinity'),
        (0, '-Infinity', '-0', '1e-45', '4713-01-01 BC', '4713-01-01 00:00:00 BC', '4713-01-01 00:00:00+00 BC'),
        (1, 1e5000, 1.7976931348623157e308, 3.4028235e38, '5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59+00'),
        (2, 1e-5000, 5e-324, '-3.4028235e38', '0001-12-31 BC', '0001-01-01', '2026-03-29 02:30:00 Europe/Berlin')
        returning id`,
      "insert into item (iv) values ('178000000 years'), ('-178000000 years'), ('-1 year 2 days -03:04:05.000006'), ('0')",
      String.raw`insert into item (j) values
        ('{"a": 1, "a": 2, "": null}'), ('  [ 1e999999 , -0.0 ] '), ('"\u0000\ud83d\ude00"'), ('"\ud800"'), ('"\\u0000"'), ('null'), (null),
        ((repeat('[', 900) || repeat(']', 900))::json)`,
      String.raw`insert into item (jb, t) values
        ('null', ''), ('1e400', 'null'), ('"x"', E'\\u0000 \\x00 \x01 \x7f \u202e \ufeff \ufffd 😀'),
        ('{}', '{"not": json'), ('[]', '%s %1$s $$ $1 '' " \'), (null, E'\r\n\t\b\f\v')`,
      String.raw`insert into item (arr, grid, moods) values
        ('{}', '{}', '{}'), ('[5:6]={1,NULL}', '{{a,NULL},{"","NULL"}}', '{sad,NULL,ok}'), ('{{{1}}}', array[['{','"'],['\',',']], null)`,
      `insert into item (r, mr, u, b, p) values
        ('empty', '{}', '00112233-4455-6677-8899-aabbccddeeff', '101', '(NaN,Infinity)'), ('(,)', '{(,1),[5,)}', null, '000', null)
        returning r, mr, b`,
      ["insert into item (i8) values (9223372036854775808)", "22003"],
      ["insert into item (tz) values ('300000-01-01')", "22008"],
      [String.raw`insert into item (jb) values ('"\u0000"')`, "22P05"],
      [String.raw`insert into item (t) values (E'\x00')`, "22021"],
      "update item set t = t || 'x', moods = null, grid = grid || grid",
      "delete from item",
    ],
    captured: { "insert item": 28, "update item": 28, "delete item": 28 },
  });
});
