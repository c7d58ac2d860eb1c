import { raw } from "sql-template-tag";
import { describe, expect, test } from "vitest";
import { type GrantOptions, grant } from "../../runner/install/grant.ts";
import { install } from "../../runner/install/install.ts";
import { openEmpty } from "../migrations/empty.ts";

const application = `
  create role app_owner;
  create schema app authorization app_owner;
  create schema archive;
  set role app_owner;
  create table app.users (id int primary key);
  create table app.admins () inherits (app.users);
  create table app.notes (id int);
  alter table app.notes enable row level security;
  create view app.people as select * from app.users;
  reset role;
  create table app.events (id int) partition by list (id);
  create table archive.events_1 partition of app.events for values in (1);`;

async function openApplication(more = "") {
  const database = await openEmpty();
  await database.script(application + more);
  const statements = async (options: GrantOptions) =>
    (await grant(database, options)).map(({ statement }) => statement);
  return { database, statements, [Symbol.asyncDispose]: () => database[Symbol.asyncDispose]() };
}

describe("grant", () => {
  test("of some tables is for them, their partitions and children, and for nothing that comes later", async () => {
    await using app = await openApplication("create role notika; grant usage on schema app to public");

    expect(await app.statements({ role: "notika", schemas: ["app"], tables: ["users", "app.events"] })).toEqual([
      "alter role notika login",
      "create schema notika authorization notika",
      "create schema notika_worker authorization notika",
      "grant select, trigger on app.admins to notika",
      "grant select, trigger on app.events to notika",
      "grant select, trigger on app.users to notika",
      "grant select, trigger on archive.events_1 to notika",
    ]);
  });

  test("of a schema is for the tables that any of its makers will make, too, and opens rows where they are closed", async () => {
    await using app = await openApplication();

    expect((await app.statements({ role: "My Role", schemas: ["app"] })).slice(4)).toEqual([
      'grant usage on schema app to "My Role"',
      'grant select, trigger on app.admins to "My Role"',
      'grant select, trigger on app.events to "My Role"',
      'grant select, trigger on app.notes to "My Role"',
      'grant select, trigger on app.users to "My Role"',
      'grant select, trigger on archive.events_1 to "My Role"',
      'create policy notika on app.notes for select to "My Role" using (true)',
      'alter default privileges for role app_owner in schema app grant select, trigger on tables to "My Role"',
      'alter default privileges for role postgres in schema app grant select, trigger on tables to "My Role"',
    ]);
  });

  test("names only what is missing, and nothing twice", async () => {
    await using app = await openApplication(`
      create role team; grant select, trigger on all tables in schema app, archive to team;
      create policy open on app.notes for select to team using (true);
      create role notika login in role team;
      create schema notika authorization notika; create schema notika_worker`);
    const options = { role: "notika", tables: ["app.users", "app.notes", "app.events"] };

    expect(await app.statements({ ...options, apply: true })).toEqual([
      "alter schema notika_worker owner to notika",
      "grant usage on schema app to notika",
    ]);
    expect(await app.statements(options)).toEqual([]);
  });

  test("is rights on tables for the owner that an administrator's installation made, which stays without a login", async () => {
    await using app = await openApplication();
    await install(app.database);

    expect(await app.statements({ role: "notika", tables: ["app.notes"], apply: true })).toEqual([
      "grant usage on schema app to notika",
      "grant select, trigger on app.notes to notika",
      "create policy notika on app.notes for select to notika using (true)",
    ]);
    expect(await app.statements({ role: "notika", tables: ["app.notes"] })).toEqual([]);
  });

  test("is nothing for a superuser but the schemas", async () => {
    await using app = await openApplication();

    expect(await app.statements({ role: "postgres", schemas: ["app"] })).toEqual([
      "create schema notika authorization postgres",
      "create schema notika_worker authorization postgres",
    ]);
  });

  test("can be applied and taken back, as a whole or for some tables", async () => {
    await using app = await openApplication();
    const role = 'o"dd';
    const options = { role, schemas: ["app"] };
    const rights = () =>
      app.database.execute(
        raw(`select relname, a::text from pg_class, unnest(relacl) as a where a::text ~ 'o"+dd' order by 1
             `),
      );

    await app.statements({ ...options, apply: true });
    expect(await app.statements(options)).toEqual([]);
    expect(await rights()).toHaveLength(5);
    expect(await app.statements({ role, tables: ["app.users", "app.notes"], revoke: true, apply: true })).toEqual([
      "drop policy notika on app.notes",
      'revoke select, trigger on app.admins from "o""dd"',
      'revoke select, trigger on app.notes from "o""dd"',
      'revoke select, trigger on app.users from "o""dd"',
    ]);
    expect(await rights()).toHaveLength(2);
    await app.statements({ role, revoke: true, apply: true });

    expect(await rights()).toEqual([]);
    expect(
      await app.database.execute(
        raw(`
        select rolname from pg_roles where rolname ~ 'odd'
        union all select nspname from pg_namespace where nspname ~ 'notika'
        union all select polname from pg_policy
        union all select defaclacl::text from pg_default_acl`),
      ),
    ).toEqual([]);
  });

  test("does not drop a role that it did not make, nor what else the role may do", async () => {
    await using app = await openApplication("create role notika login; grant insert on app.users to notika");
    await app.statements({ role: "notika", schemas: ["app"], apply: true });

    const statements = await app.statements({ role: "notika", revoke: true, apply: true });

    expect(statements.filter((statement) => /drop|insert/.test(statement))).toEqual([
      "drop policy notika on app.notes",
      "drop schema notika",
      "drop schema notika_worker",
    ]);
    expect(
      await app.database.execute(raw("select has_table_privilege('notika', 'app.users', 'insert') as may")),
    ).toEqual([{ may: true }]);
  });

  test("leaves no functions behind, installed or not", async () => {
    await using app = await openApplication();

    await app.statements({ role: "notika", schemas: ["app"], apply: true });

    expect(await app.database.execute(raw("select proname from pg_proc where oid >= 16384"))).toEqual([]);
  });

  test.each([
    [
      { schemas: ["shop"] },
      "3F000",
      'schema "shop" does not exist',
      "The schemas of this database: app, archive, public.",
    ],
    [
      { schemas: ["pg_catalog"] },
      "3F000",
      'schema "pg_catalog" has no tables of an application',
      "Name the schema whose tables are to be published.",
    ],
    [
      { tables: ["app.user"] },
      "42P01",
      'table "app.user" does not exist',
      "Write schema.table, or name one schema and tables of it.",
    ],
    [
      { tables: ["users"] },
      "42P01",
      'table "users" does not exist',
      "Write schema.table, or name one schema and tables of it.",
    ],
    [
      { tables: ["app.people"] },
      "42P01",
      'table "app.people" does not exist',
      "Write schema.table, or name one schema and tables of it.",
    ],
    [
      { tables: ['"'] },
      "42P01",
      'table """ does not exist',
      "Write schema.table, or name one schema and tables of it.",
    ],
    [{ revoke: true }, "42704", 'role "nobody" does not exist', "There is nothing to revoke."],
  ])("refuses %o", async (options, code, message, hint) => {
    await using app = await openApplication();

    await expect(grant(app.database, { role: "nobody", ...options })).rejects.toMatchObject({ code, message, hint });
  });

  test("says whose Notika it is that is installed, and does not take the rights of an installed one", async () => {
    await using app = await openApplication("create role other");
    await app.statements({ role: "notika", schemas: ["app"], apply: true });
    await app.database.script("set role notika");
    await install(app.database);
    await app.database.script("reset role");

    expect(await app.statements({ role: "notika", schemas: ["app"] })).toEqual([]);
    await expect(grant(app.database, { role: "other" })).rejects.toMatchObject({
      code: "55000",
      message: "notika is installed already, for role notika",
      detail: "The rights are for the owner of its schemas.",
      hint: "Name notika. For other as a further login that runs workflows: select notika.grant_runner('other');",
    });
    await expect(grant(app.database, { role: "notika", revoke: true })).rejects.toMatchObject({
      code: "NOTIKA_INSTALLED",
      message: "role notika owns an installed notika",
      hint: "First: notika uninstall. To take back some tables only, name them: --tables app.users",
    });
  });
});
