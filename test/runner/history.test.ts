import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openEmbedded } from "../../runner/embedded/embedded.ts";
import { listenTcp } from "../../runner/embedded/server.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { notikaCommand, start } from "./process.ts";

let project: string;
let served: Awaited<ReturnType<typeof serve>>;

beforeAll(async () => {
  project = await mkdtemp(path.join(tmpdir(), "notika-history-"));
  served = await serve();
  await served.script(`
    create table public.users (id int primary key);
    create table public.orders (id int primary key);
    select notika.publish('welcome', 'public.users'), notika.publish('ship', 'public.orders');
    insert into public.users values (1), (2), (3);
    insert into public.orders values (2);`);
  await served.script("select notika.dispatch()");
  await served.script(`
    select * from notika._remember('[
      {"run_id": 1, "name": "send mail", "state": "done", "result": "{\\"id\\": 4}", "ms": 1500},
      {"run_id": 3, "name": "book seat 7#2", "state": "done", "ms": 1},
      {"run_id": 3, "name": "each seat/7", "state": "done", "ms": 1},
      {"run_id": 3, "name": "gone", "state": "done", "ms": 1}]')`);
  await finish(1, "failed", "the mail service\nis away");
  await finish(2, "done");
});
afterAll(async () => {
  await served?.close();
  await rm(project, { recursive: true, force: true });
});

describe("notika runs", () => {
  test("lists the latest, filtered by what one knows", async () => {
    const ids = async (...filter: string[]) => {
      const { code, stdout, stderr } = await notika("runs", "--json", ...filter);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      return JSON.parse(stdout).map(({ run }: { run: string }) => run);
    };

    const filters: [string[], string[]][] = [
      [[], ["4", "3", "2", "1"]],
      [["--workflow", "welcome", "--state", "failed"], ["1"]],
      [["--table", "public.orders"], ["4"]],
      [
        ["--key", "id=2"],
        ["4", "2"],
      ],
      [["--key", "id=2", "--table", "public.users", "--since", "1h"], ["2"]],
      [["--since", "2999-01-01", "--state", "done"], []],
      [["--since", "2020-01-01 10:30", "--limit", "1"], ["4"]],
    ];
    expect(await Promise.all(filters.map(([filter]) => ids(...filter)))).toEqual(filters.map(([, runs]) => runs));
    expect((await notika("runs")).stdout.split("\n")[0]).toMatch(/^run +workflow +state +attempts +created_at/);
  });

  test("tells one run as a timeline", async () => {
    const { code, stdout } = await notika("runs", "1");

    expect(code).toBe(0);
    expect(stdout).toMatch(/^at +entry +name +state +attempts +took +detail\n/);
    expect(stdout).toMatch(/event +welcome +insert\n/);
    expect(stdout).toMatch(/step +send mail +done +1 +1\.5 s +{"id": 4}\n/);
    expect(stdout).toMatch(/outcome +failed +2 .* the mail service\n/);
    expect(stdout).toContain('\nevent\n{\n  "id": "1",\n  "workflow": "welcome",');
    expect(stdout).toContain("\noutcome\n  the mail service\n  is away\n");

    const { run, timeline } = JSON.parse((await notika("runs", "3", "--json")).stdout);
    expect(run).toBe("3");
    expect(timeline.at(-1)).toMatchObject({ entry: "next", state: "ready" });
    expect(await notika("runs", "99")).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("there is no run 99\n"),
    });
  });

  test("follows what ends, a line each, as text or JSON", async () => {
    const text = start([...notikaCommand, "runs", "--tail", "--url", served.url], project);
    await text.says(
      /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d {2}1 {2}welcome {2}failed after 2 attempts: the mail service is away\n/m,
    );
    const json = start(
      [...notikaCommand, "runs", "--tail", "--json", "--workflow", "ship", "--url", served.url],
      project,
    );
    await finish(4, "done");

    await text.says(/ {2}4 {2}ship {2}done after 2 attempts\n/);
    await json.says(/^{"run":"4","workflow":"ship","state":"done",.*}\n$/m);
    text.kill("SIGINT");
    json.kill("SIGINT");
    expect((await text.ended).code).toBe(0);
    const lines = (await json.ended).stdout.trim().split("\n");
    expect(lines).toHaveLength(1);
  });

  test.each([
    ["only one run can be shown at a time", ["runs", "1", "2"]],
    ["lunch is not the id of a run", ["runs", "lunch"]],
    ["--key needs a column and its value, not id", ["runs", "--key", "id"]],
    ["--since needs a time, not lunch", ["runs", "--since", "lunch"]],
    ["retry needs ids of runs, or --workflow and --since for all that failed", ["retry", "--since", "2h"]],
    [
      "retry needs ids of runs, or --workflow and --since for all that failed",
      ["retry", "1", "--workflow", "a", "--since", "2h"],
    ],
  ])("refuses with exit code 2: %s", async (message, args) => {
    expect(await notika(...args)).toMatchObject({
      code: 2,
      stdout: "",
      stderr: expect.stringContaining(`error: ${message}\n`),
    });
  });
});

