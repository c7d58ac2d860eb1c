import { describe, expect } from "vitest";
import { test } from "../support/database.ts";
import { captured, events, generated, generatedNames, inTransaction, noEventTriggers, undone } from "./support.ts";

const users = `
  create schema app;
  create table app.users (id bigint primary key, email text, name text, plan text default 'free');`;

describe("publish", () => {
  test("captures inserts unless told otherwise, and the whole row", async ({ db }) => {
    await db.script(users);

    expect(await db.query(`select notika.publish('w', 'app.users')`)).toEqual([{ publish: "published" }]);
    await db.script(`
      insert into app.users values (1, 'ada@example.com', 'Ada');
      update app.users set name = 'Ada L.';
      delete from app.users;`);

    expect(await events(db)).toEqual([
      {
        operation: "insert",
        table_name: "app.users",
        new: { id: "1", email: "ada@example.com", name: "Ada", plan: "free" },
        old: null,
      },
    ]);
    expect(
      await db.query(`select workflow, table_name, operations, columns, watch, condition, capture, guard, on_rename,
                             state, reason, published_by = session_user as mine from notika.workflows`),
    ).toEqual([
      {
        workflow: "w",
        table_name: "app.users",
        operations: ["insert"],
        columns: null,
        watch: null,
        condition: null,
        capture: "row",
        guard: "block",
        on_rename: "follow",
        state: "published",
        reason: null,
        mine: true,
      },
    ]);
  });

  test("captures the operations and columns it is given, old and new", async ({ db }) => {
    await db.script(users);

    await db.query(`select notika.publish('w', 'app.users', '{delete,INSERT, update}', '{name,id,name}')`);
    await db.script(`
      insert into app.users values (1, 'ada@example.com', 'Ada');
      update app.users set name = 'Ada L.';
      delete from app.users;`);

    expect(await events(db)).toEqual([
      { operation: "insert", table_name: "app.users", new: { name: "Ada", id: "1" }, old: null },
      { operation: "update", table_name: "app.users", new: { name: "Ada L.", id: "1" }, old: { name: "Ada", id: "1" } },
      { operation: "delete", table_name: "app.users", new: null, old: { name: "Ada L.", id: "1" } },
    ]);
    expect(await db.query(`select operations, columns from notika.workflows`)).toEqual([
      { operations: ["insert", "update", "delete"], columns: ["name", "id"] },
    ]);
  });

  test("filters by a condition over new and old", async ({ db }) => {
    await db.script(`${users}
      select notika.publish('ins', 'app.users', condition => 'new.email ~ ''^a\\d?@'' and (new.name is null)');
      select notika.publish('upd', 'app.users', '{update}', '{id}',
        condition => $$old.plan = 'free' and new.plan <> 'free'$$);
      select notika.publish('del', 'app.users', '{delete}', '{id}', condition => 'old.id > 1');
      insert into app.users values (1, 'a@x'), (2, 'a7@x'), (3, 'b@x'), (4, null);
      insert into app.users values (5, 'a@x', 'Ada');
      update app.users set plan = 'pro' where id < 3;
      update app.users set plan = 'max' where id < 4;
      delete from app.users where id < 3;`);

    expect((await captured(db, "ins")).map((row) => (row as { id: string }).id)).toEqual(["1", "2"]);
    expect(await captured(db, "upd")).toEqual([{ id: "1" }, { id: "2" }, { id: "3" }]);
    expect((await events(db, "del")).map(({ old }) => old)).toEqual([{ id: "2" }]);
  });

  test("fails a write whose condition fails, and no other", async ({ db }) => {
    await db.script(`create table public.parcel (id int, weight int);
      select notika.publish('w', 'public.parcel', condition => '100 / new.weight > 2')`);

    await expect(db.query("insert into parcel values (1, 0)")).rejects.toMatchObject({ code: "22012" });
    await db.query("insert into parcel values (2, 10), (3, 90)");

    expect(await db.query("select id from parcel")).toEqual([{ id: 2 }, { id: 3 }]);
    expect(await captured(db)).toMatchObject([{ id: 2, weight: 10 }]);
  });

  test("makes triggers that tell their workflow, as psql's \\d shows them", async ({ db }) => {
    await db.script(`
      create schema app; create table app.users (id int primary key);
      select notika.publish('welcome_email', 'app.users', '{insert,delete}')`);

    const triggers = await db.query<{ definition: string }>(
      "select pg_get_triggerdef(oid, true) as definition from pg_trigger where tgrelid = 'app.users'::regclass",
    );

    expect(triggers.map(({ definition }) => /EXECUTE FUNCTION (.*)$/.exec(definition)?.[1]).sort()).toEqual([
      "notika._capture_1('welcome_email')",
      "notika._capture_1('welcome_email')",
      "notika._truncated_1('welcome_email')",
    ]);
  });

  test("watches values: not what a statement names, but what has changed", async ({ db }) => {
    await db.script(`${users}
      create function app.lower_email() returns trigger language plpgsql as
        'begin new.email := lower(new.email); return new; end';
      create trigger lower_email before update on app.users for each row execute function app.lower_email();
      select notika.publish('w', 'app.users', '{insert,update}', '{email}', watch => '{email,plan}');
      insert into app.users values (1, 'Ada@x');`);

    await db.script(`update app.users set name = 'changed by its trigger'`);
    await db.script(`update app.users set email = email, plan = plan, name = 'x'`);
    await db.script(`update app.users set email = 'ADA@x'`);
    await db.script(`update app.users set plan = null`);
    await db.script(`update app.users set plan = null`);

    expect(await events(db)).toEqual([
      { operation: "insert", table_name: "app.users", new: { email: "Ada@x" }, old: null },
      { operation: "update", table_name: "app.users", new: { email: "ada@x" }, old: { email: "Ada@x" } },
      { operation: "update", table_name: "app.users", new: { email: "ada@x" }, old: { email: "ada@x" } },
    ]);
  });

  test("does no DDL when it is the same, and says so", async ({ db }) => {
    const call = `select notika.publish('w', 'app.users', '{insert,update}', '{id,email}', '{email,plan}',
                    'new.email is not null') as said`;
    const catalog = () =>
      db.query(`select oid, xmin, 'trigger' as kind from pg_trigger where tgname ~ '^notika_'
                union all select oid, xmin, 'function' from pg_proc where pronamespace = 'notika'::regnamespace
                union all select workflow_id, xmin, 'workflow' from notika.workflow
                order by 3, 1`);
    await db.script(users);
    await db.query(call);
    const before = await catalog();

    expect(await db.query(call)).toEqual([{ said: "unchanged" }]);
    expect(await db.query(call.replace("{email,plan}", "{plan,email,plan}"))).toEqual([{ said: "unchanged" }]);
    expect(
      await db.query(`select notika.publish('w', '"app" . Users', '{UPDATE,insert,insert}', '{id,email}',
                        '{plan,email}', '  new.email is not null ') as said`),
    ).toEqual([{ said: "unchanged" }]);
    await db.script(`
      set quote_all_identifiers = on;
      set standard_conforming_strings = off;
      set escape_string_warning = off;
      do $do$
      begin
        assert notika.publish('w', 'app.users', '{insert,update}', '{id,email}', '{email,plan}',
                              'new.email is not null') = 'unchanged';
      end;
      $do$;
      reset quote_all_identifiers;
      reset standard_conforming_strings`);

    expect(await catalog()).toEqual(before);
    expect(
      await db.query(
        call
          .replace("select", "select * from")
          .replace("publish", "plan")
          .replace(/ as said/, ""),
      ),
    ).toEqual([]);
  });

  test("changes what is different and leaves nothing of what was before", async ({ db }) => {
    await db.script(`${users}
      create table app.orders (id int primary key, note text);`);
    const steps: [call: string, said: string, names: string[]][] = [
      [
        `'app.users', '{insert,update,delete}', '{id}'`,
        "published",
        [
          "notika_1_delete on app.users",
          "notika_1_insert on app.users",
          "notika_1_truncate on app.users",
          "notika_1_update on app.users",
          "notika._capture_1()",
          "notika._truncated_1()",
          "notika.payload_1(app.users)",
          "notika.payload_1(record)",
        ],
      ],
      [
        `'app.users', '{insert}', '{id}'`,
        "changed",
        ["notika_1_insert on app.users", "notika._capture_1()", "notika.payload_1(app.users)"],
      ],
      [
        `'app.users', '{insert,delete}', '{id,email}'`,
        "changed",
        [
          "notika_1_delete on app.users",
          "notika_1_insert on app.users",
          "notika_1_truncate on app.users",
          "notika._capture_1()",
          "notika._truncated_1()",
          "notika.payload_1(app.users)",
          "notika.payload_1(record)",
        ],
      ],
      [
        `'app.users', '{insert,delete}'`,
        "changed",
        [
          "notika_1_delete on app.users",
          "notika_1_insert on app.users",
          "notika_1_truncate on app.users",
          "notika._capture_1()",
          "notika._truncated_1()",
        ],
      ],
      [
        `'app.users', '{delete}'`,
        "changed",
        [
          "notika_1_delete on app.users",
          "notika_1_truncate on app.users",
          "notika._capture_1()",
          "notika._truncated_1()",
        ],
      ],
      [
        `'app.users', '{delete}', '{name}'`,
        "changed",
        [
          "notika_1_delete on app.users",
          "notika_1_truncate on app.users",
          "notika._capture_1()",
          "notika._truncated_1()",
          "notika.payload_1(app.users)",
        ],
      ],
      [
        `'app.orders', '{delete}', '{note}'`,
        "changed",
        [
          "notika_1_delete on app.orders",
          "notika_1_truncate on app.orders",
          "notika._capture_1()",
          "notika._truncated_1()",
          "notika.payload_1(app.orders)",
        ],
      ],
      [`'app.users', '{insert}'`, "changed", ["notika_1_insert on app.users", "notika._capture_1()"]],
    ];

    for (const [call, said, names] of steps) {
      expect(await db.query(`select notika.publish('w', ${call}) as said`)).toEqual([{ said }]);
      expect(await generatedNames(db)).toEqual(names);
    }
  });

  test("changes the guard alone without DDL", async ({ db }) => {
    await db.script(`${users} select notika.publish('w', 'app.users', columns => '{id}')`);
    const before = await generated(db);

    const change = `'w', 'app.users', columns => '{id}', guard => 'warn', on_rename => 'block'`;
    expect(await db.query(`select * from notika.plan(${change})`)).toEqual([]);
    expect(await db.query(`select notika.publish(${change}) as said`)).toEqual([{ said: "changed" }]);

    expect(await generated(db)).toEqual(before);
    expect(await db.query(`select guard, on_rename from notika.workflows`)).toEqual([
      { guard: "warn", on_rename: "block" },
    ]);
  });

  test("leaves nothing when its transaction is rolled back", async ({ db }) => {
    await db.script(users);

    await undone(db, `select notika.publish('w', 'app.users', columns => '{id}')`);

    expect(await generatedNames(db)).toEqual([]);
    expect(await db.query("select * from notika.workflows")).toEqual([]);
    await inTransaction(
      db,
      `select notika.publish('w', 'app.users', columns => '{id}')`,
      `savepoint before`,
      `select notika.publish('w', 'app.users', '{delete}')`,
      `rollback to before`,
      `insert into app.users values (1)`,
    );
    expect(await captured(db)).toEqual([{ id: "1" }]);
  });

  test("puts back triggers that are gone or disabled", async ({ db }) => {
    const call = `select notika.publish('w', 'app.users', '{insert,delete}', '{id}') as said`;
    await db.script(users + noEventTriggers);
    await db.query(call);
    const before = await generated(db);

    await db.script(`drop trigger notika_1_insert on app.users; alter table app.users disable trigger notika_1_delete`);
    expect(await db.query(call)).toEqual([{ said: "changed" }]);
    await db.script(`alter table app.users enable trigger notika_1_delete`);

    expect(await generated(db)).toEqual(before);
  });

  test("lets run what was captured before a workflow or its table is gone", async ({ db }) => {
    await db.script(`${users}
      create table app.orders (id int);
      select notika.publish('gone', 'app.users', columns => '{id}'), notika.publish('orphan', 'app.orders');
      insert into app.users values (1);
      insert into app.orders values (2);`);
    await db.query(`select notika.unpublish('gone')`);
    await db.script(`${noEventTriggers} drop table app.orders cascade`);

    expect(await db.query(`select notika.dispatch() as events`)).toEqual([{ events: 2 }]);

    const run = { state: "ready", held: false };
    expect(
      await db.query(`
        select r.workflow, e.table_name, r.event ->> 'table' as "table", r.state, r.wake_at is not null as held
          from notika.runs as r join notika.event_log as e on e.event_id = r.run_id order by r.run_id`),
    ).toEqual([
      { workflow: "gone", table_name: "app.users", table: "app.users", ...run },
      { workflow: "orphan", table_name: "app.orders", table: "app.orders", ...run },
    ]);
  });

  test("mends a broken workflow and lets its runs go on", async ({ db }) => {
    await db.script(`${users}
      select notika.publish('w', 'app.users');
      update notika.workflow set broken_reason = 'for a test';
      insert into app.users values (1);`);
    await db.query(`select notika.dispatch()`);
    expect(await db.query(`select state from notika.runs`)).toEqual([{ state: "held" }]);

    expect(await db.query(`select notika.publish('w', 'app.users') as said`)).toEqual([{ said: "changed" }]);

    expect(await db.query(`select state, reason from notika.workflows`)).toEqual([
      { state: "published", reason: null },
    ]);
    expect(await db.query(`select state from notika.runs`)).toEqual([{ state: "ready" }]);
  });
});

