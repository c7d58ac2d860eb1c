import { chmod, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { NotikaError } from "../../errors.ts";

/** Locks a data folder for this process: two processes would destroy it.  Returns what unlocks it. */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const file = path.join(folder, "dev.pid");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  // Rows are nobody else's; but a folder that is worked in, as with --data ., stays as it is, and only what is in it is closed.
  if (path.relative(folder, process.cwd()).startsWith("..")) await chmod(folder, 0o700).catch(() => {});
  const pid = Number(await readFile(file, "utf8").catch(() => 0));
  if (pid !== process.pid && isAlive(pid)) {
    throw new NotikaError("NOTIKA_DEV_RUNNING", `notika dev runs in this folder already, as process ${pid}`, {
      hint: `Stop that one, or give this one other data: notika dev --data .notika-2. If process ${pid} is something else, remove ${path.relative("", file)}.`,
    });
  }
  // What a process that was killed left behind gives way.
  await rm(file, { force: true });
  await writeFile(file, String(process.pid), { flag: "wx" });
  return () => rm(file, { force: true });
}

function isAlive(pid: number): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
