import { randomFrom } from "./random.ts";

/** Values that look random and are the same for the same seed. */
export interface Random {
  /** A whole number from 0 to below `limit`. */
  below(limit: number): number;
  chance(probability: number): boolean;
  pick<T>(from: readonly T[]): T;
  /** So many of them, perhaps one several times, at most. */
  some<T>(most: number, make: () => T): T[];
}

export function randomOf(seed: number): Random {
  const next = randomFrom(seed);
  const below = (limit: number) => Math.floor(next() * limit);
  return {
    below,
    chance: (probability) => next() < probability,
    pick: (from) => from[below(from.length)] as never,
    some: (most, make) => Array.from({ length: below(most + 1) }, make),
  };
}

/** How many cases a fuzz test tries, and which: the short form, unless NOTIKA_FUZZ_CASES and NOTIKA_FUZZ_SEED say otherwise. */
export function fuzzing(cases: number) {
  return { cases: Number(process.env.NOTIKA_FUZZ_CASES ?? cases), seed: Number(process.env.NOTIKA_FUZZ_SEED ?? 1) };
}

/** Text that is not what whoever reads it expects. */
export const hostileTexts = [
  "",
  " ",
  "\t",
  "\n",
  "'",
  "''",
  '"',
  '""',
  "\\",
  "\\'",
  "\\\\",
  "%",
  "%s",
  "%1$s",
  "%I",
  "%%",
  "$$",
  "$1",
  "$passes$",
  "$capture$",
  "$page$",
  "$body$",
  "$template$",
  "--",
  "/*",
  "*/",
  ";",
  ":",
  "::",
  ",",
  "(",
  ")",
  "{",
  "}",
  "{}",
  "[]",
  "=",
  ".",
  "*",
  "null",
  "NULL",
  "new",
  "old",
  "select",
  "é",
  "e\u0301",
  "😀",
  "\u202e",
  "\ufeff",
  "\ud800",
  "\u0000",
  "\u0007",
  "x".repeat(63),
  "x".repeat(64),
  "☃".repeat(30),
  "y".repeat(5000),
  "'); drop table canary; --",
  '"); drop table canary; --',
  "'; drop table canary; --",
  "$capture$ language plpgsql; drop table canary; --",
  "$passes$; drop table canary; select $x$",
  "\\'; drop table canary; --",
];

/** Those that Postgres takes as text, and as a string in json. */
export const hostileStrings = hostileTexts.filter((text) => !["\u0000", "\ud800"].some((unit) => text.includes(unit)));
