import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { NonRetriable, workflow } from "../../runner/index.ts";
import { createTestNotika, type TestNotika } from "../../runner/testing/index.ts";
import { asWorkflow, type Context } from "../../runner/workflow/workflow.ts";

const waitsFor = {
  payment: { table: "app.payments", columns: ["user_id", "amount"], match: ["user_id"] },
  refund: { table: "app.payments", operations: ["delete"], columns: ["user_id", "amount"], match: ["user_id"] },
  news: { table: "app.news" },
} as const;
const cancelOn = { table: "app.users", operations: ["delete"], columns: ["id"], match: { id: "id" } } as const;

let t: TestNotika;
let user = 0;
let got: unknown[] = [];

beforeAll(async () => {
  t = await createTestNotika({
    schema: `create schema app;
      create table app.users (id int generated always as identity primary key);
      create table app.payments (user_id int, amount int);
      create table app.news (text text);`,
    tasks: {},
  });
});
afterAll(() => t.close());
afterEach(async () => {
  t.replayEveryStep(false);
  await t.sql`select notika.cancel(run_id) from notika.runs where finished_at is null`;
});

/** The task of all runs from now on. */
function deploy(task: (context: Context) => unknown, options: object = {}) {
  const on = { table: "app.users", columns: ["id"] };
  return t.upgrade({ drip: workflow({ on, waitsFor, cancelOn, ...options, run: task as never }) });
}

async function signUp() {
  got = [];
  const [row] = await t.sql<{ id: number }>`insert into app.users default values returning id`;
  user = row?.id ?? 0;
}

const pay = (amount: number, by = user) => t.sql`insert into app.payments values (${by}, ${amount})`;
const run = async () => (await t.runs()).at(-1);
const amount = (event: { new: { amount: number } | null } | null) => event?.new?.amount ?? null;

