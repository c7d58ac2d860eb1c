import { execFile } from "node:child_process";
import { raw } from "sql-template-tag";
import { expect } from "vitest";
import { openDatabase } from "../../runner/database/database.ts";
import { findProgram } from "./postgres.ts";

/** Where libpq can be asked for its opinion. */
export const psql = findProgram("psql");

/** What a query of one value answers over each connection string, or `refused`: the same here as in psql. */
export async function asPsql(query: string, texts: string[]): Promise<string[]> {
  const outcomes: { text: string; psql: string; here: string }[] = [];
  for (const text of texts) {
    const [psql, here] = await Promise.all([byPsql(query, text), byUs(query, text)]);
    outcomes.push({ text, psql, here });
  }
  expect(outcomes).toEqual(outcomes.map(({ text, psql }) => ({ text, psql, here: psql })));
  return outcomes.map(({ psql }) => psql);
}

async function byPsql(query: string, text: string): Promise<string> {
  return new Promise((resolve) => {
    // An empty string after -d is one; psql without -d would not be told of it.
    execFile(psql as string, ["-XAtwc", query, "-d", text], (error, stdout) => {
      resolve(error ? "refused" : stdout.replace(/\n$/, ""));
    });
  });
}

/** What a query of one value answers here, or `refused`: on the connection that finds the way, and on one that follows. */
export async function byUs(query: string, text: string): Promise<string> {
  try {
    const database = openDatabase({ connect: text, connections: 2 });
    const answers = await Promise.all([raw(query), raw(query)].map((statement) => database.execute(statement))).finally(
      database.close,
    );
    const [first, second] = answers.map(([row = {}]) => String(Object.values(row)[0]));
    return first === second ? `${first}` : `${first}, then ${second}`;
  } catch {
    return "refused";
  }
}
