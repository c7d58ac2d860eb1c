import { execFileSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { install } from "../../runner/install/install.ts";
import { notikaCommand, start } from "../runner/process.ts";
import { dumpSchema, listObjects } from "../support/dump.ts";
import { findProgram, type Postgres, startPostgres } from "../support/postgres.ts";
import { openSession, type Session, versions } from "./cluster.ts";

// An application as it is found: tables of a role that nobody logs in as, a writer that knows nothing of Notika,
// an administrator who is no superuser.
const application = `
  create role app_owner;
  create role dba login createrole;
  create role writer login;
  grant app_owner to dba;
  create schema app authorization app_owner;
  set role app_owner;
  create table app.users (id bigint generated always as identity primary key, email text, name text);
  create table app.orders (id bigint, at date, total numeric, primary key (id, at)) partition by range (at);
  create table app.orders_2025 partition of app.orders for values from ('2025-01-01') to ('2026-01-01');
  create table app.orders_2026 partition of app.orders for values from ('2026-01-01') to ('2027-01-01');
  create table app.letters (id bigint primary key, reader text);
  alter table app.letters enable row level security;
  create policy own on app.letters using (reader = current_user);
  create table app."Odd ""Names""" (id bigint primary key);
  create type app.mood as enum ('fine');
  revoke usage on type app.users from public;
  grant usage on schema app to writer;
  grant insert, select, update, delete on all tables in schema app to writer;
  reset role;`;

const tasks = {
  welcome: `export default async ({ event, query }) => {
    if (event.new.email === "down@example.com") throw new Error("the mail service is down");
    if (event.new.email === "slow@example.com") await new Promise((go) => setTimeout(go, 60_000));
  };`,
  order: "export default async () => {};",
};

describe.each(versions)("a role with the least rights, on PostgreSQL %i", (major) => {
  let server: Postgres;
  let folder: string;
  let root: Session;
  let url: (user: string) => string;
  let before: { objects: Record<string, string>; dump: ReturnType<typeof dumpSchema> };

  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), "notika-least-"));
    for (const [name, text] of Object.entries(tasks)) await writeFile(path.join(folder, `${name}.ts`), text);
    server = await startPostgres({ major });
    const address = await server.createDatabase("shop");
    url = (user) => address.replace("postgres@", `${user}@`);
    root = openSession(url("postgres"));
    await root.database.script(`${application}
      alter database shop owner to dba; revoke connect on database shop from public; grant connect on database shop to writer`);
    before = { objects: await listObjects(url("postgres")), dump: dumpSchema(url("postgres"), major) };
  });
  afterAll(async () => {
    await root?.close();
    await server?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  const notika = (user: string, ...args: string[]) =>
    start([...notikaCommand, ...args, "--url", url(user)], folder).ended;
  const said = async (user: string, ...args: string[]) => {
    const { code, stdout, stderr } = await notika(user, ...args);
    expect({ code, stderr }, args.join(" ")).toEqual({ code: 0, stderr: expect.any(String) });
    return stdout;
  };
  /** Runs SQL as an administrator would: in psql where there is one. */
  const administer = async (script: string) => {
    const psql = findProgram("psql");
    if (psql) execFileSync(psql, ["-qX1", "-v", "ON_ERROR_STOP=1", "-d", url("dba")], { input: script, stdio: "pipe" });
    else {
      const dba = openSession(url("dba"));
      await dba.database.script(script).finally(dba.close);
    }
  };

  test("is made by what grant prints, which is then done", async () => {
    const script = await said("dba", "grant", "notika", "--schema", "app");

    expect(script).toBe(`-- The owner of Notika, and the login of its runner. It has no password yet;
-- in psql: \\password notika
create role notika login;
comment on role notika is 'The owner of Notika in database shop.';
grant connect on database shop to notika;
-- For a moment: to give a schema to a role requires SET ROLE to it.
grant notika to dba;
-- All that it owns.
create schema notika authorization notika;
create schema notika_worker authorization notika;
revoke notika from dba;
grant usage on schema app to notika;
-- What captures a change is a trigger; what is published is what it may read.
grant select, trigger on app."Odd ""Names""" to notika;
grant select, trigger on app.letters to notika;
grant select, trigger on app.orders to notika;
grant select, trigger on app.orders_2025 to notika;
grant select, trigger on app.orders_2026 to notika;
grant select, trigger on app.users to notika;
grant usage on type app.users to notika;
-- Row security would hide rows from it.
create policy notika on app.letters for select to notika using (true);
-- Tables that are made later.
alter default privileges for role app_owner in schema app grant select, trigger on tables to notika;
`);
    await administer(script);
    expect(await said("dba", "grant", "notika", "--schema", "app")).toBe("-- nothing to do for role notika\n");
  });

  test("installs, publishes, and owns nothing but its two schemas", async () => {
    expect(await said("notika", "install")).toMatch(/guard +limited/);
    await said("notika", "publish", "welcome", "--table", "app.users", "--columns", "id,email");
    await said("notika", "publish", "order", "--table", "app.orders", "--operations", "insert,update");
    await said("notika", "publish", "letter", "--table", "app.letters");
    await said("notika", "publish", "odd", "--table", 'app."Odd ""Names"""', "--columns", "id");
    const owner = openSession(url("notika"));
    await owner.query("begin");
    expect(await owner.value("select notika.backfill('letter')")).toBe("started"); // row security hides nothing
    await owner.query("rollback");
    await owner.close();

    expect(
      await root.query(`
        select distinct (pg_identify_object(classid, objid, 0)).schema
          from pg_shdepend
         where refobjid = 'notika'::regrole and deptype = 'o' and classid <> 'pg_namespace'::regclass`),
    ).toEqual(expect.arrayContaining([{ schema: "notika" }, { schema: "notika_worker" }]));
    expect(
      await root.query(`
        select pg_describe_object(classid, objid, 0) as owned
          from pg_shdepend
         where refobjid = 'notika'::regrole and deptype = 'o'
           and coalesce((pg_identify_object(classid, objid, 0)).schema, '') not in ('notika', 'notika_worker')`),
    ).toEqual([{ owned: "schema notika" }, { owned: "schema notika_worker" }]);
    expect(await root.query("select rolname from pg_roles where rolsuper")).toEqual([{ rolname: "postgres" }]);
  });

  test("captures what a role writes that has no right on notika, runs it, retries, cancels, upgrades", async () => {
    const writer = openSession(url("writer"));
    await writer.database.script(`
      insert into app.users (email) values ('ada@example.com'), ('down@example.com');
      insert into app.orders values (1, '2025-05-05', 5), (2, '2026-06-06', 6);
      insert into app.letters values (1, 'writer');
      insert into app."Odd ""Names""" values (1)`);
    const runner = start([...notikaCommand, "run", "--tasks", ".", "--url", url("notika")], folder);
    const seen = async () =>
      (
        await root.query<{ seen: string }>("select concat(workflow, ' ', state) as seen from notika.runs order by 1")
      ).map((row) => row.seen);
    const states = async () =>
      (JSON.parse(await said("notika", "runs", "--json")) as { run: string; workflow: string; state: string }[])
        .map(({ workflow, state }) => `${workflow} ${state}`)
        .sort();
    await expect
      .poll(seen, { timeout: 30_000, interval: 20 })
      .toEqual(["letter ready", "odd ready", "order done", "order done", "welcome done", "welcome retrying"]);

    await root.query("update notika.setting set max_attempts = 1");
    await writer.query("insert into app.users (email) values ('down@example.com'), ('slow@example.com')");
    await expect.poll(seen, { timeout: 30_000, interval: 20 }).toContain("welcome failed");
    const failed = await root.value<string>("select run_id::text from notika.runs where state = 'failed'");
    await said("notika", "retry", failed);
    // Not the retried one, which is running for a moment only.
    const slow = () =>
      root.value<string | undefined>(
        "select run_id::text from notika.runs where state = 'running' and event -> 'new' ->> 'email' = 'slow@example.com'",
      );
    await expect.poll(slow, { timeout: 30_000, interval: 20 }).toMatch(/^\d+$/);
    await said("notika", "cancel", `${await slow()}`);
    expect(await states()).toContain("welcome cancelled");
    const status = JSON.parse(await said("notika", "status", "--json"));
    expect(status.workflows.map(({ workflow, state }: Record<string, string>) => `${workflow} ${state}`)).toEqual([
      "letter published",
      "odd published",
      "order published",
      "welcome published",
    ]);
    expect(await said("notika", "upgrade")).toMatch(/workflow welcome +ok/);
    await said("notika", "unpublish", "welcome");
    await writer.query("insert into app.users (email) values ('eve@example.com')");

    const refused = await notika("notika", "uninstall");
    expect(refused).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/cannot uninstall notika: runner \d+ on \S+ \(alive, heard of \d+ seconds ago\)/),
    });
    runner.kill("SIGTERM");
    await runner.ended;
    await writer.close();
  });

  test("leaves without a trace", async () => {
    const dryRun = await said("notika", "uninstall", "--dry-run");
    expect(dryRun).toMatch(/workflow order +would be removed/);
    expect(await root.value("select count(*)::int from notika.workflows")).toBe(3);

    const report = await said("notika", "uninstall");
    const [steps, left] = report.split("\n-- For an administrator to run, if it was granted for Notika:\n");
    const rows = steps?.trim().split("\n").slice(1);
    expect(rows?.map((line) => line.split(/ {2,}/))).toEqual([
      ["runs", "lost", "3 have not ended and never will"],
      ["history", "removed", "the outcomes of 6 runs"],
      ["workflow letter", "removed", "triggers on app.letters"],
      ["workflow odd", "removed", 'triggers on app."Odd ""Names"""'],
      ["workflow order", "removed", "triggers on app.orders"],
      ["schema notika_worker", "removed", expect.stringMatching(/^\d+ tables and views$/)],
      ["schema notika", "removed", expect.stringMatching(/^\d+ tables and views$/)],
    ]);
    expect(left).toBe(await said("dba", "grant", "notika", "--revoke"));
    await administer(left ?? "");

    expect(await listObjects(url("postgres"))).toEqual(before.objects);
  });

  test("leaves what pg_dump says, byte for byte", ({ skip }) => {
    if ("reason" in before.dump) return skip(before.dump.reason);

    expect(dumpSchema(url("postgres"), major)).toEqual(before.dump);
  });
});

