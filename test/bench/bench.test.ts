import { setTimeout } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { asWords, readArguments } from "./arguments.ts";
import { drawChart } from "./chart.ts";
import {
  added,
  type Findings,
  type Goal,
  interleave,
  isReached,
  means,
  of,
  quantile,
  ratios,
  spread,
} from "./measure.ts";
import { asMarkdown, asText } from "./report.ts";
import type { Results } from "./results.ts";

describe("a comparison", () => {
  test("takes its variants in turn, there and back again, and does not count the first time", async () => {
    let calls = 0;
    const sample = async () => ++calls;

    const samples = await interleave({ a: sample, b: sample }, 0);

    expect(samples).toEqual({ a: [3, 6, 7], b: [4, 5, 8] });
  });

  test("goes on for as long as it is told to, with as many samples of each", async () => {
    const sample = () => setTimeout(2, 1);

    const { a = [], b = [] } = await interleave({ a: sample, b: sample }, 0.05);

    expect(a.length).toBeGreaterThan(3);
    expect(b).toHaveLength(a.length);
  });

  test("compares what was measured in the same round", () => {
    expect(ratios([2, 9, 100], [1, 3])).toEqual([2, 3]);
    expect(added([2, 9, 100], [1, 3])).toEqual([1, 6]);
  });

  test("shows the least, the median and the most, in whatever order they came", () => {
    const values = [10, 9, 100, 1];

    expect(spread(values)).toEqual({ min: 1, median: 9.5, max: 100 });
    expect(values).toEqual([10, 9, 100, 1]);
    expect(quantile([0, 10, 20, 30, 40], 0.99)).toBeCloseTo(39.6);
  });

  test("takes the means of some rounds at a time, of which each counts once", () => {
    expect(means([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 5)).toEqual([3, 8]);
    expect(means([1, 2, 3, 4, 5, 7], 5)).toEqual([22 / 6]);
    expect(means([1, 2, 3, 4, 5, 6, 7, 8], 5)).toEqual([2.5, 6.5]);
    expect(means([4, 6], 5)).toEqual([5]);
  });

  test("knows its variants, rather than to compare with nothing", () => {
    const comparison = { title: "one insert", unit: "µs", samples: { none: [1] } };

    expect(of(comparison, "none")).toEqual([1]);
    expect(() => of(comparison, "nobody")).toThrow("one insert: there is no nobody");
  });
});

describe("a goal", () => {
  const isReachedBy = (limit: Goal["limit"], ...values: number[]) => isReached({ claim: "", values, limit });

  test("is reached by the median, on either side and exactly", () => {
    expect([isReachedBy({ atLeast: 2 }, 1, 2, 3), isReachedBy({ atMost: 2 }, 1, 2, 3)]).toEqual([true, true]);
    expect([isReachedBy({ atLeast: 2 }, 1, 1.99, 9), isReachedBy({ atMost: 2 }, 1, 2.01, 9)]).toEqual([false, false]);
    expect([isReachedBy({ atLeast: 2 }, 1, 3, 9), isReachedBy({ atMost: 2 }, 0, 1, 9)]).toEqual([true, true]);
  });

  test("is missed by what was never measured", () => {
    for (const values of [[], [Number.NaN]]) {
      expect([isReachedBy({ atLeast: 0 }, ...values), isReachedBy({ atMost: 9 }, ...values)]).toEqual([false, false]);
    }
  });
});

describe("a report", () => {
  const cellsOf = (line = "") => line.trim().split(/ {2,}|(?:^| )\|(?: |$)/);
  const linesOf = (findings: Findings) => asText(findings).split("\n").map(cellsOf);

  test("has each variant's times and what they are to the base, round by round", () => {
    const samples = { none: [1, 2, 4], ours: [3, 4, 4] };

    const lines = linesOf({ comparisons: [{ title: "one insert", unit: "µs", base: "none", samples }], goals: [] });

    expect(lines.slice(0, 4)).toEqual([
      ["one insert (µs)"],
      ["min", "median", "max", "to none: min", "median", "max"],
      ["none", "1", "2", "4"],
      ["ours", "3", "4", "4", "1", "2", "3"],
    ]);
  });

  test("says of each goal what it is, whether it was reached, and what is there at best", () => {
    const goals: Goal[] = [
      { claim: "fast", values: [1, 3, 2], limit: { atLeast: 2 } },
      { claim: "slow", values: [0.3], limit: { atMost: 0.25 }, atBest: { variant: "by hand", values: [0.2] } },
      { claim: "nearly", values: [0.94996], limit: { atLeast: 0.95 } },
    ];

    expect(linesOf({ comparisons: [], goals }).slice(2, 5)).toEqual([
      ["fast", "1", "2", "3", "≥ 2", "reached"],
      ["slow", "0.3", "0.3", "0.3", "≤ 0.25", "missed", "0.2, by hand"],
      ["nearly", "0.95", "0.94996", "0.95", "≥ 0.95", "missed"],
    ]);
  });

  test("rounds to three digits without losing any before the point", () => {
    const shown = (value: number) => {
      const page = asMarkdown([{ title: "", unit: "", samples: { it: [value] } }]);
      return /\| it \| (\S+) \|/.exec(page)?.[1];
    };

    expect([99.96, 100, 1234567.8, 20, 9.999, 0.1, 0.00012345, -2.71659, 0, Number.NaN].map(shown)).toEqual([
      "100",
      "100",
      "1,234,568",
      "20",
      "10",
      "0.1",
      "0.000123",
      "-2.72",
      "0",
      "–",
    ]);
  });
});

describe("the chart", () => {
  const part = (title: string, samples: Record<string, number[]>, base?: string): Findings => ({
    comparisons: [{ title, unit: "", ...(base && { base }), samples }],
    goals: [],
  });
  const resultsOf = (parts: Results["parts"]): Results => ({
    at: "",
    command: "",
    minutes: 0,
    machine: {},
    servers: {},
    leftOut: [],
    parts,
  });
  /** Name, length and text of each bar. */
  const barsOf = (svg: string) =>
    [
      ...svg.matchAll(
        /<text[^>]*"end">([^<]*)<\/text>\s*<rect class="\w+"[^>]* width="([\d.]+)".*?<text[^>]*>([^<]*)</gs,
      ),
    ].map(([, name, length, text]) => ({ name, length: Number(length), text }));

  test("has a bar for each variant but the base, as long as its median, the best first", () => {
    const samples = { "no capture": [1, 2, 3], late: [21, 22, 23], "notika, 4 columns": [11, 12, 43] };
    const svg = drawChart(resultsOf({ capture: part("one insert", samples, "no capture") }));

    const [first, second, ...more] = barsOf(svg);

    expect([first, second]).toMatchObject([
      { name: "notika, 4 columns", text: "10 µs" },
      { name: "late", text: "20 µs" },
    ]);
    expect(second?.length).toBeCloseTo((first?.length ?? 0) * 2, 0);
    expect(more).toEqual([]);
  });

  test("cuts a bar that would make all others too short to tell apart, and says how much it is", () => {
    const samples = { none: [0], one: [10], other: [20], far: [1000] };
    const svg = drawChart(resultsOf({ capture: part("one insert", samples, "none") }));

    const [one, other, far] = barsOf(svg);

    expect(far?.text).toBe("1000 µs");
    expect(far?.length).toBeLessThan((other?.length ?? 0) * 2);
    expect(other?.length).toBeCloseTo((one?.length ?? 0) * 2, 0);
    expect(svg.match(/class="cut"/g)).toHaveLength(1);
  });

  test("shows a rate as a part of the base's, the highest first, and marks where all of it is", () => {
    const samples = { "no capture": [10, 20], low: [2, 4], high: [9, 18] };
    const title = "insert, 4 clients, asynchronous commit";
    const svg = drawChart(resultsOf({ throughput: part(title, samples, "no capture") }));

    const [high, low] = barsOf(svg);

    expect([high, low]).toMatchObject([
      { name: "high", text: "90 %" },
      { name: "low", text: "20 %" },
    ]);
    const [, all = ""] = /class="full" d="M([\d.]+) /.exec(svg) ?? [];
    const [, start = ""] = /<rect class="theirs" x="(\d+)"/.exec(svg) ?? [];
    expect((high?.length ?? 0) / (Number(all) - Number(start))).toBeCloseTo(0.9);
  });

  test("is sound XML whatever its variants are called, and of whatever was measured", () => {
    const svg = drawChart(resultsOf({ capture: part("one insert", { none: [1], 'a < b & "c"': [2] }, "none") }));

    expect(svg).toContain(">a &#60; b &#38; &#34;c&#34;<");
    expect(svg).not.toMatch(/NaN|undefined|Infinity/);
    expect(drawChart(resultsOf({}))).toMatch(/^<svg .*<\/svg>\n$/s);
  });
});

describe("the command line", () => {
  const known = ["capture", "dispatch", "run"];
  const read = (...words: string[]) => readArguments(words, known);

  test("means everything where it names nothing, and each part once", () => {
    expect(read()).toMatchObject({ parts: known, isAll: true, seconds: 15 });
    expect(read("run", "capture", "run", "--seconds", "0.5")).toMatchObject({
      parts: ["run", "capture"],
      isAll: false,
      seconds: 0.5,
    });
  });

  test("with a part that there is not is refused with those that there are", () => {
    expect(() => read("capture", "speed")).toThrow("there is no part speed; there are capture, dispatch, run");
  });

  test("with no good number of seconds, or an option that there is not, is refused with what is wrong", () => {
    for (const seconds of ["0", "ten", "", "Infinity"]) {
      expect(() => read("--seconds", seconds)).toThrow(`--seconds wants a number above 0, not "${seconds}"`);
    }
    expect(() => read("--seconds")).toThrow(/--seconds/);
    expect(() => read("--second", "5")).toThrow(/--second/);
  });

  test("is told again without what belongs to a machine", () => {
    expect(asWords(read("run", "--seconds", "5", "--url", "postgres://ada:secret@db/app", "--cpu"))).toBe(
      "run --seconds 5 --url … --cpu",
    );
    expect(asWords(read("--bin", "/opt/postgres/bin"))).toBe("--seconds 15 --bin …");
  });
});