describe("step.waitFor", () => {
  test("gives the event of the change that matches, or null when the time is up", async () => {
    await deploy(async ({ event, step }) => {
      const match = { user_id: event.new?.id };
      const change = { table: "app.payments", operations: ["insert"], match } as const;
      got.push(await step.waitFor("paid", change, { timeout: "3 days" }));
      got.push(await step.waitFor("paid more", change, { timeout: 1000 }));
    });
    await signUp();
    await t.advance("2 days");
    expect(await run()).toMatchObject({ state: "waiting" });

    await pay(1, user + 1);
    await pay(2);
    await t.advance("2 seconds");

    expect(await run()).toMatchObject({ state: "done", error: null });
    expect(got.slice(-2)).toEqual([
      {
        id: expect.stringMatching(/^\d+$/),
        workflow: "drip:payment",
        operation: "insert",
        table: "app.payments",
        at: expect.stringMatching(/Z$/),
        new: { user_id: user, amount: 2 },
        old: null,
        truncated: false,
        depth: 0,
      },
      null,
    ]);
  });

  test("waits for as long as it takes without a timeout", async () => {
    await deploy(async ({ step }) => void got.push((await step.waitFor("any", { table: "app.news" }))?.operation));
    await signUp();
    await t.advance("400 days");
    expect(await run()).toMatchObject({ state: "waiting" });

    await t.sql`insert into app.news values ('')`;
    await t.settle();

    expect(await run()).toMatchObject({ state: "done" });
    expect(got).toEqual(["insert"]);
  });

  test("misses no change that came while the run did something else, and gets each once, in order", async () => {
    await deploy(async ({ event, step }) => {
      const payment = { table: "app.payments", operations: ["insert"], match: { user_id: event.new?.id } } as const;
      await step.sleep("a while", "1 day");
      for (let count = 0; count < 3; count++) got.push(amount((await step.waitFor("paid", payment)) as never));
    });
    t.replayEveryStep();
    await pay(1);
    await signUp();
    await pay(2);
    await pay(3);
    await t.settle();
    await t.advance("1 day");
    expect((await t.steps((await run())?.id ?? "")).map(({ name, state }) => `${name} ${state}`)).toEqual([
      "a while done",
      "paid done",
      "paid#2 done",
      "paid#3 waiting",
    ]);

    await pay(4);
    await t.settle();

    expect(await run()).toMatchObject({ state: "done" });
    expect(got.slice(-3)).toEqual([2, 3, 4]);
  });

  test("counts a change in the transaction that started the run, after the one that did", async () => {
    await deploy(async ({ event, step }) => {
      const match = { user_id: event.new?.id };
      got.push(amount((await step.waitFor("paid", { table: "app.payments", operations: ["insert"], match })) as never));
    });
    got = [];

    await t.sql`
      with signed_up as (insert into app.users default values returning id)
      insert into app.payments select id, 5 from signed_up`;
    await t.settle();

    expect(got).toEqual([5]);
  });

  test("races with a sleep, and the same one wins each time the run comes by", async () => {
    await deploy(async ({ event, step }) => {
      const match = { user_id: event.new?.id };
      const first = await Promise.race([
        step.sleep("too long", "1 hour").then(() => "sleep"),
        step.waitFor("paid", { table: "app.payments", operations: ["insert"], match }).then(() => "payment"),
      ]);
      await step.run("note", () => got.push(first));
      await step.sleep("rest", "2 hours");
      await step.run("note again", () => got.push(first));
    });
    await signUp();
    await t.advance("30 minutes");
    await pay(1);
    await t.advance("3 hours");

    expect(await run()).toMatchObject({ state: "done" });
    expect(got).toEqual(["payment", "payment"]);
  });

  test("survives a runner that dies right after", async () => {
    await deploy(async ({ event, step }) => {
      const match = { user_id: event.new?.id };
      await step.run("welcome", () => got.push("welcome"));
      const paid = await step.waitFor("paid", { table: "app.payments", operations: ["insert"], match });
      await step.run("thank", () => got.push(amount(paid as never)));
      await step.run("last", () => {});
    });
    t.crashAfter("welcome");
    t.crashAfter("thank");
    await signUp();
    await pay(7);
    await t.settle();

    expect(await run()).toMatchObject({ state: "done" });
    expect(got).toEqual(["welcome", 7]);
  });

  test("tells insert and delete of a table apart, and several sources of a table", async () => {
    await deploy(async ({ event, step }) => {
      const match = { user_id: event.new?.id };
      const refund = await step.waitFor("refund", { table: "app.payments", operations: ["delete"], match });
      got.push(refund?.old);
    });
    await signUp();
    await pay(8);
    await t.settle();
    expect(got).toEqual([]);
    await t.sql`delete from app.payments where user_id = ${user}`;
    await t.settle();

    expect(got).toEqual([{ user_id: user, amount: 8 }]);
  });

  test.for([
    [
      "no such source",
      { table: "app.mails", match: { user_id: 1 } },
      'step.waitFor("w"): the workflow declares no such change: add waitsFor: { my_source: {"table":"app.mails","match":["user_id"]} }, and publish it',
    ],
    [
      "several sources",
      { table: "app.payments", match: { user_id: 1 } },
      'step.waitFor("w"): the sources payment, refund fit: name one by its operations and condition',
    ],
    [
      "no value for what is compared",
      { table: "app.payments", operations: ["delete"], match: { user_id: null } },
      'step.waitFor("w"): source "refund" compares user_id: give match: { user_id: … } with a value',
    ],
    [
      "a value for what is not compared",
      { table: "app.news", match: { text: "hello" } },
      'step.waitFor("w"): source "news" does not compare text: declare match: ["text"] there, and publish it',
    ],
    [
      "a value that no event has",
      { table: "app.payments", operations: ["delete"], match: { user_id: new Date() } },
      'step.waitFor("w"): match: user_id must be a value as it appears in events, such as a string',
    ],
  ] as const)("with %s fails at once", async ([, change, error]) => {
    await deploy(({ step }) => step.waitFor("w", change as never));
    await signUp();
    await t.settle();

    expect(await run()).toMatchObject({ state: "failed", attempts: 1, error });
  });

  test("of a source that is not published, or otherwise, fails at once, with the call that mends it", async () => {
    await deploy(async ({ event, step }) => {
      const match = { user_id: event.new?.id };
      await step.waitFor("paid", { table: "app.payments", operations: ["insert"], match });
    });
    await t.sql`select notika.unpublish('drip:payment')`;
    await signUp();
    await t.settle();
    const [call] = /select notika\.publish.*;/.exec((await run())?.error ?? "") ?? [""];
    expect(await run()).toMatchObject({
      state: "failed",
      attempts: 1,
      error: `step "paid" waits for "drip:payment", which is not published. Run: npx notika publish drip, or: ${call}`,
    });

    await t.sql`
      select notika.publish('drip:payment', 'app.payments', columns => '{user_id,amount}', match => '{amount,user_id}')`;
    await signUp();
    await t.settle();
    expect((await run())?.error).toMatch(
      /^step "paid" waits for "drip:payment", which is published with match \{amount,user_id\}, not \{user_id\}\. Run: /,
    );

    await t.sql([call] as never);
    await signUp();
    await pay(1);
    await t.settle();
    expect(await run()).toMatchObject({ state: "done" });
  });

  test("is told by a timeout that is none", async () => {
    await deploy(({ step }) => step.waitFor("w", { table: "app.news" }, { timeout: "3 dayz" }));
    await signUp();
    await t.settle();

    expect(await run()).toMatchObject({ state: "failed", error: expect.stringContaining('interval: "3 dayz"') });
  });

  test("that newer code no longer has is given up", async () => {
    await deploy(({ step }) => step.waitFor("w", { table: "app.news" }, { timeout: "1 hour" }));
    await signUp();
    await t.settle();

    await deploy(() => got.push("newer"), { waitsFor: {} });
    await t.advance("1 hour");

    expect(await run()).toMatchObject({ state: "done" });
    expect(got).toEqual(["newer"]);
  });

  test("goes on after a retry where it was, with what came in the meantime", async () => {
    let broken = true;
    await deploy(async ({ event, step }) => {
      const payment = { table: "app.payments", operations: ["insert"], match: { user_id: event.new?.id } } as const;
      got.push(amount((await step.waitFor("one", payment)) as never));
      if (broken) throw new NonRetriable("broken");
      got.push(amount((await step.waitFor("two", payment)) as never));
    });
    await signUp();
    await t.settle();
    await pay(1);
    await t.settle();
    expect(await run()).toMatchObject({ state: "failed" });
    await pay(2);
    await t.settle();

    broken = false;
    await t.sql`select notika.retry(${(await run())?.id}::text::bigint)`;
    await t.settle();

    expect(await run()).toMatchObject({ state: "done" });
    expect(got.slice(-2)).toEqual([1, 2]);
  });
});

