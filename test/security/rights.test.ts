import { describe, expect } from "vitest";
import { forOwnFunctions, rights } from "./rights.ts";
import { hasTime, kinds, some, test } from "./scene.ts";

/** What the parts do not give. */
const privileges = [
  "select notika.grant_publisher('stranger')",
  "select notika.grant_runner('stranger')",
  "select notika.grant_reader('stranger')",
  "select notika.revoke_reader('readerrole')",
  "select * from notika.install()",
  "select * from notika.uninstall()",
  "select notika.publish('w', 'app.users', columns => '{id}')",
  "select notika.emit('kept', '{}')",
  "select notika.unpublish('kept')",
  "select notika.dispatch()",
  "select * from notika.event_log",
  "select * from notika.run_log",
  "select new from notika.event_log_0",
  "select * from notika_worker._private_jobs",
  "update notika.setting set max_attempts = 1",
  "select nextval('notika.control_seq')",
  "create temp table t (id bigint); create trigger t after insert on t for each row execute function notika._capture_1()",
  "create function notika.mine() returns int language sql as 'select 1'",
];

/** Rights that nobody meant to give, and what gives them. */
const surplus: Record<string, (owner: string) => string> = {
  functions: () =>
    `grant usage on schema notika to stranger; ${forOwnFunctions("grant execute on routine %s to stranger")}`,
  "functions, with the right to grant": () =>
    `grant usage on schema notika to stranger; ${forOwnFunctions("grant execute on routine %s to stranger with grant option")}; set role stranger; grant execute on function notika.dispatch(integer) to friend; reset role`,
  "functions, to everybody": () =>
    `grant usage on schema notika to public; ${forOwnFunctions("grant execute on routine %s to public")}`,
  tables: () =>
    "grant usage on schema notika, notika_worker to stranger; grant all on all tables in schema notika, notika_worker to stranger",
  "tables, with the right to grant": () =>
    "grant usage on schema notika to stranger; grant select on all tables in schema notika to stranger with grant option; set role stranger; grant select on notika.event_log_0 to friend; reset role",
  columns: () =>
    "grant usage on schema notika to stranger; grant select (new, old), insert (new), update (new) on notika.event_log_0 to stranger; grant update (max_attempts) on notika.setting to stranger",
  "columns, to everybody": () =>
    "grant usage on schema notika to public; grant select (new) on notika.event_log_0 to public",
  sequences: () => "grant usage on schema notika to stranger; grant all on all sequences in schema notika to stranger",
  schemas: () => "grant create, usage on schema notika, notika_worker to stranger",
  "more for a reader": () =>
    `${forOwnFunctions("grant execute on routine %s to readerrole")}; grant all on all tables in schema notika to readerrole; grant update (max_attempts) on notika.setting to readerrole`,
};

