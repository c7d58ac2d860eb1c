import sql from "sql-template-tag";
import { UsageError } from "../errors.ts";
import type { Command } from "./context.ts";

export const command: Command = {
  arguments: true,
  async run({ positionals, database }) {
    if (positionals.length === 0) throw new UsageError("unpublish needs a workflow");
    await database.transaction(async (execute) => {
      for (const name of positionals) await execute(sql`select notika.unpublish(${name})`);
    });
    process.stderr.write(`unpublished: ${positionals.join(", ")}\n`);
    return 0;
  },
};
