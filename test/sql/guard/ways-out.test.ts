import { describe, expect } from "vitest";
import { type TestDatabase, testBeside as test } from "../../support/database.ts";
import { asRole, captured, grantedLater, inTransaction } from "../support.ts";
import { giveToKeeper } from "./matrix.ts";

const users = `
  create schema app;
  create table app.users (id int, email varchar(50));
  select notika.publish('w', 'app.users', columns => '{id,email}');`;
const drop = "alter table app.users drop column email";

const log = ({ query }: TestDatabase) =>
  query(`select workflow, verdict, kind, object, reason, statement, done_by = session_user as mine
           from notika.guard_log order by guard_log_id`);
const state = async ({ query }: TestDatabase) =>
  (await query("select state, reason from notika.workflows where workflow = 'w'"))[0];

describe("a refusal", () => {
  test("names workflow, table, column and statement, and the ways out", async ({ db }) => {
    await db.script(users);

    await expect(db.query(drop)).rejects.toMatchObject({
      code: "NK001",
      message: `cannot drop column "email" of table app.users because Notika's workflow "w" uses it`,
      detail: `Workflow "w" is published on app.users for insert with the columns id, email.\nStatement: ${drop}`,
      hint:
        "In the same transaction publish the workflow again, or run: select notika.unpublish('w'); or: " +
        "select notika.allow_breaking_change('w', '<reason>'); A tool that commits each statement has committed those " +
        "before this one: undo them, and before the next try run: select notika.begin_maintenance('<reason>');",
      table: "app.users",
      column: "email",
    });
    expect(await log(db)).toEqual([]);
  });

  test("speaks of no columns when the events carry the whole row", async ({ db }) => {
    await db.script(`create schema app;
      create table app.users (id int, email text);
      select notika.publish('w', 'app.users', operations => '{update}', watch => '{email}')`);

    await expect(db.query(drop)).rejects.toMatchObject({
      detail: `Workflow "w" is published on app.users for update.\nStatement: ${drop}`,
    });
  });

  test("comes early when constraints are made immediate", async ({ db }) => {
    await db.script(users);

    await expect(inTransaction(db, drop, "set constraints all immediate", "select 'never'")).rejects.toMatchObject({
      code: "NK001",
    });
    await expect(inTransaction(db, "set constraints all immediate", drop, "select 'never'")).rejects.toMatchObject({
      code: "NK001",
    });
    await inTransaction(
      db,
      "alter table app.users drop column email",
      "alter table app.users add column email varchar(50)",
      "set constraints all immediate",
      "alter table app.users add column more int",
      "set constraints all deferred",
      "alter table app.users drop column email",
      "alter table app.users add column email varchar(50)",
    );
    expect(await state(db)).toEqual({ state: "published", reason: null });
  });

  test("is about the workflow that blocks, when another one on the table only warns", async ({ db }) => {
    await db.script(`${users} select notika.publish('a', 'app.users', columns => '{email}', guard => 'warn')`);

    await expect(db.query(drop)).rejects.toMatchObject({ message: expect.stringContaining('workflow "w"') });

    await db.query("select notika.unpublish('w')");
    await db.query(drop);
    expect(await db.query("select workflow, state from notika.workflows where table_name is not null")).toEqual([
      { workflow: "a", state: "broken" },
    ]);
  });

  test("is not escaped by a setting", async ({ db }) => {
    await db.script(users);

    for (const name of ["guard", "command", "mute", "run", "known", "maintenance"]) {
      for (const value of ["off", "on", "2999-01-01 #7"]) {
        await expect(inTransaction(db, `set local notika.${name} = '${value}'`, drop)).rejects.toMatchObject({
          code: "NK001",
        });
      }
    }
  });
});