describe("S9: rights that nobody was given", () => {
  for (const [nth, [name, give]] of Object.entries(surplus).entries()) {
    if (!hasTime(nth)) continue;
    for (const kind of some(nth)) {
      test(`${name}: health shows them, install takes them back (by ${kind})`, async ({ open }) => {
        const scene = await open(kind);
        await scene.as(
          "postgres",
          "create role stranger login; create role friend login; select notika.publish('kept', 'app.users', columns => '{id}')",
        );
        await scene.install();
        const before = await rights(scene);
        await scene.as(
          await scene.owner(),
          give(await scene.owner()).replaceAll(/set role stranger;(.*?);\s*reset role/g, ""),
        );
        for (const [, asStranger] of give("").matchAll(/set role stranger;(.*?);\s*reset role/g)) {
          await scene.as("stranger", asStranger as string);
        }

        const health = await scene.as<{ detail: string }>("postgres", "select detail from notika.health");
        expect(health.map(({ detail }) => detail).join("\n")).toMatch(/stranger|public|readerrole/);

        await scene.install();
        expect(await rights(scene)).toEqual(before);
        for (const sql of privileges) {
          expect({ sql, code: (await scene.attempt("stranger", sql))?.code }).toEqual({ sql, code: "42501" });
        }
      });
    }
  }

  for (const kind of kinds) {
    test(`a right to execute does not make anybody a member of the owner (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as("postgres", "create role stranger login");
      await scene.as(
        await scene.owner(),
        `grant usage on schema notika to stranger; ${forOwnFunctions("grant execute on routine %s to stranger")}`,
      );

      for (const sql of privileges.slice(0, 6)) {
        expect({ sql, code: (await scene.attempt("stranger", sql))?.code }).toEqual({ sql, code: "42501" });
      }
      expect(await scene.as("postgres", "select from pg_namespace where nspname = 'notika'")).toHaveLength(1);
    });

    test(`a member of the owner grants parts (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      const owner = await scene.owner();
      await scene.as("postgres", `create role dba login; grant ${owner} to dba`);

      await scene.as("dba", "select notika.grant_reader('hr')");

      const parts = await scene.as("postgres", "select part from notika.grantee where role_name = 'hr'");
      expect(parts).toEqual([{ part: "reader" }]);
      await scene.as("postgres", `revoke ${owner} from dba`);
    });

    test(`what default privileges give is taken back, from what is published too (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as("postgres", "create role stranger login; grant stranger to readerrole");
      for (const role of new Set([await scene.owner(), "postgres"])) {
        await scene.as(
          role,
          `alter default privileges grant execute on functions to stranger;
           alter default privileges grant all on tables to stranger;
           alter default privileges grant all on sequences to stranger;
           alter default privileges grant usage on schemas to stranger`,
        );
      }
      await scene.as("postgres", "grant usage on schema notika to stranger");
      await scene.as("postgres", "select notika.publish('kept', 'app.users', columns => '{id}')");

      await scene.install();

      const found = (await rights(scene)).filter(({ grantee }) => grantee === "stranger");
      expect(found).toEqual([]);
    });
  }

  test("default privileges are there before Notika is: a reader stays a reader", async ({ bare }) => {
    const scene = await bare();
    await scene.as(
      "postgres",
      `create role app_rw; grant app_rw to readerrole;
       alter default privileges grant execute on functions to app_rw; alter default privileges grant all on tables to app_rw;
       alter default privileges grant usage, create on schemas to app_rw; alter default privileges grant all on sequences to app_rw`,
    );
    await scene.install();
    await scene.as("postgres", "select notika.grant_reader('readerrole')");

    for (const sql of privileges.slice(0, 6)) {
      expect({ sql, code: (await scene.attempt("readerrole", sql.replaceAll("stranger", "hr")))?.code }).toEqual({
        sql,
        code: "42501",
      });
    }
    expect((await rights(scene)).filter(({ grantee }) => grantee === "app_rw")).toEqual([]);
  });
});

describe("S12: what may be a secret reaches nobody but readers", () => {
  for (const kind of kinds) {
    for (const [name, condition] of Object.entries({
      "a cast": "new.ssn::int > 0",
      "a date": "new.ssn::date > '2000-01-01'",
      json: "(new.ssn::json ->> 'x') is not null",
    })) {
      test(`the value in the error of a backfill: ${name} (by ${kind})`, async ({ open }) => {
        const scene = await open(kind);
        await scene.as("postgres", "select notika.publish('w', 'app.users', columns => '{id}')");
        await scene.as("postgres", `select notika.backfill('w', condition => $c$${condition}$c$)`);
        for (let i = 0; i < 3; i++) await scene.attempt("runnerrole", "select notika.dispatch()");
        const seen = async (role: string) =>
          JSON.stringify([
            await scene.as(role, "select * from notika.backfills"),
            await scene.as(role, "select * from notika.health"),
            await scene.as(role, "select * from notika.workflows"),
            scene.heard(),
          ]);

        scene.heard();
        expect(await seen("pub")).not.toContain("078-05");
        expect(await seen("runnerrole")).not.toContain("078-05");
        expect(await seen("appowner").catch(() => "")).not.toContain("078-05");
        const failed = await scene.as("pub", "select state from notika.backfills");
        expect(failed).toEqual([{ state: "failed" }]);
      });
    }
  }

  for (const [name, script] of Object.entries({
    "statements sent together":
      "create role svc login; alter role svc password 'hunter2'; alter table app.users rename column ssn to social; select 'hunter2'",
    "a block": "do $$ begin perform 'hunter2'; alter table app.users rename column ssn to social; end $$",
    "a default": "select 'hunter2'; alter table app.users drop column ssn",
  })) {
    test(`the text of other statements in what the guard has noted: ${name}`, async ({ open }) => {
      const scene = await open("administrator");
      await scene.as("postgres", "select notika.publish('w', 'app.users', columns => '{id,ssn}', guard => 'warn')");

      await scene.as("postgres", script);

      const noted = await scene.as("readerrole", "select * from notika.guard_log");
      expect(noted.length).toBeGreaterThan(0);
      expect(JSON.stringify(noted)).not.toContain("hunter2");
    });
  }
});
