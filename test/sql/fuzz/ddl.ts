import { hostileStrings, type Random } from "../../support/fuzzing.ts";

/** Tables, types and workflows that the statements of `randomDdl` are about. */
export const ddlScene = `
  create schema app;
  create schema elsewhere;
  create type app.mood as enum ('sad', 'fine');
  create domain app.code as text;
  create table app.users (id int primary key, email text, name varchar(20), mood app.mood, total numeric, code app.code, spare int);
  create table app.orders (id int primary key, user_id int references app.users, note text);
  create table app.parted (id int, kind text) partition by list (kind);
  create table app.part partition of app.parted default;
  create table app.free (id int primary key, note text);
  create view app.names as select id, name from app.users;
  select notika.publish('blocks', 'app.users', '{insert,update}', '{id,email,mood,code}', condition => 'new.total > 1');
  select notika.publish('strict', 'app.users', columns => '{id,name}', on_rename => 'block');
  select notika.publish('warns', 'app.orders', '{insert,update,delete}', '{id,note}', watch => '{note}', guard => 'warn');
  select notika.publish('off', 'app.orders', columns => '{id,user_id}', guard => 'off');
  select notika.publish('whole', 'app.parted', condition => 'new.kind <> ''x''');`;

const tables = ["app.users", "app.orders", "app.parted", "app.part", "app.free", "app.names", "app.nowhere"];
const columns = ["id", "email", "name", "mood", "total", "code", "spare", "user_id", "note", "kind", "nothing"];
const types = [
  "text",
  "int",
  "bigint",
  "varchar(5)",
  "varchar(50)",
  "numeric(5,1)",
  "app.mood",
  "app.code",
  "jsonb",
  "nothing",
];

const statements: ((random: Random) => string)[] = [
  (random) => `alter table ${table(random)} drop column ${exists(random)}${column(random)}${cascade(random)}`,
  (random) => `alter table ${table(random)} drop column ${exists(random)}${column(random)}${cascade(random)}`,
  (random) => `alter table ${table(random)} add column ${column(random)} ${random.pick(types)}`,
  (random) =>
    `alter table ${table(random)} rename column ${column(random)} to ${random.pick(["renamed", "note", '"It""s"'])}`,
  (random) =>
    `alter table ${table(random)} alter column ${column(random)} type ${random.pick(types)}${random.chance(0.3) ? " using null" : ""}`,
  (random) =>
    `alter table ${table(random)} alter column ${column(random)} ${random.pick(["set not null", "drop not null", "set default null", "set storage external"])}`,
  (random) => `alter table ${table(random)} rename to ${random.pick(["renamed", "free", '"Odd ""name"""'])}`,
  (random) => `alter table ${table(random)} set schema elsewhere`,
  (random) =>
    `alter table ${table(random)} ${random.pick(["disable", "enable", "enable always"])} trigger ${random.pick(["all", "user", "notika_1_insert", "notika_3_update"])}`,
  (random) =>
    `alter table ${table(random)} ${random.pick(["set unlogged", "replica identity full", "enable row level security", "set (fillfactor = 50)", "add check (id > 0)"])}`,
  () => `alter table app.parted detach partition app.part`,
  (random) => `drop table ${exists(random)}${table(random)}${cascade(random)}`,
  (random) =>
    `drop trigger ${exists(random)}notika_${1 + random.below(5)}_${random.pick(["insert", "update", "delete"])} on ${table(random)}`,
  (random) =>
    `drop function notika.${random.pick(["payload_1(app.users)", "_capture_1()", "_capture_3()"])}${cascade(random)}`,
  (random) => `drop type ${random.pick(["app.mood", "app.code"])}${cascade(random)}`,
  (random) => `drop schema ${random.pick(["app", "elsewhere"])}${cascade(random)}`,
  (random) =>
    `alter type app.mood ${random.pick(["rename value 'sad' to 'blue'", "add value 'new'", "rename to temper", "set schema elsewhere"])}`,
  () => `alter schema app rename to application`,
  (random) =>
    `create ${random.pick(["index on", "table app.more as table"])} ${table(random)}${random.chance(0.5) ? " (id)" : ""}`,
  (random) =>
    `create table app.${random.pick(["users", "orders", "more"])} (id int primary key, email text, name varchar(20))`,
  (random) => `comment on table ${table(random)} is ${random.pick(["'x'", "null", "$$it's$$"])}`,
  () => "select notika.unpublish('blocks')",
  () => "select notika.allow_breaking_change('blocks', 'because')",
  () => "select notika.publish('blocks', 'app.users', columns => '{id}')",
];

/** A migration of a few statements, mostly one that Postgres understands. */
export function randomDdl(random: Random): string {
  const text = Array.from({ length: 1 + random.below(3) }, () => random.pick(statements)(random)).join(
    random.pick([";\n", "; -- it's\n", "; /* ; */ "]),
  );
  if (random.chance(0.85)) return text;
  const at = random.below(text.length + 1);
  return `${text.slice(0, at)}${random.pick(hostileStrings)}${text.slice(at)}`;
}

const table = (random: Random) => random.pick(tables);
const column = (random: Random) => random.pick(columns);
const exists = (random: Random) => (random.chance(0.3) ? "if exists " : "");
const cascade = (random: Random) => (random.chance(0.4) ? " cascade" : "");
