/*
 * Makes text from other sources (values of rows, names, errors) safe for a terminal or a log.  Characters that act on either
 * without being visible become escapes, such as \x1b or \u202e: control characters, characters that change the direction of
 * text, characters without a width, and all other line ends.  Notika's own styles are added afterwards.
 */

/** Escapes text so that it stays on one line. */
export function printable(text: string): string {
  return text.replace(unseen, escaped);
}

/**
 * Escapes text that may have several lines: those after the first are indented, so that none looks like a line of Notika's.
 */
export function indented(text: string, indent = "  "): string {
  const [first = "", ...others] = text.split(/\r?\n/).map(printable);
  return [first, ...others.map((line) => line && indent + line)].join("\n");
}

/** Escapes SQL that will be run: line feeds and tabs are kept. */
export function printableScript(text: string): string {
  return text.replace(unseen, (found) => (found === "\n" || found === "\t" ? found : escaped(found)));
}

/** Writes a JSON document; the escapes do not change its meaning. */
export function printableJson(data: unknown, space?: number): string {
  // A line feed here is formatting: JSON escapes those in values.
  return String(JSON.stringify(data, null, space)).replace(unseen, (found) => (found === "\n" ? found : inJson(found)));
}

const unseen = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

function escaped(found: string): string {
  const short = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[found];
  return short ?? (found <= "\xff" ? `\\x${hex(found, 2)}` : inJson(found));
}

/** The one escape of JSON that works for all characters. */
function inJson(found: string): string {
  return found
    .split("")
    .map((unit) => `\\u${hex(unit, 4)}`)
    .join("");
}

function hex(unit: string, digits: number): string {
  return unit.charCodeAt(0).toString(16).padStart(digits, "0");
}
