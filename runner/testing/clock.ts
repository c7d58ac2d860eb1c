/** The time of JavaScript and of every PGlite in this process. */
export interface Clock {
  /** Moves the time forward to `at`, in milliseconds since 1970; never back, because the timers of Postgres would spin. */
  moveTo(at: number): void;
  [Symbol.dispose](): void;
}

const RealDate = Date;
let offset = 0;
let open = 0;

const now = () => RealDate.now() + offset;
const MovedDate = new Proxy(RealDate, {
  apply: () => new RealDate(now()).toString(),
  construct: (target, given, newTarget) => Reflect.construct(target, given.length > 0 ? given : [now()], newTarget),
  get: (target, key) => (key === "now" ? now : Reflect.get(target, key)),
});

/** Replaces the global Date, which PGlite uses too, until the last clock is disposed of. */
export function openClock(): Clock {
  if (open++ === 0) globalThis.Date = MovedDate;
  let isOpen = true;
  return {
    moveTo(at) {
      offset += Math.max(0, at - now());
    },
    [Symbol.dispose]() {
      if (!isOpen) return;
      isOpen = false;
      if (--open > 0) return;
      globalThis.Date = RealDate;
      offset = 0;
    },
  };
}
