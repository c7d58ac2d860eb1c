import sql from "sql-template-tag";
import { UsageError } from "../errors.ts";
import { type Command, defineCommand, jsonOption, output, urlOption } from "./support/command.ts";
import { table } from "./support/table.ts";
import { wholeNumber } from "./support/whole_number.ts";

const states = ["ready", "running", "waiting", "retrying", "held", "done", "failed", "cancelled", "expired"];

export const command: Command = defineCommand({
  options: {
    ...urlOption,
    ...jsonOption,
    workflow: { type: "string" },
    state: { type: "string" },
    limit: { type: "string", default: "20" },
  },
  part: "reader",
  async run({ values, database }) {
    const { workflow = null, state = null } = values;
    if (state !== null && !states.includes(state)) {
      throw new UsageError(`--state has no ${state}`, { hint: `States are ${states.join(", ")}.` });
    }
    const rows = await database.execute(sql`
      select run_id::text as run, workflow, state, attempts, created_at, wake_at::text, finished_at, error
        from notika.runs
       where workflow = coalesce(${workflow}::text, workflow)
         and state = coalesce(${state}::text, state)
       order by run_id desc
       limit ${wholeNumber("--limit", values.limit)}::int`);
    output(values.json, rows, (rows) => (rows.length > 0 ? table(rows) : "no runs\n"));
    return 0;
  },
});
