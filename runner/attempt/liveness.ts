const cell = { turned: 0, heartbeat: 1, gaps: 2 } as const;

/** Other runners take over the runs of a runner without a heartbeat for forty seconds. */
const lease = 30_000; // milliseconds

/** Shared by the threads of a runner: when its event loop turned last, and when its last heartbeat was sent. */
export type Liveness = Int32Array;

export function openLiveness(): Liveness {
  const liveness = new Int32Array(new SharedArrayBuffer(12));
  Atomics.store(liveness, cell.turned, now());
  Atomics.store(liveness, cell.heartbeat, now());
  return liveness;
}

/** Milliseconds of a monotonic clock that all threads share; differences are right for 24 days. */
export function now(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return (seconds * 1000 + nanoseconds / 1e6) | 0;
}

const since = (liveness: Liveness, at: number) => (now() - Atomics.load(liveness, at)) | 0;

/** Notes that the event loop turns. */
export const noteTurn = (liveness: Liveness): void => void Atomics.store(liveness, cell.turned, now());

/** For how many milliseconds the event loop has been blocked. */
export const blockedFor = (liveness: Liveness): number => since(liveness, cell.turned);

/** Notes that the database has the heartbeat that was sent at `sentAt`. */
export function noteHeartbeat(liveness: Liveness, sentAt: number): void {
  if (((sentAt - Atomics.load(liveness, cell.heartbeat)) | 0) > lease) noteGap(liveness);
  Atomics.store(liveness, cell.heartbeat, sentAt);
}

/** Notes that other runners may have considered this one dead. */
export const noteGap = (liveness: Liveness): void => void Atomics.add(liveness, cell.gaps, 1);

/**
 * Opens a lease on the runs claimed now.  The returned function tells whether it still holds: then no other runner has taken
 * them.
 */
export function openLease(liveness: Liveness): () => boolean {
  const gaps = Atomics.load(liveness, cell.gaps);
  return () => Atomics.load(liveness, cell.gaps) === gaps && since(liveness, cell.heartbeat) < lease;
}
