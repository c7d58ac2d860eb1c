import { openDatabase } from "../../../runner/database.ts";
import type { Arena } from "../arena.ts";
import type { Bench } from "../bench.ts";
import { captors } from "../captors.ts";
import { type Comparison, type Findings, type Goal, interleave, of, ratios } from "../measure.ts";
import { columns, type Operation, openTarget, row, type Target } from "../targets.ts";

const { none, projected, each, wholeRow, noMatch, hasura, pgmq, addJob } = captors;

/** The transactions a second that pgbench gets done while somebody captures. */
export async function throughput(bench: Bench): Promise<Findings> {
  const comparisons: Comparison[] = [];
  const goals: Goal[] = [];
  for (const mode of ["synchronous", "asynchronous"] as const) {
    const arena = bench[mode === "synchronous" ? "durable" : "fast"];
    const found = await inArena(bench, arena, mode);
    comparisons.push(...found);
    goals.push(...found.flatMap((comparison) => goalsOf(comparison, mode, arena.major)));
  }
  return { comparisons, goals };
}

async function inArena(bench: Bench, arena: Arena, mode: string): Promise<Comparison[]> {
  const url = await arena.createDatabase();
  const database = openDatabase({ connect: url, connections: 1 });
  try {
    await database.script("create sequence bench.deleted");
    const targets: Record<string, Target> = {};
    for (const captor of [none, projected, each, wholeRow, noMatch, hasura, pgmq, addJob]) {
      targets[captor.name] = await openTarget(database, captor);
    }

    const comparisons: Comparison[] = [];
    for (const clients of [1, 4]) {
      for (const operation of ["insert", "update", "delete"] as const) {
        const title = `${operation}, ${clients} ${clients === 1 ? "client" : "clients"}, ${mode} commit`;
        bench.say(`capture: ${title}`);
        const samplers = Object.entries(targets).map(([name, target]): [string, () => Promise<number>] => {
          let times = 100;
          return [
            name,
            async () => {
              await target.reset({ insert: 0, update: updated, delete: times * clients }[operation]);
              await database.script("alter sequence bench.deleted restart");
              const tps = await bench.pgbench(url, script(operation, target.table), clients, times);
              times = Math.ceil((tps * sampleSeconds) / clients);
              return tps;
            },
          ];
        });
        const samples = await interleave(Object.fromEntries(samplers), bench.seconds);
        comparisons.push({ title, unit: "transactions a second", base: none.name, samples });
      }
    }
    return comparisons;
  } finally {
    await database.close();
  }
}

const sampleSeconds = 0.5;
const updated = 10_000;

function script(operation: Operation, table: string): string {
  return {
    insert: `insert into ${table} ${columns.replace("id, ", "")} values (${row("1").replace("1, ", "")});`,
    update: `\\set n random(1, ${updated})\nupdate ${table} set status = 'paid', amount = amount + 1 where id = :n;`,
    delete: `delete from ${table} where id = (select nextval('bench.deleted'));`,
  }[operation];
}

function goalsOf(comparison: Comparison, mode: "synchronous" | "asynchronous", major: number): Goal[] {
  const { title } = comparison;
  if (!title.includes("4 clients") || title.startsWith("delete")) return [];
  // Without capture 18 is so much faster than 15 that the same cost is a greater part.
  const asynchronous = major >= 18 ? { kept: 0.7, toHasura: 2 } : { kept: 0.78, toHasura: 1.7 };
  const kept = (name: string) => ratios(of(comparison, name), of(comparison, none.name));
  const goals: Goal[] = [
    {
      claim: `${title}: TPS with 4 columns, to without capture`,
      values: kept(projected.name),
      limit: { atLeast: mode === "synchronous" ? 0.95 : asynchronous.kept },
    },
    {
      claim: `${title}: TPS where nothing matches, to without capture`,
      values: kept(noMatch.name),
      limit: { atLeast: 0.95 },
    },
  ];
  if (mode === "asynchronous") {
    goals.push({
      claim: `${title}: TPS with 4 columns, to Hasura-style`,
      values: ratios(of(comparison, projected.name), of(comparison, hasura.name)),
      limit: { atLeast: asynchronous.toHasura },
    });
  }
  return goals;
}
