import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import { atOnce } from "../../../runner/database/statements.ts";
import type { Bench } from "../bench.ts";
import { holdSnapshot } from "../held_snapshot.ts";
import { type Comparison, type Findings, type Goal, of, ratios } from "../measure.ts";
import { straggler } from "./straggler.ts";

/** A way to take events out of a backlog, to a client or into jobs. */
export interface Way {
  name: string;
  /** SQL that makes a backlog. */
  fill: (events: number) => string;
  /** Takes a batch, in a transaction of its own, and says how many events it had. */
  take: (database: Database, batch: number) => Promise<number>;
  /** The tables that the events lie in. */
  tables: string[];
}

const rows = async (database: Database, statement: string) => (await database.execute(raw(statement))).length;

/** As the runner does it, or waiting for the disk. */
async function makeJobs(database: Database, call: string, waits = false): Promise<number> {
  const [row] = await database.execute<{ events: number }>(
    atOnce(`set local synchronous_commit = ${waits ? "on" : "off"}; select ${call} as events`),
  );
  return row?.events ?? 0;
}

const notika = "notika, into jobs";
const hasura = "Hasura-style claim";
const bareJobs = "constant jobs, no events";

export const ways: Way[] = [
  {
    name: notika,
    fill: (events) => `
      select notika.publish('change', 'bench.orders', columns => '{id,customer_id,status,amount}');
      do $$ begin
        for v_from in 1..${events} by 1000 loop
          insert into bench.orders (customer_id, status, amount, currency, email, address)
          select n, 'paid', 12.50, 'EUR', 'ada@example.com', '{}' from generate_series(v_from, v_from + 999) as n;
          commit;
        end loop;
      end $$`,
    take: (database, batch) => makeJobs(database, `notika.dispatch(${batch})`),
    tables: [0, 1, 2].map((segment) => `notika.event_log_${segment}`),
  },
  {
    name: bareJobs,
    fill: () => "",
    take: (database, batch) => makeJobs(database, `bare_jobs.make(${batch})`),
    tables: ["bare_jobs.job"],
  },
  {
    name: hasura,
    fill: (events) => `select hasura.fill(${events})`,
    take: (database, batch) => rows(database, `select * from hasura.take(${batch})`),
    tables: ["hasura.event_log"],
  },
  {
    name: "delete … skip locked",
    fill: (events) => `select skip_locked.fill(${events})`,
    take: (database, batch) => rows(database, `select * from skip_locked.take(${batch})`),
    tables: ["skip_locked.job"],
  },
  {
    name: "pgmq-style read, delete",
    fill: (events) => `select pgmq.fill(${events})`,
    async take(database, batch) {
      const read = await database.execute<{ msg_id: string }>(raw(`select * from pgmq.read('orders', 30, ${batch})`));
      await database.execute(raw(`select pgmq.delete('orders', '{${read.map(({ msg_id }) => msg_id)}}')`));
      return read.length;
    },
    tables: ["pgmq.q_orders"],
  },
  {
    name: "PgQ-style snapshot cursor",
    fill: (events) => `call pgq.fill(${events})`,
    take: (database, batch) => rows(database, `select * from pgq.take(${batch / 100})`),
    tables: ["pgq.event_1_0"],
  },
];

/** Who minds a snapshot. */
const takers = ways.filter(({ name }) => name !== bareJobs);

/** How fast a backlog is handed over, and what becomes of that while somebody holds a snapshot. */
export async function dispatch(bench: Bench): Promise<Findings> {
  const events = Math.min(1_000_000, Math.ceil(bench.seconds * 70) * 1000);
  bench.say(`dispatch: a backlog of ${events.toLocaleString("en")} events for each`);
  const backlog = await bench.durable.createDatabase();
  const database = openDatabase({ connect: backlog, connections: 1 });
  for (const way of ways) await fill(database, way, events);
  await database.close();

  const found: Findings = { comparisons: [], goals: [] };
  for (const batch of [100, 1000, 5000]) {
    bench.say(`dispatch: batches of ${batch}`);
    // In one database nobody disturbs; in the other a snapshot is held from the first batch to the last.
    const seconds = batch === 1000 ? bench.seconds : bench.seconds / 5;
    const drained = await drain(bench, backlog, batch, seconds);
    found.comparisons.push(...drained.comparisons);
    found.goals.push(...drained.goals);
  }
  for (const part of [await burst(bench), await straggler(bench)]) {
    found.comparisons.push(...part.comparisons);
    found.goals.push(...part.goals);
  }
  return found;
}

/** Makes a backlog; what commits on its way must be sent alone. */
export async function fill(database: Pick<Database, "script">, way: Way, events: number) {
  for (const statement of way.fill(events).split(/;\n(?= *do)/)) await database.script(statement);
}

interface Lane {
  way: Way;
  database: Database;
  rates: number[];
  isEmpty: boolean;
}

const held = (name: string) => `${name}, snapshot held`;

