import { describe, expect } from "vitest";
import { keepWatch, type Step } from "./attack.ts";
import { forOwnFunctions } from "./rights.ts";
import { isThorough, type Scene, test } from "./scene.ts";

// Notika's owner may replace what it owns; what an administrator does must not run it with his rights.

/** DDL of an administrator, by which the guard is called. */
const ddl: Step[] = [
  ["postgres", "create table app.further (id int)"],
  ["postgres", "alter table app.users add column more int"],
  ["postgres", "alter table app.users rename column raw to cooked"],
  ["postgres", "create index on app.users (email)"],
  ["postgres", "drop table app.further"],
  ["postgres", "alter table app.users drop column more"],
  ["postgres", "grant select on app.users to hr"],
  [
    "postgres",
    "begin; alter table app.users rename column email to mail; alter table app.users rename column mail to email; commit",
  ],
];

/** Replaces functions with ones that note the role they run as, and fail. */
const replace = (which: string) => `
  do $do$
  declare
    v_function record;
  begin
    for v_function in
      select p.oid, p.proname, pg_get_functiondef(p.oid) as definition
        from pg_proc as p
       where p.pronamespace = 'notika'::regnamespace and p.prokind = 'f' and p.proowner = current_user::regrole
         and p.proname ${which}
         -- What refuses at commit belongs to the owner, who may refuse whatever touches a workflow.
         and p.proname <> '_guard_at_commit'
    loop
      execute regexp_replace(v_function.definition, '\\n LANGUAGE \\w+\\n.*$', '')
        || format(E' language plpgsql %s as $f$ begin perform canary.note(); raise exception ''replaced''; end $f$',
                  case when v_function.definition ~ 'SECURITY DEFINER' then 'security definer' end);
    end loop;
  end;
  $do$`;

describe("S20: what the guard calls runs as no administrator", () => {
  for (const which of [
    "~ '.'",
    "~ '^_'",
    "!~ '^_guard'",
    "!~ '^_(guard|reconcile)'",
    "~ '^_(named_tables|tables|triggers|family|quoted)$'",
  ]) {
    test(`when the owner has replaced functions (${which})`, async ({ open }) => {
      const scene = await open("administrator");
      const owner = await published(scene);
      await scene.as(owner, replace(which));

      const watch = await keepWatch(scene, { attacker: owner, writers: ["notika_guard"] });
      const refused: string[] = [];
      for (const step of ddl) {
        const refusal = await watch.attempt(step);
        if (refusal) refused.push(`${step[1]}: ${refusal.message}`);
      }

      expect(watch.wrong).toEqual([]);
      expect(refused).toEqual([]); // an error of the guard's own is a warning
    });
  }

  test.runIf(isThorough)(
    "when the owner has replaced one function, whichever",
    { timeout: 600_000 },
    async ({ open }) => {
      const scene = await open("administrator");
      const owner = await published(scene);
      const names = await scene.as<{ name: string; body: string }>(
        owner,
        "select distinct proname::text as name from pg_proc where pronamespace = 'notika'::regnamespace and proowner = current_user::regrole and proname ~ '^_'",
      );
      const wrong: string[] = [];
      for (const { name } of names) {
        await scene.as(
          owner,
          `create temp table kept as select pg_get_functiondef(oid) as d from pg_proc where pronamespace = 'notika'::regnamespace and proname = '${name}' and prokind = 'f'`,
        );
        await scene.as(owner, replace(`= '${name}'`));
        const watch = await keepWatch(scene, { attacker: owner, writers: ["notika_guard"] });
        for (const [role, sql] of ddl.slice(0, 2)) await watch.attempt([role, `begin; ${sql}; rollback`]);
        wrong.push(...watch.wrong);
        await scene.as(
          owner,
          "do $$ declare d text; begin for d in select k.d from kept as k loop execute d; end loop; end $$; drop table kept",
        );
      }
      expect(wrong).toEqual([]);
    },
  );

  test("when the guard's role may not even use the schema", async ({ open }) => {
    const scene = await open("administrator");
    const owner = await published(scene);
    await scene.as(
      owner,
      `revoke all on schema notika from notika_guard; ${forOwnFunctions("revoke all on routine %s from notika_guard")}`,
    );

    for (const [role, sql] of ddl) expect(await scene.attempt(role, sql), sql).toBeUndefined();
  });

  test("when the owner has put triggers on its tables", async ({ open }) => {
    const scene = await open("administrator");
    const owner = await published(scene);
    await scene.as(owner, trapped);

    const watch = await keepWatch(scene, { attacker: owner, writers: ["notika_guard"] });
    for (const step of ddl) await watch.attempt(step);

    expect(watch.wrong).toEqual([]);
  });
});

/** Triggers, policies, defaults and checks on all tables. */
const trapped = `
  create function notika.trap() returns trigger language plpgsql as 'begin perform canary.note(); return coalesce(new, old); end';
  create function notika.trap_row() returns boolean language plpgsql as 'begin return canary.note(); end';
  do $do$
  declare
    v_table regclass;
  begin
    for v_table in select oid from pg_class where relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace) and relkind = 'r' loop
      execute format('create trigger trap before insert or update or delete on %s for each row execute function notika.trap()', v_table);
      execute format('alter table %s enable row level security', v_table);
      execute format('create policy trap on %s using (notika.trap_row())', v_table);
      execute format('alter table %s add constraint trap check (notika.trap_row()) not valid', v_table);
    end loop;
  end;
  $do$`;

describe("S20: an administrator's install runs nothing of the owner's with his rights", () => {
  for (const [name, sql] of Object.entries({
    "replaced functions": replace("~ '.'"),
    "some replaced functions": replace("~ '^_(named_tables|tables|triggers|family|quoted)$'"),
    "traps on its tables": trapped,
    "functions with better matches":
      "create function notika.install(x int default 1) returns text language plpgsql as 'begin perform canary.note(); return 1; end'; create function notika._wake(x int default 1) returns void language plpgsql as 'begin perform canary.note(); end'",
    "a view in place of a table":
      "alter table notika.setting rename to setting_was; create function notika.spy() returns setof notika.setting_was language plpgsql as 'begin perform canary.note(); return query select * from notika.setting_was; end'; create view notika.setting as select * from notika.spy()",
    "an event trigger's function":
      "do $$ begin perform canary.note(); end $$; create or replace function notika._guard_end() returns event_trigger language plpgsql as 'begin perform canary.note(); end'",
  })) {
    // Each of install's statements fires the guard, and each of its functions fails: that takes half a minute.
    const isLong = name === "replaced functions" && !isThorough;
    test.skipIf(isLong)(
      name,
      async ({ open }) => {
        const scene = await open("administrator");
        const owner = await published(scene);
        const refusal = await scene.attempt(owner, sql);
        if (refusal) expect(name).toBe("an event trigger's function"); // it is not the owner's
        const watch = await keepWatch(scene, { attacker: owner, writers: ["notika_guard"] });

        await scene.install().catch(() => {}); // it may refuse
        const noted = (await scene.noted()).filter((role) => role !== owner && role !== "notika_guard");

        expect(noted).toEqual([]);
        expect(watch.wrong).toEqual([]);
      },
      120_000,
    );
  }
});

async function published(scene: Scene) {
  const owner = await scene.owner();
  await scene.as(
    "postgres",
    "select notika.publish('w', 'app.users', operations => '{insert,update}', columns => '{id,email}', condition => 'new.email is not null')",
  );
  const rows = await scene.as("postgres", `select rolsuper from pg_roles where rolname = '${owner}'`);
  expect(rows).toEqual([{ rolsuper: false }]);
  return owner;
}
