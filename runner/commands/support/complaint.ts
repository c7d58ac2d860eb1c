import { UsageError } from "../../errors.ts";

interface Said extends Error {
  code?: string;
  detail?: string | undefined;
  hint?: string | undefined;
}

/** What is said about an error: message, detail and hint, each on its line, and never a password. */
export function complaint(error: Said): string {
  const { message, detail, hint } = { ...plain(error), ...translated(error) };
  const lines = [`error: ${message}`];
  if (detail) lines.push(`detail: ${detail}`);
  if (hint) lines.push(`hint: ${hint}`);
  return `${lines.join("\n").replace(/(:\/\/[^\s:/@]*):[^\s]*@/g, "$1:***@")}\n`;
}

export function exitCode(error: unknown): number {
  return error instanceof UsageError ? 2 : 1;
}

function plain({ message, detail, hint }: Said) {
  return { message, detail, hint };
}

/** What Node and Postgres say too briefly. */
function translated(error: Said): Partial<Said> | undefined {
  switch (error.code) {
    case "ECONNREFUSED":
    case "ECONNRESET":
    case "ENOTFOUND":
    case "EAI_AGAIN":
    case "EHOSTUNREACH":
    case "ETIMEDOUT":
    case "CONNECT_TIMEOUT":
    case "CONNECTION_CLOSED":
      return {
        // A name with several addresses fails once for each.
        message: `cannot reach the database: ${error instanceof AggregateError ? error.errors.map(({ message }) => message).join(", ") : error.message}`,
        hint: "Is the server running there? Its address comes from --url or DATABASE_URL.",
      };
    case "28P01":
      return { hint: "User and password come from --url or DATABASE_URL." };
    case "3F000":
    case "42P01":
      if (!/"notika["._]/.test(error.message)) return undefined;
      return { message: "notika is not installed in this database", hint: "Run: npx notika install" };
    case "42883":
      if (!/ notika\./.test(error.message)) return undefined;
      return { hint: "The database has another version of notika. Run: npx notika upgrade" };
    default:
      return undefined;
  }
}
