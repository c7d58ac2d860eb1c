import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { built } from "./build.ts";

export interface RunnerProcess {
  child: ChildProcess;
  /** What it has said, a JSON object a line; a line that is none has no level. */
  said: () => { message: string; level?: string; error?: string; run?: string }[];
  /** Waits until it says something. */
  says(message: string): Promise<void>;
  /** Sends a signal, waits for the end and gives the exit code; null: a signal ended it. */
  end(signal: NodeJS.Signals): Promise<number | null>;
}

const children = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of children) child.kill("SIGKILL");
});

/** Starts `notika run` as a process of its own. */
export function spawnRunner(
  url: string,
  tasks: string,
  options: string[] = [],
  env: Record<string, string> = {},
): RunnerProcess {
  const root = path.resolve(import.meta.dirname, "../..");
  const child = spawn(process.execPath, [path.join(built, "cli.js"), "run", "--json", "--tasks", tasks, ...options], {
    cwd: root,
    env: { ...process.env, DATABASE_URL: url, ...env },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let text = "";
  child.stderr.on("data", (chunk) => {
    text += chunk;
  });
  children.add(child);
  const ended = once(child, "exit").finally(() => children.delete(child));

  const said = () =>
    text
      .split("\n")
      .slice(0, -1)
      .map((line) => (line.startsWith("{") ? JSON.parse(line) : { message: line }));
  return {
    child,
    said,
    async says(message) {
      for (;;) {
        if (said().some((line) => line.message === message)) return;
        const end = child.exitCode ?? child.signalCode;
        if (end !== null) throw new Error(`the runner ended with ${end}: ${text}`);
        await Promise.race([once(child.stderr, "data"), ended]);
      }
    },
    async end(signal) {
      child.kill(signal);
      const [code] = await ended;
      return code;
    },
  };
}
