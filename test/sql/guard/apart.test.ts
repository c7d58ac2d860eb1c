import { describe, expect } from "vitest";
import { type TestDatabase, testBeside as test } from "../../support/database.ts";
import { captured, inTransaction, told } from "../support.ts";

const hostile = `x') ; select 1 --`;

/** Makes the guard fail at workflow bad, and at no other one: in one of its functions. */
const failAt = async ({ query }: TestDatabase, name: string) => {
  const [{ definition } = { definition: "" }] = await query<{ definition: string }>(
    "select pg_get_functiondef(oid) as definition from pg_proc where proname = $1 and pronamespace = 'notika'::regnamespace",
    [name],
  );
  const failing = definition.replace(
    /\nbegin\n/i,
    `\nbegin\n  if to_jsonb(spec) ->> 'name' = 'bad' then raise exception 'oops'; end if;\n`,
  );
  expect(failing).not.toBe(definition);
  await query(failing);
  return () => query(definition);
};

const scene = `
  create schema app;
  create table app.users (id int, email text, note text);
  create table app.others (id int);
  select notika.publish('bad', 'app.users', columns => '{id}', condition => 'new.note is null');
  select notika.publish('good', 'app.users', columns => '{id,email}');`;

test("a name with a quote, a parenthesis and a semicolon in it is followed, in a condition too", async ({ db }) => {
  await db.script(`
    create schema app;
    create table app.users (id int, "${hostile}" text, email text);
    select notika.publish('bad', 'app.users', columns => '{id}', condition => $$new."${hostile}" = 'it''s'$$);
    select notika.publish('good', 'app.users', columns => '{id,email}');`);

  await db.query(`alter table app.users rename "${hostile}" to plain`);
  expect(await db.query("select condition from notika.workflows where workflow = 'bad'")).toEqual([
    { condition: "new.plain = 'it''s'" },
  ]);
  await inTransaction(
    db,
    `alter table app.users rename plain to "${hostile}"`,
    "alter table app.users drop column id",
    "alter table app.users add column id int", // what captures is made again
  );
  await db.query(`insert into app.users ("${hostile}", id) values ('it''s', 1), ('other', 2)`);
  expect(await captured(db, "bad")).toEqual([{ id: 1 }]);
  await expect(db.query("alter table app.users drop email")).rejects.toMatchObject({ code: "NK001" });
});

describe.for(["_form", "_findings", "_has_all_it_needs"])("where the guard fails at one workflow, in %s,", (name) => {
  test("the others are judged, and it says so", async ({ db }) => {
    await db.script(scene);
    const mend = await failAt(db, name);

    await expect(db.query("alter table app.users drop column email")).rejects.toMatchObject({
      code: "NK001",
      message: expect.stringContaining(`Notika's workflow "good"`),
    });
    await expect(
      inTransaction(db, "alter table app.users rename note to notes", "alter table app.users drop column email"),
    ).rejects.toMatchObject({ code: "NK001" });
    expect(
      await db.query("select workflow, verdict from notika.check_ddl('alter table app.users drop email')"),
    ).toContainEqual({ workflow: "good", verdict: "breaks" });

    const notices = await told(db, "alter table app.users add column more int");
    expect(new Set(notices.map(({ message }) => message))).toEqual(
      new Set(['notika could not check ALTER TABLE for workflow "bad": oops (P0001)']),
    );
    expect(await db.query("select finding, severity, detail from notika.health where workflow is not null")).toEqual([
      { finding: "not_judged", severity: "warning", detail: "the guard could not check it: oops (P0001)" },
    ]);
    expect(await db.query("select workflow, verdict, actual from notika.guard_log where kind = 'not_judged'")).toEqual([
      { workflow: "bad", verdict: "warned", actual: "oops (P0001)" },
    ]);

    // A rename of the other is followed all the same, in maintenance too.
    await db.query("alter table app.users rename email to mail");
    await db.script("select notika.begin_maintenance('x'); alter table app.users rename mail to email");
    expect(await db.query("select workflow, state from notika.end_maintenance() where workflow = 'good'")).toEqual([
      { workflow: "good", state: "published" },
    ]);

    await mend();
    expect(await db.query("select * from notika.check()")).toEqual([]);
    expect(await told(db, "alter table app.users add column still_more int")).toEqual([]);
  });

  test("nothing happens to DDL that is about no workflow", async ({ db }) => {
    await db.script(scene);
    await failAt(db, name);

    expect(await told(db, "alter table app.others add column more int")).toEqual([]);
  });
});

test("a workflow that is broken, repaired and broken again is broken again", async ({ db }) => {
  await db.script(`
    create schema app;
    create table app.users (id int, email text);
    select notika.publish('w', 'app.users', columns => '{id,email}', guard => 'warn');`);
  const state = async () => (await db.query("select state, reason from notika.workflows where workflow = 'w'"))[0];

  for (let time = 0; time < 2; time++) {
    await db.query("alter table app.users drop column email");
    expect(await state()).toEqual({ state: "broken", reason: "column dropped: app.users.email" });
    await db.query("alter table app.users add column email text");
    expect(await state()).toEqual({ state: "published", reason: null });
  }
});

test("a type that is widened, narrowed and widened again is what the contract then says", async ({ db }) => {
  await db.script(`
    create schema app;
    create table app.users (id int, email varchar(10));
    select notika.publish('w', 'app.users', columns => '{id,email}');`);

  for (const type of ["varchar(20)", "varchar(10)", "varchar(20)", "text", "varchar(20)"]) {
    await db.query(`alter table app.users alter email type ${type}`);
    expect(await db.query("select * from notika.check() where workflow = 'w'"), type).toEqual([]);
  }
});
