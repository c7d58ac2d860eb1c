import { readdir, readFile } from "node:fs/promises";

export interface Block {
  /** What stands behind the opening fence. */
  language: string;
  text: string;
  /** The line of the opening fence, from 1. */
  line: number;
  /** The output that the page shows for it: the block without a language that follows at once. */
  output: string | undefined;
}

const root = new URL("../../", import.meta.url);

/** The pages of the documentation, by their paths in the repository. */
export async function pageNames(): Promise<string[]> {
  const names = (await readdir(new URL("docs", root))).filter((name) => name.endsWith(".md")).sort();
  return ["README.md", "CONTRIBUTING.md", ...names.map((name) => `docs/${name}`)];
}

/** A page of the documentation, by its path in the repository. */
export async function readPage(file: string) {
  const text = await readFile(new URL(file, root), "utf8");
  const found = [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)];
  const all: Block[] = found.map((match, index) => {
    const next = found[index + 1];
    const follows = next && text.slice(match.index + match[0].length, next.index).trim() === "" && next[1] === "";
    return {
      language: match[1] ?? "",
      text: match[2] ?? "",
      line: text.slice(0, match.index).split("\n").length,
      output: match[1] !== "" && follows ? next[2] : undefined,
    };
  });
  return {
    text,
    /** All code blocks, in their order. */
    all,
    /** The texts of those of a language. */
    blocks: (language: string): string[] =>
      all.filter((block) => block.language === language).map((block) => block.text),
  };
}