describe("notika check --tasks", () => {
  test("names the steps that unfinished runs remember and the code no longer has", async () => {
    await mkdir(path.join(project, "tasks"), { recursive: true });
    const write = (run: string) =>
      writeFile(
        path.join(project, "tasks/welcome.ts"),
        `export default async ({ step }) => {${run.replace("@{", "${")}};`,
      );
    await write(
      "for (const n of [7]) await step.run(`book seat @{n}`, f); await step.each('each seat', [7], String, f)",
    );

    const found = await notika("check", "--tasks");
    expect(found).toEqual({
      code: 1,
      stdout: "workflow  step  runs  run  problem\nwelcome   gone  1     3    the task has no such step\n",
      stderr: "",
    });
    await writeFile(path.join(project, "names.ts"), "export const gone = 'gone'");
    await write("/* book seat 7 */ `book seat @{1}`; 'each seat'; await import('../names.ts')");
    expect(await notika("check", "--tasks", "tasks")).toMatchObject({
      code: 0,
      stdout: "the tasks have all steps of unfinished runs\n",
    });
    await rm(path.join(project, "tasks/welcome.ts"));
    const { code, stdout } = await notika("check", "--tasks", "--json");
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toHaveLength(3);
    expect(JSON.parse(stdout)[0]).toMatchObject({ workflow: "welcome", run: "3", problem: "there is no such task" });
  });
});

// Last: it changes what the others look at.
describe("notika retry", () => {
  test("lets all runs of a workflow go again that failed since then", async () => {
    expect(await notika("retry", "--workflow", "welcome", "--since", "2h", "--from-start")).toEqual({
      code: 0,
      stdout: "1 run will run again\n",
      stderr: "",
    });
    expect(JSON.parse((await notika("retry", "--workflow", "welcome", "--since", "2h", "--json")).stdout)).toEqual({
      workflow: "welcome",
      runs: 0,
    });
    expect(await notika("retry", "2", "--from-start")).toMatchObject({ code: 0 });
  });
});

const notika = (...args: string[]) => start([...notikaCommand, ...args, "--url", served.url], project).ended;

async function finish(run: number, state: string, error: string | null = null) {
  const workflow = run === 4 ? "ship" : "welcome";
  await served.script(`
    select notika._finish('${JSON.stringify([{ run_id: run, workflow, state, attempts: 2, error, created_at: new Date() }])}');
    select notika_worker.complete_jobs(array_agg(id)) from notika_worker._private_jobs where key = '${run}';`);
}

async function serve() {
  const { db, wire, close } = await openEmbedded({ prepare: install, version: await installVersion() });
  const server = await listenTcp(wire, 0, "127.0.0.1");
  return {
    url: `postgres://postgres@127.0.0.1:${server.port}/postgres`,
    script: (text: string) => db.exec(text),
    close: () => server.close().then(close),
  };
}
