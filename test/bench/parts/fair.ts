import { setTimeout } from "node:timers/promises";
import { Logger, run as runWorker } from "graphile-worker";
import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import { workflow } from "../../../runner/index.ts";
import { silentLog } from "../../../runner/log.ts";
import { createRunner } from "../../../runner/worker/index.ts";
import type { Bench } from "../bench.ts";
import { type Comparison, type Findings, type Goal, of } from "../measure.ts";

const concurrency = 10;
const taskMs = 5;
const pauseMs = 100;
/** Of the burst: more than can be run meanwhile. */
const eventsASecond = 4000;

const names = {
  notika: "notika",
  urgent: "notika, the single ones with priority -1",
  worker: "graphile-worker",
  urgentWorker: "graphile-worker, the single ones with priority -1",
};

type Ran = (workflow: "burst" | "single", id: number) => Promise<void>;

/** A queue with a burst in it, that single events come to. */
interface Way {
  /** Brings the burst, in one transaction. */
  burst: (database: Database, events: number) => Promise<void>;
  single: (database: Database, id: number) => Promise<void>;
  start: (url: string, ran: Ran) => Promise<{ stop(): Promise<unknown> }>;
  /** Whether the burst has become jobs. */
  isHandedOver: (database: Database) => Promise<boolean>;
}

interface Waits {
  /** While the burst was handed over. */
  before: number[];
  /** While it was run. */
  after: number[];
  /** Runs of the burst a second. */
  rate: number;
  /** How long its hand-over took, in seconds. */
  handOver: number;
}

/** How long single events of one workflow wait behind a burst of another. */
export async function fair(bench: Bench): Promise<Findings> {
  const events = Math.ceil(bench.seconds * eventsASecond);
  const found: Record<string, Waits> = {};
  for (const [name, way] of Object.entries(ways)) {
    bench.say(`fair: ${name}, behind ${events.toLocaleString("en")} events of ${taskMs} ms`);
    found[name] = await measure(bench, way, events);
  }

  const samples = (of: (waits: Waits) => number[]) =>
    Object.fromEntries(Object.entries(found).flatMap(([name, waits]) => (of(waits).length ? [[name, of(waits)]] : [])));
  const burst = `a burst of ${events.toLocaleString("en")} events of another workflow, ${taskMs} ms each`;
  const waiting: Comparison = {
    title: `commit to start of single events behind ${burst}`,
    unit: "ms",
    samples: samples(({ after }) => after),
    note:
      `One runner, ${concurrency} at a time, one single event each ${pauseMs} ms, from when the burst has become jobs. What had not ` +
      "begun when the measurement ended counts as begun then: it waited longer. graphile-worker has a local queue and batching.",
  };
  const handOver: Comparison = {
    title: "the same, while the burst is handed over",
    unit: "ms",
    samples: samples(({ before }) => before),
    note: `The hand-over took ${found[names.notika]?.handOver.toFixed(1)} s, beside the runs that had become jobs.`,
  };
  const rate: Comparison = {
    title: "runs of the burst meanwhile",
    unit: "a second",
    base: names.worker,
    samples: samples(({ rate }) => [rate]),
  };
  const goals: Goal[] = [
    {
      claim: "single events behind a burst: median wait, ms",
      values: of(waiting, names.notika),
      limit: { atMost: 150 },
      atBest: { variant: names.urgentWorker, values: of(waiting, names.urgentWorker) },
    },
    {
      claim: "single events behind a burst: longest wait, ms",
      values: [Math.max(...of(waiting, names.notika))],
      limit: { atMost: 1000 },
    },
    {
      claim: "single events while a burst is handed over: longest wait, ms",
      values: [Math.max(0, ...(handOver.samples[names.notika] ?? []))],
      limit: { atMost: 1000 },
    },
  ];
  return { comparisons: [waiting, handOver, rate], goals };
}