describe("plan", () => {
  test("does nothing, and its statements are what publish executes", async ({ db }) => {
    const calls = [
      `'w', 'app.users', '{insert,update}', '{id,email}', '{email}', $$new.email <> '%s'$$`,
      `'w', 'app.users', '{insert}', '{id}'`,
      `'w', 'app.users', '{insert}'`,
      `'w', 'app.orders', '{delete}', '{note}'`,
    ];
    await db.script(`${users} create table app.orders (id int primary key, note text);`);

    for (const call of calls) {
      const before = await generated(db);
      const plan = await db.query<{ statement: string; lock: string | null }>(`select * from notika.plan(${call})`);
      expect(await generated(db)).toEqual(before);

      // By hand first, undone, then by publish.
      const byHand = await undone(
        db,
        ...plan.flatMap(({ statement }) =>
          // Its caller grants; the rest is done by Notika's owner.
          /^grant .* to notika;$/.test(statement) ? [statement] : ["set role notika", statement, "reset role"],
        ),
        generated.statement,
      );
      await db.query(`select notika.publish(${call})`);
      expect(await generated(db)).toEqual(byHand);
    }
    expect(await db.query(`select count(*)::int from notika.workflow`)).toEqual([{ count: 1 }]);
  });

  test("names the locks", async ({ db }) => {
    await db.script(`${users}
      create table app.admins () inherits (app.users);
      select notika.publish('w', 'app.users', '{insert,update}', '{id}')`);

    const plan = await db.query<{ statement: string; lock: string | null }>(
      `select statement, lock from notika.plan('w', 'app.users', '{insert}', '{id}')`,
    );

    expect(plan.map(({ statement, lock }) => [statement.split("\n")[0], lock])).toEqual([
      ["drop function notika._capture_1() cascade;", "access exclusive on app.admins, app.users"],
      ["create or replace function notika.payload_1(r app.admins)", "access share on app.admins"],
      ["create or replace function notika.payload_1(r app.users)", "access share on app.users"],
      ["revoke execute on function notika.payload_1(app.admins) from public;", null],
      ["revoke execute on function notika.payload_1(app.users) from public;", null],
      ["create or replace function notika._capture_1()", null],
      ["revoke execute on function notika._capture_1() from public;", null],
      ["create or replace trigger notika_1_insert", "share row exclusive on app.admins"],
      ["create or replace trigger notika_1_insert", "share row exclusive on app.users"],
    ]);
  });
});

