import { setImmediate } from "node:timers";
import type { Remembered } from "./store.ts";

/** Gives what steps gave before, in the order in which they ended, so that a race is won by the same one each time. */
export function replay(past: Remembered[], onCaughtUp: () => void) {
  const places = new Map(past.map(({ name }, place) => [name, place]));
  const asked: { place: number; resolve: (step: Remembered) => void }[] = [];

  function deliver() {
    asked.sort((a, b) => b.place - a.place);
    const next = asked.pop();
    next?.resolve(past[next.place] as Remembered);
    // The task may ask for one that ended before those that it has asked for already.
    if (asked.length > 0) setImmediate(deliver);
    else onCaughtUp();
  }

  return {
    recall(name: string): Promise<Remembered> | undefined {
      const place = places.get(name);
      if (place === undefined) return;
      if (asked.length === 0) setImmediate(deliver);
      return new Promise((resolve) => asked.push({ place, resolve }));
    },
    isBehind: () => asked.length > 0,
  };
}
