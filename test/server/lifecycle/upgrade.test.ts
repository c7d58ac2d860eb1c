import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql, { raw } from "sql-template-tag";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import { install } from "../../../runner/install/install.ts";
import { notikaCommand, start } from "../../runner/process.ts";
import { nextRelease } from "../../support/next_release.ts";
import { findProgram, startPostgres } from "../../support/postgres.ts";

let server: Awaited<ReturnType<typeof startPostgres>>;
let next: Awaited<ReturnType<typeof nextRelease>>;
let tasks: string;
const open: Database[] = [];
beforeAll(async () => {
  [server, next, tasks] = await Promise.all([startPostgres({ major: 18 }), nextRelease(), writeTasks()]);
});
afterAll(async () => {
  await Promise.all(open.map((database) => database.close()));
  await Promise.all([server?.stop(), next?.close(), rm(tasks, { recursive: true })]);
});

const upgrade = (url: string, ...options: string[]) =>
  start([...next.command, "upgrade", "--url", url, "--json", ...options], process.cwd()).ended;

describe("an upgrade to a version with another migration, other code and other triggers", () => {
  test("fails no write, keeps none waiting and loses nothing while everything goes on", async () => {
    const { url, database } = await inUse();
    const writers = startWriters(url);
    const old = start([...notikaCommand, "run", "--url", url, "--tasks", tasks], process.cwd());
    await old.says(/running/);
    await database.script(`
      insert into app.users (email) select 'sleeper' from generate_series(1, 20);
      insert into app.users (email) select 'retrier' from generate_series(1, 20)`);
    await sleep(1000);
    writers.waits.length = 0;

    const { code, stderr, stdout } = await upgrade(url);
    await sleep(500);
    await writers.stop();
    const { code: oldCode, stderr: oldSaid } = await old.ended;
    const later = start([...next.command, "run", "--url", url, "--tasks", tasks], process.cwd());
    await expect
      .poll(() => database.execute(unfinished), { timeout: 60_000, interval: 200 })
      .toEqual([{ events: 0, jobs: 0 }]);
    later.kill("SIGTERM");

    expect((await later.ended).code).toBe(0);
    expect(oldCode).toBe(1);
    expect(oldSaid).toMatch(
      /the database was upgraded: this runner claims no more runs, and finishes those that it has/,
    );
    expect(oldSaid).toContain("the database has notika 0.2.0, this runner is notika 0.1.0");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout)).toMatchObject({ applied: ["000002-later"] });
    expect(writers.failures).toEqual([]);
    expect(Math.max(...writers.waits)).toBeLessThan(600);
    expect(await database.execute(sql`select * from notika.health where finding = 'outdated'`)).toEqual([]);
    expect(
      await database.execute(sql`
        select count(*)::int from pg_proc where proname ~ '^_capture_[0-9]' and prosrc ~ 'v_later'`),
    ).toEqual([{ count: 5 }]);
    // What a trigger of the application's own has noted, against what ran.
    expect(
      await database.execute(sql`
        select workflow, count(*)::int from public.expected group by workflow
        except
        select workflow, count(*)::int from public.done group by workflow`),
    ).toEqual([]);
    expect(await database.execute(sql`select run_id from public.done group by run_id having count(*) > 1`)).toEqual([]);
    expect(await database.execute(sql`select workflow, error from notika.run_log where state <> 'done'`)).toEqual([]);
  });

  test("leaves the triggers of a table that is in use for later, and says so", async () => {
    const { url, database } = await inUse();
    const holder = openDatabase({ connect: url, connections: 1 });
    await holder.script("begin; lock table app.items in row exclusive mode");

    const { code, stdout } = await upgrade(url);
    await database.script("insert into app.users (email) values ('later')");
    const found = await database.execute(sql`
      select workflow, severity, remedy from notika.health where finding = 'outdated'`);
    await holder.script("commit");
    await holder.close();
    await database.script("call notika.refresh()");

    expect(code).toBe(0);
    expect(JSON.parse(stdout).steps).toContainEqual({
      step: "workflow count",
      outcome: "outdated",
      detail: "call notika.refresh();",
    });
    expect(found).toEqual([{ workflow: "count", severity: "warning", remedy: "call notika.refresh();" }]);
    expect(await database.execute(sql`select * from notika.health where finding = 'outdated'`)).toEqual([]);
  });

  test("gives way to a transaction that holds one of Notika's tables, and comes again", async () => {
    const { url, database } = await inUse();
    const writers = startWriters(url);
    const holder = openDatabase({ connect: url, connections: 1 });
    await holder.script("begin; select count(*) from notika.event_log");
    setTimeout(() => holder.script("commit"), 2500);

    const { code } = await upgrade(url);
    await writers.stop();

    expect(code).toBe(0);
    expect(writers.failures).toEqual([]);
    expect(Math.max(...writers.waits)).toBeLessThan(600);
    expect(await database.execute(sql`select notika.version()`)).toEqual([{ version: "0.2.0" }]);
    await holder.close();
  });

  test("is shown by --dry-run, with the locks that it takes, and nothing stays of that", async () => {
    const { url, database } = await inUse();

    const { stdout } = await upgrade(url, "--dry-run");
    const plan = JSON.parse(stdout);

    expect(plan).toMatchObject({ from: "0.1.0", to: "0.2.0", migrations: ["000002-later"], code: "is replaced" });
    expect(plan.locks).toContainEqual({ relation: "notika.event_log_0", mode: "AccessExclusiveLock" });
    expect(plan.locks.filter(({ relation }: { relation: string }) => relation.startsWith("app."))).toEqual([]);
    expect(plan.refresh).toContainEqual({ table: "app.users", workflow: "welcome" });
    expect(await database.execute(sql`select notika.version()`)).toEqual([{ version: "0.1.0" }]);
    expect(await database.execute(sql`select name from notika.migration order by name`)).toHaveLength(2);
  });

  test.skipIf(!findProgram("psql"))("is printed for psql, and does the same there", async () => {
    const { url, database } = await inUse();
    const { stdout: script } = await start([...next.command, "sql", "--from", "0.1.0"], process.cwd()).ended;
    const file = path.join(tasks, "upgrade.sql");
    await writeFile(file, script);
    const psql = () =>
      start([findProgram("psql") as string, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file, url], process.cwd()).ended;

    const { code, stderr } = await psql();
    const again = await psql();
    await rm(file);

    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(await database.execute(sql`select notika.version()`)).toEqual([{ version: "0.2.0" }]);
    expect(await database.execute(sql`select * from notika.health where finding = 'outdated'`)).toEqual([]);
    expect(again.code).not.toBe(0);
    expect(again.stderr).toMatch(/the database does not have notika 0\.1\.0[\s\S]*npx notika sql --from/);
  });
});

