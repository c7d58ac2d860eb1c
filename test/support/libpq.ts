import { execFile } from "node:child_process";
import { raw } from "sql-template-tag";
import { expect } from "vitest";
import { openDatabase } from "../../runner/database.ts";
import { findProgram } from "./postgres.ts";

/** Where libpq can be asked for its opinion. */
export const psql = findProgram("psql");

/**
 * What a query of one value answers over each connection string, or `refused`: both of our drivers have to get the same
 * as psql with the same environment.
 */
export async function asPsql(query: string, texts: string[]): Promise<string[]> {
  const outcomes: { text: string; psql: string; postgres: string; pg: string }[] = [];
  for (const text of texts) {
    const [psql, ours] = await Promise.all([byPsql(query, text), byUs(query, text)]);
    outcomes.push({ text, psql, ...ours });
  }
  expect(outcomes).toEqual(outcomes.map(({ text, psql }) => ({ text, psql, postgres: psql, pg: psql })));
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

/** What a query of one value answers over each of our drivers, or `refused`. */
export async function byUs(query: string, text: string): Promise<{ postgres: string; pg: string }> {
  const outcome = (rows: Promise<object[]>) =>
    rows.then(([row = {}]) => String(Object.values(row)[0])).catch(() => "refused");
  try {
    const database = openDatabase({ connect: text, connections: 1 });
    const postgres = await outcome(database.execute(raw(query)));
    const pg = await outcome(database.pool.query(query).then(({ rows }) => rows));
    await database.close();
    return { postgres, pg };
  } catch {
    return { postgres: "refused", pg: "refused" };
  }
}
