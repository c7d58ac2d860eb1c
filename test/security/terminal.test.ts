import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import postgres from "postgres";
import sql from "sql-template-tag";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { type Embedded, openEmbedded } from "../../runner/embedded/embedded.ts";
import { listenTcp } from "../../runner/embedded/server.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { linkSource, notikaCommand, start } from "../runner/process.ts";

// Colours, a title, a line of its own, a direction, what is not seen: as a user of the application may send it.
const forged = "22:00:00 done workflow=payroll run=1";
const hostile = `RED \x1b[31m\x1b]0;title\x07\x9b2J\x7f\x08\u202etxt.exe\u2066\u200b\u2028${forged}\x85\ufeff\r\n${forged}\n  ${forged}\t!`;
const table = 'app."evil \x1b[31m\x9b31m\u202e"';
const acts = /[^\P{Cc}\n]|[\p{Cf}\p{Zl}\p{Zp}]/u;

vi.setConfig({ testTimeout: 120_000 }); // it starts many processes

let project: string;
let embedded: Embedded;
let server: Awaited<ReturnType<typeof listenTcp>>;

beforeAll(async () => {
  project = await mkdtemp(path.join(tmpdir(), "notika-terminal-"));
  await linkSource(project);
  await mkdir(path.join(project, "tasks"));
  await mkdir(path.join(project, "other"));
  const on = JSON.stringify({ table, columns: ["id", "note"] });
  await writeFile(
    path.join(project, "tasks/refuse.ts"),
    `import { NonRetriable } from "notika";
     export default { on: ${on}, async run({ event, log }) {
       const { note } = event.new;
       log.info(\`got \${note}\`, { note, [note]: [note], word: note.slice(4, 9) });
       if (event.new.id > 100) Promise.reject(new Error(note, { cause: note }));
       throw new NonRetriable(\`\${note} was refused\`);
     } };`,
  );
  await writeFile(path.join(project, "other/wrong.ts"), `throw new Error(${JSON.stringify(hostile)});`);
  await writeFile(path.join(project, "drop.sql"), `alter table ${table} drop column note;`);

  embedded = await openEmbedded({ prepare: install, version: await installVersion() });
  server = await listenTcp(embedded.wire, 0, "127.0.0.1");
  const { database } = embedded;
  await database.script(`
    create schema app;
    create table ${table} (id int primary key, note text);
    create function app.remark() returns event_trigger language plpgsql as $f$
    begin
      raise warning '%', $t$${hostile}$t$;
    end $f$;
    create event trigger remark on ddl_command_end execute function app.remark();
    create table app.quiet (id int primary key, note text);
    select notika.publish('quiet', 'app.quiet', columns => '{id,note}')`);
  await database.execute(sql`insert into app.quiet values (1, ${hostile})`);
  await database.execute(sql`select notika.backfill('quiet', condition => 'new.note::int > 0')`);
});
afterAll(async () => {
  await server?.close();
  await embedded?.close();
  await rm(project, { recursive: true, force: true });
});

