import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { expect } from "vitest";
import { fuzzing, hostileStrings, type Random, randomOf } from "../../support/fuzzing.ts";
import { test } from "../cluster.ts";

const { cases, seed } = fuzzing(60);

/** Those that end by themselves and may be given anything. */
const commands: Record<string, string[]> = {
  doctor: [],
  grant: ["--schema", "--tables", "--revoke"],
  plan: ["--table", "--operations", "--columns", "--watch", "--condition", "--guard", "--on-rename", "--tasks"],
  publish: ["--table", "--operations", "--columns", "--watch", "--condition", "--guard", "--on-rename", "--tasks"],
  check: ["--tasks", "--schema", "--github"],
  unpublish: [],
  status: [],
  runs: ["--workflow", "--state", "--since", "--table", "--key", "--limit"],
  retry: ["--workflow", "--since", "--from-start"],
  cancel: [],
  sql: [],
  run: ["--concurrency", "--deadline", "--nothing"],
};

test("whatever the command line says, it ends with a result or with what would be right", {
  timeout: cases * 1000,
}, async ({ db }) => {
  await db.database.script("create table canary (id int); create table app (id int primary key, note text)");
  const random = randomOf(seed);
  const given = Array.from({ length: cases }, () => commandLine(random));
  // An argument of a process has no zero byte.
  const lines = given.map((args) => JSON.stringify(args));

  const child = spawn(process.execPath, ["--import", "tsx", "test/server/cli/many.ts"], {
    env: { PATH: process.env.PATH, DATABASE_URL: db.url },
    stdio: ["pipe", "pipe", "inherit"],
  });
  child.stdin.end(lines.join("\n"));
  const answers = (await text(child.stdout))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);

  const problems = answers.flatMap((answer, i) =>
    isMeant(answer) ? [] : [{ i, seed, args: given[i], ...answer, stdout: answer.stdout.slice(0, 500) }],
  );
  expect(problems).toEqual([]);
  expect(answers).toHaveLength(cases);
  expect(await db.query("select to_regclass('canary') is not null as there")).toEqual([{ there: true }]);
});

interface Answer {
  stdout: string;
  stderr: string;
  code: number;
  failure?: string;
}

/** An exit code that is documented, and no word of the insides of Node, Postgres or Notika. */
function isMeant({ stderr, code, failure }: Answer) {
  const inside =
    /^\s+at .*:\d+:\d+|\b(Type|Reference|Syntax|Range|URI)Error\b|\bundefined\b|\[object |XX000|cannot read prop/im;
  // What doctor and check find they write to stdout.
  const saysEnough = code !== 1 || stderr === "" || /^hint: /m.test(stderr);
  return failure === undefined && [0, 1, 2].includes(code) && !inside.test(stderr) && saysEnough;
}

function commandLine(random: Random): string[] {
  const name = random.chance(0.95) ? random.pick(Object.keys(commands)) : word(random);
  // These would go on until they are stopped.
  if (name === "run") return ["run", "--nothing", word(random)];
  const options = [...(commands[name] ?? []), "--json", "--url", "--constructor", "--__proto__"];
  const args = random.some(3, () => {
    const option = random.pick(options.filter((it) => it !== "--url" || random.chance(0.1)));
    if (random.chance(0.4)) return [word(random)];
    return [option, option === "--since" ? random.pick(times) : word(random)];
  });
  return [name, ...args.flat().filter((arg) => !["-", "--tail", "--apply"].includes(arg))];
}

const words = [
  "app",
  "public.app",
  "public.canary",
  "w",
  "w:x",
  "insert",
  "id",
  "id,note",
  "new.id > 1",
  "block",
  "1",
  "0",
  "999999999999999999",
];
const times = [
  "2h",
  "-1h",
  "99999999999 weeks",
  "2026-01-01",
  "9999-99-99",
  "0001-01-01",
  "1e9s",
  "done",
  "id=1",
  "=",
  "a=b=c",
  "tasks",
  ".",
];

const word = (random: Random) =>
  random.chance(0.7) ? random.pick([...words, ...times]) : `${random.pick(["", "w"])}${random.pick(hostileStrings)}`;
