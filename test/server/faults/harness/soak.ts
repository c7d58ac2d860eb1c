import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import sql, { raw } from "sql-template-tag";
import type { Postgres } from "../../../support/postgres.ts";
import { randomFrom } from "../../../support/random.ts";
import type { Table } from "../../../support/table.ts";
import { installStage, type OpenStage, openStage } from "./stage.ts";
import { settle } from "./trial.ts";

/** What a minute was like. */
interface Minute {
  events: number;
  /** Between a change and its run, in milliseconds. */
  median: number;
  worst: number;
  /** Of the runner, resident. */
  megabytes: number;
  ringBytes: number;
  deadTuples: number;
  /** How often the ring has turned so far. */
  turns: number;
}

export interface Soak {
  table: Table;
  objections: string[];
}

export interface SoakOptions {
  server: Postgres;
  seed: number;
  minutes: number;
  rate: number;
  say(progress: string): void;
}

/** Lets a runner work under a steady load while the ring turns every minute, and looks whether anything grows. */
export async function soak({ server, seed, minutes, rate, say }: SoakOptions): Promise<Soak> {
  // What is undone is dead, until its segment is emptied.
  const fault = { title: "nothing", rate, undone: 0, strike: async () => {} };
  const stage = await openStage({ server, fault, seed, random: randomFrom(seed), isShort: false });
  try {
    await installStage(stage);
    await stage.database.execute(raw("update notika.setting set segment_age = '1 minute'"));
    const runner = await stage.startRunner();
    stage.startWriters();

    const found: Minute[] = [];
    const seen = new Set<string>();
    while (found.length < minutes) {
      await sleep(60_000);
      const minute = await look(stage, seen, runner.child.pid as number);
      found.push(minute);
      say(`minute ${found.length}: ${JSON.stringify(minute)}`);
      for (const { message, error = "" } of runner
        .said()
        .filter(({ level }) => level !== "info")
        .slice(-3)) {
        say(`the runner said: ${message} ${error}`);
      }
    }
    await stage.writers.stop();
    const proof = await settle(stage);
    return { table: table(found), objections: [...proof.objections, ...objections(found)] };
  } finally {
    await stage.close();
  }
}

async function look({ database, journal }: OpenStage, seen: Set<string>, pid: number): Promise<Minute> {
  const written = await database.execute<{ change: string; at: number }>(sql`
    select change, (extract(epoch from at) * 1000)::float8 as at
      from public.ledger where at > clock_timestamp() - interval '2 minutes'`);
  const ran = journal.read();
  const pauses: number[] = [];
  for (const { change, at } of written) {
    const [first] = ran.get(change) ?? [];
    if (first === undefined || seen.has(change)) continue;
    seen.add(change);
    pauses.push(first - at);
  }
  pauses.sort((a, b) => a - b);
  const [ring] = await database.execute<{ ring_bytes: number; dead: number; turns: number }>(sql`
    select (select l.ring_bytes::float8 from notika.lag as l) as ring_bytes,
           (select sum(n_dead_tup)::float8 from pg_stat_user_tables where relname like 'event_log_%') as dead,
           (pg_sequence_last_value('notika.control_seq') / 2)::float8 as turns`);
  return {
    events: pauses.length,
    median: pauses[Math.floor(pauses.length / 2)] ?? Number.NaN,
    worst: pauses.at(-1) ?? Number.NaN,
    megabytes: residentMegabytes(pid),
    ringBytes: ring?.ring_bytes ?? Number.NaN,
    deadTuples: ring?.dead ?? Number.NaN,
    turns: ring?.turns ?? Number.NaN,
  };
}

/** What a process has in memory; nothing where there is no /proc. */
function residentMegabytes(pid: number): number {
  try {
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
  } catch {
    return Number.NaN;
  }
}

/** What grows that ought to be flat: the last third of the time is compared with the one before. */
function objections(minutes: Minute[]): string[] {
  const third = Math.floor(minutes.length / 3);
  const [first, last] = [minutes.slice(third, 2 * third), minutes.slice(-third)];
  const found: string[] = [];
  const compare = (what: string, of: (minute: Minute) => number, factor: number, slack: number) => {
    const [before, after] = [first, last].map((part) => median(part.map(of))) as [number, number];
    if (after > before * factor + slack) found.push(`${what} grew from ${before.toFixed(1)} to ${after.toFixed(1)}`);
  };
  compare("the memory of the runner, in MB,", ({ megabytes }) => megabytes, 1.1, 5);
  compare("the ring, in MB,", ({ ringBytes }) => ringBytes / 2 ** 20, 1.25, 1);
  compare("the latency, in ms,", ({ median }) => median, 2, 20);
  const dead = Math.max(...minutes.map(({ deadTuples }) => deadTuples));
  if (dead > 0) found.push(`the segments had ${dead} dead tuples`);
  const turns = (minutes.at(-1)?.turns ?? 0) - (minutes[0]?.turns ?? 0);
  if (turns < (minutes.length - 1) * 0.7) found.push(`the ring turned ${turns} times in ${minutes.length} minutes`);
  return found;
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

function table(minutes: Minute[]): Table {
  return [
    ["minute", "events", "median pause", "worst pause", "runner's memory", "ring", "dead tuples", "turns of the ring"],
    ...minutes.map(({ events, median, worst, megabytes, ringBytes, deadTuples, turns }, index) => [
      String(index + 1),
      events.toLocaleString("en"),
      `${Math.round(median)} ms`,
      `${Math.round(worst)} ms`,
      `${Math.round(megabytes)} MB`,
      `${(ringBytes / 2 ** 20).toFixed(1)} MB`,
      String(deadTuples),
      String(turns),
    ]),
  ];
}
