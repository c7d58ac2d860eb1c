import { setTimeout } from "node:timers/promises";
import sql from "sql-template-tag";
import { type Context, workflow } from "../../../../runner/index.ts";

interface Item {
  id: number;
  ms: number;
}

/** Writes down the events that it was given, in one transaction. */
export default workflow({
  async run({ event, events, step }: Context<Item, "insert">) {
    await setTimeout(event.new.ms);
    const items = JSON.stringify(events.map((event) => event.new.id));
    await step.query(
      "write down",
      sql`insert into public.gathered (run_id, item_id)
          select ${event.id}::text::bigint, json_array_elements_text(${items}::text::json)::int`,
    );
  },
});
