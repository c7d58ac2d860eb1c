/** What was measured of several variants in turn, A B A B …: the nth values of all belong together. */
export interface Comparison {
  title: string;
  unit: string;
  /** The variant that the others are compared with, where there is one. */
  base?: string;
  samples: Record<string, number[]>;
  /** What one has to know to read the numbers. */
  note?: string;
}

/** Something that ought to be true of ratios, or of times where there is nothing to compare with. */
export interface Goal {
  claim: string;
  values: number[];
  limit: { atLeast: number } | { atMost: number };
  /** The same of a variant that does the least anybody can do there, by its name. */
  atBest?: { variant: string; values: number[] };
}

/** What a part of the bench found. */
export interface Findings {
  comparisons: Comparison[];
  goals: Goal[];
}

export interface Spread {
  min: number;
  median: number;
  max: number;
}

/** Takes a sample of each in turn, for so many seconds and at least three times, after a first time that does not count. */
export async function interleave<Sample>(
  samplers: Record<string, () => Promise<Sample>>,
  seconds: number,
): Promise<Record<string, Sample[]>> {
  const variants = Object.entries(samplers);
  const samples: Record<string, Sample[]> = Object.fromEntries(variants.map(([name]) => [name, []]));
  for (const [, sample] of variants) await sample();

  const until = performance.now() + seconds * 1000;
  for (let round = 0; round < 3 || performance.now() < until; round++) {
    // There and back again, so that nobody is always the one who comes after the heaviest.
    for (const [name, sample] of round % 2 ? variants.toReversed() : variants) samples[name]?.push(await sample());
  }
  return samples;
}

export function spread(values: number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  return { min: quantile(sorted, 0), median: quantile(sorted, 0.5), max: quantile(sorted, 1) };
}

export function quantile(sorted: number[], part: number): number {
  const place = part * (sorted.length - 1);
  const below = sorted[Math.floor(place)] ?? Number.NaN;
  const above = sorted[Math.ceil(place)] ?? Number.NaN;
  return below + (above - below) * (place - Math.floor(place));
}

/** The means of so many rounds at a time, as near to that as they come out even; of all when there are fewer. */
export function means(values: number[], rounds: number): number[] {
  const groups = Math.max(1, Math.round(values.length / rounds));
  return Array.from({ length: groups }, (_, group) => {
    const part = values.slice(
      Math.round((group * values.length) / groups),
      Math.round(((group + 1) * values.length) / groups),
    );
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}

/** How one relates to the other, round by round. */
export function ratios(of: number[], to: number[]): number[] {
  return paired(of, to, (a, b) => a / b);
}

/** What one has more than the other, round by round. */
export function added(of: number[], to: number[]): number[] {
  return paired(of, to, (a, b) => a - b);
}

function paired(of: number[], to: number[], combine: (a: number, b: number) => number): number[] {
  return of.slice(0, to.length).map((value, round) => combine(value, to[round] as number));
}

/** The samples of a variant that is known to be there. */
export function of({ samples, title }: Comparison, variant: string): number[] {
  const values = samples[variant];
  if (!values) throw new Error(`${title}: there is no ${variant}`);
  return values;
}

export function isReached({ values, limit }: Goal): boolean {
  const { median } = spread(values);
  return "atLeast" in limit ? median >= limit.atLeast : median <= limit.atMost;
}
