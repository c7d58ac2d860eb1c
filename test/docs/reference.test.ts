import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { reference } from "../../docs/generate.ts";

test("reference.md is what npm run docs writes", async () => {
  expect(await readFile("docs/reference.md", "utf8")).toBe(await reference());
}, 60_000);
