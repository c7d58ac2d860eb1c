import { publish } from "../publish.ts";
import { type Command, output } from "./context.ts";
import { declaredWorkflows, triggerOptions } from "./declared.ts";
import { table } from "./table.ts";

export const command: Command = {
  arguments: true,
  options: triggerOptions,
  async run(context) {
    const workflows = await declaredWorkflows(context);
    // All or none: a deployment is not left half way.
    const published = await context.database.transaction(async (execute) => {
      const rows = [];
      for (const { name, on } of workflows) {
        rows.push({ workflow: name, table: on.table, outcome: await publish(execute, name, on) });
      }
      return rows;
    });
    output(context, published, () => (published.length > 0 ? table(published) : "no task declares a table\n"));
    return 0;
  },
};
