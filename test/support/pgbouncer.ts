import { spawn } from "node:child_process";
import { once } from "node:events";
import { chownSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { raw } from "sql-template-tag";
import { openDatabase } from "../../runner/database/database.ts";
import { serverUser } from "./binaries.ts";
import { findProgram, freePort, hireUndertaker } from "./postgres.ts";

export interface PgBouncer {
  port: number;
  /** The address of a database of the server, through the pooler. */
  through(url: string): string;
  /** What it has logged. */
  said(): string;
  /** A command for its console, such as PAUSE. */
  command(text: string): Promise<Record<string, unknown>[]>;
  /** Sends it a signal and waits until it has ended; SIGKILL is a crash. */
  kill(signal: NodeJS.Signals): Promise<void>;
  /** Starts it again on the same port; ends it first if it runs. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

export interface PgBouncerOptions {
  /** The port of the server behind it. */
  server: number;
  mode?: "transaction" | "session" | "statement";
  /** How many connections it keeps to each database. */
  connections?: number;
  users?: string[];
}

export const pgbouncer = findProgram("pgbouncer");

/** Starts a real PgBouncer on a free port of this machine.  It does not outlive this process. */
export async function startPgBouncer({
  server,
  mode = "transaction",
  connections = 3,
  users = ["postgres"],
}: PgBouncerOptions): Promise<PgBouncer> {
  const folder = mkdtempSync(path.join(tmpdir(), "notika-pgbouncer-"));
  const undertaker = hireUndertaker(folder);
  const port = await freePort();
  const configuration = path.join(folder, "pgbouncer.ini");
  writeFileSync(path.join(folder, "users"), users.map((user) => `"${user}" ""\n`).join(""));
  writeFileSync(
    configuration,
    `[databases]
* = host=127.0.0.1 port=${server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${path.join(folder, "users")}
admin_users = ${users[0]}
pool_mode = ${mode}
default_pool_size = ${connections}
max_client_conn = 200
server_login_retry = 0.5
`,
  );
  const { uid, gid } = serverUser();
  if (uid !== undefined && gid !== undefined) chownSync(folder, uid, gid);

  let said = "";
  const start = async () => {
    // Detached, so that Ctrl-C reaches the tests first.
    const pooler = spawn(pgbouncer as string, [configuration], {
      ...serverUser(),
      detached: true,
      stdio: ["ignore", "ignore", "pipe"],
    });
    undertaker.stdin.write(`${pooler.pid}\n`);
    pooler.once("exit", () => undertaker.stdin.write("\n"));
    const before = said.length;
    pooler.stderr.on("data", (chunk) => {
      said += chunk;
    });
    while (!said.includes("process up", before)) {
      if (pooler.exitCode !== null) throw new Error(`PgBouncer did not start: ${said.slice(before)}`);
      await Promise.race([once(pooler.stderr, "data"), once(pooler, "exit")]);
    }
    return pooler;
  };

  let pooler = await start();
  const kill = async (signal: NodeJS.Signals) => {
    if (pooler.exitCode !== null || pooler.signalCode !== null) return;
    pooler.kill(signal);
    await once(pooler, "exit");
  };
  return {
    port,
    through: (url) => url.replace(`:${server}/`, `:${port}/`),
    said: () => said,
    async command(text) {
      const console = openDatabase({ connect: `postgres://${users[0]}@127.0.0.1:${port}/pgbouncer`, connections: 1 });
      return console.execute(raw(text)).finally(console.close);
    },
    kill,
    async restart() {
      await kill("SIGQUIT");
      pooler = await start();
    },
    async stop() {
      await kill("SIGQUIT");
      undertaker.ref();
      undertaker.stdin.end();
      await once(undertaker, "exit");
    },
  };
}
