import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import type { Log } from "../log.ts";
import type { Tasks } from "../workflow/load.ts";
import { type Source, sourcesOf } from "../workflow/waits.ts";

/** Warns of workflows and sources that tasks declare and that are not published, or are published differently. */
export async function warnOfUnpublished(database: Database, tasks: Tasks, log: Log) {
  const published = await database.execute<Published>(
    sql`select workflow, table_name, operations, columns, watch, condition, match from notika.workflows`,
  );
  const found = new Map(published.map((row) => [row.workflow, row]));
  for (const [name, workflow] of Object.entries(tasks)) {
    if (!found.has(name)) {
      const { on, schedule } = workflow;
      const hint =
        on || schedule ? `npx notika publish ${name}` : `npx notika publish ${name} --table <schema>.<table>`;
      log.warn(`task ${name} is not published, so nothing wakes it`, { hint });
      continue;
    }
    const hint = `npx notika publish ${name}`;
    for (const [source, declared] of Object.entries(sourcesOf(workflow))) {
      const own = found.get(`${name}:${source}`);
      if (!own) log.warn(`${name}:${source} is not published, so no change ends a wait for it`, { hint });
      else if (!isAsDeclared(own, declared)) {
        log.warn(`${name}:${source} is published differently from what the task declares`, { hint });
      }
    }
  }
}

interface Published {
  workflow: string;
  table_name: string | null;
  operations: string[];
  columns: string[] | null;
  watch: string[] | null;
  condition: string | null;
  match: string[] | null;
}

function isAsDeclared(published: Published, { table, operations = ["insert"], condition, ...declared }: Source) {
  const plain = (name: string | null) => name?.replaceAll('"', "").toLowerCase();
  const set = (names: readonly string[] | null | undefined) => JSON.stringify([...new Set(names ?? [])].sort());
  return (
    plain(published.table_name) === plain(table) &&
    set(published.operations) === set(operations) &&
    (published.condition ?? "") === (condition ?? "").trim() &&
    (["columns", "watch", "match"] as const).every((part) => set(published[part]) === set(declared[part]))
  );
}
