import { UsageError } from "../../errors.ts";
import { type Publication, publications } from "../../install/publish.ts";
import type { Trigger } from "../../workflow/event.ts";
import { loadTasks } from "../../workflow/load.ts";
import { items } from "../support/arguments.ts";
import { type Context, jsonOption, tasksOption, urlOption } from "../support/command.ts";

const triggerOptions = {
  table: { type: "string" },
  operations: { type: "string" },
  columns: { type: "string" },
  watch: { type: "string" },
  condition: { type: "string" },
  guard: { type: "string" },
  "on-rename": { type: "string" },
} as const;

/** The options of plan and publish. */
export const publishOptions = { ...urlOption, ...tasksOption, ...jsonOption, ...triggerOptions };

type Given = Context<typeof publishOptions>;

/** The workflows for plan and publish: the one that the options describe, or those that tasks declare.  Throws UsageError. */
export async function requestedPublications({ values, arguments: names }: Given): Promise<Publication[]> {
  const option = Object.keys(triggerOptions).find((name) => name in values);
  if (option === undefined) return declared(values.tasks, names);

  const [name, ...others] = names;
  if (values.table === undefined || name === undefined || others.length > 0) {
    throw new UsageError(`--${option} needs the name of one workflow, and --table`, {
      hint: "notika publish my_workflow --table my_schema.my_table",
    });
  }
  return [{ name, on: described({ ...values, table: values.table }) }];
}

async function declared(folder: string, names: string[]) {
  const tasks = await loadTasks(folder);
  const declared = publications(tasks);
  const unknown = names.find(
    (wanted) => !declared.some(({ name }) => name === wanted || name.startsWith(`${wanted}:`)),
  );
  if (unknown !== undefined) {
    throw new UsageError(`no task in ${folder} declares where ${unknown} is published`, {
      hint: `Add on: { table } to the task, or name the table here: notika publish ${unknown} --table my_schema.my_table`,
    });
  }
  // The sources that the runs of a workflow wait for are published with it.
  return declared.filter(
    ({ name }) => names.length === 0 || names.includes(name) || names.includes(name.replace(/:.*/, "")),
  );
}

// Options that are not given are left out; the database checks the others.
function described(values: Given["values"] & { table: string }): Trigger {
  const trigger = {
    table: values.table,
    operations: items(values.operations),
    columns: items(values.columns),
    watch: items(values.watch),
    condition: values.condition,
    guard: values.guard,
    onRename: values["on-rename"],
  };
  return Object.fromEntries(Object.entries(trigger).filter(([, value]) => value !== undefined)) as unknown as Trigger;
}
