import { appendFileSync, existsSync } from "node:fs";
import { type Context, sql } from "../../../../runner/index.ts";

export interface Item {
  id: string;
  version: number;
}

/** Notes the change it was woken for: in the database, in a step, and outside, where no transaction undoes it. */
export default async function recordChange({ event, step }: Context<Item>) {
  const { NOTIKA_JOURNAL: journal = "", NOTIKA_FEAST: feast = "" } = process.env;
  if (existsSync(feast)) devour();
  const { id, version } = (event.new ?? event.old) as Item;
  const change = `${event.operation}:${id}:${version}`;
  await step.query("note it", sql`insert into public.noted (change) values (${change})`);
  appendFileSync(journal, `${change} ${Date.now()}\n`);
}

/** Takes all the memory there is. */
function devour() {
  const eaten: string[][] = [];
  for (;;) eaten.push(Array.from({ length: 100_000 }, (_, n) => `${n} more`));
}
