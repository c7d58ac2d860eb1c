import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import type { Postgres } from "../../../support/postgres.ts";
import { randomFrom } from "../../../support/random.ts";
import type { Fault } from "./fault.ts";
import { type Proof, prove } from "./proof.ts";
import { objectionsTo } from "./runner_output.ts";
import { installStage, type OpenStage, openStage } from "./stage.ts";

/** What came of a fault. */
export interface Result extends Proof {
  /** Transactions a second that were begun. */
  rate: number;
  strikes: number;
  /** The longest time from the end of a strike to the run of what was written then, in milliseconds. */
  worstRecovery: number;
}

export interface TrialOptions {
  server: Postgres;
  fault: Fault;
  seed: number;
  /** How long to go on striking; 0: the short form, in which it strikes once. */
  seconds: number;
}

/** Lets a fault happen while there is work, and proves that the runs are the committed changes. */
export async function tryFault({ server, fault, seed, seconds }: TrialOptions): Promise<Result> {
  const random = randomFrom(seed);
  const isShort = seconds === 0;
  const stage = await openStage({ server, fault, seed, random, isShort });
  try {
    await (fault.prepare ?? installStage)(stage);
    await Promise.all(Array.from({ length: fault.runners ?? 1 }, () => stage.startRunner()));
    const started = Date.now();
    stage.startWriters();
    if (fault.runners !== 0) await reached(stage, await stage.writers.next(), 15_000);

    let strikes = 0;
    let worstRecovery = 0;
    do {
      await sleep(isShort ? 500 : 1000 + 4000 * random());
      await fault.strike(stage);
      strikes++;
      worstRecovery = Math.max(worstRecovery, await recover(stage, fault));
    } while (Date.now() - started < seconds * 1000);

    await stage.writers.stop();
    const rate = (stage.writers.transactions() * 1000) / (Date.now() - started);
    const proof = await settle(stage);
    const objections = [
      ...stage.objections,
      ...proof.objections,
      ...stage.runners.flatMap(objectionsTo),
      ...((await fault.object?.(stage)) ?? []),
    ];
    return { ...proof, rate, strikes, worstRecovery, objections };
  } finally {
    await stage.close();
  }
}

/** How long it takes from now on until what is written now has run. */
async function recover(stage: OpenStage, { recovery = 15_000 }: Fault): Promise<number> {
  const start = Date.now();
  const change = await Promise.race([stage.writers.next(), sleep(recovery)]);
  if (!change) throw new Error(`nobody could write for ${recovery} ms: ${stage.writers.failures.slice(-3).join("; ")}`);
  await reached(stage, change, recovery);
  return Date.now() - start;
}

/** Ends when a change has run. */
async function reached({ journal, runners }: OpenStage, change: string, within: number) {
  const start = Date.now();
  while (!journal.read().has(change)) {
    if (Date.now() - start > within) {
      const said = runners.map(({ said }) =>
        said()
          .slice(-10)
          .map(({ message, error = "" }) => `${message} ${error}`.slice(0, 300)),
      );
      throw new Error(
        `${change} has not run within ${within} ms; the runners said ${JSON.stringify(said, undefined, 1)}`,
      );
    }
    await sleep(20);
  }
}

const patience = 120_000; // milliseconds: others take over from a runner that died within a minute

/** Waits until all has run, or nothing more seems to come. */
async function settle(stage: OpenStage): Promise<Proof> {
  const start = Date.now();
  for (;;) {
    if (stage.isShort) await stage.hurry();
    const wasIdle = await isIdle(stage);
    const account = await stage.account();
    const proof = account && prove(account);
    if (proof && wasIdle && proof.ran === proof.written) return proof;
    if (Date.now() - start > patience) {
      if (!proof) throw new Error("the database does not answer");
      if (proof.objections.length === 0) proof.objections.push("not all jobs have ended");
      return { ...proof, objections: [...proof.objections, await whereabouts(stage)] };
    }
    await sleep(stage.isShort ? 250 : 1000);
  }
}

/** Whether nothing is left that could run again. */
async function isIdle({ database }: OpenStage): Promise<boolean> {
  const [row] = await database
    .execute<{ jobs: number }>(sql`select count(*)::int as jobs from notika_worker._private_jobs`)
    .catch(() => []);
  return row?.jobs === 0;
}

async function whereabouts({ database }: OpenStage): Promise<string> {
  const runs = await database.execute<{ state: string; runs: number }>(
    sql`select state, count(*)::int as runs, max(attempts) as attempts, min(error) as error, min(wake_at) as wake_at
          from notika.runs group by state order by state`,
  );
  return `runs: ${JSON.stringify(runs)}`;
}
