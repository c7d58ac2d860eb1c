import { expect } from "vitest";
import { isThorough, type TestDatabase, test } from "../../support/database.ts";
import { fuzzing, type Random, randomOf } from "../../support/fuzzing.ts";
import { noEventTriggers } from "../support.ts";
import * as renames from "./renames.ts";

const { cases, seed } = fuzzing(isThorough ? 60 : 3);

interface Session {
  run(text: string): Promise<void>;
  query<Row>(text: string, values?: unknown[]): Promise<Row[]>;
}

/** Publishes on a table, migrates it at random, and gives the first thing that the oracle sees otherwise. */
async function difference(
  session: Session,
  random: Random,
  name: string,
  guard: "block" | "warn",
): Promise<object | undefined> {
  const table = `app.${name}`;
  const scene = renames.randomScene(random, { table, workflow: name, guard });
  const story: string[] = [scene.script];
  await session.run(scene.script);
  let model: renames.Model = scene.model;

  const written = async (row: Record<string, unknown>) => {
    await session.run("delete from notika.event_log_0");
    const statement = renames.insert(table, row);
    story.push(statement);
    await session.run(statement);
    return session.query<{ new: object }>("select new from notika.event_log where workflow = $1", [name]);
  };

  for (let transaction = 0; transaction < 4; transaction++) {
    const before = renames.copyOf(model);
    const isChecked = guard === "warn"; // there is nobody who looks at each statement
    const statements: string[] = [];
    const middle: [number, renames.Model][] = [];
    for (const statement of renames.randomMigration(random, model, table)) {
      statements.push(statement);
      if (!isChecked) renames.bind(model);
      if (random.chance(0.3)) middle.push([statements.length, renames.copyOf(model)]);
    }
    renames.bind(model);
    story.push(`-- transaction ${transaction}`, ...statements);
    const refused = renames.isRefused(model);

    if (!isChecked) {
      const foreseen = await session.query<{ verdict: string }>("select * from notika.check_ddl($1)", [
        statements.join(";"),
      ]);
      if (foreseen.some(({ verdict }) => verdict === "breaks") !== refused) {
        return { story, what: "check_ddl", refused, foreseen };
      }
    }
    await session.run("begin");
    let error: { code?: string; message?: string } | undefined;
    try {
      for (const [place, statement] of statements.entries()) {
        await session.run(statement);
        for (const [after, state] of middle) {
          if (after !== place + 1 || isChecked) continue;
          const row = renames.rowOf(state, true);
          const events = await written(row);
          const expected = [{ new: renames.eventOf(state, row) }];
          if (JSON.stringify(events) !== JSON.stringify(expected)) {
            return { story, what: "event in the middle", events, expected };
          }
          await session.run(`delete from ${table}`);
        }
      }
      await session.run("commit");
    } catch (caught) {
      error = caught as Error;
      await session.run("rollback");
    }
    if (error && error.code !== "NK001") return { story, what: "error", error: error.message };
    if ((error !== undefined) !== (refused && guard === "block")) {
      return { story, what: "refused", refused, error: error?.message };
    }
    if (error) {
      model = before;
      story.push("-- refused");
    } else if (guard === "block") renames.settle(model);
    if (isChecked) {
      await session.run("select notika.check()");
      // What is broken is told by its last state, and then the story ends.
      const [state] = await session.query<{ state: string }>("select state from notika.workflows where workflow = $1", [
        name,
      ]);
      if ((state?.state === "broken") !== refused) return { story, what: "state", refused, state };
      if (refused) return undefined;
      renames.settle(model);
    }

    const contract = await session.query<{ name: string; number: number; actual: number }>(
      `select c.column_name as name, c.attnum as number,
              (select a.attnum from pg_attribute as a where a.attrelid = w.relation and a.attname = c.column_name) as actual
         from notika.contract as c join notika.workflow as w using (workflow_id) where w.name = $1`,
      [name],
    );
    const expected = model.contract.items.map((item) => item.name).sort();
    if (
      JSON.stringify(contract.map((row) => row.name).sort()) !== JSON.stringify(expected) ||
      contract.some(({ number, actual }) => number !== actual)
    ) {
      return { story, what: "contract", contract, expected };
    }
    const found = await session.query("select * from notika.check() where workflow = $1", [name]);
    if (found.length > 0) return { story, what: "check", found };

    for (const passes of model.contract.condition ? [true, false] : [true]) {
      const row = renames.rowOf(model, passes);
      const events = await written(row);
      const wanted = passes ? [{ new: renames.eventOf(model, row) }] : [];
      if (JSON.stringify(events) !== JSON.stringify(wanted)) return { story, what: "event", events, wanted };
    }
    for (const column of model.columns) {
      await session.run("delete from notika.event_log_0");
      await session.run(`delete from ${table}; ${renames.insert(table, renames.rowOf(model, true))}`);
      await session.run("delete from notika.event_log_0");
      await session.run(`update ${table} set ${renames.quoted(column.name)} = '9'`);
      const events = await session.query("select new from notika.event_log where workflow = $1", [name]);
      const { watch } = model.contract;
      const count = watch === undefined || watch.column === column ? 1 : 0;
      if (events.length !== count) return { story, what: `update of ${column.name}`, events, count };
    }
    await session.run(`delete from ${table}`);
  }
  await session.run(`select notika.unpublish('${name}')`);
  return undefined;
}

async function all(db: TestDatabase, guard: "block" | "warn") {
  const random = randomOf(seed);
  const client = await db.database.pool.connect();
  const session: Session = {
    run: async (text) => void (await client.query(text)),
    query: async (text, values) => (await client.query(text, values)).rows,
  };
  try {
    await session.run("set client_min_messages = error; create schema app");
    for (let number = 0; number < cases; number++) {
      const found = await difference(session, random, `t${number}`, guard);
      if (found) return { number, seed, ...found };
    }
    return undefined;
  } finally {
    await client.query("rollback; reset all");
    client.release();
  }
}

test("columns that are renamed, added, dropped, swapped and retyped are what an oracle says they are", {
  timeout: 60_000 + cases * 5000,
}, async ({ db }) => {
  expect(await all(db, "block")).toBeUndefined();
});

test("so they are where there are no event triggers, once it was checked", { timeout: 60_000 + cases * 5000 }, async ({
  db,
}) => {
  await db.script(noEventTriggers);

  expect(await all(db, "warn")).toBeUndefined();
});
