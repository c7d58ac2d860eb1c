import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";
import { asRole, generatedNames, inTransaction, undone } from "./support.ts";

const schema = `
  create schema app;
  create table app.users (id bigint primary key, email text, name text, "Plan" text);
  create table app.orders (id int primary key, user_id bigint);
  create table public.invoices (id int primary key);
  create view app.active_users as select * from app.users where name is not null;
  create materialized view app.user_names as select name from app.users;
  create sequence app.numbers;
  create type app.address as (street text, city text);
  create table app.parted (id int) partition by list (id);
  create index users_email on app.users (email);
  create function app.is_ok(text) returns boolean language sql immutable as 'select true';`;

describe("publish refuses, and says what would work:", () => {
  test("names of tables that it cannot find or publish", async ({ db }) => {
    await db.script(schema);

    await expectRefusals(db, [
      [
        `'w', 'app.user'`,
        "42P01",
        'table "app.user" does not exist',
        "Did you mean: select notika.publish('w', 'app.users'",
      ],
      [
        `'w', 'app.Order_s', '{insert,delete}', '{id}', guard => 'warn'`,
        "42P01",
        'table "app.Order_s" does not exist',
        `Did you mean: select notika.publish('w', 'app.orders', operations => '{insert,delete}', columns => '{id}', guard => 'warn');`,
      ],
      [
        `'w', 'app.zebra'`,
        "42P01",
        'table "app.zebra" does not exist',
        "The tables of a schema: select * from pg_tables where schemaname = 'app';",
      ],
      [`'w', 'App.users'`, undefined],
      [
        `'w', '"App".users'`,
        "42P01",
        'table ""App".users" does not exist',
        `Did you mean: select notika.publish('w', 'app.users', operations => '{insert}');`,
      ],
      [
        `'w', 'users'`,
        "42602",
        'table name "users" does not name a schema and a table',
        `Write: select notika.publish('w', 'app.users', operations => '{insert}');`,
      ],
      [
        `'w', 'a.b.c.invoices'`,
        "42602",
        'table name "a.b.c.invoices" does not name a schema and a table',
        "'public.invoices'",
      ],
      [`'w', ''`, "42602", 'table name "" does not name a schema and a table', "'<schema>.<table>'"],
      [
        `'w', 'app.users; drop table app.users'`,
        "42602",
        /does not name a schema and a table/,
        "select notika.publish('w'",
      ],
      [`'w', null`, "42602", 'table name "<NULL>" does not name a schema and a table', "select notika.publish('w'"],
      [
        `'w', 'app.active_users'`,
        "42809",
        'cannot publish on view "app.active_users"',
        "Publish on a table: select notika.publish('w', 'app.users'",
      ],
      [
        `'w', 'app.user_names'`,
        "42809",
        'cannot publish on materialized view "app.user_names"',
        "select notika.publish('w', 'app.users'",
      ],
      [`'w', 'app.numbers'`, "42809", 'cannot publish on sequence "app.numbers"', "Publish on a table"],
      [`'w', 'app.address'`, "42809", 'cannot publish on composite type "app.address"', "Publish on a table"],
      [`'w', 'app.users_email'`, "42809", 'cannot publish on index "app.users_email"', "Publish on a table"],
      [`'w', 'notika.workflow'`, "42809", 'cannot publish on "notika.workflow"', "a table of the application"],
      [`'w', 'notika.workflows'`, "42809", 'cannot publish on view "notika.workflows"', "Publish on a table"],
      [`'w', 'notika_worker._private_jobs'`, "42809", /cannot publish on/, "a table of the application"],
      [`'w', 'pg_catalog.pg_class'`, "42809", 'cannot publish on "pg_catalog.pg_class"', "a table of the application"],
      [`'w', 'information_schema.sql_features'`, "42809", /cannot publish on/, "a table of the application"],
      [`'w', 'app.parted'`, undefined],
    ]);

    const [toast] = await db.query<{ name: string }>(
      `select reltoastrelid::regclass as name from pg_class where oid = 'app.users'::regclass`,
    );
    await expectRefusals(db, [
      [`'w', '${toast?.name}'`, "42809", /cannot publish on toast table/, "Publish on a table"],
    ]);

    await expect(
      undone(
        db,
        "create temp table users (id int)",
        `select notika.publish('w', (select format('%I.users', nspname) from pg_namespace where oid = pg_my_temp_schema()))`,
      ),
    ).rejects.toMatchObject({
      code: "42809",
      message: expect.stringMatching(/^cannot publish on "pg_temp_\d+.users"$/),
      detail: "System tables, temporary tables and Notika's own are not published.",
    });
    await expect(
      undone(
        db,
        "create foreign data wrapper nowhere",
        "create server nowhere foreign data wrapper nowhere",
        "create foreign table app.far (id int) server nowhere",
        `select notika.publish('w', 'app.far')`,
      ),
    ).rejects.toMatchObject({ code: "42809", message: 'cannot publish on foreign table "app.far"' });
  });

  test("columns that the table does not have, and none at all", async ({ db }) => {
    await db.script(schema);

    await expectRefusals(db, [
      [
        `'w', 'app.users', columns => '{id,mail,Email,e_mail,name,ctid}'`,
        "42703",
        'column "mail" of table app.users does not exist',
        "Correct columns, for example: select notika.publish('w', 'app.users', operations => '{insert}', columns => '{id,email,name}');",
        "Its columns are id, email, name, Plan.",
      ],
      [
        `'w', 'app.users', columns => '{mail}'`,
        "42703",
        /"mail"/,
        "select notika.publish('w', 'app.users', operations => '{insert}');",
      ],
      [`'w', 'app.users', columns => '{plan}'`, "42703", /"plan"/, `columns => '{Plan}');`],
      [
        `'w', 'app.users', columns => '{id,null}'`,
        "42703",
        'column "null" of table app.users does not exist',
        "columns => '{id}'",
      ],
      [
        `'w', 'app.users', columns => '{}', watch => '{name}', operations => '{update}'`,
        "22023",
        'columns of workflow "w" is empty',
        "Leave it out for the whole row: select notika.publish('w', 'app.users', operations => '{update}', watch => '{name}');",
      ],
      [
        `'w', 'app.users', '{update}', '{id}', watch => '{Name,email}'`,
        "42703",
        'column "Name" of table app.users does not exist',
        "Correct watch, for example: select notika.publish('w', 'app.users', operations => '{update}', columns => '{id}', watch => '{name,email}');",
      ],
      [
        `'w', 'app.users', '{update}', '{id}', watch => '{}'`,
        "22023",
        'watch of workflow "w" is empty',
        "Leave it out for any update: select notika.publish('w', 'app.users', operations => '{update}', columns => '{id}');",
      ],
      [
        `'w', 'app.users', '{update}', watch => '{null}'`,
        "42703",
        'column "null" of table app.users does not exist',
        "operations => '{update}'",
      ],
      [
        `'w', 'app.users', '{insert,delete}', watch => '{email}'`,
        "22023",
        'watch of workflow "w" has no meaning without update',
        "Add update, or leave watch out: select notika.publish('w', 'app.users', operations => '{insert,delete,update}', watch => '{email}');",
      ],
    ]);
  });

  test("operations, guards and names that there are not", async ({ db }) => {
    await db.script(schema);

    await expectRefusals(db, [
      [
        `'w', 'app.users', '{}'`,
        "22023",
        'operations {} of workflow "w" are not valid',
        "For example: select notika.publish('w', 'app.users', operations => '{insert}');",
        "At least one of insert, update and delete is needed; truncate has no rows.",
      ],
      [`'w', 'app.users', null`, "22023", 'operations null of workflow "w" are not valid', "operations => '{insert}'"],
      [
        `'w', 'app.users', '{null}'`,
        "22023",
        'operations {NULL} of workflow "w" are not valid',
        "operations => '{insert}'",
      ],
      [
        `'w', 'app.users', '{delete,truncate,update}'`,
        "22023",
        'operations {delete,truncate,update} of workflow "w" are not valid',
        "operations => '{update,delete}'",
      ],
      [`'w', 'app.users', '{upsert}'`, "22023", /operations {upsert}/, "operations => '{insert}'"],
      [
        `'w', 'app.users', guard => 'on', columns => '{id}'`,
        "22023",
        'guard "on" is not block, warn or off',
        "For example: select notika.publish('w', 'app.users', operations => '{insert}', columns => '{id}', guard => 'block');",
      ],
      [`'w', 'app.users', guard => null`, "22023", 'guard "null" is not block, warn or off', "guard => 'block');"],
      [
        `'w', 'app.users', on_rename => 'ignore', guard => 'warn'`,
        "22023",
        'on_rename "ignore" is not follow or block',
        "guard => 'warn', on_rename => 'follow');",
      ],
      [
        `'w', 'app.users', on_rename => null`,
        "22023",
        'on_rename "null" is not follow or block',
        "on_rename => 'follow');",
      ],
      [
        `'welcome email!', 'app.users'`,
        "42602",
        'workflow name "welcome email!" is not valid',
        "For example: select notika.publish('welcome_email', 'app.users', operations => '{insert}');",
        "It is the name of the task's file: up to 63 letters, digits, _ and -, of which the first is a letter. What its runs wait for is published as workflow:source.",
      ],
      [`'9lives', 'app.users'`, "42602", 'workflow name "9lives" is not valid', "'w9lives'"],
      [`'', 'app.users'`, "42602", 'workflow name "" is not valid', "'my_workflow'"],
      [`'_helper', 'app.users'`, "42602", 'workflow name "_helper" is not valid', "'helper'"],
      [`'w:_source', 'app.users'`, "42602", 'workflow name "w:_source" is not valid', "'w__source'"],
      [`null, 'app.users'`, "42602", 'workflow name "null" is not valid', "'my_workflow'"],
      [`'../../etc/passwd', 'app.users'`, "42602", /is not valid/, "'etc_passwd'"],
      [`E'a\\nb', 'app.users'`, "42602", /is not valid/, "'a_b'"],
      [`E'ab\\n', 'app.users'`, "42602", /is not valid/, "'ab'"],
      [`repeat('é', 70), 'app.users'`, "42602", /is not valid/, "'my_workflow'"],
      [`repeat('x', 64), 'app.users'`, "42602", /is not valid/, `'${"x".repeat(63)}'`],
      [`repeat('9', 64), 'app.users'`, "42602", /is not valid/, `'w${"9".repeat(62)}'`],
    ]);
  });

  test("conditions that are not one boolean expression over new and old", async ({ db }) => {
    await db.script(schema);
    const invalid = (problem: string) => `condition of workflow "w" is not valid: ${problem}`;
    const conditions: [condition: string, code: string, problem: string | RegExp, hint: string][] = [
      [
        "new.email",
        "42804",
        "it must be type boolean, not type text",
        "Compare with something, as in: new.<column> = 'x'.",
      ],
      [
        "new.emial is not null",
        "42703",
        "column new.emial does not exist",
        'Perhaps you meant to reference the column "new.email"',
      ],
      [
        "new.zzzzzzzz is not null",
        "42703",
        "column new.zzzzzzzz does not exist",
        "The columns of the table: id, email, name, Plan.",
      ],
      ["email is not null", "42702", 'column reference "email" is ambiguous', "Write new.<column> or old.<column>."],
      [
        "users.email is not null",
        "42P01",
        'missing FROM-clause entry for table "users"',
        "Columns are written new.<column> and old.<column>.",
      ],
      ["is_ok(new.email)", "42883", "function is_ok(text) does not exist", "No function matches the given name"],
      ["new.id @@@ 3", "42883", /^operator does not exist: bigint @@@ integer$/, "No operator matches"],
      ["new.id = 'x'", "22P02", 'invalid input syntax for type bigint: "x"', "Write one expression over new and old"],
      ["new.id =", "42601", /syntax error/, "Write one expression over new and old"],
      ["new.id is is null", "42601", /syntax error/, "Write one expression over new and old"],
      [
        "exists (select from app.users)",
        "0A000",
        "it has a subquery, which a trigger's WHEN cannot have",
        "check that in the task",
      ],
      ["new.id in (table app.orders)", "42601", /subquery has too many columns/, "Write one expression"],
      [
        "exists (values (1))",
        "0A000",
        "it has a subquery, which a trigger's WHEN cannot have",
        "check that in the task",
      ],
      [
        "array(select 1) = '{1}'",
        "0A000",
        "it has a subquery, which a trigger's WHEN cannot have",
        "check that in the task",
      ],
      ["count(*) > 1", "42803", "aggregate functions are not allowed in a condition", "Write one expression"],
      ["row_number() over () > 1", "42P20", "window functions are not allowed in a condition", "Write one expression"],
      [
        "generate_series(1, 2) > 1",
        "0A000",
        "set-returning functions are not allowed in a condition",
        "Write one expression",
      ],
      ["new.id > 1; select 1", "42601", "it is more than one expression", "condition => 'new.<column> is not null'"],
      ["(new.id > 1", "42601", "its parentheses do not match", "Write one expression over new and old, for example:"],
      ["new.id > 1)", "42601", "its parentheses do not match", "Write one expression"],
      [")new.id > 1(", "42601", "its parentheses do not match", "Write one expression"],
      ["new.email = 'x", "42601", "a quote is not closed", "Write one expression"],
      ['new."email is null', "42601", "a quote is not closed", "Write one expression"],
      ["new.id > 1 -- or so", "42601", "it has a comment", "Write one expression"],
      ["new.id > /* or so */ 1", "42601", "it has a comment", "Write one expression"],
      ["new.email = $$x$$", "42601", "it has a dollar sign outside of quotes", "Write one expression"],
      ["new.id = $1", "42601", "it has a dollar sign outside of quotes", "Write one expression"],
      ["new.email = E'x'", "42601", "it has a string with escapes", "Write one expression"],
      ["new.email = U&'x'", "42601", "it has a string with escapes", "Write one expression"],
      ['new.U&"email" is null', "42601", "it has a string with escapes", "Write one expression"],
      ["\t\n", "42601", "it is empty", "Write one expression"],
    ];

    for (const [condition, code, problem, hint] of conditions) {
      const error = await refusal(db, `'w', 'app.users', '{update}', condition => ${quoted(condition)}`);
      expect(error, condition).toMatchObject({
        code,
        message:
          problem instanceof RegExp
            ? expect.stringMatching(/^condition of workflow "w" is not valid: /)
            : invalid(problem),
        detail: `The condition is: ${condition}`,
        hint: expect.stringContaining(hint),
      });
      if (problem instanceof RegExp) expect(error.message.split("not valid: ")[1]).toMatch(problem);
    }

    await expectRefusals(db, [
      [
        `'w', 'app.users', '{insert,update}', condition => 'old.id <> new.id'`,
        "42P10",
        'condition of workflow "w" refers to old, but an insert has no old row',
        `Publish it without insert, and a second workflow for that: select notika.publish('w', 'app.users', operations => '{update}', condition => 'old.id <> new.id');`,
      ],
      [
        `'w', 'app.users', '{delete}', condition => 'new.id > 1'`,
        "42P10",
        'condition of workflow "w" refers to new, but a delete has no new row',
        "operations => '{update}'",
      ],
    ]);
    await db.query(`select notika.publish('w', 'app.users', condition => '')`);
    expect(await db.query(`select condition from notika.workflows`)).toEqual([{ condition: null }]);
  });

  test("nothing that is an honest condition", async ({ db }) => {
    await db.script(schema);
    const conditions = [
      "new.name = 'the letter e'",
      "new.name = 'say ''e'''",
      "new.name ~ '^\\d+\\\\$'",
      `new."Plan" = 'a;b -- c /* d */ $1 $$ ) (('`,
      "new.name like '%s %1$s %%'",
      "(new.id)::text = any ('{1,2}'::text[])",
      "new.id between 1 and 3 or (new.name is null)",
      "app.is_ok(new.name)",
      "new.name operator(pg_catalog.=) 'x'",
      "case when new.id > 1 then true else false end",
      "new is not null",
      "row(new.id, new.name) = row(1, 'x')",
      "date '2020-01-01' < current_date",
      "new.name = 'naïve ☃'",
      "new.name collate \"C\" > 'a'",
      `new.name = 'a'
       'b'`,
      "true",
    ];
    for (const condition of conditions) {
      await db.query(`select notika.publish('w', 'app.users', '{insert}', '{id}', condition => ${quoted(condition)})`);
      await db.query(`insert into app.users values (1)`);
      await db.query(`delete from app.users`);
    }
    expect(await db.query(`select condition from notika.workflows`)).toEqual([{ condition: "true" }]);
  });
});

