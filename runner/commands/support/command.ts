import { type ParseArgsConfig, parseArgs } from "node:util";
import sql from "sql-template-tag";
import { type Database, openDatabase } from "../../database/database.ts";
import { UsageError } from "../../errors.ts";
import { indented } from "../../printable.ts";
import { databaseUrl, directUrl } from "./arguments.ts";

type Options = NonNullable<ParseArgsConfig["options"]>;

/** A command of the CLI. */
export interface Command<O extends Options = Options> {
  options: O;
  /** Whether it takes arguments: names of workflows, ids of runs. */
  takesArguments?: boolean;
  /** The values of options that are given without one. */
  bare?: Record<string, string>;
  /** The role of Notika that its user needs, unless it owns Notika. */
  role?: "publisher" | "runner" | "reader";
  /** Runs the command; returns the exit code. */
  run(context: Context<O>): Promise<number>;
}

/** The argument of a command. */
export interface Context<O extends Options = Options> {
  values: ReturnType<typeof parseArgs<{ options: O }>>["values"];
  arguments: string[];
  /** The database of --url or DATABASE_URL, or of --direct-url if the command has that option; opened at the first use. */
  readonly database: Database;
}

/** The option of every command that needs a database. */
export const urlOption = { url: { type: "string" } } as const;
/** The option of every command that should bypass a pooler. */
export const directOption = { "direct-url": { type: "string" } } as const;
export const tasksOption = { tasks: { type: "string", default: "tasks" } } as const;
export const jsonOption = { json: { type: "boolean", default: false } } as const;

/** Declares a command; the types of its values follow from its options. */
export function defineCommand<const O extends Options>(definition: Command<O>): Command {
  return definition as unknown as Command;
}

/** Runs a command with the arguments of a command line; returns the exit code. */
export async function runCommand(command: Command, args: string[]): Promise<number> {
  const { values, positionals } = parse(command, args);
  let database: Database | undefined;
  const context: Context = {
    values,
    arguments: positionals,
    get database() {
      database ??= openDatabase({
        connect: ("direct-url" in command.options && directUrl(values)) || databaseUrl(values.url),
        onNotice: (message) => process.stderr.write(`notice: ${indented(message)}\n`),
      });
      return database;
    },
  };
  try {
    return await command.run(context).catch((error) => explainRefusal(error, command, context));
  } finally {
    await database?.close();
  }
}

/** Adds a hint to a permission error of Postgres that has none: the role that the user needs. */
async function explainRefusal(error: Error & { code?: string; hint?: string }, { role }: Command, context: Context) {
  if (role && error.code === "42501" && !error.hint) {
    const [user] = await context.database.execute<{ name: string }>(
      sql`select quote_literal(quote_ident(current_user)) as name`,
    );
    error.hint = `The owner of notika runs: select notika.grant_${role}(${user?.name});`;
  }
  return Promise.reject(error);
}

function parse({ options, takesArguments = false, bare = {} }: Command, given: string[]) {
  const args = given.map((arg, index) => {
    const meant = arg.startsWith("--") && Object.hasOwn(bare, arg.slice(2)) ? bare[arg.slice(2)] : undefined;
    return meant !== undefined && (given[index + 1] ?? "-").startsWith("-") ? `${arg}=${meant}` : arg;
  });
  try {
    return parseArgs({ args, options, allowPositionals: takesArguments });
  } catch (error) {
    throw new UsageError((error as Error).message, { hint: "See: notika --help" });
  }
}
