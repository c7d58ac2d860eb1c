import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { createTestNotika } from "../../runner/testing/index.ts";
import { readPage } from "../support/page.ts";
import { linkSource } from "./process.ts";

test("a number inside of json is rounded in the event, and exact in notika.event, as docs/tasks.md says", async ({
  onTestFinished,
}) => {
  const blocks = (await readPage("docs/tasks.md")).blocks("ts");
  const task = blocks.find((block) => block.includes("tasks/import_order.ts")) ?? "";
  const folder = await mkdtemp(path.join(tmpdir(), "notika-exact-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  await linkSource(folder);
  await mkdir(path.join(folder, "tasks"));
  await writeFile(path.join(folder, "tasks/import_order.ts"), task);
  const t = await createTestNotika({
    schema: `create schema app;
      create table app.orders (id int primary key, data jsonb);
      create table app.totals (order_id int, total numeric)`,
    tasks: path.join(folder, "tasks"),
  });
  onTestFinished(() => t.close());

  await t.sql`insert into app.orders values (1, '{"total": 12345678901234567890}')`;
  await t.settle();

  expect(await t.sql`select state, error from notika.runs`).toEqual([{ state: "done", error: null }]);
  expect(await t.sql`select order_id, total from app.totals`).toEqual([{ order_id: 1, total: "12345678901234567890" }]);
  const [run] = await t.runs();
  expect(run?.event.new?.data).toEqual({ total: Number("12345678901234567000") });
});

test("a column that is NULL and one that holds json's null are both null in an event", async ({ onTestFinished }) => {
  const seen: unknown[] = [];
  const t = await createTestNotika({
    schema: `create table public.docs (id int, data json, more jsonb);
      select notika.publish('look', 'public.docs')`,
    tasks: { look: ({ event }: { event: { new: object } }) => void seen.push(event.new) },
  });
  onTestFinished(() => t.close());

  await t.sql`insert into public.docs values (1, null, null), (2, 'null', 'null')`;
  await t.settle();

  expect(seen).toEqual([
    { id: 1, data: null, more: null },
    { id: 2, data: null, more: null },
  ]);
});
