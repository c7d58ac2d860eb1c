import { chmod, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { NotikaError } from "../../errors.ts";

/**
 * Locks a data folder for this process, because two processes would destroy it.  Returns the function that unlocks it.  Throws
 * NOTIKA_DEV_RUNNING.
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const file = path.join(folder, "dev.pid");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  // No other user may read the rows.  But the rights of the current folder, as with --data ., are not changed.
  if (path.relative(folder, process.cwd()).startsWith("..")) await chmod(folder, 0o700).catch(() => {});
  const pid = Number(await readFile(file, "utf8").catch(() => 0));
  if (pid !== process.pid && isAlive(pid)) {
    throw new NotikaError("NOTIKA_DEV_RUNNING", `notika dev is already running in this folder, as process ${pid}`, {
      hint: `Stop that process, or use another folder for the data: notika dev --data .notika-2. If process ${pid} is another program, remove ${path.relative("", file)}.`,
    });
  }
  // The file of a process that was killed is replaced.
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
