import sql from "sql-template-tag";
import type { Context } from "../../../../runner/index.ts";

/** Writes down what it was woken with. */
export default async function watchItem({ event, query }: Context<{ id: number }, "insert">) {
  await query(sql`insert into public.done (run_id, id) values (${event.id}::bigint, ${event.new.id}::int)`);
}
