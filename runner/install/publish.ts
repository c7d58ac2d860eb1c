import sql, { join, type Sql } from "sql-template-tag";
import type { Execute } from "../database/statements.ts";
import type { Tasks } from "../workflow/load.ts";
import { optionsOf } from "../workflow/options.ts";
import { type Source, sourcesOf } from "../workflow/waits.ts";

/** A workflow to publish: on a table, or only by its schedule.  Without options a published workflow keeps its own. */
export interface Publication {
  name: string;
  on?: Source | undefined;
  options?: object;
}

/** The workflows that tasks declare, each followed by the sources that its runs wait for. */
export function publications(tasks: Tasks): Publication[] {
  return Object.entries(tasks).flatMap(([name, workflow]) => [
    ...(workflow.on || workflow.schedule ? [{ name, on: workflow.on, options: optionsOf(workflow) }] : []),
    ...Object.entries(sourcesOf(workflow)).map(([source, on]) => ({ name: `${name}:${source}`, on })),
  ]);
}

/** Publishes a workflow: `published`, `changed` or `unchanged`. */
export async function publish(execute: Execute, { name, on, options }: Publication): Promise<string> {
  const [row] = await execute<{ outcome: string }>(
    on
      ? sql`select notika.publish(${specification(name, on, options)}) as outcome`
      : sql`select notika._publish_by_time(${name}, ${json(options)}) as outcome`,
  );
  return row?.outcome ?? "";
}

/** The statements that `publish` would run, and their locks; null: none. */
export async function plan(
  execute: Execute,
  { name, on, options }: Publication,
): Promise<{ statement: string; lock: string | null }[]> {
  return execute(
    on
      ? sql`select statement, lock from notika.plan(${specification(name, on, options)})`
      : sql`select statement, lock from notika._plan_by_time(${name}, ${json(options)})`,
  );
}

// Arguments that are not given are left out, so that the defaults of the database apply.
function specification(name: string, on: Source, options?: object): Sql {
  const given = [
    sql`workflow => ${name}::text`,
    sql`table_name => ${on.table}::text`,
    on.operations && sql`operations => ${array(on.operations)}`,
    on.columns && sql`columns => ${array(on.columns)}`,
    on.watch && sql`watch => ${array(on.watch)}`,
    on.condition !== undefined && sql`condition => ${on.condition}::text`,
    on.guard && sql`guard => ${on.guard}::text`,
    on.onRename && sql`on_rename => ${on.onRename}::text`,
    options && sql`options => ${json(options)}`,
    on.match && sql`match => ${array(on.match)}`,
  ];
  return join(given.filter((argument) => argument instanceof Object));
}

// Text with a cast in SQL works the same with every driver.
function array(items: readonly string[]): Sql {
  return sql`array(select json_array_elements_text(${JSON.stringify(items)}::text::json))`;
}

function json(options: object = {}): Sql {
  return sql`${JSON.stringify(options)}::text::jsonb`;
}
