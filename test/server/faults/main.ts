// npm run test:faults: everything that Notika has to survive, again and again.
import path from "node:path";
import { parseArgs } from "node:util";
import { raw } from "sql-template-tag";
import { openDatabase } from "../../../runner/database/database.ts";
import { type Major, majors } from "../../support/binaries.ts";
import { build } from "../../support/build.ts";
import { aligned } from "../../support/table.ts";
import { faultNames, loadFault } from "./harness/fault.ts";
import { type Call, faultTable, type Results, together, writeResults } from "./harness/results.ts";
import { startServer } from "./harness/server.ts";
import { soak } from "./harness/soak.ts";
import { type Result, tryFault } from "./harness/trial.ts";

const help = `npm run test:faults -- [fault …] [options]

faults: ${faultNames.join(", ")}; without one all of them
        soak: none, a steady load

  --minutes N     how long, more or less; default 10
  --seconds N     how long a fault is tried before it is the turn of the next; default 30
  --rate N        transactions a second of the soak; default 50
  --seed N        what decides the times; default: another each time
  --postgres N    the version of the server, ${majors.join(", ")}; default 18
  --out DIR       write RESULTS.md there; all faults: default test/server/faults; soak, too`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    minutes: { type: "string", default: "10" },
    seconds: { type: "string", default: "30" },
    rate: { type: "string", default: "50" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 1_000_000)) },
    postgres: { type: "string", default: "18" },
    out: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
const { minutes, seconds, rate, seed } = numbers(["minutes", "seconds", "rate", "seed"]);
const major = Number(values.postgres) as Major;
const isSoak = positionals.length === 1 && positionals[0] === "soak";
const unknown = positionals.find((name) => !isSoak && !faultNames.includes(name));
if (values.help || unknown || !majors.includes(major)) misuse(unknown && `there is no fault ${unknown}`);

const faultOptions = ["--minutes", minutes, "--seconds", seconds];
const soakOptions = ["--minutes", minutes, "--rate", rate];
const started = Date.now();
const chosen = positionals.length > 0 ? positionals : faultNames;
const out = values.out ?? (isSoak || positionals.length === 0 ? import.meta.dirname : undefined);
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1)); // runners end, too
await build();
const server = await startServer(major);
try {
  say(`seed ${seed}`);
  const call: Call = {
    at: new Date(started).toISOString(),
    command: ["npm run test:faults --", ...positionals, ...(isSoak ? soakOptions : faultOptions)].join(" "),
    seed,
    postgres: await serverVersion(),
  };
  const results: Results = isSoak
    ? { soak: { ...call, ...(await soak({ server, seed, minutes, rate, say })) } }
    : { faults: { ...call, found: await tryFaults() } };
  const { table, objections } = results.soak ?? summary(results.faults?.found ?? []);
  process.stdout.write(`${aligned(table)}\n${objections.map((objection) => `failed: ${objection}\n`).join("")}`);
  if (objections.length > 0) process.exitCode = 1;
  if (out) {
    await writeResults(out, results);
    say(`written to ${path.relative(process.cwd(), out) || "."}`);
  }
} finally {
  await server.stop();
}

/** Tries each fault in turn, as long as there is time, and at least once. */
async function tryFaults() {
  const found = new Map<string, Result[]>(chosen.map((name) => [name, []]));
  for (let round = 0; round === 0 || isTimeLeft(); round++) {
    for (const [index, name] of chosen.entries()) {
      if (round > 0 && !isTimeLeft()) break;
      say(name);
      const fault = await loadFault(name);
      const ownSeed = seed * 1000 + round * 50 + index;
      const result = await tryFault({ server, fault, seed: ownSeed, seconds }).catch(failed);
      for (const objection of result.objections) say(`${name}, seed ${ownSeed}: ${objection}`);
      found.get(name)?.push(result);
    }
  }
  return Promise.all(
    [...found].map(async ([name, results]) => ({ title: (await loadFault(name)).title, result: together(results) })),
  );
}

function summary(found: { title: string; result: Result }[]) {
  return { table: faultTable(found), objections: found.flatMap(({ result }) => result.objections) };
}

function isTimeLeft() {
  return Date.now() - started < minutes * 60_000;
}

function failed(error: Error): Result {
  const nothing = { rate: 0, strikes: 0, written: 0, ran: 0, twice: 0, worstPause: 0, worstRecovery: 0 };
  return { ...nothing, objections: [error.message] };
}

async function serverVersion(): Promise<string> {
  const database = openDatabase({ connect: server.url, connections: 1 });
  const [row] = await database
    .execute<{ version: string }>(raw("select current_setting('server_version') as version"))
    .finally(database.close);
  return row?.version.split(" ")[0] ?? "";
}

function say(progress: string) {
  const passed = new Date(Date.now() - started).toISOString().slice(11, 19);
  process.stderr.write(`${passed}  ${progress}\n`);
}

function numbers<Name extends keyof typeof values>(names: Name[]): Record<Name, number> {
  const entries = names.map((name) => [name, Number(values[name])] as const);
  const wrong = entries.find(([, value]) => !(value > 0));
  if (wrong) misuse(`--${wrong[0]} needs a number`);
  return Object.fromEntries(entries) as Record<Name, number>;
}

function misuse(what: string | undefined): never {
  console.error(what ? `${what}\n\n${help}` : help);
  process.exit(what ? 2 : 0);
}
