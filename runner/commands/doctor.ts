import { styleText } from "node:util";
import { examine } from "../doctor/examine.ts";
import type { Finding } from "../doctor/finding.ts";
import { UsageError } from "../errors.ts";
import { indented, printable } from "../printable.ts";
import { databaseUrl } from "./support/arguments.ts";
import { type Command, defineCommand, jsonOption, urlOption } from "./support/command.ts";
import { output } from "./support/output.ts";

export const command: Command = defineCommand({
  options: { ...urlOption, ...jsonOption },
  takesArguments: true,
  async run({ values, arguments: [url, ...others] }) {
    if (others.length > 0 || (url !== undefined && values.url !== undefined)) {
      throw new UsageError("doctor examines one database");
    }
    const report = await examine(databaseUrl(url ?? values.url), process.env.NOTIKA_DIRECT_URL || undefined);
    output(values.json, report, ({ url, findings }) => `${printable(url)}\n\n${findings.map(line).join("")}`);
    return report.findings.some(({ severity }) => severity === "error") ? 1 : 0;
  },
});

const color = { ok: "green", warning: "yellow", error: "red" } as const;

/** A finding as text: severity and finding in columns, then the detail and, below it, the remedy. */
function line({ severity, finding, workflow, detail, remedy }: Finding): string {
  const subject = workflow === null ? finding : `${finding} ${workflow}`;
  const head = `${styleText(color[severity], severity.padEnd(8))} ${printable(subject).padEnd(21)} `;
  const margin = " ".repeat(31);
  // Indented more than the arrow, so that no line of a detail looks like a remedy.
  const [about, advice] = [detail, remedy ?? ""].map((text) => indented(text, `${margin}  `));
  return `${head}${about}\n${remedy === null ? "" : `${margin}→ ${advice}\n`}`;
}
