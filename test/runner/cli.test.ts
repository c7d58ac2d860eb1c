import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { raw } from "sql-template-tag";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import packageJson from "../../package.json" with { type: "json" };
import { openEmbedded } from "../../runner/embedded/embedded.ts";
import { listenTcp } from "../../runner/embedded/server.ts";
import { installScript, installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { workflowWithoutTable } from "../support/database.ts";
import { notikaCommand, start } from "./process.ts";

const password = "s3cr3t-w0rd";
let project: string;
let installed: Awaited<ReturnType<typeof serve>>;

beforeAll(async () => {
  project = await mkdtemp(path.join(tmpdir(), "notika-cli-"));
  await task("welcome_email", {
    on: { table: "app.users", columns: ["id", "email"], condition: "new.email is not null" },
  });
  await task("audit", { on: { table: "app.users", operations: ["update", "delete"] } });
  await task("by_hand", {});
  installed = await serve(install);
  await installed.script(`
    ${workflowWithoutTable}
    create schema app;
    create table app.users (id bigint generated always as identity primary key, email text)`);
});
afterAll(async () => {
  await installed.close();
  await rm(project, { recursive: true, force: true });
});

describe.concurrent("the command line", () => {
  test("is explained anywhere by --help, on stdout", async () => {
    const answers = await Promise.all([notika("--help"), notika("help"), notika("runs", "--limit", "x", "--help")]);

    for (const answer of answers) expect(answer).toEqual({ code: 0, stdout: answers[0]?.stdout, stderr: "" });
    for (const line of answers[0]?.stdout.split("\n") ?? []) expect(line.length).toBeLessThanOrEqual(100);
    const explained = new Set([...(answers[0]?.stdout ?? "").matchAll(/^ {2}notika (\w+)/gm)].map(([, name]) => name));
    expect([...explained].sort()).toEqual(
      "cancel check dev doctor grant install plan publish retry run runs sql status uninstall unpublish upgrade".split(
        " ",
      ),
    );
  });

  test("tells the version", async () => {
    expect(await notika("--version")).toEqual({ code: 0, stdout: `${packageJson.version}\n`, stderr: "" });
  });

  test.each([
    ["no command was given", []],
    ["there is no command lunch", ["lunch"]],
    ["Unknown option '--lunch'", ["status", "--lunch"]],
    ["Unknown option '--tasks'", ["status", "--tasks", "x"]],
    ["Unexpected argument 'lunch'", ["status", "lunch"]],
    ["Option '--url <value>' argument missing", ["status", "--url"]],
    ["no database is specified", ["status"]],
    ["no run is specified", ["retry", "--url", "postgres://x/y"]],
    ["lunch is not the id of a run", ["cancel", "lunch", "--url", "postgres://x/y"]],
    ["no workflow is specified", ["unpublish", "--url", "postgres://x/y"]],
    ["grant needs one role", ["grant", "--schema", "app", "--url", "postgres://x/y"]],
    ["grant needs one role", ["grant", "one", "other", "--url", "postgres://x/y"]],
    ["Unexpected argument 'all'", ["uninstall", "all", "--url", "postgres://x/y"]],
    ["--limit needs a whole number from 1, not many", ["runs", "--limit", "many", "--url", "postgres://x/y"]],
    ["there is no state tired", ["runs", "--state", "tired", "--url", "postgres://x/y"]],
    ["--concurrency needs a whole number from 1, not 0", ["run", "--concurrency", "0", "--url", "postgres://x/y"]],
    ["there is no file nowhere.sql", ["check", "nowhere.sql", "--url", "postgres://x/y"]],
    ["--port needs a port, not 70000", ["dev", "--port", "70000"]],
    ["--columns needs the name of one workflow, and --table", ["publish", "welcome_email", "--columns", "id"]],
    ["--table needs the name of one workflow, and --table", ["plan", "a", "b", "--table", "app.users"]],
    ["no task in tasks declares where by_hand is published", ["publish", "by_hand"]],
  ])("refuses with exit code 2: %s", async (message, args) => {
    const { code, stdout, stderr } = await notika(...args);

    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr.split("\n")[0]).toContain(`error: ${message}`);
  });
});

