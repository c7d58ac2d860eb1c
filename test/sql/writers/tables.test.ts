import { test } from "../../support/database.ts";
import { expectTwins } from "./twins.ts";

test("foreign keys act on what refers to the row", async ({ db }) => {
  await expectTwins(db, {
    given: `
      create table parent (id int primary key, code text unique);
      create table cascaded (id int primary key, parent_id int references parent on delete cascade on update cascade);
      create table nulled (id int primary key, code text references parent (code) on delete set null on update set null);
      create table defaulted (
        id int primary key, parent_id int default 0 references parent on delete set default on update set default);
      create table grandchild (id int primary key, cascaded_id int references cascaded on delete cascade);
      insert into parent select i, 'c' || i from generate_series(0, 4) as i;
      insert into cascaded values (1, 1), (2, 1), (3, 2);
      insert into nulled values (1, 'c1'), (3, 'c3');
      insert into defaulted values (1, 1), (4, 4);
      insert into grandchild values (1, 1), (2, 3);`,
    write: [
      "update parent set id = id * 10 where id in (2, 3)",
      "update parent set code = 'x' where id = 30",
      "delete from parent where id = 1",
      "update parent set id = 44 where id = 4",
      ["insert into cascaded values (9, 99)", "23503"],
      ["delete from parent where id = 0", "23503"],
    ],
    captured: {
      "update parent": 4,
      "update cascaded": 1,
      "update nulled": 2,
      "update defaulted": 2,
      "delete parent": 1,
      "delete cascaded": 2,
      "delete grandchild": 1,
    },
  });
  await expectTwins(db, {
    given: `
      create table node (id int primary key, up int references node on delete cascade);
      insert into node values (1, null), (2, 1), (3, 2), (4, 3);`,
    write: ["delete from node where id = 1"],
    captured: { "delete node": 4 },
  });
});

test("constraints refuse what they refuse, at once or at the end", async ({ db }) => {
  await expectTwins(db, {
    given: `
      create domain positive as int check (value > 0);
      create table main (id int primary key);
      create table item (
        id int constraint item_key unique deferrable initially deferred,
        other int references main deferrable initially deferred,
        n positive check (n < 100), kind text not null default 'k', during int4range,
        constraint apart exclude using gist (during with &&) deferrable initially immediate
      );`,
    write: [
      ["insert into item (id, n) values (1, 0)", "23514"],
      ["insert into item (id, n) values (1, 100)", "23514"],
      ["insert into item (id, kind) values (1, null)", "23502"],
      "insert into item (id, n) values (1, 1), (2, 2)",
      "update item set id = 3 - id",
      ["insert into item (id) values (1)", "23505"],
      "with late as (insert into main values (10)) insert into item (id, other) values (10, 10), (11, null)",
      ["insert into item (id, other) values (12, 99)", "23503"],
      "insert into item (id, during) values (13, '[1,5)'), (14, '[5,9)')",
      ["insert into item (id, during) values (15, '[4,6)')", "23P01"],
      "begin",
      "insert into item (id) values (1)",
      ["set constraints all immediate", "23505"],
      "rollback",
      "begin",
      "set constraints all deferred",
      "insert into item (id, during) values (16, '[4,6)')",
      "delete from item where during is not null and id < 16",
      "commit",
    ],
    captured: { "insert main": 1, "insert item": 7, "update item": 2, "delete item": 2 },
  });
});

test("rows of a partitioned table move, and its parts come and go", async ({ db }) => {
  await expectTwins(db, {
    given: `
      create table measure (id int, kind text, n numeric) partition by list (kind);
      create table measure_a partition of measure for values in ('a');
      create table measure_b (n numeric, gone int, kind text, id int);
      alter table measure_b drop column gone;
      alter table measure attach partition measure_b for values in ('b');
      create table measure_rest partition of measure default partition by range (id);
      create table measure_rest_1 partition of measure_rest for values from (0) to (100);
      insert into measure values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3);`,
    write: [
      "insert into measure values (4, 'a', 4), (5, 'b', 5), (6, 'z', 6) returning *",
      "insert into measure_b (id, kind, n) values (7, 'b', 7) returning *",
      ["insert into measure_b (id, kind, n) values (7, 'a', 7)", "23514"],
      ["insert into measure values (1000, 'z', 6)", "23514"],
      "update measure set kind = 'b' where id = 1 returning *",
      "update measure set n = n * 2 returning *",
      ["update measure_a set kind = 'b'", "23514"],
      "delete from measure where kind <> 'c' and id <> 6 returning *",
      "set client_min_messages = error", // the guard warns of it
      "alter table measure detach partition measure_a",
      "insert into measure_a values (8, 'a', 8)",
      "delete from measure_a",
      "alter table measure attach partition measure_a for values in ('a')",
      "insert into measure values (9, 'a', 9)",
      "update measure_a set n = 10 returning *",
    ],
    captured: { "insert measure": 6, "delete measure": 6, "update measure": 8 },
  });
});

