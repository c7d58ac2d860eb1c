import sql, { join, type Sql } from "sql-template-tag";
import type { Execute } from "./database.ts";
import { optionsOf } from "./options.ts";
import type { Tasks } from "./tasks.ts";
import type { Trigger } from "./workflow.ts";

/** What is to be published.  Without options a workflow keeps those that it has. */
export interface Publication {
  name: string;
  on: Trigger;
  options?: object;
}

/** What tasks declare. */
export function publications(tasks: Tasks): Publication[] {
  return Object.entries(tasks).flatMap(([name, workflow]) =>
    workflow.on ? [{ name, on: workflow.on, options: optionsOf(workflow) }] : [],
  );
}

/** Publishes a workflow: `published`, `changed` or `unchanged`. */
export async function publish(execute: Execute, publication: Publication): Promise<string> {
  const [row] = await execute<{ outcome: string }>(
    sql`select notika.publish(${specification(publication)}) as outcome`,
  );
  return row?.outcome ?? "";
}

/** What `publish` would do: its statements and the locks they take. */
export function plan(
  execute: Execute,
  publication: Publication,
): Promise<{ statement: string; lock: string | null }[]> {
  return execute(sql`select statement, lock from notika.plan(${specification(publication)})`);
}

// What is not given is left out, so that the defaults are those of the database.
function specification({ name, on, options }: Publication): Sql {
  const given = [
    sql`workflow => ${name}::text`,
    sql`table_name => ${on.table}::text`,
    on.operations && sql`operations => ${array(on.operations)}`,
    on.columns && sql`columns => ${array(on.columns)}`,
    on.watch && sql`watch => ${array(on.watch)}`,
    on.condition !== undefined && sql`condition => ${on.condition}::text`,
    on.guard && sql`guard => ${on.guard}::text`,
    on.onRename && sql`on_rename => ${on.onRename}::text`,
    options && sql`options => ${JSON.stringify(options)}::text::jsonb`,
  ];
  return join(given.filter((argument) => argument instanceof Object));
}

// Text with a cast inside means the same to every driver.
function array(items: readonly string[]): Sql {
  return sql`array(select json_array_elements_text(${JSON.stringify(items)}::text::json))`;
}
