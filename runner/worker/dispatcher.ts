import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import { atOnce, type Statements } from "../database/statements.ts";
import type { Log } from "../log.ts";

export interface Dispatcher {
  /** Looks for events now: somebody has notified. */
  wake(): void;
  /** Resolves when the dispatcher has stopped. */
  stop(): Promise<void>;
}

interface Setting {
  database: Database;
  log: Log;
  /** Whether a NOTIFY would be heard. */
  hears: () => boolean;
  /** Is told how many events became jobs. */
  onDispatch: (events: number) => void;
}

const most = 1000;
const pause = {
  few: 5,
  // Without LISTEN an event waits half of this in the median, as long as the last one is not older than `lively`.  A
  // shorter pause would be felt by the database, and who comes after a silence waits half of the longest.
  first: 50,
  lively: 10_000,
  longest: 350,
  asleep: 1000,
  failed: 100,
  failedLongest: 5000,
  answer: 10_000,
}; // milliseconds

/**
 * Hands events over as they come: at once while there are more, then at longer and longer intervals, unless a writer
 * notifies.  Any number of dispatchers may run; the database lets one at a time.
 */
export function startDispatcher({ database, log, hears, onDispatch }: Setting): Dispatcher {
  const bell = openBell();
  // A connection that hangs must not stop the hand-over for good.
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
        if (events) onDispatch(events);
        asleep &&= !events && hears();
        // A server that takes no writes lets us look, but not doze.
        const begins: boolean = events === 0 && hears() && !asleep && (await doze(statements));
        asleep ||= begins;
        if (failures > 0) log.info("the database is back");
        failures = 0;
        if (events) {
          idle = pause.first;
          livelyUntil = Date.now() + pause.lively;
          if (events < most) await bell.wait(pause.few);
        } else if (!begins) {
          // Who begins to doze looks once more: somebody may have written in between, unseen.
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

/** Hands events over and gives their number; null: another session is doing it. */
async function dispatch({ execute }: Statements): Promise<number | null> {
  const [row] = await execute<{ events: number | null }>(
    // Not flushed: a crash that loses the jobs also loses the move of the cursor, and the commit of a claim flushes both.
    atOnce(`set local synchronous_commit = off; select notika.dispatch(${most}) as events`),
  );
  return row?.events ?? null;
}

/** Whether from now on every writer notifies. */
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
