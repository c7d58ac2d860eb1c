import { readFile } from "node:fs/promises";

/** A page of the documentation, by its path in the repository. */
export async function readPage(file: string) {
  const text = await readFile(new URL(`../../${file}`, import.meta.url), "utf8");
  return {
    text,
    /** The code blocks of a language, in their order. */
    blocks(language: string): string[] {
      return [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].flatMap(([, tag, block]) =>
        tag === language && block !== undefined ? [block] : [],
      );
    },
  };
}
