import sql from "sql-template-tag";
import type { Context } from "../../../runner/index.ts";

interface Account {
  aid: number;
  abalance: number;
}

/** Writes down what it was woken with. */
export default async function recordBalance({ event, query }: Context<Account, "update">) {
  await query(sql`
    insert into public.recorded (run_id, aid, old_balance, new_balance)
    values (${event.id}::bigint, ${event.new.aid}, ${event.old.abalance}, ${event.new.abalance})`);
}
