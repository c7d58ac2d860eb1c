import { setImmediate } from "node:timers/promises";
import { NonRetriable } from "../errors.ts";

/** A promise that knows whether it was awaited: by await, then, or Promise.all. */
class Awaited<T> extends Promise<T> {
  static override get [Symbol.species]() {
    return Promise;
  }

  isAwaited = false;

  // biome-ignore lint/suspicious/noThenProperty: it is a promise
  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.isAwaited = true;
    return super.then(onFulfilled, onRejected);
  }
}

/** The steps and waits of an attempt that have begun and are not over, and whether the task awaits them. */
export function openPending() {
  const pending = { wait: new Map<string, Awaited<unknown>>(), step: new Map<string, Awaited<unknown>>() };

  /** The name of a step or wait that the task has begun and does not await. */
  function unawaited(kind: keyof typeof pending): string | undefined {
    for (const [name, { isAwaited }] of pending[kind]) if (!isAwaited) return name;
    return undefined;
  }

  return {
    /** Adds a step or wait until it is over; returns the promise for the task. */
    add<T>(kind: keyof typeof pending, name: string, begun: Promise<T>): Promise<T> {
      const over = () => void pending[kind].delete(name);
      begun.then(over, over);
      const promise = new Awaited<T>((resolve, reject) => {
        begun.then(resolve, reject);
      });
      pending[kind].set(name, promise);
      return promise;
    },
    /** The error of a wait that is not awaited when a step begins; Promise.all awaits its promises a moment later. */
    async beforeStep(step: string): Promise<NonRetriable | undefined> {
      if (unawaited("wait") === undefined) return undefined;
      await setImmediate();
      const wait = unawaited("wait");
      return wait === undefined ? undefined : notAwaited(wait, `step ${JSON.stringify(step)} began`);
    },
    /** The error of a wait that is not awaited while a later one is. */
    amongWaits(): NonRetriable | undefined {
      const wait = pending.wait.size > 1 ? unawaited("wait") : undefined;
      const isAnyAwaited = [...pending.wait.values()].some(({ isAwaited }) => isAwaited);
      return wait !== undefined && isAnyAwaited ? notAwaited(wait, "the next wait began") : undefined;
    },
    /** The error of a wait or step that is not over, and not awaited, when the task returns. */
    atReturn(): NonRetriable | undefined {
      const name = unawaited("wait") ?? unawaited("step");
      return name === undefined ? undefined : notAwaited(name, "the task returned");
    },
  };
}

function notAwaited(name: string, when: string): NonRetriable {
  return new NonRetriable(
    `step ${JSON.stringify(name)} is not awaited, and was not over when ${when}: write await before it, or pass both to Promise.all`,
  );
}
