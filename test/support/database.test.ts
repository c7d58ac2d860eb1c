import { describe, expect } from "vitest";
import { engine, test } from "./database.ts";

describe(`a test's database on ${engine}`, () => {
  // Whichever runs second would see what the first has left.
  for (const nth of ["first", "second"]) {
    test(`has Notika installed and nothing else, the ${nth} time`, async ({ db }) => {
      expect(
        await db.query(
          `select (select count(*)::int from pg_class where relnamespace = 'public'::regnamespace) as tables,
                  (select count(*)::int from pg_roles where rolname = $1) as roles,
                  (select count(*)::int from notika.workflow) as workflows`,
          ["visitor"],
        ),
      ).toEqual([{ tables: 0, roles: 0, workflows: 0 }]);

      await db.script(`
        create role visitor;
        create table users (id int primary key, email text);
        grant select on users to visitor;
        select notika.publish('greet', 'public.users');`);
    });
  }

  test("keeps the message, code and hint of an error", async ({ db }) => {
    await expect(db.query("select nonsense(1)")).rejects.toMatchObject({
      code: "42883",
      message: "function nonsense(integer) does not exist",
      hint: expect.stringContaining("No function matches"),
    });
  });

  test.skipIf(engine === "pglite")("has sessions with transactions of their own", async ({ db }) => {
    const [one, two] = await Promise.all([db.connect(), db.connect()]);
    await one.query("begin");
    await one.query("create table secret ()");

    expect(await two.query("select to_regclass('secret') as found")).toEqual([{ found: null }]);

    await one.query("commit");
    expect(await two.query("select to_regclass('secret') as found")).toEqual([{ found: "secret" }]);
  });

  test.runIf(engine === "pglite")("says where a test with two sessions belongs", async ({ db }) => {
    await expect(db.connect()).rejects.toThrow("belongs in test/server");
  });
});
