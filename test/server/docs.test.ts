import path from "node:path";
import { expect, test } from "vitest";
import { listObjects } from "../support/dump.ts";
import { readPage } from "../support/page.ts";
import { findProgram, startPostgres } from "../support/postgres.ts";
import { openShell } from "../support/shell.ts";
import { openSession } from "./cluster.ts";

const readme = await readPage("README.md");
const connect = await readPage("docs/connect.md");

test("connect.md: a role that installs Notika itself, the four parts, and removing it, as they are written there", async ({
  onTestFinished,
  skip,
}) => {
  const psql = findProgram("psql");
  if (!psql) return skip("this machine has no psql");
  const server = await startPostgres({ major: 15 });
  onTestFinished(() => server.stop());
  const url = await server.createDatabase("app");
  const session = openSession(url);
  onTestFinished(() => session.close());
  await session.database.script(`
    create role app_owner; create role admin login createrole; create role app_admin; create role robot login; create role support;
    create role watchman;
    grant app_owner to admin;
    alter database app owner to admin;
    create schema app authorization app_owner;
    set role app_owner;
    create table app.users (id int primary key, email text);
    reset role`);
  const before = await listObjects(url);
  const shell = await openShell({ programs: path.dirname(psql) });
  onTestFinished(shell.close);
  const [grant = "", leave = ""] = connect.blocks("sh").filter((block) => block.includes("notika grant"));
  const [parts = ""] = connect.blocks("sql").filter((block) => block.includes("grant_publisher"));
  const run = (block: string) => shell.run(block.replaceAll("@db.example.com/app", `@127.0.0.1:${server.port}/app`));

  await run(grant);
  await session.database.script(`set role notika; ${parts}; reset role`);
  expect(await session.query("select role_name, part from notika.grantee order by part, role_name")).toEqual([
    { role_name: "pg_monitor", part: "monitor" },
    { role_name: "watchman", part: "monitor" },
    { role_name: "app_admin", part: "publisher" },
    { role_name: "support", part: "reader" },
    { role_name: "robot", part: "runner" },
  ]);
  expect(await session.query("select nspowner::regrole::text from pg_namespace where nspname = 'notika'")).toEqual([
    { nspowner: "notika" },
  ]);

  const said = await run(leave);
  expect(said).toContain("would be removed");
  expect(said).toContain("-- For an administrator to run, if it was granted for Notika:\n");
  expect(await listObjects(url)).toEqual(before);
});

test.for([
  { how: "with Node", isScript: false, owner: "notika" },
  { how: "as one SQL file", isScript: true, owner: "notika" },
  { how: "as one SQL file, for a role that is named", isScript: true, owner: "shop_events" },
])("README: an administrator's installation $how, its runner, and leaving", async ({ isScript, owner }, context) => {
  const psql = findProgram("psql");
  if (!psql) return context.skip("this machine has no psql");
  const server = await startPostgres({ major: 15 });
  context.onTestFinished(() => server.stop());
  const url = await server.createDatabase("database");
  const session = openSession(url);
  context.onTestFinished(() => session.close());
  await session.database.script(
    "create role admin login superuser; create schema app; create table app.users (id int)",
  );
  const before = await listObjects(url);
  const asAdmin = url.replace("postgres@", "admin@");
  const shell = await openShell({ programs: path.dirname(psql), env: { DATABASE_URL: asAdmin } });
  context.onTestFinished(shell.close);
  const [byNode = "", byScript = ""] = readme.blocks("sh").filter((block) => /notika (install|sql)\b/.test(block));
  const [runner = ""] = readme.blocks("sql").filter((block) => block.includes("create role robot"));
  const [, chosen = ""] =
    /with `psql` it is `(-c [^`]*)` before the `-f`/.exec(readme.text.replaceAll("\n", " ")) ?? [];
  expect(chosen).toContain("shop_events");

  if (isScript) await shell.run(owner === "notika" ? byScript : byScript.replace(" -f ", ` ${chosen} -f `));
  else await shell.run(byNode.replace(/^export .*$/m, ""));
  await session.database.script(`${runner}; select notika.publish('greet', 'app.users')`);

  expect(
    await session.query(`
      select distinct r.rolname, r.rolcanlogin
        from pg_proc as p join pg_roles as r on r.oid = p.proowner
       where p.pronamespace = 'notika'::regnamespace order by 1`),
  ).toEqual([owner, "notika_guard"].sort().map((rolname) => ({ rolname, rolcanlogin: false })));
  expect(await session.query("select evtname from pg_event_trigger")).toHaveLength(3);
  expect(await session.query("select role_name, part from notika.grantee order by part")).toEqual([
    { role_name: "pg_monitor", part: "monitor" },
    { role_name: "robot", part: "runner" },
  ]);
  expect(await session.query("select * from notika.health where severity = 'error'")).toEqual([]);

  await shell.run(`npx notika uninstall --url ${asAdmin}`);
  await session.query("drop role robot");
  expect(await listObjects(url)).toEqual(before);
});
