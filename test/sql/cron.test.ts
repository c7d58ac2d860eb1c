import { Cron } from "croner";
import { expect } from "vitest";
import { isThorough, test } from "../support/database.ts";
import { fuzzing, type Random, randomOf } from "../support/fuzzing.ts";

const zones = [
  "UTC",
  "Europe/Berlin",
  "America/New_York",
  "America/St_Johns",
  "America/Sao_Paulo",
  "Asia/Kathmandu",
  "Asia/Tokyo",
  "Australia/Lord_Howe",
  "Pacific/Auckland",
  "Africa/Johannesburg",
];
const times = 6;
const hour = 3_600_000;

// The rules of time zones differ between their versions only where somebody has changed them lately.
const { cases, seed } = fuzzing(isThorough ? 400 : 40);

test("schedules are due when another implementation says, on ten clocks over thirty years", async ({ db }) => {
  const random = randomOf(seed);
  let compared = 0;
  for (let nth = 0; nth < cases; nth++) {
    const zone = zones[nth % zones.length] as string;
    const cron = schedule(random);
    const after = new Date(Date.UTC(2010, 0, 1) + random.below(30 * 365 * 24 * 60) * 60_000);
    const rows = await db.query<{ at: string }>(
      `with recursive due (at, nth) as (
         select notika._next_time($1, $2, $3::text::timestamptz), 1
         union all
         select notika._next_time($1, $2, at), nth + 1 from due where nth < ${times}
       )
       select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.000"Z"') as at from due order by nth`,
      [cron, zone, after.toISOString()],
    );
    const ours = rows.map(({ at }) => at);
    const theirs = new Cron(cron, { timezone: zone }).nextRuns(times, after).map((at) => at.toISOString());

    // What they do in the hours around a change of the clock is another matter.
    const last = [ours.at(-1) ?? "", theirs.at(-1) ?? ""].sort()[0] as string;
    const plain = (list: string[]) => list.filter((at) => at <= last && !isClockSet(zone, Date.parse(at)));
    expect({ cron, zone, after, at: plain(ours) }).toEqual({ cron, zone, after, at: plain(theirs) });
    compared += plain(ours).length;
  }
  expect(compared).toBeGreaterThan(cases * (times - 2));
});

/** Five fields, of which each may be anything. */
function schedule(random: Random): string {
  const field = (low: number, high: number) => {
    const [from, to] = [random.below(high - low + 1), random.below(high - low + 1)].sort((a, b) => a - b) as [
      number,
      number,
    ];
    return random.pick([
      () => "*",
      () => String(low + from),
      () => `${low + from},${low + to}`,
      () => `${low + from}-${low + to}`,
      () => `*/${2 + random.below(Math.max(1, Math.floor((high - low) / 2)))}`,
      () => `${low + from}-${low + to}/${1 + random.below(5)}`,
    ])();
  };
  const day = random.chance(0.5) ? "*" : field(1, 28);
  // A star with a step beside the other is read as both, or as either, by this or that cron.
  const weekday = day.startsWith("*/") ? "*" : random.chance(0.6) ? "*" : field(0, 6).replace(/^\*\/.*/, "*");
  return [field(0, 59), field(0, 23), day, random.chance(0.6) ? "*" : field(1, 12), weekday].join(" ");
}

function isClockSet(zone: string, at: number): boolean {
  return offset(zone, at - 30 * hour) !== offset(zone, at + 30 * hour);
}

function offset(zone: string, at: number): string {
  return new Intl.DateTimeFormat("en", { timeZone: zone, timeZoneName: "longOffset" }).format(at).split(", ")[1] ?? "";
}