describe.each(versions)("a runner that owns nothing, on PostgreSQL %i", (major) => {
  test("runs what others publish, tells its own writes, and may do no more", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "notika-robot-"));
    await writeFile(
      path.join(folder, "echo.ts"),
      `export default async ({ event, step, query }) => {
         await query({ text: "insert into app.users (email) values ('echo')", values: [] });
       };`,
    );
    await writeFile(
      path.join(folder, "curious.ts"),
      `export default ({ step }) => step.query("look", { text: "select * from app.orders", values: [] });`,
    );
    const server = await startPostgres({ major });
    const address = await server.createDatabase("shop");
    const root = openSession(address);
    await install(root.database);
    await root.database.script(`${application}
      create role robot login;
      grant usage on schema app to robot;
      grant insert on app.users to robot;
      update notika.setting set max_depth = 2;
      select notika.grant_runner('robot');
      select notika.publish('echo', 'app.users', columns => '{id}');
      insert into app.users (email) values ('first');
      select notika.publish('curious', 'app.letters');
      insert into app.letters values (1, 'robot')`);
    const notika = (...args: string[]) =>
      start([...notikaCommand, ...args, "--url", address.replace("postgres@", "robot@")], folder);

    const runner = notika("run", "--tasks", ".");
    const runs = () => root.query("select workflow, state, error from notika.runs order by workflow, run_id");
    await expect.poll(runs, { timeout: 30_000, interval: 200 }).toMatchObject([
      {
        workflow: "curious",
        state: "retrying",
        error: 'step "look": permission denied for table orders. Run: grant select on app.orders to robot;',
      },
      { workflow: "echo", state: "done" },
      { workflow: "echo", state: "done" },
      { workflow: "echo", state: "done" },
      { workflow: "echo", state: "failed", error: expect.stringContaining("stopped at depth 3") },
    ]);
    const refused: string[] = [];
    for (const args of [["publish", "x", "--table", "app.users"], ["runs"], ["status"], ["uninstall"]]) {
      refused.push((await notika(...args).ended).stderr);
    }
    runner.kill("SIGTERM");
    const { code, stderr } = await runner.ended;

    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: expect.not.stringMatching(/permission denied for (?!table orders)/),
    });
    expect(refused).toEqual([
      expect.stringContaining("select notika.grant_publisher('robot');"),
      expect.stringContaining("select notika.grant_reader('robot');"),
      expect.stringContaining("select notika.grant_reader('robot');"),
      expect.stringContaining("permission denied for function uninstall"),
    ]);

    await root.query("select notika.revoke_runner('robot')");
    expect((await notika("run", "--tasks", ".").ended).stderr).toContain("select notika.grant_runner('robot');");
    await root.close();
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  });
});
