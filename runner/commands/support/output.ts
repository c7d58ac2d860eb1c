import { inspect, styleText } from "node:util";
import { serverHint } from "../../connection/errors.ts";
import { UsageError } from "../../errors.ts";
import { indented, printable, printableJson } from "../../printable.ts";

/** Writes data to stdout, as one JSON document or as the result of `toText`, which must be printable. */
export function output<T>(json: boolean, data: T, toText: (data: T) => string): void {
  process.stdout.write(json ? `${printableJson(data, 2)}\n` : toText(data));
}

/** Formats rows in aligned columns with a header; columns without values are left out. */
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

interface Said extends Error {
  code?: string;
  detail?: string | undefined;
  hint?: string | undefined;
}

/** Formats an error: message, detail and hint, each on its own line, without passwords. */
export function complaint(error: Said): string {
  const { message, detail, hint } = { ...plain(error), ...translated(error) };
  return Object.entries({ error: message, detail, hint })
    .map(([part, text]) => (text || part === "error" ? `${part}: ${indented(withoutPassword(text ?? ""))}\n` : ""))
    .join("");
}

/** Formats an uncaught error, which may be any value; Node would print it without escapes and with passwords. */
export function lastWords(thrown: unknown): string {
  return `error: ${indented(withoutPassword(inspect(thrown)))}\n`;
}

export function exitCode(error: unknown): number {
  return error instanceof UsageError || (error as Said).code === "NOTIKA_URL" ? 2 : 1;
}

function withoutPassword(text: string): string {
  return text
    .replace(/(:\/\/[^\s:/@]*):[^\s]*@/g, "$1:***@")
    .replace(/\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)/g, "$1***");
}

function plain({ message, detail, hint }: Said) {
  return { message, detail, hint };
}

/** Better messages and hints for errors of Node and Postgres; undefined: the error is clear. */
function translated(error: Said): Partial<Said> | undefined {
  if (["ECONNRESET", "EPIPE"].includes(error.code ?? "") || /^Connection terminated/.test(error.message)) {
    return { message: "the connection to the database was lost", hint: "Was the server restarted? Try again." };
  }
  switch (error.code) {
    case "3F000":
    case "42P01":
      if (!/"notika["._]/.test(error.message)) return undefined;
      return { message: "notika is not installed in this database", hint: "Run: npx notika install" };
    case "42883":
      if (!/ notika\./.test(error.message)) return undefined;
      return { hint: "The database has another version of notika. Run: npx notika upgrade" };
    default: {
      const hint = error.hint ?? serverHint(error);
      return hint === undefined ? undefined : { hint };
    }
  }
}
