import { setImmediate, setTimeout } from "node:timers/promises";

const longest = 20; // milliseconds

/** Whether the data caused the error, so that a retry would fail, too: SQLSTATE classes 22 and 23, and limits (54). */
const isRefusal = (error: { code?: string }) => /^(22|23|54)/.test(error.code ?? "");

/**
 * Collects the items of one moment and writes them in one statement; each item gets its own answer.  When the database does
 * not answer, the write is retried for some seconds, because what it records has happened already.  With `gathers`, it waits
 * for more items for as long as the last write took, if that had more than one item.
 */
export function writeTogether<Item, Answer>(
  write: (items: Item[]) => Promise<Answer[]>,
  { gathers = false } = {},
): (item: Item) => Promise<Answer> {
  let waiting: { item: Item; resolve: (answer: Answer) => void; reject: (reason: unknown) => void }[] = [];
  let isWriting = false;

  async function writeAll() {
    while (waiting.length > 0) {
      // By then Node has reported unhandled rejections.
      await setImmediate();
      const all = waiting;
      waiting = [];
      const started = performance.now();
      await writeItems(all);
      if (gathers && all.length > 1) await setTimeout(Math.min(performance.now() - started, longest));
    }
    isWriting = false;
  }

  async function writeItems(items: typeof waiting): Promise<void> {
    try {
      const answers = await withRetries(() => write(items.map(({ item }) => item)));
      for (const [index, { resolve }] of items.entries()) resolve(answers[index] as Answer);
    } catch (error) {
      if (items.length > 1 && isRefusal(error as { code?: string })) {
        for (const one of items) await writeItems([one]);
      } else {
        for (const { reject } of items) reject(error);
      }
    }
  }

  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      if (!isWriting) {
        isWriting = true;
        void writeAll();
      }
    });
}

async function withRetries<Result>(work: () => Promise<Result>): Promise<Result> {
  for (let delay = 100; ; delay *= 2) {
    try {
      return await work();
    } catch (error) {
      if (delay > 5000 || isRefusal(error as { code?: string })) throw error;
      await setTimeout(delay);
    }
  }
}
