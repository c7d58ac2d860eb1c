import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, truncate, utimes, writeFile } from "node:fs/promises";
import path from "node:path";
import sql from "sql-template-tag";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Database } from "../../runner/database/database.ts";
import { openEmbedded } from "../../runner/embedded/embedded.ts";
import { cacheFolder } from "../../runner/embedded/snapshot.ts";
import { isThorough } from "../support/database.ts";
import { dataFolder } from "../support/postgres.ts";

let folder: string;
let cache: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(dataFolder(), "notika-embedded-"));
  cache = path.join(folder, "cache");
  // initdb takes longer than the rest: the cache that cannot be written is without.
  await mkdir(cache);
  await openEmbedded({ prepare: async () => {}, version: "none" }).then((it) => it.close());
  const [empty] = (await readdir(cacheFolder())).filter((name) => /^[\d.]+\.tar$/.test(name));
  await copyFile(path.join(cacheFolder(), empty as string), path.join(cache, empty as string));
});

afterAll(() => rm(folder, { recursive: true }));

test("what prepare made is there at each start, but prepare runs once", async () => {
  const { prepare, runs } = preparation();

  const first = await openEmbedded({ prepare, version: "1", cache });
  await first.database.execute(sql`insert into greeting values ('of the first')`);
  const second = await openEmbedded({ prepare, version: "1", cache });

  expect(await greetings(first.database)).toEqual(["hello", "of the first"]);
  expect(await greetings(second.database)).toEqual(["hello"]);
  expect(runs()).toBe(1);
  await first.close();
  await second.close();
});

test("starts at once may share a cache", async () => {
  const { prepare } = preparation();

  const all = await Promise.all([1, 2].map(() => openEmbedded({ prepare, version: "shared", cache })));

  for (const { database } of all) expect(await greetings(database)).toEqual(["hello"]);
  expect((await readdir(cache)).filter((name) => name.includes("shared"))).toHaveLength(1);
  await Promise.all(all.map((it) => it.close()));
});

test("another version is prepared anew", async () => {
  const { prepare, runs } = preparation();

  const other = await openEmbedded({ prepare, version: "2", cache });

  expect(await greetings(other.database)).toEqual(["hello"]);
  expect(runs()).toBe(1);
  await other.close();
});

test("a prepare that fails is no snapshot", async () => {
  const failing = openEmbedded({
    prepare: async ({ execute }) => {
      await execute(sql`create table half ()`);
      throw new Error("not today");
    },
    version: "failing",
    cache,
  });

  await expect(failing).rejects.toThrow("not today");
  expect((await readdir(cache)).filter((name) => name.includes("failing"))).toEqual([]);
});

const damages: Record<string, (file: string) => Promise<void>> = {
  changed: async (file) => writeFile(file, (await readFile(file)).fill(1, 5_000_000, 5_000_100)),
  ...(isThorough && {
    "cut off": (file: string) => truncate(file, 20_000_000),
    empty: (file: string) => truncate(file, 0),
  }),
};

test.each(Object.entries(damages))("a snapshot that is %s is made again", async (how, damage) => {
  const { prepare, runs } = preparation();
  const version = how.replace(" ", "-");
  await openEmbedded({ prepare, version, cache }).then((it) => it.close());
  const [name] = (await readdir(cache)).filter((name) => name.endsWith(`-${version}.tar`));
  await damage(path.join(cache, name as string));

  const repaired = await openEmbedded({ prepare, version, cache });

  expect(await greetings(repaired.database)).toEqual(["hello"]);
  expect(runs()).toBe(2);
  await repaired.close();
});

test("a cache that cannot be written costs time, nothing else", async () => {
  const { prepare } = preparation();
  const occupied = path.join(folder, "a file, not a folder");
  await writeFile(occupied, "");

  const embedded = await openEmbedded({ prepare, version: "1", cache: occupied });

  expect(await greetings(embedded.database)).toEqual(["hello"]);
  await embedded.close();
});

test("old snapshots are removed, unfinished ones do not stay", async () => {
  const { prepare } = preparation();
  for (const [day, name] of ["1.0.0.tar", "1.0.0-a.tar", "1.0.0-b.tar", "1.0.0-c.tar"].entries()) {
    await writeFile(path.join(cache, name), "");
    await utimes(path.join(cache, name), 0, day * 86_400);
  }

  for (const version of ["a", "b"]) await openEmbedded({ prepare, version, cache }).then((it) => it.close());

  const names = await readdir(cache);
  expect(names).toHaveLength(5); // the empty one and four others
  expect(names.filter((name) => name.startsWith("1.0.0"))).toEqual([]);
});

test("a data folder starts from the snapshot and keeps what is written", async () => {
  const { prepare, runs } = preparation();
  const dataDir = path.join(folder, "nested", "data");
  const options = { prepare, version: "kept", dataDir, cache };

  const before = await openEmbedded(options);
  await before.database.execute(sql`insert into greeting values ('kept')`);
  await before.close();
  const after = await openEmbedded(options);

  expect(await greetings(after.database)).toEqual(["hello", "kept"]);
  expect(runs()).toBe(1);
  await after.close();
  expect(await readdir(path.dirname(dataDir))).toEqual(["data"]);
});

function preparation() {
  let count = 0;
  return {
    runs: () => count,
    async prepare({ execute }: Database) {
      count++;
      await execute(sql`create table greeting (word text)`);
      await execute(sql`insert into greeting values ('hello')`);
    },
  };
}

async function greetings({ execute }: Database) {
  return (await execute<{ word: string }>(sql`select word from greeting`)).map(({ word }) => word);
}
