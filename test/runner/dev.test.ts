import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import path from "node:path";
import postgres from "postgres";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { writeExample } from "../../runner/commands/dev/example.ts";
import { dataFolder } from "../support/postgres.ts";
import { linkSource, notikaCommand, start } from "./process.ts";

vi.setConfig({ testTimeout: 60_000 }); // each start takes a second or, on a busy machine, many

let project: string;
let running: ReturnType<typeof start>[] = [];

beforeEach(async () => {
  project = await mkdtemp(path.join(dataFolder(), "notika-dev-"));
  await linkSource(project);
});
afterEach(async () => {
  for (const process of running) process.kill("SIGKILL");
  await Promise.all(running.map(({ ended }) => ended));
  running = [];
  await rm(project, { recursive: true, force: true });
});

test("an empty folder is offered the example", async () => {
  expect(await dev().ended).toEqual({
    code: 1,
    stdout: "",
    stderr: expect.stringMatching(/^error: there is no folder tasks\nhint: .*notika dev --example\n$/),
  });
  expect(await readdir(project)).toEqual(["node_modules"]);
});

describe("the example", () => {
  test("is written and runs, and goes on where it stopped", async () => {
    const first = dev("--example");
    const url = await urlOf(first);
    await first.says(/order_shipped is published on shop.orders/);
    await first.says(/welcome_customer is published on shop.customers/);
    await first.says(new RegExp(`psql ${url} -c "(insert .*)"`));
    for (const _ of [1, 2, 3, 4])
      await first.says(/✓ #\d (welcome_customer insert|order_shipped update) shop\.\w+ \d+ ms\n/);
    await using sql = connect(url);
    await sql`insert into shop.customers (name, email) values ('Alan', 'alan@example.com')`;
    await first.says(/✓ #5 welcome_customer insert shop.customers/);
    expect(first.said.stderr).toContain("Dear Alan, welcome! to=alan@example.com");
    expect(first.said.stdout + first.said.stderr).not.toContain("\u001b");
    await sql.end();

    const asked = Date.now();
    first.kill("SIGINT");
    expect(await first.ended).toMatchObject({ code: 0, stderr: expect.stringContaining("SIGINT: stopping") });
    expect(Date.now() - asked).toBeLessThan(5000);
    expect(await readdir(path.join(project, ".notika"))).toEqual(["data"]);
    expect((await readdir(project)).sort()).toEqual([".notika", "node_modules", "schema.sql", "seed.sql", "tasks"]);

    const second = dev("--example");
    await using again = connect(await urlOf(second));
    await second.says(/Try it/);
    expect(await again`select name from shop.customers order by id`).toEqual(
      ["Ada", "Grace", "Nobody", "Alan"].map((name) => ({ name })),
    );
    await again.end();
    second.kill("SIGTERM");
    expect(await second.ended).toMatchObject({ code: 0, stdout: "" });
  });

  test("ends when its SQL fails, and says where", async () => {
    await write("seed.sql", "insert into shop.customers values (boom)");

    expect(await dev("--example").ended).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/\nerror: seed.sql: column "boom" does not exist\nhint: .*\n$/),
    });
    expect(await readdir(path.join(project, ".notika"))).toEqual(["data"]);
  });

  test("leaves alone what is there, and is a package of its own where there is none", async () => {
    await rm(path.join(project, "node_modules"), { recursive: true });
    await writeExample(path.join(project, "tasks"));
    await writeFile(path.join(project, "tasks/order_shipped.ts"), "changed");
    await writeFile(path.join(project, "seed.sql"), "changed");
    await rm(path.join(project, "schema.sql"));
    await writeExample(path.join(project, "tasks"));

    expect(await read("tasks/order_shipped.ts")).toBe("changed");
    expect(await read("seed.sql")).toBe("changed");
    expect(await read("schema.sql")).toBe(await readFile("runner/example/schema.sql", "utf8"));
    expect(JSON.parse(await read("package.json"))).toMatchObject({
      type: "module",
      dependencies: { notika: expect.stringMatching(/^\^/) },
    });
    expect(JSON.parse(await read("node_modules/notika/package.json"))).toMatchObject({ name: "notika" });
  });
});

