import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import type { Execute } from "../database/statements.ts";
import type { Event } from "../workflow/event.ts";
import { toJson } from "../workflow/json.ts";
import { writeTogether } from "./write_together.ts";

/** A job as an attempt of its run sees it. */
export interface RunJob {
  id: string;
  attempts: number;
  max_attempts: number;
  flags: Record<string, boolean> | null;
}

/** The result of a step, to be kept. */
export interface NewStep {
  run_id: string;
  name: string;
  state: "done" | "failed" | "retrying";
  /** JSON. */
  result?: string;
  error?: string;
  ms: number;
}

/** A kept step; `ended`: the run has an outcome, and no step is kept any more. */
export interface Remembered {
  name: string;
  state: NewStep["state"] | "ended";
  result?: unknown;
  error?: string | null;
  /** The original error, if it was thrown in this attempt. */
  thrown?: Error | undefined;
}

/** How a run ended. */
export interface Outcome {
  run_id: string;
  workflow: string;
  state: "done" | "failed" | "expired";
  attempts: number;
  error?: string | undefined;
  stack?: string | undefined;
  created_at: string;
  started_at: string;
}

/** The state from which an attempt starts. */
interface Entry {
  /** Undefined: the run has ended, or it is not its turn in the line. */
  steps?: Remembered[];
  events?: Event[] | null;
}

export type Store = ReturnType<typeof openStore>;

/**
 * Reads and writes the state of runs.  Writes of several attempts at one moment are one statement; the first result of a step
 * stands.
 */
export function openStore(database: Database) {
  const { execute } = database.within(10_000);
  const writeStep = writeTogether((steps: NewStep[]) => writeSteps(execute, steps));
  const writeLastAttempt = writeTogether(async (jobs: string[]) => {
    await execute(sql`select notika._begin(${toJson(jobs)}::text::json)`);
    return [];
  });
  const writeOutcome = writeTogether(
    async (given: { outcome: Outcome; holds: (() => boolean) | undefined }[]) => {
      const holding = given.map(({ holds }) => holds?.() ?? true);
      const outcomes = given.flatMap(({ outcome }, index) => (holding[index] ? [outcome] : []));
      if (outcomes.length > 0) await execute(sql`select notika._finish(${toJson(outcomes)}::text::json)`);
      return holding;
    },
    { gathers: true },
  );

  return {
    /** Admits an attempt of a run that has had one, or that waits in a line, and returns the state from which it starts. */
    async enter(job: RunJob, event: Event): Promise<Entry> {
      const [row] = await database.transaction((execute) =>
        execute<{ entry: Entry }>(
          sql`select notika._enter(${job.id}::text::bigint, ${event.id}::text::bigint) as entry`,
        ),
      );
      return row?.entry ?? {};
    },

    /** Notes that the last attempt of a run begins, so that no crash gives it another. */
    async beginLastAttempt(job: RunJob): Promise<void> {
      await writeLastAttempt(job.id);
    },

    /** Begins a step that is kept in the transaction of `execute`; returns it if it is kept already. */
    async beginStep(execute: Execute, run: { id: string; depth: number }, name: string) {
      const [stands] = await execute<Standing>(
        sql`select * from notika._begin_step(${run.id}::text::bigint, ${run.depth}::int, ${name}::text)`,
      );
      return stands?.ended || stands?.state ? asRemembered(name, stands) : undefined;
    },

    /** Keeps a step. */
    async keepStep(step: NewStep, thrown?: Error): Promise<Remembered> {
      return { ...(await writeStep(step)), thrown };
    },

    /** Keeps a step in the transaction of `execute`. */
    async keepStepIn(execute: Execute, step: NewStep): Promise<Remembered> {
      const [kept] = await writeSteps(execute, [step]);
      return kept as Remembered;
    },

    /** Ends a run, if `holds` is still true when the outcome is written; returns whether it was, after the commit. */
    keepOutcome: (outcome: Outcome, holds?: () => boolean): Promise<boolean> => writeOutcome({ outcome, holds }),

    /** Makes a run wait; false: it has nothing to wait for. */
    async park(job: RunJob, waits: object[], wake: object | undefined): Promise<boolean> {
      const [row] = await database.transaction((execute) =>
        execute<{ parked: boolean }>(sql`
          select notika._park(${job.id}::text::bigint, ${JSON.stringify(waits)}::text::json,
                              ${wake === undefined ? null : JSON.stringify(wake)}::text::json) as parked`),
      );
      return row?.parked === true;
    },

    /** Ends an attempt without an outcome: the next run in its line may start. */
    async exit(event: Event): Promise<void> {
      await database.transaction((execute) => execute(sql`select notika._exit(${event.id}::text::bigint)`));
    },

    /** Whether this attempt still owns the run. */
    async isOwn({ id, attempts }: RunJob): Promise<boolean> {
      const [row] = await execute<{ answer: boolean }>(
        sql`select notika._is_own(${id}::text::bigint, ${attempts}::int) as answer`,
      );
      return row?.answer === true;
    },

    /** Puts a run back as if there had been no attempt; false: that has happened too often, and this attempt counts. */
    async giveBack({ id, attempts }: RunJob, reason: string): Promise<boolean> {
      const [row] = await execute<{ done: boolean }>(
        sql`select notika._give_back(${id}::text::bigint, ${attempts}::int, ${reason}) as done`,
      );
      return row?.done === true;
    },
  };
}

interface Standing {
  ended: boolean;
  state: NewStep["state"] | null;
  result: unknown;
  error: string | null;
}

async function writeSteps(execute: Execute, steps: NewStep[]): Promise<Remembered[]> {
  const rows = await execute<Standing & { run_id: string; name: string }>(
    sql`select * from notika._remember(${toJson(steps)}::text::json)`,
  );
  const standing = new Map(rows.map((row) => [`${row.run_id} ${row.name}`, row]));
  return steps.map(({ run_id, name, state, result, error }) => {
    const stands = standing.get(`${run_id} ${name}`);
    if (stands) return asRemembered(name, stands);
    return { name, state, result: result && JSON.parse(result), error: error ?? null };
  });
}

function asRemembered(name: string, { ended, state, result, error }: Standing): Remembered {
  return { name, state: ended || !state ? "ended" : state, result, error };
}
