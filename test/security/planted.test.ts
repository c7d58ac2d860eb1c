import { describe, expect } from "vitest";
import { hasTime, kinds, type Scene, test } from "./scene.ts";

const asInstalled = "nologin nosuperuser nocreaterole nocreatedb nobypassrls noreplication";

/** What somebody has put where Notika will be, and what install has to name. */
const schemas: Record<string, { plant: string; name: RegExp }> = {
  "the schema is somebody's": { plant: "create schema notika authorization dbowner", name: /notika/ },
  "the other schema is somebody's": {
    plant: "create schema notika_worker authorization dbowner",
    name: /notika_worker/,
  },
  "both are somebody's": {
    plant: "create schema notika authorization dbowner; create schema notika_worker authorization dbowner",
    name: /notika/,
  },
  "somebody may create in it": {
    plant:
      "create schema notika; grant usage, create on schema notika to dbowner; set role dbowner; create function notika._wake() returns void language sql as 'select'; reset role",
    name: /_wake|notika/,
  },
  "a table of somebody's is in it": {
    plant:
      "create schema notika; grant usage, create on schema notika to dbowner; set role dbowner; create table notika.workflow (name text); reset role; revoke all on schema notika from dbowner",
    name: /workflow|notika/,
  },
  "a type of somebody's is in it": {
    plant:
      "create schema notika; grant usage, create on schema notika to dbowner; set role dbowner; create domain notika.d as text check (canary.note()); reset role; revoke all on schema notika from dbowner",
    name: /notika/,
  },
  "an operator of somebody's is in it": {
    plant:
      "create schema notika_worker; grant usage, create on schema notika_worker to dbowner; set role dbowner; create function notika_worker.f(text, text) returns boolean language sql as 'select true'; create operator notika_worker.= (function = notika_worker.f, leftarg = text, rightarg = text); reset role; revoke all on schema notika_worker from dbowner",
    name: /notika_worker/,
  },
  "a ledger of somebody's is in it": {
    plant:
      "create schema notika_worker; grant usage, create on schema notika_worker to dbowner; set role dbowner; create table notika_worker.migrations (id int primary key, ts timestamptz default now(), breaking boolean default false); create function notika_worker.t() returns trigger language plpgsql as 'begin perform canary.note(); return new; end'; create trigger t before insert on notika_worker.migrations for each row execute function notika_worker.t(); reset role; revoke all on schema notika_worker from dbowner",
    name: /migrations|notika_worker/,
  },
};

describe("S8: a schema that somebody has planted is not taken", () => {
  for (const [name, { plant, name: named }] of Object.entries(schemas)) {
    test(name, async ({ bare }) => {
      const scene = await bare();
      await scene.as("postgres", plant);

      await expect(scene.install()).rejects.toThrow(named);

      expect(await scene.as("postgres", "select to_regprocedure('notika.install()') as found")).toEqual([
        { found: null },
      ]);
      expect((await scene.noted()).filter((role) => role !== "dbowner")).toEqual([]);
    });
  }
});

/** What a role of Notika's name must not be or have. */
const hostile: Record<string, (role: string) => string> = {
  "may log in": (role) => `alter role ${role} login`,
  "is a superuser": (role) => `alter role ${role} superuser`,
  "may make roles": (role) => `alter role ${role} createrole`,
  "may make databases": (role) => `alter role ${role} createdb`,
  "passes row security": (role) => `alter role ${role} bypassrls`,
  "may replicate": (role) => `alter role ${role} replication`,
  "has a member": (role) => `grant ${role} to dbowner`,
  "has a member that grants": (role) => `grant ${role} to dbowner with admin option`,
  "is a member of a predefined role": (role) => `grant pg_read_server_files to ${role}`,
  "is a member of an administrator": (role) => `grant postgres to ${role}`,
  "is a member of a role": (role) => `grant dbowner to ${role}`,
  "owns a table": (role) => `create table public.t (); alter table public.t owner to ${role}`,
  "owns a function": (role) =>
    `create function public.f() returns int language sql as 'select 1'; alter function public.f() owner to ${role}`,
  "owns a schema": (role) => `create schema s authorization ${role}`,
  "owns the database": (role) =>
    `do $$ begin execute format('alter database %I owner to ${role}', current_database()); end $$`,
  "has default privileges": (role) => `alter default privileges for role ${role} grant execute on functions to dbowner`,
};

