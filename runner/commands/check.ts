import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import sql from "sql-template-tag";
import { installVersion } from "../bundle.ts";
import type { Database } from "../database.ts";
import { UsageError } from "../errors.ts";
import { install } from "../install.ts";
import { openEmbedded } from "../pglite/embedded.ts";
import { indented, printable } from "../printable.ts";
import { publications, publish } from "../publish.ts";
import { loadTasks } from "../tasks.ts";
import { checkSteps } from "./check/steps.ts";
import { type Command, defineCommand, jsonOption, output, tasksOption, urlOption } from "./support/command.ts";
import { table } from "./support/table.ts";

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
  part: "publisher",
  async run(context) {
    const { values, arguments: files } = context;
    if (values.schema === undefined) {
      if (files.length > 0) return checkFiles(context.database, files, values);
      if (values.tasks !== undefined) return checkSteps(context.database, values.tasks, values.json);
      return checkState(context.database, values.json);
    }
    if (files.length === 0) throw new UsageError("--schema is for checking migrations", { hint: "Name their files." });

    const embedded = await openEmbedded({ prepare: install, version: await installVersion() });
    try {
      await embedded.database.script(await read(values.schema));
      for (const publication of publications(await loadTasks(values.tasks ?? tasksOption.tasks.default))) {
        await publish(embedded.database.execute, publication);
      }
      return await checkFiles(embedded.database, files, values);
    } finally {
      await embedded.close();
    }
  },
});

interface Verdict {
  file: string;
  line: number;
  statement: string;
  workflow: string | null;
  verdict: string;
  problem: string;
  remedy: string | null;
}

/** Whether the published workflows still have what they were published with. */
async function checkState(database: Database, json: boolean): Promise<number> {
  const found = await database.execute<{ severity: string }>(
    sql`select severity, finding, workflow, detail, remedy from notika.check()`,
  );
  output(json, found, (rows) => (rows.length > 0 ? table(rows) : "all is well\n"));
  return found.some(({ severity }) => severity === "error") ? 1 : 0;
}

/** What migrations would do, each after those before it, to the workflows that are published. */
async function checkFiles(
  database: Database,
  files: string[],
  { json, github }: { json: boolean; github: boolean },
): Promise<number> {
  const texts = await Promise.all(files.map(read));
  const starts = texts.map((_, index) => lines(texts.slice(0, index)));
  // One text, because a migration builds on the one before.
  const verdicts = await database.execute<Omit<Verdict, "file">>(sql`
    select line, statement, workflow, verdict, problem, remedy from notika.check_ddl(${texts.join("\n;\n")})`);

  const found = verdicts.map((verdict): Verdict => {
    const index = starts.findLastIndex((start) => start < verdict.line);
    return { ...verdict, file: files[index] ?? "-", line: verdict.line - (starts[index] ?? 0) };
  });
  output(json, found, (rows) => (github ? rows.map(annotation).join("") : report(rows)));
  return found.some(({ verdict }) => ["breaks", "breaks unguarded", "error"].includes(verdict)) ? 1 : 0;
}

/** How many lines the texts take when they are joined, each with a semicolon of its own behind it. */
function lines(texts: string[]): number {
  return texts.reduce((sum, text) => sum + text.split("\n").length + 1, 0);
}

async function read(file: string): Promise<string> {
  if (file === "-") return text(process.stdin);
  return readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new UsageError(error.code === "ENOENT" ? `there is no file ${file}` : `cannot read ${file}: ${error.code}`);
  });
}

function report(found: Verdict[]): string {
  if (found.length === 0) return "no workflow would notice\n";
  return found
    .map(({ file, line, workflow, verdict, problem, remedy }) =>
      [
        printable(`${file}:${line}: ${verdict}${workflow === null ? "" : ` ${workflow}`}: ${problem}`),
        ...(remedy === null ? [] : [`  ${indented(remedy, "    ")}`]),
      ].join("\n"),
    )
    .join("\n")
    .concat("\n");
}

function annotation({ file, line, workflow, verdict, problem, remedy }: Verdict): string {
  const level = { breaks: "error", "breaks unguarded": "error", error: "error", warns: "warning", unknown: "warning" };
  const escaped = (value: string) =>
    printable(value.replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A"));
  const place = escaped(file).replaceAll(":", "%3A").replaceAll(",", "%2C");
  const message = [`${verdict}${workflow === null ? "" : ` ${workflow}`}: ${problem}`, remedy ?? ""].join("\n").trim();
  return `::${level[verdict as keyof typeof level] ?? "notice"} file=${place},line=${line}::${escaped(message)}\n`;
}
