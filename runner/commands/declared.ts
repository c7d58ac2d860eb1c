import { UsageError } from "../errors.ts";
import { loadTasks } from "../tasks.ts";
import type { Trigger } from "../workflow.ts";
import { type Command, type Context, list, text } from "./context.ts";

export const triggerOptions = {
  table: { type: "string" },
  operations: { type: "string" },
  columns: { type: "string" },
  watch: { type: "string" },
  condition: { type: "string" },
  guard: { type: "string" },
  "on-rename": { type: "string" },
} as const satisfies Command["options"];

/** The workflows a command is about: one that the options describe, or those that the code declares. */
export async function declaredWorkflows(context: Context): Promise<{ name: string; on: Trigger }[]> {
  const names = context.positionals;
  const table = text(context, "table");
  if (table !== undefined) {
    const [name] = names;
    if (name === undefined || names.length > 1) {
      throw new UsageError("--table describes one workflow", { hint: `notika publish my_workflow --table ${table}` });
    }
    return [{ name, on: triggerOf(context, table) }];
  }
  const described = Object.keys(triggerOptions).find((option) => context.values[option] !== undefined);
  if (described) throw new UsageError(`--${described} needs --table`);

  const tasks = await loadTasks(context.values.tasks);
  const unknown = names.find((name) => !tasks[name]?.on);
  if (unknown !== undefined) {
    throw new UsageError(`no task in ${context.values.tasks} declares where ${unknown} is published`, {
      hint: `Give the task an on: { table }, or name it here: notika publish ${unknown} --table <schema>.<table>`,
    });
  }
  return Object.entries(tasks).flatMap(([name, { on }]) =>
    on && (names.length === 0 || names.includes(name)) ? [{ name, on }] : [],
  );
}

function triggerOf(context: Context, table: string): Trigger {
  const given = {
    operations: list(context, "operations"),
    columns: list(context, "columns"),
    watch: list(context, "watch"),
    condition: text(context, "condition"),
    guard: text(context, "guard"),
    onRename: text(context, "on-rename"),
  };
  const present = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return { table, ...present }; // the database judges the values, and says what would be right
}
