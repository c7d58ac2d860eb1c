// npm run bench: Notika and its peers, side by side on one server.
import path from "node:path";
import { parseArgs } from "node:util";
import { findBinaries } from "../support/binaries.ts";
import { describeMachine } from "../support/machine.ts";
import { type Arena, openArena } from "./arena.ts";
import type { Bench } from "./bench.ts";
import type { Findings } from "./measure.ts";
import { capture } from "./parts/capture.ts";
import { dispatch } from "./parts/dispatch.ts";
import { guard } from "./parts/guard.ts";
import { latency } from "./parts/latency.ts";
import { run } from "./parts/run.ts";
import { testKit } from "./parts/test_kit.ts";
import { throughput } from "./parts/throughput.ts";
import { findPgbench } from "./pgbench.ts";
import { asText } from "./report.ts";
import { describeServers, type Results, writeResults } from "./results.ts";

const help = `npm run bench -- [part …] [options]

parts: capture, throughput, dispatch, run, latency, guard, test-kit; without one all of them

  --seconds N   how long a comparison takes, more or less; default 15
  --url URL     a running server, on which databases are made and dropped; default: PostgreSQL 18 from npm, and where
                throughput has another goal there also 15
  --bin DIR     the programs of the server to start, and pgbench
  --out DIR     write RESULTS.md, results.json and chart.svg there; all parts: default test/bench
  --cpu         capture in CPU time of the server's process, for a machine that is busy; Linux
  --json        results as JSON on stdout instead of tables`;

const parts: Record<string, (bench: Bench) => Promise<Findings>> = {
  capture,
  throughput,
  dispatch,
  run,
  latency,
  guard,
  "test-kit": testKit,
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: "15" },
    url: { type: "string" },
    bin: { type: "string" },
    out: { type: "string" },
    cpu: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
const unknown = positionals.find((name) => !(name in parts));
if (values.help || unknown || !(Number(values.seconds) > 0)) {
  console.error(unknown ? `there is no part ${unknown}\n\n${help}` : help);
  process.exit(values.help ? 0 : 2);
}

const chosen = positionals.length > 0 ? positionals : Object.keys(parts);
const out = values.out ?? (positionals.length > 0 ? undefined : import.meta.dirname);
const { url, bin, cpu } = values;
const started = performance.now();
const durable = await openArena({ url, bin, durable: true });
const fast = await openArena({ url, bin, durable: false });
const older = !url && !bin && chosen.includes("throughput") ? await openOlder() : undefined;
try {
  const results: Results = {
    at: new Date().toISOString(),
    seconds: Number(values.seconds),
    machine: describeMachine(),
    servers: await describeServers({
      "synchronous commit": durable,
      "asynchronous commit": fast,
      ...(older && { [`asynchronous commit, PostgreSQL ${older.major}`]: older }),
    }),
    parts: {},
  };
  const pgbench = await findPgbench(bin);
  const bench: Bench = { durable, fast, older, pgbench, seconds: results.seconds, cpu, say };
  for (const name of chosen) {
    const findings = await parts[name]?.(bench);
    if (!findings) continue;
    results.parts[name] = findings;
    if (!values.json) process.stdout.write(`\n# ${name}\n\n${asText(findings)}`);
  }
  if (values.json) process.stdout.write(`${JSON.stringify(results)}\n`);
  if (out) {
    await writeResults(out, results);
    say(`written to ${path.relative(process.cwd(), out) || "."}`);
  }
} finally {
  await Promise.all([durable.close(), fast.close(), older?.close()]);
}

async function openOlder(): Promise<Arena | undefined> {
  try {
    return await openArena({ bin: await findBinaries(15), durable: false });
  } catch (error) {
    say(`without PostgreSQL 15: ${(error as Error).message}`);
    return undefined;
  }
}

function say(progress: string) {
  const passed = new Date(performance.now() - started).toISOString().slice(14, 19);
  process.stderr.write(`${passed}  ${progress}\n`);
}
