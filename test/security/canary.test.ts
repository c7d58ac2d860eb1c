import { describe, expect } from "vitest";
import { plant } from "./attack.ts";
import { casts, kit } from "./canary.ts";
import { literals, tagged, untyped } from "./literals.ts";
import { test } from "./scene.ts";

// What is silent in all other tests speaks here, or its silence would mean nothing.
describe("the canary", () => {
  test("notes the role that it runs as, whatever is rolled back", async ({ open }) => {
    const scene = await open("owner");

    await scene.attempt("pub", "select canary.note(); select 1 / 0");
    expect(await scene.noted()).toEqual(["pub"]);
    expect(scene.heard().join()).toContain("current_user=pub session_user=pub");

    await scene.as("postgres", "create role stranger; set local role stranger; select canary.note()");
    expect(await scene.noted()).toEqual(["other", "postgres"]); // which it came back to
    expect(await scene.noted()).toEqual([]);
  });

  test("does not come back to a role in a function that keeps its owner's rights", async ({ open }) => {
    const scene = await open("owner");
    await scene.as(
      "pub",
      "create function pg_temp.f() returns boolean security definer language sql as 'select canary.note()'",
    );

    await scene.as("postgres", "select pg_temp.f()");

    expect(await scene.noted()).toEqual(["pub"]);
  });

  for (const schema of ["evil", "pg_temp"]) {
    test(`speaks from each literal of a condition, in ${schema}`, async ({ open }) => {
      const scene = await open("owner");
      await plant(scene, "appowner");
      if (schema === "pg_temp") await scene.as("appowner", kit(schema));

      const silent: string[] = [];
      for (const literal of [...literals(schema), ...untyped]) {
        await scene.as("appowner", tagged(schema));
        await scene.noted();
        const error = await scene.attempt("appowner", `select true from app.tagged as new where (${literal})`);
        if (error) silent.push(`${literal}: ${error.message}`);
        else if (!(await scene.noted()).includes("appowner")) silent.push(literal);
        await scene.as("appowner", "drop table app.tagged");
      }
      expect(silent).toEqual([]);
    });
  }

  const statements = {
    "a cast to text": "select ('a'::evil.e)::text",
    "a cast from text": "select ('a'::text)::evil.e",
    "a cast to json": "select to_json('a'::evil.e)",
    "a cast to json in a row": "select row_to_json(x) from (select 'a'::evil.e as y) as x",
    "a cast of an array": "select (array['a'::evil.e])::text[]",
    "an operator": "select 'a' operator(evil.===) 'b'",
    "an operator of a type": "select 'a'::evil.e operator(evil.=) 'a'::evil.e",
    "a record from json": `select json_populate_record(null::evil.cc, '{"y": {"x": 1}}')`,
    "row security": `alter table app.tagged enable row level security; alter table app.tagged force row level security;
      create policy p on app.tagged using (evil.note('x')); insert into app.tagged (id) values (1); select * from app.tagged`,
    "an index that is looked at":
      "create index on app.tagged ((evil.note('x') or id > 0)); explain select * from app.tagged where id = 1",
  };
  test("speaks from all else that is planted", async ({ open }) => {
    const scene = await open("owner");
    await plant(scene, "appowner");
    await scene.as("appowner", casts("evil"));
    await scene.as("appowner", tagged("evil"));

    const silent: string[] = [];
    for (const [name, sql] of Object.entries(statements)) {
      await scene.noted();
      const error = await scene.attempt("appowner", sql);
      if (error || !(await scene.noted()).includes("appowner")) silent.push(`${name}: ${error?.message}`);
    }
    expect(silent).toEqual([]);
  });
});
