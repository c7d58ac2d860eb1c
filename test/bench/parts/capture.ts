import { type Database, openDatabase } from "../../../runner/database/database.ts";
import type { Bench } from "../bench.ts";
import { type Captor, captors, remarksOn } from "../captors.ts";
import { added, type Comparison, type Findings, type Goal, interleave, of, ratios } from "../measure.ts";
import { openProcessClock } from "../process_clock.ts";
import { type Operation, openTarget, type Target, type TargetOptions } from "../targets.ts";

const names = Object.fromEntries(Object.entries(captors).map(([key, { name }]) => [key, name])) as Record<
  keyof typeof captors,
  string
>;
const all = Object.values(captors);

/** What capturing adds to a write, measured in the server: no client, no commit. */
export async function capture(bench: Bench): Promise<Findings> {
  const database = openDatabase({ connect: await bench.durable.createDatabase(), connections: 1 });
  try {
    const clock = bench.cpu ? await openProcessClock(database) : undefined;
    const targets = await openTargets(database, all, { clock });
    const single = [];
    for (const operation of ["insert", "update", "delete"] as const) {
      single.push(await compareStatements(bench, `one ${operation}`, targets, operation));
    }
    const bulk = [];
    for (const operation of ["insert", "update"] as const) bulk.push(await compareBulk(bench, targets, operation));
    // No goal depends on these.
    const brief = { ...bench, seconds: bench.seconds / 2 };
    const many = await compareStatements(brief, "one insert, several workflows on the table", {
      [names.none]: targets[names.none] as Target,
      ...(await openSeveral(database, captors.projected, { clock })),
      ...(await openSeveral(database, captors.hasura, { clock })),
    });
    const wide = await compareStatements(
      brief,
      "one insert of a wide row",
      await openTargets(
        database,
        [
          captors.none,
          captors.projected,
          captors.wholeRow,
          captors.hasura,
          captors.hasuraColumns,
          captors.pgmq,
          captors.pgq,
          captors.audit,
        ],
        { model: "wide_orders", clock },
      ),
    );
    return {
      comparisons: [...single, ...bulk, many, wide],
      goals: [...single.flatMap(singleGoals), ...bulk.slice(0, 1).flatMap(bulkGoals)],
    };
  } finally {
    await database.close();
  }
}

async function openTargets(
  database: Database,
  captors: Captor[],
  options: TargetOptions,
): Promise<Record<string, Target>> {
  const targets: Record<string, Target> = {};
  for (const captor of captors) targets[captor.name] = await openTarget(database, captor, options);
  return targets;
}

async function openSeveral(
  database: Database,
  captor: Captor,
  options: TargetOptions,
): Promise<Record<string, Target>> {
  const targets: Record<string, Target> = {};
  for (const attachments of [1, 3, 10]) {
    targets[`${captor.name} × ${attachments}`] = await openTarget(database, captor, { ...options, attachments });
  }
  return targets;
}

// After a truncate the first statement is planned again, which must not count.
const sampleMs = 60;
const inside =
  "Measured in the server, in one transaction: no client, no parsing, no commit. Tables and logs are empty at the start, " +
  "so nobody pays for a log that has grown.";
const micros = (cpu: boolean) => (cpu ? "µs of CPU" : "µs");

async function compareStatements(
  { seconds, cpu, say }: Bench,
  title: string,
  targets: Record<string, Target>,
  operation: Operation = "insert",
): Promise<Comparison> {
  say(`capture: ${title}`);
  const samplers: Record<string, () => Promise<number>> = {};
  for (const [name, target] of Object.entries(targets)) {
    let times = 100;
    samplers[name] = async () => {
      await target.reset(operation === "insert" ? 0 : times);
      const us = await target.statements(operation, times);
      times = Math.min(Math.max(Math.round((sampleMs * 1000) / us), 20), 5000);
      return us;
    };
  }
  return {
    title,
    unit: `${micros(cpu)} a statement`,
    base: names.none,
    samples: await interleave(samplers, seconds),
    note: `${inside} ${remarksOn(Object.keys(targets))}`.trim(),
  };
}

async function compareBulk(
  { seconds, cpu, say }: Bench,
  targets: Record<string, Target>,
  operation: "insert" | "update",
): Promise<Comparison> {
  const title = `${operation} of 10,000 rows`;
  say(`capture: ${title}`);
  const samplers = Object.entries(targets).map(([name, target]): [string, () => Promise<number>] => {
    const rows = name === names.addJob ? 500 : 10_000;
    return [
      name,
      async () => {
        await target.reset(operation === "insert" ? 0 : rows);
        return target.bulk(operation, rows);
      },
    ];
  });
  return {
    title,
    unit: `${micros(cpu)} a row`,
    base: names.none,
    samples: await interleave(Object.fromEntries(samplers), seconds * 1.5),
    note: `${inside} ${names.addJob}: 500 rows, because 10,000 would take seconds. ${remarksOn(Object.keys(targets))}`,
  };
}

function addedBy(comparison: Comparison, name: string): number[] {
  return added(of(comparison, name), of(comparison, names.none));
}

function singleGoals(comparison: Comparison): Goal[] {
  const { title } = comparison;
  const toAdded = (name: string, base: string) => ratios(addedBy(comparison, name), addedBy(comparison, base));
  const atBest = (variant: string, base: string) => ({ variant, values: toAdded(variant, base) });
  return [
    {
      claim: `${title}: what 4 columns add, to what Hasura-style adds`,
      values: toAdded(names.projected, names.hasura),
      limit: { atMost: 1 / 4 },
      atBest: atBest(names.appendEvent, names.hasura),
    },
    {
      claim: `${title}: what 4 columns add, to what add_job in the trigger adds`,
      values: toAdded(names.projected, names.addJob),
      limit: { atMost: 1 / 25 },
      atBest: atBest(names.appendEvent, names.addJob),
    },
    {
      claim: `${title}: what a row that matches nothing adds, to an empty trigger`,
      values: toAdded(names.noMatch, names.empty),
      limit: { atMost: 2 },
      atBest: atBest(names.emptyWhen, names.empty),
    },
  ];
}

function bulkGoals(comparison: Comparison): Goal[] {
  return [
    {
      claim: `${comparison.title}: what 4 columns add to a row, captured by the statement, to what Hasura-style adds`,
      values: ratios(addedBy(comparison, names.each), addedBy(comparison, names.hasura)),
      limit: { atMost: 1 / 8 },
      atBest: {
        variant: names.appendEvents,
        values: ratios(addedBy(comparison, names.appendEvents), addedBy(comparison, names.hasura)),
      },
    },
  ];
}
