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
  /** Makes graphile-worker look for jobs immediately: there are new ones. */
  wake(jobs: number): void;
  /** Resolves when all runs have ended after a stop, or after an upgrade of the database. */
  ended: Promise<void>;
  /** Lets runs finish for `deadline` milliseconds; then aborts them and frees their jobs for other runners. */
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
  /** Called when the database was upgraded to another version, which gives this runner no more jobs. */
  onUpgrade: (error: Error) => void;
}

/** Keeps graphile-worker running: restarts it whenever it ends, for example because a connection was lost. */
export function startSupervisor({ database, attempts, concurrency, log, ...on }: Setting): Supervisor {
  let graphile: Graphile | undefined;
  let stopping = false;
  const ids = new Set<string>();
  const leaving = new Set<string>();
  const heartbeats = new Set<Promise<unknown>>();
  // graphile-worker's own signal aborts five seconds after the stop, whatever the deadline.
  const abort = new AbortController();
  setMaxListeners(0, abort.signal); // each run adds a listener

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
        if (!stopping) log.warn("restarting graphile-worker", { error: describe(error ?? "it has ended") });
        ending.push(done.then(() => leave(id)));
      } catch (error) {
        if (!stopping && failures++ === 0) {
          log.warn("graphile-worker cannot start, retrying", { error: describe(error) });
        }
      }
      if (Date.now() - started > 30_000) delay = 100;
      if (!stopping) await setTimeout(delay);
    }
    await Promise.all(ending);
  }

  /** Frees the jobs that are locked by an id, and forgets it. */
  async function leave(id: string) {
    // A heartbeat that arrived after _leave() would never be removed.
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
          log.warn("cannot free the jobs of this runner; another runner will do so within a minute", {
            error: describe(error),
          });
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
        log.warn("the deadline has passed: aborting runs that have not ended");
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
