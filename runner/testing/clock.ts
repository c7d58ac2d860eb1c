/** Time as JavaScript and every PGlite of this process see it. */
export interface Clock {
  /** Moves on, never back: Postgres' own timers would spin. */
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

/** Takes over the global Date, which PGlite asks too, until the last clock is disposed of. */
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
