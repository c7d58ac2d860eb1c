import sql from "sql-template-tag";
import { UsageError } from "../errors.ts";
import { type Command, defineCommand, jsonOption, output, urlOption } from "./support/command.ts";
import { table } from "./support/table.ts";

export const command: Command = defineCommand({
  options: { ...urlOption, ...jsonOption },
  takesArguments: true,
  part: "publisher",
  async run({ values, arguments: names, database }) {
    if (names.length === 0) {
      throw new UsageError("no workflow was named", { hint: "Those that are published are listed by: notika status" });
    }
    await database.transaction(async (execute) => {
      for (const name of names) await execute(sql`select notika.unpublish(${name})`);
    });
    output(
      values.json,
      names.map((workflow) => ({ workflow, outcome: "unpublished" })),
      table,
    );
    return 0;
  },
});
