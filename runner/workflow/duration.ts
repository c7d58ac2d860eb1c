const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };
const names = new Map(
  Object.entries<keyof typeof units>({
    ...Object.fromEntries(Object.keys(units).map((unit) => [unit, unit as keyof typeof units])),
    ...{ millisecond: "ms", second: "s", sec: "s", minute: "m", min: "m", hour: "h", day: "d", week: "w" },
  }),
);

/** A length of time: milliseconds, or text such as `"90 seconds"`, `"2h"`, `"1 day 12 hours"`. */
export type Duration = number | string;

/** A duration in milliseconds; undefined: it is not a valid one. */
export function milliseconds(duration: Duration): number | undefined {
  if (typeof duration === "number") return Number.isFinite(duration) && duration >= 0 ? duration : undefined;
  const parts = [...duration.matchAll(/(\d+(?:\.\d+)?)\s*([a-z]+)\s*,?\s*/gi)];
  if (parts.length === 0 || parts.map(([part]) => part).join("") !== duration.trimStart()) return undefined;
  let sum = 0;
  for (const [, count, name = ""] of parts) {
    const unit = names.get(name.toLowerCase()) ?? names.get(name.toLowerCase().replace(/s$/, ""));
    if (unit === undefined) return undefined;
    sum += Number(count) * units[unit];
  }
  return Number.isFinite(sum) ? sum : undefined;
}

/** A duration as a Postgres interval; Postgres checks text. */
export function interval(duration: Duration): string {
  return typeof duration === "number" ? `${duration} milliseconds` : duration;
}
