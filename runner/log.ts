import { styleText } from "node:util";
import { printable, printableJson } from "./printable.ts";

type Level = "info" | "warn" | "error";
type Fields = Record<string, unknown>;

/** Says what happens, for people or for machines. */
export interface Log {
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}

type Line = (level: Level, message: string, fields: Fields) => string;

/** A line for people: time, message, fields. */
export const textLine: Line = (level, message, fields) => {
  const time = new Date().toISOString().slice(11, 19);
  return `${styled("dim", time)} ${styled(color[level], printable(message))}${fieldText(fields)}`;
};

/** One JSON object. */
export const jsonLine: Line = (level, message, fields) =>
  printableJson({ at: new Date().toISOString(), level, message, ...fields });

/** Lines for people on stderr. */
export const textLog: Log = makeLog(textLine);

/** One JSON object a line, on stderr. */
export const jsonLog: Log = makeLog(jsonLine);

/** Says nothing. */
export const silentLog: Log = { info() {}, warn() {}, error() {} };

/** A log that writes what `line` makes of each message, by default to stderr; what that is has to be printable. */
export function makeLog(line: Line, write: (text: string) => unknown = (text) => process.stderr.write(text)): Log {
  const at =
    (level: Level): Log[Level] =>
    (message, fields = {}) =>
      void write(`${line(level, message, fields)}\n`);
  return { info: at("info"), warn: at("warn"), error: at("error") };
}

/** A log that adds these fields to each line. */
export function withFields(log: Log, fields: Fields): Log {
  return {
    info: (message, more) => log.info(message, { ...fields, ...more }),
    warn: (message, more) => log.warn(message, { ...fields, ...more }),
    error: (message, more) => log.error(message, { ...fields, ...more }),
  };
}

/** How a message of each level looks. */
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

/** Styled where stderr is a terminal that takes colour. */
export function styled(style: Parameters<typeof styleText>[0], text: string): string {
  return text === "" ? "" : styleText(style, text, { stream: process.stderr });
}

function plain(value: unknown): string {
  return typeof value === "string" && /^[^\s"]*$/.test(value) && printable(value) === value
    ? value
    : printableJson(value);
}