test("whatever is written as a condition, a column or a name, no second statement is executed", async ({ db }) => {
  await db.script(`${schema}
    create table app.canary (sings boolean);
    create sequence app.alarm; -- rings even in a transaction that is rolled back
    insert into app.canary values (true);
    create function app.kill() returns trigger language plpgsql as 'begin delete from app.canary; return null; end';
    create function app.kill_now(boolean) returns boolean language plpgsql as
      'begin delete from app.canary; return true; end';`);
  // What would complete the statement that a condition is put into, if it got out of its parentheses.
  const drop = "select nextval('app.alarm'); drop table app.canary cascade";
  const ends = [
    `; ${drop}`,
    `; end; ${drop}`,
    ` execute function app.kill(); ${drop}`,
    ` from app.users as new, app.users as old; end; ${drop}`,
  ];
  const attacks = (end: string) => [
    `true) execute function app.kill()${end}; --`,
    "true) execute function app.kill() --",
    "true) execute procedure app.kill(",
    "true)\n  execute function app.kill\n(",
    `true${end}`,
    `true)${end}; select (true`,
    `new.name = '')${end}; --'`,
    `new.name = '\\')${end}; --'`,
    `new.name = '\\' and '')${end}; --' = ''`,
    `new.name = E'\\'')${end}; --'`,
    `new.name = e'\\'' )${end}; -- '`,
    `"text"e'\\'' is null)${end}; -- '`,
    `pg_catalog."text"E'\\'' is null)${end}; -- '`,
    `'a'e'\\'' )${end}; -- '`,
    `new.name = 'a'\nE'\\'' )${end}; -- '`,
    `new.name = U&'\\0027)${end}; --'`,
    `new.name = u&'!0027' uescape '!')${end}; --'`,
    `new.u&"\\0022" = '')${end}; --"`,
    `new.name = n'\\'')${end}; --'`,
    `new.name = b'0''')${end}; --'`,
    `new.name = x'0'')${end};--'`,
    `new.name = $$'$$)${end}; --'`,
    `new.name = $a$ ' $a$)${end}; --'`,
    `new.name = $é$'$é$)${end}; --'`,
    `new."x"";y" = '')${end}; --`,
    `new."x'" = '')${end}; --'`,
    `new.name = '"' or "'" )${end}; --"`,
    `true /* ' */)${end}; -- '`,
    `true /* /* */ '*/ )${end}; --' */`,
    `true -- '\n)${end}; -- '`,
    `true --\n)${end}`,
    `true\r)${end}; --`,
    `true\u2028)${end}; --`,
    `true\u00a0)${end}`,
    `(true)) execute function app.kill(); end; create function app.f() returns int begin atomic select (1`,
    "true) union select (true",
    "true) from app.users; end; begin atomic select (true",
    "true; end; begin atomic select true",
    "true) limit (1",
    "app.kill_now(true)) or (app.kill_now(true)",
    "exists (delete from app.canary returning 1)",
    "(with gone as (delete from app.canary returning 1) select true)",
    "%s); drop table app.canary; --",
    "%1$I %L",
  ];
  const settings = ["set local standard_conforming_strings = off", "set local escape_string_warning = off"];

  for (const attack of new Set(ends.flatMap(attacks))) {
    for (const setting of [[], settings]) {
      const call = `select notika.publish('w', 'app.users', '{insert}', '{id}', condition => ${quoted(attack)})`;
      await inTransaction(db, ...setting, call, `insert into app.users values (1)`).catch(() => {});
    }
    expect(
      await db.query(`select sings, pg_sequence_last_value('app.alarm') as alarm from app.canary`).catch(String),
      attack,
    ).toEqual([{ sings: true, alarm: null }]);
    await db.query(`delete from app.users`);
  }
  for (const attack of attacks(`; ${drop}`)) {
    for (const arguments_ of [
      `'w', ${quoted(`app.users ${attack}`)}`,
      `'w', 'app.users', columns => array['id', ${quoted(attack)}]`,
      `'w', 'app.users', '{update}', watch => array[${quoted(attack)}]`,
      `'w', 'app.users', array[${quoted(attack)}]`,
      `'w', 'app.users', guard => ${quoted(attack)}`,
      `'w', 'app.users', on_rename => ${quoted(attack)}`,
      `${quoted(`w'${attack}`)}, 'app.users'`,
    ]) {
      await expect(db.query(`select notika.publish(${arguments_})`), arguments_).rejects.toThrow();
    }
  }

  expect(await db.query(`select proname from pg_proc where pronamespace = 'app'::regnamespace order by 1`)).toEqual([
    { proname: "is_ok" },
    { proname: "kill" },
    { proname: "kill_now" },
  ]);
  expect(await db.query(`select tgname from pg_trigger where tgfoid = 'app.kill()'::regprocedure`)).toEqual([]);
});

