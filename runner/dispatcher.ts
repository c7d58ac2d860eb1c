import sql from "sql-template-tag";
import type { Database } from "./database.ts";
import type { Log } from "./log.ts";

export interface Dispatcher {
  /** Resolves when the dispatcher has stopped. */
  stop(): Promise<void>;
}

interface Setting {
  database: Database;
  log: Log;
  /** Is told how many events became jobs. */
  onDispatch: (events: number) => void;
}

const batch = 1000;
const pause = { few: 5, first: 50, longest: 1000, failed: 100, failedLongest: 10_000, answer: 30_000 }; // milliseconds

/**
 * Hands events over as they come: at once while there are more, then at longer and longer intervals, unless a writer
 * notifies.  Any number of dispatchers may run; the database lets one at a time.
 */
export function startDispatcher({ database, log, onDispatch }: Setting): Dispatcher {
  const bell = openBell();
  let stopping = false;
  let listening = false;

  const unlisten = database
    .listen("notika", bell.ring)
    .then((unlisten) => {
      listening = true;
      return unlisten;
    })
    .catch((error: Error) => {
      log.warn("cannot listen: new events are found by polling", { error: error.message });
      return async () => {};
    });

  async function loop() {
    let idle = pause.first;
    let asleep = false;
    let failures = 0;
    while (!stopping) {
      try {
        const events = await answered(dispatch(database));
        if (failures > 0) log.info("the database is back");
        failures = 0;
        if (events) {
          onDispatch(events);
          idle = pause.first;
          asleep = false;
          if (events < batch) await bell.wait(pause.few);
        } else {
          if (events === 0 && listening && !asleep) {
            asleep = await answered(doze(database));
            if (asleep) continue; // look once more: somebody may have written in between, unseen
          }
          await bell.wait(idle);
          idle = Math.min(idle * 2, pause.longest);
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
    async stop() {
      stopping = true;
      bell.ring();
      await stopped;
      await (await unlisten)().catch(() => {});
    },
  };
}

/** Fails when the database does not answer: a connection that hangs must not stop the hand-over for good. */
async function answered<T>(work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${pause.answer} ms`)), pause.answer);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** How many events were handed over; null: somebody else is at it. */
async function dispatch(database: Database): Promise<number | null> {
  // In a transaction of its own, which is READ COMMITTED whatever the database's default is.
  const [row] = await database.transaction((execute) =>
    execute<{ events: number | null }>(sql`select notika.dispatch(${batch}::int) as events`),
  );
  return row?.events ?? null;
}

/** Whether from now on every writer notifies. */
async function doze(database: Database): Promise<boolean> {
  const [row] = await database.execute<{ asleep: boolean }>(sql`select notika._doze() as asleep`);
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
