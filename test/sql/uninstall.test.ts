import { describe, expect } from "vitest";
import { install } from "../../runner/install/install.ts";
import { testBeside as test } from "../support/database.ts";
import { inTransaction } from "./support.ts";

const scene = `
  create schema app;
  create table app.users (id int primary key, email text);
  create table app.admins () inherits (app.users);
  create table app.parted (id int) partition by list (id);
  create table app.parted_1 partition of app.parted for values in (1);
  select notika.publish('w', 'app.users', '{insert,update}', '{id,email}');
  select notika.publish('whole', 'app.parted', '{delete}');
  insert into app.users values (1, 'ada@example.com'), (2, 'bob@example.com');
  select notika.dispatch(1);`;

const trace = `
  select nspname as name from pg_namespace where nspname ~ 'notika'
  union all select tgname from pg_trigger where tgname ~ 'notika'
  union all select evtname from pg_event_trigger
  union all select proname from pg_proc where oid >= 16384`;

describe("uninstall", () => {
  test("leaves nothing, and says before and after what it removes", async ({ db }) => {
    await db.script(scene);
    // On a server, the template of the tests' databases has Notika, too.
    const role =
      db.engine === "pglite"
        ? { outcome: "removed", detail: "made by install" }
        : { outcome: "kept", detail: "another database needs it, or it has other rights" };

    const dryRun = await db.query("select * from notika.uninstall(dry_run => true)");
    const steps = await db.query<{ step: string; outcome: string }>("select * from notika.uninstall()");

    expect(steps).toEqual([
      { step: "runs", outcome: "lost", detail: "2 have not ended and never will" },
      { step: "history", outcome: "removed", detail: "the outcomes of 0 runs" },
      { step: "workflow w", outcome: "removed", detail: "triggers on app.admins, app.users" },
      { step: "workflow whole", outcome: "removed", detail: "triggers on app.parted" },
      { step: "workflow without_table", outcome: "removed", detail: "triggers on nothing" },
      { step: "event trigger notika_guard_drop", outcome: "removed", detail: "on sql_drop" },
      { step: "event trigger notika_guard_end", outcome: "removed", detail: "on ddl_command_end" },
      { step: "event trigger notika_guard_start", outcome: "removed", detail: "on ddl_command_start" },
      { step: "schema notika_worker", outcome: "removed", detail: expect.stringMatching(/^\d+ tables and views$/) },
      { step: "schema notika", outcome: "removed", detail: expect.stringMatching(/^\d+ tables and views$/) },
      ...["app.admins", "app.parted", "app.parted_1", "app.users"].map((table) => ({
        step: "right",
        outcome: "removed",
        detail: `revoke select, trigger on ${table} from notika;`,
      })),
      { step: "right", outcome: "removed", detail: "revoke usage on schema app from notika;" },
      ...["role notika_guard", "role notika"].map((step) => ({ step, ...role })),
    ]);
    expect(dryRun).toEqual(
      steps.map((row) => ({ ...row, outcome: row.outcome.replace(/^removed$/, "would be removed") })),
    );
    expect(await db.query(trace)).toEqual([]);
    await db.script(
      "insert into app.users values (3); alter table app.users drop column email; drop schema app cascade",
    );
  });

  test("does not go ahead while a runner is alive, unless it is forced", async ({ db }) => {
    await db.script(`${scene}
      select notika._beat('x', 'shop-1', 42, '{w}');
      select notika._beat('y', 'shop-2', 43, '{w}');
      update notika.runner set seen_at = seen_at - interval '61 seconds' where runner_id = 'y'`);

    await expect(db.query("select * from notika.uninstall()")).rejects.toMatchObject({
      code: "55006",
      message: "cannot uninstall notika: runner 42 on shop-1 (alive, heard of 0 seconds ago)",
      detail: "A runner that has stopped is forgotten immediately, one that died is forgotten within a minute.",
      hint: expect.stringContaining("select * from notika.uninstall(force => true);"),
    });
    expect(await db.query("select * from notika.uninstall(dry_run => true) limit 1")).toEqual([
      { step: "runner 42 on shop-1", outcome: "in the way", detail: "alive, heard of 0 seconds ago" },
    ]);
    expect(await db.query("select count(*)::int from notika.workflows")).toEqual([{ count: 3 }]);

    expect(await db.query("select * from notika.uninstall(force => true) limit 1")).toMatchObject([
      { step: "runner 42 on shop-1", outcome: "overridden" },
    ]);
    expect(await db.query(trace)).toEqual([]);
  });

  test("does not take along what others have built on it, unless it is forced", async ({ db }) => {
    await db.script(`${scene}
      create view app.my_runs as select run_id, state from notika.runs;
      create table app.notes (run_id bigint, mood notika.setting);
      create function app.retry() returns void language sql begin atomic select notika.retry(1); end;
      create function app.late() returns bigint language sql as 'select events_waiting from notika.lag'`);

    await expect(db.query("select * from notika.uninstall()")).rejects.toMatchObject({
      code: "55006",
      message:
        "cannot uninstall notika: function app.retry() (depends on Notika and would be dropped along); " +
        "table app.notes (depends on Notika and would be dropped along); " +
        "view app.my_runs (depends on Notika and would be dropped along)",
    });

    await db.query("select * from notika.uninstall(force => true)");
    expect(await db.query("select to_regclass('app.my_runs')::text as view")).toEqual([{ view: null }]);
  });

  test("may follow DDL on published tables in the same transaction, and be rolled back", async ({ db }) => {
    await db.script(scene);

    await expect(
      inTransaction(
        db,
        "alter table app.users add column name text",
        "select notika.uninstall()",
        "insert into app.users values (3)",
        "select 1/0",
      ),
    ).rejects.toMatchObject({ code: "22012" });
    await db.query("insert into app.users values (4)");
    expect(await db.query("select count(*)::int from notika.event_log")).toEqual([{ count: 3 }]);

    await inTransaction(db, "alter table app.users add column name text", "select notika.uninstall()");
    expect(await db.query(trace)).toEqual([]);
  });

  test("gives up after half a second where a table is locked, and has removed nothing", async ({ db, skip }) => {
    if (db.engine === "pglite") skip("it takes two sessions");
    await db.script(scene);
    const other = await db.connect();
    await other.query("begin");
    await other.query("insert into app.parted values (1)");

    const start = performance.now();
    const error = await db.query("select notika.uninstall()").catch((error) => error);

    expect(performance.now() - start).toBeLessThan(2000);
    expect(error).toMatchObject({
      code: "55P03",
      message: "cannot uninstall notika: app.parted is locked",
      detail: expect.stringContaining("Nothing was removed."),
    });
    const [holder] = await db.query(/select pid.*;/.exec(error.hint)?.[0] ?? "");
    expect(holder).toMatchObject({ mode: "RowExclusiveLock", relation: "app.parted" });
    await other.query("commit");
    expect(await db.query("select count(*)::int from notika.workflows")).toEqual([{ count: 3 }]);

    await other.query("begin");
    await other.query("select from notika.run_log");
    await expect(db.query("select notika.uninstall()")).rejects.toMatchObject({
      code: "55P03",
      message: "cannot uninstall notika: notika is locked",
    });
    await other.query("rollback");
    await db.query("select notika.uninstall()");
    expect(await db.query(trace)).toEqual([]);
  });

  test("leaves nothing where workflows are broken, paused, or their tables gone", async ({ db }) => {
    await db.script(`${scene}
      select notika.publish('broken', 'app.users', columns => '{email}', guard => 'warn');
      select notika.publish('gone', 'app.admins', guard => 'warn');
      select notika.pause('w');
      drop table app.admins;
      select notika.unpublish('w');
      alter table app.users drop column email cascade`);

    await db.query("select * from notika.uninstall()");

    expect(await db.query(trace)).toEqual([]);
  });

  test("can be followed by another install", async ({ db }) => {
    await db.script(scene);
    await db.query("select * from notika.uninstall()");

    await install(db.database);

    await db.script("select notika.publish('w', 'app.users'); insert into app.users values (9)");
    expect(await db.query("select count(*)::int from notika.event_log")).toEqual([{ count: 1 }]);
  });
});