describe("unpublish", () => {
  test("takes every trigger and function away; publishing again has the same id", async ({ db }) => {
    await db.script(`${users}
      create table app.admins () inherits (app.users);
      select notika.publish('w', 'app.users', '{insert,update,delete}', '{id}');
      insert into app.users values (1);
      select notika.unpublish('w');
      insert into app.users values (2);`);

    expect(await generatedNames(db)).toEqual([]);
    expect(await db.query(`select * from notika.workflows`)).toEqual([]);

    expect(await db.query(`select notika.publish('w', 'app.users') as said`)).toEqual([{ said: "published" }]);
    expect(await captured(db)).toEqual([{ id: "1" }]);
    expect(await generatedNames(db)).toEqual([
      "notika_1_insert on app.admins",
      "notika_1_insert on app.users",
      "notika._capture_1()",
    ]);
  });

  test("works after the table is gone", async ({ db }) => {
    await db.script(`${users}
      select notika.publish('whole', 'app.users');
      select notika.publish('some', 'app.users', columns => '{id}');
      drop table app.users cascade;
      select notika.unpublish('whole'), notika.unpublish('some');`);

    expect(await generatedNames(db)).toEqual([]);
    await expect(db.query(`select notika.unpublish('some')`)).rejects.toMatchObject({
      code: "42704",
      message: 'workflow "some" is not published',
      hint:
        "Publish it first: select notika.publish('some', '<schema>.<table>'); " +
        "See the published workflows: select workflow from notika.workflows;",
    });
  });
});

