import { UsageError } from "../../errors.ts";

/** The ids of runs that were given; at least one. */
export function runIds(given: string[]): string[] {
  const hint = "Runs are listed by: notika runs";
  if (given.length === 0) throw new UsageError("no run was named", { hint });
  const wrong = given.find((id) => !/^\d{1,18}$/.test(id));
  if (wrong !== undefined) throw new UsageError(`${wrong} is not the id of a run`, { hint });
  return given;
}
