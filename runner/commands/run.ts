import { UsageError } from "../errors.ts";
import { jsonLog, textLog } from "../log.ts";
import { createRunner } from "../runner.ts";
import { type Command, text } from "./context.ts";
import { stopSignal } from "./stop_signal.ts";

export const command: Command = {
  options: {
    concurrency: { type: "string", default: "10" },
    deadline: { type: "string", default: "10" },
  },
  async run(context) {
    const log = context.values.json ? jsonLog : textLog;
    const concurrency = wholeNumber(context, "concurrency");
    const deadline = wholeNumber(context, "deadline") * 1000;

    const stop = stopSignal();
    const runner = await createRunner({ url: context.url, tasks: context.values.tasks, concurrency, log });
    log.info("running", { tasks: context.values.tasks, pid: process.pid });
    log.info("stopping", { signal: await stop });
    await runner.stop(deadline);
    log.info("stopped");
    // What ignored its signal would keep the process alive.
    setTimeout(() => process.exit(0), 100).unref();
    return 0;
  },
};

function wholeNumber(context: Parameters<Command["run"]>[0], name: string): number {
  const value = text(context, name) ?? "";
  if (!/^[1-9]\d{0,5}$/.test(value)) throw new UsageError(`--${name} needs a whole number from 1`);
  return Number(value);
}
