import { closeSync, openSync, readSync, rmSync, writeFileSync } from "node:fs";

/** What runs did, outside of the database: for each change when, in milliseconds, each time. */
export interface Journal {
  file: string;
  /** What stands there by now. */
  read(): Map<string, number[]>;
  remove(): void;
}

/** A new file that tasks append lines to, of a change and a time. */
export function openJournal(file: string): Journal {
  writeFileSync(file, "");
  const entries = new Map<string, number[]>();
  const chunk = Buffer.alloc(1 << 16);
  let position = 0;
  let rest = "";
  return {
    file,
    read() {
      const descriptor = openSync(file, "r");
      for (;;) {
        const length = readSync(descriptor, chunk, 0, chunk.length, position);
        if (length === 0) break;
        position += length;
        const lines = (rest + chunk.toString("latin1", 0, length)).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) {
          const [change = "", at] = line.split(" ");
          const times = entries.get(change) ?? [];
          times.push(Number(at));
          entries.set(change, times);
        }
      }
      closeSync(descriptor);
      return entries;
    },
    remove: () => rmSync(file, { force: true }),
  };
}