describe("who may publish", () => {
  test("is who may use the schema, make triggers and read what is published", async ({ db }) => {
    await db.script(`${schema}
      create role publisher;
      create role other;
      select notika.grant_publisher('publisher'), notika.grant_publisher('other');
      grant usage on schema app to notika;
      grant select, trigger on all tables in schema app to notika;`);
    const publish = (call: string) => asRole(db, "publisher", `select notika.publish(${call}) as said`);
    const steps: [call: string, message: string, hint: string][] = [
      [
        `'w', 'app.users'`,
        'role "publisher" may not use the schema of table app.users',
        "grant usage on schema app to publisher;",
      ],
      [
        `'w', 'app.users'`,
        'role "publisher" may not create triggers on table app.users',
        "grant trigger on app.users to publisher;",
      ],
      [`'w', 'app.users'`, 'role "publisher" may not read table app.users', "grant select on app.users to publisher;"],
      [
        `'w', 'app.orders'`,
        'role "publisher" may not create triggers on table app.orders',
        "grant trigger on app.orders to publisher;",
      ],
      [
        `'some', 'app.orders', '{update}', '{id}', watch => '{user_id}'`,
        'role "publisher" may not read id, user_id of table app.orders',
        "grant select (id, user_id) on app.orders to publisher;",
      ],
    ];

    for (const [call, message, hint] of steps) {
      await expect(publish(call)).rejects.toMatchObject({ code: "42501", message, hint: `Run: ${hint}` });
      await db.query(hint);
    }

    expect(await publish(`'w', 'app.users'`)).toEqual([{ said: "published" }]);
    expect(await publish(`'some', 'app.orders', '{update}', '{id}', watch => '{user_id}'`)).toEqual([
      { said: "published" },
    ]);
    expect(await db.query(`select distinct published_by from notika.workflows`)).toEqual([
      { published_by: "publisher" },
    ]);
    await expect(asRole(db, "other", `select notika.unpublish('w')`)).rejects.toMatchObject({ code: "42501" });
    await expect(asRole(db, "publisher", `select * from notika.workflow`)).rejects.toMatchObject({ code: "42501" });
  });

  test("tells an owner who is no superuser what is missing, on partitions too", async ({ db }) => {
    await db.script(`${schema}
      create table app.parted_1 partition of app.parted for values in (1);
      create table app.parent (id int);
      create table app.child () inherits (app.parent);
      create schema lib;
      create function lib.is_ok(text) returns boolean language sql immutable as 'select true';
      create role publisher;
      select notika.grant_publisher('publisher');
      grant usage on schema app, lib to publisher;
      grant select, trigger on all tables in schema app to publisher;
      grant select on all tables in schema app to notika;
      grant trigger on app.users to notika;
      revoke usage on type app.users from public;`);
    const steps: [call: string, hint: string][] = [
      [`'p', 'app.parted'`, "grant trigger on table app.parted to notika;"],
      [`'p', 'app.parted'`, "grant usage on schema app to notika;"],
      [`'p', 'app.parted'`, "grant trigger on table app.parted_1 to notika;"],
      [`'c', 'app.parent'`, "grant trigger on table app.parent to notika;"],
      [`'c', 'app.parent'`, "grant trigger on table app.child to notika;"],
      [`'t', 'app.users', columns => '{id}'`, "grant usage on type app.users to notika;"],
      [`'t', 'app.users', condition => 'lib.is_ok(new.name)'`, "grant usage on schema lib to notika;"],
    ];
    const publish = (call: string) => asRole(db, "publisher", `select notika.publish(${call})`);

    for (const [call, hint] of steps) {
      const isOfCondition = call.includes("condition");
      await expect(publish(call), hint).rejects.toMatchObject({
        code: "42501",
        message: expect.stringContaining(
          isOfCondition ? 'condition of workflow "t"' : 'role "notika", which owns Notika, may not',
        ),
        hint: `${isOfCondition ? "Run" : "Let its owner, or an administrator, run"}: ${hint}`,
      });
      await db.query(hint);
    }
    await publish("'p', 'app.parted', '{insert,update,delete}', '{id}'");
    await publish("'c', 'app.parent', '{insert,update,delete}', '{id}'");
    await db.script(`
      insert into app.parted values (1);
      insert into app.child values (1);`);
    expect(await db.query(`select workflow from notika.event_log order by event_id`)).toEqual([
      { workflow: "p" },
      { workflow: "c" },
    ]);

    // It may not drop a trigger on somebody else's table, but it may drop its functions.
    await asRole(
      db,
      "publisher",
      "select notika.publish('p', 'app.parted', '{insert}', '{id}')",
      "select notika.publish('c', 'app.parent')",
      "select notika.unpublish('p')",
      "select notika.unpublish('c')",
    );
    expect(await generatedNames(db)).toEqual([]);
  });
});

