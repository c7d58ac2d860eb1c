import type { Arena } from "./arena.ts";
import type { Pgbench } from "./pgbench.ts";

/** What every part of the bench is given. */
export interface Bench {
  /** A server whose commits wait for the disk. */
  durable: Arena;
  /** A server whose commits do not. */
  fast: Arena;
  /** The same of PostgreSQL 15, for goals that differ there; unless somebody has named a server, or there is none. */
  older: Arena | undefined;
  pgbench: Pgbench;
  /** How long a comparison takes, more or less. */
  seconds: number;
  /** Whether capture is measured in CPU time. */
  cpu: boolean;
  /** Says what is being measured. */
  say(progress: string): void;
  /** Says what cannot be measured here, and why. */
  leaveOut(what: string): void;
}
