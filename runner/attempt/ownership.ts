import { setTimeout as sleep } from "node:timers/promises";
import type { Job } from "graphile-worker";
import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { isLost } from "../database/lost_connection.ts";
import { type Cells, hold } from "./liveness.ts";

/** The run is another runner's by now: whatever this one still does about it must not count. */
export class TakenAway extends Error {
  constructor() {
    super("the run was given to another runner");
  }
}

interface Setting {
  database: Database;
  cells: Cells | undefined;
  job: Pick<Job, "id" | "attempts">;
  stop: AbortSignal;
}

/** What a runner does about a run that it has claimed, when the database or it itself was away. */
export function openHolding({ database, cells, job, stop }: Setting) {
  const isCertain = cells ? hold(cells) : () => true;
  const execute: Database["execute"] = (statement) => database.within(10_000).execute(statement);

  async function isOwn(): Promise<boolean> {
    const [row] = await execute<{ answer: boolean }>(
      sql`select notika._is_own(${job.id}::text::bigint, ${job.attempts}::int) as answer`,
    );
    return row?.answer === true;
  }

  /** Does it as soon as the database is back, unless the runner has to stop before. */
  async function patiently<T>(work: () => Promise<T>): Promise<T> {
    for (let delay = 100; ; delay = Math.min(delay * 2, 5000)) {
      try {
        return await work();
      } catch (error) {
        if (!isLost(error) || stop.aborted) throw error;
        await sleep(delay);
      }
    }
  }

  return {
    /** Whether nobody else can have got the run, because this runner was not away. */
    isCertain,
    /** Asks whether nobody else has. */
    isOwn,
    patiently,
    /** Puts the run back as if this attempt had not been; false: it has been so often, and this one counts. */
    async giveBack(why: Error, exit: () => Promise<void>): Promise<boolean> {
      return patiently(async () => {
        if (!(isCertain() || (await isOwn()))) throw new TakenAway();
        await exit();
        const [row] = await execute<{ done: boolean }>(
          sql`select notika._give_back(${job.id}::text::bigint, ${job.attempts}::int, ${why.message}) as done`,
        );
        return row?.done === true;
      });
    },
  };
}
