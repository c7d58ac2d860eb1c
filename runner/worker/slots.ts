/** Says who of a shift's slots may take a job, and how many jobs to fetch for them. */
export interface Gate {
  /** Waits until fewer than the concurrency are inside: they wait for a job or do a task's work. */
  enter(): Promise<void>;
  /** Who is inside begins to work. */
  begin(): void;
  /** Its work is done; what is left is to write down what came of it, for which nobody has to wait. */
  leave(): void;
  /** Whoever got no job is out again. */
  giveUp(): void;
  /** How many jobs would begin within a moment. */
  wanted(): number;
  /** Lets everybody in: there are no more jobs. */
  open(): void;
}

const moment = 100; // milliseconds
const most = 500;

/** How many slots may have ended their work and not yet written down what came of it. */
export const unwritten = most;

/** Opens a gate.  `onWant` is told of everybody who comes in. */
export function openGate(concurrency: number, onWant: () => void): Gate {
  const waiting: (() => void)[] = [];
  let inside = 0;
  let working = 0;
  let isOpen = false;
  const pace = openPace();

  function out() {
    inside--;
    const next = waiting.shift();
    if (next) {
      inside++;
      next();
    }
  }

  return {
    async enter() {
      if (inside < concurrency || isOpen) inside++;
      else await new Promise<void>((resolve) => waiting.push(resolve));
      onWant();
    },
    begin() {
      working++;
    },
    leave() {
      working--;
      pace.count();
      out();
    },
    giveUp: out,
    wanted() {
      if (isOpen) return 0;
      const ended = pace.recent();
      // Jobs that wait here while slow ones run are kept from other runners.
      return Math.min(inside - working + (ended > concurrency ? ended : 0), most);
    },
    open() {
      isOpen = true;
      for (const enter of waiting.splice(0)) {
        inside++;
        enter();
      }
    },
  };
}

/** Counts what happened within the last moment, roughly. */
function openPace() {
  let started = 0;
  let before = 0;
  let now = 0;
  function turn() {
    const passed = performance.now() - started;
    if (passed < moment) return;
    before = passed < 2 * moment ? now : 0;
    now = 0;
    started += passed;
  }
  return {
    count() {
      turn();
      now++;
    },
    recent() {
      turn();
      return Math.max(before, now);
    },
  };
}
