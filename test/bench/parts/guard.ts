import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../runner/database.ts";
import type { Bench } from "../bench.ts";
import { added, type Comparison, type Findings, interleave, of } from "../measure.ts";

const workflows = 1000;
const triggers = ["notika_guard_start", "notika_guard_drop", "notika_guard_end"];
const without = "without the guard";

/** Statements that undo each other. */
const scenarios = {
  unrelated: {
    "create and drop a table": ["create table public.other (id int)", "drop table public.other"],
    "add and drop a column": [
      "alter table public.plain add column more int",
      "alter table public.plain drop column more",
    ],
    "create and drop a temporary table": ["create temp table short (id int)", "drop table short"],
  },
  guarded: {
    "add and drop a column that nobody uses": [
      "alter table app.t500 add column more int",
      "alter table app.t500 drop column more",
    ],
    "rename a column there and back": [
      "alter table app.t500 rename column name to title",
      "alter table app.t500 rename column title to name",
    ],
  },
};

/** What the guard adds to DDL while a thousand workflows are published. */
export async function guard({ durable, seconds, say }: Bench): Promise<Findings> {
  const database = openDatabase({ connect: await durable.createDatabase(), connections: 1 });
  try {
    say(`guard: publishing ${workflows} workflows`);
    await publishAll(database);

    const found: Findings = { comparisons: [], goals: [] };
    for (const [kind, statements] of Object.entries(scenarios)) {
      for (const [name, pair] of Object.entries(statements)) {
        const title = `${kind} table: ${name}`;
        say(`guard: ${title}`);
        const comparison: Comparison = {
          title,
          unit: "ms a statement",
          base: without,
          samples: await interleave(
            { [without]: timed(database, pair, "disable"), "with the guard": timed(database, pair, "enable always") },
            seconds / 4,
          ),
        };
        found.comparisons.push(comparison);
        found.goals.push({
          claim: `${title}: ms that the guard adds`,
          values: added(of(comparison, "with the guard"), of(comparison, without)),
          limit: { atMost: kind === "unrelated" ? 1 : 15 },
        });
      }
    }
    return found;
  } finally {
    await database.close();
  }
}

async function publishAll(database: Database) {
  await database.script("create schema app; create table public.plain (id int)");
  for (let number = 1; number <= workflows; number++) {
    await database.script(`
      create table app.t${number} (id bigint primary key, name text, state text);
      select notika.publish('w${number}', 'app.t${number}', operations => '{insert,update}', columns => '{id,name}',
                            watch => '{state}', condition => 'new.name is not null')`);
  }
}

function timed(database: Database, statements: string[], state: "disable" | "enable always") {
  return async () => {
    await database.script(triggers.map((name) => `alter event trigger ${name} ${state}`).join(";"));
    const started = performance.now();
    for (const statement of statements) await database.execute(raw(statement));
    return (performance.now() - started) / statements.length;
  };
}
