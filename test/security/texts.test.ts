import { describe, expect } from "vitest";
import { asRole, inTransaction } from "../sql/support.ts";
import { test } from "../support/database.ts";

const table = `
  create schema app;
  create table app.users (id int primary key, email text, plan text);
  select notika.publish('w', 'app.users', columns => '{id,email}', guard => 'warn');`;

describe("what the guard keeps of a text", () => {
  const drop = "alter table app.users drop column email";
  for (const [name, text] of Object.entries({
    "a statement before": `create role svc login password 'hunter2'; ${drop}`,
    "a statement after": `${drop}; create role svc login password 'hunter2'`,
    "a string in it": "alter table app.users alter column plan set default 'hunter2', drop column email",
    "escapes in it": "alter table app.users alter column plan set default E'it\\'s hunter2', drop column email",
    "dollar quotes in it": "alter table app.users alter column plan set default $pw$hunter2$pw$, drop column email",
    "escapes in a string that goes on in the next line": `${drop}, alter column plan set default E'a' -- b\n 'b\\'hunter2'`,
    "escapes behind a quote": `${drop}, alter column plan set default E'''x\\'hunter2'`,
    "dollar quotes with letters of another alphabet": `${drop}, alter column plan set default $ä1$hunter2$ä1$`,
    "a body before it": `create function app.g() returns int begin atomic select case when 'hunter2' = '' then 1 end; select 2; end; ${drop}`,
    "quotes in a string": "alter table app.users alter column plan set default 'a''hunter2', drop column email",
    "comments in it": "alter table app.users /* hunter2 /* hunter2 */ */ drop column email -- hunter2",
    "a block": `do $$ begin perform 'hunter2'; ${drop}; end $$`,
    "a function": `create function app.f() returns void language plpgsql as $$ begin perform 'hunter2'; ${drop}; end $$; select app.f()`,
    "a function in SQL": `create function app.f() returns void language sql as $$ select 'hunter2'; ${drop} $$; select app.f()`,
    "a long text": `select '${"hunter2".repeat(5000)}'; ${drop}`,
  })) {
    test(`has nothing that does not concern it: ${name}`, async ({ db }) => {
      await db.script(table);

      await db.script(text);

      const [noted] = await db.query<{ statement: string }>(
        "select statement from notika.guard_log where kind = 'column_dropped'",
      );
      expect(noted?.statement).toMatch(/^alter table app\.users\b/i);
      expect(JSON.stringify(await db.query("select * from notika.guard_log"))).not.toContain("hunter2");
      if (name.startsWith("a statement")) expect(noted?.statement).toBe(drop);
    });
  }

  test("has none of the strings where the session takes backslashes for escapes", async ({ db }) => {
    await db.script(table);

    await inTransaction(
      db,
      "set local standard_conforming_strings = off",
      "set local escape_string_warning = off",
      "alter table app.users disable trigger all, add note text default 'a\\'hunter2'",
    );

    expect(await db.query("select kind, statement from notika.guard_log")).toEqual([
      { kind: "trigger_disabled", statement: "ALTER TABLE app.users" },
    ]);
  });

  test("is the same in what it refuses, and in what is let through on record", async ({ db }) => {
    await db.script(`${table} select notika.publish('v', 'app.users', columns => '{plan}')`);

    const refusal = await db.script("select 'hunter2'; alter table app.users drop column plan").catch((error) => error);
    await inTransaction(
      db,
      "select notika.allow_breaking_change('v', 'planned'), 'hunter2'",
      "alter table app.users drop column plan",
    );

    expect(refusal.detail).toMatch(/\nStatement: alter table app\.users drop column plan$/);
    expect(JSON.stringify(await db.query("select * from notika.guard_log"))).not.toContain("hunter2");
  });
});

test("the error of a backfill is for readers; others see its SQLSTATE", async ({ db }) => {
  await db.script(`${table}
    create role pat; create role rex; create role ria;
    select notika.grant_publisher('pat'), notika.grant_runner('rex'), notika.grant_reader('ria');
    insert into app.users values (1, '078-05-1120');
    select notika.backfill('w', 'new.email::int > 0')`);
  await db.query("select notika.dispatch()");
  const error = async (role: string) =>
    (await asRole<{ error: string }>(db, role, "select error from notika.backfills"))[0]?.error;

  expect(await error("ria")).toContain('"078-05-1120"');
  expect(await error("pat")).toBe("SQLSTATE 22P02: readers see the error");
  expect(await error("rex")).toBe("SQLSTATE 22P02: readers see the error");
  for (const role of ["pat", "rex", "ria"]) {
    expect(JSON.stringify(await asRole(db, role, "select * from notika.health"))).not.toContain("078-05");
  }
});

test("an event by hand is no bigger than a row's may be", async ({ db }) => {
  await db.script(`${table} update notika.setting set payload_bytes = 2000`);

  await db.query(`select notika.emit('w', jsonb_build_object('x', repeat('x', 1900)))`);
  for (const size of [2000, 10_000_000]) {
    await expect(
      db.query(
        `select notika.emit('w', jsonb_build_object('x', repeat(md5(random()::text), ${Math.ceil(size / 32)})))`,
      ),
    ).rejects.toMatchObject({
      code: "54000",
      message: expect.stringMatching(
        /^the payload for workflow "w" is too big: \d+ bytes, and at most 2000 are allowed$/,
      ),
      hint: "Emit a key, and read the other values in the task.",
    });
  }
});

