import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import type { Arena } from "../arena.ts";
import type { Bench } from "../bench.ts";
import { type Captor, captors, remarksOn } from "../captors.ts";
import { type Comparison, type Findings, type Goal, interleave, means, of, ratios } from "../measure.ts";
import type { Pace } from "../pgbench.ts";
import { columns, type Operation, openTarget, row, type Target } from "../targets.ts";

const { none, emptyWhen, appendRow, appendEvent, projected, each, wholeRow, noMatch } = captors;
const { hasura, hasuraColumns, pgmq, pgq, audit, addJob } = captors;

/** A server, and how its transactions commit. */
interface Mode {
  name: string;
  arena: Arena;
  /** Settings of the database. */
  settings?: Record<string, number>;
  /** What one has to know of it. */
  note?: string;
  /** What has to be left of the TPS with 4 columns, and how many times those of Hasura-style that has to be. */
  goal: { kept: number; toHasura?: number };
  /** Whom a goal needs with 4 clients. */
  entrants: Captor[];
  /** How long their race takes, in times of a comparison. */
  length: number;
  /** Races of few rounds, which no goal depends on. */
  besides: Race[];
}

/** Who is compared, at what. */
interface Race {
  operation: Operation;
  clients: number;
  entrants: Captor[];
  name?: string;
}

const needed = [none, emptyWhen, appendEvent, projected, noMatch];
const others = [none, each, wholeRow, hasuraColumns, pgmq, pgq, audit, addJob];
const most = [none, projected, wholeRow, noMatch, hasura, addJob];
const wide = (others: Captor[]): Race[] => [
  { operation: "insert", clients: 4, entrants: others, name: "the others" },
  { operation: "update", clients: 4, entrants: others, name: "the others" },
  { operation: "delete", clients: 4, entrants: most },
  { operation: "insert", clients: 1, entrants: most },
  { operation: "update", clients: 1, entrants: most },
  { operation: "delete", clients: 1, entrants: most },
];

/** The transactions a second that pgbench gets done while somebody captures. */
export async function throughput(bench: Bench): Promise<Findings> {
  const found: Findings = { comparisons: [], goals: [] };
  for (const mode of modesOf(bench)) {
    const { comparisons, goals } = await inMode(bench, mode);
    found.comparisons.push(...comparisons);
    found.goals.push(...goals);
  }
  return found;
}

function modesOf({ durable, fast, older }: Bench): Mode[] {
  const modes: Mode[] = [
    {
      name: "synchronous commit",
      arena: durable,
      goal: { kept: 0.95 },
      entrants: needed,
      length: 2,
      besides: wide([...others, hasura]),
    },
    {
      name: "synchronous commit, a disk of 1 ms",
      arena: durable,
      settings: { commit_delay: 1000, commit_siblings: 0 },
      note: "There is no such disk: commit_delay makes the server wait for 1 ms before it writes to the one it has.",
      goal: { kept: 0.95 },
      entrants: needed,
      length: 1,
      besides: [{ operation: "insert", clients: 1, entrants: [none, appendEvent, projected, noMatch, hasura] }],
    },
    {
      name: "asynchronous commit",
      arena: fast,
      goal: asynchronousGoal(fast),
      entrants: [...needed, appendRow, hasura],
      length: 3.5,
      besides: wide(others),
    },
  ];
  if (older) {
    const name = `asynchronous commit, PostgreSQL ${older.major}`;
    const goal = asynchronousGoal(older);
    modes.push({ name, arena: older, goal, entrants: [...needed, hasura], length: 2.5, besides: [] });
  }
  return modes;
}

// Without capture 18 is so much faster than 15 that the same cost is a greater part.
function asynchronousGoal({ major }: Arena): Mode["goal"] {
  return major >= 18 ? { kept: 0.7, toHasura: 2 } : { kept: 0.78, toHasura: 1.7 };
}

