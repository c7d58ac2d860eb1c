import { setImmediate } from "node:timers";
import { setImmediate as soon } from "node:timers/promises";
import type { Database } from "../database/database.ts";
import { isLost } from "../database/lost_connection.ts";
import type { Execute } from "../database/statements.ts";
import { NonRetriable, StepError } from "../errors.ts";
import { interval } from "../workflow/duration.ts";
import type { Step, StepCall } from "../workflow/step.ts";
import { type Change, type Sources, waitFor } from "../workflow/waits.ts";
import { type Asked, asked } from "./pending.ts";
import { replay } from "./recall.ts";
import type { Memory, NewStep, Remembered } from "./store.ts";
import { toError } from "./thrown.ts";

/** Why an attempt went no further, when it did not reach the end of the task. */
export type Halt =
  | { kind: "waits"; waits: object[] }
  | { kind: "reenters" }
  | { kind: "ended" }
  | { kind: "lost" }
  | { kind: "fails"; error: Error }
  | { kind: "crashes"; error: Error };

/** For tests: sees a step before its work is done, and after it is remembered. */
export interface StepObserver {
  before?(run: string, name: string): void;
  after?(run: string, name: string): "crash" | "reenter" | undefined;
}

interface Setting {
  run: { id: string; depth: number };
  installation: string;
  /** What the run may wait for. */
  waitsFor: Sources["waitsFor"];
  /** The steps that have ended in earlier attempts, in the order in which they ended. */
  past: Remembered[];
  database: Database;
  memory: Memory;
  signal: AbortSignal;
  /** Whether a step that fails now may not be tried again. */
  isLastAttempt: boolean;
  /** Whether the run is still this runner's, which may have been away. */
  isOwn?: (() => Promise<boolean>) | undefined;
  observe?: StepObserver | undefined;
}

const limits = { result: 1_048_576, name: 200, steps: 10_000 };
const never = new Promise<never>(() => {});

