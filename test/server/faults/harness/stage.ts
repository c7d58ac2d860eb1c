import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql, { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../../runner/database/database.ts";
import { install } from "../../../../runner/install/install.ts";
import { type PgBouncer, startPgBouncer } from "../../../support/pgbouncer.ts";
import type { Postgres } from "../../../support/postgres.ts";
import { openRelay, type Relay } from "../../../support/relay.ts";
import { type RunnerProcess, spawnRunner } from "../../../support/runner.ts";
import type { Fault } from "./fault.ts";
import { type Journal, openJournal } from "./journal.ts";
import type { Account } from "./proof.ts";
import { startWriters, type Writers } from "./writers.ts";

/** Where a fault happens: a database that is written to, and runners. */
export interface Stage {
  server: Postgres;
  /** The database, without anything in between. */
  url: string;
  /** What runners are given. */
  runnerUrl: string;
  /** What the test looks with. */
  database: Database;
  pooler: PgBouncer;
  relay: Relay;
  /** Those that have not been ended. */
  runners: RunnerProcess[];
  startRunner(options?: RunnerOptions): Promise<RunnerProcess>;
  /** Ends a runner by a signal. */
  end(runner: RunnerProcess, signal: NodeJS.Signals): Promise<number | null>;
  writers: Writers;
  journal: Journal;
  /** The same numbers for the same seed. */
  random: () => number;
  /** Whether this is the short form, which does not wait for what takes minutes. */
  isShort: boolean;
  /** Resolves when the server takes writes. */
  primary(): Promise<void>;
  /** Notes something that must not be. */
  object(objection: string): void;
}

export interface RunnerOptions {
  /** The folder of its tasks. */
  tasks?: string;
  env?: Record<string, string>;
}

export interface OpenStage extends Stage {
  objections: string[];
  startWriters(): void;
  /** All that was committed and done by now; undefined: the database does not answer. */
  account(): Promise<Account | undefined>;
  /** Lets the time pass that others wait before they take over from the dead, or try again. */
  hurry(): Promise<void>;
  close(): Promise<void>;
}

export interface StageOptions {
  server: Postgres;
  fault: Fault;
  seed: number;
  random: () => number;
  isShort: boolean;
}

export const tasks = path.join(import.meta.dirname, "../tasks");
const sessions = 4;

export async function openStage({ server, fault, seed, random, isShort }: StageOptions): Promise<OpenStage> {
  const folder = mkdtempSync(path.join(tmpdir(), "notika-faults-"));
  const name = `fault_${++number}`;
  const url = await server.createDatabase(name);
  const pooler = fault.way === "pooler" ? await startPgBouncer({ server: server.port, connections: 5 }) : undefined;
  const relay = fault.way === "relay" ? await openRelay(server.port) : undefined;
  const runnerUrl = (pooler ?? relay)?.through(url) ?? url;
  const database = openDatabase({ connect: url, connections: 2 });
  const journal = openJournal(path.join(folder, "journal"));
  const runners: RunnerProcess[] = [];
  let writers: Writers | undefined;

  const stage: OpenStage = {
    server,
    url,
    runnerUrl,
    database,
    runners,
    journal,
    random,
    isShort,
    objections: [],
    get pooler() {
      return given(pooler, "pooler");
    },
    get relay() {
      return given(relay, "relay");
    },
    get writers() {
      return given(writers, "writers");
    },
    async startRunner(options) {
      const { tasks: folder = tasks, env } = { ...fault.runner?.(stage), ...options };
      const runner = spawnRunner(runnerUrl, folder, [], { NOTIKA_JOURNAL: journal.file, ...env });
      runners.push(runner);
      await runner.says("running");
      return runner;
    },
    async end(runner, signal) {
      runners.splice(runners.indexOf(runner), 1);
      return runner.end(signal);
    },
    async primary() {
      for (;;) {
        const [row] = await database
          .execute<{ recovers: boolean }>(sql`select pg_is_in_recovery() as recovers`)
          .catch(() => []);
        if (row?.recovers === false) return;
        await sleep(50);
      }
    },
    object: (objection) => void stage.objections.push(objection),
    startWriters() {
      const urls = Array.from({ length: sessions }, (_, index) => (index % 2 ? runnerUrl : url));
      writers = startWriters({ urls, rate: isShort ? 20 : (fault.rate ?? 30), undone: fault.undone ?? 0.1, seed });
    },
    async account() {
      try {
        const committed = await database.execute<{ change: string; at: number }>(
          sql`select change, (extract(epoch from at) * 1000)::float8 as at from public.ledger`,
        );
        const noted = await database.execute<{ change: string; times: number }>(
          sql`select change, count(*)::int as times from public.noted group by change`,
        );
        const { acknowledged, refused } = stage.writers;
        return {
          committed: new Map(committed.map(({ change, at }) => [change, at])),
          acknowledged,
          refused,
          ran: journal.read(),
          noted: new Map(noted.map(({ change, times }) => [change, times])),
        };
      } catch {
        return undefined;
      }
    },
    async hurry() {
      const alive = JSON.stringify(runners.map(({ child }) => child.pid));
      await database
        .execute(sql`
          with dead as (
            update notika.runner as r
               set seen_at = r.seen_at - interval '1 minute', suspected_at = r.seen_at - interval '30 seconds'
             where r.pid <> all (array(select json_array_elements_text(${alive}::text::json)::int))
            returning r.runner_id
          ), waiting as (
            update notika_worker._private_jobs as j set run_at = clock_timestamp()
             where j.attempts > 0 and j.locked_at is null and j.run_at < 'infinity'
          )
          update notika_worker._private_jobs as j set locked_at = j.locked_at - interval '1 minute'
           where j.locked_by in (select d.runner_id from dead as d)`)
        .catch(() => {});
    },
    async close() {
      await writers?.stop();
      await Promise.all(runners.map((runner) => runner.end("SIGKILL")));
      await database.close();
      await pooler?.stop();
      relay?.close();
      // A server that crashes goes through all files when it starts.
      const admin = openDatabase({ connect: server.url, connections: 1 });
      await admin
        .execute(raw(`drop database ${name} with (force)`))
        .catch(() => {}) // it may be down, because a fault has failed
        .finally(admin.close);
      rmSync(folder, { recursive: true, force: true });
    },
  };
  return stage;
}

let number = 0;

/** Notika as it is now, and the tables that the proof needs. */
export async function installStage(stage: Stage): Promise<void> {
  await install(stage.database);
  await prepareTables(stage);
}

export async function prepareTables({ database }: Stage): Promise<void> {
  await database.script(readFileSync(path.join(import.meta.dirname, "schema.sql"), "utf8"));
}

function given<Thing>(thing: Thing | undefined, name: string): Thing {
  if (thing === undefined) throw new Error(`this stage has no ${name}`);
  return thing;
}
