import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { describeMachine, factList } from "../../../support/machine.ts";
import { piped, type Table } from "../../../support/table.ts";
import type { Result } from "./trial.ts";

/** All that one run of the suite found. */
export interface Results {
  at: Date;
  /** What it was called with. */
  command: string;
  seed: number;
  /** Of the server, such as 18.4. */
  postgres: string;
  faults: { title: string; result: Result }[];
  soak?: Table | undefined;
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

export function faultTable(faults: Results["faults"]): Table {
  return [
    ["fault", "times", "load", "events written", "events run", "duplicates", "worst pause", "worst recovery", ""],
    ...faults.map(({ title, result }) => [
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

/** Writes RESULTS.md. */
export async function writeResults(folder: string, results: Results): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(path.join(folder, "RESULTS.md"), page(results));
}

function page({ at, command, seed, postgres, faults, soak }: Results): string {
  return `# What Notika survives

Written by \`${command}\` on ${at.toISOString().slice(0, 10)}, seed ${seed}.

Four sessions insert, update and delete rows in transactions of up to three changes, some of which they undo, and enter
each change into a ledger in the same transaction. Each change starts a run, which notes it in the database, in a step, and
in a file. Then every change in the ledger has to stand in the file, and nothing else, and in the database exactly once.

- **duplicates**: changes that stand in the file more than once. Of an effect outside of the database each run gives at
  least one; what a step does in the database is done exactly once, also for these.
- **worst pause**: the longest time between a change and its run, the fault's own time included.
- **worst recovery**: the longest time from the end of a fault to the run of what was written then.

${factList({ ...describeMachine(), postgres: `${postgres}, fsync on` })}

${faults.length > 0 ? piped(faultTable(faults)) : ""}
${faults.flatMap(({ title, result }) => result.objections.map((objection) => `\n- ${title}: ${objection}`)).join("")}
${soak ? `## Steady load\n\n${piped(soak)}\n` : ""}`;
}
