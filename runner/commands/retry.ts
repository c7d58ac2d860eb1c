import sql from "sql-template-tag";
import type { Command } from "./context.ts";
import { runIds } from "./run_ids.ts";

export const command: Command = {
  arguments: true,
  async run(context) {
    for (const id of runIds(context, "retry")) {
      await context.database.execute(sql`select notika.retry(${id}::text::bigint)`);
      process.stderr.write(`run ${id} will run again\n`);
    }
    return 0;
  },
};
