import sql from "sql-template-tag";
import { UsageError } from "../errors.ts";
import { type Command, defineCommand, jsonOption, urlOption } from "./support/command.ts";
import { output, table } from "./support/output.ts";

export const command: Command = defineCommand({
  options: { ...urlOption, ...jsonOption },
  takesArguments: true,
  role: "publisher",
  async run({ values, arguments: names, database }) {
    if (names.length === 0) {
      throw new UsageError("no workflow is specified", { hint: "List published workflows with: notika status" });
    }
    const unpublished = await database.transaction(async (execute) => {
      const rows = [];
      for (const name of names) {
        const along = await execute<{ workflow: string }>(
          sql`select workflow from notika.workflows where starts_with(workflow, ${`${name}:`}) order by workflow`,
        );
        await execute(sql`select notika.unpublish(${name})`);
        for (const { workflow } of [{ workflow: name }, ...along]) rows.push({ workflow, outcome: "unpublished" });
      }
      return rows;
    });
    output(values.json, unpublished, table);
    return 0;
  },
});
