import { expect } from "vitest";
import { isThorough, testBeside as test } from "../../support/database.ts";

// Reading such a text again for each of its statements took minutes, a quarter of that where it is half as long.
const [length, timeout] = isThorough ? [600, 60_000] : [300, 30_000];
const padding = `-- ${"a word or two; and 'a quote' ".repeat(4)}\n`;

test("a long migration is judged like a short one", { timeout }, async ({ db }) => {
  await db.script(`
    create table public.orders (id int, note text, junk int);
    select notika.publish('w', 'public.orders', columns => '{id,note}');`);
  const long = Array.from({ length }, (_, n) => `${padding}alter table public.orders drop column if exists x${n};`);

  await db.script(`${long.join("\n")} alter table public.orders drop column note, add column note text;`);
  await expect(db.script(`${long.join("\n")} alter table public.orders drop column note;`)).rejects.toMatchObject({
    code: "NK001",
  });
});

test("a long script is checked statement by statement", { timeout }, async ({ db }) => {
  await db.script(`
    create table public.orders (id int, note text);
    select notika.publish('w', 'public.orders', columns => '{id,note}');`);
  const long = `${`${padding}comment on table public.orders is 'a; b';\n`.repeat(length)}alter table public.orders drop note;`;

  expect(
    await db.query("select statement_number, line, statement, workflow, verdict from notika.check_ddl($1)", [long]),
  ).toEqual([
    {
      statement_number: length + 1,
      line: 2 * length + 1,
      statement: "alter table public.orders drop note",
      workflow: "w",
      verdict: "breaks",
    },
  ]);
});