test("a condition reads only what its publisher may read, whole rows included, and calls only what he may call", async ({
  db,
}) => {
  await db.script(`
    create schema app; create schema lib;
    create table app.users (id int primary key, email text, secret text);
    create type lib.mood as enum ('fine');
    create function lib.is_ok(text) returns boolean language sql immutable as 'select true';
    create function lib.is_fine(app.users) returns boolean language sql immutable as 'select true';
    create function app.same(text, text) returns boolean language sql immutable as 'select $1 = $2';
    create operator app.=== (function = app.same, leftarg = text, rightarg = text);
    revoke execute on function lib.is_ok, app.same from public;
    create role pat;
    select notika.grant_publisher('pat');
    grant usage on schema app, lib to pat;
    grant trigger, select (id, email) on app.users to pat;
    grant usage on schema app, lib to notika;
    grant trigger, select on app.users to notika`);
  const publish = (condition: string) =>
    asRole(
      db,
      "pat",
      `select notika.publish('w', 'app.users', '{update}', '{id}', condition => ${quoted(condition)}) as said`,
    );
  const steps: [condition: string, message: string, hint: string][] = [
    ["new.secret like 'a%'", "may not read secret of table app.users", "grant select (secret) on app.users to pat;"],
    [
      "old.id > 1 and new.secret = old.secret",
      "may not read secret of table app.users",
      "grant select (secret) on app.users to pat;",
    ],
    ["lib.is_fine(new)", "may not read all of table app.users", "grant select on app.users to pat;"],
    ["new is distinct from old", "may not read all of table app.users", "grant select on app.users to pat;"],
    [
      "lib.is_ok(new.email)",
      "publishes it and may not execute function lib.is_ok(text)",
      "grant execute on function lib.is_ok(text) to pat;",
    ],
    [
      "new.email operator(app.===) 'x'",
      "publishes it and may not execute function app.same(text,text)",
      "grant execute on function app.same(text,text) to pat;",
    ],
  ];

  for (const [condition, message, hint] of steps) {
    await expect(publish(condition), condition).rejects.toMatchObject({
      code: "42501",
      message: `condition of workflow "w" is not valid: role "pat" ${message}`,
      hint: `Run: ${hint}`,
    });
    expect(
      await undone(
        db,
        hint,
        "set local role pat",
        `select notika.publish('w', 'app.users', '{update}', '{id}', condition => ${quoted(condition)}) as said`,
      ),
    ).toEqual([{ said: "published" }]);
  }
  expect(await publish("new.email is not null")).toEqual([{ said: "published" }]);
});

