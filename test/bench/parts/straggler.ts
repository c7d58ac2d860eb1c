import { setTimeout } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import type { Bench } from "../bench.ts";
import { type Findings, of, quantile } from "../measure.ts";

const published = "notika";
const horizon = "everything below xmin";

/** How long events wait that others commit while one transaction, which has written already, stays open. */
export async function straggler({ durable, seconds, say }: Bench): Promise<Findings> {
  const ms = Math.min(3000, seconds * 500);
  say(`dispatch: a transaction that stays open for ${ms} ms`);
  const url = await durable.createDatabase();
  const setup = openDatabase({ connect: url, connections: 1 });
  await setup.script(`
    select notika.publish('change', 'bench.orders', columns => '{id}');
    create table bench.queue (
      id bigint generated always as identity primary key, xid xid8 default pg_current_xact_id()
    );
    create table bench.place (id bigint);
    insert into bench.place values (0)`);
  await setup.close();

  const waits = {
    [published]: await waitsBehind(url, ms, insertOrder, async (database) => {
      const [row] = await database.execute<{ events: number }>(raw("select notika.dispatch(1000) as events"));
      return row?.events ?? 0;
    }),
    [horizon]: await waitsBehind(url, ms, "insert into bench.queue default values", async (database) => {
      const [row] = await database.execute<{ events: number }>(raw(takeBelowHorizon));
      return row?.events ?? 0;
    }),
  };
  const comparison = {
    title: `a transaction that stays open for ${ms} ms: how long the events of others wait meanwhile`,
    unit: "ms",
    base: published,
    samples: waits,
    note: "The usual safe cursor takes what is older than every running transaction; Notika takes what has committed.",
  };
  return {
    comparisons: [comparison],
    goals: [
      {
        claim: "the 99th percentile of what others wait behind an open transaction, to how long that is",
        values: [
          quantile(
            of(comparison, published).toSorted((a, b) => a - b),
            0.99,
          ) / ms,
        ],
        limit: { atMost: 0.05 },
      },
    ],
  };
}

const insertOrder = `insert into bench.orders (customer_id, status, amount, currency, email, address)
                     values (1, 'paid', 1, 'EUR', 'ada@example.com', '{}')`;

const takeBelowHorizon = `
  with taken as (
    select q.id from bench.queue as q, bench.place as p
     where q.id > p.id and q.xid < pg_snapshot_xmin(pg_current_snapshot())
  ), moved as (
    update bench.place set id = (select max(id) from taken) where exists (select from taken)
  )
  select count(*)::int as events from taken`;

async function waitsBehind(
  url: string,
  ms: number,
  insert: string,
  take: (database: Database) => Promise<number>,
): Promise<number[]> {
  const [holder, writer, reader] = [1, 2, 3].map(() => openDatabase({ connect: url, connections: 1 })) as [
    Database,
    Database,
    Database,
  ];
  const committed: number[] = [];
  const arrived: number[] = [];
  let isOver = false;

  async function read() {
    while (!isOver || arrived.length <= committed.length) {
      const events = await take(reader);
      arrived.push(...Array<number>(events).fill(performance.now()));
      await setTimeout(1);
    }
  }

  try {
    await holder.execute(raw("begin"));
    await holder.execute(raw(insert));
    const reading = read();
    const until = performance.now() + ms;
    while (performance.now() < until) {
      await writer.execute(raw(insert));
      committed.push(performance.now());
      await setTimeout(10);
    }
    await holder.execute(raw("commit"));
    isOver = true;
    await reading;
    // Events of one writer come out in the order in which they were committed, and the straggler's own comes last.
    return committed.map((at, event) => Math.max(0, (arrived[event] as number) - at));
  } finally {
    await Promise.all([holder.close(), writer.close(), reader.close()]);
  }
}
