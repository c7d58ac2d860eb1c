import { expect } from "vitest";
import { testBeside as test } from "../support/database.ts";
import { giveToKeeper } from "./guard/matrix.ts";
import { asRole, captured } from "./support.ts";

const schema = `
  create schema app;
  create table app.users (id int, name text) partition by list (id);
  create table app.users_1 partition of app.users for values in (1);
  create function app.is_ok(text) returns boolean language sql immutable as 'select true';
  revoke execute on function app.is_ok from public;`;

const rights = "select * from notika.health where finding ~ '_missing$' order by finding, detail";

test("health says which writes fail because of a condition, and the GRANT that mends it", async ({ db }) => {
  await db.script(`${schema}
    select notika.publish('w', 'app.users', columns => '{id}', condition => 'app.is_ok(new.name)');
    select notika.publish('v', 'app.users', columns => '{id}', condition => 'new.id > 0');
    create role "Late writer";
    grant usage on schema app to "Late writer";
    grant insert on app.users to "Late writer"`);
  const write = () => asRole(db, "Late writer", "insert into app.users values (1)");

  await expect(write()).rejects.toMatchObject({ code: "42501" });
  const found = await db.query<{ remedy: string }>(rights);

  expect(found).toEqual([
    {
      finding: "execute_missing",
      severity: "error",
      workflow: "w",
      detail:
        'role "Late writer" writes to app.users and may not execute function app.is_ok(text), which its condition ' +
        "calls: these writes fail",
      remedy: 'grant execute on function app.is_ok(text) to "Late writer";',
    },
  ]);
  await db.query(found[0]?.remedy ?? "");
  await write();
  expect(await db.query(rights)).toEqual([]);
});

test("health says which rights its owner has lost; events are captured all the same", async ({ db }) => {
  await giveToKeeper(db);
  await db.script(`${schema}
    grant usage on schema app to keeper;
    grant trigger on app.users, app.users_1 to keeper;
    select notika.publish('w', 'app.users', columns => '{id}');
    revoke all on schema app from keeper;
    revoke all on app.users_1 from keeper;
    insert into app.users values (1)`);

  const found = await db.query<{ remedy: string }>(rights);

  expect(found).toEqual([
    {
      finding: "trigger_missing",
      severity: "warning",
      workflow: "w",
      detail:
        'role "keeper" may not create triggers on app.users_1: changes are captured, but the workflow cannot be ' +
        "published again",
      remedy: "grant trigger on app.users_1 to keeper;",
    },
    {
      finding: "usage_missing",
      severity: "warning",
      workflow: "w",
      detail:
        'role "keeper" may not use schema app any more: changes are captured, but the workflow cannot be published again',
      remedy: "grant usage on schema app to keeper;",
    },
  ]);
  expect(await captured(db)).toEqual([{ id: 1 }]);
  for (const { remedy } of found) await db.query(remedy);
  expect(await db.query(rights)).toEqual([]);
});

test("health says who may read payloads without having been made a reader", async ({ db }) => {
  await db.script(`
    create role analyst; create role ria;
    select notika.grant_reader('ria');
    grant select on notika.event_log_0, notika.runs, notika.setting to analyst;
    grant select on notika.run_log to public`);
  const readable = "select * from notika.health where finding = 'surplus_rights' order by detail";
  const surplus = (detail: string) => ({
    finding: "surplus_rights",
    severity: "warning",
    workflow: null,
    detail,
    remedy: "select * from notika.install();",
  });
  const ofAnalyst = surplus(
    "role analyst has 3 rights in Notika's schemas that nobody granted it by a part: " +
      "select on table notika.event_log_0, ...",
  );

  expect(await db.query(readable)).toEqual([
    ofAnalyst,
    surplus(
      "role public has 1 right in Notika's schemas that nobody granted it by a part: select on table notika.run_log",
    ),
  ]);
  await db.query("grant usage on schema notika to public");
  expect(await db.query(readable)).toEqual([
    ofAnalyst,
    surplus(
      "role public has 2 rights in Notika's schemas that nobody granted it by a part: " +
        "select on table notika.run_log, ...",
    ),
  ]);
  await db.query("select * from notika.install()");
  expect(await db.query(readable)).toEqual([]);
  const mayRead = `
    select has_table_privilege(role, 'notika.runs', 'select') as runs,
           has_table_privilege(role, 'notika.run_log', 'select') as log
      from unnest('{analyst,ria}'::text[]) as role`;
  expect(await db.query(mayRead)).toEqual([
    { runs: false, log: false },
    { runs: true, log: true },
  ]);
});