describe("cancelOn", () => {
  test("ends a run that waits, and the steps of one that runs", async () => {
    await deploy(async ({ step }) => {
      await step.sleep("long", "3 days");
      got.push("after");
    });
    await signUp();
    await t.settle();
    await t.sql`delete from app.users where id = ${user}`;
    await t.advance("4 days");
    expect(await run()).toMatchObject({
      state: "cancelled",
      error: expect.stringMatching(/^cancelled by event \d+ of drip:cancel$/),
    });

    await deploy(async ({ step }) => {
      await step.run("one", async () => {
        await t.sql`delete from app.users where id = ${user}`;
        await t.sql`select notika.dispatch()`;
      });
      got.push("after");
    });
    await signUp();
    await t.settle();

    expect(await run()).toMatchObject({ state: "cancelled" });
    expect(got).toEqual([]);
  });
});

describe("a task module", () => {
  test.for([
    ["waitsFor must be an object of sources", { waitsFor: "app.payments" }],
    [
      'waitsFor: "a b" is not a valid name for a source: letters, digits, _ and -, starting with a letter',
      { waitsFor: { "a b": { table: "a.b" } } },
    ],
    [
      'waitsFor: "_a" is not a valid name for a source: letters, digits, _ and -, starting with a letter',
      { waitsFor: { _a: { table: "a.b" } } },
    ],
    ["waitsFor: the name cancel is reserved for cancelOn", { waitsFor: { cancel: { table: "a.b" } } }],
    ["waitsFor: paid has no table", { waitsFor: { paid: {} } }],
    [
      'waitsFor: the match of paid must be a list of columns, such as ["user_id"]',
      { waitsFor: { paid: { table: "a.b", match: { user_id: "id" } } } },
    ],
    ["cancelOn has no table", { cancelOn: {} }],
    [
      'cancelOn: match must map columns to those of the run\'s own row, such as { user_id: "id" }',
      { cancelOn: { table: "a.b", match: ["user_id"] } },
    ],
  ] as const)("is told that %s", ([message, sources]) => {
    expect(() => asWorkflow({ run() {}, ...sources })).toThrow(new TypeError(message));
  });
});
