import { expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";
import { captured, events, inTransaction } from "./support.ts";

const oddText = 'é ☃ 😀 "quoted" \\ \t\u0001</script>';

/** A value of each of Postgres' types, of which none may look different in another session. */
const samples: Record<string, string> = {
  aclitem: "postgres=arwd/postgres",
  bit: "1",
  bool: "true",
  box: "(3,4),(1.1,2.2)",
  bpchar: "x",
  bytea: "\\x00ff5c",
  char: "c",
  cid: "7",
  cidr: "10.1.0.0/16",
  circle: "<(1.1,2),3.3>",
  date: "2026-11-22",
  datemultirange: "{[2026-01-02,2026-03-04)}",
  daterange: "[2026-01-02,2026-03-04)",
  float4: "1.1",
  float8: "0.30000000000000004",
  inet: "::1/64",
  int2: "-7",
  int2vector: "1 2",
  int4: "2147483647",
  int4multirange: "{[1,3),[5,7)}",
  int4range: "[1,3)",
  int8: "9007199254740993",
  int8multirange: "{[1,9007199254740993)}",
  int8range: "[1,9007199254740993)",
  interval: "1 year 2 days -03:04:05.678",
  json: '{"b": 1,  "a": [1.10, null, "\\u0000 \\ud800"]}',
  jsonb: '{"b": 12345678901234567890, "a": "\\u0001 \\"x\\""}',
  jsonpath: '$."a"[*] ? (@ > 1)',
  line: "{1.1,2,3}",
  lseg: "[(1,2),(3.3,4)]",
  macaddr: "08:00:2b:01:02:03",
  macaddr8: "08:00:2b:01:02:03:04:05",
  money: "-1234.56",
  name: "a name",
  numeric: "12345678901234567890.10",
  nummultirange: "{[1.10,2)}",
  numrange: "[1.10,2)",
  oid: "4294967295",
  oidvector: "1 2",
  path: "[(1,2),(3.3,4)]",
  pg_lsn: "16/B374D848",
  pg_snapshot: "10:20:10,14",
  point: "(1.1,2)",
  polygon: "((1,2),(3,4),(5.5,6))",
  refcursor: "cursor",
  regclass: "pg_class",
  regcollation: '"C"',
  regconfig: "simple",
  regdatabase: "template1",
  regdictionary: "simple",
  regnamespace: "pg_catalog",
  regoper: "pg_catalog.||/",
  regoperator: "+(integer,integer)",
  regproc: "now",
  regprocedure: "abs(integer)",
  regrole: "pg_monitor",
  regtype: "timestamp with time zone",
  text: oddText,
  tid: "(1,2)",
  time: "12:34:56.789",
  timestamp: "2026-11-22 12:34:56.789",
  timestamptz: "2026-11-22 12:34:56.789+09",
  timetz: "12:34:56.789+09",
  tsmultirange: "{[2026-01-02 03:04:05,2026-03-04 00:00:00)}",
  tsquery: "'a' & !'b'",
  tsrange: "[2026-01-02 03:04:05,2026-03-04 00:00:00)",
  tstzmultirange: "{[2026-01-02 03:04:05+09,2026-03-04 00:00:00+09)}",
  tstzrange: "[2026-01-02 03:04:05+09,infinity)",
  tsvector: "'a':1 'b':2A",
  txid_snapshot: "10:20:10,14",
  uuid: "00112233-4455-6677-8899-aabbccddeeff",
  varbit: "101",
  varchar: "x",
  xid: "7",
  xid8: "9007199254740993",
  xml: "<a>b</a>",
};

/** Types that have no literals. */
const internal = [
  "gtsvector",
  "pg_brin_bloom_summary",
  "pg_brin_minmax_multi_summary",
  "pg_dependencies",
  "pg_mcv_list",
  "pg_ndistinct",
  "pg_node_tree",
];

const sessions = [
  [],
  [
    "set local timezone = 'Asia/Kathmandu'",
    "set local datestyle = 'SQL, DMY'",
    "set local intervalstyle = 'sql_standard'",
    "set local extra_float_digits = -15",
    "set local bytea_output = 'escape'",
    "set local lc_monetary = 'C.UTF-8'",
    "set local quote_all_identifiers = on",
    "set local xmlbinary = 'hex'",
    "set local search_path = app",
    "set local standard_conforming_strings = off",
    "set local escape_string_warning = off",
  ],
];

test("a value of any type looks the same in every session, in a projected payload and in a whole row", async ({
  db,
}) => {
  const types = await db.query<{ name: string }>(`
    select typname as name from pg_type
     where typnamespace = 'pg_catalog'::regnamespace and typtype in ('b', 'r', 'm') and (typelem = 0 or typcategory <> 'A')
        or oid in ('int2vector'::regtype, 'oidvector'::regtype)
     order by 1`);
  const names = types.map(({ name }) => name).filter((name) => !internal.includes(name));
  expect(names.filter((name) => samples[name] === undefined)).toEqual([]);
  const columns = names.flatMap((name) => [
    { name, type: `pg_catalog."${name}"`, one: `${literal(samples[name])}`, other: "null" },
    {
      name: `${name} array`,
      type: `pg_catalog."${name}"[]`,
      one: `array[null, ${literal(samples[name])}, null]`,
      other: `array[[${literal(samples[name])}], [null]]`,
    },
  ]);
  const all = `'{${columns.map(({ name }) => `"${name}"`)}}'`;
  const insert = (which: "one" | "other") =>
    `insert into app.of_all_types
     select ${columns.map((column) => `(${column[which]})::${column.type}`)}`;
  await db.script(`
    create schema app;
    create table app.of_all_types (${columns.map(({ name, type }) => `"${name}" ${type}`)});
    select notika.publish('some', 'app.of_all_types', '{insert,update}', ${all}, watch => ${all});
    select notika.publish('whole', 'app.of_all_types');`);

  for (const which of ["one", "other"] as const) {
    // Values are read in one session, and written in all.
    await db.query(insert(which));
    await db.script(`create table app.source as table app.of_all_types; truncate app.of_all_types`);
    for (const session of sessions) {
      await inTransaction(db, ...session, `insert into app.of_all_types select * from app.source`);
    }
    await db.script(`truncate app.of_all_types; drop table app.source`);
  }

  expect(await differences(db)).toEqual([]);
  const rows = await captured(db, "some");
  expect(
    differing(
      [0, 0, 3, 3].map((i) => rows[i]),
      [1, 2, 4, 5].map((i) => rows[i]),
    ),
  ).toEqual([]);
  expect(rows[0]).toMatchObject({
    int8: "9007199254740993",
    "int8 array": [null, "9007199254740993", null],
    numeric: "12345678901234567890.10",
    float4: 1.1,
    float8: 0.30000000000000004,
    timestamptz: "2026-11-22T03:34:56.789+00:00",
    "timestamptz array": [null, "2026-11-22T03:34:56.789+00:00", null],
    timestamp: "2026-11-22T12:34:56.789",
    tstzrange: '["2026-01-01 18:04:05+00",infinity)',
    date: "2026-11-22",
    interval: "P1Y2DT-3H-4M-5.678S",
    bytea: "\\x00ff5c",
    money: "-$1,234.56",
    regclass: "pg_class",
    text: oddText,
    json: { b: 1, a: [1.1, null, "\u0000 \ud800"] },
    xml: "<a>b</a>",
  });
});

test("watching a column of any type never fails an update, and sees when it changes", async ({ db }) => {
  const names = Object.keys(samples).filter((name) => name !== "regdatabase");
  await db.script(`
    create schema app;
    create table app.of_all_types (id int, ${names.flatMap((name) => [`"${name}" pg_catalog."${name}"`, `"${name} array" pg_catalog."${name}"[]`])});
    insert into app.of_all_types (id) values (0);
    update app.of_all_types set ${names.flatMap((name) => [
      `"${name}" = ${literal(samples[name])}`,
      `"${name} array" = array[${literal(samples[name])}]::pg_catalog."${name}"[]`,
    ])};
    select notika.publish('w', 'app.of_all_types', '{update}', '{id}',
      watch => '{${names.flatMap((name) => [`"${name}"`, `"${name} array"`])}}');
    update app.of_all_types set id = 0`);
  expect(await captured(db)).toEqual([]);

  const columns = names.flatMap((name) => [name, `${name} array`]);
  await db.script(columns.map((name, i) => `update app.of_all_types set id = ${i}, "${name}" = null`).join(";"));
  expect(await captured(db)).toEqual(columns.map((_, id) => ({ id })));

  await db.script(`update app.of_all_types set id = -1`);
  expect(await captured(db)).toHaveLength(columns.length);
});

test("types of the application's own are captured to their depth, and watched", async ({ db }) => {
  await db.script(`
    create schema app;
    create type app.mood as enum ('sad', 'so "so"', 'happy');
    create domain app.cents as int8 check (value >= 0);
    create domain app.many_cents as app.cents[];
    create domain app.document as json;
    create type app.line as (article text, price numeric, moods app.mood[], "it's \\" text);
    create type app.letter as ("from" text, lines app.line[], main app.line, totals app.cents[], at timestamptz);
    create type app.price_range as range (subtype = numeric);
    create domain app.main_line as app.line;
    create table app.mail (
      id int primary key, mood app.mood, moods app.mood[], paid app.cents, all_paid app.many_cents,
      document app.document, documents app.document[], line app.main_line, letter app.letter, letters app.letter[],
      prices app.price_range, jsons json[], ids int8[], sums numeric[], grid app.line[], kept app.many_cents[]
    );
    select notika.publish('some', 'app.mail', '{insert,update}',
      array(select attname::text from pg_attribute where attrelid = 'app.mail'::regclass and attnum > 0 order by attnum));
    select notika.publish('whole', 'app.mail', '{insert,update}');
    select notika.publish('watched', 'app.mail', '{update}', '{id}', watch =>
      array(select attname::text from pg_attribute where attrelid = 'app.mail'::regclass and attnum > 1 order by attnum));
    insert into app.mail (id) values (1);
    insert into app.mail values (
      2, 'happy', '{sad,NULL,"so \\"so\\""}', 9007199254740993, '{1,9007199254740993,NULL}',
      '{"n": 9007199254740993, "z": "\\u0000"}', array['[1]', null, '{"a": [2.0]}']::app.document[],
      ('pen', 1.10, '{sad}', 'x'),
      ('Ada', array[('ink', 'NaN', null, ''), null, (null, null, null, null)]::app.line[], (null, 'infinity', '{}', null),
       '{9007199254740993}', '2026-11-22 12:00+09'),
      array[('Bob', '{}', null, null, 'infinity'), null]::app.letter[],
      '[1.10,2)', array['{"a": 1.0}', null, '[[1]]']::json[], '{{1,2},{9007199254740993,4}}', '{{1.10},{NaN},{NULL}}',
      array[[('a', 1, null, null), null], [('b', 2, '{{happy},{NULL}}', null), (null, null, null, null)]]::app.line[],
      array['{1,2}', '{9007199254740993}', null]::app.many_cents[]
    );
    insert into app.mail (id, moods, all_paid, documents, letters, jsons, grid, kept)
      values (3, '{}', '{}', '{}', '{}', '{}', '{}', '{}');
    update app.mail set id = id + 10;`);

  expect(await differences(db)).toEqual([]);
  expect(await captured(db, "watched")).toEqual([]);
  expect((await captured(db, "some"))[1]).toEqual({
    id: 2,
    mood: "happy",
    moods: ["sad", null, 'so "so"'],
    paid: "9007199254740993",
    all_paid: ["1", "9007199254740993", null],
    document: { n: 9007199254740992, z: "\u0000" },
    documents: [[1], null, { a: [2] }],
    line: { article: "pen", price: "1.10", moods: ["sad"], "it's \\": "x" },
    letter: {
      from: "Ada",
      lines: [
        { article: "ink", price: "NaN", moods: null, "it's \\": "" },
        null,
        { article: null, price: null, moods: null, "it's \\": null },
      ],
      main: { article: null, price: "Infinity", moods: [], "it's \\": null },
      totals: ["9007199254740993"],
      at: "2026-11-22T03:00:00+00:00",
    },
    letters: [{ from: "Bob", lines: [], main: null, totals: null, at: "infinity" }, null],
    prices: "[1.10,2)",
    jsons: [{ a: 1 }, null, [[1]]],
    ids: [
      ["1", "2"],
      ["9007199254740993", "4"],
    ],
    sums: [["1.10"], ["NaN"], [null]],
    grid: [
      [{ article: "a", price: "1", moods: null, "it's \\": null }, null],
      [
        { article: "b", price: "2", moods: [["happy"], [null]], "it's \\": null },
        { article: null, price: null, moods: null, "it's \\": null },
      ],
    ],
    kept: [["1", "2"], ["9007199254740993"], null],
  });

  await db.script(`
    update app.mail set mood = 'sad' where id = 12;
    update app.mail set document = '{"n": 1}' where id = 12;
    update app.mail set line.article = 'pencil' where id = 12;
    update app.mail set letters[1].at = null where id = 12;
    update app.mail set letters[1].at = null where id = 12;`);
  expect(await captured(db, "watched")).toEqual(Array(4).fill({ id: 12 }));
});

test("a row of strings alone looks as it does beside a number", async ({ db }) => {
  await db.script(`
    create schema app;
    create type app.mood as enum ('sad', 'so "so"');
    create domain app.code as text;
    create domain app.cents as int8;
    create domain app.temper as app.mood;
    create type app.price_range as range (subtype = numeric);
    create type app.name as (first text, "it's \\" varchar);
    create function app.spring(app.mood) returns text language plpgsql as
      $$ begin raise exception 'called as %', current_user; end $$;
    create cast (app.mood as text) with function app.spring(app.mood) as implicit;
    create table app.strings (
      "text" text collate "C", "varchar" varchar, short varchar(40) collate "POSIX", uuid uuid, int8 int8, "numeric" numeric, mood app.mood, code app.code,
      cents app.cents, temper app.temper, prices app.price_range, "it's \\ ""so""" text, name app.name, letter char(3), n int
    );`);
  const names = await db.query<{ name: string }>(
    "select attname as name from pg_attribute where attrelid = 'app.strings'::regclass and attnum between 1 and 12 order by attnum",
  );
  const list = (columns: string[]) => `array[${columns.map(literal)}]`;
  const strings = names.map(({ name }) => name);
  await db.script(`
    select notika.publish('strings', 'app.strings', '{insert,update}', ${list(strings)});
    select notika.publish('codes', 'app.strings', '{insert,update}', '{code}');
    select notika.publish('letters', 'app.strings', '{insert,update}', '{letter}');
    select notika.publish('beside', 'app.strings', '{insert,update}', ${list([...strings, "name", "letter", "n"])});
    insert into app.strings default values`);
  await db.query(
    `insert into app.strings values (${literal(oddText)}, 'x  ', ' y ', '00112233-4455-6677-8899-aabbccddeeff', 9007199254740993,
       12345678901234567890.10, 'so "so"', '', -1, 'sad', '[1.10,2)', '\\', (${literal(oddText)}, null), 'z', 1)`,
  );

  const beside = (await captured(db, "beside")) as Record<string, unknown>[];
  expect(beside).toHaveLength(2);
  expect(beside[1]).toMatchObject({ text: oddText, int8: "9007199254740993", letter: "z  ", name: { first: oddText } });
  expect(await captured(db, "strings")).toEqual(
    beside.map((row) => Object.fromEntries(strings.map((name) => [name, row[name]]))),
  );
  expect(await captured(db, "codes")).toEqual(beside.map(({ code }) => ({ code })));
  expect(await captured(db, "letters")).toEqual(beside.map(({ letter }) => ({ letter })));
});

test("numbers that are none, and times without end, are strings", async ({ db }) => {
  await db.script(`
    create schema app;
    create table app.odd (n numeric, f float8, r float4, t timestamptz, d date, fs float8[]);
    select notika.publish('some', 'app.odd', columns => '{n,f,r,t,d,fs}');
    select notika.publish('whole', 'app.odd');
    insert into app.odd values ('NaN', 'NaN', '-Infinity', 'infinity', '-infinity', '{NaN,1e300}'),
                               ('-Infinity', '-0', '1e-40', '0044-03-15 BC', '10000-01-01', '{}');`);

  expect(await differences(db)).toEqual([]);
  expect(await captured(db, "some")).toEqual([
    { n: "NaN", f: "NaN", r: "-Infinity", t: "infinity", d: "-infinity", fs: ["NaN", 1e300] },
    { n: "-Infinity", f: -0, r: 1e-40, t: "0044-03-15T00:00:00+00:00 BC", d: "10000-01-01", fs: [] },
  ]);
});

test("a cast to json that somebody wrote is not called, and a collation does not hide a change", async ({ db }) => {
  await db.script(`
    create schema app;
    create type app.trap as enum ('closed', 'open');
    create type app.trap_row as (trap app.trap);
    create function app.spring(app.trap) returns json language plpgsql as
      $$ begin raise exception 'called as %', current_user; end $$;
    create function app.spring(app.trap_row) returns json language plpgsql as
      $$ begin raise exception 'called as %', current_user; end $$;
    create function app.spring_text(app.trap) returns text language plpgsql as
      $$ begin raise exception 'called as %', current_user; end $$;
    create cast (app.trap as json) with function app.spring(app.trap) as implicit;
    create cast (app.trap_row as json) with function app.spring(app.trap_row) as implicit;
    create cast (app.trap as text) with function app.spring_text(app.trap) as implicit;
    create collation app.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    create table app.traps (trap app.trap, traps app.trap[], rows app.trap_row[], name text collate app.any_case);
    select notika.publish('some', 'app.traps', '{insert,update}', '{trap,traps,rows,name}', watch => '{trap,traps,rows,name}');
    select notika.publish('whole', 'app.traps');
    insert into app.traps values ('open', '{open}', array[row('open')::app.trap_row], 'Bob');
    update app.traps set trap = 'open', traps = '{open}';
    update app.traps set name = 'bob';`);

  expect(await differences(db)).toEqual([]);
  const bob = { trap: "open", traps: ["open"], rows: [{ trap: "open" }], name: "Bob" };
  expect(await events(db, "some")).toEqual([
    { operation: "insert", table_name: "app.traps", new: bob, old: null },
    { operation: "update", table_name: "app.traps", new: { ...bob, name: "bob" }, old: bob },
  ]);
});

/** Where the projected rows of "some" have other values than the whole rows of "whole". */
async function differences(db: TestDatabase) {
  const rows = async (workflow: string) =>
    (await events(db, workflow)).filter(({ operation }) => operation === "insert").map((event) => event.new);
  return differing(await rows("some"), await rows("whole"));
}

function differing(some: unknown[], others: unknown[]) {
  expect(some).toHaveLength(others.length);
  return some.flatMap((row, i) => {
    const [one, other] = [row, others[i]] as Record<string, unknown>[];
    const keys = [...new Set([...Object.keys(one ?? {}), ...Object.keys(other ?? {})])];
    return keys
      .map((key) => ({ key, one: JSON.stringify(one?.[key]), other: JSON.stringify(other?.[key]) }))
      .filter(({ one, other }) => one !== other);
  });
}

function literal(text = "") {
  return `E'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
}
