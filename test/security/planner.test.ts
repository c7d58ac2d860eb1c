import { expect } from "vitest";
import { kinds, test } from "./scene.ts";

const operators = (s: string, restrict = "") => `
  create function ${s}.evil(text, text) returns boolean language plpgsql immutable
    as 'begin return canary.note(); end';
  create operator ${s}.<<>> (function = ${s}.evil, leftarg = text, rightarg = text ${restrict});
  create operator ${s}.=== (function = pg_catalog.texteq, leftarg = text, rightarg = text,
                            negator = operator(${s}.<<>>) ${restrict});`;

const domain = (s: string) => `
  create function ${s}.evil1(text) returns boolean language plpgsql immutable as 'begin return canary.note(); end';
  create domain ${s}.d as text check (${s}.evil1(value));
  create type ${s}.c as (x ${s}.d);
  create table ${s}.hp (id int, note text) partition by hash ((${s}.evil1('x') and note is null));`;

for (const kind of kinds) {
  const others = ["notika", "notika_own", "notika_guard", "postgres"];
  const quiet = async (noted: Promise<string[]>) =>
    expect((await noted).filter((it) => others.includes(it))).toEqual([]);

  for (const [name, condition] of Object.entries({
    "the negator of an operator": "not (new.email operator(app.===) 'x')",
    "the input function of a domain": "domain_in('x'::cstring, 'app.d'::regtype, -1) is not null",
    "the input function of an array": "array_in('{x}'::cstring, 'app.d'::regtype, -1) is not null",
    "the input function of a composite": "record_in('(x)'::cstring, 'app.c'::regtype, -1) is not null",
    "a partition key, by what looks at a table": "satisfies_hash_partition('app.hp'::regclass, 2, 0, true)",
  })) {
    test(`a backfill does not execute ${name}: ${kind}`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as("postgres", "grant create on schema app to pub; select notika.grant_runner('pub')");
      await scene.as(
        "pub",
        `${operators("app")} ${domain("app")} select notika.publish('w', 'app.users', columns => '{id}')`,
      );
      await scene.noted();
      await scene.attempt("pub", `select notika.backfill('w', $$ ${condition} $$)`);
      await scene.attempt("pub", "select notika.dispatch(10)");
      await quiet(scene.noted());
    });
  }

  test(`the planner executes nothing of a table's owner for the predicate of an index: ${kind}`, async ({ open }) => {
    const scene = await open(kind);
    await scene.as(
      "appowner",
      `${operators("app", ", restrict = eqsel")}
       create table app.t1 (id bigint primary key, note text);
       insert into app.t1 select i, case when i % 3 = 0 then 'x' else 'y' end from generate_series(1, 1000) as i;
       create index on app.t1 (note) where (id is not null or not (note operator(app.===) 'b'));`,
    );
    await scene.as("appowner", "analyze app.t1");
    await scene.noted();
    await scene.as("postgres", "select notika.publish('t', 'app.t1', columns => '{id}')");
    await scene.attempt("postgres", "select notika.backfill('t')");
    await scene.attempt("postgres", "select notika.dispatch(10)");
    await quiet(scene.noted());
  });

  test(`a setting of the session does not blind the look at a condition: ${kind}`, async ({ open }) => {
    const scene = await open(kind);
    await scene.attempt(
      "pub",
      `set standard_conforming_strings = off;
       create function pg_temp.evil(text) returns boolean language plpgsql as 'begin return canary.note(); end';
       create domain pg_temp.dom as text check (pg_temp.evil(value));
       create function pg_temp.notika_condition() returns boolean language sql
         begin atomic select true from app.users as new, app.users as old where '{1}'::pg_temp.dom[] is not null; end;
       insert into notika._request (verb, args) values ('publish', jsonb_build_object(
         'workflow', 'w', 'table_name', 'app.users', 'operations', '{insert}'::text[], 'columns', '{id}'::text[],
         'condition', 'new.id > 0', 'guard', 'block', 'on_rename', 'follow',
         'function', 'pg_temp.notika_condition()'::regprocedure::oid::bigint));`,
    );
    await quiet(scene.noted());
  });
}

test("an administrator's installation does not evaluate a default of the owner's", async ({ open }) => {
  const scene = await open("owner");
  await scene.as(
    "notika_own",
    `create function notika.evil() returns json language plpgsql as 'begin perform canary.note(); return null; end';
     alter view notika._request alter column result set default notika.evil()`,
  );
  await scene.as("postgres", "select 1");
  const { install } = await import("../../runner/install/install.ts");
  const { openDatabase } = await import("../../runner/database/database.ts");
  if (!scene.url) return;
  const database = openDatabase({ connect: scene.url, connections: 1 });
  await install(database).finally(database.close);
  expect(await scene.noted()).not.toContain("postgres");
});
