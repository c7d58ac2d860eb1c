import { existsSync } from "node:fs";
import path from "node:path";
import { catchUnhandled } from "../attempt/unhandled.ts";
import { NotikaError, UsageError } from "../errors.ts";
import { version } from "../install/version.ts";
import { styled } from "../log.ts";
import { printable } from "../printable.ts";
import { devLog } from "./dev/console.ts";
import { runExample, writeExample } from "./dev/example.ts";
import { startPostgres } from "./dev/postgres.ts";
import { startSession } from "./dev/session.ts";
import { type Command, defineCommand, tasksOption } from "./support/command.ts";
import { stopSignal } from "./support/stop_signal.ts";

export const command: Command = defineCommand({
  options: {
    ...tasksOption,
    example: { type: "boolean", default: false },
    port: { type: "string", default: "54320" },
    data: { type: "string", default: ".notika" },
  },
  async run({ values: { tasks, example, port, data } }) {
    if (!/^\d{1,5}$/.test(port) || Number(port) > 65535) throw new UsageError(`--port needs a port, not ${port}`);
    const folder = path.resolve(tasks);
    if (example) await writeExample(folder);
    else if (!existsSync(folder)) {
      throw new NotikaError("NOTIKA_TASKS", `there is no folder ${tasks}`, {
        hint: "To start from an example, two tasks, their tables and some rows: notika dev --example",
      });
    }

    const stop = stopSignal();
    catchUnhandled(devLog);
    say(`${styled("bold", `Notika ${await version()}`)}, starting a Postgres in this process …\n`);
    const postgres = await startPostgres(path.resolve(data), Number(port));
    try {
      const url = `postgres://postgres@127.0.0.1:${postgres.port}/postgres`;
      const isTaken = port !== "0" && Number(port) !== postgres.port;
      say(`  Postgres  ${styled("bold", url)}${isTaken ? ` (port ${port} is taken)` : ""}`);
      say(`  data      ${printable(data)}, kept for the next start`);
      say(`  tasks     ${printable(tasks)}, loaded again when they change`);
      if (example) say("  example   tasks, schema.sql and seed.sql, which you may change");
      say("");

      if (example) await runExample(postgres.database, folder, "schema.sql");
      const endSession = await startSession(postgres.database, folder, devLog);
      try {
        say("\nTry it in another terminal; Ctrl-C stops.");
        say(`  psql ${url}${example ? ` -c "${tryThis}"` : ""}`);
        say(`  npx notika status --url ${url}\n`);
        if (example && postgres.isNew) await runExample(postgres.database, folder, "seed.sql");
        say(`\n${await stop}: stopping`);
      } finally {
        await endSession();
      }
    } finally {
      await postgres.close();
    }
    return 0;
  },
});

const tryThis = "insert into shop.customers (name, email) values ('Alan', 'alan@example.com')";

function say(text: string) {
  process.stderr.write(`${text}\n`);
}
