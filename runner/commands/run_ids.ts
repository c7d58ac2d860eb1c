import { UsageError } from "../errors.ts";
import type { Context } from "./context.ts";

/** The run ids among the arguments. */
export function runIds({ positionals }: Context, command: string): string[] {
  if (positionals.length === 0)
    throw new UsageError(`${command} needs a run`, { hint: "Runs are listed by: notika runs" });
  for (const id of positionals) {
    if (!/^\d{1,18}$/.test(id)) throw new UsageError(`${id} is not a run`, { hint: "Runs are listed by: notika runs" });
  }
  return positionals;
}