test("what the limit of an event by hand counts is what was given", async ({ db }) => {
  await db.script(`${table} update notika.setting set payload_bytes = 2000`);
  const some = (item: string) => `[${Array(Math.floor(1990 / (item.length + 1))).fill(item)}]`;

  for (const item of [
    "1",
    "1e100",
    "1e-3",
    "1e-9",
    "-12.5e40",
    "true",
    '""',
    "{}",
    '{"a":1e50,"b":[0.01]}',
    '"1000, 000: 000"',
  ]) {
    await db.query("select notika.emit('w', $1::text::jsonb)", [some(item)]);
  }
  for (const payload of [
    `[${Array(700).fill("1e100")}]`,
    "[1e70000]", // whatever it took to say it, this is more than anybody can take
    JSON.stringify(["0".repeat(2100)]),
    JSON.stringify([", ".repeat(1050)]),
    JSON.stringify(['\\"000, '.repeat(300)]),
  ]) {
    await expect(db.query("select notika.emit('w', $1::text::jsonb)", [payload])).rejects.toMatchObject({
      code: "54000",
    });
  }
});

describe("check_ddl", () => {
  const lasting = [
    "copy (select 1) to program 'touch x'",
    "COPY app.users\nFROM /* x */ PROGRAM 'cat'",
    "do $$ begin copy app.users to program 'x'; end $$",
    "do $$ begin execute 'copy app.users to ''/tmp/x'''; end $$",
    "copy app.users from '/etc/passwd'",
    "select lo_export(1, '/tmp/x')",
    "select pg_catalog.lo_import ('/etc/passwd')",
    "select dblink_exec('', 'drop table x')",
    "create function app.f() returns void language sql as 'select pg_terminate_backend(1)'",
    "select pg_advisory_lock(1)",
    "select pg_create_logical_replication_slot('x', 'pgoutput')",
    "select pg_drop_replication_slot('x')",
    "select pg_logical_emit_message(false, 'a', 'b')",
    "select pg_reload_conf()",
    "select pg_stat_reset()",
    "load 'auto_explain'",
    "set session authorization postgres",
    "reset session authorization",
    "set local session_authorization to postgres",
    "select set_config(setting_name => 'session_authorization', new_value => 'x', is_local => true)",
    "copy (select ';') to program 'touch x'",
    "copy (select '--') to program 'touch x'",
    "copy (select '/*') to program 'touch x' /* */",
    'copy (select 1 as ";") to program $x$touch x$x$',
    "copy (select ';') to '/tmp/x'",
    "copy app.users (id) to -- ;\n u&'/tmp/x'",
    "do $$ begin execute 'copy (select '';'') to ''/tmp/x'''; end $$",
    "do $$ begin execute format('copy %I to %L', 'x', '/tmp/x'); end $$",
    "create foreign table app.f (x text) server s options (format 'csv', program 'id')",
    "do $$ begin load 'auto_explain'; end $$",
    "do $$ begin execute 'load ''auto_explain'''; end $$",
    'select "pg_terminate_backend"(1)',
    "select pg_catalog.\"lo_export\" /* x */ (1, '/tmp/x')",
    "select u&\"lo\\005fexport\"(1, '/tmp/x')",
    "select '--', pg_rotate_logfile()",
    "select pg_read_file('/etc/passwd')",
    "select * from pg_ls_dir('/')",
  ];

  test("does not try what it cannot undo", async ({ db }) => {
    await db.script(table);

    for (const text of lasting) {
      const rows = await db.query("select verdict, problem from notika.check_ddl($1)", [text]);
      expect({ text, rows }).toEqual({
        text,
        rows: [{ verdict: "unknown", problem: expect.stringMatching(/^cannot be tried: /) }],
      });
    }
  });

  test("tries what only looks like it", async ({ db }) => {
    await db.script(table);

    expect(
      await db.query(
        `select * from notika.check_ddl('alter table app.users add program text; alter table app.users add copy_from text;
           comment on table app.users is ''copy of the old one''; alter table app.users rename plan to load;
           insert into app.users select 1, ''a copy'', substring(''x'' from ''y'');
           create function app.f() returns numeric language sql as ''select extract(year from now())'';
           select pg_advisory_xact_lock(1)')`,
      ),
    ).toEqual([]);
  });

  test("takes the body of a function for one statement, however long it is", async ({ db }) => {
    await db.script(table);
    const body = "create function app.f() returns int begin atomic select case when true then 1 end; select 2; end";

    const rows = await db.query("select statement_number, verdict from notika.check_ddl($1)", [
      `${body}; alter table app.users drop column email`,
    ]);
    const long = await db.query<{ statements: number }>("select count(*)::int as statements from notika._split($1)", [
      `create function app.f() returns int begin atomic ${"select 1;\n".repeat(20_000)} end; select 1`,
    ]);

    expect(rows).toEqual([{ statement_number: 2, verdict: "warns" }]);
    expect(long).toEqual([{ statements: 2 }]);
  });
});
