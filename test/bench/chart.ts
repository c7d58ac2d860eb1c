import { added, type Comparison, ratios, spread } from "./measure.ts";
import type { Results } from "./results.ts";

interface Bar {
  name: string;
  value: number;
}

interface Panel {
  title: string;
  unit: string;
  bars: Bar[];
}

const width = 860;
const left = 260;
const right = 90;
const line = 26;
const head = 44;

/** The comparisons that say most, as bars: an SVG for light and for dark pages. */
export function drawChart({ parts }: Results): string {
  const find = (part: string, title: string) =>
    parts[part]?.comparisons.find((comparison) => comparison.title === title);
  const panels = [
    medians([find("capture", "one insert")], "What capturing adds to the insert of a row", "µs", added),
    medians(
      [
        find("throughput", "insert, 4 clients, asynchronous commit"),
        find("throughput", "insert, 4 clients, asynchronous commit, the others"),
      ],
      "Inserts a second with 4 clients, of those without capture",
      "%",
      (of, to) => ratios(of, to).map((ratio) => ratio * 100),
    ),
    medians(
      [find("dispatch", "hand-over in batches of 1,000, what a held snapshot leaves of the rate")],
      "What a snapshot that has been held for the whole backlog leaves of the rate of hand-over",
      "%",
      (of) => of.slice(-Math.ceil(of.length / 4)).map((ratio) => ratio * 100),
    ),
  ].filter((panel) => panel !== undefined);

  let top = 0;
  const drawn = panels.map((panel) => {
    const group = `<g transform="translate(0 ${top})">${drawPanel(panel)}</g>`;
    top += head + panel.bars.length * line + 18;
    return group;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${top}" width="${width}" height="${top}" role="img" aria-label="${panels.map(({ title }) => title).join("; ")}">
<style>
  text { font: 14px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .ours { fill: #2463eb } .theirs { fill: #9aa4b2 } .cut { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #d7dde4 } .ours { fill: #6ea0ff } .theirs { fill: #5c6773 } .cut { fill: #0d1117 }
  }
</style>
${drawn.join("\n")}
</svg>
`;
}

/** The median of each variant against the base, or on its own; the base itself has no bar. */
function medians(
  comparisons: (Comparison | undefined)[],
  title: string,
  unit: string,
  against: (of: number[], to: number[]) => number[],
): Panel | undefined {
  const bars = comparisons
    .filter((comparison) => comparison !== undefined)
    .flatMap(({ base, samples }) =>
      Object.entries(samples)
        .filter(([name]) => name !== base)
        .map(([name, values]) => ({ name, value: spread(against(values, samples[base ?? name] ?? [])).median })),
    );
  return bars.length > 0 ? { title, unit, bars } : undefined;
}

function drawPanel({ title, unit, bars }: Panel): string {
  const values = bars.map(({ value }) => value).toSorted((a, b) => b - a);
  const [most = 1, second = most] = values;
  // One that is far beyond all others is cut, so that these can be told apart.
  const end = most > 3 * second ? second * 1.25 : most;
  const scale = (width - left - right) / end;
  const rows = bars.map(({ name, value }, index) => {
    const y = head + index * line;
    const length = Math.max(1, Math.min(value, end) * scale);
    const kind = name.startsWith("notika") ? "ours" : "theirs";
    const cut = value > end ? `<path class="cut" d="M${left + length - 26} ${y + 20}l6-20h5l-6 20z"/>` : "";
    const shown = value >= 10 ? Math.round(value) : value.toFixed(1);
    return `  <text x="${left - 10}" y="${y + 14}" text-anchor="end">${name}</text>
  <rect class="${kind}" x="${left}" y="${y}" width="${length.toFixed(1)}" height="19" rx="2"/>${cut}
  <text x="${(left + length + 8).toFixed(1)}" y="${y + 14}">${shown} ${unit}</text>`;
  });
  return `<text class="title" x="0" y="24">${title}</text>\n${rows.join("\n")}`;
}
