import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { atOnce, type Statements } from "../database/statements.ts";
import type { Log } from "../log.ts";

export interface Dispatcher {
  /** Looks for events immediately: a writer has notified. */
  wake(): void;
  /** Resolves when the dispatcher has stopped. */
  stop(): Promise<void>;
}

interface Setting {
  database: Database;
  log: Log;
  /** Whether notifications arrive. */
  hears: () => boolean;
  /** Called with the number of new jobs when their NOTIFY does not arrive. */
  onDispatch: (jobs: number) => void;
}

const most = 1000;
const pause = {
  few: 5,
  // Without LISTEN, the median wait of an event is half of `first` if the last event is at most `lively` old, and half of
  // `longest` otherwise.  A shorter pause would be a load on the database.
  first: 50,
  lively: 10_000,
  longest: 350,
  asleep: 1000,
  failed: 100,
  failedLongest: 5000,
  answer: 10_000,
}; // milliseconds

/**
 * Dispatches events: without a pause while there are more, then at increasing intervals, unless a writer notifies.  Any
 * number of dispatchers may run; the database admits one at a time.
 */
export function startDispatcher({ database, log, hears, onDispatch }: Setting): Dispatcher {
  const bell = openBell();
  // A connection that hangs must not stop dispatching permanently.
  const statements = database.within(pause.answer);
  let stopping = false;

  async function loop() {
    let idle = pause.first;
    let livelyUntil = 0;
    let asleep = false;
    let failures = 0;
    while (!stopping) {
      try {
        const events = await dispatch(statements);
        if (events && !hears()) onDispatch(events);
        asleep &&= !events && hears();
        // On a read-only server, dispatch() works, but not _doze().
        const begins: boolean = events === 0 && hears() && !asleep && (await doze(statements));
        asleep ||= begins;
        if (failures > 0) log.info("the database can be reached again");
        failures = 0;
        if (events) {
          idle = pause.first;
          livelyUntil = Date.now() + pause.lively;
          if (events < most) await bell.wait(pause.few);
        } else if (!begins) {
          // After it begins to doze, it looks once more: a writer may have committed in between.
          await bell.wait(idle);
          if (hears()) idle = Math.min(idle * 2, pause.asleep);
          else if (Date.now() > livelyUntil) idle = Math.min(idle * 2, pause.longest);
        }
      } catch (error) {
        if (failures === 0) log.error("cannot dispatch, retrying", { error: (error as Error).message });
        asleep = false;
        await bell.wait(Math.min(pause.failed * 2 ** failures++, pause.failedLongest));
      }
    }
  }

  const stopped = loop();
  return {
    wake: bell.ring,
    async stop() {
      stopping = true;
      bell.ring();
      await stopped;
    },
  };
}

/** The number of events that became jobs; null: another dispatcher is running. */
async function dispatch({ execute }: Statements): Promise<number | null> {
  const [row] = await execute<{ events: number | null }>(
    // Does not wait for the disk: a crash that loses jobs also loses the move of the cursor, and a claim waits until both
    // are on disk.
    atOnce(`set local synchronous_commit = off; select notika.dispatch(${most}) as events`),
  );
  return row?.events ?? null;
}

/** Whether every writer notifies from now on. */
async function doze({ execute }: Statements): Promise<boolean> {
  const [row] = await execute<{ asleep: boolean }>(sql`select notika._doze() as asleep`);
  return row?.asleep === true;
}

/** A wait that ends early when the bell rings, or if it rang just before. */
function openBell() {
  let rang = false;
  let wake = () => {};
  return {
    ring() {
      rang = true;
      wake();
    },
    async wait(ms: number) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, rang ? 0 : ms);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      rang = false;
      wake = () => {};
    },
  };
}
