#!/usr/bin/env node
import { parseArgs } from "node:util";
import { type Command, type Context, openContext } from "./commands/context.ts";
import { UsageError } from "./errors.ts";
import { version } from "./version.ts";

const commands: Record<string, () => Promise<{ command: Command }>> = {
  dev: () => import("./commands/dev.ts"),
  install: () => import("./commands/install.ts"),
  upgrade: () => import("./commands/install.ts"),
  plan: () => import("./commands/plan.ts"),
  publish: () => import("./commands/publish.ts"),
  unpublish: () => import("./commands/unpublish.ts"),
  run: () => import("./commands/run.ts"),
  status: () => import("./commands/status.ts"),
  runs: () => import("./commands/runs.ts"),
  retry: () => import("./commands/retry.ts"),
  cancel: () => import("./commands/cancel.ts"),
  sql: () => import("./commands/sql.ts"),
};

const help = `notika: run workflows from row changes in your own Postgres

  notika dev [--example]         try it: an embedded Postgres, tasks reloaded on change
  notika install                 put Notika into a database; upgrade does the same later
  notika sql                     print the same as one SQL file, for psql
  notika plan [WORKFLOW…]        what publish would do
  notika publish [WORKFLOW…]     publish workflows as their code declares them, or
                                 one by --table SCHEMA.TABLE --operations insert,update,delete
                                 --columns a,b --watch a --condition SQL --guard block|warn|off
                                 --on-rename follow|block
  notika unpublish WORKFLOW…     take their triggers away
  notika run                     run tasks until stopped
  notika status                  workflows, what waits, what failed, what is missing
  notika runs                    the latest runs: --workflow, --state, --limit
  notika retry RUN…              run again what has ended
  notika cancel RUN…             end what has not

Options of all: --url URL (or DATABASE_URL), --tasks FOLDER (default tasks), --json, --help, --version
Exit codes: 0 done, 1 failed, 2 misuse
`;

const common = {
  url: { type: "string" },
  tasks: { type: "string", default: "tasks" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

process.exitCode = await main(process.argv.slice(2));

async function main([name, ...args]: string[]): Promise<number> {
  let context: Context | undefined;
  try {
    if (name === undefined) throw new UsageError("no command was given", { hint: "See: notika --help" });
    if (["help", "--help", "-h"].includes(name)) return print(help);
    if (["version", "--version", "-v"].includes(name)) return print(`${await version()}\n`);
    const load = commands[name];
    if (!load) throw new UsageError(`there is no command ${name}`, { hint: "See: notika --help" });

    const { command } = await load();
    const { values, positionals } = parse(args, command);
    if (values.help) return print(help);
    context = openContext(values, positionals);
    return (await command.run(context)) ?? 0;
  } catch (error) {
    complain(error as Error);
    return error instanceof UsageError ? 2 : 1;
  } finally {
    await context?.close();
  }
}

function parse(args: string[], command: Command) {
  try {
    const parsed = parseArgs({
      args,
      options: { ...common, ...command.options },
      allowPositionals: true,
    });
    if (parsed.positionals.length > 0 && !command.arguments) {
      throw new Error(`unexpected argument ${parsed.positionals[0]}`);
    }
    return parsed as { values: Context["values"]; positionals: string[] };
  } catch (error) {
    throw new UsageError((error as Error).message, { hint: "See: notika --help" });
  }
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

function complain(error: Error & { detail?: string; hint?: string | undefined; code?: string }) {
  const said = [`error: ${error.message || error.code}`];
  if (error.detail) said.push(`detail: ${error.detail}`);
  if (error.hint) said.push(`hint: ${error.hint}`);
  process.stderr.write(`${said.join("\n")}\n`);
}
