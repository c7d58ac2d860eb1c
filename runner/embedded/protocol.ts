/** Postgres' frontend and backend messages: https://www.postgresql.org/docs/current/protocol-message-formats.html */

/** One complete message: a letter for its type, its length, its body. */
export type Frame = Buffer;

/** The requests that a client may send before the session has started; they have no letter. */
export const requests = { cancel: 80877102, ssl: 80877103, gss: 80877104 } as const;

/** The startup message of the only user and database of PGlite. */
export const startup = startupMessage({ user: "postgres", database: "postgres" });
export const sync = frame("S", "");

export const simpleQuery = (text: string) => frame("Q", `${text}\0`);
export const closeStatement = (name: string) => frame("C", `S${name}\0`);
export const copyFail = (reason: string) => frame("f", `${reason}\0`);
/** The end of the backend's answer: it is idle, in a transaction or in a failed one. */
export const readyForQuery = (status: "I" | "T" | "E") => frame("Z", status);
export const errorResponse = (code: string, message: string) => frame("E", `SERROR\0VERROR\0C${code}\0M${message}\0\0`);
export const notificationResponse = (channel: string, payload: string) =>
  frame("A", `\0\0\0\0${channel}\0${payload}\0`);

export const letterOf = (message: Frame) => String.fromCharCode(message[0] ?? 0);

/** The complete messages at the start of `bytes`. */
export function* frames(bytes: Buffer): Generator<Frame> {
  let start = 0;
  while (start + 5 <= bytes.length) {
    const end = start + 1 + bytes.readInt32BE(start + 1);
    if (end > bytes.length) return;
    yield bytes.subarray(start, end);
    start = end;
  }
}

/** The zero-terminated string at `start`. */
export const textAt = (message: Buffer, start: number) => message.toString("utf8", start, message.indexOf(0, start));

/** A field of an ErrorResponse, such as M, its message; undefined: it has no such field. */
export function fieldOf(message: Frame, letter: string): string | undefined {
  const fields = message.toString("utf8", 5).split("\0");
  return fields.find((field) => field.startsWith(letter))?.slice(1);
}

/** The SQL of a Query or Parse message; undefined: another message. */
export function sqlOf(message: Frame): string | undefined {
  if (letterOf(message) === "Q") return textAt(message, 5);
  if (letterOf(message) === "P") return textAt(message, message.indexOf(0, 5) + 1);
  return undefined;
}

/** The name and position of the prepared statement in a Parse, Bind, Describe or Close message; undefined: it names none. */
export function statementOf(message: Frame): { name: string; at: number } | undefined {
  const at = statementAt(message);
  const name = at === undefined ? "" : textAt(message, at);
  return at !== undefined && name ? { name, at } : undefined;
}

/** The same message with `prefix` inserted at `at`. */
export function insertAt(message: Frame, at: number, prefix: string): Frame {
  const longer = Buffer.concat([message.subarray(0, at), Buffer.from(prefix), message.subarray(at)]);
  longer.writeInt32BE(longer.length - 1, 1);
  return longer;
}

function statementAt(message: Frame): number | undefined {
  switch (letterOf(message)) {
    case "P":
      return 5;
    case "B":
      return message.indexOf(0, 5) + 1; // after the portal's name
    case "D":
    case "C":
      return String.fromCharCode(message[5] ?? 0) === "S" ? 6 : undefined; // otherwise a portal
    default:
      return undefined;
  }
}

function frame(letter: string, body: string): Frame {
  const message = Buffer.from(`${letter}\0\0\0\0${body}`);
  message.writeInt32BE(message.length - 1, 1);
  return message;
}

function startupMessage(parameters: Record<string, string>): Buffer {
  const body = Object.entries(parameters).flat();
  const message = Buffer.from(`\0\0\0\0\0\0\0\0${body.join("\0")}\0\0`);
  message.writeInt32BE(message.length, 0);
  message.writeInt32BE(3 << 16, 4); // version 3.0
  return message;
}
