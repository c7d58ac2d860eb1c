import { parseArgs } from "node:util";

export const help = `npm run bench -- [part …] [options]

parts: capture, throughput, dispatch, run, latency, guard, test-kit; without one all of them

  --seconds N   how long a comparison takes, more or less; default 15, with less the goals mean little
  --url URL     a running server, on which databases are made and dropped; default: PostgreSQL 18 from npm, and where
                throughput has another goal there also 15
  --bin DIR     the programs of the server to start, and pgbench
  --out DIR     write RESULTS.md, results.json and chart.svg there; all parts: default test/bench
  --cpu         capture in CPU time of the server's process, for a machine that is busy; Linux
  --json        results as JSON on stdout instead of tables`;

export interface Arguments {
  /** What is to be measured; all of it where nothing was named. */
  parts: string[];
  isAll: boolean;
  seconds: number;
  url?: string | undefined;
  bin?: string | undefined;
  out?: string | undefined;
  cpu: boolean;
  json: boolean;
  help: boolean;
}

/** Reads a command line, or throws an error that says what is wrong with it. */
export function readArguments(words: string[], known: string[]): Arguments {
  const { values, positionals } = parseArgs({
    args: words,
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
  const unknown = positionals.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Error(`there is no part ${unknown}; there are ${known.join(", ")}`);
  const seconds = Number(values.seconds);
  if (!(seconds > 0 && Number.isFinite(seconds))) {
    throw new Error(`--seconds wants a number above 0, not ${JSON.stringify(values.seconds)}`);
  }
  const isAll = positionals.length === 0;
  return { ...values, seconds, isAll, parts: isAll ? known : [...new Set(positionals)] };
}

/** The words that measure the same again, without what belongs to this machine. */
export function asWords({ parts, isAll, seconds, url, bin, cpu }: Arguments): string {
  const words = [...(isAll ? [] : parts), `--seconds ${seconds}`, url && "--url …", bin && "--bin …", cpu && "--cpu"];
  return words.filter(Boolean).join(" ");
}
