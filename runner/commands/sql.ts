import { installScript } from "../bundle.ts";
import type { Command } from "./context.ts";

export const command: Command = {
  async run() {
    process.stdout.write(await installScript());
    return 0;
  },
};
