import { aligned, piped, type Table } from "../support/table.ts";
import { type Comparison, type Findings, type Goal, isReached, ratios, type Spread, spread } from "./measure.ts";

/** What a part found, for a terminal. */
export function asText({ comparisons, goals }: Findings): string {
  const blocks = comparisons.map(
    (comparison) => `${comparison.title} (${comparison.unit})\n${aligned(comparisonTable(comparison))}`,
  );
  if (goals.length > 0) blocks.push(`goals (the median counts)\n${aligned(goalTable(goals))}`);
  return `${blocks.join("\n\n")}\n`;
}

/** Comparisons for RESULTS.md. */
export function asMarkdown(comparisons: Comparison[]): string {
  return comparisons
    .map((comparison) => {
      const reading = `In ${comparison.unit}. ${comparison.note ?? ""}`.trim();
      return `### ${comparison.title}\n\n${reading}\n\n${piped(comparisonTable(comparison))}\n`;
    })
    .join("\n");
}

/** Goals for RESULTS.md. */
export function goalsAsMarkdown(goals: Goal[]): string {
  return piped(goalTable(goals));
}

function comparisonTable({ samples, base }: Comparison): Table {
  const against = base === undefined ? undefined : (samples[base] ?? []);
  return [
    ["", "min", "median", "max", ...(against ? [`to ${base}: min`, "median", "max"] : [])],
    ...Object.entries(samples).map(([name, values]) => [
      name,
      ...cells(spread(values)),
      ...(against ? (name === base ? ["", "", ""] : cells(spread(ratios(values, against)))) : []),
    ]),
  ];
}

function goalTable(goals: Goal[]): Table {
  return [
    ["", "min", "median", "max", "goal", "", "at best"],
    ...goals.map((goal) => {
      const { min, median, max } = spread(goal.values);
      const limit = "atLeast" in goal.limit ? goal.limit.atLeast : goal.limit.atMost;
      return [
        goal.claim,
        short(min),
        apart(median, limit),
        short(max),
        `${"atLeast" in goal.limit ? "≥" : "≤"} ${short(limit)}`,
        isReached(goal) ? "reached" : "missed",
        goal.atBest ? `${short(spread(goal.atBest.values).median)}, ${goal.atBest.variant}` : "",
      ];
    }),
  ];
}

const cells = ({ min, median, max }: Spread) => [min, median, max].map((value) => short(value));

/** Three digits that mean something. */
function short(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

/** So many digits that what is next to a limit does not look as if it were on it. */
function apart(value: number, limit: number): string {
  const digits = [3, 4, 5].find((digits) => value === limit || short(value, digits) !== short(limit));
  return short(value, digits ?? 6);
}
