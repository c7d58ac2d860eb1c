import { setMaxListeners } from "node:events";
import { setTimeout } from "node:timers/promises";
import sql from "sql-template-tag";
import type { makeTask } from "../attempt/attempt.ts";
import type { Database } from "../database/database.ts";
import type { Log } from "../log.ts";
import { type Shift, type ShiftTask, startShift } from "./graphile.ts";

export interface Worker {
  /** Gives a sign of life for each id by which its jobs are locked: several while what an earlier shift began still runs. */
  beat(give: (id: string) => Promise<unknown>): Promise<void>;
  /** Says that there are new jobs. */
  nudge(jobs: number): void;
  /** Lets what runs finish, for so many milliseconds; then aborts it and gives it to others. */
  stop(deadline: number): Promise<void>;
}

interface Setting {
  database: Database;
  tasks: Record<string, ReturnType<typeof makeTask>>;
  concurrency: number;
  log: Log;
  /** Is told when there is a new id. */
  onStart: () => void;
  /** Is told by what ids jobs are locked now. */
  onIds: (ids: string[]) => void;
}

/** Runs jobs with graphile-worker, in a new shift whenever one ends: a lost connection is enough for that. */
export function startWorker({ database, tasks, concurrency, log, onStart, onIds }: Setting): Worker {
  let shift: Shift | undefined;
  let stopping = false;
  const ids = new Set<string>();
  const leaving = new Set<string>();
  const beats = new Set<Promise<unknown>>();
  // graphile-worker's own signal aborts five seconds after the stop, whatever the deadline.
  const abort = new AbortController();
  setMaxListeners(0, abort.signal); // one a run
  const shiftTasks = Object.fromEntries(
    Object.entries(tasks).map(([name, task]): [string, ShiftTask] => [
      name,
      async (payload, job, leave) => {
        await task(payload, job, abort.signal, leave);
        // The next in its line may go now, which where there is no LISTEN nobody else says.
        if (job.flags?.gated) shift?.nudge(1);
      },
    ]),
  );

  async function supervise() {
    const leaving: Promise<void>[] = [];
    let failures = 0;
    for (let delay = 100; !stopping; delay = Math.min(delay * 2, 5000)) {
      const started = Date.now();
      try {
        shift = await startShift({ database, tasks: shiftTasks, concurrency, log });
        const { id, done } = shift;
        failures = 0;
        ids.add(id);
        onIds([...ids]);
        onStart();
        if (stopping) shift.end();
        const error = await shift.over;
        if (!stopping) log.warn("graphile-worker starts again", { error: describe(error ?? "it has ended") });
        leaving.push(done.then(() => leave(id)));
      } catch (error) {
        if (!stopping && failures++ === 0) {
          log.warn("graphile-worker cannot start, trying again", { error: describe(error) });
        }
      }
      if (Date.now() - started > 30_000) delay = 100;
      if (!stopping) await setTimeout(delay);
    }
    await Promise.all(leaving);
  }

  async function leave(id: string) {
    // A sign of life that is still on its way would come after the farewell, and stay.
    leaving.add(id);
    onIds([...ids].filter((other) => !leaving.has(other)));
    await Promise.allSettled(beats);
    for (let delay = 100; ids.has(id); delay *= 2) {
      try {
        await database.within(10_000).execute(sql`select notika._leave(${id})`);
        ids.delete(id);
      } catch (error) {
        if (stopping || delay > 10_000) {
          ids.delete(id);
          log.warn("cannot free the jobs of this runner; others will in a minute", { error: describe(error) });
        } else await setTimeout(delay);
      }
    }
  }

  const stopped = supervise();
  return {
    async beat(give) {
      for (const id of ids) {
        if (leaving.has(id)) continue;
        const beat = give(id);
        beats.add(beat);
        await beat.finally(() => beats.delete(beat));
      }
    },
    nudge: (jobs) => shift?.nudge(jobs),
    async stop(deadline) {
      stopping = true;
      shift?.end();
      const timer = new AbortController();
      const late = setTimeout(deadline, "late", { signal: timer.signal }).catch(() => "stopped");
      if ((await Promise.race([stopped, late])) === "late") {
        log.warn("the deadline is over: aborting what still runs");
        abort.abort();
        if ((await Promise.race([stopped, setTimeout(1000, "late")])) === "late") {
          await Promise.all([...ids].map(leave));
        }
      }
      timer.abort();
    },
  };
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
