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
  /** The longest time from the end of a strike to the next run, in milliseconds. */
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
    if (fault.runners !== 0) await within(15_000, stage, ({ journal }) => journal.read().size > 0);

    let strikes = 0;
    let worstRecovery = 0;
    do {
      await sleep(isShort ? 500 : 1000 + 4000 * random());
      await fault.strike(stage);
      strikes++;
      if (stage.runners.length > 0) worstRecovery = Math.max(worstRecovery, await recover(stage, fault));
    } while (!fault.once && Date.now() - started < seconds * 1000);

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

/** How long it takes from now on until there is a run, and somebody can write. */
async function recover(stage: OpenStage, { recovery = 15_000 }: Fault): Promise<number> {
  const start = Date.now();
  const before = stage.journal.read().size;
  const written = await Promise.race([stage.writers.next(), sleep(recovery)]);
  if (!written)
    throw new Error(`nobody could write for ${recovery} ms: ${stage.writers.failures.slice(-3).join("; ")}`);
  await within(recovery, stage, ({ journal }) => journal.read().size > before);
  return Date.now() - start;
}

/** Waits for something, and tells what the runners said when it does not come. */
async function within(milliseconds: number, stage: OpenStage, isTrue: (stage: OpenStage) => boolean) {
  const start = Date.now();
  while (!isTrue(stage)) {
    if (Date.now() - start > milliseconds) {
      const said = stage.runners.map(({ said }) =>
        said()
          .slice(-10)
          .map(({ message, error = "" }) => `${message} ${error}`),
      );
      throw new Error(
        `nothing has run within ${milliseconds} ms; the runners said ${JSON.stringify(said, undefined, 1)}`,
      );
    }
    await sleep(20);
  }
}

const patience = 90_000; // milliseconds: others take over from a runner that died within a minute

/** Waits until all has run, or nothing more can come. */
export async function settle(stage: OpenStage): Promise<Proof> {
  let progress = { ran: -1, at: Date.now() };
  for (;;) {
    if (stage.isShort) await stage.hurry();
    const wasIdle = await isIdle(stage);
    const account = await stage.account();
    const proof = account && prove(account);
    if (proof && wasIdle) return proof;
    if (proof && proof.ran > progress.ran) progress = { ran: proof.ran, at: Date.now() };
    if (Date.now() - progress.at > patience) {
      if (!proof) throw new Error("the database does not answer");
      return { ...proof, objections: [...proof.objections, `not all runs have ended: ${await whereabouts(stage)}`] };
    }
    await sleep(stage.isShort ? 250 : 1000);
  }
}

/** Whether nothing is left that could run. */
async function isIdle({ database }: OpenStage): Promise<boolean> {
  const [row] = await database
    .execute<{ idle: boolean }>(sql`
      select l.events_waiting = 0 and not exists (select from notika_worker._private_jobs) as idle from notika.lag as l`)
    .catch(() => []);
  return row?.idle === true;
}

async function whereabouts({ database }: OpenStage): Promise<string> {
  const runs = await database.execute<{ state: string; runs: number }>(
    sql`select state, count(*)::int as runs, max(attempts) as attempts, min(error) as error, min(wake_at) as wake_at
          from notika.runs group by state order by state`,
  );
  return JSON.stringify(runs);
}
