import type { Database } from "../database/database.ts";
import { isLost } from "../database/lost_connection.ts";
import type { Execute } from "../database/statements.ts";
import { NonRetriable, toError } from "../errors.ts";
import type { StepCall } from "../workflow/step.ts";
import type { NewStep, Remembered, Store } from "./store.ts";

interface Setting {
  run: { id: string; depth: number };
  installation: string;
  database: Database;
  store: Store;
  signal: AbortSignal;
  /** Whether a step that fails now may not be retried. */
  isLastAttempt: boolean;
  /** Called before the work of a step. */
  before: ((run: string, name: string) => void) | undefined;
}

const longest = 1_048_576; // bytes

/** Does the work of the steps of one attempt, and keeps the results. */
export function openStepWork({ run, installation, database, store, signal, isLastAttempt, before }: Setting) {
  /** The result of `work`, also when it throws. */
  async function resultOf(name: string, work: () => unknown): Promise<{ step: NewStep; thrown?: Error }> {
    const started = performance.now();
    const step = (rest: Pick<NewStep, "state" | "result" | "error">): NewStep => ({
      run_id: run.id,
      name,
      ms: performance.now() - started,
      ...rest,
    });
    try {
      before?.(run.id, name);
      return { step: step({ state: "done", result: asJson(name, await work()) }) };
    } catch (caught) {
      const thrown = toError(caught);
      const isFinal =
        thrown.name === "NonRetriable" || (isLastAttempt && thrown.name !== "RetryAfter" && !isLost(thrown));
      return { step: step({ state: isFinal ? "failed" : "retrying", error: thrown.message }), thrown };
    }
  }

  return {
    /** Does the work, and then keeps its result. */
    async remember(name: string, work: (call: StepCall) => unknown): Promise<Remembered> {
      const call = { idempotencyKey: `${installation}:${run.id}:${name}`, signal };
      const { step, thrown } = await resultOf(name, () => work(call));
      return store.keepStep(step, thrown);
    },

    /** Does the work in the transaction that keeps its result. */
    async transact(name: string, work: (query: Execute) => unknown): Promise<Remembered> {
      let kept: Remembered | undefined;
      const { step, thrown } = await resultOf(name, () =>
        database.transaction(async (execute) => {
          const started = performance.now();
          kept = await store.beginStep(execute, run, name);
          if (kept) return;
          const result = asJson(name, await work(execute));
          const ms = performance.now() - started;
          kept = await store.keepStepIn(execute, { run_id: run.id, name, state: "done", result, ms });
        }),
      );
      return kept && !thrown ? kept : store.keepStep(step, thrown);
    },
  };
}

function asJson(name: string, value: unknown): string {
  let json: string;
  try {
    json = JSON.stringify(value) ?? "null";
  } catch (error) {
    throw new NonRetriable(`the result of step "${name}" cannot be kept as JSON: ${toError(error).message}`);
  }
  const bytes = Buffer.byteLength(json);
  if (bytes > longest) {
    throw new NonRetriable(
      `the result of step "${name}" has ${bytes} bytes, more than ${longest}: store it elsewhere, and return a reference to it`,
    );
  }
  return json;
}
