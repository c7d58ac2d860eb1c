import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { NonRetriable, RetryAfter, StepError, sql, workflow } from "../../runner/index.ts";
import { createTestNotika, type TestNotika } from "../../runner/testing/index.ts";
import type { Context } from "../../runner/workflow/workflow.ts";

let t: TestNotika;
let run = "0";

beforeAll(async () => {
  t = await createTestNotika({
    schema: `create schema app;
      create table app.users (id int generated always as identity primary key);
      create table app.mails (mail_id int generated always as identity, text text);`,
    tasks: {},
  });
});
afterAll(() => t.close());
afterEach(async () => {
  t.replayEveryStep(false);
  await t.sql`select notika.cancel(run_id) from notika.runs where finished_at is null`;
  await t.sql`truncate app.mails`;
});

/** The task of all runs from now on. */
function deploy(task: (context: Context) => unknown, options: object = {}) {
  return t.upgrade({ work: workflow({ on: { table: "app.users", columns: ["id"] }, ...options, run: task }) });
}

/** Starts a run, and gives it when nothing is due any more. */
async function start() {
  await t.sql`insert into app.users default values`;
  await t.settle();
  run = (await t.runs()).at(-1)?.id ?? "";
  return settled();
}

/** The run, when nothing is due any more. */
async function settled() {
  await t.settle();
  return (await t.runs()).find(({ id }) => id === run);
}

const mails = async () =>
  (await t.sql<{ text: string }>`select text from app.mails order by mail_id`).map(({ text }) => text);

describe("step.run", () => {
  test("is done once, whatever fails after it, and its result comes back as JSON", async () => {
    const did: unknown[] = [];
    await deploy(async ({ step }) => {
      const first = await step.run("first", () => {
        did.push("first");
        return { at: new Date(0), nothing: undefined };
      });
      await step.run("second", () => did.push(first));
    });
    t.failNext("second");

    expect(await start()).toMatchObject({
      state: "retrying",
      error: 'step "second": step "second" fails because the test called failNext',
    });
    await t.advance("1 hour");

    expect(did).toEqual(["first", { at: "1970-01-01T00:00:00.000Z" }]);
    expect(await t.steps(run)).toEqual([
      { name: "first", state: "done", result: { at: "1970-01-01T00:00:00.000Z" }, attempts: 1, error: null },
      { name: "second", state: "done", result: 2, attempts: 2, error: null },
    ]);
  });

  test("a runner that dies after a step does not do it again", async () => {
    const did: string[] = [];
    await deploy(async ({ step }) => {
      await step.run("first", () => void did.push("first"));
      await step.run("second", () => void did.push("second"));
    });
    t.crashAfter("first");

    expect(await start()).toMatchObject({ state: "done", attempts: 2 });
    expect(did).toEqual(["first", "second"]);
  });

  test("a name that comes again is another step", async () => {
    await deploy(async ({ step }) => {
      const said: unknown[] = [];
      for (const text of ["a", "b", "c"]) said.push(await step.run("say", () => text));
      return step.run("end", () => said);
    });
    t.replayEveryStep();

    await start();

    expect(await t.steps(run)).toMatchObject([
      { name: "say", result: "a" },
      { name: "say#2", result: "b" },
      { name: "say#3", result: "c" },
      { name: "end", result: ["a", "b", "c"] },
    ]);
  });

  test("gets a key that is the same at each attempt, for services that take one", async () => {
    const keys: string[] = [];
    await deploy(({ step }) =>
      step.run("send", ({ idempotencyKey }) => {
        keys.push(idempotencyKey);
        if (keys.length < 3) throw new Error("no answer");
      }),
    );

    await start();
    await t.advance("1 minute");

    expect(keys).toEqual(Array(3).fill(keys[0]));
    expect(keys[0]).toMatch(new RegExp(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:${run}:send$`));
  });

  test.each([
    [
      "a value that JSON has no word for",
      () => ({ big: 1n }),
      /^step "odd": the result of step "odd" cannot be kept as JSON: .*BigInt/,
    ],
    [
      "a result of more than a megabyte",
      () => "x".repeat(1_048_577),
      'step "odd": the result of step "odd" has 1048579 bytes, more than 1048576: store it elsewhere, and return a reference to it',
    ],
  ])("%s ends the run with an error that says so", async (_, work, error) => {
    await deploy(({ step }) => step.run("odd", work as () => unknown));

    const run = await start();

    expect(run).toMatchObject({ state: "failed", attempts: 1 });
    expect(run?.error).toMatch(error);
  });

  test.each(["", "  ", "a#2", "line\nbreak", "x".repeat(201)])("a step cannot be called %j", async (name) => {
    await deploy(({ step }) => step.run(name, () => 1));

    expect(await start()).toMatchObject({
      state: "failed",
      error: `a step's name has 1 to 200 characters and does not end in #1, unlike ${JSON.stringify(name)}`,
    });
  });

  test("a run takes at most 10,000 steps", async () => {
    await deploy(async ({ step }) => {
      await Promise.all(Array.from({ length: 10_001 }, (_, n) => step.run(`s${n}`, () => 0)));
    });

    expect(await start()).toMatchObject({ state: "failed", error: "a run takes at most 10000 steps" });
  });

  test("keeps NUL characters, which no other type of Postgres does", async () => {
    await deploy(async ({ step }) => {
      const odd = await step.run("odd", () => "a\0b\\u0000");
      await step.run("same", () => odd === "a\0b\\u0000");
    });
    t.replayEveryStep();

    await start();

    expect((await t.steps(run)).map(({ result }) => result)).toEqual(["a\0b\\u0000", true]);
  });
});

