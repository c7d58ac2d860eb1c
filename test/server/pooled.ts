import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { install } from "../../runner/install/install.ts";
import type { Major } from "../support/binaries.ts";
import { type PgBouncer, startPgBouncer } from "../support/pgbouncer.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";
import { type RunnerProcess, spawnRunner } from "../support/runner.ts";

const connections = 3;

/** A server with PgBouncer in transaction mode before it. */
export interface PooledServer {
  server: Postgres;
  pooler: PgBouncer;
  stop(): Promise<void>;
}

export async function startPooledServer(major: Major): Promise<PooledServer> {
  const server = await startPostgres({ major, settings: { synchronous_commit: "on" } }); // it may crash
  const pooler = await startPgBouncer({ server: server.port, connections });
  return {
    server,
    pooler,
    async stop() {
      await pooler.stop();
      await server.stop();
    },
  };
}

/** A database behind the pooler. */
export type Pooled = Awaited<ReturnType<typeof openPooled>>;

export async function openPooled({ server, pooler }: PooledServer) {
  const url = await server.createDatabase();
  const pooledUrl = pooler.through(url);
  /** Past the pooler: what a test looks with. */
  const database = openDatabase({ connect: url });
  const pooled = openDatabase({ connect: pooledUrl, connections: 10 });
  const runners: RunnerProcess[] = [];

  return {
    url,
    pooledUrl,
    database,
    pooled,

    async close() {
      await Promise.all(runners.map((runner) => runner.end("SIGKILL")));
      await Promise.all([pooled.close(), database.close()]);
    },

    makeTables: () =>
      database.script(`
        create table public.work (
          id bigint generated always as identity primary key,
          ms integer not null, kind text not null, at timestamptz not null default clock_timestamp()
        );
        create table public.done (work_id bigint, what text, at timestamptz not null default clock_timestamp())`),

    async publishWork() {
      await install(pooled);
      await this.makeTables();
      await database.script("select notika.publish('work', 'public.work')");
    },

    async run(...options: string[]) {
      const runner = spawnRunner(pooledUrl, path.join(import.meta.dirname, "tasks"), options);
      runners.push(runner);
      await runner.says("running");
      return runner;
    },

    add: (kind: string, count = 1) =>
      database.execute(
        sql`insert into public.work (ms, kind) select 1, ${kind} from generate_series(1, ${count}::int)`,
      ),

    async until(state: string, count: number) {
      for (;;) {
        const [row] = await database.execute<{ runs: number }>(
          sql`select count(*)::int as runs from notika.runs where state = ${state}`,
        );
        if ((row?.runs ?? 0) >= count) return;
        await sleep(20);
      }
    },

    /** Whether writers are asked to notify. */
    async isAsleep(): Promise<boolean> {
      const [row] = await database.execute<{ asleep: boolean }>(
        sql`select pg_sequence_last_value('notika.control_seq') & 1 = 1 as asleep`,
      );
      return row?.asleep === true;
    },

    /** How long the latest work waited, in milliseconds. */
    async latency(): Promise<number> {
      const [row] = await database.execute<{ ms: number }>(sql`
        select extract(epoch from min(d.at) - w.at)::float8 * 1000 as ms
          from public.work as w
          join public.done as d on d.work_id = w.id
         group by w.id
         order by w.id desc
         limit 1`);
      return row?.ms as number;
    },

    leaks: () => leaks(pooled),
  };
}

/** What is left on the pooler's connections to the server, looked at through the pooler itself. */
async function leaks(pooled: Database): Promise<{ pid: number; what: string }[]> {
  const seen = new Map<number, { pid: number; what: string }[]>();
  let meet = () => {};
  const all = new Promise<void>((resolve) => {
    meet = resolve;
  });
  // Each transaction has one server connection to itself, and so all of them together have all there are.
  await Promise.all(
    Array.from({ length: connections }, () =>
      pooled.transaction(async (execute) => {
        const [row] = await execute<{ pid: number }>(sql`select pg_backend_pid() as pid`);
        const found = await execute<{ pid: number; what: string }>(sql`
          select pg_backend_pid() as pid, what
            from (
              select 'listens' as what from pg_listening_channels()
              union all select 'prepared statement' from pg_prepared_statements
              union all select 'advisory lock' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
              union all select 'temporary objects' where pg_my_temp_schema() <> 0
              union all select 'setting ' || name from pg_settings
                where source = 'session'
                  -- What PgBouncer keeps for each client, and begin.
                  and name not in ('application_name', 'client_encoding', 'transaction_isolation',
                                   'idle_in_transaction_session_timeout')
            ) as found`);
        seen.set(row?.pid as number, found);
        if (seen.size === connections) meet();
        await all;
      }),
    ),
  );
  return [...seen.values()].flat();
}
