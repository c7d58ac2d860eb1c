import { styleText } from "node:util";
import { printable, printableJson } from "./printable.ts";

type Level = "info" | "warn" | "error";
type Fields = Record<string, unknown>;

/** Writes log lines, as text or as JSON. */
export interface Log {
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}

type Line = (level: Level, message: string, fields: Fields) => string;

/** Formats a line of text: time in UTC, message, fields. */
export const textLine: Line = (level, message, fields) => {
  const time = new Date().toISOString().slice(11, 19);
  return `${styled("dim", time)} ${styled(color[level], printable(message))}${fieldText(fields)}`;
};

/** Formats one JSON object. */
export const jsonLine: Line = (level, message, fields) =>
  printableJson({ at: new Date().toISOString(), level, message, ...fields });

/** Writes lines of text to stderr. */
export const textLog: Log = makeLog(textLine);

/** Writes one JSON object per line to stderr. */
export const jsonLog: Log = makeLog(jsonLine);

/** Discards all messages. */
export const silentLog: Log = { info() {}, warn() {}, error() {} };

/**
 * Makes a log that formats each message with `line` and writes it, by default to stderr.  `line` must return printable text.
 */
export function makeLog(line: Line, write: (text: string) => unknown = (text) => process.stderr.write(text)): Log {
  const at =
    (level: Level): Log[Level] =>
    (message, fields = {}) =>
      void write(`${line(level, message, fields)}\n`);
  return { info: at("info"), warn: at("warn"), error: at("error") };
}

/** Makes a log that adds these fields to each line. */
export function withFields(log: Log, fields: Fields): Log {
  return {
    info: (message, more) => log.info(message, { ...fields, ...more }),
    warn: (message, more) => log.warn(message, { ...fields, ...more }),
    error: (message, more) => log.error(message, { ...fields, ...more }),
  };
}

/** The style of a message of each level. */
export const color = { info: "reset", warn: "yellow", error: "red" } as const;

/** Fields after a message: ` user=7 name="Ada Lovelace"`. */
export function fieldText(fields: Fields): string {
  return styled(
    "dim",
    Object.entries(fields)
      .map(([name, value]) => ` ${plain(name)}=${plain(value)}`)
      .join(""),
  );
}

/** Adds a style to text if stderr is a terminal with colours. */
export function styled(style: Parameters<typeof styleText>[0], text: string): string {
  return text === "" ? "" : styleText(style, text, { stream: process.stderr });
}

function plain(value: unknown): string {
  return typeof value === "string" && /^[^\s"]*$/.test(value) && printable(value) === value
    ? value
    : printableJson(value);
}
