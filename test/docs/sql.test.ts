import type { Client } from "pg";
import { describe, expect } from "vitest";
import { test } from "../support/database.ts";
import { pageNames, readPage } from "../support/page.ts";
import { settingOf } from "./settings.ts";

describe("the SQL of a page runs as it is written, and answers what the page shows:", async () => {
  for (const name of await pageNames()) {
    const blocks = (await readPage(name)).all.filter(({ language }) => language === "sql");
    if (blocks.length === 0) continue;

    test(name, async ({ db }) => {
      await db.script(settingOf(name).sql ?? "");
      const client = await db.database.pool.connect();
      try {
        for (const { text, line, output } of blocks) {
          const answer = await asPsql(client, text);
          const place = `${name}:${line}`;
          if (output !== undefined) expect({ place, answer: plain(answer) }).toEqual({ place, answer: plain(output) });
          else expect({ place, answer }).not.toMatchObject({ answer: expect.stringMatching(/^ERROR/) });
          await client.query("select notika.dispatch()");
        }
      } finally {
        client.release();
      }
    });
  }
});

/** Runs the statements one by one, and prints what the last one answers as psql does. */
async function asPsql(client: Pick<Client, "query">, script: string): Promise<string> {
  let answer = "";
  for (const text of script.split(/(?<=;)(?: *--.*)?\n/).filter((part) => part.replace(/^--.*$/gm, "").trim())) {
    try {
      const types = { getTypeParser: () => (value: unknown) => value };
      const { fields, rows } = await client.query({ text, rowMode: "array", types } as unknown as string);
      answer = [fields.map(({ name }) => name), ...(rows as unknown[][])]
        .map((row) => row.map((cell) => cell ?? "").join(" | "))
        .join("\n");
    } catch (thrown) {
      const error = thrown as Error & Record<"detail" | "hint", string | undefined>;
      const parts = { "ERROR:  ": error.message, "DETAIL:  ": error.detail, "HINT:  ": error.hint };
      return Object.entries(parts)
        .flatMap(([label, part]) => (part === undefined ? [] : [label + part]))
        .join("\n");
    }
  }
  return answer;
}

/** Without the rule under the head, and without what only makes columns straight. */
function plain(output: string): string[] {
  return output
    .split("\n")
    .filter((line) => line.trim() !== "" && !/^[-+]+$/.test(line))
    .map((line) =>
      line
        .split(/ \|(?: |$)/)
        .map((cell) => cell.trim())
        .join(" | "),
    );
}