describe.concurrent("a database that cannot be reached", () => {
  test.each([
    [
      "nobody listens",
      `postgres://ada:${password}@127.0.0.1:1/app`,
      /cannot connect to the database: 127.0.0.1, port 1: connection refused: nothing is listening there/,
      1,
    ],
    [
      "a name nobody has",
      `postgres://ada:${password}@no.such.host.invalid/app`,
      /cannot connect to the database: no.such.host.invalid, port 5432: /,
      1,
    ],
    ["a port that is none", `postgres://ada:${password}@localhost:many/app`, /URL of the database cannot be read/, 2],
    ["a password as it is", `postgres://ada:${password}#/x@localhost/app`, /URL of the database cannot be read/, 2],
    ["half a code in it", `postgres://ada:${password}%@localhost/app`, /URL of the database cannot be read/, 2],
    ["another protocol", `mysql://ada:${password}@localhost/app`, /URL of the database cannot be read/, 2],
    ["no protocol", `ada:${password}@localhost/app`, /URL of the database cannot be read/, 2],
  ])("is said at once, without the password: %s", async (_, url, message, code) => {
    const answer = await notika("status", "--url", url);

    expect(answer).toEqual({ code, stdout: "", stderr: expect.stringMatching(message) });
    expect(answer.stderr).toContain("\nhint: ");
    expect(answer.stderr).not.toContain(password);
  });

  test("is found in the environment, too", async () => {
    const answer = await notikaWith({ DATABASE_URL: `postgres://ada:${password}@127.0.0.1:1/app` }, "run");

    expect(answer).toMatchObject({ code: 1, stderr: expect.stringContaining("cannot connect to the database: ") });
    expect(answer.stderr).not.toContain(password);
  });

  test("is not betrayed by an argument in the wrong place either", async () => {
    const url = `postgres://ada:${password}@localhost/app`;

    const wrong = [[url], ["status", url], ["retry", url, "--url", url], [`--url=${url}`, "status"]];
    const answers = await Promise.all(wrong.map((args) => notika(...args)));

    for (const answer of answers)
      expect(answer).toMatchObject({ code: 2, stderr: expect.not.stringContaining(password) });
  });
});

describe("a database without Notika", () => {
  test("is told how to get it, and gets it", async () => {
    await using bare = await serve();
    const on = ["--url", bare.url];

    const commands = [["status"], ["runs"], ["retry", "1"], ["unpublish", "x"], ["publish"], ["run"]];
    const answers = await Promise.all(commands.map((args) => notika(...args, ...on)));
    for (const answer of answers) {
      expect(answer).toEqual({
        code: 1,
        stdout: "",
        stderr: "error: notika is not installed in this database\nhint: Run: npx notika install\n",
      });
    }

    const first = await notika("install", ...on);
    expect(first).toMatchObject({ code: 0, stdout: expect.stringMatching(/^step +outcome +detail\n.*version +ok /s) });

    const again = await notika("upgrade", "--json", ...on);
    expect(again.code).toBe(0);
    expect(JSON.parse(again.stdout)).toMatchObject({ applied: [], steps: expect.arrayContaining([]) });

    expect(await notika("status", ...on)).toMatchObject({ code: 0 });
  });

  test("gets the same by the script that sql prints", async () => {
    await using bare = await serve();
    const { code, stdout } = await notika("sql");

    expect({ code, stdout }).toEqual({ code: 0, stdout: await installScript() });
    await bare.script(stdout);

    expect(await notika("status", "--url", bare.url)).toMatchObject({ code: 0 });
  });

  test("which nobody reads to its end", async () => {
    const { code, stderr } = await shell("notika sql | head -n 1");

    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });
});