test("a condition may only call what everybody who writes to the table may call", async ({ db }) => {
  await db.script(`${schema}
    create role writer;
    create role app_team;
    grant app_team to writer;
    grant update (name) on app.users to writer;
    revoke execute on function app.is_ok(text) from public;`);
  const publish = () =>
    db.query(`select notika.publish('w', 'app.users', '{update}', condition => 'app.is_ok(new.name)') as said`);

  await expect(publish()).rejects.toMatchObject({
    code: "42501",
    message:
      'condition of workflow "w" is not valid: role "writer" writes to the table and may not execute function app.is_ok(text)',
    detail: "The condition is: app.is_ok(new.name)",
    hint: "Run: grant execute on function app.is_ok(text) to writer;",
  });

  await db.query(`grant execute on function app.is_ok(text) to app_team`);
  expect(await publish()).toEqual([{ said: "published" }]);
});

test("a table that somebody has locked is waited for three seconds, and nothing is changed", async ({ db, skip }) => {
  if (db.engine === "pglite") skip("it takes two sessions");
  await db.script(`${schema}
    select notika.publish('w', 'app.users', columns => '{id}');
    select notika.publish('v', 'app.users', columns => '{id}')`);
  const before = await generatedNames(db);
  const other = await db.connect();
  await other.query("begin");
  const refused = async (statement: string, message: string) => {
    const start = performance.now();
    const error = await db.query(statement).catch((error: Error & { hint?: string }) => error);
    expect(error).toMatchObject({
      code: "55P03",
      message,
      detail: "Gave up after 3s; waiting longer would block the application.",
    });
    const waited = performance.now() - start;
    expect(waited).toBeGreaterThan(2_900);
    expect(waited).toBeLessThan(6_000);
    return (error as { hint: string }).hint;
  };

  await other.query("lock table app.users in row exclusive mode");
  await other.query("lock table app.orders in access exclusive mode");
  const [hint] = await Promise.all([
    refused(
      `select notika.publish('w', 'app.users', '{delete}')`,
      'cannot publish workflow "w": table app.users is locked',
    ),
    refused(`select notika.unpublish('v')`, 'cannot unpublish workflow "v": table app.users is locked'),
    refused(
      `select * from notika.plan('x', 'app.orders', condition => 'new.id > 1')`,
      'cannot plan workflow "x": table app.orders is locked',
    ),
  ]);
  expect(await db.query(/select pid.*;/.exec(hint)?.[0] ?? "")).toMatchObject([{ mode: "RowExclusiveLock" }]);

  await other.query("rollback");
  expect(await generatedNames(db)).toEqual(before);
  expect(await db.query(`select workflow, operations from notika.workflows order by workflow`)).toEqual([
    { workflow: "v", operations: ["insert"] },
    { workflow: "w", operations: ["insert"] },
  ]);
});

