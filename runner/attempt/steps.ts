import { setImmediate } from "node:timers";
import type { Database } from "../database/database.ts";
import { NonRetriable, StepError, toError } from "../errors.ts";
import { interval } from "../workflow/duration.ts";
import type { Step } from "../workflow/step.ts";
import { type Change, type Sources, waitFor } from "../workflow/waits.ts";
import { openPending } from "./pending.ts";
import { openRecall } from "./recall.ts";
import { openStepWork } from "./step_work.ts";
import type { Remembered, Store } from "./store.ts";

/** Why an attempt stopped before the end of the task. */
export type Halt =
  | { kind: "waits"; waits: object[] }
  | { kind: "reenters" }
  | { kind: "ended" }
  | { kind: "lost" }
  | { kind: "fails"; error: Error }
  | { kind: "crashes"; error: Error };

/** For tests: called before the work of a step, and after its result is kept. */
export interface StepObserver {
  before?(run: string, name: string): void;
  after?(run: string, name: string): "crash" | "reenter" | undefined;
}

interface Setting {
  run: { id: string; depth: number };
  installation: string;
  /** The changes that the run may wait for. */
  waitsFor: Sources["waitsFor"];
  /** The steps that have ended in earlier attempts, in the order in which they ended. */
  past: Remembered[];
  database: Database;
  store: Store;
  signal: AbortSignal;
  /** Whether a step that fails now may not be retried. */
  isLastAttempt: boolean;
  /** Whether this runner still owns the run; undefined: there is no other runner. */
  isOwn?: (() => Promise<boolean>) | undefined;
  observe?: StepObserver | undefined;
}

const limits = { name: 200, steps: 10_000 };
const never = new Promise<never>(() => {});

/** The steps of one attempt.  `halted` resolves when the attempt cannot continue; what the task awaits then never settles. */
export function openSteps({ run, waitsFor, past, isLastAttempt, isOwn, observe, ...setting }: Setting) {
  const names = new Map<string, number>();
  const earlier = openRecall(past, rest);
  const pending = openPending();
  const { remember, transact } = openStepWork({ ...setting, run, isLastAttempt, before: observe?.before });
  const waits: object[] = [];
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

  /** The unique name of a step: a second step with the same name is another step. */
  function ownName(name: string): string {
    if (typeof name !== "string" || !isName.test(name) || name.length > limits.name) {
      throw new NonRetriable(
        `a step's name has 1 to ${limits.name} characters and does not end in #1, unlike ${JSON.stringify(name)}`,
      );
    }
    const count = (names.get(name) ?? 0) + 1;
    names.set(name, count);
    if (names.size > limits.steps) throw new NonRetriable(`a run takes at most ${limits.steps} steps`);
    return count === 1 ? name : `${name}#${count}`;
  }

  /** Runs a step, or returns its result from an earlier attempt.  Undefined: the attempt stops here. */
  async function take(name: string, work: () => Promise<Remembered>): Promise<Remembered | undefined> {
    const remembered = earlier.recall(name);
    if (remembered) return remembered;
    if (gaveUp) reenters = true; // the task caught the error: later steps still have all their attempts
    if (reenters) rest();
    if (isOver || failure || reenters) return;

    running += 1;
    try {
      const error = await pending.beforeStep(name);
      if (error) throw error;
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
      // The database did not accept the result: the task cannot repair that by catching the error.
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

  /** Ends the attempt when no step is running and the task starts no other. */
  function rest() {
    setImmediate(() => {
      if (isOver || running > 0 || earlier.isBehind()) return;
      failure ??= pending.amongWaits();
      if (failure) halt({ kind: "fails", error: failure });
      else if (reenters) halt({ kind: "reenters" });
      else if (waits.length > 0) halt({ kind: "waits", waits });
    });
  }

  function wait(name: string, what: () => object): Promise<unknown> {
    return begin("wait", name, async (own) => {
      const remembered = await earlier.recall(own);
      if (remembered) return outcome(remembered);
      waits.push({ name: own, ...what() });
      rest();
      return never;
    });
  }

  /** Begins a step or a wait under a name of its own. */
  function begin<T>(kind: "step" | "wait", name: string, work: (own: string) => Promise<T>): Promise<T> {
    let own: string;
    try {
      own = ownName(name);
    } catch (error) {
      return Promise.reject(error);
    }
    return pending.add(kind, own, work(own));
  }

  const step: Step = {
    run: (name, work) =>
      begin("step", name, async (own) => outcome(await take(own, () => remember(own, work))) as never),
    transaction: (name, work) =>
      begin("step", name, async (own) => outcome(await take(own, () => transact(own, work))) as never),
    query: (name, statement) => step.transaction(name, (execute) => execute(statement)) as never,
    each: (name, items, key, work, { concurrency = 10 } = {}) =>
      begin("step", name, async (base) => {
        const all = [...items].map((item) => ({ item, own: `${base}/${key(item)}` }));
        if (new Set(all.map(({ own }) => own)).size < all.length) {
          throw new NonRetriable(`step.each(${JSON.stringify(name)}): two items have the same key`);
        }
        const taken: (Remembered | undefined)[] = [];
        const queue = all.entries(); // shared by all loops: each takes the next item
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
    /** The error of a task that has returned while a step or wait that it began is neither over nor awaited. */
    errorAtReturn: pending.atReturn,
    /** Runs no further step: the attempt is over for another reason. */
    close() {
      isOver = true;
    },
  };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are refused
const isName = /^(?!\s*$)(?!.*#\d+$)[^\x00-\x1f]+$/;
