/** Limits how many of graphile-worker's workers have or fetch a job at a time, and how many jobs they fetch. */
export interface Slots {
  /** Waits for a free slot, in which a worker waits for a job and does its work. */
  take(): Promise<void>;
  /** Notes that the work begins. */
  begin(): void;
  /** Releases the slot: the work is done.  Writing how it ended needs no slot. */
  release(): void;
  /** Releases a slot that got no job. */
  giveUp(): void;
  /** The number of jobs that could begin within 100 ms. */
  wanted(): number;
  /** Lifts the limit: no more jobs are fetched. */
  open(): void;
}

const moment = 100; // milliseconds
const most = 500;

/** How many workers may write how their work ended, in addition to those that have a slot. */
export const writers = most;

/** Opens `concurrency` slots; calls `onTake` each time that one is taken. */
export function openSlots(concurrency: number, onTake: () => void): Slots {
  const waiting: (() => void)[] = [];
  let taken = 0;
  let working = 0;
  let isOpen = false;
  const rate = openRate();

  function free() {
    taken--;
    const next = waiting.shift();
    if (next) {
      taken++;
      next();
    }
  }

  return {
    async take() {
      if (taken < concurrency || isOpen) taken++;
      else await new Promise<void>((resolve) => waiting.push(resolve));
      onTake();
    },
    begin() {
      working++;
    },
    release() {
      working--;
      rate.count();
      free();
    },
    giveUp: free,
    wanted() {
      if (isOpen) return 0;
      const ended = rate.recent();
      // Jobs that wait here while slow ones run are not available to other runners.
      return Math.min(taken - working + (ended > concurrency ? ended : 0), most);
    },
    open() {
      isOpen = true;
      for (const take of waiting.splice(0)) {
        taken++;
        take();
      }
    },
  };
}

/** Counts events within the last 100 ms, approximately. */
function openRate() {
  let started = 0;
  let before = 0;
  let now = 0;
  function advance() {
    const passed = performance.now() - started;
    if (passed < moment) return;
    before = passed < 2 * moment ? now : 0;
    now = 0;
    started += passed;
  }
  return {
    count() {
      advance();
      now++;
    },
    recent() {
      advance();
      return Math.max(before, now);
    },
  };
}
