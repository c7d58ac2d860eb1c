import { execFileSync } from "node:child_process";
import { chownSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Postgres, startPostgres } from "../../support/postgres.ts";
import { spawnRunner } from "../../support/runner.ts";
import { begin, drain, jobs, major, openSession, type Session, startCluster, stopCluster, until } from "../cluster.ts";

const settings = { max_connections: "60", deadlock_timeout: "50ms", lock_timeout: "10s" };

describe("a standby that is promoted", () => {
  let primary: Postgres;
  const open: { close(): Promise<void> }[] = [];
  const servers: Postgres[] = [];
  beforeAll(async () => {
    primary = await startCluster({ wal_keep_size: "256MB" }, major);
    servers.push(primary);
  });
  afterAll(async () => {
    await Promise.all(open.map((it) => it.close()));
    await Promise.all(servers.map(stopCluster));
  });

  const session = (url: string, onNotice?: (message: string) => void) => {
    const opened = openSession(url, onNotice);
    open.push(opened);
    return opened;
  };

  /** A physical copy that follows the primary. */
  async function startStandby(): Promise<Postgres> {
    const standby = await startPostgres({ major, settings, fill: (data) => copyFiles(primary, data) });
    servers.push(standby);
    return standby;
  }

  test("runs what waits there, once; the original, which goes on, does the same", async () => {
    const url = await primary.createDatabase("cloned", "model");
    const original = session(url);
    await original.query("insert into item select generate_series(1, 4)");
    expect(await original.value("select notika.dispatch(2)")).toBe(2);
    const standby = await startStandby();
    await hasAll(standby, original);
    const warnings: string[] = [];
    const copy = session(at(standby, "cloned"), (message) => warnings.push(message));
    await copy.query("select pg_promote()");

    for (const db of [copy, original]) {
      await db.query("insert into item values (5)");
      await drain(db);
      expect(await jobs(db)).toEqual([1, 2, 3, 4, 5]);
      expect(await db.query("select finding from notika.check() where finding <> 'ring'")).toEqual([]);
    }
    expect(warnings).toEqual([]);
  });

  test("stalls nobody and loses nothing that it has when it lagged behind: the runner goes over to it", async () => {
    const url = await primary.createDatabase("shop", "model");
    const db = session(url);
    await db.query("create table done (run_id bigint, id int)");
    const standby = await startStandby();
    const hosts = [primary, standby].map(({ port }) => `127.0.0.1:${port}`).join();
    const runner = spawnRunner(
      `postgres://postgres@${hosts}/shop?target_session_attrs=read-write`,
      path.join(import.meta.dirname, "tasks"),
    );
    open.push({ close: async () => void (await runner.end("SIGKILL")) });
    await runner.says("running");
    const done = (session: Session, id: number) => until(session, `exists (select from done where id = ${id})`);
    await db.query("insert into item select generate_series(1, 5)");
    await done(db, 5);
    const straggler = session(url);
    await begin(straggler, "insert into item values (99)");
    await db.query("insert into item values (6)");
    await done(db, 6);
    await hasAll(standby, db);

    // What happens now is lost with the primary.
    const copy = session(at(standby, "shop"));
    await copy.query("alter system set primary_conninfo = ''");
    await copy.query("select pg_reload_conf()");
    await until(copy, "not exists (select from pg_stat_wal_receiver)");
    await db.query("insert into item values (7), (8)");
    await straggler.query("commit");
    await done(db, 99);
    await primary.kill("SIGQUIT");
    await copy.query("select pg_promote()");
    await copy.query("insert into item values (20)");

    await done(copy, 20);
    await copy.query("insert into item values (21)");
    await done(copy, 21);
    expect(await copy.query("select id, count(*)::int from done group by id order by id")).toEqual(
      [1, 2, 3, 4, 5, 6, 20, 21].map((id) => ({ id, count: 1 })),
    );
    await until(copy, "(select events_waiting from notika.lag) = 0");
    expect(await copy.query("select finding from notika.check()")).toEqual([]);
    await copy.query("update notika.setting set segment_age = '1 microsecond'");
    await until(copy, "exists (select from notika.maintain() as said where said like 'the ring turned%')");
  });
});

/** The same database of another server. */
const at = (server: Postgres, database: string) => server.url.replace(/postgres$/, database);

/** Ends when the standby has all that was committed so far. */
async function hasAll(standby: Postgres, primary: Session): Promise<void> {
  const lsn = await primary.value<string>("select pg_current_wal_insert_lsn()::text");
  const session = openSession(standby.url);
  await until(session, `pg_last_wal_replay_lsn() >= '${lsn}'`);
  await session.close();
}

/** What pg_basebackup does, with nothing but the server. */
async function copyFiles(source: Postgres, data: string): Promise<void> {
  const session = openSession(source.url);
  await session.query("select pg_backup_start('copy', fast => true)");
  execFileSync("cp", ["-a", `${source.data}/.`, data]);
  const label = await session.value<string>("select labelfile from pg_backup_stop(wait_for_archive => false)");
  await session.close();
  execFileSync("rm", ["-f", path.join(data, "postmaster.pid"), path.join(data, "postmaster.opts")]);
  const files = {
    backup_label: label,
    "standby.signal": "",
    "postgresql.auto.conf": `primary_conninfo = 'host=127.0.0.1 port=${source.port} user=postgres'\n`,
  };
  const { uid, gid } = statSync(source.data);
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(path.join(data, name), text);
    chownSync(path.join(data, name), uid, gid);
  }
}
