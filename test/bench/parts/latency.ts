import { setTimeout } from "node:timers/promises";
import { Logger, run as runWorker } from "graphile-worker";
import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import { workflow } from "../../../runner/index.ts";
import { silentLog } from "../../../runner/log.ts";
import { startRunner } from "../../../runner/worker/runner.ts";
import { toTasks } from "../../../runner/workflow/load.ts";
import { type PgBouncer, pgbouncer, startPgBouncer } from "../../support/pgbouncer.ts";
import type { Bench } from "../bench.ts";
import { type Comparison, type Findings, type Goal, of, quantile } from "../measure.ts";

/** Writes events, one with each pulse, and says how many of the first do not count. */
type Load = (way: Way, pulse: (table: string) => Promise<void>) => Promise<number>;

/** A way from a commit to the start of a task. */
interface Way {
  /** The table that is written to. */
  table: string;
  /** Begins to run tasks, and tells which event's has started. */
  start: (onStart: (id: number) => void) => Promise<Running>;
}

interface Running {
  /** How many statements it has sent so far, where that is known. */
  statements?: () => number;
  stop(): Promise<unknown>;
}

const listen = "notika, LISTEN";
const pooled = "notika, PgBouncer, polling";
const past = "notika, PgBouncer, LISTEN past it";
const worker = "graphile-worker, add_job in the trigger";
const rounds = 3;
const percentiles = [0.5, 0.95, 0.99];

/** From the answer to a commit until the task starts, at rest and under a steady load; and what waiting costs. */
export async function latency(bench: Bench): Promise<Findings> {
  const url = await bench.durable.createDatabase();
  const writer = openDatabase({ connect: url, connections: 4 });
  const pooler = await startPooler(url);
  const through = pooler?.through(url);
  try {
    await writer.script(`
      create table bench.pulse (id int);
      create table bench.beat (id int);
      create trigger beat after insert on bench.beat for each row execute function add_job.capture();
      select notika.publish('pulse', 'bench.pulse', columns => '{id}')`);
    const ways: Record<string, Way> = {
      [listen]: notika(url),
      ...(through && { [pooled]: notika(through), [past]: notika(through, url) }),
      [worker]: { table: "bench.beat", start: (onStart) => startWorker(url, onStart) },
    };
    if (!pooler) bench.leaveOut("latency through PgBouncer: none can be put before the server");

    const atRest = await compare(bench, "at rest", ways, async (way, pulse) => {
      for (let at = 0; at < (bench.seconds * 1000) / rounds; ) {
        const pause = 50 + Math.random() * 100;
        await setTimeout(pause);
        await pulse(way.table);
        at += pause;
      }
      return 0;
    });
    const loaded = await compare(bench, "at 500 events a second", ways, async (way, pulse) => {
      const started = performance.now();
      const pulses: Promise<void>[] = [];
      while (performance.now() - started < 1000 + (bench.seconds * 250) / rounds) {
        while (pulses.length < (performance.now() - started) / 2) pulses.push(pulse(way.table));
        await setTimeout(2);
      }
      await Promise.all(pulses);
      return 500; // the load is steady when its beginning, which found the runner at rest, is over
    });
    const idle = await costOfWaiting(bench, writer, ways);
    return {
      comparisons: [...atRest, ...loaded, ...idle.comparisons],
      goals: [
        limit(atRest, 0.5, listen, 8),
        limit(atRest, 0.99, listen, 40),
        ...(pooler ? [limit(atRest, 0.5, pooled, 60)] : []),
        limit(loaded, 0.99, listen, 150),
        ...(pooler ? [limit(loaded, 0.99, pooled, 150)] : []),
        ...idle.goals,
      ],
    };

    async function compare(
      { say }: Bench,
      title: string,
      ways: Record<string, Way>,
      load: Load,
    ): Promise<Comparison[]> {
      const found = percentiles.map((part): Comparison => {
        const samples = Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
        return { title: titleOf(title, part), unit: `ms; of ${rounds} rounds`, base: listen, samples, note };
      });
      for (let round = 0; round < rounds; round++) {
        say(`latency: ${title}, round ${round + 1} of ${rounds}`);
        for (const [name, way] of Object.entries(ways)) {
          const sorted = (await waits(writer, way, load)).toSorted((a, b) => a - b);
          for (const [index, part] of percentiles.entries()) {
            found[index]?.samples[name]?.push(quantile(sorted, part));
          }
        }
      }
      return found;
    }
  } finally {
    await writer.close();
    await pooler?.stop();
  }
}

/** A PgBouncer before the server, if that is on this machine and asks for no password. */
async function startPooler(url: string): Promise<PgBouncer | undefined> {
  const { hostname, port, username, password } = new URL(url);
  if (!pgbouncer || hostname !== "127.0.0.1" || password) return undefined;
  return startPgBouncer({ server: Number(port), connections: 20, users: [username] });
}

