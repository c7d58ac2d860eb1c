import { expect, test } from "vitest";
import { committedMigrations, currentMigration } from "../../runner/migrations.ts";
import { version } from "../../runner/version.ts";

const committed = (await committedMigrations()).map(({ text }) => text);
const current = (await currentMigration()) ?? "";
const isEmpty = current.split("\n").every((line) => line === "" || line.startsWith("--"));
const versions = (isEmpty ? committed : [...committed, current]).map(versionIn);

test("every release has a version of its own, by which a runner knows that the database needs an upgrade", async () => {
  const [, , last, ...others] = versions; // the first three have the same

  expect(new Set([last, ...others]).size).toBe(1 + others.length);
  expect(versions.at(-1)).toBe(await version());
});

function versionIn(migration: string): string | undefined {
  return /function notika\.version\(\).*?select '([^']*)'/s.exec(migration)?.[1];
}