test("a stricter lock_timeout of the session holds, and every verb leaves it as it is", async ({ db, skip }) => {
  if (db.engine === "pglite") skip("it takes two sessions");
  await db.script(
    `${schema} select notika.publish('w', 'app.users', columns => '{id}'); select notika.emit('w', '{}')`,
  );
  const other = await db.connect();
  await other.query("begin; lock table app.users in access exclusive mode; select from notika.workflow for update");
  const session = await db.connect();
  await session.query("set lock_timeout = '150ms'");
  const gaveUp = { code: "55P03", detail: expect.stringMatching(/^Gave up after 150ms[;.]/) };
  for (const call of [
    "select notika.publish('w', 'app.users', '{delete}')",
    "select notika.unpublish('w')",
    "select * from notika.plan('x', 'app.users', condition => 'new.id > 1')",
    `select notika.configure('w', '{"concurrency": 2}')`,
    "select * from notika.uninstall()",
  ]) {
    const start = performance.now();
    await expect(session.query(call), call).rejects.toMatchObject(gaveUp);
    expect(performance.now() - start, call).toBeLessThan(450);
  }
  for (const call of ["select notika.schedule('w', '0 7 * * *')", "select notika.unschedule('w')"]) {
    const start = performance.now();
    await expect(session.query(call), call).rejects.toMatchObject({ code: "55P03" });
    expect(performance.now() - start, call).toBeLessThan(2_900);
  }

  await other.query("rollback");
  for (const timeout of ["150ms", "1min", "0"]) {
    await session.query(`begin; set local lock_timeout = '${timeout}'`);
    for (const call of [
      "select notika.publish('w', 'app.users', '{delete}')",
      "select notika.publish('w', 'app.users', '{delete}')",
      "select * from notika.plan('x', 'app.users', condition => 'new.id > 1')",
      `select notika.configure('w', '{"concurrency": 2}')`,
      "select notika.schedule('w', '0 7 * * *')",
      "select notika.unschedule('w')",
      "select notika.unpublish('w')",
      "select * from notika.check_ddl('create table app.x ()')",
      "select * from notika.install()",
    ]) {
      await session.query(call);
      expect(await session.query("show lock_timeout"), call).toEqual([{ lock_timeout: timeout }]);
    }
    await session.query("rollback");
  }
});

