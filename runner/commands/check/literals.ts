import { readFile } from "node:fs/promises";
import path from "node:path";

/** The texts in a source: strings, and templates as patterns in which an expression matches anything. */
export type Literals = { has(text: string): boolean };

/** The literals of a source file and of all files that it imports by a relative path. */
export async function literalsOf(file: string): Promise<Literals> {
  const strings = new Set<string>();
  const patterns: RegExp[] = [];
  const seen = new Set<string>();
  const waiting = [path.resolve(file)];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const source = seen.has(next) ? undefined : await read(next);
    seen.add(next);
    if (source === undefined) continue;
    for (const parts of literals(source)) {
      const [only = ""] = parts;
      // A template with almost no text besides its expressions would match anything.
      if (parts.length > 1 && parts.join("").length < 3) continue;
      if (parts.length > 1) patterns.push(new RegExp(`^${parts.map(escaped).join(".*")}$`, "s"));
      else strings.add(only);
      if (parts.length === 1 && /^\.\.?\//.test(only)) waiting.push(...candidates(path.resolve(next, "..", only)));
    }
  }
  return { has: (text) => strings.has(text) || patterns.some((pattern) => pattern.test(text)) };
}

/** The literals of a source: the text of a string, or the texts between the expressions of a template. */
export function* literals(source: string): Generator<string[]> {
  // Where an expression may begin, a slash begins a regular expression; elsewhere it divides.
  const token =
    /\/\/[^\n]*|\/\*[\s\S]*?\*\/|(?<=(?:^|[(,=:[!&|?{};+\-*%~<>]|\b(?:return|typeof|case|in|of|void|delete|throw|await|yield))\s*)\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\/[a-z]*|(["'])((?:\\[\s\S]|(?!\1)[^\\\n])*)\1|[`{}]/g;
  // For each open template, the number of open braces in its expression.
  const depths: number[] = [];
  const templates: string[][] = [];
  for (let match = token.exec(source); match; match = token.exec(source)) {
    const [text, quote, body = ""] = match;
    if (quote) yield [unescaped(body)];
    else if (text === "{" && depths.length > 0) depths[depths.length - 1] = (depths.at(-1) ?? 0) + 1;
    else if (text === "}" && depths.length > 0) {
      depths[depths.length - 1] = (depths.at(-1) ?? 0) - 1;
      if (depths.at(-1) === 0) {
        depths.pop();
        yield* goOn(templates.pop() ?? []);
      }
    } else if (text === "`") yield* goOn([]);
  }

  /** Reads a template from here to its next expression, or its end. */
  function* goOn(parts: string[]): Generator<string[]> {
    const rest = /(?:\\[\s\S]|(?!\$\{)[^\\`])*/y;
    rest.lastIndex = token.lastIndex;
    const [text = ""] = rest.exec(source) ?? [];
    const here = [...parts, unescaped(text)];
    if (source.startsWith("${", rest.lastIndex)) {
      token.lastIndex = rest.lastIndex + 2;
      templates.push(here);
      depths.push(1);
    } else {
      token.lastIndex = rest.lastIndex + 1;
      yield here;
    }
  }
}

function unescaped(body: string): string {
  if (!body.includes("\\")) return body;
  const plain = { n: "\n", r: "\r", t: "\t", b: "\b", f: "\f", v: "\v", "0": "\0", "\n": "" } as Record<string, string>;
  return body.replace(/\\(?:u\{([0-9a-f]+)\}|u([0-9a-f]{4})|x([0-9a-f]{2})|([\s\S]))/gi, (_, long, short, byte, one) =>
    one === undefined ? String.fromCodePoint(Number.parseInt(long ?? short ?? byte, 16)) : (plain[one] ?? one),
  );
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

/** The files that an import may refer to. */
function candidates(file: string): string[] {
  const bare = file.replace(/\.[mc]?[jt]sx?$/, "");
  const endings = ["ts", "js", "mts", "mjs", "cts", "cjs", "tsx", "jsx"];
  return [file, ...endings.flatMap((ending) => [`${bare}.${ending}`, path.join(file, `index.${ending}`)])];
}

async function read(file: string): Promise<string | undefined> {
  return readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (["ENOENT", "EISDIR", "ENOTDIR"].includes(error.code ?? "")) return undefined;
    throw error;
  });
}
