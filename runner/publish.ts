import sql, { join, type Sql } from "sql-template-tag";
import type { Execute } from "./database.ts";
import type { Trigger } from "./workflow.ts";

/** Publishes a workflow as its code declares it: `published`, `changed` or `unchanged`. */
export async function publish(execute: Execute, name: string, on: Trigger): Promise<string> {
  const [row] = await execute<{ outcome: string }>(sql`select notika.publish(${specification(name, on)}) as outcome`);
  return row?.outcome ?? "";
}

/** What `publish` would do: its statements and the locks they take. */
export function plan(
  execute: Execute,
  name: string,
  on: Trigger,
): Promise<{ statement: string; lock: string | null }[]> {
  return execute(sql`select statement, lock from notika.plan(${specification(name, on)})`);
}

// What is not given is left out, so that the defaults are those of the database.
function specification(name: string, on: Trigger): Sql {
  const given = [
    sql`workflow => ${name}::text`,
    sql`table_name => ${on.table}::text`,
    on.operations && sql`operations => ${array(on.operations)}`,
    on.columns && sql`columns => ${array(on.columns)}`,
    on.watch && sql`watch => ${array(on.watch)}`,
    on.condition !== undefined && sql`condition => ${on.condition}::text`,
    on.guard && sql`guard => ${on.guard}::text`,
    on.onRename && sql`on_rename => ${on.onRename}::text`,
  ];
  return join(given.filter((argument) => argument instanceof Object));
}

// Text with a cast inside means the same to every driver.
function array(items: readonly string[]): Sql {
  return sql`array(select json_array_elements_text(${JSON.stringify(items)}::text::json))`;
}
