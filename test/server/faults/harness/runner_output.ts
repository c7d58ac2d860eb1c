import type { RunnerProcess } from "../../../support/runner.ts";

/** What is not as it ought to be with a runner that nobody has ended. */
export function objectionsTo({ child, said }: RunnerProcess): string[] {
  const objections: string[] = [];
  if (child.exitCode !== null || child.signalCode !== null) {
    objections.push(`a runner ended with ${child.exitCode ?? child.signalCode}`);
  }
  // Whatever Node itself says, of rejections that nobody handled and of leaks, is no line of the log.
  const strays = said().filter(({ level }) => level === undefined);
  if (strays.length > 0) {
    objections.push(
      `a runner said, not in its log: ${strays
        .slice(0, 5)
        .map(({ message }) => message)
        .join(" / ")}`,
    );
  }
  return objections;
}