describe("a step that fails", () => {
  test("for good throws a StepError that the task may catch, and goes on from there each time", async () => {
    const did: string[] = [];
    await deploy(async ({ step }) => {
      try {
        await step.run("optional", () => {
          did.push("optional");
          throw new NonRetriable("no such address");
        });
      } catch (error) {
        expect(error).toBeInstanceOf(StepError);
        await step.run("instead", () => void did.push((error as Error).message));
      }
      await step.run("end", () => void did.push("end"));
    });
    t.replayEveryStep();

    expect(await start()).toMatchObject({ state: "done" });
    expect(did).toEqual(["optional", 'step "optional": no such address', "end"]);
  });

  test("at the last attempt may be caught too, and what follows has all its attempts", async () => {
    let tries = 0;
    await deploy(
      async ({ step }) => {
        await step.run("optional", () => Promise.reject(new Error("no"))).catch(() => {});
        await step.run("next", () => {
          tries += 1;
          if (tries < 2) throw new Error("not yet");
        });
      },
      { retries: 1 },
    );

    await start();
    await t.advance("1 hour");

    expect(await settled()).toMatchObject({ state: "done" });
    expect(await t.steps(run)).toMatchObject([
      { name: "optional", state: "failed", attempts: 2, error: "no" },
      { name: "next", state: "done", attempts: 2 },
    ]);
  });

  test("that nobody catches ends the run; retry goes on from it, and from_start forgets all", async () => {
    const did: string[] = [];
    let broken = true;
    await deploy(
      async ({ step }) => {
        await step.run("first", () => void did.push("first"));
        await step.run("second", () => {
          did.push("second");
          if (broken) throw new Error("out of order");
        });
      },
      { retries: 0 },
    );

    expect(await start()).toMatchObject({ state: "failed", error: 'step "second": out of order' });
    broken = false;
    await t.sql`select notika.retry(${run}::bigint)`;
    await t.settle();
    expect(await settled()).toMatchObject({ state: "done", error: null });
    expect(did).toEqual(["first", "second", "second"]);

    await t.sql`select notika.retry(${run}::bigint, from_start => true)`;
    await t.settle();
    expect(did).toEqual(["first", "second", "second", "first", "second"]);
  });

  test("with RetryAfter waits until then and costs no attempt", async () => {
    const at: number[] = [];
    await deploy(
      ({ step }) =>
        step.run("limited", () => {
          at.push(Date.now());
          if (at.length === 1) throw new RetryAfter(90_000, "slow down");
          if (at.length === 2) throw new RetryAfter(new Date(Date.now() + 3_600_000));
        }),
      { retries: 0 },
    );

    expect(await start()).toMatchObject({ state: "retrying" });
    await t.advance("2 hours");

    const [first = 0, second = 0, third = 0] = at;
    expect(Math.round((second - first) / 1000)).toBe(90);
    expect(Math.round((third - second) / 1000)).toBe(3600);
    expect(await settled()).toMatchObject({ state: "done" });
  });

  test("does not stop what runs beside it, but nothing new begins", async () => {
    const did: string[] = [];
    await deploy(async ({ step }) => {
      await Promise.all([
        step.run("slow", async () => {
          await new Promise((resolve) => setTimeout(resolve, 50));
          did.push("slow");
        }),
        step.run("broken", () => Promise.reject(new Error("broken"))),
      ]);
    });

    expect(await start()).toMatchObject({ state: "retrying", error: 'step "broken": broken' });
    expect(await t.steps(run)).toMatchObject([
      { name: "broken", state: "retrying" },
      { name: "slow", state: "done" },
    ]);
  });
});