describe("plan, publish and unpublish", () => {
  beforeEach(() => installed.script("select notika.unpublish(workflow) from notika.workflows"));

  test("do what the tasks declare", async () => {
    const plan = await onInstalled("plan");
    expect(plan).toMatchObject({ code: 0, stderr: "" });
    await installed.script(`begin; ${plan.stdout}; rollback`);
    expect(plan.stdout).toContain("-- lock: share row exclusive on app.users\ncreate or replace trigger");

    expect(await onInstalled("publish")).toEqual({
      code: 0,
      stdout:
        "workflow       table      outcome\n" +
        "audit          app.users  published\n" +
        "welcome_email  app.users  published\n",
      stderr: "",
    });
    expect(JSON.parse((await onInstalled("publish", "audit", "--json")).stdout)).toEqual([
      { workflow: "audit", table: "app.users", outcome: "unchanged" },
    ]);
    expect((await onInstalled("plan")).stdout).toBe("-- audit: nothing to do\n\n-- welcome_email: nothing to do\n");
    expect(JSON.parse((await onInstalled("plan", "audit", "--json")).stdout)).toEqual([
      { workflow: "audit", steps: [] },
    ]);

    expect(await onInstalled("unpublish", "audit", "welcome_email")).toMatchObject({ code: 0, stderr: "" });
    expect(await published()).toEqual([]);
  });

  test("take along what the runs of a workflow wait for", async () => {
    await task("drip", {
      on: { table: "app.users", columns: ["id"] },
      waitsFor: { change: { table: "app.users", operations: ["update"], columns: ["id"], match: ["id"] } },
      cancelOn: { table: "app.users", operations: ["delete"], columns: ["id"], match: { id: "id" } },
    });
    const plan = await onInstalled("plan", "drip");
    const answer = await onInstalled("publish", "drip");
    const again = await onInstalled("plan", "drip");
    await rm(path.join(project, "tasks/drip.ts"));

    expect(plan.stdout).toMatch(/^-- drip\n[\s\S]*^-- drip:change\n[\s\S]*^-- drip:cancel\n/m);
    expect(answer).toEqual({
      code: 0,
      stdout:
        "workflow     table      outcome\n" +
        "drip         app.users  published\n" +
        "drip:change  app.users  published\n" +
        "drip:cancel  app.users  published\n",
      stderr: "",
    });
    expect(again.stdout).toBe(
      "-- drip: nothing to do\n\n-- drip:change: nothing to do\n\n-- drip:cancel: nothing to do\n",
    );
    expect((await onInstalled("status", "--json")).stdout).toContain('"workflow": "drip:change"');
    expect(JSON.parse((await onInstalled("unpublish", "drip", "--json")).stdout)).toEqual(
      ["drip", "drip:cancel", "drip:change"].map((workflow) => ({ workflow, outcome: "unpublished" })),
    );
  });

  test("do what options describe", async () => {
    const { code, stdout } = await onInstalled(
      ...["publish", "shout", "--table", "app.users", "--operations", "update, insert", "--columns", "id,email"],
      ...["--watch", "email", "--condition", "new.id > 0", "--guard", "warn", "--on-rename", "block", "--json"],
    );

    expect({ code, outcome: JSON.parse(stdout) }).toEqual({
      code: 0,
      outcome: [{ workflow: "shout", table: "app.users", outcome: "published" }],
    });
    expect(await published()).toEqual([
      {
        workflow: "shout",
        table_name: "app.users",
        operations: ["insert", "update"],
        columns: ["id", "email"],
        watch: ["email"],
        condition: "new.id > 0",
        guard: "warn",
        on_rename: "block",
      },
    ]);
  });

  test("publish all or nothing, and say what the database says", async () => {
    await task("zz_wrong", { on: { table: "app.users", columns: ["name"] } });
    const answer = await onInstalled("publish");
    await rm(path.join(project, "tasks/zz_wrong.ts"));

    expect(answer).toEqual({
      code: 1,
      stdout: "",
      stderr: expect.stringMatching(
        /^error: column "name" of table app.users does not exist\ndetail: Its columns are id, email.\nhint: .*notika.publish\('zz_wrong', 'app.users'.*\n$/,
      ),
    });
    expect(await published()).toEqual([]);
  });

  test("say that a workflow to unpublish is not published", async () => {
    expect(await onInstalled("unpublish", "lunch")).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('error: workflow "lunch" is not published\nhint: '),
    });
  });
});

