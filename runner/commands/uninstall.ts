import sql from "sql-template-tag";
import { printable } from "../printable.ts";
import { type Command, defineCommand, jsonOption, urlOption } from "./support/command.ts";
import { output, table } from "./support/output.ts";

export const command: Command = defineCommand({
  options: {
    ...urlOption,
    ...jsonOption,
    "dry-run": { type: "boolean", default: false },
    force: { type: "boolean", default: false },
  },
  async run({ values, database }) {
    const rows = await database.transaction((execute) =>
      execute<{ step: string; outcome: string; detail: string }>(sql`
        select step, outcome, detail
          from notika.uninstall(dry_run => ${values["dry-run"]}::text::boolean, force => ${values.force}::text::boolean)`),
    );
    const isLeft = ({ outcome }: { outcome: string }) => outcome === "not removed";
    const report = {
      steps: rows.filter((row) => !isLeft(row)),
      left: rows.filter(isLeft).map(({ detail }) => detail),
    };

    output(values.json, report, ({ steps, left }) => {
      const rest =
        left.length > 0
          ? `\n-- For an administrator to run, if it was granted for Notika:\n${left.map(printable).join("\n")}\n`
          : "";
      return table(steps) + rest;
    });
    return 0;
  },
});