describe("step.query and step.transaction", () => {
  test("happen exactly once, with what they write", async () => {
    await deploy(async ({ step }) => {
      const [mail] = await step.query<{ text: string }>(
        "insert",
        sql`insert into app.mails (text) values ('query') returning text`,
      );
      await step.transaction("both", async (query) => {
        await query(sql`insert into app.mails (text) values (${`after ${mail?.text}`})`);
        await query(sql`insert into app.mails (text) values ('and this')`);
      });
    });
    t.replayEveryStep();
    t.crashAfter("insert");
    t.crashAfter("both");

    expect(await start()).toMatchObject({ state: "done" });
    expect(await mails()).toEqual(["query", "after query", "and this"]);
  });

  test("leave nothing when they fail", async () => {
    let fails = true;
    await deploy(({ step }) =>
      step.transaction("half", async (query) => {
        await query(sql`insert into app.mails (text) values ('half')`);
        if (fails) throw new Error("in the middle");
      }),
    );

    await start();
    expect(await mails()).toEqual([]);
    fails = false;
    await t.advance("1 minute");

    expect(await mails()).toEqual(["half"]);
    expect(await t.steps(run)).toMatchObject([{ name: "half", state: "done", attempts: 2 }]);
  });

  test("know the run as their cause, so that workflows which wake each other are cut off", async () => {
    await deploy(({ step }) => step.query("again", sql`insert into app.users default values`));
    await t.sql`update notika.setting set max_depth = 3`;

    await start();

    expect((await t.runs()).slice(-5).map(({ event, state }) => [event.depth, state])).toEqual([
      [0, "done"],
      [1, "done"],
      [2, "done"],
      [3, "done"],
      [4, "failed"],
    ]);
  });
});