test("a write to a table is one to its inheritance children", async ({ db }) => {
  await expectTwins(db, {
    given: `
      create table item (id int primary key, note text);
      create table special (extra int) inherits (item);
      insert into item values (1, 'one'), (3, null);
      insert into special values (10, 'ten', 0);`,
    write: [
      "insert into special values (11, 'eleven', 1) returning *",
      "update item set note = 'x' where id > 2 returning *",
      "update only item set note = 'y' where id > 2",
      "delete from item where id = 11",
      "delete from special",
    ],
    captured: { "insert item": 1, "update item": 4, "delete item": 2 },
  });
});

test("columns fill themselves in", async ({ db }) => {
  await expectTwins(db, {
    given: `
      create domain code as text check (value ~ '^[a-z]+$') default 'abc';
      create table item (
        id int generated always as identity primary key, other int generated by default as identity,
        n int default 7, double int generated always as (n * 2) stored, code code, at timestamptz default '2026-01-02');`,
    write: [
      "insert into item default values returning *",
      ["insert into item (id, n) values (9, 1)", "428C9"],
      "insert into item (id, other, n) overriding system value values (9, 10, 1) returning *",
      ["insert into item (double) values (1)", "428C9"],
      "update item set n = n + 1, other = default returning *",
      ["update item set code = 'ABC'", "23514"],
    ],
    captured: { "insert item": 2, "update item": 2 },
  });
});

test("a table has as many columns as it can have", async ({ db }) => {
  await expectTwins(db, {
    given: `create table wide (${Array.from({ length: 1600 }, (_, i) => `c${i} int2`)});`,
    write: [
      "insert into wide (c0, c1599) values (1, 2), (3, 4)",
      "update wide set c800 = 5 where c0 = 1 returning c0, c800",
      "delete from wide where c0 = 3",
    ],
    captured: { "insert wide": 2, "update wide": 1, "delete wide": 1 },
    forms: ["whole", "some"],
  });
});

test("columns are virtual", async ({ db, skip }) => {
  if (db.engine !== "18" && db.engine !== "pglite") skip("it takes PostgreSQL 18");
  await expectTwins(db, {
    given: "create table item (id int primary key, n int, twice int generated always as (n * 2) virtual);",
    write: [
      "insert into item values (1, 1), (2, 2) returning *",
      "update item set n = 1000 where twice = 2 returning old.*, new.*",
      "update item set n = 1073741823 returning id",
      "delete from item where id = 1 returning old.id",
    ],
    captured: { "insert item": 2, "update item": 3, "delete item": 1 },
  });
});

test("tables are unlogged, temporary or oddly named", async ({ db }) => {
  const odd = `"Odd ""%s"" \\ $capture$ '; select"`;
  await expectTwins(db, {
    given: `
      create unlogged table fleeting (id int primary key);
      create table ${odd} ("new" int, "old" int, "$passes$ %1$s '" text, "☃" int, "select" json);`,
    write: [
      "insert into fleeting values (1)",
      "create temp table fleeting (id int)",
      "insert into pg_temp.fleeting values (2)",
      "insert into fleeting values (3)",
      "drop table pg_temp.fleeting",
      "insert into fleeting values (4)",
      `insert into ${odd} values (1, 2, '$capture$', 4, '{"%s": "$$"}') returning *`,
      `update ${odd} set "new" = "old", "old" = "new", "☃" = null returning *`,
      `delete from ${odd} returning "☃"`,
    ],
    captured: { "insert fleeting": 2, [`insert ${odd}`]: 1, [`update ${odd}`]: 1, [`delete ${odd}`]: 1 },
  });
});
