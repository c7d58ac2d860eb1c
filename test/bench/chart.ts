import { captors } from "./captors.ts";
import { added, type Comparison, quantile, ratios } from "./measure.ts";
import type { Results } from "./results.ts";

interface Bar {
  name: string;
  median: number;
  /** The lower and the upper quartile. */
  middle: [number, number];
}

interface Panel {
  title: string;
  /** How to read it. */
  reading: string;
  unit: string;
  isLessBetter: boolean;
  bars: Bar[];
}

const width = 880;
const margin = 24;
const left = 276;
const right = 100;
const line = 26;
const head = 58;
const gap = 22;
const foot = 40;

/** The comparisons that say most, as bars, on a ground of its own: it looks the same on every page, light or dark. */
export function drawChart({ parts }: Results): string {
  const find = (part: string, title: string) =>
    parts[part]?.comparisons.find((comparison) => comparison.title === title);
  const panels = [
    panel({
      title: "What capturing adds to the insert of a row",
      reading: "µs in the server, less is better",
      unit: "µs",
      isLessBetter: true,
      comparison: find("capture", "one insert"),
      against: added,
    }),
    panel({
      title: "Inserts a second with 4 clients that do nothing else, commits not waiting for the disk",
      reading: "% of those without capture, more is better",
      unit: "%",
      isLessBetter: false,
      // The others of that race have too few rounds, in which luck decides.
      comparison: find("throughput", "insert, 4 clients, asynchronous commit"),
      against: (of, to) => ratios(of, to).map((ratio) => ratio * 100),
    }),
    panel({
      title: "Hand-over of a backlog while somebody holds a snapshot, at the end of it",
      reading: "% of the rate without that, more is better",
      unit: "%",
      isLessBetter: false,
      comparison: find("dispatch", "hand-over in batches of 1,000, what a held snapshot leaves of the rate"),
      against: (of) => of.slice(-Math.ceil(of.length / 4)).map((ratio) => ratio * 100),
    }),
  ].filter((panel) => panel !== undefined);

  let top = margin / 2;
  const drawn = panels.map((panel) => {
    const group = `<g transform="translate(0 ${top})">\n${drawPanel(panel)}\n</g>`;
    top += head + panel.bars.length * line + gap;
    return group;
  });
  const height = top + foot;
  const titles = panels.map(({ title, reading }) => `${title}: ${reading}`).join("; ");
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escaped(titles)}">
<style>
  text { font: 14px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 16px }
  .quiet { fill: #57606a; font-size: 13px }
  .ground { fill: #ffffff; stroke: #d0d7de }
  .ours { fill: #2463eb } .theirs { fill: #8c96a5 } .least { fill: #cdd4dd }
  .spread { stroke: #24292f; stroke-width: 1.5; stroke-opacity: .55 } .cut { fill: #ffffff } .full { stroke: #8c96a5; stroke-dasharray: 2 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #9aa4af } .ground { fill: #0d1117; stroke: #30363d }
    .ours { fill: #4c86f5 } .theirs { fill: #6b7684 } .least { fill: #39424d } .spread { stroke: #e6edf3 } .cut { fill: #0d1117 }
  }
</style>
<rect class="ground" x=".5" y=".5" width="${width - 1}" height="${height - 1}" rx="8"/>
${drawn.join("\n")}
<g transform="translate(0 ${top})">
${drawLegend()}
</g>
</svg>
`;
}

interface Source extends Omit<Panel, "bars"> {
  comparison: Comparison | undefined;
  against: (of: number[], to: number[]) => number[];
}

/** Each variant against the base, or on its own, the best first; the base itself has no bar. */
function panel({ comparison, against, ...rest }: Source): Panel | undefined {
  if (!comparison) return undefined;
  const { base, samples } = comparison;
  const better = rest.isLessBetter ? 1 : -1;
  const bars = Object.entries(samples)
    .filter(([name]) => name !== base)
    .map(([name, values]): Bar => {
      const sorted = against(values, samples[base ?? name] ?? []).toSorted((a, b) => a - b);
      const [low, median, high] = [quantile(sorted, 0.25), quantile(sorted, 0.5), quantile(sorted, 0.75)];
      return { name, median, middle: [low, high] };
    });
  return { ...rest, bars: bars.toSorted((a, b) => (a.median - b.median) * better) };
}

function drawPanel({ title, reading, unit, bars }: Panel): string {
  const [most = 1, second = most] = bars.map(({ median }) => median).toSorted((a, b) => b - a);
  // One that is far beyond all others is cut, so that these can be told apart.
  const longest = most > 3 * second ? second * 1.25 : most;
  const end = unit === "%" ? Math.max(100, longest) : longest;
  const room = width - left - right;
  const at = (value: number) => left + (Math.min(Math.max(value, 0), end) / end) * room;

  const rows = bars.map(({ name, median, middle: [low, high] }, index) => {
    const y = head + index * line;
    const length = Math.max(1, at(median) - left);
    const cut = median > end ? `\n  <path class="cut" d="M${left + length - 30} ${y + 20}l7-21h6l-7 21z"/>` : "";
    const reach = median > end ? "" : `\n  ${across("spread", at(low), at(high), y + 9.5)}`;
    const shown = median >= 10 ? Math.round(median) : median.toFixed(1);
    return `  <text x="${left - 12}" y="${y + 14.5}" text-anchor="end">${escaped(name)}</text>
  <rect class="${kindOf(name)}" x="${left}" y="${y}" width="${length.toFixed(1)}" height="19" rx="2"/>${cut}${reach}
  <text x="${width - margin}" y="${y + 14.5}" text-anchor="end">${shown} ${unit}</text>`;
  });
  const full = unit === "%" ? [`  ${down("full", at(100), head - 4, head + bars.length * line - 3)}`] : [];
  return [
    `  <text class="title" x="${margin}" y="24">${escaped(title)}</text>`,
    `  <text class="quiet" x="${margin}" y="44">${escaped(reading)}</text>`,
    ...full,
    ...rows,
  ].join("\n");
}

function drawLegend(): string {
  const kinds = { ours: "Notika", theirs: "others", least: "the least that anybody can do" };
  let x = margin;
  const keys = Object.entries(kinds).map(([kind, text]) => {
    const key = `  <rect class="${kind}" x="${x}" y="0" width="14" height="14" rx="2"/><text class="quiet" x="${x + 20}" y="12">${text}</text>`;
    x += 44 + text.length * 7;
    return key;
  });
  return [
    ...keys,
    `  ${across("spread", x, x + 20, 7)}<text class="quiet" x="${x + 26}" y="12">median, and the middle half of the rounds</text>`,
  ].join("\n");
}

const across = (kind: string, from: number, to: number, y: number) =>
  `<path class="${kind}" d="M${from.toFixed(1)} ${y}H${to.toFixed(1)}"/>`;
const down = (kind: string, x: number, from: number, to: number) =>
  `<path class="${kind}" d="M${x.toFixed(1)} ${from}V${to}"/>`;

const least = new Set<string>(
  [captors.empty, captors.emptyWhen, captors.appendRow, captors.appendEvent, captors.appendEvents].map(
    ({ name }) => name,
  ),
);

function kindOf(name: string): "ours" | "theirs" | "least" {
  if (name.startsWith("notika")) return "ours";
  return least.has(name) ? "least" : "theirs";
}

const escaped = (text: string) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
