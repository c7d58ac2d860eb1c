import { type InstallReport, install } from "../install/install.ts";
import { type Command, defineCommand, directOption, jsonOption, urlOption } from "./support/command.ts";
import { output, table } from "./support/output.ts";

export const command: Command = defineCommand({
  options: { ...urlOption, ...directOption, ...jsonOption, owner: { type: "string" } },
  async run({ values, database }) {
    const report = await install(database, values.owner === undefined ? {} : { owner: values.owner });
    return reportInstall(report, values.json);
  },
});

/** Prints the steps of an installation; returns the exit code. */
export function reportInstall(report: InstallReport, json: boolean): number {
  output(json, report, ({ applied, steps }) =>
    table([...applied.map((name) => ({ step: "migration", outcome: "applied", detail: name })), ...steps]),
  );
  return report.steps.some(({ outcome }) => outcome === "failed") ? 1 : 0;
}
