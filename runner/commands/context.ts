import type { ParseArgsConfig } from "node:util";
import { type Database, openDatabase } from "../database.ts";
import { UsageError } from "../errors.ts";

/** A command of the CLI: `run` gives its exit code, nothing means 0. */
export interface Command {
  options?: NonNullable<ParseArgsConfig["options"]>;
  /** Whether it takes arguments. */
  arguments?: boolean;
  run(context: Context): Promise<number | undefined>;
}

export interface Context {
  values: Record<string, string | boolean | undefined> & { tasks: string; json: boolean };
  positionals: string[];
  /** The database of --url or DATABASE_URL. */
  readonly database: Database;
  readonly url: string;
  close(): Promise<void>;
}

export function openContext(values: Context["values"], positionals: string[]): Context {
  let database: Database | undefined;
  return {
    values,
    positionals,
    get url() {
      const url = values.url || process.env.DATABASE_URL;
      if (typeof url !== "string") {
        throw new UsageError("no database was named", {
          hint: "Set DATABASE_URL or give --url postgres://user@host/database. Without a server: notika dev",
        });
      }
      return url;
    },
    get database() {
      database ??= openDatabase({
        connect: this.url,
        onNotice: (message) => process.stderr.write(`${message}\n`),
      });
      return database;
    },
    async close() {
      await database?.close();
    },
  };
}

/** The value of a string option. */
export function text(context: Context, name: string): string | undefined {
  const value = context.values[name];
  return typeof value === "string" ? value : undefined;
}

/** The items of an option such as `a,b`. */
export function list(context: Context, name: string): string[] | undefined {
  return text(context, name)
    ?.split(",")
    .map((item) => item.trim());
}

/** Writes data to stdout: one JSON document, or lines for people. */
export function output(context: Context, data: unknown, lines: () => string): void {
  process.stdout.write(context.values.json ? `${JSON.stringify(data, null, 2)}\n` : lines());
}
