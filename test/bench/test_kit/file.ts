// What a test file does, timed: prints milliseconds as JSON.
import { workflow } from "../../../runner/index.ts";
import { createTestNotika, type TestNotika } from "../../../runner/testing/index.ts";

const start = await since(0, open);
const t = start.result;
const oneTest = await since(performance.now(), async () => {
  await t.sql`insert into public.users (email) values ('ada@example.com')`;
  await t.settle();
  const [run] = await t.runs();
  if (run?.state !== "done") throw new Error(`the run is ${run?.state}`);
});
await t.close();
const next = await since(performance.now(), open);
await next.result.close();

process.stdout.write(JSON.stringify({ start: start.ms, "one test": oneTest.ms, "next world": next.ms }));

async function since<Result>(started: number, work: () => Promise<Result>): Promise<{ ms: number; result: Result }> {
  const result = await work();
  return { ms: performance.now() - started, result };
}

function open(): Promise<TestNotika> {
  return createTestNotika({
    schema: "create table public.users (id bigint generated always as identity primary key, email text)",
    tasks: {
      welcome_email: workflow({
        on: { table: "public.users", columns: ["id", "email"] },
        run: ({ event, step }) => step.run("greet", () => event.new.email),
      }),
    },
  });
}