describe("pause", () => {
  test("captures but holds the runs, until resume lets them go", async ({ db }) => {
    const states = () => db.query(`select run_id, state from notika.runs order by run_id`);
    await db.script(`${users} select notika.publish('w', 'app.users', columns => '{id}')`);
    await db.script(`insert into app.users values (1)`);
    await db.query(`select notika.dispatch()`);

    await db.query(`select notika.pause('w')`);
    await db.script(`insert into app.users values (2)`);
    await db.query(`select notika.dispatch()`);

    expect(await db.query(`select state from notika.workflows`)).toEqual([{ state: "paused" }]);
    expect(await states()).toEqual([
      { run_id: "1", state: "held" },
      { run_id: "2", state: "held" },
    ]);

    await db.query(`select notika.publish('w', 'app.users', columns => '{id,email}')`);
    expect(await db.query(`select state from notika.workflows`)).toEqual([{ state: "paused" }]);

    await db.query(`select notika.resume('w')`);
    expect(await db.query(`select state from notika.workflows`)).toEqual([{ state: "published" }]);
    expect(await states()).toEqual([
      { run_id: "1", state: "ready" },
      { run_id: "2", state: "ready" },
    ]);
  });

  test("ends with unpublish", async ({ db }) => {
    await db.script(`${users}
      select notika.publish('w', 'app.users');
      select notika.pause('w');
      select notika.unpublish('w');
      select notika.publish('w', 'app.users');`);

    expect(await db.query(`select state from notika.workflows`)).toEqual([{ state: "published" }]);
  });

  test("needs a published workflow, as resume, emit and unpublish do", async ({ db }) => {
    for (const verb of ["pause", "resume", "emit", "unpublish"]) {
      for (const name of [`'nobody'`, "null"]) {
        await expect(db.query(`select notika.${verb}(${name})`)).rejects.toMatchObject({
          code: "42704",
          message: expect.stringMatching(/^workflow "(nobody|<NULL>)" is not published$/),
          hint: expect.stringContaining("Publish it first: select notika.publish("),
        });
      }
    }
  });
});

