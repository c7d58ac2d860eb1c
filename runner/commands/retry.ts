import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { UsageError } from "../errors.ts";
import { runIds, since } from "./support/arguments.ts";
import { type Command, defineCommand, jsonOption, urlOption } from "./support/command.ts";
import { output, table } from "./support/output.ts";

export const command: Command = defineCommand({
  options: {
    ...urlOption,
    ...jsonOption,
    workflow: { type: "string" },
    since: { type: "string" },
    "from-start": { type: "boolean", default: false },
  },
  takesArguments: true,
  role: "runner",
  async run({ values, arguments: given, database }) {
    const { workflow, since: from } = values;
    if (workflow === undefined && from === undefined) {
      output(values.json, await retryRuns(database, runIds(given), values["from-start"]), table);
      return 0;
    }
    if (workflow === undefined || from === undefined || given.length > 0) {
      throw new UsageError("retry needs ids of runs, or --workflow and --since for all that failed", {
        hint: "For example: notika retry --workflow welcome_email --since 2h",
      });
    }
    const [row] = await database.execute<{ runs: number }>(sql`
      select notika.retry(${workflow}::text, ${since(from)}, ${String(values["from-start"])}::text::boolean) as runs`);
    output(values.json, { workflow, runs: row?.runs ?? 0 }, ({ runs }) =>
      runs === 1 ? "1 run will run again\n" : `${runs} runs will run again\n`,
    );
    return 0;
  },
});

function retryRuns(database: Database, ids: string[], fromStart: boolean) {
  return database.transaction(async (execute) => {
    for (const id of ids) {
      await execute(sql`select notika.retry(${id}::text::bigint, ${String(fromStart)}::text::boolean)`);
    }
    return ids.map((run) => ({ run, outcome: "will run again" }));
  });
}