describe("step.each", () => {
  test("does each item once, some at a time, and gives the results in their order", async () => {
    let most = 0;
    let now = 0;
    await deploy(async ({ step }) => {
      const doubled = await step.each(
        "double",
        [5, 1, 2],
        String,
        async (n) => {
          most = Math.max(most, ++now);
          await new Promise((resolve) => setTimeout(resolve, 40 * n));
          now -= 1;
          return n * 2;
        },
        { concurrency: 2 },
      );
      await step.run("end", () => doubled);
    });

    await start();

    expect(most).toBe(2);
    expect(await t.steps(run)).toMatchObject([
      { name: "double/1", result: 2 },
      { name: "double/2", result: 4 },
      { name: "double/5", result: 10 },
      { name: "end", result: [10, 2, 4] },
    ]);
  });

  test("an item that fails fails only itself, and is tried again alone", async () => {
    const sent: string[] = [];
    await deploy(async ({ step }) => {
      await step.each(
        "mail",
        ["ada", "bob", "eve"],
        (name) => name,
        (name) => void sent.push(name),
        { concurrency: 1 },
      );
      await step.run("end", () => void sent.push("end"));
    });
    t.failNext("mail/bob", new Error("mailbox full"));

    expect(await start()).toMatchObject({
      state: "retrying",
      error: 'step "mail": 1 of 3 failed, such as "mail/bob": mailbox full',
    });
    expect(sent).toEqual(["ada", "eve"]);
    await t.advance("1 minute");

    expect(sent).toEqual(["ada", "eve", "bob", "end"]);
  });

  test("items that fail for good are thrown together, when all others are done", async () => {
    const sent: string[] = [];
    await deploy(async ({ step }) => {
      await step
        .each(
          "mail",
          ["ada", "bob", "eve"],
          (name) => name,
          (name) => {
            if (name === "bob") throw new NonRetriable("nobody lives here");
            sent.push(name);
          },
        )
        .catch((error) => sent.push(error.message));
    });
    t.replayEveryStep();

    expect(await start()).toMatchObject({ state: "done" });
    expect(sent).toEqual(["ada", "eve", 'step "mail": 1 of 3 failed, such as "mail/bob": nobody lives here']);
  });

  test("two items with the same key are refused", async () => {
    await deploy(({ step }) => step.each("mail", [1, 1], String, () => 0));

    expect(await start()).toMatchObject({ state: "failed", error: 'step.each("mail"): two items have the same key' });
  });
});

