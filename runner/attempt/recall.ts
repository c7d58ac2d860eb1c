import { setImmediate } from "node:timers";
import type { Remembered } from "./store.ts";

/** Returns the results of earlier attempts in the order in which the steps ended, so that a race has the same winner each time. */
export function openRecall(past: Remembered[], onCaughtUp: () => void) {
  const places = new Map(past.map(({ name }, place) => [name, place]));
  const asked: { place: number; resolve: (step: Remembered) => void }[] = [];

  function deliver() {
    asked.sort((a, b) => b.place - a.place);
    const next = asked.pop();
    next?.resolve(past[next.place] as Remembered);
    // The task may still ask for a step that ended before those that it has asked for.
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
