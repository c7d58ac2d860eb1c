import path from "node:path";
import sql from "sql-template-tag";
import type { Database } from "../../database/database.ts";
import { taskFiles } from "../../workflow/load.ts";
import { output, table } from "../support/output.ts";
import { type Literals, literalsOf } from "./literals.ts";

interface Remembered {
  workflow: string;
  step: string;
  runs: number;
  run: string;
}

/** Lists the steps and waits of unfinished runs that the tasks of a folder no longer have; returns the exit code. */
export async function checkSteps(database: Database, folder: string, json: boolean): Promise<number> {
  const files = new Map((await taskFiles(folder)).map((file) => [path.parse(file).name, file]));
  const remembered = await database.execute<Remembered>(
    sql`select workflow, step, runs::float8, run_id::text as run from notika._remembered()`,
  );
  const literals = new Map<string, Literals>();
  for (const { workflow } of remembered) {
    const file = files.get(workflow);
    if (file && !literals.has(workflow)) literals.set(workflow, await literalsOf(file));
  }

  const vanished = remembered
    .filter(({ workflow, step }) => !isIn(literals.get(workflow), step))
    .map((row) => ({
      ...row,
      problem: files.has(row.workflow) ? "the task has no such step" : "there is no such task",
    }));
  output(json, vanished, (rows) => (rows.length > 0 ? table(rows) : "the tasks have all steps of unfinished runs\n"));
  return vanished.length > 0 ? 1 : 0;
}

/** Whether a step is in the literals.  Its name may be name#2, of a second step, or name/key, of an item of each. */
function isIn(literals: Literals | undefined, step: string): boolean {
  const first = step.replace(/#\d+$/, "");
  const names = [step, first, ...[...first.matchAll(/\//g)].map(({ index }) => first.slice(0, index))];
  return literals !== undefined && names.some((name) => literals.has(name));
}
