import { styleText } from "node:util";
import type { RunObserver } from "../run.ts";

/** One line a run, for a person who watches. */
export const runLine: RunObserver = (event, { ms, attempt, error, last }) => {
  const sign = error ? styleText(last ? "red" : "yellow", last ? "✗" : "↻") : styleText("green", "✓");
  const what = `${event.workflow} ${styleText("dim", `${event.operation} ${event.table} run ${event.id}`)}`;
  const tries = attempt > 1 ? styleText("dim", ` attempt ${attempt}`) : "";
  const problem = error ? `\n  ${styleText(last ? "red" : "yellow", error.message)}` : "";
  process.stdout.write(`${sign} ${what} ${ms} ms${tries}${problem}\n`);
};