describe("emit", () => {
  test("adds an event by hand, in the transaction", async ({ db }) => {
    await db.script(`${users} select notika.publish('w', 'app.users', columns => '{id}')`);

    const [emitted] = await db.query<{ id: string }>(
      `select notika.emit('w', '{"id": 7, "big": 12345678901234567890}') as id`,
    );
    await undone(db, `select notika.emit('w')`);
    await db.script(`select notika.emit('w'); select notika.emit('w', null)`);

    expect(
      await db.query(`select event_id, operation, new::text, old, depth, cause_id, truncated from notika.event_log
                       order by event_id`),
    ).toEqual([
      {
        event_id: emitted?.id,
        operation: "emit",
        new: '{"id": 7, "big": 12345678901234567890}',
        old: null,
        depth: 0,
        cause_id: null,
        truncated: false,
      },
      expect.objectContaining({ new: "{}" }),
      expect.objectContaining({ new: null }),
    ]);
  });

  test("counts the runs that wake each other", async ({ db }) => {
    await db.script(`${users} select notika.publish('w', 'app.users')`);

    await inTransaction(db, `set local notika.run = '41/3'`, `select notika.emit('w')`);

    expect(await db.query(`select cause_id, depth from notika.event_log`)).toEqual([{ cause_id: "41", depth: 4 }]);
  });
});
