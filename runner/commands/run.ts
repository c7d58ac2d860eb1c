import { catchUnhandled } from "../attempt/unhandled.ts";
import { jsonLog, textLog } from "../log.ts";
import { createRunner } from "../worker/runner.ts";
import { databaseUrl, directUrl, wholeNumber } from "./support/arguments.ts";
import { type Command, defineCommand, directOption, jsonOption, tasksOption, urlOption } from "./support/command.ts";
import { stopSignal } from "./support/stop_signal.ts";

export const command: Command = defineCommand({
  options: {
    ...urlOption,
    ...directOption,
    ...tasksOption,
    ...jsonOption,
    concurrency: { type: "string", default: "10" },
    deadline: { type: "string", default: "10" },
  },
  role: "runner",
  async run({ values }) {
    const { url, tasks, json, concurrency, deadline } = values;
    const log = json ? jsonLog : textLog;
    const seconds = wholeNumber("--deadline", deadline);
    const options = { tasks, log, concurrency: wholeNumber("--concurrency", concurrency) };

    const stop = stopSignal();
    const waiting = new AbortController();
    void stop.then(() => waiting.abort());
    catchUnhandled(log);
    const starting = createRunner({
      url: databaseUrl(url),
      directUrl: directUrl(values),
      signal: waiting.signal,
      ...options,
    });
    const runner = await starting.catch((error) => {
      if (waiting.signal.aborted) return undefined;
      throw error;
    });
    if (runner) log.info("running", { tasks, pid: process.pid });
    // After an upgrade this process ends; a service manager can start it again with the new version.
    const signal = await Promise.race([stop, runner?.ended.then(() => undefined) ?? stop]);
    if (signal) log.info("stopping", { signal });
    await runner?.stop(seconds * 1000);
    log.info("stopped");
    // A task that ignores its signal would keep the process alive.
    const code = signal ? 0 : 1;
    setTimeout(() => process.exit(code), 100).unref();
    return code;
  },
});
