import { readdirSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import type { RunnerOptions, Stage } from "./stage.ts";

/** Something that may happen, and what has to come of it.  One is one file in cases/, which exports it by default. */
export interface Fault {
  /** What happens, in a few words: a row of the table. */
  title: string;
  /** How many runners there are when it begins; default 1. */
  runners?: number;
  /** How each runner is started. */
  runner?(stage: Stage): RunnerOptions;
  /** What stands between runners and server, and between half of the writers and the server; default nothing. */
  way?: "pooler" | "relay";
  /** Transactions a second, in the long form; default 30. */
  rate?: number;
  /** What part of the changes writers undo; default 0.1. */
  undone?: number;
  /** Brings the database to where the fault begins, before anybody writes; default: Notika is installed, as it is now. */
  prepare?(stage: Stage): Promise<void>;
  /** Makes it happen, once; resolves when it is over. */
  strike(stage: Stage): Promise<void>;
  /** Whether it happens to the whole server, others' databases included. */
  ofServer?: boolean;
  /** Whether it happens only once to a database. */
  once?: boolean;
  /** Within how many milliseconds after each strike runs go on; default 15,000. */
  recovery?: number;
  /** What else must be true when all has run, as a sentence each that says what is not. */
  object?(stage: Stage): Promise<string[]> | string[];
}

const folder = path.join(import.meta.dirname, "../cases");

/** The names of all faults. */
export const faultNames = readdirSync(folder)
  .filter((file) => file.endsWith(".ts"))
  .map((file) => file.replace(/\.ts$/, ""))
  .sort();

export async function loadFault(name: string): Promise<Fault> {
  return (await import(pathToFileURL(path.join(folder, `${name}.ts`)).href)).default;
}