/** A database that this version has been used in. */
async function inUse() {
  const url = await server.createDatabase();
  const database = openDatabase({ connect: url });
  open.push(database);
  await install(database);
  await database.script(`
    create schema app;
    create table app.users (id int generated always as identity primary key, email text);
    create table app.orders (id int generated always as identity, user_id int, primary key (id, user_id))
      partition by hash (user_id);
    create table app.orders_0 partition of app.orders for values with (modulus 2, remainder 0);
    create table app.orders_1 partition of app.orders for values with (modulus 2, remainder 1);
    create table app.items (id int generated always as identity primary key, note text);
    create table public.done (workflow text, run_id bigint);
    create table public.expected (workflow text);
    create function public.expect() returns trigger language plpgsql as $$
    begin
      insert into public.expected
      select w from unnest(tg_argv) as w
       where w in ('welcome', 'ship', 'count') or tg_op = 'INSERT' and to_jsonb(new) ->> 'email' = w || 'er';
      return null;
    end $$;
    create trigger expect after insert or update on app.users
      for each row execute function public.expect('welcome', 'sleep', 'retri');
    create trigger expect after insert on app.orders for each row execute function public.expect('ship');
    create trigger expect after insert on app.items for each row execute function public.expect('count');
    select notika.publish('welcome', 'app.users', '{insert,update}', '{id,email}', condition => 'new.email is not null'),
           notika.publish('ship', 'app.orders', options => '{"order": "user_id"}'),
           notika.publish('count', 'app.items', options => '{"concurrency": 3}'),
           notika.publish('sleep', 'app.users', '{insert}', '{id}', condition => 'new.email = ''sleeper'''),
           notika.publish('retri', 'app.users', '{insert}', '{id}', condition => 'new.email = ''retrier''')`);
  return { url, database };
}

/** Tasks that note each run when it has ended; one sleeps before, and one fails the first time. */
async function writeTasks(): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), "notika-upgrade-"));
  const note =
    "await step.query('note', { text: 'insert into public.done values ($1, $2)', values: [event.workflow, event.id] });";
  const before: Record<string, string> = {
    sleep: "await step.sleep('nap', '3 seconds');",
    retri: "if (attempt === 1) throw new Error('the first time');",
  };
  for (const name of ["welcome", "ship", "count", "sleep", "retri"]) {
    const text = `export default async ({ event, step, attempt }) => { ${before[name] ?? ""} ${note} };`;
    await writeFile(path.join(folder, `${name}.mjs`), text);
  }
  return folder;
}

function startWriters(url: string) {
  const failures: string[] = [];
  const waits: number[] = [];
  let isWriting = true;
  const write = async (statement: (turn: number) => string) => {
    const session = openDatabase({ connect: url, connections: 1 });
    for (let turn = 1; isWriting; turn++) {
      await session
        .transaction(async (execute) => {
          await execute(raw(statement(turn)));
          // As the server sees it: this process is busy, too.
          const [row] = await execute<{ ms: number }>(
            sql`select (extract(epoch from clock_timestamp() - now()) * 1000)::float8 as ms`,
          );
          waits.push(row?.ms ?? Number.NaN);
        })
        .catch((error) => failures.push(error.message));
      await sleep(20);
    }
    await session.close();
  };
  const writers = [
    write((turn) => `insert into app.users (email) values ('user ${turn}')`),
    write((turn) => `update app.users set email = 'changed ${turn}' where id = ${1 + (turn % 7)}`),
    write((turn) => `insert into app.orders (user_id) values (${turn % 5}); select pg_sleep(0.02)`),
    write(() => "insert into app.items (note) select 'n' from generate_series(1, 2)"),
  ];
  return {
    failures,
    waits,
    stop() {
      isWriting = false;
      return Promise.all(writers);
    },
  };
}

const unfinished = sql`
  select (select events_waiting::int from notika.lag) as events,
         (select count(*)::int from notika_worker._private_jobs) as jobs`;