describe("waits", () => {
  test("step.sleep gives the run back after the time, however often it starts over meanwhile", async () => {
    const woke: number[] = [];
    await deploy(async ({ step }) => {
      await step.sleep("let them look around", "3 days");
      woke.push(Date.now());
      await step.sleep("a little more", 1500);
      woke.push(Date.now());
    });
    const from = Date.now();

    expect(await start()).toMatchObject({ state: "waiting", attempts: 0 });
    expect(await t.steps(run)).toMatchObject([{ name: "let them look around", state: "waiting" }]);
    await t.sql`select notika_worker.reschedule_jobs(array(select id from notika_worker._private_jobs), run_at => now())`;
    expect(await settled()).toMatchObject({ state: "waiting" });
    await t.advance("3 days");
    await t.advance("2 seconds");

    expect(await settled()).toMatchObject({ state: "done" });
    expect(woke.map((at) => Math.floor((at - from) / 1000))).toEqual([259_200, 259_201, 259_201]);
  });

  test.each([
    ["09:00", { timeZone: "Europe/Vienna" }, "2027-03-27T12:00:00Z", "2027-03-28T07:00:00.000Z"], // the clocks went on in the night
    ["09:00", {}, "2027-06-01T08:59:00Z", "2027-06-01T09:00:00.000Z"],
    ["09:00", {}, "2027-06-02T09:00:00Z", "2027-06-03T09:00:00.000Z"],
    ["2027-07-01 12:00", { timeZone: "America/New_York" }, "2027-06-04T00:00:00Z", "2027-07-01T16:00:00.000Z"],
    ["2027-07-02T12:00:00+02:00", { timeZone: "America/New_York" }, "2027-07-02T00:00:00Z", "2027-07-02T10:00:00.000Z"],
    [new Date("2027-07-03T12:00:00Z"), {}, "2027-07-03T11:00:00Z", "2027-07-03T12:00:00.000Z"],
  ])("step.sleepUntil %s %j, from %s on, waits until %s", async (until, options, from, expected) => {
    await deploy(({ step }) => step.sleepUntil("then", until, options));
    await t.advance(Date.parse(from) - Date.now());

    await start();

    const [row] = await t.sql<{ wake_at: Date }>`select wake_at from notika.wait where run_id = ${run}::bigint`;
    expect(row?.wake_at.toISOString()).toBe(expected);
    await t.sql`select notika.cancel(${run}::bigint)`;
  });

  test("an instant that is over waits for nothing", async () => {
    await deploy(({ step }) => step.sleepUntil("long ago", "2001-01-01"));

    expect(await start()).toMatchObject({ state: "done" });
  });

  test.each([
    ["step.sleep", "3 dayz", {}, 'step "odd": invalid input syntax for type interval: "3 dayz"'],
    ["step.sleepUntil", "tomorrow-ish", {}, 'step "odd": not a time as ISO 8601 writes it: "tomorrow-ish"'],
    ["step.sleepUntil", "tomorrow", {}, 'step "odd": not a time as ISO 8601 writes it: "tomorrow"'],
    [
      "step.sleepUntil",
      "2027-07-01 12:00 PST",
      {},
      'step "odd": not a time as ISO 8601 writes it: "2027-07-01 12:00 PST"',
    ],
    ["step.sleepUntil", "2027-07-32", {}, 'step "odd": date/time field value out of range: "2027-07-32"'],
    ["step.sleepUntil", "09:00", { timeZone: "Mars/Olympus" }, 'step "odd": there is no time zone "Mars/Olympus"'],
    [
      "step.sleepUntil",
      "09:00",
      { timeZone: "UTC+2" },
      'step "odd": there is no time zone "UTC+2". Did you mean Etc/GMT-2?',
    ],
    ["step.sleepUntil", "2027-07-01 12:00", { timeZone: "Foo3" }, 'step "odd": there is no time zone "Foo3"'],
    ["step.sleepUntil", "2027-07-01T12:00Z", { timeZone: "IST" }, 'step "odd": there is no time zone "IST"'],
  ])("%s to %j %j ends the run with an error that says so", async (kind, given, options, error) => {
    await deploy(({ step }) =>
      kind === "step.sleep" ? step.sleep("odd", given) : step.sleepUntil("odd", given, options),
    );

    expect(await start()).toMatchObject({ state: "failed", error: expect.stringContaining(error) });
  });

  test("of several waits the first goes on, and a race is won by the same one each time", async () => {
    const won: string[] = [];
    await deploy(async ({ step }) => {
      const long = step.sleep("long", "1 day").then(() => "long");
      const short = step
        .run("ready", () => 1)
        .then(() => step.sleep("short", "1 hour"))
        .then(() => "short");
      const first = await Promise.race([long, short]);
      won.push(first);
      await step.sleep("after", "3 days");
      won.push(`still ${first}`);
    });

    await start();
    await t.advance("5 days");

    expect(await settled()).toMatchObject({ state: "done" });
    expect(new Set(won)).toEqual(new Set(["short", "still short"]));
  });

  test("what runs beside a wait is remembered first", async () => {
    await deploy(({ step }) =>
      Promise.all([
        step.sleep("short", "1 minute"),
        step.run("slow", async () => {
          await new Promise((resolve) => setTimeout(resolve, 50));
          return "kept";
        }),
      ]),
    );

    await start();

    expect(await t.steps(run)).toMatchObject([
      { name: "slow", result: "kept" },
      { name: "short", state: "waiting" },
    ]);
    await t.advance("1 minute");
    expect(await settled()).toMatchObject({ state: "done" });
  });

  test("a run of a paused workflow sleeps on, wakes when it is due, and goes on when the workflow is resumed", async () => {
    const woke: number[] = [];
    await deploy(async ({ step }) => {
      await step.sleep("for a day", "1 day");
      woke.push(Date.now());
    });
    await start();

    await t.sql`select notika.pause('work')`;
    expect(await settled()).toMatchObject({ state: "waiting" });
    await t.advance("23 hours 59 minutes");
    await t.sql`select notika.maintain()`;
    await t.advance("2 days");
    expect(await settled()).toMatchObject({ state: "held" });
    expect(woke).toEqual([]);
    await t.sql`select notika.resume('work')`;

    expect(await settled()).toMatchObject({ state: "done" });
  });
});

