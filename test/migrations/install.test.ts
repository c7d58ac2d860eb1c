import { runMigrations } from "graphile-worker";
import sql from "sql-template-tag";
import { describe, expect, test } from "vitest";
import type { Database } from "../../runner/database/database.ts";
import { installScript, installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { committedMigrations } from "../../runner/install/migrations.ts";
import { workflowWithoutTable } from "../support/database.ts";
import { catalog } from "./catalog.ts";
import { openEmpty, openInstalled } from "./empty.ts";

const committed = await committedMigrations();
const names = committed.map(({ name }) => name);

describe("install", () => {
  test("applies every migration once", async () => {
    await using database = await openEmpty();

    const first = await install(database);
    await database.script(workflowWithoutTable);
    const before = await everything(database);
    const second = await install(database);

    expect(first.applied).toEqual(names);
    expect(second.applied).toEqual([]);
    expect(await everything(database)).toEqual(before);
    expect(await database.execute(sql`select name, hash from notika.migration order by name`)).toEqual([
      ...committed.map(({ name, hash }) => ({ name, hash })),
      { name: "code", hash: expect.stringMatching(/^[0-9a-f]{64}$/) },
    ]);
  });

  test("says what notika.install() did", async () => {
    await using database = await openEmpty();

    const { steps } = await install(database);

    expect(steps.length).toBeGreaterThan(0);
    for (const step of steps) expect(Object.keys(step)).toEqual(["step", "outcome", "detail"]);
  });

  test("works for a role that may not create schemas, in schemas that were made for it", async () => {
    await using database = await openEmpty();
    await database.script(`
      create role app_owner;
      create schema notika authorization app_owner;
      create schema notika_worker authorization app_owner;
      set role app_owner`);

    await install(database);

    expect(
      await database.execute(sql`
        select distinct nspname, relowner::regrole::text as owner
          from pg_class
          join pg_namespace on pg_namespace.oid = relnamespace
         where nspname in ('notika', 'notika_worker')
         order by nspname`),
    ).toEqual([
      { nspname: "notika", owner: "app_owner" },
      { nspname: "notika_worker", owner: "app_owner" },
    ]);
  });

  test("says which schemas to make when the role may not create them", async () => {
    await using database = await openEmpty();
    await database.script("create role app_owner; set role app_owner");

    await expect(install(database)).rejects.toMatchObject({
      code: "42501",
      hint: expect.stringContaining("create schema notika authorization app_owner"),
    });
  });

  test("says what to do where somebody has deleted the settings", async () => {
    await using database = await openInstalled();
    await database.script("create table public.item (id int); select notika.publish('watch_item', 'public.item')");
    await database.script("delete from notika.setting");

    const refusal = await install(database).catch((error) => error);

    expect(refusal).toMatchObject({
      code: "55000",
      message: "the settings of Notika are missing",
      hint: "Restore them: insert into notika.setting default values;",
    });
    await database.script(refusal.hint.replace("Restore them: ", ""));
    await install(database);
  });

  test("refuses a database that a newer Notika was installed in", async () => {
    await using database = await openInstalled();
    await database.execute(sql`insert into notika.migration (name, hash) values ('999999', 'future')`);

    await expect(install(database)).rejects.toMatchObject({
      name: "NotikaError",
      code: "NOTIKA_NEWER_INSTALLED",
      message: 'the database has migration "999999", which this version of Notika does not know',
      hint: expect.stringContaining("use that version"),
    });
  });

  test("refuses a database with a newer, breaking revision of graphile-worker", async () => {
    await using database = await openInstalled();
    await database.execute(sql`insert into notika_worker.migrations (id, breaking) values (1000, true)`);

    await expect(install(database)).rejects.toMatchObject({ code: "NOTIKA_NEWER_INSTALLED" });
  });

  test.skipIf(committed.length === 0)("refuses a database whose migrations were others", async () => {
    await using database = await openInstalled();
    await database.execute(sql`update notika.migration set hash = 'edited' where name = ${names[0]}`);

    await expect(install(database)).rejects.toMatchObject({
      name: "NotikaError",
      code: "NOTIKA_MIGRATION_CHANGED",
      message: `migration "${names[0]}" is not the one that was applied to the database`,
      hint: expect.stringContaining("unmodified"),
    });
  });

  test("leaves nothing behind when it fails", async () => {
    await using database = await openEmpty();
    await database.script("create schema notika; create view notika.setting as select 1 as odd");

    await expect(install(database)).rejects.toThrow("setting");

    expect(await database.execute(sql`select to_regnamespace('notika_worker') as worker`)).toEqual([{ worker: null }]);
  });

  test("does not stop the graphile-workers that the database already has", async () => {
    await using database = await openEmpty();
    const heard: string[] = [];
    await database.listen({ channels: { "worker:migrate": (payload) => heard.push(payload) } }).known;

    await install(database);
    await database.execute(sql`select pg_notify('worker:migrate', 'the end')`);

    await expect.poll(() => heard).toEqual(["the end"]);
  });
});

describe("the install script", () => {
  test("gives the database that install gives", async () => {
    await using installed = await openEmpty();
    await using scripted = await openEmpty();

    await install(installed);
    await scripted.pool.query(await installScript());

    expect(await catalog(scripted.execute)).toEqual(await catalog(installed.execute));
  });

  test("leaves nothing to do for install and for graphile-worker", async () => {
    await using database = await openEmpty();
    await database.pool.query(await installScript());
    const before = await everything(database);

    const { applied } = await install(database);
    await runMigrations({ pgPool: database.pool, schema: "notika_worker" });

    expect(applied).toEqual([]);
    expect(await everything(database)).toEqual(before);
  });

  test("is for a database without Notika, and says what prints an upgrade", async () => {
    await using database = await openInstalled();
    const before = await everything(database);

    await expect(database.pool.query(await installScript())).rejects.toMatchObject({
      code: "55000",
      message: "notika is installed in this database already",
      hint: expect.stringContaining("npx notika sql --from 0.1.0"),
    });

    await database.script("rollback");
    expect(await everything(database)).toEqual(before);
  });

  test("goes into no schema that has something in it already", async () => {
    await using database = await openEmpty();
    await database.script("create schema notika; create function notika.trap() returns int return 1");

    await expect(database.pool.query(await installScript())).rejects.toThrow("there is notika.trap()");
  });

  test("is plain SQL: statements, none of them the text of another", async () => {
    const script = await installScript();

    expect(script.split("\n").filter((line) => line.startsWith("\\"))).toEqual([]);
    expect(script).not.toContain("_as_owner");
    expect(script.match(/^create or replace function notika\.version\(\)/gm)).toHaveLength(1);
  });
});

test("the version of an install stays until what is installed changes", async () => {
  expect(await installVersion()).toMatch(/^[0-9a-f]{64}$/);
  expect(await installVersion()).toBe(await installVersion());
});

/** The catalog and both ledgers, with their times. */
async function everything({ execute }: Database) {
  return {
    catalog: await catalog(execute),
    migrations: await execute(sql`select name, applied_at::text from notika.migration order by name`),
    workerMigrations: await execute(sql`select id, ts::text, breaking from notika_worker.migrations order by id`),
  };
}