async function measure({ durable, seconds }: Bench, way: Way, events: number): Promise<Waits> {
  const url = await durable.createDatabase();
  const database = openDatabase({ connect: url, connections: 3 });
  const committed: number[] = [];
  const started: number[] = [];
  let runs = 0;
  try {
    const runner = await way.start(url, async (name, id) => {
      if (name === "single") started[id] = performance.now();
      else {
        await setTimeout(taskMs);
        runs++;
      }
    });
    await setTimeout(1000); // until it is at rest
    await way.burst(database, events);

    const began = performance.now();
    let handedOver = Number.POSITIVE_INFINITY;
    const watching = (async () => {
      while (!(await way.isHandedOver(database))) await setTimeout(20);
      handedOver = performance.now();
    })();
    for (let id = 0; performance.now() < Math.min(handedOver, began + 60_000) + (seconds * 1000) / 2; id++) {
      await way.single(database, id);
      committed[id] = performance.now();
      await setTimeout(pauseMs);
    }
    const ended = performance.now();
    const rate = (runs * 1000) / (ended - began);
    await watching;
    await runner.stop();

    const waits = committed.map((at, id) => ({ at, ms: Math.max(0, (started[id] ?? ended) - at) }));
    return {
      before: waits.filter(({ at }) => at < handedOver).map(({ ms }) => ms),
      after: waits.filter(({ at }) => at >= handedOver).map(({ ms }) => ms),
      rate,
      handOver: (handedOver - began) / 1000,
    };
  } finally {
    await database.close();
    await durable.dropDatabase(url);
  }
}

function notika(options = "{}"): Way {
  let last = "0";
  return {
    async burst(database, events) {
      await database.script(`insert into bench.burst select generate_series(1, ${events})`);
      const [row] = await database.execute<{ last: string }>(raw("select max(event_id) as last from notika._event"));
      last = row?.last ?? "0";
    },
    async single(database, id) {
      await database.script(`insert into bench.single values (${id})`);
    },
    async isHandedOver(database) {
      const [row] = await database.execute<{ done: boolean }>(
        raw(`select notika._bound(p) >= ${last} as done from notika._position() as p`),
      );
      return row?.done === true;
    },
    async start(url, ran) {
      const database = openDatabase({ connect: url, connections: 1 });
      await database.script(`
        create table bench.burst (id int);
        create table bench.single (id int);
        select notika.publish('burst', 'bench.burst'), notika.publish('single', 'bench.single', options => '${options}')`);
      await database.close();
      const task = (name: "burst" | "single") =>
        workflow<{ id: number }>({ run: ({ event }) => ran(name, Number(event.new?.id)) });
      return createRunner({
        url,
        tasks: { burst: task("burst"), single: task("single") },
        concurrency,
        log: silentLog,
      });
    },
  };
}

function worker(priority: number): Way {
  const add = (database: Database, name: string, from: number, to: number, priority: number) =>
    database.script(`
      select count(*) from notika_worker.add_jobs(array(
        select row('${name}', json_build_object('id', n), null, null, null, null, ${priority}, null)::notika_worker.job_spec
          from generate_series(${from}, ${to}) as n))`);
  return {
    async burst(database, events) {
      for (let from = 1; from <= events; from += 10_000) {
        await add(database, "burst", from, Math.min(from + 9999, events), 0);
      }
    },
    single: (database, id) => add(database, "single", id, id, priority).then(() => {}),
    isHandedOver: async () => true,
    async start(url, ran) {
      const database = openDatabase({ connect: url, connections: concurrency + 2 });
      const task = (name: "burst" | "single") => (payload: unknown) => ran(name, (payload as { id: number }).id);
      const runner = await runWorker({
        pgPool: database.pool,
        taskList: { burst: task("burst"), single: task("single") },
        logger: new Logger(() => () => {}),
        noHandleSignals: true,
        preset: {
          worker: {
            schema: "notika_worker",
            concurrentJobs: concurrency,
            localQueue: { size: 100 },
            completeJobBatchDelay: 0,
            failJobBatchDelay: 0,
          },
        },
      });
      return { stop: () => runner.stop().finally(database.close) };
    },
  };
}

const ways: Record<string, Way> = {
  [names.notika]: notika(),
  [names.urgent]: notika('{"priority": -1}'),
  [names.worker]: worker(0),
  [names.urgentWorker]: worker(-1),
};
