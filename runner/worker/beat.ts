import sql from "sql-template-tag";
import type { Statements } from "../database/statements.ts";

interface Beat {
  /** By which its jobs are locked. */
  id: string;
  host: string;
  tasks: string[];
  /** Since how many milliseconds its event loop is blocked. */
  blockedFor?: number;
}

/** Gives a runner's sign of life; false: its event loop is blocked for too long to count as alive. */
export async function beatOf({ execute }: Statements, { id, host, tasks, blockedFor }: Beat): Promise<boolean> {
  const [row] = await execute<{ counts: boolean }>(sql`
    select notika._beat(${id}, ${host}, ${process.pid}::int,
             array(select json_array_elements_text(${JSON.stringify(tasks)}::text::json)),
             ${blockedFor ?? null}::float8 * interval '1 millisecond') as counts`);
  return row?.counts === true;
}
