// npm run bench: Notika and its peers, side by side on one server.
import { loadavg } from "node:os";
import path from "node:path";
import { findBinaries } from "../support/binaries.ts";
import { describeMachine } from "../support/machine.ts";
import { type Arena, openArena } from "./arena.ts";
import { type Arguments, asWords, help, readArguments } from "./arguments.ts";
import type { Bench } from "./bench.ts";
import type { Findings } from "./measure.ts";
import { capture } from "./parts/capture.ts";
import { dispatch } from "./parts/dispatch.ts";
import { fair } from "./parts/fair.ts";
import { guard } from "./parts/guard.ts";
import { latency } from "./parts/latency.ts";
import { run } from "./parts/run.ts";
import { testKit } from "./parts/test_kit.ts";
import { throughput } from "./parts/throughput.ts";
import { findPgbench } from "./pgbench.ts";
import { describePrograms } from "./programs.ts";
import { asText } from "./report.ts";
import { describeServers, type Results, writeResults } from "./results.ts";

const parts: Record<string, (bench: Bench) => Promise<Findings>> = {
  capture,
  throughput,
  dispatch,
  run,
  latency,
  fair,
  guard,
  "test-kit": testKit,
};

const given = readOrExplain(process.argv.slice(2));
const { url, bin, cpu } = given;
const out = given.out ?? (given.isAll ? import.meta.dirname : undefined);
const started = performance.now();
const loadBefore = loadavg()[0]?.toFixed(1) ?? "";
const leftOut: string[] = [];
const durable = await openArena({ url, bin, durable: true });
const fast = await openArena({ url, bin, durable: false });
const older = !url && !bin && given.parts.includes("throughput") ? await openOlder() : undefined;
try {
  const results: Results = {
    at: new Date().toISOString(),
    command: `npm run bench -- ${asWords(given)}`,
    minutes: 0,
    machine: { ...describeMachine(), ...describePrograms(bin), "load before": loadBefore },
    servers: await describeServers({
      "synchronous commit": durable,
      "asynchronous commit": fast,
      ...(older && { [`asynchronous commit, PostgreSQL ${older.major}`]: older }),
    }),
    leftOut,
    parts: {},
  };
  const bench: Bench = { durable, fast, older, pgbench: findPgbench(bin), seconds: given.seconds, cpu, say, leaveOut };
  for (const name of given.parts) {
    const findings = await parts[name]?.(bench);
    if (!findings) continue;
    results.parts[name] = findings;
    results.minutes = (performance.now() - started) / 60_000;
    if (!given.json) process.stdout.write(`\n# ${name}\n\n${asText(findings)}`);
  }
  if (given.json) process.stdout.write(`${JSON.stringify(results)}\n`);
  if (out) {
    await writeResults(out, results);
    say(`written to ${path.relative(process.cwd(), out) || "."}`);
  }
} finally {
  await Promise.all([durable.close(), fast.close(), older?.close()]);
}

function readOrExplain(words: string[]): Arguments {
  try {
    const read = readArguments(words, Object.keys(parts));
    if (!read.help) return read;
    console.log(help);
    process.exit(0);
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${help}`);
    process.exit(2);
  }
}

async function openOlder(): Promise<Arena | undefined> {
  try {
    return await openArena({ bin: await findBinaries(15), durable: false });
  } catch (error) {
    leaveOut(`PostgreSQL 15: ${(error as Error).message}`);
    return undefined;
  }
}

function leaveOut(what: string) {
  leftOut.push(what);
  say(`left out: ${what}`);
}

function say(progress: string) {
  const passed = new Date(performance.now() - started).toISOString().slice(14, 19);
  process.stderr.write(`${passed}  ${progress}\n`);
}
