import sql from "sql-template-tag";
import { type Command, defineCommand, jsonOption, output, urlOption } from "./support/command.ts";
import { runIds } from "./support/run_ids.ts";
import { table } from "./support/table.ts";

export const command: Command = defineCommand({
  options: { ...urlOption, ...jsonOption },
  takesArguments: true,
  part: "runner",
  async run({ values, arguments: given, database }) {
    const ids = runIds(given);
    await database.transaction(async (execute) => {
      for (const id of ids) await execute(sql`select notika.retry(${id}::text::bigint)`);
    });
    output(
      values.json,
      ids.map((run) => ({ run, outcome: "will run again" })),
      table,
    );
    return 0;
  },
});
