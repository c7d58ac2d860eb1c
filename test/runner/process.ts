import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { built } from "../support/build.ts";
import { quickWasm } from "../support/node.ts";

/** The command, built from the source before the tests. */
export const notikaCommand = [process.execPath, ...quickWasm, path.join(built, "cli.js")];

/** A process whose output can be waited for. */
export function start(command: string[], cwd: string, env: Record<string, string> = {}) {
  const [file = "", ...args] = command;
  const child = spawn(file, args, { cwd, env: { PATH: process.env.PATH, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const said = { stdout: "", stderr: "", both: "" };
  const waiting = new Set<() => void>();
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      said[name] += text;
      said.both += text;
      for (const look of waiting) look();
    });
  }

  const ended = once(child, "close").then(([code]) => ({
    code: code as number | null,
    stdout: said.stdout,
    stderr: said.stderr,
  }));
  return {
    pid: child.pid as number,
    /** What it has said. */
    said,
    /** Resolves when it says this after what was waited for before; fails with all it said when it ends or takes too long. */
    says(pattern: RegExp): Promise<RegExpExecArray> {
      return new Promise((resolve, reject) => {
        const done = () => {
          clearTimeout(timer);
          waiting.delete(look);
        };
        const fail = (why: string) => {
          done();
          reject(new Error(`${why} before it said ${pattern}:\n${said.both}`));
        };
        const look = () => {
          const found = pattern.exec(said.both);
          if (!found) return;
          said.both = said.both.slice(found.index + found[0].length);
          done();
          resolve(found);
        };
        const timer = setTimeout(() => fail("30 seconds passed"), 30_000);
        waiting.add(look);
        void ended.then(() => fail("it ended"));
        look();
      });
    },
    kill: (signal: NodeJS.Signals) => child.kill(signal),
    ended,
  };
}

/** Makes `import "notika"` in a folder mean that build: dist may be of another time. */
export async function linkSource(folder: string) {
  const link = path.join(folder, "node_modules/notika");
  const source = pathToFileURL(path.join(built, "index.js")).href;
  await mkdir(link, { recursive: true });
  await writeFile(
    path.join(link, "package.json"),
    JSON.stringify({
      name: "notika",
      type: "module",
      exports: { ".": "./index.ts", "./package.json": "./package.json" },
    }),
  );
  await writeFile(path.join(link, "index.ts"), `export * from ${JSON.stringify(source)};`);
}
