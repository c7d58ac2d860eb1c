import { execFileSync } from "node:child_process";
import { chownSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { openDatabase } from "../../../runner/database/database.ts";
import { install } from "../../../runner/install/install.ts";
import { serverUser, systemFolder } from "../../support/binaries.ts";
import { initialise, type Postgres, startPostgres } from "../../support/postgres.ts";
import { begin, commit, drain, jobs, openSession, stopCluster } from "../cluster.ts";

// What changes them comes with a whole PostgreSQL only, and fits that version.
const bin = systemFolder() ?? "";
const isWhole = ["postgres", "pg_upgrade", "pg_resetwal"].every((name) => existsSync(path.join(bin, name)));

/** Next and oldest transaction id of a server, which is restarted. */
type Ids = { next: number; oldest: number };
const nearTheEnd: Ids = { next: 2 ** 32 - 400, oldest: 2 ** 32 - 1000 };

describe.skipIf(!isWhole)("transaction ids", () => {
  test("may come to the end of their 32 bits, with a writer on either side", async () => {
    const server = await startServer();
    const url = await shop(server);
    await setIds(server, nearTheEnd);
    const [db, early] = [open(url), open(url)];
    await begin(early, "insert into item values (1)");
    await db.query("insert into item values (2)");
    expect(await drain(db)).toEqual([1]);
    expect(await db.query("select blocked_by is not null as named from notika.lag")).toEqual([{ named: true }]);

    const passed = await db.value<boolean>("select pg_current_xact_id()::text::bigint < 2 ^ 32");
    await burn(db, 600);
    const late = open(url);
    await begin(late, "insert into item values (3)");
    await db.query("insert into item values (4)");
    expect(await drain(db)).toEqual([1]);
    await commit(early);
    expect(await drain(db)).toEqual([1]);
    await commit(late);
    expect(await drain(db)).toEqual([1]);

    expect(passed).toBe(true);
    expect(await db.value("select pg_current_xact_id()::text::bigint > 2 ^ 32")).toBe(true);
    expect(await jobs(db)).toEqual([2, 4, 1, 3]);
    await db.query("update notika.setting set segment_age = '1 microsecond'");
    for (let turn = 0; turn < 4; turn++) {
      await db.query(`insert into item values (${10 + turn})`);
      await drain(db);
      expect(await db.query("select * from notika.maintain()")).toHaveLength(1);
    }
    expect(await db.query("select finding from notika.check()")).toEqual([]);
  });

  test("are kept by pg_upgrade, beyond an epoch too: what waits runs once, and so does what is new", async () => {
    const old = await startServer();
    const url = await shop(old);
    await setIds(old, nearTheEnd);
    const before = open(url);
    await burn(before, 600);
    expect(await before.value("select pg_current_xact_id()::text::bigint > 2 ^ 32")).toBe(true);
    await before.query("insert into item select generate_series(1, 6)");
    for (let chunk = 0; chunk < 2; chunk++) expect(await before.value("select notika.dispatch(2)")).toBe(2);
    await before.query("update notika_worker._private_jobs set run_at = now() + interval '1 day' where key = '1'");
    await before.close();
    await old.kill("SIGINT");

    const upgraded = await startPostgres({ bin, fill: (data) => upgrade(old, data) });
    onTestFinished(() => stopCluster(upgraded));
    const warnings: string[] = [];
    const db = openSession(upgraded.url.replace(/postgres$/, "shop"), (message) => warnings.push(message));
    onTestFinished(() => db.close());
    await db.query("insert into item values (7)");
    await expect(db.query("alter table item drop column id cascade")).rejects.toMatchObject({ code: "NK001" });
    await db.query("select notika.dispatch()");
    await db.query("insert into item values (8)");
    await drain(db);

    expect((await jobs(db)).toSorted()).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(await db.query("select key from notika_worker._private_jobs where run_at > now()")).toEqual([{ key: "1" }]);
    expect(warnings).toEqual(["notika: this database was restored from another cluster; the cursor was rebased"]);
    expect(await db.query("select finding from notika.check()")).toEqual([]);
    expect(await db.query("select distinct outcome from notika.install()")).toEqual([{ outcome: "ok" }]);
  });
});

async function startServer(): Promise<Postgres> {
  const server = await startPostgres({ bin, settings: { autovacuum: "off" } });
  onTestFinished(() => stopCluster(server));
  return server;
}

/** The address of a database with a published table. */
async function shop(server: Postgres): Promise<string> {
  const url = await server.createDatabase("shop");
  const database = openDatabase({ connect: url, connections: 1 });
  await install(database);
  await database.script(`
    create table item (id int primary key);
    select notika.publish('watch_item', 'public.item', columns => '{id}')`);
  await database.close();
  return url;
}

function open(url: string) {
  const session = openSession(url);
  onTestFinished(() => session.close());
  return session;
}

async function burn(db: ReturnType<typeof open>, count: number): Promise<void> {
  await db.database.script(
    `do $$ begin for i in 1..${count} loop perform pg_current_xact_id(); commit; end loop; end $$`,
  );
}

/** Has a server go on from there, as if it had come to it by itself. */
async function setIds(server: Postgres, { next, oldest }: Ids): Promise<void> {
  for (const name of ["postgres", "template1", "shop"]) {
    const session = openSession(server.url.replace(/postgres$/, name));
    await session.query("vacuum freeze"); // what has an id would seem to lie in the future
    await session.close();
  }
  await server.kill("SIGINT");
  const ids = [`--next-transaction-id=${next}`, `--oldest-transaction-id=${oldest}`];
  execFileSync(path.join(bin, "pg_resetwal"), ["-D", server.data, ...ids], serverUser());
  // The page of that id: nothing is committed yet.
  const page = path.join(server.data, "pg_xact", "0FFF");
  writeFileSync(page, Buffer.alloc(32 * 8192));
  const { uid, gid } = serverUser();
  if (uid !== undefined && gid !== undefined) chownSync(page, uid, gid);
  await server.restart();
}

function upgrade(old: Postgres, data: string): void {
  initialise(bin, data);
  const folder = mkdtempSync(path.join(tmpdir(), "notika-upgrade-"));
  const { uid, gid } = serverUser();
  if (uid !== undefined && gid !== undefined) chownSync(folder, uid, gid);
  const where = ["-b", bin, "-B", bin, "-d", old.data, "-D", data, "-U", "postgres", "-s", folder];
  try {
    execFileSync(path.join(bin, "pg_upgrade"), where, { ...serverUser(), cwd: folder, stdio: "pipe" });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
