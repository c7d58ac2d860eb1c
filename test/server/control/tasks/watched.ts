import { setTimeout } from "node:timers/promises";
import sql from "sql-template-tag";
import { type Context, RetryAfter } from "../../../../runner/index.ts";

interface Item {
  id: number;
  lane: string;
  ms: number;
  failures: number;
}

/** Writes down when each attempt begins and ends; fails as often as its row says. */
export default async function watched({ event, query }: Context<Item, "insert">) {
  const { id, lane, ms, failures } = event.new;
  const [past] = await query<{ attempts: number }>(sql`
    with began as (insert into public.attempt (item_id, lane, what) values (${id}, ${lane}, 'began'))
    select count(*)::int as attempts from public.attempt where item_id = ${id} and what = 'began'`);
  await setTimeout(ms);
  const fails = (past?.attempts ?? 0) < failures;
  await query(sql`
    insert into public.attempt (item_id, lane, what) values (${id}, ${lane}, ${fails ? "failed" : "ended"})`);
  if (fails && id % 2 === 0) throw new RetryAfter(100);
  if (fails) throw new Error("not this time");
}
