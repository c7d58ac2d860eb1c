import { setImmediate, setTimeout } from "node:timers/promises";

const longest = 20; // milliseconds

/** What failed because of what was asked, and would fail again: SQLSTATE classes 22 and 23, and limits. */
const isRefusal = (error: { code?: string }) => /^(22|23|54)/.test(error.code ?? "");

/**
 * Collects what is to be written in one moment and writes it at once; the answers come back one by one.  A database that
 * does not answer is tried again for some seconds, because what is written has happened already.  What is `patient` lets
 * more come together for as long as the last write took, when there was more than one thing to write.
 */
export function batched<Item, Answer>(
  write: (items: Item[]) => Promise<Answer[]>,
  { patient = false } = {},
): (item: Item) => Promise<Answer> {
  let waiting: { item: Item; resolve: (answer: Answer) => void; reject: (reason: unknown) => void }[] = [];
  let writing = false;

  async function writeAll() {
    while (waiting.length > 0) {
      // By then Node has said which promises have failed that were left to themselves.
      await setImmediate();
      const batch = waiting;
      waiting = [];
      const started = performance.now();
      await settle(batch);
      if (patient && batch.length > 1) await setTimeout(Math.min(performance.now() - started, longest));
    }
    writing = false;
  }

  async function settle(batch: typeof waiting): Promise<void> {
    try {
      const answers = await withRetries(() => write(batch.map(({ item }) => item)));
      for (const [index, { resolve }] of batch.entries()) resolve(answers[index] as Answer);
    } catch (error) {
      if (batch.length > 1 && isRefusal(error as { code?: string })) {
        for (const one of batch) await settle([one]);
      } else {
        for (const { reject } of batch) reject(error);
      }
    }
  }

  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      if (!writing) {
        writing = true;
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