describe("what happens to runs", () => {
  test("is shown by status and runs, and changed by retry and cancel", async () => {
    await using served = await serve(install);
    const on = ["--url", served.url];
    await served.script(`
      create table public.users (id int);
      create table public.orders (id int);
      select notika.publish('welcome_email', 'public.users'), notika.publish('order_shipped', 'public.orders');
      insert into users values (1), (2), (3);`);
    await served.script(`
      select notika.dispatch();
      select notika._beat('worker-1', 'a-host', 77, '{welcome_email}');
      select notika._finish((
        select json_agg(json_build_object('run_id', r.run_id, 'workflow', r.workflow, 'state', o.state,
                                          'attempts', 2, 'error', o.error, 'created_at', r.created_at, 'started_at', now()))
          from notika.runs as r
          join (values (1, 'failed', 'the mail service is away'), (2, 'done', null)) as o (run_id, state, error) using (run_id)));
      select notika_worker.complete_jobs(array_agg(id)) from notika_worker._private_jobs where key in ('1', '2');
      insert into orders values (1);`);

    const status = await notika("status", ...on);
    expect({ ...status, stdout: status.stdout.replaceAll(/\d+ (s|kB)\b/g, "N $1") }).toEqual({
      code: 0,
      stdout: `Workflows
workflow       table          operations  state      task
order_shipped  public.orders  insert      published  missing
welcome_email  public.users   insert      published  found

Events
waiting  oldest  ring
1        N s     N kB

Runners
host    pid  tasks  heard
a-host  77   1      N s ago

Runs that have not ended, or ended in the last hour
done  failed  ready
1     1       2

Health
severity  finding  detail
ok        guard    judges migrations when they commit

Failures of the last hour
run  workflow       attempts  ended    error
1    welcome_email  2         N s ago  the mail service is away
`,
      stderr: "",
    });
    expect(JSON.parse((await notika("status", "--json", ...on)).stdout)).toMatchObject({
      workflows: [{ workflow: "order_shipped", task: "missing" }, { task: "found" }],
      waiting: { events: 1, blocked_by: [] },
      runners: [{ host: "a-host", tasks: ["welcome_email"] }],
      runs: { done: 1, failed: 1, ready: 2 },
      failures: [{ run: "1", error: "the mail service is away" }],
    });

    const runs = await notika("runs", ...on);
    expect(runs.stdout.split("\n").map((line) => line.split(/ {2,}/).slice(0, 4))).toEqual([
      ["run", "workflow", "state", "attempts"],
      ["4", "order_shipped", "ready", "0"],
      ["3", "welcome_email", "ready", "0"],
      ["2", "welcome_email", "done", "2"],
      ["1", "welcome_email", "failed", "2"],
      [""],
    ]);
    const chosen = await notika(
      "runs",
      "--workflow",
      "welcome_email",
      "--state",
      "ready",
      "--limit",
      "5",
      "--json",
      ...on,
    );
    expect(JSON.parse(chosen.stdout)).toMatchObject([{ run: "3", state: "ready", error: null }]);
    expect((await notika("runs", "--state", "expired", ...on)).stdout).toBe("no runs\n");

    expect(await notika("retry", "1", "2", ...on)).toMatchObject({ code: 0, stderr: "" });
    expect(await notika("retry", "1", ...on)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^error: run 1 has not ended: it is ready\nhint: .*notika.cancel\(1\)/),
    });
    expect(await notika("retry", "99", ...on)).toMatchObject({ code: 1, stderr: expect.stringMatching(/no run 99/) });

    expect(await notika("cancel", "1", "--json", ...on)).toEqual({
      code: 0,
      stdout: '[\n  {\n    "run": "1",\n    "outcome": "cancelled"\n  }\n]\n',
      stderr: "",
    });
    expect(await notika("cancel", "1", "2", ...on)).toEqual({
      code: 1,
      stdout: "run  outcome\n1    had already ended\n2    cancelled\n",
      stderr: "",
    });
  });

  test("run does not make where the database has another version, and says what mends it", async () => {
    await using served = await serve(install);
    const having = async (version: string) => {
      await served.script(
        `create or replace function notika.version() returns text language sql as $$ select '${version}' $$`,
      );
      return notika("run", "--url", served.url);
    };
    const own = (await notika("--version")).stdout.trim();

    expect(await having("0.0.9")).toMatchObject({
      code: 1,
      stderr: `error: the database has notika 0.0.9, this is notika ${own}\nhint: Run: npx notika upgrade\n`,
    });
    expect(await having("0.10.0")).toMatchObject({
      code: 1,
      stderr: `error: the database has notika 0.10.0, this is notika ${own}\nhint: Run: npm install notika@0.10.0\n`,
    });
  });

  test("run does not make where the database has other migrations, and says what mends it", async () => {
    await using served = await serve(install);
    const having = async (change: string) => {
      await served.script(change);
      return notika("run", "--url", served.url);
    };

    expect(await having("insert into notika.migration (name, hash) values ('000900-later', '')")).toMatchObject({
      code: 1,
      stderr: `error: the database has migration "000900-later", which this notika does not know\nhint: Run: npm install notika@latest\n`,
    });
    expect(await having("delete from notika.migration")).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^error: the database lacks migration "000001-.*"\nhint: Run: npx notika upgrade\n$/,
      ),
    });
    expect(await having("drop function notika._migrations()")).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^error: the database lacks migration ".*"\nhint: Run: npx notika upgrade\n$/),
    });
  });

  test("run makes, until it is told to stop", async () => {
    await using served = await serve(install);
    await served.script("create table users (id int); select notika.publish('by_hand', 'public.users')");

    const running = start([...notikaCommand, "run", "--json", "--url", served.url], project);
    await running.says(/"running"/);
    await served.script("insert into users values (7)");
    await running.says(/"message":"done","workflow":"by_hand","run":"1"/);
    running.kill("SIGTERM");

    const { code, stderr } = await running.ended;
    const lines = stderr
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(code).toBe(0);
    expect(lines.at(-1)).toMatchObject({ level: "info", message: "stopped" });
    expect(lines).toContainEqual(expect.objectContaining({ level: "warn", message: expect.stringContaining("audit") }));
  });
});

