import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import type { Bench } from "../bench.ts";
import { added, type Comparison, type Findings, interleave, of } from "../measure.ts";

const workflows = 1000;
const triggers = ["notika_guard_start", "notika_guard_drop", "notika_guard_end"];
const without = "without the guard";

/** Statements that undo each other.  Each counts: one with two actions once, two of one transaction twice. */
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
    "drop a column in use and add it again, in one statement": [
      "alter table app.t500 drop column name, add column name text",
    ],
    "drop a column in use and add it again, in one transaction": [
      "begin; alter table app.t500 drop column name",
      "alter table app.t500 add column name text; commit",
    ],
  },
};

/** What the guard adds to DDL while a thousand workflows are published. */
export async function guard({ durable, seconds, say }: Bench): Promise<Findings> {
  // Two databases: to disable event triggers and enable them again makes a session plan all its statements anew.
  say(`guard: publishing ${workflows} workflows`);
  const url = await durable.createDatabase();
  await publishAll(url);
  const bare = openDatabase({ connect: await durable.createDatabase(url), connections: 1 });
  const guarded = openDatabase({ connect: url, connections: 1 });
  try {
    await bare.script(triggers.map((name) => `alter event trigger ${name} disable`).join(";"));

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
            // There on a table that is not published: one in use would be refused by the pins.
            {
              [without]: timed(
                bare,
                pair.map((statement) => statement.replace("app.t500", "app.free")),
              ),
              "with the guard": timed(guarded, pair),
            },
            seconds / 4,
          ),
          note,
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
    await Promise.all([guarded.close(), bare.close()]);
  }
}

const note =
  `${workflows.toLocaleString("en")} workflows are published, each on a table of its own. Each statement counts: one with two actions ` +
  "once, two of one transaction twice. Without the guard: in a copy of the database whose event triggers are disabled, on a " +
  "table that is not published.";

/** All in one transaction, as a first deployment would. */
async function publishAll(url: string) {
  const database = openDatabase({ connect: url, connections: 1 });
  await database.script(`
    create schema app;
    create table public.plain (id int);
    create table app.free (id bigint primary key, name text, state text);
    do $$
    begin
      for number in 1..${workflows} loop
        execute format('create table app.t%s (id bigint primary key, name text, state text)', number);
        perform notika.publish(format('w%s', number), format('app.t%s', number), operations => '{insert,update}',
                               columns => '{id,name}', watch => '{state}', condition => 'new.name is not null');
      end loop;
    end $$`);
  await database.script("analyze"); // as autovacuum does within a minute
  await database.close();
}

function timed(database: Database, statements: string[]) {
  return async () => {
    const started = performance.now();
    for (const statement of statements) await database.execute(raw(statement));
    return (performance.now() - started) / statements.length;
  };
}