describe("the time of a run", () => {
  test("an attempt that takes longer than timeout fails, and its signal aborts", async () => {
    const aborted: unknown[] = [];
    await deploy(
      async ({ signal }) => {
        signal.addEventListener("abort", () => aborted.push(signal.reason.message));
        await new Promise(() => {});
      },
      { timeout: "20 ms", retries: 0 },
    );

    expect(await start()).toMatchObject({ state: "failed", error: "timed out after 20 ms" });
    expect(aborted).toEqual(["timed out after 20 ms"]);
  });

  test("what a step of a timed-out attempt still brings is remembered, but takes no other step", async () => {
    const did: string[] = [];
    await deploy(
      async ({ step }) => {
        await step.run("slow", async () => {
          did.push("slow");
          await new Promise((resolve) => setTimeout(resolve, 200));
        });
        await step.run("next", () => void did.push("next"));
      },
      { timeout: "100 ms" },
    );

    expect(await start()).toMatchObject({ state: "retrying", error: "timed out after 100 ms" });
    await expect.poll(async () => (await t.steps(run)).map(({ name }) => name)).toEqual(["slow"]);
    expect(did).toEqual(["slow"]);
    await t.advance("1 minute");

    expect(did).toEqual(["slow", "next"]);
    expect(await settled()).toMatchObject({ state: "done" });
  });

  test("a run that begins too late ends as expired; one that has begun may sleep as long as it likes", async () => {
    const did: string[] = [];
    await deploy(
      async ({ step }) => {
        did.push("began");
        await step.sleep("long", "1 day");
      },
      { expires: "1 hour" },
    );
    await t.sql`insert into app.users default values`;
    await t.sql`select notika.dispatch()`;
    await t.sql`select notika.pause('work')`;
    await t.advance("61 minutes");
    await t.sql`select notika.resume('work')`;
    await t.settle();
    expect((await t.runs()).at(-1)).toMatchObject({
      state: "expired",
      error: "not started within 1 hour",
      event: { new: {} },
    });
    expect(did).toEqual([]);

    await start();
    await t.advance("1 day");
    expect(await settled()).toMatchObject({ state: "done" });
  });
});

describe("cancel", () => {
  test("a running task goes no further than its next step, and its outcome does not count", async () => {
    const did: string[] = [];
    await deploy(async ({ event, query, step }) => {
      await step.run("first", () =>
        query(sql`select notika.cancel(${event.id}::bigint)`).then(() => void did.push("first")),
      );
      await step.run("second", () => void did.push("second"));
    });

    expect(await start()).toMatchObject({ state: "cancelled" });
    expect(did).toEqual(["first"]);
  });

  test("a sleeping run never wakes", async () => {
    const did: string[] = [];
    await deploy(async ({ step }) => {
      await step.sleep("night", "1 day");
      did.push("woke");
    });
    await start();

    await t.sql`select notika.cancel(${run}::bigint)`;
    await t.advance("2 days");

    expect(await settled()).toMatchObject({ state: "cancelled" });
    expect(did).toEqual([]);
    expect(await t.sql`select from notika.wait where run_id = ${run}::bigint`).toEqual([]);
  });
});

describe("a deploy", () => {
  test("new code goes on with what the old code remembers: added steps run, removed ones are forgotten, renamed ones run again", async () => {
    const did: string[] = [];
    const say = (text: string) => () => void did.push(text);
    await deploy(async ({ step }) => {
      await step.run("kept", say("kept"));
      await step.run("removed", say("removed"));
      await step.run("renamed", say("renamed"));
      await step.sleep("night", "1 day");
    });
    await start();

    await deploy(async ({ step }) => {
      await step.run("added", say("added"));
      await step.run("kept", say("kept"));
      await step.run("renamed:v2", say("renamed:v2"));
      await step.sleep("night", "1 day");
      await step.run("end", say("end"));
    });
    await t.advance("1 day");

    expect(await settled()).toMatchObject({ state: "done" });
    expect(did).toEqual(["kept", "removed", "renamed", "added", "renamed:v2", "end"]);
  });
});