const onInstalled = (...args: string[]) => notika(...args, "--url", installed.url);
const notika = (...args: string[]) => notikaWith({}, ...args);
const notikaWith = (env: Record<string, string>, ...args: string[]) =>
  start([...notikaCommand, ...args], project, env).ended;

function shell(script: string) {
  const command = notikaCommand.map((word) => `'${word}'`).join(" ");
  return start(["bash", "-c", `set -o pipefail; notika() { ${command} "$@"; }; ${script}`], project).ended;
}

/** A Postgres on a port of this machine. */
async function serve(prepare: Parameters<typeof openEmbedded>[0]["prepare"] = async () => {}) {
  const version = prepare === install ? await installVersion() : "empty";
  const { db, database, wire, close: end } = await openEmbedded({ prepare, version });
  const server = await listenTcp(wire, 0, "127.0.0.1");
  const close = () => server.close().then(end);
  return {
    url: `postgres://postgres:${password}@127.0.0.1:${server.port}/postgres`,
    database,
    script: (text: string) => db.exec(text),
    close,
    [Symbol.asyncDispose]: close,
  };
}

async function task(name: string, definition: object) {
  await mkdir(path.join(project, "tasks"), { recursive: true });
  await writeFile(
    path.join(project, `tasks/${name}.ts`),
    `export default { ...${JSON.stringify(definition)}, async run() {} };`,
  );
}

function published() {
  return installed.database.execute(
    raw("select workflow, table_name, operations, columns, watch, condition, guard, on_rename from notika.workflows"),
  );
}
