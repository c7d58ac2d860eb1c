import { afterAll, beforeAll, expect, test } from "vitest";
import { NonRetriable, sql, workflow } from "../../runner/index.ts";
import { createTestNotika, type TestNotika } from "../../runner/testing/index.ts";
import type { Step } from "../../runner/workflow/step.ts";
import { randomFrom } from "../support/random.ts";

/** A workflow as data: made at random, and run once undisturbed and once with crashes. */
type Program =
  | { kind: "run" | "query"; name: string }
  | { kind: "fails"; name: string; times: number }
  | { kind: "optional"; name: string; otherwise: Program[] }
  | { kind: "sleep"; name: string; hours: number }
  | { kind: "each"; name: string; keys: number[] }
  | { kind: "beside" | "loop"; parts: Program[] };

let t: TestNotika;

beforeAll(async () => {
  t = await createTestNotika({
    schema: `create schema app;
      create table app.starts (id int generated always as identity primary key);
      create table app.effects (run_id bigint, name text);`,
    tasks: {},
  });
});
afterAll(() => t.close());

const seeds = Array.from({ length: Number(process.env.NOTIKA_TEST_SEEDS ?? 25) }, (_, seed) => seed + 1);

test.each(seeds)("workflow %i ends the same whether or not it crashes on the way", async (seed) => {
  const random = randomFrom(seed);
  const program = block(random, 3);
  const failures = new Map<string, number>();
  await t.upgrade({
    random: workflow({
      on: { table: "app.starts", columns: ["id"] },
      async run({ event, step }) {
        const said = await interpret(program, step, event.id, failures);
        await step.run("end", () => said);
      },
    }),
  });

  const undisturbed = await run();
  failures.clear();
  const names = undisturbed.steps.filter(({ state }) => state === "done").map(({ name }) => name);
  const crashes = names.filter(() => random() < 0.5).slice(0, 8); // fewer than there are attempts
  for (const name of crashes) t.crashAfter(name);
  if (random() < 0.3) t.replayEveryStep();
  const disturbed = await run();
  t.replayEveryStep(false);

  expect(disturbed).toEqual(undisturbed);
  expect(undisturbed.state).toBe("done");
  const queries = undisturbed.steps.filter(({ name }) => name.startsWith("query"));
  expect(undisturbed.effects).toHaveLength(queries.length);
});

/** Runs the program once to its end, and gives what it leaves. */
async function run() {
  await t.sql`insert into app.starts default values`;
  await t.advance("30 days");
  const last = (await t.runs()).at(-1);
  const id = last?.id ?? "";
  const effects = await t.sql<{
    name: string;
  }>`select name from app.effects where run_id = ${id}::bigint order by name`;
  const steps = await t.steps(id);
  return {
    state: last?.state,
    steps: steps
      .map(({ name, state, result, error }) => ({ name, state, result, error }))
      .sort((a, b) => (a.name < b.name ? -1 : 1)),
    effects: effects.map(({ name }) => name),
  };
}

async function interpret(parts: Program[], step: Step, run: string, failures: Map<string, number>): Promise<unknown[]> {
  const said: unknown[] = [];
  for (const part of parts) said.push(await interpretOne(part, step, run, failures));
  return said;
}

async function interpretOne(part: Program, step: Step, run: string, failures: Map<string, number>): Promise<unknown> {
  switch (part.kind) {
    case "run":
      return step.run(part.name, () => `${part.name} was done`);
    case "query":
      return step.query(
        part.name,
        sql`insert into app.effects values (${run}::text::bigint, ${part.name}::text) returning name`,
      );
    case "fails":
      return step.run(part.name, () => {
        const count = (failures.get(part.name) ?? 0) + 1;
        failures.set(part.name, count);
        if (count <= part.times) throw new Error("not yet");
        return "at last";
      });
    case "optional":
      try {
        return await step.run(part.name, () => {
          throw new NonRetriable("cannot be done");
        });
      } catch (error) {
        return [(error as Error).message, await interpret(part.otherwise, step, run, failures)];
      }
    case "sleep":
      return step.sleep(part.name, `${part.hours} hours`);
    case "each":
      return step.each(part.name, part.keys, String, (key) => key * 2, { concurrency: 2 });
    case "beside":
      return Promise.all(part.parts.map((one) => interpretOne(one, step, run, failures)));
    case "loop":
      return [await interpret(part.parts, step, run, failures), await interpret(part.parts, step, run, failures)];
  }
}

function block(random: () => number, depth: number): Program[] {
  return Array.from({ length: 1 + Math.floor(random() * 3) }, () => program(random, depth));
}

let names = 0;
function program(random: () => number, depth: number): Program {
  const kinds = ["run", "query", "fails", "sleep", "each", "optional", "beside", "loop"] as const;
  const kind = kinds[Math.floor(random() * (depth > 0 ? kinds.length : 5))] ?? "run";
  const name = `${kind} ${++names}`;
  switch (kind) {
    case "fails":
      return { kind, name, times: 1 + Math.floor(random() * 3) };
    case "optional":
      return { kind, name, otherwise: block(random, depth - 1) };
    case "sleep":
      return { kind, name, hours: Math.floor(random() * 48) };
    case "each":
      return { kind, name, keys: [1, 2, 3].slice(0, Math.ceil(random() * 3)) };
    case "beside":
    case "loop":
      return { kind, parts: block(random, depth - 1) };
    default:
      return { kind, name };
  }
}
