// npm run bench: what the guard adds to DDL with 1,000 published workflows, in milliseconds.
// With the guard and without it in turn (A B A B …), on a server of its own, so that the machine's moods hit both.
import { arch, cpus } from "node:os";
import { parseArgs } from "node:util";
import { raw } from "sql-template-tag";
import { openDatabase } from "../../runner/database.ts";
import { install } from "../../runner/install.ts";
import { startPostgres } from "../support/postgres.ts";

const { values } = parseArgs({
  options: { workflows: { type: "string", default: "1000" }, rounds: { type: "string", default: "40" } },
});
const workflows = Number(values.workflows);
const rounds = Number(values.rounds);
const triggers = ["notika_guard_start", "notika_guard_drop", "notika_guard_end"];

const scenarios: Record<string, [string, string]> = {
  "unrelated: create and drop a table": ["create table public.other (id int)", "drop table public.other"],
  "unrelated: add and drop a column": [
    "alter table public.plain add column more int",
    "alter table public.plain drop column more",
  ],
  "unrelated: create and drop a temporary table": ["create temp table short (id int)", "drop table short"],
  "guarded: add and drop a column that nobody uses": [
    "alter table app.t500 add column more int",
    "alter table app.t500 drop column more",
  ],
  "guarded: rename a column there and back": [
    "alter table app.t500 rename column name to title",
    "alter table app.t500 rename column title to name",
  ],
};

const server = await startPostgres({ major: 18 });
try {
  const database = openDatabase({ connect: server.url, connections: 1 });
  await install(database);
  await database.script(`create schema app; create table public.plain (id int)`);
  process.stderr.write(`publishing ${workflows} workflows …\n`);
  for (let number = 1; number <= workflows; number++) {
    await database.script(`
      create table app.t${number} (id bigint primary key, name text, state text);
      select notika.publish('w${number}', 'app.t${number}', operations => '{insert,update}', columns => '{id,name}',
                            watch => '{state}', condition => 'new.name is not null')`);
  }

  const rows = [];
  for (const [scenario, statements] of Object.entries(scenarios)) {
    const taken: Record<"guarded" | "unguarded", number[]> = { guarded: [], unguarded: [] };
    for (let round = 0; round < rounds; round++) {
      for (const mode of ["guarded", "unguarded"] as const) {
        const state = mode === "guarded" ? "enable always" : "disable";
        await database.script(triggers.map((name) => `alter event trigger ${name} ${state}`).join(";"));
        const started = performance.now();
        for (const statement of statements) await database.execute(raw(statement));
        taken[mode].push((performance.now() - started) / statements.length);
      }
    }
    const added = taken.guarded.map((ms, round) => ms - (taken.unguarded[round] ?? 0));
    rows.push({ scenario, without: spread(taken.unguarded), with: spread(taken.guarded), added: spread(added) });
  }
  const [server_version] = await database.execute<{ version: string }>(
    raw("select current_setting('server_version') as version"),
  );
  await database.close();

  process.stdout.write(
    `PostgreSQL ${server_version?.version}, ${cpus().length} cores ${arch}, ${workflows} workflows, ${rounds} rounds; `,
  );
  process.stdout.write("ms a statement: minimum / median / maximum\n");
  console.table(Object.fromEntries(rows.map(({ scenario, ...row }) => [scenario, row])));
} finally {
  await server.stop();
}

function spread(values: number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  return [0, 0.5, 1].map((part) => sorted[Math.round(part * (sorted.length - 1))]?.toFixed(2)).join(" / ");
}
