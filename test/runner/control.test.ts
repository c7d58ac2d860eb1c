import { afterEach, describe, expect, test } from "vitest";
import { NonRetriable, workflow } from "../../runner/index.ts";
import { createTestNotika, type TestNotika } from "../../runner/testing/index.ts";

const schema = `create table orders (id int generated always as identity, customer text, amount int);`;
const on = { table: "public.orders" } as const;

describe("a workflow in the test kit", () => {
  let t: TestNotika;
  afterEach(() => t.close());

  test("with a key runs once for each", async () => {
    const shipped: string[] = [];
    t = await createTestNotika({
      schema,
      tasks: { ship: workflow({ on, key: "customer", run: ({ event }) => shipped.push(event.new.customer) }) },
    });

    await t.sql`insert into orders (customer) values ('ada'), ('bob'), ('ada')`;
    await t.settle();

    expect(shipped.sort()).toEqual(["ada", "bob"]);
    expect(await t.runs()).toMatchObject([
      { state: "done" },
      { state: "done" },
      { state: "cancelled", error: "run 1 has the same key" },
    ]);
  });

  test("with an order takes what belongs together one after the other, also through failures and waits", async () => {
    const taken: string[] = [];
    t = await createTestNotika({
      schema,
      tasks: {
        book: workflow({
          on,
          order: "customer",
          async run({ event, step }) {
            const { customer, amount } = event.new;
            if (amount === 1) await step.sleep("think", "1 day");
            await step.run("book", () => taken.push(`${customer} ${amount}`));
            if (amount === 2) throw new NonRetriable("refused");
          },
        }),
      },
    });
    t.failNext("book", new Error("not now"));

    await t.sql`insert into orders (customer, amount) values ('ada', 0), ('ada', 1), ('bob', 5), ('ada', 2), ('ada', 3)`;
    await t.settle();
    expect((await t.runs()).map(({ state }) => state)).toEqual(["retrying", "waiting", "done", "waiting", "waiting"]);
    await t.advance("1 minute");
    expect((await t.runs()).map(({ state }) => state)).toEqual(["done", "waiting", "done", "waiting", "waiting"]);
    await t.advance("1 day");

    expect(taken).toEqual(["bob 5", "ada 0", "ada 1", "ada 2", "ada 3"]);
    expect((await t.runs()).map(({ state }) => state)).toEqual(["done", "done", "done", "failed", "done"]);
  });

  test("with a concurrency lets the next go when one ends, sleeps or is to be tried again", async () => {
    const begun: number[] = [];
    t = await createTestNotika({
      schema,
      tasks: {
        ship: workflow({
          on,
          concurrency: 1,
          async run({ event, step }) {
            const { amount } = event.new;
            await step.run("begin", () => begun.push(amount));
            if (amount === 0) await step.sleep("rest", "1 hour");
          },
        }),
      },
    });
    t.failNext("begin");

    await t.sql`insert into orders (amount) values (0), (1), (2)`;
    await t.settle();
    expect(begun).toEqual([1, 2]);
    await t.advance("2 hours");

    expect(begun).toEqual([1, 2, 0]);
    expect((await t.runs()).map(({ state }) => state)).toEqual(["done", "done", "done"]);
  });

  test("with a digest gets all events of its window, oldest first", async () => {
    const digests: { first: string; amounts: number[] }[] = [];
    t = await createTestNotika({
      schema,
      tasks: {
        summarise: workflow({
          on,
          digest: { by: "customer", window: "1 hour" },
          async run({ event, events, step }) {
            await step.sleep("a moment", "1 minute");
            digests.push({ first: event.id, amounts: events.map((event) => event.new.amount) });
          },
        }),
      },
    });

    await t.sql`insert into orders (customer, amount) values ('ada', 1), ('bob', 2)`;
    await t.settle();
    await t.advance("30 minutes");
    await t.sql`insert into orders (customer, amount) values ('ada', 3)`;
    await t.advance("40 minutes");
    await t.sql`insert into orders (customer, amount) values ('ada', 4)`;
    await t.advance("2 hours");

    expect(digests).toEqual([
      { first: "1", amounts: [1, 3] },
      { first: "2", amounts: [2] },
      { first: "4", amounts: [4] },
    ]);
  });

  test("with a debounce waits until it is quiet, but not for ever", async () => {
    const seen: { at: string; amounts: number[] }[] = [];
    t = await createTestNotika({
      schema,
      tasks: {
        index: workflow({
          on,
          debounce: { window: "10 minutes", max: "1 hour" },
          run: ({ events }) => seen.push({ at: new Date().toISOString(), amounts: events.map((e) => e.new.amount) }),
        }),
      },
    });
    const began = Date.now();
    const minutes = () => seen.map(({ at }) => Math.round((Date.parse(at) - began) / 60_000));

    await t.sql`insert into orders (amount) values (1)`;
    await t.advance("9 minutes");
    await t.sql`insert into orders (amount) values (2)`;
    await t.advance("1 day");
    expect(seen.map(({ amounts }) => amounts)).toEqual([[1, 2]]);
    expect(minutes()).toEqual([19]);

    for (let minute = 0; minute < 80; minute += 8) {
      await t.sql`insert into orders (amount) values (${minute})`;
      await t.advance("8 minutes");
    }
    expect(seen.map(({ amounts }) => amounts)).toEqual([
      [1, 2],
      [0, 8, 16, 24, 32, 40, 48, 56],
    ]);
  });

  test("whose options its code no longer has is published without them", async () => {
    const run = () => {};
    t = await createTestNotika({ schema, tasks: { ship: workflow({ on, concurrency: 5, run }) } });
    expect(await t.sql`select options from notika.workflows`).toEqual([{ options: { concurrency: 5 } }]);

    await t.upgrade({ ship: workflow({ on, run }) });

    expect(await t.sql`select options from notika.workflows`).toEqual([{ options: {} }]);
  });
});

test.for([
  [{ key: 5 }, "key must be a column or a list of columns, not 5"],
  [{ order: [] }, "order must be a column or a list of columns, not []"],
  [{ digest: { by: [1], window: "1 hour" } }, "digest.by must be a column or a list of columns, not [1]"],
  [{ concurrency: 0 }, "concurrency must be a whole number from 1 to 10000, not 0"],
  [{ priority: 1.5 }, "priority must be a whole number from -1000 to 1000, not 1.5"],
  [{ priority: -1001 }, "priority must be a whole number from -1000 to 1000, not -1001"],
  [{ digest: { window: "1 hour", max: 0.5 } }, "digest.max must be a whole number from 1 to 10000, not 0.5"],
  [{ digest: {} }, 'digest.window must be a length of time, such as "5 minutes", not undefined'],
  [{ debounce: { window: "soon" } }, 'debounce.window must be a length of time, such as "5 minutes", not "soon"'],
  [{ debounce: { window: 5, max: "ever" } }, 'debounce.max must be a length of time, such as "5 minutes", not "ever"'],
  [
    { debounce: { window: 5 }, digest: { window: 5 } },
    "debounce and digest exclude each other: both gather events into one run",
  ],
  [
    { on: undefined, concurrency: 5 },
    "concurrency is published with on, which is missing; for a workflow that a DBA publishes, set it with notika.configure(…)",
  ],
] as const)("workflow(%j) is refused", ([options, message]) => {
  expect(() => workflow({ on, run() {}, ...(options as object) })).toThrow(new TypeError(message));
});
