import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";
import type { Execute } from "../database/statements.ts";
import { toJson } from "../workflow/json.ts";
import { batched } from "./write_together.ts";

/** What came of a step. */
export interface NewStep {
  run_id: string;
  name: string;
  state: "done" | "failed" | "retrying";
  /** JSON. */
  result?: string;
  error?: string;
  ms: number;
}

/** What stands of a step; `ended`: the run has an outcome, and takes no more steps. */
export interface Remembered {
  name: string;
  state: NewStep["state"] | "ended";
  result?: unknown;
  error?: string | null;
  /** What was thrown in this attempt. */
  thrown?: Error | undefined;
}

export type Memory = ReturnType<typeof openMemory>;

/** The steps of runs, kept in `notika.step`: those of one moment in one statement.  The first outcome of a step stands. */
export function openMemory(database: Database) {
  const { execute } = database.within(10_000);
  const keep = batched((steps: NewStep[]) => write(execute, steps));
  return {
    async keep(step: NewStep, thrown?: Error): Promise<Remembered> {
      return { ...(await keep(step)), thrown };
    },
    /** Keeps a step in a transaction that `begin` was called in. */
    async keepIn(execute: Execute, step: NewStep): Promise<Remembered> {
      const [kept] = await write(execute, [step]);
      return kept as Remembered;
    },
    /** Begins a step that is kept in this transaction, and gives what stands of it already. */
    async begin(execute: Execute, run: { id: string; depth: number }, name: string): Promise<Remembered | undefined> {
      const [stands] = await execute<Lost>(
        sql`select * from notika._begin_step(${run.id}::text::bigint, ${run.depth}::int, ${name}::text)`,
      );
      return stands?.ended || stands?.state ? asRemembered(name, stands) : undefined;
    },
  };
}

interface Lost {
  ended: boolean;
  state: NewStep["state"] | null;
  result: unknown;
  error: string | null;
}

async function write(execute: Execute, steps: NewStep[]): Promise<Remembered[]> {
  const rows = await execute<Lost & { run_id: string; name: string }>(
    sql`select * from notika._remember(${toJson(steps)}::text::json)`,
  );
  const lost = new Map(rows.map((row) => [`${row.run_id} ${row.name}`, row]));
  return steps.map(({ run_id, name, state, result, error }) => {
    const stands = lost.get(`${run_id} ${name}`);
    if (stands) return asRemembered(name, stands);
    return { name, state, result: result && JSON.parse(result), error: error ?? null };
  });
}

function asRemembered(name: string, { ended, state, result, error }: Lost): Remembered {
  return { name, state: ended || !state ? "ended" : state, result, error };
}
