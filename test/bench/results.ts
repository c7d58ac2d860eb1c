import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { factList } from "../support/machine.ts";
import { type Arena, peerFiles, peerSql } from "./arena.ts";
import { drawChart } from "./chart.ts";
import type { Findings } from "./measure.ts";
import { asMarkdown, goalsAsMarkdown } from "./report.ts";

/** All that one run of the bench found, and where. */
export interface Results {
  at: string;
  /** What to type for the same. */
  command: string;
  minutes: number;
  machine: Record<string, string>;
  /** The settings of the servers. */
  servers: Record<string, Record<string, string>>;
  /** What could not be measured there. */
  leftOut: string[];
  parts: Record<string, Findings>;
}

export async function describeServers(arenas: Record<string, Arena>): Promise<Results["servers"]> {
  const facts = await Promise.all(
    Object.entries(arenas).map(async ([name, arena]) => [name, await arena.facts()] as const),
  );
  return Object.fromEntries(facts);
}

/** Writes RESULTS.md, results.json and chart.svg. */
export async function writeResults(folder: string, results: Results): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(path.join(folder, "results.json"), `${JSON.stringify(results, rounded)}\n`);
  await writeFile(path.join(folder, "RESULTS.md"), page(results));
  await writeFile(path.join(folder, "chart.svg"), drawChart(results));
}

const rounded = (_: string, value: unknown) => (typeof value === "number" ? Number(value.toPrecision(5)) : value);

function page({ at, command, minutes, machine, servers, leftOut, parts }: Results): string {
  return `# What Notika costs, and what others do

Written by \`${command}\` on ${at.slice(0, 10)}, in ${Number(minutes.toPrecision(2))} minutes; results.json beside it has
every sample where it was run.

Variants are measured in turn, A B C C B A …, and compared within a round: minimum, median and maximum are those of the
rounds. Ratios travel; times are those of this machine.

![Bars: what capture adds, what is left of the throughput, what a held snapshot leaves of the hand-over](chart.svg)

${factList(machine)}
${Object.entries(servers)
  .map(
    ([name, settings]) =>
      `- server "${name}": ${Object.entries(settings)
        .map((pair) => pair.join(" "))
        .join(", ")}`,
  )
  .join("\n")}
${leftOut.map((what) => `- left out: ${what}\n`).join("")}
## Goals

Set before this was built; the median counts. At best: the same of something made by hand that does nothing but
what nobody can leave out, in the same run.

${goalsAsMarkdown(Object.values(parts).flatMap(({ goals }) => goals))}

${Object.entries(parts)
  .map(([name, findings]) => `## ${name}\n\n${asMarkdown(findings.comparisons)}`)
  .join("\n")}
## The peers

Each was built for this bench from its public design and lives in the same database; what its real code does besides
is left out as said.

${peerFiles.map((name) => `- [${name}](peers/${name}.sql): ${introduction(name)}`).join("\n")}
`;
}

/** The comment that a peer's file opens with. */
function introduction(name: string): string {
  const lines = peerSql(name).split("\n");
  return lines
    .slice(
      0,
      lines.findIndex((line) => !line.startsWith("--")),
    )
    .map((line) => line.slice(3))
    .join(" ");
}
