import path from "node:path";
import { expect, test } from "vitest";
import { listObjects } from "../support/dump.ts";
import { readPage } from "../support/page.ts";
import { findProgram, startPostgres } from "../support/postgres.ts";
import { openShell } from "../support/shell.ts";
import { openSession } from "./cluster.ts";

const { blocks } = await readPage("README.md");

test("README: a role of its own, the three parts, and leaving, as they are written there", async ({
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
    grant app_owner to admin;
    alter database app owner to admin;
    create schema app authorization app_owner;
    set role app_owner;
    create table app.users (id int primary key, email text);
    reset role`);
  const before = await listObjects(url);
  const shell = await openShell({ programs: path.dirname(psql) });
  onTestFinished(shell.close);
  const [grant = "", leave = ""] = blocks("sh").filter((block) => block.includes("notika grant"));
  const [parts = ""] = blocks("sql").filter((block) => block.includes("grant_publisher"));
  const run = (block: string) => shell.run(block.replaceAll("@db.example.com/app", `@127.0.0.1:${server.port}/app`));

  await run(grant);
  await session.database.script(`set role notika; ${parts}; reset role`);
  expect(await session.query("select role_name, part from notika.grantee order by part")).toEqual([
    { role_name: "app_admin", part: "publisher" },
    { role_name: "support", part: "reader" },
    { role_name: "robot", part: "runner" },
  ]);
  expect(await session.query("select nspowner::regrole::text from pg_namespace where nspname = 'notika'")).toEqual([
    { nspowner: "notika" },
  ]);

  const said = await run(leave);
  expect(said).toContain("would be removed");
  expect(said).toContain("-- Left to an administrator, as far as it was granted for Notika:\n");
  expect(await listObjects(url)).toEqual(before);
});
