import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chownSync, mkdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { serverUser } from "../../support/binaries.ts";

/** A program of an application that runs. */
export interface Program {
  said(): string;
  stop(): Promise<void>;
}

interface ProgramOptions {
  command: string[];
  folder: string;
  env?: Record<string, string>;
}

/** Makes a folder that programs may write to. */
export function makeFolder(folder: string): string {
  mkdirSync(folder, { recursive: true });
  const { uid, gid } = serverUser();
  if (uid !== undefined && gid !== undefined) chownSync(folder, uid, gid);
  return folder;
}

const children = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of children) child.kill("SIGKILL");
});

/** Starts a server and waits until it answers at `url`. */
export async function serve(options: ProgramOptions & { url: string }): Promise<Program> {
  const program = launch(options);
  for (let tries = 0; ; tries++) {
    if (program.child.exitCode !== null || tries === 600) {
      program.child.kill("SIGKILL");
      throw new Error(`${options.command.join(" ")} does not answer:\n${program.said()}`);
    }
    const answer = await fetch(options.url).catch(() => undefined);
    if (answer?.ok) break;
    await sleep(200);
  }
  return {
    said: program.said,
    async stop() {
      program.child.kill("SIGTERM");
      const late = setTimeout(() => program.child.kill("SIGKILL"), 10_000);
      await program.ended;
      clearTimeout(late);
    },
  };
}

/** Runs a program to its end and gives what it says, or fails with it. */
export async function complete(options: ProgramOptions): Promise<string> {
  const program = launch(options);
  const code = await program.ended;
  if (code !== 0) throw new Error(`${options.command.join(" ")} ended with ${code}:\n${program.said()}`);
  return program.said();
}

function launch({ command: [file = "", ...args], folder, env }: ProgramOptions) {
  const child = spawn(file, args, {
    ...serverUser(),
    cwd: folder,
    env: { PATH: process.env.PATH, HOME: folder, TZ: "UTC", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.add(child);
  let text = "";
  for (const output of [child.stdout, child.stderr]) {
    output.setEncoding("utf8").on("data", (more) => {
      text += more;
    });
  }
  const ended = once(child, "close").then(([code]) => {
    children.delete(child);
    return code as number | null;
  });
  return { child, ended, said: () => text };
}
