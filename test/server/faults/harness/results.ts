import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { describeMachine, factList } from "../../../support/machine.ts";
import { piped, type Table } from "../../../support/table.ts";
import type { Soak } from "./soak.ts";
import type { Result } from "./trial.ts";

/** One run of the suite. */
export interface Call {
  at: string;
  command: string;
  seed: number;
  /** Of the server, such as 18.4. */
  postgres: string;
}

/** What is known, each part from the last run that found it. */
export interface Results {
  faults?: Call & { found: { title: string; result: Result }[] };
  soak?: Call & Soak;
}

/** Adds up what came of the same fault several times. */
export function together(results: Result[]): Result {
  const sum = (of: (result: Result) => number) => results.reduce((total, result) => total + of(result), 0);
  const worst = (of: (result: Result) => number) => Math.max(...results.map(of));
  return {
    rate: sum(({ rate }) => rate) / results.length,
    strikes: sum(({ strikes }) => strikes),
    written: sum(({ written }) => written),
    ran: sum(({ ran }) => ran),
    twice: sum(({ twice }) => twice),
    worstPause: worst(({ worstPause }) => worstPause),
    worstRecovery: worst(({ worstRecovery }) => worstRecovery),
    objections: results.flatMap(({ objections }) => objections),
  };
}

export function faultTable(found: { title: string; result: Result }[]): Table {
  return [
    ["fault", "times", "load", "events written", "events run", "duplicates", "worst pause", "worst recovery", ""],
    ...found.map(({ title, result }) => [
      title,
      count(result.strikes),
      `${Math.round(result.rate)} tx/s`,
      count(result.written),
      count(result.ran),
      count(result.twice),
      seconds(result.worstPause),
      seconds(result.worstRecovery),
      result.objections.length === 0 ? "proven" : "**failed**",
    ]),
  ];
}

const count = (number: number) => number.toLocaleString("en");
const seconds = (milliseconds: number) => `${(milliseconds / 1000).toFixed(1)} s`;

/** Writes RESULTS.md, and results.json, from which the parts come that this run has not found. */
export async function writeResults(folder: string, found: Results): Promise<void> {
  const file = path.join(folder, "results.json");
  const before = await readFile(file, "utf8").catch(() => "{}");
  const results: Results = { ...JSON.parse(before), ...found };
  await mkdir(folder, { recursive: true });
  await writeFile(file, `${JSON.stringify(results, undefined, 1)}\n`);
  await writeFile(path.join(folder, "RESULTS.md"), page(results));
}

function page({ faults, soak }: Results): string {
  return `# What Notika survives

Four sessions insert, update and delete rows in transactions of up to three changes, some of which they undo, and enter
each change into a ledger in the same transaction. Each change starts a run, which notes it in the database, in a step,
and in a file. In the end every change of the ledger has to stand in the file, nothing else may, and in the database each
has to stand exactly once.

${factList(describeMachine())}
${faults ? faultSection(faults) : ""}${soak ? soakSection(soak) : ""}`;
}

function faultSection({ found, ...call }: NonNullable<Results["faults"]>): string {
  return `
## Faults

${origin(call)}

- **duplicates**: changes that stand in the file more than once. An effect outside of the database takes place at least
  once; what a step does in the database takes place once, for these too.
- **worst pause**: the longest time between a change and its run, with the fault in between. A runner that was killed is
  given up within a minute.
- **worst recovery**: the longest time from the end of a fault to the next run.

${piped(faultTable(found))}
${asList(found.flatMap(({ title, result }) => result.objections.map((objection) => `${title}: ${objection}`)))}`;
}

function soakSection({ table, objections, ...call }: NonNullable<Results["soak"]>): string {
  return `
## A steady load

${origin(call)} The ring turns every minute.

${piped(table)}
${asList(objections)}`;
}

const origin = ({ at, command, seed, postgres }: Call) =>
  `Written by \`${command}\` on ${at.slice(0, 10)}, seed ${seed}, PostgreSQL ${postgres}, fsync on.`;

const asList = (lines: string[]) => lines.map((line) => `\n- **failed** ${line}\n`).join("");
