import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { atOnce, type Statements } from "../database/statements.ts";
import type { Log } from "../log.ts";

export interface Dispatcher {
  /** Looks for events now: a writer has notified. */
  wake(): void;
  /** Resolves when the dispatcher has stopped. */
  stop(): Promise<void>;
}

interface Setting {
  database: Database;
  log: Log;
  /** Whether notifications arrive. */
  hears: () => boolean;
  /** Called with the number of new jobs, where their NOTIFY does not arrive. */
  onDispatch: (jobs: number) => void;
}

const most = 1000;
const pause = {
  few: 5,
  // Without LISTEN an event waits half of `first` in the median, while the last one is not older than `lively`.  A shorter
  // pause would be a load on the database.  An event after a silence waits half of `longest`.
  first: 50,
  lively: 10_000,
  longest: 350,
  asleep: 1000,
  failed: 100,
  failedLongest: 5000,
  answer: 10_000,
}; // milliseconds

/**
 * Dispatches events as they come: at once while there are more, then at longer and longer intervals, unless a writer
 * notifies.  Any number of dispatchers may run; the database admits one at a time.
 */
export function startDispatcher({ database, log, hears, onDispatch }: Setting): Dispatcher {
  const bell = openBell();
  // A connection that hangs must not stop dispatching for good.
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
        // On a server that takes no writes it is possible to look, but not to doze.
        const begins: boolean = events === 0 && hears() && !asleep && (await doze(statements));
        asleep ||= begins;
        if (failures > 0) log.info("the database is back");
        failures = 0;
        if (events) {
          idle = pause.first;
          livelyUntil = Date.now() + pause.lively;
          if (events < most) await bell.wait(pause.few);
        } else if (!begins) {
          // When it begins to doze it looks once more: a writer may have been in between.
          await bell.wait(idle);
          if (hears()) idle = Math.min(idle * 2, pause.asleep);
          else if (Date.now() > livelyUntil) idle = Math.min(idle * 2, pause.longest);
        }
      } catch (error) {
        if (failures === 0) log.error("cannot dispatch, trying again", { error: (error as Error).message });
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

/** The number of events that became jobs; null: another dispatcher is at work. */
async function dispatch({ execute }: Statements): Promise<number | null> {
  const [row] = await execute<{ events: number | null }>(
    // Without waiting for the disk: a crash that loses jobs loses the move of the cursor with them, and a claim waits until
    // both are on disk.
    atOnce(`set local synchronous_commit = off; select notika.dispatch(${most}) as events`),
  );
  return row?.events ?? null;
}

/** Whether every writer notifies from now on. */
async function doze({ execute }: Statements): Promise<boolean> {
  const [row] = await execute<{ asleep: boolean }>(sql`select notika._doze() as asleep`);
  return row?.asleep === true;
}

/** A wait that ends early when the bell rings, also when it rang just before. */
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
