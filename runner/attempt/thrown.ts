import { inspect, types } from "node:util";

const longest = 1000; // characters

/** What was thrown, as an Error that has a message, whatever it is. */
export function toError(thrown: unknown): Error {
  if (!(thrown instanceof Error) && !types.isNativeError(thrown)) {
    return new Error(
      typeof thrown === "string" && thrown.trim() ? thrown : `${shown(thrown)} was thrown, not an Error`,
    );
  }
  if (typeof thrown.message !== "string" || thrown.message === "") {
    // Such as an AggregateError of Node's, which speaks only in its parts.
    const [part] = Array.isArray((thrown as AggregateError).errors) ? (thrown as AggregateError).errors : [];
    const { code } = thrown as NodeJS.ErrnoException;
    const message = thrown.message || (part ? toError(part).message : (code ?? thrown.name));
    try {
      thrown.message = typeof message === "string" ? message : shown(message);
    } catch {
      return new Error(shown(message), { cause: thrown });
    }
  }
  return thrown;
}

/** Where it was thrown, with modules by their files, however they were loaded. */
export function stackOf({ stack }: Error): string | undefined {
  return stack
    ?.replace(/data:text\/javascript,\S*?[?&]filePath=([^\s?&:)]+)/g, (all, file) => {
      try {
        return decodeURIComponent(file);
      } catch {
        return all;
      }
    })
    .replace(/\?(?:tsx-)?namespace=notika-[-0-9a-f]+/g, "");
}

function shown(value: unknown): string {
  try {
    const text = inspect(value, { depth: 3, breakLength: Number.POSITIVE_INFINITY, compact: true });
    return text.length > longest ? `${text.slice(0, longest)} …` : text;
  } catch {
    return "something that cannot be shown";
  }
}
