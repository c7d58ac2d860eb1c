import { describe, expect } from "vitest";
import { readText } from "../../runner/install/migrations.ts";
import { type TestDatabase, testBeside as test } from "../support/database.ts";

/** Two workflows whose triggers an earlier version made. */
const before = `
  create schema app;
  create table app.users (id int primary key, email text);
  create table app.orders (id int primary key);
  select notika.publish('welcome', 'app.users', columns => '{id,email}'),
         notika.publish('ship', 'app.orders');
  create or replace function notika._capture_1() returns trigger language plpgsql as 'begin return null; end';
  update notika.workflow set made_by = 'earlier', definition = '{}' where table_name is not null`;

const outdated = (db: TestDatabase) =>
  db.query(
    "select finding, severity, workflow, remedy from notika.health where finding = 'outdated' order by workflow",
  );

describe("refresh", () => {
  test("makes the triggers of each workflow as the installed version does", async ({ db }) => {
    await db.script(before);
    const finding = { finding: "outdated", severity: "warning", remedy: "call notika.refresh();" };
    expect(await outdated(db)).toEqual([
      { ...finding, workflow: "ship" },
      { ...finding, workflow: "welcome" },
    ]);

    await db.query("call notika.refresh()");
    await db.script("insert into app.users values (1, 'ada'); select notika.dispatch()");

    expect(await outdated(db)).toEqual([]);
    expect(await db.query("select workflow, new from notika.event_log")).toEqual([
      { workflow: "welcome", new: { id: 1, email: "ada" } },
    ]);
    expect(await db.query("select * from notika.check() where severity = 'error'")).toEqual([]);
  });

  test("does nothing where everything is as it should be", async ({ db }) => {
    await db.script(before);
    await db.query("call notika.refresh()");
    const workflows = await db.query("select xmin::text, * from notika.workflow order by workflow_id");

    await db.query("call notika.refresh()");

    expect(await db.query("select xmin::text, * from notika.workflow order by workflow_id")).toEqual(workflows);
  });

  test("says what it could not do, and goes on with the others", async ({ db }) => {
    await db.script(before);
    await db.script(
      "update notika.workflow set condition = 'new.nothing = 1', condition_sql = 'new.nothing = 1' where name = 'ship'",
    );
    const warnings: string[] = [];
    const client = await db.database.pool.connect();
    client.on("notice", ({ message }) => warnings.push(message ?? ""));

    await client.query("call notika.refresh()").finally(() => client.release());

    expect(warnings).toEqual([
      expect.stringMatching(/^workflow "ship" still captures as an earlier version of notika does: /),
    ]);
    expect(await outdated(db)).toMatchObject([{ workflow: "ship" }]);
  });

  test("commits, and so is called outside of a transaction", async ({ db }) => {
    await db.script(before);

    await expect(db.script("begin; call notika.refresh(); commit")).rejects.toMatchObject({ code: "2D000" });
    await db.query("rollback");

    expect(await outdated(db)).toHaveLength(2);
  });

  test("is for runners and members of the owner", async ({ db }) => {
    await db.script(`${before}; create role rex; create role eve`);
    await db.script("select notika.grant_runner('rex'); grant usage on schema notika to eve");

    await expect(db.script("set role eve; call notika.refresh()")).rejects.toMatchObject({ code: "42501" });
    await db.script("set role rex");
    await db.query("call notika.refresh()");
    await db.script("reset role");

    expect(await outdated(db)).toEqual([]);
  });

  test("by an upgrade runs what the owner has made of the code since with the owner's rights alone", async ({ db }) => {
    await db.script(`${before};
      set role notika;
      create table notika.seen (who text, what text);
      drop function notika._captured(boolean) cascade;
      create function notika._captured(is_due boolean default false) returns table (name text) language plpgsql as $$
      begin insert into notika.seen values (current_user, 'list'); return query select 'ship'::text; end $$;
      create or replace function notika._do_refresh(workflow text) returns json language plpgsql as $$
      begin insert into notika.seen values (current_user, 'refresh'); return '{"outcome": "ok"}'; end $$;
      create or replace procedure notika.refresh() language plpgsql as $$
      begin insert into notika.seen values (current_user, 'procedure'); end $$;
      reset role`);

    await db.query(await readText("migrations/refresh.sql"));

    expect(await db.query("select distinct who, what from notika.seen order by what")).toEqual([
      { who: "notika", what: "list" },
      { who: "notika", what: "refresh" },
    ]);
  });

  test("looks for nothing in its caller's search_path", async ({ db }) => {
    await db.script(`${before};
      create schema evil;
      create function evil.pg_sleep(double precision) returns void language plpgsql as 'begin raise exception ''hijacked''; end';
      create function evil.trap(text, text) returns boolean language plpgsql as 'begin raise exception ''hijacked''; end';
      create operator evil.<> (leftarg = text, rightarg = text, function = evil.trap);
      create operator evil.= (leftarg = text, rightarg = text, function = evil.trap);
      create type evil.text as (a int)`);
    await db.script("set search_path = evil, pg_catalog");
    await expect(db.query("select 'a'::pg_catalog.text = 'b'::pg_catalog.text")).rejects.toThrow("hijacked");

    await db.query("call notika.refresh()").finally(() => db.script("reset search_path"));

    expect(await outdated(db)).toEqual([]);
  });
});
