import { setTimeout } from "node:timers/promises";
import { Logger, type RunnerOptions, run as runWorker } from "graphile-worker";
import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import { workflow } from "../../../runner/index.ts";
import { silentLog } from "../../../runner/log.ts";
import { createRunner } from "../../../runner/worker/index.ts";
import type { Arena } from "../arena.ts";
import type { Bench } from "../bench.ts";
import { type Findings, interleave, of, ratios } from "../measure.ts";
import { memory } from "./memory.ts";

const concurrency = 10;
const names = {
  defaults: "graphile-worker, bare jobs, its defaults",
  batched: "graphile-worker, bare jobs, local queue and batching",
  noop: "notika, no-op task",
  step: "notika, one remembered step",
};

/** The whole way, from events in the log to outcomes in run_log, beside what graphile-worker does alone. */
export async function run(bench: Bench): Promise<Findings> {
  const found = [
    await compare(bench, bench.durable, "synchronous commit"),
    await compare(bench, bench.fast, "asynchronous commit"),
    await memory(bench),
  ];
  return { comparisons: found.flatMap((part) => part.comparisons), goals: found.flatMap((part) => part.goals) };
}

async function compare({ seconds, say }: Bench, arena: Arena, mode: string): Promise<Findings> {
  say(`run: runs a second, ${mode}`);
  const url = await arena.createDatabase();
  const database = openDatabase({ connect: url, connections: 2 });
  try {
    await database.script(`
      create table bench.noop (id int);
      create table bench.step (id int);
      select notika.publish('noop', 'bench.noop', columns => '{id}'),
             notika.publish('step', 'bench.step', columns => '{id}')`);
    const samples = await interleave(
      {
        [names.defaults]: ofGoodLength((jobs) => rateOfJobs(database, jobs, {})),
        [names.batched]: ofGoodLength((jobs) =>
          rateOfJobs(database, jobs, {
            localQueue: { size: 500 },
            completeJobBatchDelay: 0,
            failJobBatchDelay: 0,
          }),
        ),
        [names.noop]: ofGoodLength((runs) => rateOfRuns(url, database, "noop", runs)),
        [names.step]: ofGoodLength((runs) => rateOfRuns(url, database, "step", runs)),
      },
      seconds,
    );
    const comparison = {
      title: `runs, from the event in the log to the outcome in run_log, ${mode}`,
      unit: `a second, ${concurrency} at a time`,
      base: names.batched,
      samples,
      note:
        "From the start of the first task to the outcome of the last. The jobs of graphile-worker lie in its table by then; " +
        "Notika's events lie in the log, and all that follows counts. A bare job that is done leaves no trace, a run leaves " +
        "its outcome in run_log.",
    };
    const toBatched = (name: string) => ratios(of(comparison, name), of(comparison, names.batched));
    return {
      comparisons: [comparison],
      goals: [
        {
          claim: `whole way of a no-op task, to graphile-worker's bare jobs, batched, ${mode}`,
          values: toBatched(names.noop),
          limit: { atLeast: 0.4 },
        },
        {
          claim: `whole way with one remembered step, to graphile-worker's bare jobs, batched, ${mode}`,
          values: toBatched(names.step),
          limit: { atLeast: 0.1 },
        },
      ],
    };
  } finally {
    await database.close();
  }
}

const sampleSeconds = 1.5;

/** As many at a time as take long enough to be measured, which the first sample finds out. */
function ofGoodLength(rateOf: (count: number) => Promise<number>): () => Promise<number> {
  let count = 500;
  return async () => {
    const rate = await rateOf(count);
    count = Math.min(Math.max(Math.round(rate * sampleSeconds), 500), 50_000);
    return rate;
  };
}

/** Counts to so many, and knows when it began. */
function openCounter(goal: number) {
  let count = 0;
  let started = 0;
  let finish = () => {};
  const finished = new Promise<void>((resolve) => {
    finish = resolve;
  });
  return {
    finished,
    increment() {
      if (count++ === 0) started = performance.now();
      if (count === goal) finish();
    },
    rate: () => (goal * 1000) / (performance.now() - started),
  };
}

async function rateOfJobs(
  database: Database,
  jobs: number,
  worker: NonNullable<RunnerOptions["preset"]>["worker"],
): Promise<number> {
  await database.script(`
    select notika_worker.add_jobs(array(
      select row('bare', json_build_object('id', n), null, null, null, null, null, null)::notika_worker.job_spec
        from generate_series(1, ${jobs}) as n))`);
  const counter = openCounter(jobs);
  const runner = await runWorker({
    pgPool: database.pool,
    taskList: { bare: async () => counter.increment() },
    logger: new Logger(() => () => {}),
    noHandleSignals: true,
    preset: { worker: { schema: "notika_worker", concurrentJobs: concurrency, ...worker } },
  });
  await counter.finished;
  await untilTrue(database, "not exists (select from notika_worker._private_jobs)");
  const rate = counter.rate();
  await runner.stop();
  return rate;
}

async function rateOfRuns(url: string, database: Database, name: "noop" | "step", runs: number): Promise<number> {
  await database.script(`
    truncate notika.run_log, bench.${name};
    insert into bench.${name} select generate_series(1, ${runs})`);
  const counter = openCounter(runs);
  const tasks = {
    noop: workflow({ run: async () => counter.increment() }),
    step: workflow({ run: ({ step }) => step.run("count", () => counter.increment()) }),
  };
  const runner = await createRunner({ url, tasks: { [name]: tasks[name] }, concurrency, log: silentLog });
  await counter.finished;
  await untilTrue(database, `(select count(*) from notika.run_log) = ${runs}`);
  const rate = counter.rate();
  await runner.stop();
  return rate;
}

async function untilTrue(database: Database, condition: string) {
  for (;;) {
    const [row] = await database.execute<{ ok: boolean }>(raw(`select ${condition} as ok`));
    if (row?.ok) return;
    await setTimeout(5);
  }
}
