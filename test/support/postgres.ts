import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chownSync, existsSync, mkdtempSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { openDatabase } from "../../runner/database/database.ts";
import { findBinaries, type Major, serverUser, systemFolder } from "./binaries.ts";
import { copyCluster } from "./clusters.ts";

export interface Postgres {
  url: string;
  port: number;
  /** The folder with its data, which belongs to another user. */
  data: string;
  /** Creates a database, as a copy of `template` when there is one, and gives its address. */
  createDatabase(name?: string, template?: string): Promise<string>;
  /** Ends the server and removes its data. */
  stop(): Promise<void>;
  /** Sends the server a signal and waits until it has ended; SIGKILL is a crash. */
  kill(signal: NodeJS.Signals): Promise<void>;
  /** Starts the server again, on the same port with the same data; ends it first if it runs. */
  restart(): Promise<void>;
}

type PostgresOptions = ({ major: Major } | { /** The folder with its programs. */ bin: string }) & {
  /** What postgresql.conf would say. */
  settings?: Record<string, string>;
  /** Fills the data folder, which exists and is empty; default: a new cluster. */
  fill?(data: string): unknown;
  /** Whether no other server of the tests may have its system identifier. */
  isUnique?: boolean;
  /** What else the server finds in its environment. */
  env?: Record<string, string>;
};

/** Starts a real server, with a data folder of its own, on a free port of this machine.  It does not outlive this process. */
export async function startPostgres({ settings, fill, isUnique, env, ...source }: PostgresOptions): Promise<Postgres> {
  const bin = "bin" in source ? source.bin : await findBinaries(source.major);
  const data = mkdtempSync(path.join(dataFolder(), "notika-postgres-"));
  const undertaker = hireUndertaker(data);
  if (fill) await fill(data);
  else if (isUnique) initialise(bin, data);
  else await copyCluster(bin.replaceAll("/", "_"), data, (folder) => initialise(bin, folder));
  const port = await freePort();
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`;
  const start = async () => {
    const server = await startServer({ bin, data, port, settings: { ...defaults, ...settings }, env });
    undertaker.stdin.write(`${server.pid}\n`);
    server.once("exit", () => undertaker.stdin.write("\n"));
    return server;
  };

  let server = await start();
  let databases = 0;
  const kill = async (signal: NodeJS.Signals) => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    server.kill(signal);
    await once(server, "exit");
  };
  return {
    url,
    port,
    data,
    async createDatabase(name = `test_${++databases}`, template = "template1") {
      const postgres = openDatabase({ connect: url, connections: 1 });
      await postgres
        .execute(raw(`create database "${name}" template "${template}" strategy file_copy`))
        .finally(postgres.close);
      return url.replace(/postgres$/, name);
    },
    async stop() {
      await kill("SIGINT"); // fast: open sessions are ended
      undertaker.ref();
      undertaker.stdin.end();
      await once(undertaker, "exit");
    },
    kill,
    async restart() {
      await kill("SIGINT");
      server = await start();
    },
  };
}

/** Where tests keep data: vitest.config.ts names a folder in memory; what measures keeps it on the disk. */
export const dataFolder = () => process.env.NOTIKA_TEST_DATA || tmpdir();

/** Where `name` is installed on this machine, if it is. */
export function findProgram(name: "openssl" | "pgbench" | "pgbouncer" | "psql" | "pg_dump"): string | undefined {
  const folders = [...(process.env.PATH ?? "").split(path.delimiter), systemFolder() ?? "", "/usr/sbin"];
  return folders.map((folder) => path.join(folder, name)).find((file) => existsSync(file));
}

const defaults = {
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  // A test's data need not outlive the machine.
  fsync: "off",
  synchronous_commit: "off",
  full_page_writes: "off",
  // What is dropped is looked for in all of it.
  shared_buffers: "32MB",
};

/** Makes a new cluster in an empty folder. */
export function initialise(bin: string, data: string) {
  const user = serverUser();
  if (user.uid !== undefined && user.gid !== undefined) chownSync(data, user.uid, user.gid);

  const options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
  const { status, stderr, error } = spawnSync(path.join(bin, "initdb"), ["-D", data, ...options], {
    ...user,
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`initdb failed: ${stderr}`, { cause: error });
}

interface ServerOptions {
  bin: string;
  data: string;
  port: number;
  settings: Record<string, string>;
  env: Record<string, string> | undefined;
}

async function startServer(options: ServerOptions) {
  const { bin, data, port, settings, env } = options;
  const flags = Object.entries({ ...settings, port }).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  // Detached, so that Ctrl-C reaches the tests first.
  const server = spawn(path.join(bin, "postgres"), ["-D", data, ...flags], {
    ...serverUser(),
    env: { ...process.env, ...env },
    detached: true,
    stdio: ["ignore", "ignore", "pipe"],
  });

  let said = "";
  for await (const chunk of server.stderr.iterator({ destroyOnReturn: false })) {
    said += chunk;
    if (!/ready to accept (read-only )?connections/.test(said)) continue;
    server.stderr.on("data", () => {}); // resume() alone does not drain it after the iterator
    return server;
  }
  if (!said.includes("pre-existing shared memory")) throw new Error(`PostgreSQL did not start: ${said}`);
  await sleep(100); // sessions of a server that was killed notice it one by one
  return startServer(options);
}

/**
 * A process that outlives this one, however this one ends: its input closes, and it ends the server and removes the data.
 * Each line tells it which process is the server, an empty one that there is none.
 */
export function hireUndertaker(data: string) {
  const script = `
    while read -r line; do server=$line; done
    if [ -n "$server" ] && kill -QUIT "$server"; then
      for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$server" && sleep 0.2; done
    fi
    rm -rf "$1"`;
  const undertaker = spawn("sh", ["-c", script, "sh", data], { detached: true, stdio: ["pipe", "ignore", "ignore"] });
  undertaker.unref();
  return undertaker;
}

/** A port of this machine that nobody uses. */
export async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, "close");
  return port;
}