const dangerous = [
  ...["is a superuser", "may make roles", "may make databases", "passes row security", "may replicate"],
  ...["is a member of a predefined role", "is a member of an administrator"],
];

describe("S8: a role that somebody has planted is not taken", () => {
  for (const role of ["notika", "notika_guard"]) {
    for (const [nth, [name, make]] of Object.entries(hostile).entries()) {
      if (!hasTime(role === "notika" ? nth : nth + 1)) continue;
      // The owner may be in a role of the application; the guard's role is in none.
      if (role === "notika" && name === "is a member of a role") continue;
      test(`${role} ${name}`, async ({ bare }) => {
        const scene = await bare();
        await scene.as("postgres", `create role ${role} ${asInstalled}; ${make(role)}`);

        await expect(scene.install()).rejects.toThrow(role);

        expect(await scene.as("postgres", "select to_regprocedure('notika.install()') as found")).toEqual([
          { found: null },
        ]);
        await scene.as(
          "postgres",
          `do $$ begin execute format('alter database %I owner to postgres', current_database()); end $$`,
        );
      });
    }
  }

  test("but those that are as they have to be are", async ({ bare }) => {
    const scene = await bare();
    await scene.as("postgres", `create role notika ${asInstalled}; create role notika_guard ${asInstalled}`);

    await scene.install();

    await expectOrdinaryOwner(scene);
  });

  test("what an administrator installs belongs to a role without rights", async ({ bare }) => {
    const scene = await bare();

    await scene.install();

    await expectOrdinaryOwner(scene);
    await scene.install(); // and again
    await expectOrdinaryOwner(scene);
  });

  for (const [nth, name] of dangerous.entries()) {
    if (!hasTime(nth)) continue;
    test(`health or the next install say if the owner ${name} later`, async ({ bare }) => {
      const scene = await bare();
      await scene.install();
      await expectOrdinaryOwner(scene);
      const health = async () =>
        JSON.stringify(await scene.as("postgres", "select * from notika.health where severity <> 'ok'"));
      const before = await health();
      await scene.as("postgres", hostile[name]?.("notika") as string);

      const after = await health();
      const refusal = await scene.install().then(
        () => "",
        (error) => error.message,
      );
      expect({ health: after, refusal }).not.toEqual({ health: before, refusal: "" });
    });
  }

  async function expectOrdinaryOwner(scene: Scene) {
    expect(
      await scene.as(
        "postgres",
        `select nspowner::regrole::text as owner, rolsuper, rolcanlogin, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication
           from pg_namespace join pg_roles as r on r.oid = nspowner
          where nspname in ('notika', 'notika_worker') group by 1, 2, 3, 4, 5, 6, 7`,
      ),
    ).toEqual([
      {
        owner: "notika",
        ...{ rolsuper: false, rolcanlogin: false, rolcreaterole: false },
        ...{ rolcreatedb: false, rolbypassrls: false, rolreplication: false },
      },
    ]);
  }
});

describe("S8: who may create in the database has nothing of Notika afterwards", () => {
  for (const kind of kinds) {
    test(`nor has its owner (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as(
        "postgres",
        "do $$ begin execute format('alter database %I owner to dbowner', current_database()); end $$",
      );

      for (const sql of [
        "drop schema notika cascade",
        "alter schema notika rename to x",
        "create function notika._wake() returns void language sql as 'select'",
        "drop function notika._wake()",
        "create or replace function notika._wake() returns void language sql as 'select'",
        "create table notika.t ()",
        "alter table notika.workflow add column x int",
      ]) {
        expect({ sql, code: (await scene.attempt("dbowner", sql))?.code }).toEqual({ sql, code: "42501" });
      }
    });
  }
});
