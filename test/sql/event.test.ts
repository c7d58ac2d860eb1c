import { expect } from "vitest";
import { test } from "../support/database.ts";

test("notika.event gives the event of a run while it waits, lives and has ended, and of others in its digest", async ({
  db,
}) => {
  await db.script(`
    create table public.docs (id int, data json);
    select notika.publish('look', 'public.docs'), notika.publish('sum', 'public.docs');
    select notika.configure('sum', '{"digest": {"window": "1 hour"}}');
    insert into public.docs values (1, '[1.50, 12345678901234567890]'), (2, '{"a" : 1e400}')`);
  const exact = async (call: string) => {
    const [row] = await db.query<{ data: string | null }>(`select (${call} #> '{new,data}')::text as data`);
    return row?.data;
  };
  const idsOf = async (workflow: string) =>
    (
      await db.query<{ id: string }>(
        "select event_id::text as id from notika.event_log where workflow = $1 order by event_id",
        [workflow],
      )
    ).map(({ id }) => id);
  const [one, two] = await idsOf("look");
  const [first, second] = await idsOf("sum");

  expect(await exact(`notika.event(${one})`)).toBe("[1.50, 12345678901234567890]");
  await db.query("select notika.dispatch()");
  expect(await exact(`notika.event(${two})`)).toBe('{"a" : 1e400}');
  await db.query(`select notika.cancel(${one})`);
  await db.script("truncate notika.event_log_0, notika.event_log_1, notika.event_log_2");
  expect(await exact(`notika.event(${one})`)).toBe("[1.50, 12345678901234567890]");
  expect(await exact(`notika.event(${first})`)).toBe("[1.50, 12345678901234567890]");
  expect(await exact(`notika.event(${first}, event_id => ${second})`)).toBe('{"a" : 1e400}');
  expect(await exact("notika.event(4711)")).toBe(null);
});
