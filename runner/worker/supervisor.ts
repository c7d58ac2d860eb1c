import { setMaxListeners } from "node:events";
import { setTimeout } from "node:timers/promises";
import sql from "sql-template-tag";
import type { Attempt } from "../attempt/attempt.ts";
import type { Database } from "../database/database.ts";
import type { Log } from "../log.ts";
import { type Graphile, startGraphile } from "./graphile.ts";

export interface Supervisor {
  /** Sends a heartbeat for each id by which jobs are locked: several while jobs of an earlier start still run. */
  heartbeat(send: (id: string) => Promise<unknown>): Promise<void>;
  /** Makes graphile-worker look for jobs now: there are new ones. */
  wake(jobs: number): void;
  /** Resolves when all has ended: it was stopped, or the database was upgraded and what ran then has ended. */
  ended: Promise<void>;
  /** Lets what runs finish, for `deadline` milliseconds; then aborts it and frees its jobs for other runners. */
  stop(deadline: number): Promise<void>;
}

interface Setting {
  database: Database;
  attempts: Record<string, Attempt>;
  concurrency: number;
  log: Log;
  /** Called when there is a new id. */
  onStart: () => void;
  /** Called with the ids by which jobs are locked, when they change. */
  onIds: (ids: string[]) => void;
  /** Called when the database has another version by now, which gives this one no more jobs. */
  onUpgrade: (error: Error) => void;
}

/** Keeps graphile-worker running: starts it again whenever it ends, for which a lost connection is enough. */
export function startSupervisor({ database, attempts, concurrency, log, ...on }: Setting): Supervisor {
  let graphile: Graphile | undefined;
  let stopping = false;
  const ids = new Set<string>();
  const leaving = new Set<string>();
  const heartbeats = new Set<Promise<unknown>>();
  // graphile-worker's own signal aborts five seconds after the stop, whatever the deadline.
  const abort = new AbortController();
  setMaxListeners(0, abort.signal); // one a run

  async function supervise() {
    const ending: Promise<void>[] = [];
    let failures = 0;
    for (let delay = 100; !stopping; delay = Math.min(delay * 2, 5000)) {
      const started = Date.now();
      try {
        graphile = await startGraphile({ database, attempts, concurrency, signal: abort.signal, log });
        const { id, done } = graphile;
        failures = 0;
        ids.add(id);
        on.onIds([...ids]);
        on.onStart();
        if (stopping) graphile.end();
        const error = await graphile.over;
        if (!stopping && isOfOtherVersion(error)) {
          stopping = true;
          on.onUpgrade(error);
        }
        if (!stopping) log.warn("graphile-worker starts again", { error: describe(error ?? "it has ended") });
        ending.push(done.then(() => leave(id)));
      } catch (error) {
        if (!stopping && failures++ === 0) {
          log.warn("graphile-worker cannot start, trying again", { error: describe(error) });
        }
      }
      if (Date.now() - started > 30_000) delay = 100;
      if (!stopping) await setTimeout(delay);
    }
    await Promise.all(ending);
  }

  /** Frees the jobs that are locked by an id, and forgets it. */
  async function leave(id: string) {
    // A heartbeat that arrived later would stay.
    leaving.add(id);
    on.onIds([...ids].filter((other) => !leaving.has(other)));
    await Promise.allSettled(heartbeats);
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
    async heartbeat(send) {
      for (const id of ids) {
        if (leaving.has(id)) continue;
        const heartbeat = send(id);
        heartbeats.add(heartbeat);
        await heartbeat.finally(() => heartbeats.delete(heartbeat));
      }
    },
    wake: (jobs) => graphile?.wake(jobs),
    ended: stopped,
    async stop(deadline) {
      stopping = true;
      graphile?.end();
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

function isOfOtherVersion(error: (Error & { code?: string }) | undefined): error is Error {
  return error?.code === "NK013";
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