describe("allow_breaking_change", () => {
  test("lets this transaction break the workflow, on record", async ({ db }) => {
    await db.script(users);

    const allow = "select notika.allow_breaking_change('w', 'ticket 7: nobody reads it')";
    await inTransaction(db, allow, drop);
    await db.query("insert into app.users values (1)");

    expect(await state(db)).toEqual({ state: "broken", reason: "column dropped: app.users.email" });
    expect(await log(db)).toEqual([
      {
        workflow: "w",
        verdict: "allowed",
        kind: null,
        object: null,
        reason: "ticket 7: nobody reads it",
        statement: allow,
        mine: true,
      },
      {
        workflow: "w",
        verdict: "allowed",
        kind: "column_dropped",
        object: "app.users.email",
        reason: null,
        statement: drop,
        mine: true,
      },
    ]);
    expect(await captured(db)).toEqual([{ id: 1 }]);
    await db.script("select notika.publish('w', 'app.users', columns => '{id}'); insert into app.users values (2)");
    expect(await state(db)).toEqual({ state: "published", reason: null });
    expect(await captured(db)).toEqual([{ id: 1 }, { id: 2 }]);
  });

  test("is for one transaction and one workflow", async ({ db }) => {
    await db.script(`${users} select notika.publish('x', 'app.users', columns => '{email}')`);

    await db.query("select notika.allow_breaking_change('w', 'why not')");
    await expect(db.query(drop)).rejects.toMatchObject({ code: "NK001" });
    await expect(inTransaction(db, "select notika.allow_breaking_change('x', 'why not')", drop)).rejects.toMatchObject({
      message: expect.stringContaining('workflow "w"'),
    });
  });

  for (const call of [
    "notika.allow_breaking_change('w', 'x')",
    "notika.release('w', 'x')",
    "notika.begin_maintenance('x')",
    "notika.end_maintenance()",
  ]) {
    test(`is not for everybody: ${call}`, async ({ db }) => {
      await db.script(`${users}
        create role visitor; select notika.grant_publisher('visitor');`);

      await expect(asRole(db, "visitor", `select ${call}`)).rejects.toMatchObject({
        code: "42501",
        message: expect.stringMatching(/^role "visitor" may not (decide about workflow "w"|(begin|end) maintenance)$/),
        hint: expect.stringMatching(/an administrator run: grant notika to visitor;$/), // not postgres, whose table it is
      });
    });
  }

  test("is for the owner of the table", async ({ db }) => {
    await db.script(`${users}
      create role proprietor; select notika.grant_publisher('proprietor');
      grant usage on schema app to proprietor;
      alter table app.users owner to proprietor;`);

    await asRole(db, "proprietor", "select notika.allow_breaking_change('w', 'mine')", drop);

    expect(await state(db)).toMatchObject({ state: "broken" });
  });

  for (const call of ["allow_breaking_change('w', ' ')", "release('w', null)", "begin_maintenance('')"]) {
    test(`wants a reason: ${call}`, async ({ db }) => {
      await db.script(users);

      await expect(db.query(`select notika.${call}`)).rejects.toMatchObject({
        code: "22023",
        message: "a reason is needed",
        hint: "The reason is kept in notika.guard_log.",
      });
    });
  }

  test("wants a workflow that is published", async ({ db }) => {
    await expect(db.query("select notika.allow_breaking_change('no', 'x')")).rejects.toMatchObject({ code: "42704" });
  });
});

describe("maintenance", () => {
  test("lets tools without transactions pass, and says at the end what they left", async ({ db }) => {
    await db.script(`${users}
      select notika.publish('x', 'app.users', columns => '{id}');
      select notika.begin_maintenance('expand and contract');`);

    await db.query(drop);
    await db.query("drop trigger notika_2_insert on app.users");

    expect(await db.query("select * from notika.end_maintenance()")).toEqual([
      { workflow: "without_table", state: "published", reason: null },
      { workflow: "w", state: "broken", reason: "column dropped: app.users.email" },
      { workflow: "x", state: "published", reason: null },
    ]);
    expect((await log(db)).map(({ workflow, verdict, kind }) => [workflow, verdict, kind])).toEqual([
      [null, "maintenance begun", null],
      ["w", "allowed", "column_dropped"],
      ["x", "allowed", "trigger_dropped"],
      [null, "maintenance ended", null],
      ["x", "repaired", null],
    ]);
    await db.query("insert into app.users values (1)");
    expect(await captured(db, "x")).toEqual([{ id: 1 }]);
    await db.query("select notika.publish('w', 'app.users', columns => '{id}')");
    await expect(db.query("alter table app.users drop column id")).rejects.toMatchObject({ code: "NK001" });
  });

  test("heals what was dropped and comes back in another transaction", async ({ db }) => {
    await db.script(`${grantedLater} ${users} select notika.begin_maintenance('swap');`);

    await db.query("drop table app.users");
    await db.query("create table app.users (email varchar(50), id int)");
    await db.query("select notika.end_maintenance()");

    await db.query("insert into app.users values ('a', 1)");
    expect(await captured(db)).toEqual([{ id: 1, email: "a" }]);
    expect(await state(db)).toEqual({ state: "published", reason: null });
  });

  test("ends by itself", async ({ db }) => {
    await db.script(`${users} select notika.begin_maintenance('short', '1 second'); select pg_sleep(1.1)`);

    await expect(db.query(drop)).rejects.toMatchObject({ code: "NK001" });
  });

  for (const ttl of ["null", "'0'", "'2 days'"]) {
    test(`cannot last ${ttl}`, async ({ db }) => {
      await expect(db.query(`select notika.begin_maintenance('x', ${ttl})`)).rejects.toMatchObject({
        code: "22023",
        message: "ttl must be between a second and a day",
        hint: "For example: select notika.begin_maintenance('<reason>', '15 minutes');",
      });
    });
  }
});

