import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { notikaCommand } from "../runner/process.ts";

interface ShellOptions {
  /** Files of the folder. */
  files?: Record<string, string>;
  /** A folder of programs. */
  programs?: string;
  env?: Record<string, string>;
}

/** A shell in a folder of its own, in which `npx notika` is the source. */
export async function openShell({ files = {}, programs = "", env = {} }: ShellOptions = {}) {
  const folder = await mkdtemp(path.join(tmpdir(), "notika-shell-"));
  const write = async (name: string, text: string) => {
    const file = path.join(folder, name);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, text);
  };
  const notika = notikaCommand.map((part) => `'${part}'`).join(" ");
  // A function, because the shell would pass over a file that another thread has open while it starts a process.
  // What runs until it is stopped is stopped as by Ctrl-C: once, where timeout alone would signal its group as well.
  const npx = `npx() {
    shift
    case " $* " in
      *" run "* | *" --tail "*) timeout --foreground --preserve-status -s INT 10 ${notika} "$@" ;;
      *) ${notika} "$@" ;;
    esac
  }`;
  for (const [name, text] of Object.entries(files)) await write(name, text);
  const PATH = [programs, process.env.PATH].filter(Boolean).join(path.delimiter);
  return {
    async run(commands: string) {
      return (await promisify(execFile)("sh", ["-ec", `${npx}\n${commands}`], { cwd: folder, env: { PATH, ...env } }))
        .stdout;
    },
    close: () => rm(folder, { recursive: true, force: true }),
  };
}
