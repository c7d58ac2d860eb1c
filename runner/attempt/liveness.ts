const cell = { alive: 0, heard: 1, gaps: 2 } as const;

/** Others take the runs of a runner that was silent for forty seconds. */
const lasts = 30_000; // milliseconds

/** What the threads of a runner know of it: times of its event loop and of its signs of life. */
export type Cells = Int32Array;

export function openCells(): Cells {
  const cells = new Int32Array(new SharedArrayBuffer(12));
  Atomics.store(cells, cell.alive, now());
  Atomics.store(cells, cell.heard, now());
  return cells;
}

/** Milliseconds of a clock that all threads share and nobody sets; differences hold for 24 days. */
export function now(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return (seconds * 1000 + nanoseconds / 1e6) | 0;
}

const since = (cells: Cells, at: number) => (now() - Atomics.load(cells, at)) | 0;

/** The event loop turns. */
export const turn = (cells: Cells): void => void Atomics.store(cells, cell.alive, now());

/** For how many milliseconds it has not. */
export const stillFor = (cells: Cells): number => since(cells, cell.alive);

/** The database has a sign of life that was sent then. */
export function hear(cells: Cells, sentAt: number): void {
  if (((sentAt - Atomics.load(cells, cell.heard)) | 0) > lasts) breakOff(cells);
  Atomics.store(cells, cell.heard, sentAt);
}

/** Others may have taken this runner for dead. */
export const breakOff = (cells: Cells): void => void Atomics.add(cells, cell.gaps, 1);

/** Begins to hold what is claimed now: the answer tells whether it is certain that nobody else has taken it since. */
export function hold(cells: Cells): () => boolean {
  const gaps = Atomics.load(cells, cell.gaps);
  return () => Atomics.load(cells, cell.gaps) === gaps && since(cells, cell.heard) < lasts;
}
