import sql from "sql-template-tag";
import type { Database } from "../../database/database.ts";
import { indented, printable } from "../../printable.ts";
import { output } from "../support/output.ts";
import { type Migration, whatStays } from "./migration.ts";

export interface Verdict {
  file: string;
  line: number;
  statement: string;
  workflow: string | null;
  verdict: string;
  problem: string;
  remedy: string | null;
}

/** The effect of migrations, each committed after those before it, on published workflows. */
export async function judge(database: Database, migrations: Migration[]): Promise<Verdict[]> {
  const texts = migrations.map((migration) => migration.sql);
  const starts = texts.map((_, index) => lines(texts.slice(0, index)));
  const verdicts = await database.execute<Omit<Verdict, "file">>(sql`
    select line, statement, workflow, verdict, problem, remedy
      from notika.check_ddl(${texts.join("\n;commit;\n")})`);

  return verdicts.map((verdict) => {
    const index = Math.max(
      0,
      starts.findLastIndex((start) => start < verdict.line),
    );
    const migration = migrations[index];
    const line = verdict.line - (starts[index] ?? 0);
    const stays = verdict.verdict === "breaks" && migration ? whatStays(migration, line) : undefined;
    return {
      ...verdict,
      file: migration?.file ?? "-",
      line,
      remedy: stays ? [verdict.remedy, stays].filter(Boolean).join("\n") : verdict.remedy,
    };
  });
}

/** The number of lines of the joined texts, with one line added after each. */
function lines(texts: string[]): number {
  return texts.reduce((sum, text) => sum + text.split("\n").length + 1, 0);
}

/** Prints the verdicts and returns the exit code. */
export function report(found: Verdict[], { json, github }: { json: boolean; github: boolean }): number {
  output(json, found, (rows) => (github ? rows.map(annotation).join("") : inWords(rows)));
  return found.some(({ verdict }) => ["breaks", "breaks unguarded", "error"].includes(verdict)) ? 1 : 0;
}

function inWords(found: Verdict[]): string {
  if (found.length === 0) return "no workflow is affected\n";
  return found
    .map(({ file, line, workflow, verdict, problem, remedy }) =>
      [
        printable(`${file}:${line}: ${verdict}${workflow === null ? "" : ` ${workflow}`}: ${problem}`),
        ...(remedy === null ? [] : [`  ${indented(remedy, "  ")}`]),
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