/** The steps of one attempt.  `halted` settles when the attempt cannot go on; what the task awaits then never settles. */
export function openSteps({
  run,
  installation,
  waitsFor,
  past,
  database,
  memory,
  signal,
  isLastAttempt,
  isOwn,
  observe,
}: Setting) {
  const claimed = new Map<string, number>();
  const history = replay(past, rest);
  const waits: object[] = [];
  const pending = { wait: new Map<string, Asked<unknown>>(), step: new Map<string, Asked<unknown>>() };
  let running = 0;
  let failure: Error | undefined;
  let reenters = false;
  let gaveUp = false;
  let isOver = false;
  let halt: (reason: Halt) => void = () => {};
  const halted = new Promise<Halt>((resolve) => {
    halt = (reason) => {
      isOver = true;
      resolve(reason);
    };
  });

  /** A step's own name: the second of a name is another step. */
  function claim(name: string): string {
    if (typeof name !== "string" || !isName.test(name) || name.length > limits.name) {
      throw new NonRetriable(
        `a step's name has 1 to ${limits.name} characters and does not end in #1, unlike ${JSON.stringify(name)}`,
      );
    }
    const count = (claimed.get(name) ?? 0) + 1;
    claimed.set(name, count);
    if (claimed.size > limits.steps) throw new NonRetriable(`a run takes at most ${limits.steps} steps`);
    return count === 1 ? name : `${name}#${count}`;
  }

  /** Takes a step, or gives what it gave in an earlier attempt.  Undefined: the attempt goes no further here. */
  async function take(name: string, work: () => Promise<Remembered>): Promise<Remembered | undefined> {
    const remembered = history.recall(name);
    if (remembered) return remembered;
    if (gaveUp) reenters = true; // the error was caught: what follows has all its attempts before it
    if (reenters) rest();
    if (isOver || failure || reenters) return;

    running += 1;
    try {
      const wait = await forgottenWait();
      if (wait !== undefined) throw forgotten(wait, `step ${JSON.stringify(name)} began`);
      if (isOver || failure) return;
      if (isOwn && !(await isOwn())) halt({ kind: "lost" });
      if (isOver || failure) return;
      const kept = await work();
      const next = observe?.after?.(run.id, name);
      if (next === "crash") halt({ kind: "crashes", error: new Error(`crashed after step "${name}"`) });
      if (next === "reenter") reenters = true;
      if (kept.state === "ended") halt({ kind: "ended" });
      return isOver || reenters ? undefined : kept;
    } catch (error) {
      // The database did not take it: nothing that the task could mend by catching it.
      failure ??= toError(error);
      return;
    } finally {
      running -= 1;
      rest();
    }
  }

  function outcome(step: Remembered | undefined): Promise<never> | unknown {
    if (step?.state === "done") return step.result;
    if (step?.state === "failed") {
      gaveUp ||= isLastAttempt && step.thrown !== undefined;
      throw new StepError(step);
    }
    if (step) failure ??= new StepError(step);
    return never;
  }

  /** When nothing is running any more, and the task asks for nothing new, the attempt is over. */
  function rest() {
    setImmediate(() => {
      if (isOver || running > 0 || history.isBehind()) return;
      const wait = pending.wait.size > 1 ? unasked("wait") : undefined;
      if (wait !== undefined && isAnyAsked()) failure ??= forgotten(wait, "the next wait began");
      if (failure) halt({ kind: "fails", error: failure });
      else if (reenters) halt({ kind: "reenters" });
      else if (waits.length > 0) halt({ kind: "waits", waits });
    });
  }

  function wait(name: string, what: () => object): Promise<unknown> {
    return follow("wait", name, async (own) => {
      const remembered = await history.recall(own);
      if (remembered) return outcome(remembered);
      waits.push({ name: own, ...what() });
      rest();
      return never;
    });
  }

  /** Begins a step or a wait, and remembers until it is over whether the task awaits it. */
  function follow<T>(kind: keyof typeof pending, name: string, begin: (own: string) => Promise<T>): Promise<T> {
    let own: string;
    try {
      own = claim(name);
    } catch (error) {
      return Promise.reject(error);
    }
    const over = () => void pending[kind].delete(own);
    const begun = begin(own);
    begun.then(over, over);
    const promise = asked(begun);
    pending[kind].set(own, promise);
    return promise;
  }

  function unasked(kind: keyof typeof pending): string | undefined {
    for (const [name, { isAsked }] of pending[kind]) if (!isAsked) return name;
    return undefined;
  }

  const isAnyAsked = () => [...pending.wait.values()].some(({ isAsked }) => isAsked);

  /** A wait that the task has begun and does not await; what is given to Promise.all is asked a moment later. */
  async function forgottenWait(): Promise<string | undefined> {
    if (unasked("wait") === undefined) return undefined;
    await soon();
    return unasked("wait");
  }

  /** Does the work and remembers what came of it. */
  async function remember(name: string, work: (call: StepCall) => unknown): Promise<Remembered> {
    const ended = await ending(name, () => work({ idempotencyKey: `${installation}:${run.id}:${name}`, signal }));
    return memory.keep(ended.step, ended.thrown);
  }

  /** Does the work in the transaction that remembers it. */
  async function transact(name: string, work: (query: Execute) => unknown): Promise<Remembered> {
    let kept: Remembered | undefined;
    const { step, thrown } = await ending(name, () =>
      database.transaction(async (execute) => {
        const started = performance.now();
        kept = await memory.begin(execute, run, name);
        if (kept) return;
        const result = asJson(name, await work(execute));
        kept = await memory.keepIn(execute, {
          run_id: run.id,
          name,
          state: "done",
          result,
          ms: performance.now() - started,
        });
      }),
    );
    return kept && !thrown ? kept : memory.keep(step, thrown);
  }

  /** How the work of a step ends. */
  async function ending(name: string, work: () => unknown): Promise<{ step: NewStep; thrown?: Error }> {
    const started = performance.now();
    const step = (rest: Pick<NewStep, "state" | "result" | "error">): NewStep => ({
      run_id: run.id,
      name,
      ms: performance.now() - started,
      ...rest,
    });
    try {
      observe?.before?.(run.id, name);
      return { step: step({ state: "done", result: asJson(name, await work()) }) };
    } catch (caught) {
      const thrown = toError(caught);
      const isFinal =
        thrown.name === "NonRetriable" || (isLastAttempt && thrown.name !== "RetryAfter" && !isLost(thrown));
      return { step: step({ state: isFinal ? "failed" : "retrying", error: thrown.message }), thrown };
    }
  }

  const step: Step = {
    run: (name, work) =>
      follow("step", name, async (own) => outcome(await take(own, () => remember(own, work))) as never),
    transaction: (name, work) =>
      follow("step", name, async (own) => outcome(await take(own, () => transact(own, work))) as never),
    query: (name, statement) => step.transaction(name, (execute) => execute(statement)) as never,
    each: (name, items, key, work, { concurrency = 10 } = {}) =>
      follow("step", name, async (base) => {
        const all = [...items].map((item) => ({ item, own: `${base}/${key(item)}` }));
        if (new Set(all.map(({ own }) => own)).size < all.length) {
          throw new NonRetriable(`step.each(${JSON.stringify(name)}): two items have the same key`);
        }
        const taken: (Remembered | undefined)[] = [];
        const queue = all.entries(); // the lanes share it: each takes the next item
        const lane = async () => {
          for (const [index, { item, own }] of queue) {
            taken[index] = await take(own, () => remember(own, (call) => work(item, call)));
          }
        };
        await Promise.all(Array.from({ length: Math.max(1, concurrency) }, lane));

        const failed = taken.filter((one) => one && one.state !== "done");
        const worst = failed.find((one) => one?.state === "retrying") ?? failed[0];
        if (worst) {
          const error = `${failed.length} of ${all.length} failed, such as ${JSON.stringify(worst.name)}: ${worst.error}`;
          return outcome({ ...worst, name: base, error }) as never;
        }
        return (taken.includes(undefined) ? never : taken.map((one) => one?.result)) as never;
      }),
    sleep: (name, duration) => wait(name, () => ({ for: interval(duration) })) as Promise<void>,
    sleepUntil: (name, until, { timeZone } = {}) =>
      wait(name, () => ({
        ...(typeof until === "string" && /^\d\d?:\d\d(:\d\d)?$/.test(until)
          ? { time: until }
          : { at: until instanceof Date ? until.toISOString() : until }),
        ...(timeZone && { time_zone: timeZone }),
      })) as Promise<void>,
    waitFor: (name, change, options = {}) =>
      wait(name, () => waitFor(waitsFor, name, change as Change, options)) as never,
  };
  return {
    step,
    halted,
    /** What is wrong when the task has returned: something that it began is not over, and nobody awaits it. */
    forgotten(): Error | undefined {
      const wait = unasked("wait");
      const step = unasked("step");
      if (wait !== undefined) return forgotten(wait, "the task returned");
      if (step !== undefined) return forgotten(step, "the task returned");
      return undefined;
    },
    /** Nothing is taken any more: the attempt is over for another reason. */
    close() {
      isOver = true;
    },
  };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
const isName = /^(?!\s*$)(?!.*#\d+$)[^\x00-\x1f]+$/;

function asJson(name: string, value: unknown): string {
  let json: string;
  try {
    json = JSON.stringify(value) ?? "null";
  } catch (error) {
    throw new NonRetriable(`the result of step "${name}" cannot be kept as JSON: ${toError(error).message}`);
  }
  const bytes = Buffer.byteLength(json);
  if (bytes > limits.result) {
    throw new NonRetriable(
      `the result of step "${name}" has ${bytes} bytes, more than ${limits.result}: store it, and return where it is`,
    );
  }
  return json;
}

function forgotten(name: string, when: string): NonRetriable {
  return new NonRetriable(
    `step ${JSON.stringify(name)} is not awaited, and was not over when ${when}: write await before it, or give both to Promise.all`,
  );
}
