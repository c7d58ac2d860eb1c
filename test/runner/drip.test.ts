import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestNotika, type TestNotika } from "../../runner/testing/index.ts";

let t: TestNotika;

beforeAll(async () => {
  t = await createTestNotika({ schema: await readFile("test/drip/schema.sql", "utf8"), tasks: "test/drip/tasks" });
});
afterAll(() => t.close());

test("trials of two weeks take their ways in the time of a test, at the right moments", async () => {
  const began = Date.now();
  const after = (row: { at: Date }) => Math.round((row.at.getTime() - began) / 8_640_000) / 10; // days

  await t.sql`insert into app.users values (11, 'pays', 'free'), (12, 'forgets', 'free'), (13, 'hurries', 'free')`;
  t.failNext("welcome");
  t.failNext("tell/bea@example.com");
  t.crashAfter("note the start");
  t.crashAfter("change the plan");
  await t.advance("1 day");
  await t.sql`update app.users set plan = 'pro' where email = 'hurries'`;
  await t.advance("4 days");
  await t.sql`insert into app.payments (user_id, amount) values (11, 99), (11, 100), (99, 1)`;
  await t.advance("9 days");

  expect((await t.runs()).map(({ state }) => state)).toEqual(["done", "done", "done"]);
  const notes = await t.sql<{ run: string; text: string; at: Date }>`
    select run_id::text as run, text, at from app.notes order by run_id, at`;
  expect(notes.map((row) => [row.run, row.text, after(row)])).toEqual([
    ["1", "began", 0],
    ["1", "paid 99", 5],
    ["2", "began", 0],
    ["2", "timed out", 10],
    ["3", "began", 0],
    ["3", "pro already", 3],
  ]);
  const mails = await t.sql<{ key: string; at: Date }>`select key, at from app.mails`;
  expect(mails.map((row) => `day ${after(row)}: ${row.key.replace(/^[^:]*:/, "")}`).sort()).toEqual([
    "day 0: 1:welcome",
    "day 0: 2:welcome",
    "day 0: 3:welcome",
    "day 10: 2:say goodbye",
    "day 3: 1:tell/ann@example.com",
    "day 3: 1:tell/bea@example.com",
    "day 3: 2:tell/ann@example.com",
    "day 3: 2:tell/bea@example.com",
    "day 5: 1:say goodbye",
  ]);
});
