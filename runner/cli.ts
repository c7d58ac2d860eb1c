#!/usr/bin/env node
import { type Command, runCommand } from "./commands/support/command.ts";
import { complaint, exitCode, lastWords } from "./commands/support/output.ts";
import { UsageError } from "./errors.ts";
import { version } from "./install/version.ts";

const help = `notika: run workflows from row changes in your own Postgres

Try it
  notika dev --example        an embedded Postgres and an example in this folder; needs nothing else
  notika dev                  the same with your tasks, loaded again when they change
                              --port 54320  --data .notika

Set up a database
  notika doctor [URL]         test the connection and the installation; print how to repair problems
  notika grant ROLE           print the SQL that grants a role what it needs to own Notika:
                              --schema app  --tables app.users,app.orders
                              --revoke to take it back  --apply to run it
  notika install              install Notika in the database; for an administrator, its owner is
                              the role notika, or another: --owner ROLE
  notika sql                  print the same as one SQL file, for psql; --from VERSION prints what
                              an upgrade from that version does
  notika plan [WORKFLOW…]     show what publish would do
  notika publish [WORKFLOW…]  publish workflows as their tasks declare them; or one, with:
                              --table SCHEMA.TABLE  --operations insert,update,delete
                              --columns a,b  --watch a,b  --condition SQL
                              --guard block|warn|off  --on-rename follow|block
  notika check                check that published workflows still have what they need
  notika check --tasks        list steps in runs that the code of their tasks no longer has
  notika check FILE…|-        show what migrations would do to them; runs the text in the database,
                              with the rights of its login, and rolls it back: --github for
                              annotations; --schema schema.sql, also from pg_dump, needs no database
                              and uses the workflows of the tasks: for text that is not trusted,
                              such as a pull request
  notika unpublish WORKFLOW…  drop their triggers; events captured before still run
  notika upgrade              upgrade Notika in the database to this version; --dry-run shows what
                              that does, and which locks it takes
  notika uninstall            remove Notika: --dry-run shows what that does;
                              --force even while a runner is alive

Run it
  notika run                  run tasks until stopped: --concurrency 10  --deadline 10 (seconds)
  notika status               show what is published, waits, runs, has failed, or has no task
  notika runs                 list the latest runs: --workflow NAME  --state STATE
                              --since 2h|2026-11-20  --table SCHEMA.TABLE  --key COLUMN=VALUE
                              --limit 20  --tail prints runs as they end, until stopped
  notika runs RUN             show one run: its event, steps, errors, and what happens next
  notika retry RUN…           run ended runs again: from the step that failed, or --from-start
  notika retry --workflow NAME --since 2h    the same for all that have failed since then
  notika cancel RUN…          cancel runs that have not ended

Options
  --url URL                   postgres://user@host/database; default: DATABASE_URL; a password
                              belongs there, or in PGPASSWORD or PGPASSFILE: others on this
                              machine can read arguments until the command has started
  --direct-url URL            for install, upgrade and run: the same database, bypassing a pooler
                              in transaction mode; default: NOTIKA_DIRECT_URL
  --tasks FOLDER              folder of the tasks, such as tasks/welcome_email.ts; default: tasks
  --json                      data as one JSON document, the log as one JSON object a line
  --help, --version

Exit codes: 0 done, 1 failed, 2 misuse
`;

const commands: Record<string, () => Promise<{ command: Command }>> = {
  dev: () => import("./commands/dev.ts"),
  doctor: () => import("./commands/doctor.ts"),
  grant: () => import("./commands/grant.ts"),
  install: () => import("./commands/install.ts"),
  upgrade: () => import("./commands/upgrade.ts"),
  uninstall: () => import("./commands/uninstall.ts"),
  sql: () => import("./commands/sql.ts"),
  plan: () => import("./commands/plan.ts"),
  publish: () => import("./commands/publish.ts"),
  check: () => import("./commands/check.ts"),
  unpublish: () => import("./commands/unpublish.ts"),
  run: () => import("./commands/run.ts"),
  status: () => import("./commands/status.ts"),
  runs: () => import("./commands/runs.ts"),
  retry: () => import("./commands/retry.ts"),
  cancel: () => import("./commands/cancel.ts"),
};

// Others on this machine can read the arguments of a process, and --url may hold a password.
process.title = ["notika", ...process.argv.slice(2, 3).filter((name) => Object.hasOwn(commands, name))].join(" ");
// A reader such as head closes the pipe early.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
// The error may quote a row, so it is made printable.  Commands that run tasks add a listener of their own.
process.on("uncaughtException", (error) => {
  if (process.listenerCount("uncaughtException") > 1) return;
  process.stderr.write(lastWords(error));
  process.exit(1);
});
process.exitCode = await main(process.argv.slice(2));

async function main(args: string[]): Promise<number> {
  try {
    const [name, ...others] = args;
    if (name === "help" || args.includes("--help") || args.includes("-h")) return print(help);
    if (name === "--version" || name === "-v") return print(`${await version()}\n`);
    if (name === undefined) {
      process.stderr.write(`error: no command was given\n\n${help}`);
      return 2;
    }

    const load = Object.hasOwn(commands, name) ? commands[name] : undefined;
    if (!load) throw new UsageError(`there is no command ${name}`, { hint: "See: notika --help" });
    const { command } = await load();
    return await runCommand(command, others);
  } catch (error) {
    process.stderr.write(complaint(error as Error));
    return exitCode(error);
  }
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}
