import { install } from "../install.ts";
import { type Command, output } from "./context.ts";
import { table } from "./table.ts";

export const command: Command = {
  async run(context) {
    const report = await install(context.database);
    output(context, report, () => table(report.steps));
    return report.steps.some(({ outcome }) => outcome === "failed") ? 1 : 0;
  },
};
