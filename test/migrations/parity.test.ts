import sql from "sql-template-tag";
import { expect, test } from "vitest";
import type { Database } from "../../runner/database/database.ts";
import { install } from "../../runner/install/install.ts";
import {
  committedMigrations,
  currentMigration,
  readCode,
  readText,
  tableFiles,
} from "../../runner/install/migrations.ts";
import { asOwner, prepareRelease } from "../support/release.ts";
import { catalog } from "./catalog.ts";
import { openEmpty } from "./empty.ts";

test("the migrations, committed and current, give the schema of sql/", async () => {
  await using fresh = await openEmpty();
  await using migrated = await openEmpty();

  await load(fresh);
  await install(migrated);

  expect(await catalog(migrated.execute)).toEqual(await catalog(fresh.execute));
});

test("the migrations, committed and current, need none of the code", async () => {
  await using database = await openEmpty();

  await prepareRelease(database);
  for (const { text } of await committedMigrations()) await asOwner(database, text);
  await asOwner(database, (await currentMigration()) ?? "");

  expect(await database.execute(sql`select from pg_proc where proname = 'publish'`)).toEqual([]);
});

test("the code may be loaded again", async () => {
  await using once = await openEmpty();
  await using twice = await openEmpty();

  await load(once);
  await load(twice);
  await asOwner(twice, await readCode());
  await twice.execute(sql`select notika.install()`);

  expect(await catalog(twice.execute)).toEqual(await catalog(once.execute));
});

test("the catalog shows a column that is missing, misplaced or uncommented", async () => {
  await using one = await openEmpty();
  await using other = await openEmpty();

  await one.script("create schema notika; create table notika.t (a int, b text); comment on column notika.t.a is 'A.'");
  await other.script("create schema notika; create table notika.t (b text, a int)");

  const here = await catalog(one.execute);
  const there = await catalog(other.execute);
  expect(Object.keys(here).filter((object) => here[object] !== there[object])).toEqual([
    "column notika.t.a",
    "column notika.t.b",
    "comment on table column notika.t.a",
  ]);
});

/** Does what an install does without any migration: graphile-worker's tables are made by itself. */
async function load(database: Database): Promise<void> {
  await prepareRelease(database);
  for (const file of await tableFiles()) await asOwner(database, await readText(file));
  await asOwner(database, await readCode());
  await database.execute(sql`select notika.install()`);
}
