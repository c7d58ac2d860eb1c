import sql from "sql-template-tag";
import type { Command } from "./context.ts";
import { runIds } from "./run_ids.ts";

export const command: Command = {
  arguments: true,
  async run(context) {
    let left = 0;
    for (const id of runIds(context, "cancel")) {
      const [row] = await context.database.execute<{ cancelled: boolean }>(
        sql`select notika.cancel(${id}::text::bigint) as cancelled`,
      );
      if (!row?.cancelled) left++;
      process.stderr.write(row?.cancelled ? `run ${id} is cancelled\n` : `run ${id} had ended before\n`);
    }
    return left > 0 ? 1 : 0;
  },
};