describe("what is broken", () => {
  test("holds its runs with the reason and lets them go when it is published again", async ({ db }) => {
    await db.script(`${users} insert into app.users values (1, 'a')`);
    await db.query("select notika.dispatch()");
    await inTransaction(db, "select notika.allow_breaking_change('w', 'agreed')", drop);
    await db.query("insert into app.users values (2)");
    await db.query("select notika.dispatch()");

    const runs = () => db.query("select state, error from notika.runs order by run_id");
    expect((await runs()).map(({ state }) => state)).toEqual(["held", "held"]);

    await db.query("select notika.publish('w', 'app.users', columns => '{id}')");
    expect((await runs()).map(({ state }) => state)).toEqual(["ready", "ready"]);
  });

  test("is whole again when a migration mends it", async ({ db }) => {
    await db.script(users);
    await inTransaction(db, "select notika.allow_breaking_change('w', 'agreed')", drop);

    await db.query("alter table app.users add column email varchar(50)");

    expect(await state(db)).toEqual({ state: "published", reason: null });
    await db.query("insert into app.users values (1, 'a')");
    expect(await captured(db)).toEqual([{ id: 1, email: "a" }]);
    await expect(db.query(drop)).rejects.toMatchObject({ code: "NK001" });
  });
});

describe("without event triggers", () => {
  const pinned = async (db: TestDatabase, more = "") => {
    await giveToKeeper(db);
    await db.script(`
      create schema app;
      create table app.users (id int, email varchar(50));
      grant usage on schema app to keeper;
      grant select, trigger on app.users to keeper;
      set role keeper;
      select notika.publish('w', 'app.users', columns => '{id,email}' ${more});
      reset role;`);
  };

  test("health says what protects, and why", async ({ db }) => {
    await pinned(db);

    expect(await asRole(db, "keeper", "select outcome, detail from notika.install() where step = 'guard'")).toEqual([
      {
        outcome: "limited",
        detail:
          'role "keeper" may not create event triggers. Without them, columns in use cannot be dropped or ' +
          "retyped without notika.release(workflow, reason). An administrator, who may create roles and event triggers, " +
          "adds them by npx notika install",
      },
    ]);
    expect(await db.query("select severity, detail, remedy from notika.health where finding = 'guard'")).toEqual([
      {
        severity: "warning",
        remedy:
          "As an administrator, who may create roles and event triggers: npx notika install; or select * from notika.install();",
        detail:
          "there are no event triggers: DROP ... CASCADE is not refused, and columns in use need notika.release first",
      },
    ]);
  });

  test("release lets a column be widened and pins it again", async ({ db }) => {
    await pinned(db);
    const widen = "alter table app.users alter email type varchar(100)";

    await expect(db.query(widen)).rejects.toMatchObject({ code: "0A000" });
    await inTransaction(
      db,
      "set constraints all immediate",
      "select notika.release('w', 'longer addresses')",
      widen,
      "insert into app.users values (1, 'in the middle')",
    );

    await db.query("insert into app.users values (2, 'after')");
    expect(await captured(db)).toEqual([
      { id: 1, email: "in the middle" },
      { id: 2, email: "after" },
    ]);
    await expect(db.query(drop)).rejects.toMatchObject({ code: "2BP01" });
    expect((await log(db)).map(({ verdict, reason }) => [verdict, reason])).toEqual([
      ["released", "longer addresses"],
      ["warned", null],
    ]);
  });

  test("release works with deferred events pending on the table", async ({ db }) => {
    await pinned(db);
    await db.query("alter table app.users add constraint one unique (id) deferrable initially deferred");

    await inTransaction(
      db,
      "insert into app.users values (1)",
      "insert into app.users values (2)",
      "select notika.release('w', 'x')",
      "set constraints app.one immediate",
      "alter table app.users alter email type text",
    );

    expect(await state(db)).toEqual({ state: "published", reason: null });
  });

  test("release does not let a column in use go, allow does", async ({ db }) => {
    await pinned(db);

    await expect(inTransaction(db, "select notika.release('w', 'x')", drop)).rejects.toMatchObject({ code: "NK001" });
    await inTransaction(db, "select notika.allow_breaking_change('w', 'x')", drop);

    expect(await state(db)).toEqual({ state: "broken", reason: "column dropped: app.users.email" });
  });

  test("cascade takes pin and trigger, writes go on, check names the cause", async ({ db }) => {
    await pinned(db);
    await db.query("insert into app.users values (1, 'a')");
    await db.query("select notika.dispatch()");

    await db.query("alter table app.users drop column email cascade");
    await db.query("insert into app.users values (2)");

    expect(
      await db.query("select finding, severity, workflow, detail, remedy from notika.check() where workflow = 'w'"),
    ).toContainEqual({
      finding: "column_dropped",
      severity: "error",
      workflow: "w",
      detail: "app.users.email: expected character varying(50), found nothing",
      remedy: "select notika.publish('w', 'app.users', operations => '{insert}', columns => '{id}');",
    });
    expect(await state(db)).toEqual({ state: "broken", reason: "column dropped: app.users.email" });
    expect(await db.query("select state from notika.runs")).toEqual([{ state: "held" }]);
    await db.script("set role keeper; select notika.publish('w', 'app.users', columns => '{id}'); reset role");
    expect(await db.query("select state from notika.runs")).toEqual([{ state: "ready" }]);
    await db.query("insert into app.users values (3)");
    expect(await captured(db)).toEqual([{ id: 1, email: "a" }, { id: 3 }]);
  });

  for (const { title, ddl, more, table = "app.users", finding, detail, remedy } of [
    {
      title: "a table that was swapped",
      ddl: "alter table app.users rename to users_old; create table app.users (email varchar(50), id int)",
      finding: "table_replaced",
      detail:
        "app.users: expected the table that was published, found another table of that name; " +
        "the published one is now app.users_old",
      remedy: "select notika.publish('w', 'app.users', operations => '{insert}', columns => '{id,email}');",
    },
    {
      title: "a table that was made anew without a column",
      ddl: "drop table app.users cascade; create table app.users (id int)",
      finding: "table_replaced",
      detail:
        "app.users: expected the table that was published, found another table of that name; the published one is gone",
      remedy: "select notika.publish('w', 'app.users', operations => '{insert}', columns => '{id}');",
    },
    {
      title: "a table that was renamed against the rule",
      ddl: "alter table app.users rename to people",
      more: ", on_rename => 'block'",
      table: "app.people",
      finding: "table_renamed",
      detail: "app.users: expected app.users, found app.people",
      remedy:
        "select notika.publish('w', 'app.people', operations => '{insert}', columns => '{id,email}', on_rename => 'block');",
    },
    {
      title: "a column that was renamed against the rule",
      ddl: "alter table app.users rename email to mail",
      more: ", on_rename => 'block', condition => $$new.email is null$$",
      finding: "column_renamed",
      detail: "app.users.email: expected email, found mail",
      remedy:
        "select notika.publish('w', 'app.users', operations => '{insert}', columns => '{id,mail}', " +
        "condition => 'new.mail is null', on_rename => 'block');",
    },
    {
      title: "a trigger that was dropped",
      ddl: "drop trigger notika_1_insert on app.users",
      finding: "trigger_dropped",
      detail: "notika_1_insert on app.users: expected enabled, found nothing",
      remedy: "select notika.publish('w', 'app.users', operations => '{insert}', columns => '{id,email}');",
    },
    {
      title: "a trigger that somebody else made",
      ddl: `create or replace trigger notika_1_insert after insert on app.users for each row when (false)
            execute function notika._capture_1()`,
      finding: "trigger_replaced",
      detail:
        "notika_1_insert on app.users: expected as published, found CREATE TRIGGER notika_1_insert AFTER INSERT " +
        "ON app.users FOR EACH ROW WHEN (false) EXECUTE FUNCTION notika._capture_1()",
      remedy: "select * from notika.install();",
    },
  ]) {
    test(`check names the cause and the call that mends it: ${title}`, async ({ db }) => {
      await pinned(db, more);
      for (const statement of ddl.split("; ")) await db.query(statement);
      await db.script("grant select, trigger on all tables in schema app to keeper");

      const found = "select finding, detail, remedy from notika.check() where workflow = 'w' and finding <> 'broken'";
      expect(await db.query(found)).toEqual([{ finding, detail, remedy }]);
      await db.script(`set role keeper; ${remedy} reset role`);

      expect(await db.query("select * from notika.check() where workflow = 'w'")).toEqual([]);
      expect(await state(db)).toEqual({ state: "published", reason: null });
      await db.query(`insert into ${table} (id) values (1)`);
      expect(await captured(db)).toMatchObject([{ id: 1 }]);
    });
  }

  test("a guard that warns refuses nothing: it captures what is left, through drops and renames", async ({ db }) => {
    await pinned(db, ", guard => 'warn', condition => 'new.id > 0'");

    await db.query("insert into app.users values (0, 'no'), (1, 'a')");
    await db.query("alter table app.users rename email to mail");
    await db.query("insert into app.users values (2, 'b')");
    await db.query("alter table app.users alter mail type text");
    await db.query("alter table app.users drop column mail");
    await db.query("insert into app.users values (3), (-1)");

    expect(await captured(db)).toEqual([{ id: 1, email: "a" }, { id: 2, email: "b" }, { id: 3 }]);
    await db.query("select notika.check()");
    expect(await state(db)).toMatchObject({ state: "broken" });
    await db.query("drop table app.users");
  });
});
