import type { StepObserver } from "../attempt/steps.ts";

/** The errors and crashes that a test requests. */
export function openFaults() {
  const failures = new Map<string, Error[]>();
  const crashes = new Map<string, number>();
  let crashed: string[] = [];
  let replays = false;

  const observer: StepObserver = {
    before(_run, name) {
      const error = failures.get(name)?.shift();
      if (error) throw error;
    },
    after(run, name) {
      const left = crashes.get(name) ?? 0;
      if (left > 0) {
        crashes.set(name, left - 1);
        crashed.push(run);
        return "crash";
      }
      return replays ? "reenter" : undefined;
    },
  };

  return {
    observer,
    failNext(step: string, error = new Error(`step "${step}" fails because the test called failNext`)) {
      failures.set(step, [...(failures.get(step) ?? []), error]);
    },
    crashAfter(step: string) {
      crashes.set(step, (crashes.get(step) ?? 0) + 1);
    },
    replayEveryStep(on = true) {
      replays = on;
    },
    /** The runs that have crashed since the last call. */
    crashed(): string[] {
      const since = crashed;
      crashed = [];
      return since;
    },
  };
}
