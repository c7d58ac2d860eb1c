import { appendFileSync } from "node:fs";
import { type Context, sql } from "../../../../runner/index.ts";

interface Item {
  id: string;
  version: number;
}

/** Notes the change it was woken for: in the database, in a step, and outside, where no transaction undoes it. */
export default async function recordChange({ event, step }: Context<Item>) {
  const { id, version } = (event.new ?? event.old) as Item;
  const change = `${event.operation}:${id}:${version}`;
  await step.query("note it", sql`insert into public.noted (change) values (${change})`);
  appendFileSync(process.env.NOTIKA_JOURNAL as string, `${change} ${Date.now()}\n`);
}