test("tasks are loaded again when they change", async () => {
  await write("tasks/_word.ts", 'export const word = "hello";');
  await write("tasks/greet.ts", greet("public.people"));
  const it = dev();
  const url = await urlOf(it);
  await it.says(
    /greet cannot be published yet: .*table "public.people" does not exist\n {2}Workflow "greet".*\n {2}.*pg_tables/,
  );
  await it.says(/Try it/);

  await using sql = connect(url);
  await sql`create table people (name text)`;
  await it.says(/greet is published on public.people/);
  await sql`insert into people values ('Ada')`;
  await it.says(/#1 hello Ada/);

  await write("tasks/_word.ts", 'export const word = "good evening";');
  await it.says(/tasks reloaded: greet/);
  await it.says(/greet is published/);
  await sql`insert into people values ('Grace')`;
  await it.says(/#2 good evening Grace/);

  await write("tasks/greet.ts", "export default {{");
  await it.says(/tasks\/greet.ts:1: .*\n.*The tasks loaded before stay active/);
  await sql`insert into people values ('Alan')`;
  await it.says(/#3 good evening Alan/);

  // As an editor saves.
  await write("tasks/.greet.ts.swp", greet("public.people").replace("word}", "word}, dear"));
  await rename(path.join(project, "tasks/.greet.ts.swp"), path.join(project, "tasks/greet.ts"));
  await it.says(/greet is published/);
  await sql`insert into people values ('Edsger')`;
  await it.says(/#4 good evening, dear Edsger/);

  await write(
    "tasks/fail.ts",
    `export default { on: { table: "public.people" }, run() { throw new Error("not today"); } };`,
  );
  await it.says(/tasks reloaded: fail, greet/);
  await it.says(/fail is published on public.people/);
  await sql`insert into people values ('Barbara')`;
  await it.says(/↻ #\d fail insert public.people \d+ ms\n {2}not today, will be retried/);

  await write(
    "tasks/fail.ts",
    `export default {
      on: { table: "public.people" },
      retries: 0,
      run() { setTimeout(() => { throw new Error("left alone"); }); process.exit(3); },
    };`,
  );
  await it.says(/fail is published on public.people/);
  await sql`insert into people values ('Donald')`;
  await it.says(/✗ #\d fail insert public.people \d+ ms\n {2}the task called process.exit\(3\)/);
  await it.says(/uncaught error of a run that is over; .*\n {2}Error: left alone\n {6}at .*\(.{0,80}\/tasks\/fail.ts:/);

  await rm(path.join(project, "tasks/fail.ts"));
  await it.says(/fail no longer has a task.*notika.unpublish\('fail'\)/);

  await write("tasks/yearly.ts", 'export default { schedule: { cron: "@yearly" }, run() {} };');
  await it.says(/yearly is published by time/);
  await sql`select notika.emit('yearly')`;
  await it.says(/✓ #\d yearly emit \d+ ms/);
  await sql.end();
  it.kill("SIGINT");
  expect(await it.ended).toMatchObject({ code: 0 });
});

test("nobody else on the machine reads the data", async () => {
  const mode = async (folder: string) => ((await stat(path.join(project, folder))).mode & 0o777).toString(8);
  await mkdir(path.join(project, "tasks"));
  const first = dev();
  await first.says(/Try it/);
  const modes = [await mode(".notika"), await mode(".notika/data")];
  first.kill("SIGTERM");
  await first.ended;

  for (const folder of [".notika", ".notika/data"]) await chmod(path.join(project, folder), 0o755);
  await chmod(project, 0o755);
  const second = dev();
  await second.says(/Try it/);
  modes.push(await mode(".notika"), await mode(".notika/data"));
  second.kill("SIGTERM");
  await second.ended;
  const third = dev("--data", ".");
  await third.says(/Try it/);
  modes.push(await mode("data"));

  expect(modes).toEqual(["700", "700", "700", "700", "700"]);
  expect(await mode(".")).toBe("755");
});

describe("a folder that is in use", () => {
  test("is refused to a second dev, but not after the first was killed, and a port that is taken is no obstacle", async () => {
    await mkdir(path.join(project, "tasks"));
    const taken = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => taken.once("listening", resolve));
    const { port } = taken.address() as { port: number };

    const first = start([...notikaCommand, "dev", "--port", String(port)], project);
    running.push(first);
    const [, url] = await first.says(/(postgres:\S+) \(port \d+ is taken\)/);
    expect(url).not.toContain(`:${port}/`);
    await first.says(/there is no task in tasks yet/);
    await first.says(/Try it/);
    taken.close();

    expect(await dev().ended).toEqual({
      code: 1,
      stdout: "",
      stderr: expect.stringMatching(
        new RegExp(
          `error: notika dev is already running in this folder, as process ${first.pid}\nhint: .*dev --data .*dev.pid`,
        ),
      ),
    });

    first.kill("SIGKILL");
    await first.ended;
    expect(existsSync(path.join(project, ".notika/dev.pid"))).toBe(true);
    const second = dev();
    await second.says(/Try it/);
    second.kill("SIGTERM");
    expect(await second.ended).toMatchObject({ code: 0 });
    expect(existsSync(path.join(project, ".notika/dev.pid"))).toBe(false);
  });
});

test.each([
  ["a terminal", {}, true],
  ["one that does not want it", { NO_COLOR: "1" }, false],
])("colour is for a terminal: %s", async (_, env, isColoured) => {
  await mkdir(path.join(project, "tasks"));
  const it = start(["script", "-qec", `exec ${notikaCommand.join(" ")} dev --port 0`, "/dev/null"], project, {
    TERM: "xterm",
    ...env,
  });
  running.push(it);

  const [title] = await it.says(/[^\n]*Notika [^\n]*\n/);

  expect(title.includes("\u001b[1m")).toBe(isColoured);
});

function dev(...args: string[]) {
  const process = start([...notikaCommand, "dev", "--port", "0", ...args], project);
  running.push(process);
  return process;
}

async function urlOf(it: ReturnType<typeof dev>): Promise<string> {
  const [url] = await it.says(/postgres:\/\/postgres@127\.0\.0\.1:\d+\/postgres/);
  return url;
}

function connect(url: string) {
  const sql = postgres(url, { max: 1, onnotice() {} });
  return Object.assign(sql, { [Symbol.asyncDispose]: () => sql.end() });
}

function greet(table: string): string {
  return `import { workflow } from "notika";
    import { word } from "./_word.ts";
    export default workflow({
      on: { table: "${table}" },
      async run({ event, log }) {
        log.info(\`\${word} \${event.new.name}\`);
      },
    });`;
}

async function write(file: string, text: string) {
  await mkdir(path.dirname(path.join(project, file)), { recursive: true });
  await writeFile(path.join(project, file), text);
}

function read(file: string): Promise<string> {
  return readFile(path.join(project, file), "utf8");
}
