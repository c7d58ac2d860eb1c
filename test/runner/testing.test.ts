import { afterAll, beforeAll, expect, test } from "vitest";
import { NonRetriable, sql, workflow } from "../../runner/index.ts";
import { createTestNotika, type TestNotika } from "../../runner/testing/index.ts";

const greeted: string[] = [];
let t: TestNotika;

beforeAll(async () => {
  t = await createTestNotika({
    schema: `create schema app;
      create table app.users (id bigint generated always as identity primary key, email text, greeted boolean);`,
    tasks: {
      welcome_email: workflow({
        on: { table: "app.users", columns: ["id", "email"], condition: "new.email is not null" },
        async run({ event, query }) {
          if (event.new.email === "nobody") throw new NonRetriable("nobody lives here");
          if (event.new.email === "busy") throw new Error("try again later");
          greeted.push(event.new.email);
          await query(sql`update app.users set greeted = true where id = ${event.new.id}`);
        },
      }),
    },
  });
});
afterAll(() => t.close());

test("a test goes from an insert to the outcome of its run", async () => {
  const [user] = await t.sql<{ id: string }>`insert into app.users (email) values (${"ada"}) returning id`;
  await t.sql`insert into app.users (email) values (null)`;

  await t.settle();

  expect(greeted).toEqual(["ada"]);
  expect(await t.runs()).toEqual([
    {
      id: "1",
      workflow: "welcome_email",
      state: "done",
      attempts: 1,
      error: null,
      event: {
        id: "1",
        workflow: "welcome_email",
        operation: "insert",
        table: "app.users",
        at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/),
        new: { id: user?.id, email: "ada" },
        old: null,
        truncated: false,
        depth: 0,
      },
    },
  ]);
  expect(await t.sql`select greeted from app.users where email = 'ada'`).toEqual([{ greeted: true }]);
});

test("an error is tried again later, a NonRetriable ends the run", async () => {
  await t.sql`insert into app.users (email) values ('nobody'), ('busy')`;

  await t.settle();

  const [, nobody, busy] = await t.runs();
  expect(nobody).toMatchObject({ state: "failed", attempts: 1, error: "nobody lives here" });
  expect(busy).toMatchObject({ state: "retrying", attempts: 1, error: "try again later" });
});
