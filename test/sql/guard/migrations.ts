import type { Migration } from "./matrix.ts";

const all = "operations => '{insert,update,delete}'";
const conditioned = `operations => '{insert}', columns => '{id}', condition => 'new.email is not null or new.id > 0'`;
const parts = `
  create table $s.log (id int, at int, note text) partition by range (at);
  create table $s.log_1 partition of $s.log for values from (0) to (10);
  create table $s.log_2 (note text, id int, at int);`;
const log = {
  given: parts,
  table: "$s.log",
  publish: `${all}, columns => '{id,note}'`,
  write: "insert into $s.log values (1, 15, 'x')",
};
const kin = {
  given: `create table $s.admin (level int) inherits ($s.users); create table $s.guest (like $s.users);`,
  write: "insert into $s.admin (id) values (1)",
};

export const migrations: Record<string, Migration> = {
  "drop table": { ddl: ["drop table $s.users"] },
  "drop table, in other words": { ddl: [`/* bye */ DROP TABLE IF EXISTS -- now\n "$s" . "users" RESTRICT`] },
  "drop table cascade": { ddl: ["drop table $s.users cascade"] },
  "drop several tables": { ddl: ["drop table $s.other, $s.users"] },
  "drop table of whole rows": { ddl: ["drop table $s.users"], publish: all },
  "drop schema cascade": { ddl: ["drop schema $s cascade"] },
  "drop column": { ddl: ["alter table $s.users drop column email"] },
  "drop column cascade": { ddl: ["alter table $s.users drop column email cascade"] },
  "drop column, in other words": { ddl: [`ALTER TABLE ONLY "$s".users /* x */ DROP IF EXISTS "email", drop junk`] },
  "drop column on the search path": { ddl: ["set search_path = $s", "alter table users drop column email", "reset search_path"] },
  "drop column in a block": { ddl: ["do $$ begin alter table $s.users drop column email; end $$"] },
  "drop column in a function": {
    given: `create function $s.go() returns void language plpgsql as $$ begin execute 'alter table $s.users drop email'; end $$;`,
    ddl: ["select $s.go()"],
  },
  "drop column of the condition": { ddl: ["alter table $s.users drop column email"], publish: conditioned },
  "drop column that is watched": {
    ddl: ["alter table $s.users drop column email"],
    publish: "operations => '{insert,update}', columns => '{id}', watch => '{email}'",
  },
  "drop column of whole rows": { ddl: ["alter table $s.users drop column email"], publish: all },
  "drop column that nobody uses": { ddl: ["alter table $s.users drop column junk"] },
  "add column": { ddl: ["alter table $s.users add column more text default 'x' not null"] },
  "drop and add column": {
    ddl: ["alter table $s.users drop column email", "alter table $s.users add column email varchar(50)"],
  },
  "drop and add column in one statement": {
    ddl: ["alter table $s.users drop column email, add column email varchar(50)"],
  },
  "drop and add column of another type": {
    ddl: ["alter table $s.users drop column email", "alter table $s.users add column email int"],
  },
  "drop and create table": {
    ddl: ["drop table $s.users", "create table $s.users (status $s.status, email varchar(50), id bigint)"],
  },
  "drop and create table without a column": {
    ddl: ["drop table $s.users", "create table $s.users (status $s.status, id bigint)"],
  },
  "rename column": { ddl: ["alter table $s.users rename email to mail"] },
  "rename column of the condition": { ddl: ["alter table $s.users rename email to mail"], publish: conditioned },
  "rename column of whole rows": { ddl: ["alter table $s.users rename email to mail"], publish: all },
  "rename column and back": {
    ddl: ["alter table $s.users rename email to mail", "alter table $s.users rename mail to email"],
  },
  "swap the names of columns": {
    ddl: [
      "alter table $s.users rename email to x",
      "alter table $s.users rename note to email",
      "alter table $s.users rename x to note",
    ],
  },
  "rename column, another takes its name": {
    ddl: ["alter table $s.users rename email to mail", "alter table $s.users add column email int"],
  },
  "rename table": { ddl: ["alter table $s.users rename to people"], write: "insert into $s.people (id) values (1)" },
  "rename table, when that is refused": {
    ddl: ["alter table $s.users rename to people"],
    publish: "columns => '{id}', on_rename => 'block'",
  },
  "rename column, when that is refused": {
    ddl: ["alter table $s.users rename email to mail"],
    publish: "columns => '{id,email}', on_rename => 'block'",
  },
  "set schema": {
    given: "create schema $s_b;",
    ddl: ["alter table $s.users set schema $s_b"],
    write: "insert into $s_b.users (id) values (1)",
  },
  "set schema, when that is refused": {
    given: "create schema $s_b;",
    ddl: ["alter table $s.users set schema $s_b"],
    publish: "columns => '{id}', on_rename => 'block'",
  },
  "rename schema": { ddl: ["alter schema $s rename to $s_c"], write: "insert into $s_c.users (id) values (1)" },
  "rename schema, when that is refused": {
    ddl: ["alter schema $s rename to $s_c"],
    publish: "columns => '{id}', on_rename => 'block'",
  },
  "rename label": { ddl: ["alter type $s.status rename value 'old' to 'gone'"] },
  "rename label of the condition": {
    ddl: ["alter type $s.status rename value 'new' to 'fresh'", "alter table $s.users drop column junk"],
    publish: `columns => '{id}', condition => $$new.status = 'new'$$`,
  },
  "rename label, when that is refused": {
    ddl: ["alter type $s.status rename value 'old' to 'gone'"],
    publish: "columns => '{id,status}', on_rename => 'block'",
  },
  "rename label that nobody uses": {
    ddl: ["alter type $s.status rename value 'old' to 'gone'"],
    publish: "columns => '{id}', on_rename => 'block'",
  },
  "add label": { ddl: ["alter type $s.status add value 'more'"] },
  "rename type": { ddl: ["alter type $s.status rename to state"] },
  "drop type cascade": { ddl: ["drop type $s.status cascade"] },
  "widen type": { ddl: ["alter table $s.users alter email type varchar(100)"] },
  "widen type to text": { ddl: ["alter table $s.users alter column email set data type text"] },
  "narrow type": { ddl: ["alter table $s.users alter email type varchar(10)"] },
  "change type": { ddl: ["alter table $s.users alter id type int"] },
  "change type of whole rows": { ddl: ["alter table $s.users alter id type int"], publish: all },
  "change type of the condition": { ddl: ["alter table $s.users alter email type int using 1"], publish: conditioned },
  "change type of a column that nobody uses": { ddl: ["alter table $s.users alter junk type bigint"] },
  "change type and back": {
    ddl: ["alter table $s.users alter id type int", "alter table $s.users alter id type bigint"],
  },
  "alter domain": {
    ddl: ["alter domain $s.age add constraint adult check (value >= 18)", "alter domain $s.age rename to years"],
    publish: "columns => '{id,age}'",
  },
  "drop domain cascade": { ddl: ["drop domain $s.age cascade"], publish: "columns => '{id,age}'" },
  "add attribute": { ddl: ["alter type $s.address add attribute zip text"], publish: "columns => '{id,address}'" },
  "drop attribute": { ddl: ["alter type $s.address drop attribute town"], publish: "columns => '{id,address}'" },
  "rename attribute": {
    ddl: ["alter type $s.address rename attribute town to city"],
    publish: "columns => '{id,address}'",
  },
  "drop trigger": { ddl: ["drop trigger notika_$n_insert on $s.users"] },
  "drop and create trigger": {
    ddl: ["do $$ declare d text; begin select pg_get_triggerdef(oid) into d from pg_trigger where tgname = 'notika_$n_insert'; drop trigger notika_$n_insert on $s.users; execute d; end $$"],
  },
  "drop trigger, then something else": {
    ddl: ["alter table $s.users add column a int", "drop trigger notika_$n_insert on $s.users", "alter table $s.users add column b int"],
  },
  "disable trigger": { ddl: ["alter table $s.users disable trigger notika_$n_insert"] },
  "disable all triggers": { ddl: ["alter table $s.users disable trigger all"] },
  "disable trigger for a load": {
    ddl: [
      "alter table $s.users disable trigger user",
      "insert into $s.users (id) values (0)",
      "alter table $s.users enable trigger user",
    ],
  },
  "enable trigger for replicas only": { ddl: ["alter table $s.users enable replica trigger notika_$n_insert"] },
  "enable trigger always": { ddl: ["alter table $s.users enable always trigger notika_$n_insert"] },
  "rename trigger": { ddl: ["alter trigger notika_$n_insert on $s.users rename to mine"] },
  "replace trigger": {
    ddl: ["create or replace trigger notika_$n_insert after insert on $s.users for each row when (false) execute function notika._capture_$n()"],
  },
  "drop trigger function": { ddl: ["drop function notika._capture_$n() cascade"] },
  "drop payload function": { ddl: ["drop function notika.payload_$n($s.users) cascade"] },
  "replace trigger function": {
    ddl: ["create or replace function notika._capture_$n() returns trigger language plpgsql as 'begin return null; end'"],
  },
  "alter trigger function": { ddl: ["alter function notika._capture_$n() security invoker"] },
  "attach partition": { ...log, ddl: ["alter table $s.log attach partition $s.log_2 for values from (10) to (20)"] },
  "create partition": { ...log, ddl: ["create table $s.log_3 partition of $s.log for values from (10) to (20)"] },
  "detach partition": {
    ...log,
    ddl: ["alter table $s.log detach partition $s.log_1", "alter table $s.log attach partition $s.log_2 default"],
  },
  "drop partition": {
    ...log,
    ddl: ["drop table $s.log_1", "alter table $s.log attach partition $s.log_2 default"],
  },
  "disable trigger of a partition": {
    ...log,
    ddl: ["alter table $s.log_1 disable trigger all"],
    write: "insert into $s.log values (1, 5, 'x')",
  },
  "drop column of a partitioned table": { ...log, ddl: ["alter table $s.log drop column note"], write: "insert into $s.log values (1, 5)" },
  "drop partitioned table": { ...log, ddl: ["drop table $s.log"], write: "insert into $s.log values (1, 5)" },
  "drop column of the parent of a published partition": {
    ...log,
    table: "$s.log_1",
    ddl: ["alter table $s.log drop column note"],
    write: "insert into $s.log values (1, 5)",
  },
  "drop the parent of a published partition": { ...log, table: "$s.log_1", ddl: ["drop table $s.log"], write: "insert into $s.log values (1, 5)" },
  "drop column of a table with children": { ...kin, ddl: ["alter table $s.users drop column email"] },
  inherit: { ...kin, ddl: ["alter table $s.guest inherit $s.users"], write: "insert into $s.guest (id) values (1)" },
  "create child": {
    ...kin,
    ddl: ["create table $s.boss () inherits ($s.users)"],
    write: "insert into $s.boss (id) values (1)",
  },
  "no inherit": { ...kin, ddl: ["alter table $s.admin no inherit $s.users"], write: "insert into $s.users (id) values (1)" },
  "no inherit of whole rows": {
    ...kin,
    ddl: ["alter table $s.admin no inherit $s.users"],
    publish: all,
    write: "insert into $s.admin (id) values (1); insert into $s.users (id) values (1)",
  },
  "drop child": { ...kin, ddl: ["drop table $s.admin"], write: "insert into $s.users (id) values (1)" },
  "swap tables": {
    ddl: [
      "create table $s.users_2 as select status, id, email from $s.users",
      "alter table $s.users rename to users_1",
      "alter table $s.users_2 rename to users",
    ],
    write: "insert into $s.users_1 (id) values (1); insert into $s.users (id) values (1)",
  },
  "swap tables and drop the old one": {
    ddl: [
      "create table $s.users_2 as select status, id, email from $s.users",
      "drop table $s.users",
      "alter table $s.users_2 rename to users",
    ],
  },
  "swap tables, a column is missing": {
    ddl: [
      "create table $s.users_2 as select status, id from $s.users",
      "alter table $s.users rename to users_1",
      "alter table $s.users_2 rename to users",
    ],
  },
  "what capture does not care about": {
    ddl: [
      "alter table $s.users set unlogged",
      "alter table $s.users alter status set default 'old', alter email set not null",
      "alter table $s.users alter email drop not null",
      "alter table $s.users add primary key (id)",
      "alter table $s.users drop constraint users_pkey",
      "alter table $s.users alter id drop not null",
      "alter table $s.users replica identity full, enable row level security, set (fillfactor = 50)",
      "create index on $s.users (email)",
      "create policy p on $s.users using (true)",
      "revoke all on $s.users from public",
      "comment on table $s.users is 'drop table $s.users; alter table $s.users drop column email'",
      "create view $s.v as select * from $s.users",
      "analyze $s.users",
      "truncate $s.users",
    ],
  },
  "rule instead of writes": {
    ddl: ["create rule r as on delete to $s.users do instead nothing"],
  },
  "drop column and publish anew": {
    ddl: [
      "alter table $s.users drop column email",
      "select notika.publish('$s', '$s.users', '{insert}', '{id,status}')",
    ],
  },
  "unpublish and drop table": { ddl: ["select notika.unpublish('$s')", "drop table $s.users"] },
  "drop column and unpublish": { ddl: ["alter table $s.users drop column email", "select notika.unpublish('$s')"] },
  "drop column that is allowed": {
    ddl: ["select notika.allow_breaking_change('$s', 'it was agreed')", "alter table $s.users drop column email"],
  },
  "drop column, released": {
    ddl: ["select notika.release('$s', 'it was agreed')", "alter table $s.users drop column email"],
  },
  "widen type, released": {
    ddl: ["select notika.release('$s', 'it was agreed')", "alter table $s.users alter email type text"],
  },
  "drop and add column, released": {
    ddl: [
      "select notika.release('$s', 'it was agreed')",
      "alter table $s.users drop column email",
      "insert into $s.users (id) values (2)",
      "alter table $s.users add column email varchar(50)",
    ],
  },
  "drop column, undone": {
    ddl: [
      "do $$ begin alter table $s.users drop column email; raise 'no'; exception when raise_exception then null; end $$",
      "alter table $s.users add column more int",
    ],
  },
};