/** A client such as psql prints where an error was raised, too: not more of that than who reads it can use. */
const whereShort = /^(PL\/pgSQL function notika\.[^\n]*\n?){1,4}$/;

type Refusal = [call: string, code?: string | undefined, message?: string | RegExp, hint?: string, detail?: string];

/** Each call fails as told, the call in its hint works; a call without a code works itself. */
async function expectRefusals(db: TestDatabase, refusals: Refusal[]) {
  for (const [call, code, message, hint, detail] of refusals) {
    if (code === undefined) {
      expect(await undone(db, `select notika.publish(${call}) as said`), call).toEqual([{ said: "published" }]);
      continue;
    }
    const error = await refusal(db, call);
    expect(error, call).toMatchObject({
      code,
      message: message instanceof RegExp ? expect.stringMatching(message) : message,
      hint: expect.stringContaining(hint ?? ""),
      ...(detail && { detail }),
    });
    expect(error.where, call).toMatch(whereShort);
    await expect(db.query(`select * from notika.plan(${call})`), call).rejects.toMatchObject({ code });

    const hinted = /select notika\.publish\(.*\);/s.exec(error.hint)?.[0];
    if (hinted && !hinted.includes("<")) {
      expect(await undone(db, hinted), hinted).toEqual([{ publish: "published" }]);
    }
  }
  expect(await generatedNames(db)).toEqual([]);
}

async function refusal(db: TestDatabase, call: string): Promise<Error & { code: string; hint: string; where: string }> {
  const done = db.query(`select notika.publish(${call})`);
  return done.then(
    () => Promise.reject(new Error(`this was not refused: ${call}`)),
    (error) => error,
  );
}

function quoted(text: string) {
  return `$quoted$${text}$quoted$`;
}
