import { type Context, sql } from "../../../../runner/index.ts";
import recordEarlier, { type Item } from "../tasks/record_change.ts";

/** The task as it is after a deployment: with a step more, which runs that began before it come to as well. */
export default async function recordChange(context: Context<Item>) {
  await context.step.query("look around", sql`select 1`);
  await recordEarlier(context);
}
