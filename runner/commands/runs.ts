import sql from "sql-template-tag";
import { UsageError } from "../errors.ts";
import { type Command, output, text } from "./context.ts";
import { table } from "./table.ts";

export const command: Command = {
  options: { workflow: { type: "string" }, state: { type: "string" }, limit: { type: "string", default: "20" } },
  async run(context) {
    const limit = text(context, "limit") ?? "";
    if (!/^\d{1,6}$/.test(limit)) throw new UsageError("--limit needs a number");
    const rows = await context.database.execute(sql`
      select run_id::text as run, workflow, state, attempts, created_at, wake_at::text, finished_at, error
        from notika.runs
       where (workflow = ${text(context, "workflow") ?? null}::text or ${text(context, "workflow") ?? null}::text is null)
         and (state = ${text(context, "state") ?? null}::text or ${text(context, "state") ?? null}::text is null)
       order by run_id desc
       limit ${limit}::text::int`);
    output(context, rows, () => (rows.length > 0 ? table(rows) : "no runs\n"));
    return 0;
  },
};