async function drain(bench: Bench, backlog: string, batch: number, seconds: number): Promise<Findings> {
  const freeUrl = await bench.durable.createDatabase(backlog);
  const free = openDatabase({ connect: freeUrl, connections: 1 });
  const heldUrl = await bench.durable.createDatabase(backlog);
  const pinned = openDatabase({ connect: heldUrl, connections: 1 });
  const holder = openDatabase({ connect: heldUrl, connections: 1 });
  try {
    const snapshot = await holdSnapshot(holder);
    const lanes = ways.flatMap((way): Lane[] =>
      (takers.includes(way) ? [free, pinned] : [free]).map((database) => ({
        way,
        database,
        rates: [],
        isEmpty: false,
      })),
    );
    // Slices of a second, or a tenth of the time; who is through with its backlog has no more.
    const slice = Math.min(1000, seconds * 100);
    for (let round = 0; round < (seconds * 1000) / slice; round++) {
      for (const lane of round % 2 ? lanes.toReversed() : lanes) await takeFor(lane, batch, slice);
    }

    const dead = await deadTuples(pinned);
    await snapshot.release();

    const title = `hand-over in batches of ${batch.toLocaleString("en")}`;
    const comparison: Comparison = {
      title,
      unit: "events a second",
      base: hasura,
      samples: Object.fromEntries(
        lanes.map(({ way, database, rates }) => [database === free ? way.name : held(way.name), rates]),
      ),
      note:
        "The peers hand the events to a client, Notika makes graphile-worker's jobs of them and, as in its runner, does " +
        "not wait for the disk: a crash takes back the jobs and the cursor together. What waiting costs is below, with the " +
        "burst. " +
        `${bareJobs}: nobody who makes a job of each event can be faster. ` +
        `Dead tuples among the events when the snapshot had been held to the end: ${told(dead)}.`,
    };
    const kept: Comparison = {
      title: `${title}, what a held snapshot leaves of the rate`,
      unit: "of the rate without it, second by second",
      samples: Object.fromEntries(
        takers.map(({ name }) => [name, ratios(of(comparison, held(name)), of(comparison, name))]),
      ),
    };
    return { comparisons: [comparison, kept], goals: batch === 1000 ? goalsOf(comparison, kept, dead) : [] };
  } finally {
    await holder.close();
    await Promise.all([free.close(), pinned.close()]);
    for (const url of [freeUrl, heldUrl]) await bench.durable.dropDatabase(url);
  }
}

async function takeFor(lane: Lane, batch: number, ms: number) {
  if (lane.isEmpty) return;
  const started = performance.now();
  let events = 0;
  while (performance.now() - started < ms) {
    const taken = await lane.way.take(lane.database, batch);
    events += taken;
    lane.isEmpty = taken < batch;
    if (lane.isEmpty) break;
  }
  const passed = performance.now() - started;
  // The end of a backlog that comes at once says nothing about the rate.
  if (passed >= ms / 2) lane.rates.push((events * 1000) / passed);
}

/** How many rows the tables of each hold that nobody can see, besides who holds a snapshot. */
async function deadTuples(database: Database): Promise<Record<string, number>> {
  await database.execute(raw("select pg_stat_force_next_flush()"));
  const counts: Record<string, number> = {};
  for (const { name, tables } of takers) {
    const [row] = await database.execute<{ dead: string }>(
      raw(`select sum(pg_stat_get_dead_tuples(t::regclass))::text as dead from unnest('{${tables}}'::text[]) as t`),
    );
    counts[name] = Number(row?.dead);
  }
  return counts;
}

const told = (counts: Record<string, number>) =>
  Object.entries(counts)
    .map(([name, count]) => `${name} ${count.toLocaleString("en")}`)
    .join(", ");

function goalsOf(comparison: Comparison, kept: Comparison, dead: Record<string, number>): Goal[] {
  return [
    {
      claim: "hand-over, events a second",
      values: of(comparison, notika),
      limit: { atLeast: 45_000 },
      atBest: { variant: bareJobs, values: of(comparison, bareJobs) },
    },
    {
      claim: "hand-over into jobs, to a Hasura-style claim",
      values: ratios(of(comparison, notika), of(comparison, hasura)),
      limit: { atLeast: 1.8 },
      atBest: { variant: bareJobs, values: ratios(of(comparison, bareJobs), of(comparison, hasura)) },
    },
    { claim: "hand-over with a held snapshot, to without", values: of(kept, notika), limit: { atLeast: 0.95 } },
    {
      claim: "dead tuples in the log after hand-over with a held snapshot",
      values: [dead[notika] ?? Number.NaN],
      limit: { atMost: 0 },
    },
  ];
}

/** Many events of one transaction: they become visible at once. */
async function burst({ durable, seconds, say }: Bench): Promise<Findings> {
  const events = Math.ceil(seconds * 10) * 1000;
  say(`dispatch: a burst of ${events.toLocaleString("en")} events in one transaction`);
  const database = openDatabase({ connect: await durable.createDatabase(), connections: 1 });
  try {
    await database.script(`
      select notika.publish('change', 'bench.orders', columns => '{id,customer_id,status,amount}');
      insert into bench.orders (customer_id, status, amount, currency, email, address)
      select n, 'paid', 12.50, 'EUR', 'ada@example.com', '{}' from generate_series(1, ${events}) as n`);
    const waiting = `${notika}, waiting for the disk`;
    const calls: Record<string, number[]> = { [notika]: [], [waiting]: [] };
    for (let batch = 0; batch < events / 1000; batch++) {
      const name = batch % 2 ? waiting : notika;
      const started = performance.now();
      await makeJobs(database, "notika.dispatch(1000)", name === waiting);
      calls[name]?.push(performance.now() - started);
    }
    return {
      comparisons: [
        {
          title: `a burst of ${events.toLocaleString("en")} events in one transaction, batch by batch`,
          unit: "ms a batch of 1,000",
          base: notika,
          samples: calls,
          note: "Every other batch waits until the disk has it, as those of the peers above do.",
        },
      ],
      goals: [],
    };
  } finally {
    await database.close();
  }
}
