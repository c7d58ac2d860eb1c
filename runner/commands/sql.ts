import { installScript } from "../install/bundle.ts";
import { type Command, defineCommand } from "./support/command.ts";

export const command: Command = defineCommand({
  options: {},
  async run() {
    process.stdout.write(await installScript());
    return 0;
  },
});
