import { styleText } from "node:util";
import { printable } from "../../printable.ts";

/** Rows in aligned columns, with a head; columns without a value are left out. */
export function table(rows: object[]): string {
  const texts = rows.map((row) => Object.entries(row).map(([name, value]) => [name, cell(value)] as const));
  const names = [...new Set(texts.flatMap((row) => row.filter(([, text]) => text !== "").map(([name]) => name)))];
  const lines = [names.map(printable), ...texts.map((row) => names.map((name) => new Map(row).get(name) ?? ""))];
  const widths = names.map((_, index) => Math.max(...lines.map((line) => line[index]?.length ?? 0)));
  const [head = "", ...body] = lines.map((line) =>
    line
      .map((text, index) => text.padEnd(widths[index] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  return [styleText("dim", head), ...body].map((line) => `${line}\n`).join("");
}

function cell(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (value instanceof Date) return value.toISOString().replace("T", " ").slice(0, 19);
  const line = printable(String(value).replace(/\s+/g, " "));
  return line.length > 80 ? `${line.slice(0, 79)}…` : line;
}
