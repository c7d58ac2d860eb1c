/*
 * What others wrote, values of rows, names, errors, made fit for a terminal or a log.  What would act on either without
 * being seen becomes an escape, such as \x1b or \u202e: control characters, those that turn the direction of text around,
 * those without a width, and whatever else ends a line.  Styles of our own come on top of it.
 */

/** Text that stays on its line. */
export function printable(text: string): string {
  return text.replace(unseen, escaped);
}

/** Text that may take several lines: those after the first are indented, so that none passes for a line of ours. */
export function indented(text: string, indent = "  "): string {
  const [first = "", ...others] = text.split(/\r?\n/).map(printable);
  return [first, ...others.map((line) => line && indent + line)].join("\n");
}

/** SQL to be run: its lines and tabs are what they were. */
export function printableScript(text: string): string {
  return text.replace(unseen, (found) => (found === "\n" || found === "\t" ? found : escaped(found)));
}

/** A JSON document, which means the same with its escapes. */
export function printableJson(data: unknown, space?: number): string {
  // What is a line end here is none of a value.
  return String(JSON.stringify(data, null, space)).replace(unseen, (found) => (found === "\n" ? found : inJson(found)));
}

const unseen = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

function escaped(found: string): string {
  const short = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[found];
  return short ?? (found <= "\xff" ? `\\x${hex(found, 2)}` : inJson(found));
}

/** JSON has no other escape that holds for all characters. */
function inJson(found: string): string {
  return found
    .split("")
    .map((unit) => `\\u${hex(unit, 4)}`)
    .join("");
}

function hex(unit: string, digits: number): string {
  return unit.charCodeAt(0).toString(16).padStart(digits, "0");
}
