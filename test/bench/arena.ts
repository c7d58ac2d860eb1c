import { readFileSync } from "node:fs";
import path from "node:path";
import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { install } from "../../runner/install/install.ts";
import { startPostgres } from "../support/postgres.ts";

/** Where the bench is held. */
export interface Arena {
  /** A new database with the table, Notika and the peers; or a copy of one. */
  createDatabase(template?: string): Promise<string>;
  dropDatabase(url: string): Promise<void>;
  /** The server's version, such as 18. */
  major: number;
  /** What the server is, and its settings that matter. */
  facts(): Promise<Record<string, string>>;
  close(): Promise<void>;
}

export interface ArenaOptions {
  /** A server that runs already. */
  url?: string | undefined;
  /** The programs of the server to start; default: PostgreSQL 18 from npm. */
  bin?: string | undefined;
  /** Whether a commit waits for the disk. */
  durable: boolean;
}

/** The SQL peers, in the order in which they are shown. */
export const peerFiles = [
  "empty",
  "append",
  "hasura",
  "pgmq",
  "pgq",
  "supa_audit",
  "add_job",
  "skip_locked",
  "bare_jobs",
] as const;

export const peerSql = (name: string) => readFileSync(path.join(import.meta.dirname, "peers", `${name}.sql`), "utf8");

// Big enough for the bench to stay in memory and for no checkpoint to fall into one sample and not into the next.
const settings = {
  shared_buffers: "1GB",
  max_wal_size: "16GB",
  checkpoint_timeout: "1h",
  max_connections: "60",
  full_page_writes: "on",
};

const shown = [
  "server_version",
  "fsync",
  "full_page_writes",
  "wal_level",
  "wal_compression",
  "data_checksums",
  "shared_buffers",
  "work_mem",
  "max_wal_size",
  "checkpoint_timeout",
  "autovacuum",
  "jit",
];

export async function openArena({ url, bin, durable }: ArenaOptions): Promise<Arena> {
  const commits = durable ? "on" : "off";
  const server = url
    ? undefined
    : await startPostgres({
        ...(bin ? { bin } : { major: 18 }),
        settings: { ...settings, fsync: commits, synchronous_commit: commits },
      });
  const home = url ?? (server?.url as string);
  const admin = openDatabase({ connect: home, connections: 1 });
  const [version] = await admin.execute<{ major: number }>(
    raw("select current_setting('server_version_num')::int / 10000 as major"),
  );
  const made = new Set<string>();
  let number = 0;

  async function newDatabase(template: string) {
    const name = `notika_bench_${process.pid}_${++number}_${commits}`;
    await admin.execute(raw(`create database ${name} template ${template} strategy file_copy`));
    // A server of others keeps its settings.
    await admin.execute(raw(`alter database ${name} set synchronous_commit = ${commits}`));
    made.add(name);
    const copy = new URL(home);
    copy.pathname = `/${name}`;
    return copy.href;
  }

  async function drop(name: string) {
    await admin.execute(raw(`drop database if exists ${name} with (force)`));
    made.delete(name);
  }

  return {
    major: version?.major ?? 0,
    async createDatabase(template) {
      if (template) return newDatabase(nameIn(template));
      const connect = await newDatabase("template1");
      const database = openDatabase({ connect, connections: 1 });
      await equip(database).finally(database.close);
      return connect;
    },
    dropDatabase: (url) => drop(nameIn(url)),
    async facts() {
      const rows = await admin.execute<{ name: string; setting: string }>(
        raw(`select name, current_setting(name) as setting from pg_settings where name in ('${shown.join("','")}')`),
      );
      // That of the databases of the bench, which may not be the server's.
      return { ...Object.fromEntries(rows.map(({ name, setting }) => [name, setting])), synchronous_commit: commits };
    },
    async close() {
      if (!server) for (const name of made) await drop(name);
      await admin.close();
      await server?.stop();
    },
  };
}

const nameIn = (url: string) => new URL(url).pathname.slice(1);

async function equip(database: Database) {
  await install(database);
  await addPeers(database);
}

/** Puts the tables of the bench and its peers into a database that has Notika. */
export async function addPeers(database: Pick<Database, "script">) {
  await database.script(readFileSync(path.join(import.meta.dirname, "orders.sql"), "utf8"));
  for (const name of peerFiles) await database.script(peerSql(name));
}
