import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { UsageError } from "../errors.ts";
import { printableScript } from "../printable.ts";
import { loadTasks } from "../workflow/load.ts";
import { judgeInProcess } from "./check/in_process.ts";
import { type Migration, notWhole, readMigration } from "./check/migration.ts";
import { readSql } from "./check/read.ts";
import { checkSteps } from "./check/steps.ts";
import { judge, report } from "./check/verdicts.ts";
import { type Command, defineCommand, jsonOption, tasksOption, urlOption } from "./support/command.ts";
import { output, table } from "./support/output.ts";

export const command: Command = defineCommand({
  options: {
    ...urlOption,
    ...jsonOption,
    tasks: { type: "string" },
    schema: { type: "string" },
    github: { type: "boolean", default: false },
  },
  takesArguments: true,
  bare: { tasks: tasksOption.tasks.default },
  role: "publisher",
  async run(context) {
    const { values, arguments: files } = context;
    if (values.schema === undefined) {
      if (files.length > 0) return report(await judge(context.database, await readFiles(files)), values);
      if (values.tasks !== undefined) return checkSteps(context.database, values.tasks, values.json);
      return checkState(context.database, values.json);
    }
    if (files.length === 0) throw new UsageError("--schema is for checking migrations", { hint: "Name their files." });

    const tasks = await loadTasks(values.tasks ?? tasksOption.tasks.default);
    return report(await judgeInProcess(values.schema, tasks, await readFiles(files)), values);
  },
});

async function readFiles(files: string[]): Promise<Migration[]> {
  const migrations = await Promise.all(files.map(async (file) => readMigration(file, await readSql(file))));
  process.stderr.write(printableScript(notWhole(migrations)));
  return migrations;
}

/** Checks that published workflows still have the tables and columns that they need; returns the exit code. */
async function checkState(database: Database, json: boolean): Promise<number> {
  const found = await database.execute<{ severity: string }>(
    sql`select severity, finding, workflow, detail, remedy from notika.check()`,
  );
  output(json, found, (rows) => (rows.length > 0 ? table(rows) : "all is well\n"));
  return found.some(({ severity }) => severity === "error") ? 1 : 0;
}