const note =
  "From the client's answer to the commit, in the process that also runs the tasks. graphile-worker, add_job in the trigger, " +
  "has no hand-over: the job is there when the row is, and the writer has paid for it.";

const titleOf = (title: string, part: number) => `commit to start of the task, ${title}: percentile ${part * 100}`;

function limit(comparisons: Comparison[], part: number, name: string, ms: number): Goal {
  const comparison = comparisons[percentiles.indexOf(part)] as Comparison;
  return { claim: `${comparison.title}, ${name}, ms`, values: of(comparison, name), limit: { atMost: ms } };
}

async function waits(writer: Database, way: Way, load: Load): Promise<number[]> {
  const committed: number[] = [];
  const started: number[] = [];
  let running = 0;
  let uncounted = 0;
  const { stop } = await way.start((id) => {
    started[id] = performance.now();
    running++;
  });
  try {
    await setTimeout(1000); // until it is at rest
    let last = -1;
    uncounted = await load(way, async (table) => {
      const id = ++last;
      await writer.execute(raw(`insert into ${table} (id) values (${id})`));
      committed[id] = performance.now();
    });
    while (running <= last) await setTimeout(10);
  } finally {
    await stop();
  }
  // A task may start before this process has read the answer to the commit.
  return committed.map((at, id) => Math.max(0, (started[id] as number) - at)).slice(uncounted);
}

function notika(url: string, direct?: string): Way {
  return {
    table: "bench.pulse",
    async start(onStart) {
      const database = openDatabase({ connect: url, direct, connections: 12 });
      let sent = 0;
      database.pool.on("connect", (client) => {
        client.query = new Proxy(client.query, {
          apply(query, self, input) {
            sent++;
            return Reflect.apply(query, self, input);
          },
        });
      });
      const tasks = await toTasks({
        pulse: workflow<{ id: number }>({ run: async ({ event }) => onStart(Number(event.new?.id)) }),
      });
      const runner = await startRunner({ database, tasks, log: silentLog });
      return {
        statements: () => sent,
        stop: () => runner.stop().finally(database.close),
      };
    },
  };
}

async function startWorker(url: string, onStart: (id: number) => void): Promise<Running> {
  const database = openDatabase({ connect: url, connections: 12 });
  const runner = await runWorker({
    pgPool: database.pool,
    taskList: {
      order_changed: async (payload) => onStart((payload as { new: { id: number } }).new.id),
    },
    logger: new Logger(() => () => {}),
    noHandleSignals: true,
    preset: { worker: { schema: "notika_worker", concurrentJobs: 10 } },
  });
  return { stop: () => runner.stop().finally(database.close) };
}

async function costOfWaiting({ seconds, say }: Bench, writer: Database, ways: Record<string, Way>): Promise<Findings> {
  const found: Findings = { comparisons: [], goals: [] };
  const first: Record<string, number[]> = {};
  for (const name of [listen, pooled]) {
    const way = ways[name];
    if (!way) continue;
    say(`latency: what waiting costs, ${name}`);
    let started = () => {};
    const hasStarted = new Promise<void>((resolve) => {
      started = resolve;
    });
    const runner = await way.start(started);
    await setTimeout(Math.min(12, seconds) * 1000); // a dispatcher without LISTEN stays lively for ten seconds
    const before = { cpu: process.cpuUsage(), sent: runner.statements?.() ?? 0, at: performance.now() };
    await setTimeout((seconds * 1000) / 2);
    const passed = (performance.now() - before.at) / 1000;
    const { user, system } = process.cpuUsage(before.cpu);
    const statements = ((runner.statements?.() ?? 0) - before.sent) / passed;
    const cpu = (user + system) / 1e4 / passed;
    await writer.execute(raw(`insert into ${way.table} (id) values (0)`));
    const committed = performance.now();
    await hasStarted;
    first[name] = [performance.now() - committed];
    await runner.stop();
    found.comparisons.push({
      title: `a runner that has nothing to do: ${name}`,
      unit: "a second",
      samples: { statements: [statements], "% of a core": [cpu] },
      note: `Measured once, for ${Math.round(passed)} s. The CPU is that of the runner's process; what the server does for it is not in it.`,
    });
    found.goals.push(
      { claim: `idle runner, ${name}: statements a second`, values: [statements], limit: { atMost: 5 } },
      { claim: `idle runner, ${name}: % of a core`, values: [cpu], limit: { atMost: 1 } },
    );
  }
  found.comparisons.push({
    title: "commit to start of the task, the first after a silence",
    unit: "ms",
    samples: first,
    note: "Measured once.",
  });
  return found;
}
