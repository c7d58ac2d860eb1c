import { lookup } from "node:dns/promises";
import { setTimeout } from "node:timers/promises";
import { hostError } from "./errors.ts";

/**
 * The addresses of a name, in the order of the system's resolver; only of `family`, if that is given.  Waits `timeout`
 * milliseconds; 0: no limit.  Rejects with a HostError.
 */
export async function resolve(name: string, timeout: number, family: 0 | 4 | 6 = 0): Promise<string[]> {
  try {
    const found = await inTime(lookup(name, { all: true, verbatim: true, family }), timeout);
    if (found) return found.map(({ address }) => address);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EAI_AGAIN") {
      throw hostError("name", `there is no host "${name}"`, { hint: "Is the name of the host correct?", cause });
    }
  }
  throw hostError("name", `no name server could resolve "${name}"`, {
    hint: "Is this machine on the network? Try again.",
  });
}

async function inTime<T>(work: Promise<T>, timeout: number): Promise<T | undefined> {
  if (timeout === 0) return work;
  const done = new AbortController();
  const late = setTimeout(timeout, undefined, { signal: done.signal });
  return Promise.race([work, late]).finally(() => done.abort());
}
