import { inspect } from "node:util";
import { serverHint } from "../../connection/errors.ts";
import { UsageError } from "../../errors.ts";
import { indented } from "../../printable.ts";

interface Said extends Error {
  code?: string;
  detail?: string | undefined;
  hint?: string | undefined;
}

/** What is said about an error: message, detail and hint, each on its line, and never a password. */
export function complaint(error: Said): string {
  const { message, detail, hint } = { ...plain(error), ...translated(error) };
  return Object.entries({ error: message, detail, hint })
    .map(([part, text]) => (text || part === "error" ? `${part}: ${indented(withoutPassword(text ?? ""))}\n` : ""))
    .join("");
}

/** What is said of an error that nothing has caught, which may be anything: Node would print it as it is. */
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

/** What Node and Postgres say too briefly. */
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
