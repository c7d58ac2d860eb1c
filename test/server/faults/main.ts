// npm run test:faults: everything that Notika has to survive, again and again.
import path from "node:path";
import { parseArgs } from "node:util";
import { raw } from "sql-template-tag";
import { openDatabase } from "../../../runner/database.ts";
import { type Major, majors } from "../../support/binaries.ts";
import { aligned } from "../../support/table.ts";
import { faultNames, loadFault } from "./harness/fault.ts";
import { faultTable, type Results, together, writeResults } from "./harness/results.ts";
import { startServer } from "./harness/server.ts";
import { type Result, tryFault } from "./harness/trial.ts";

const help = `npm run test:faults -- [fault …] [options]

faults: ${faultNames.join(", ")}; without one all of them

  --minutes N     how long, more or less; default 10
  --seconds N     how long a fault is tried before it is the turn of the next; default 30
  --seed N        what decides the times; default: another each time
  --postgres N    the version of the server, ${majors.join(", ")}; default 18
  --out DIR       write RESULTS.md there; all faults: default test/server/faults`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    minutes: { type: "string", default: "10" },
    seconds: { type: "string", default: "30" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 1_000_000)) },
    postgres: { type: "string", default: "18" },
    out: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
const [minutes, seconds, seed, major] = [values.minutes, values.seconds, values.seed, values.postgres].map(Number);
const unknown = positionals.find((name) => !faultNames.includes(name));
const isNumber = [minutes, seconds, seed].every((value) => value !== undefined && value > 0);
if (values.help || unknown || !isNumber || !majors.includes(major as Major)) {
  console.error(unknown ? `there is no fault ${unknown}\n\n${help}` : help);
  process.exit(values.help ? 0 : 2);
}

const started = Date.now();
const chosen = positionals.length > 0 ? positionals : faultNames;
const out = values.out ?? (positionals.length > 0 ? undefined : import.meta.dirname);
const server = await startServer(major as Major);
const found = new Map<string, Result[]>(chosen.map((name) => [name, []]));
try {
  say(`seed ${seed}`);
  for (let round = 0; round === 0 || isTimeLeft(); round++) {
    for (const [index, name] of chosen.entries()) {
      if (round > 0 && !isTimeLeft()) break;
      say(name);
      const fault = await loadFault(name);
      const ownSeed = (seed as number) * 1000 + round * 50 + index;
      const result = await tryFault({ server, fault, seed: ownSeed, seconds: seconds as number }).catch(failed);
      for (const objection of result.objections) say(`${name}: ${objection}`);
      found.get(name)?.push(result);
    }
  }
  const results: Results = {
    at: new Date(started),
    command: `npm run test:faults -- ${process.argv.slice(2).join(" ")}`.trim(),
    seed: seed as number,
    postgres: await serverVersion(),
    faults: await Promise.all(
      [...found].map(async ([name, results]) => ({ title: (await loadFault(name)).title, result: together(results) })),
    ),
  };
  process.stdout.write(`${aligned(faultTable(results.faults))}\n`);
  if (out) {
    await writeResults(out, results);
    say(`written to ${path.relative(process.cwd(), out) || "."}`);
  }
  if (results.faults.some(({ result }) => result.objections.length > 0)) process.exitCode = 1;
} finally {
  await server.stop();
}

function isTimeLeft() {
  return Date.now() - started < (minutes as number) * 60_000;
}

function failed(error: Error): Result {
  const nothing = { rate: 0, strikes: 0, written: 0, ran: 0, twice: 0, worstPause: 0, worstRecovery: 0 };
  return { ...nothing, objections: [error.message] };
}

async function serverVersion(): Promise<string> {
  const database = openDatabase({ connect: server.url, connections: 1 });
  const [row] = await database.execute<{ version: string }>(raw("show server_version")).finally(database.close);
  return row?.version.split(" ")[0] ?? "";
}

function say(progress: string) {
  const passed = new Date(Date.now() - started).toISOString().slice(11, 19);
  process.stderr.write(`${passed}  ${progress}\n`);
}
