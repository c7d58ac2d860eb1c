import { installScript, upgradeScript } from "../install/bundle.ts";
import { type Command, defineCommand } from "./support/command.ts";

export const command: Command = defineCommand({
  options: { from: { type: "string" } },
  async run({ values }) {
    process.stdout.write(await (values.from === undefined ? installScript() : upgradeScript(values.from)));
    return 0;
  },
});