test("no command lets a value, a name or an error act on a terminal, or write a line", async () => {
  const plan = await notika("plan");
  expect(plan).toMatchObject({ code: 0, stdout: expect.stringContaining("evil \\x1b[31m\\x9b31m\\u202e") });
  const published = await notika("publish");
  expect(published).toMatchObject({ code: 0, stderr: expect.stringContaining("notice: RED \\x1b[31m") });
  await embedded.database.execute(sql`insert into app."evil \x1b[31m\x9b31m\u202e" values (1, ${hostile})`);

  const runner = start([...notikaCommand, "run"], project, environment());
  await vi.waitFor(
    () => {
      expect(runner.said.stderr).toMatch(/failed .*was refused/);
      expect(runner.said.stderr).toMatch(/its backfill has stopped/);
    },
    { timeout: 30_000 },
  );
  runner.kill("SIGTERM");
  const ran = clean(await runner.ended);
  for (const line of ran.stderr.trimEnd().split("\n")) expect(line).toMatch(/^\d\d:\d\d:\d\d \S/);
  expect(ran.stderr).toMatch(/^\S+ got RED \\x1b\[31m.* note="RED \\u001b\[31m.* word="\\u001b\[31m"/m);

  const json = start([...notikaCommand, "run", "--json"], project, environment());
  await embedded.database.execute(sql`insert into app."evil \x1b[31m\x9b31m\u202e" values (2, ${hostile})`);
  await json.says(/"message":"failed".*was refused/);
  json.kill("SIGTERM");
  const logged = clean(await json.ended)
    .stderr.trimEnd()
    .split("\n");
  expect(logged.map((line) => JSON.parse(line))).toContainEqual(
    expect.objectContaining({ message: `got ${hostile}`, note: hostile, [hostile]: [hostile] }),
  );

  const failed = await notika("runs", "--state", "failed");
  expect(failed.stdout).toMatch(/RED \\x1b\[31m/);
  const [{ run }] = JSON.parse((await notika("runs", "--state", "failed", "--json")).stdout);
  const shown = await notika("runs", run);
  expect(shown.stdout).toMatch(/\noutcome\n {2}.*RED .*\n {2}.*22:00:00 done/);
  const status = await notika("status");
  expect(status.stdout).toContain("evil \\x1b[31m");
  expect(status.stdout).toContain("RED \\x1b[31m");
  expect(JSON.parse((await notika("status", "--json")).stdout).failures[0].error).toContain(hostile);
  const doctor = await notika("doctor");
  expect(doctor.stdout).toContain("a reader finds the error in notika.backfills");
  const check = await notika("check");
  expect(check).toMatchObject({ code: 1, stdout: expect.stringContaining("SQLSTATE") });
  const files = await notika("check", "drop.sql");
  expect(files).toMatchObject({ code: 1, stdout: expect.stringContaining("evil \\x1b[31m") });
  const github = await notika("check", "--github", "drop.sql");
  expect(github).toMatchObject({ code: 1, stdout: expect.stringMatching(/^::error .*evil \\x1b\[31m.*\n$/) });
  const tail = start([...notikaCommand, "runs", "--tail"], project, environment());
  await tail.says(/RED/);
  tail.kill("SIGTERM");
  clean(await tail.ended);

  for (const { stdout } of [failed, shown, status, doctor, check, files, github]) {
    expect(stdout).not.toMatch(new RegExp(`^${forged}`, "m"));
  }
});

test("nor does what notika grant prints to be run", async () => {
  const bare = await openEmbedded({ prepare: async () => {}, version: "empty" });
  const served = await listenTcp(bare.wire, 0, "127.0.0.1");
  await bare.database.script(`create schema app; create table ${table} (id int); create role app_role`);

  const granted = await notika("grant", "app_role", "--schema", "app", "--url", urlOf(served));
  await served.close();
  await bare.close();

  expect(granted).toMatchObject({ code: 0, stdout: expect.stringContaining("evil \\x1b[31m") });
});

test.each([
  ["the database's", ["publish", "x", "--table", `app.${hostile}`], /^error: .*RED \\x1b/],
  ["a task's that does not load", ["plan", "--tasks", "other"], /^error: .*RED \\x1b/],
  ["an argument's", [hostile], /^error: there is no command RED \\x1b/],
  ["an option's", ["runs", "--since", hostile], /^error: .*RED \\x1b/],
])("no error does either: %s", async (_, args, message) => {
  const { code, stderr } = await notika(...args);

  expect(code).not.toBe(0);
  expect(stderr).toMatch(message);
  expect(stderr).not.toMatch(new RegExp(`^${forged}`, "m"));
});

test("nor one that a task has let go of", async () => {
  const runner = start([...notikaCommand, "run"], project, environment());
  await runner.says(/running/);
  await embedded.database.execute(sql`insert into app."evil \x1b[31m\x9b31m\u202e" values (101, ${hostile})`);

  await runner.says(/uncaught error of a run/);
  runner.kill("SIGTERM");
  const { code, stderr } = clean(await runner.ended);

  expect(code).toBe(0);
  expect(stderr).toMatch(/^\S+ uncaught error of a run.* error="RED \\u001b\[31m.* stack="Error: RED \\u001b\[31m/m);
  expect(stderr).not.toMatch(new RegExp(`^${forged}`, "m"));
});

test("notika dev does not either", async () => {
  const dev = start([...notikaCommand, "dev", "--port", "0"], project, { NO_COLOR: "1" });
  try {
    const [url] = await dev.says(/postgres:\/\/postgres@127\.0\.0\.1:\d+\/postgres/);
    await dev.says(/refuse cannot be published yet/);
    const client = postgres(url, { max: 1, onnotice() {} });
    await client.unsafe(`create schema app; create table ${table} (id int primary key, note text)`);
    await dev.says(/refuse is published on app\."evil \\x1b/);
    await client.unsafe(`insert into ${table} values (1, $1)`, [hostile]);
    await client.end();
    await dev.says(/✗ #1 refuse insert .*\n {2}RED/);
    dev.kill("SIGTERM");
    const { code, stdout, stderr } = clean(await dev.ended);

    expect(code).toBe(0);
    expect(stderr).toContain("got RED \\x1b[31m");
    expect(stdout + stderr).not.toMatch(new RegExp(`^${forged}`, "m"));
  } finally {
    dev.kill("SIGKILL");
  }
});

const notika = (...args: string[]) => start([...notikaCommand, ...args], project, environment()).ended.then(clean);

function environment() {
  return { NO_COLOR: "1", DATABASE_URL: urlOf(server) };
}

function urlOf({ port }: { port: number }) {
  return `postgres://postgres@127.0.0.1:${port}/postgres`;
}

/** What a process has said, in which nothing acts. */
function clean<Said extends { stdout: string; stderr: string }>(said: Said): Said {
  expect(said.stdout).not.toMatch(acts);
  expect(said.stderr).not.toMatch(acts);
  return said;
}