async function inMode(bench: Bench, mode: Mode): Promise<Findings> {
  const { arena, name, settings = {}, note = "", goal, entrants, length, besides } = mode;
  const found: Findings = { comparisons: [], goals: [] };
  const url = await arena.createDatabase();
  const database = openDatabase({ connect: url, connections: 1 });
  try {
    const obstacle = await obstacleTo(database, settings);
    if (obstacle) {
      bench.leaveOut(`throughput, ${name}: ${obstacle}`);
      return found;
    }
    await database.script("create sequence bench.deleted");
    const targets = new Map<Captor, Target>();
    for (const captor of Object.values(captors)) targets.set(captor, await openTarget(database, captor));

    const hold = async (race: Race, sampleSeconds: number, seconds: number) => {
      const clients = `${race.clients} ${race.clients === 1 ? "client" : "clients"}`;
      const title = [`${race.operation}, ${clients}, ${name}`, race.name ?? []].flat().join(", ");
      bench.say(`throughput: ${title}`);
      const samplers = race.entrants.map((captor): [string, () => Promise<Pace>] => {
        const target = targets.get(captor) as Target;
        let times = 100;
        return [
          captor.name,
          async () => {
            const rows = { insert: 0, update: updated, delete: times * race.clients }[race.operation];
            await target.reset(rows);
            await database.script("alter sequence bench.deleted restart");
            const pace = await bench.pgbench(url, script(race.operation, target.table), race.clients, times);
            times = Math.ceil((pace.tps * sampleSeconds) / race.clients);
            return pace;
          },
        ];
      });
      return { title, paces: await interleave(Object.fromEntries(samplers), seconds) };
    };

    for (const operation of ["insert", "update"] as const) {
      const { title, paces } = await hold({ operation, clients: 4, entrants }, 0.3, bench.seconds * length);
      const comparison = compared(title, paces, "tps");
      found.comparisons.push({ ...comparison, note: `${note} ${luck} ${remarksOn(Object.keys(paces))}`.trim() });
      const work = compared(title, paces, "cpu");
      if (of(work, none.name).every(Number.isFinite)) found.comparisons.push(work);
      found.goals.push(...goalsOf(comparison, goal));
    }
    for (const race of besides) {
      const { title, paces } = await hold(race, 0.2, bench.seconds / 5);
      found.comparisons.push({
        ...compared(title, paces, "tps"),
        note: `${note} Few rounds. ${remarksOn(Object.keys(paces))}`.trim(),
      });
    }
    return found;
  } finally {
    await database.close();
  }
}

/** Gives new connections to the database these settings; says why they would do nothing, when they would not. */
async function obstacleTo(database: Database, settings: Record<string, number>): Promise<string | undefined> {
  const pairs = Object.entries(settings);
  if (pairs.length === 0) return undefined;
  const [row] = await database.execute<{ fsync: string }>(raw("select current_setting('fsync') as fsync"));
  if (row?.fsync !== "on") return "fsync is off";
  const set = pairs.map(([name, value]) => `alter database %1$I set ${name} = ${value}`).join(";");
  try {
    await database.script(`do $do$ begin execute format($$${set}$$, current_database()); end $do$`);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const updated = 10_000;

function script(operation: Operation, table: string): string {
  return {
    insert: `insert into ${table} ${columns.replace("id, ", "")} values (${row("1").replace("1, ", "")});`,
    update: `\\set n random(1, ${updated})\nupdate ${table} set status = 'paid', amount = amount + 1 where id = :n;`,
    delete: `delete from ${table} where id = (select nextval('bench.deleted'));`,
  }[operation];
}

const luck =
  "Each sample is a run of pgbench (prepared statements, two threads) with connections of its own. Where the system puts " +
  "these decides whether it gets up to twice as many transactions done, so the goals compare the means of five rounds at a time.";

function compared(title: string, paces: Record<string, Pace[]>, measure: keyof Pace): Comparison {
  return {
    title: measure === "tps" ? title : `${title}: work of the machine`,
    unit:
      measure === "tps"
        ? "transactions a second"
        : "µs of CPU a transaction, of server and pgbench, connecting included",
    base: none.name,
    samples: Object.fromEntries(
      Object.entries(paces).map(([name, those]) => [name, those.map((pace) => pace[measure])]),
    ),
  };
}

function goalsOf(comparison: Comparison, { kept, toHasura }: Mode["goal"]): Goal[] {
  const { title } = comparison;
  const left = (captor: Captor, base: Captor) =>
    ratios(means(of(comparison, captor.name), 5), means(of(comparison, base.name), 5));
  const atBest = (captor: Captor, base: Captor) => ({ variant: captor.name, values: left(captor, base) });
  const goals: Goal[] = [
    {
      claim: `${title}: TPS with 4 columns, to without capture`,
      values: left(projected, none),
      limit: { atLeast: kept },
      atBest: atBest(appendEvent, none),
    },
    {
      claim: `${title}: TPS where nothing matches, to without capture`,
      values: left(noMatch, none),
      limit: { atLeast: 0.95 },
      atBest: atBest(emptyWhen, none),
    },
  ];
  if (toHasura !== undefined) {
    goals.push({
      claim: `${title}: TPS with 4 columns, to Hasura-style`,
      values: left(projected, hasura),
      limit: { atLeast: toHasura },
      atBest: atBest(appendEvent, hasura),
    });
  }
  return goals;
}
