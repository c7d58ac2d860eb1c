import sql from "sql-template-tag";
import { runIds } from "./support/arguments.ts";
import { type Command, defineCommand, jsonOption, urlOption } from "./support/command.ts";
import { output, table } from "./support/output.ts";

export const command: Command = defineCommand({
  options: { ...urlOption, ...jsonOption },
  takesArguments: true,
  role: "runner",
  async run({ values, arguments: given, database }) {
    const ids = runIds(given);
    const outcomes = await database.transaction(async (execute) => {
      const rows = [];
      for (const run of ids) {
        const [row] = await execute<{ cancelled: boolean }>(
          sql`select notika.cancel(${run}::text::bigint) as cancelled`,
        );
        rows.push({ run, outcome: row?.cancelled ? "cancelled" : "had already ended" });
      }
      return rows;
    });
    output(values.json, outcomes, table);
    return outcomes.every(({ outcome }) => outcome === "cancelled") ? 0 : 1;
  },
});
