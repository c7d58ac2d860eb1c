import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";

const published = `
  create table public.trials (id int, plan text);
  create table public.payments (user_id int, amount int);
  create table public.users (id int, state text);
  select notika.publish('drip', 'public.trials', columns => '{id}');
  select notika.publish('drip:payment', 'public.payments', columns => '{user_id,amount}', match => '{user_id}');`;
const cancelling = `
  select notika.publish('drip:cancel', 'public.users', operations => '{update,delete}', columns => '{id,state}',
                        condition => 'old.id > 0', match => '{id}');`;

const payment = { name: "payment", table: "public.payments", match: ["user_id"] };
const dispatch = "select notika.dispatch()";
const runs = "select run_id::int as run, state, error from notika.runs order by run_id";

describe("a change of a source", () => {
  test("ends the wait that it matches, and no other", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7), (8)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 });
    await wait(db, 2, "paid", { user_id: 8 });

    await db.script("insert into public.payments values (8, 30), (9, 40)");
    await db.query(dispatch);

    expect(await steps(db)).toEqual([{ run: 2, name: "paid", event: "3" }]);
    expect(await db.query(runs)).toEqual([
      { run: 1, state: "waiting", error: null },
      { run: 2, state: "ready", error: null },
    ]);
    expect(await db.query("select result from notika.step")).toEqual([
      {
        result: {
          id: "3",
          workflow: "drip:payment",
          operation: "insert",
          table: "public.payments",
          at: expect.stringMatching(/Z$/),
          new: { user_id: 8, amount: 30 },
          old: null,
          truncated: false,
          depth: 0,
        },
      },
    ]);
  });

  test("starts no run and counts as handed over", async ({ db }) => {
    await db.script(`${published} insert into public.payments values (7, 30)`);

    expect(await db.query(runs)).toEqual([]);
    expect(await db.query("select events_waiting::int as events from notika.lag")).toEqual([{ events: 1 }]);
    await db.query(dispatch);

    expect(await db.query(runs)).toEqual([]);
    expect(await db.query("select workflow, dispatched from notika.event_log")).toEqual([
      { workflow: "drip:payment", dispatched: true },
    ]);
    expect(await db.query("select * from notika_worker._private_jobs")).toEqual([]);
  });

  test("is found by a wait that begins after it, handed over or not", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7), (8)`);
    await db.script("insert into public.payments values (7, 30)");
    await db.query(dispatch);
    await db.script("insert into public.payments values (8, 30)");

    await wait(db, 1, "paid", { user_id: 7 });
    await wait(db, 2, "paid", { user_id: 8 });
    expect(await steps(db)).toEqual([{ run: 1, name: "paid", event: "3" }]);
    await db.query(dispatch);

    expect(await steps(db)).toEqual([
      { run: 1, name: "paid", event: "3" },
      { run: 2, name: "paid", event: "4" },
    ]);
    expect(await db.query("select distinct state from notika.runs")).toEqual([{ state: "ready" }]);
  });

  test("counts when it follows in the same transaction, not when it precedes, there or in an earlier one", async ({
    db,
  }) => {
    await db.script(published);
    await db.script("insert into public.payments values (7, 1), (8, 1)");
    await db.script("begin; insert into public.payments values (7, 2); insert into public.trials values (7); commit");
    await db.script("begin; insert into public.trials values (8); insert into public.payments values (8, 3); commit");
    await db.query(dispatch);

    await wait(db, 4, "paid", { user_id: 7 });
    await wait(db, 5, "paid", { user_id: 8 });

    expect(await steps(db)).toEqual([{ run: 5, name: "paid", event: "6" }]);
  });

  test("ends all waits for it, each with the first that it matches", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7), (7)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 });
    await wait(db, 2, "paid", { user_id: 7 });

    await db.script("insert into public.payments values (7, 1), (7, 2)");
    await db.query(dispatch);

    expect(await steps(db)).toEqual([
      { run: 1, name: "paid", event: "3" },
      { run: 2, name: "paid", event: "3" },
    ]);
  });

  test("is got once by waits that follow each other, and by each of those that wait together", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7)`);
    await db.script("insert into public.payments values (7, 1), (7, 2)");
    await db.query(dispatch);

    await wait(db, 1, ["one", "other"], { user_id: 7 });
    await wait(db, 1, "next", { user_id: 7 });
    await wait(db, 1, "last", { user_id: 7 });

    expect(await steps(db)).toEqual([
      { run: 1, name: "one", event: "2" },
      { run: 1, name: "other", event: "2" },
      { run: 1, name: "next", event: "3" },
    ]);
  });

  test("without match ends every wait, also when it came by emit", async ({ db }) => {
    await db.script(`${published}
      select notika.publish('drip:any', 'public.payments');
      insert into public.trials values (7)`);
    await db.query(dispatch);
    await park(db, 1, [{ name: "any", source: { name: "any", table: "public.payments" }, match: {} }]);

    await db.query("select notika.emit('drip:any', '{}')");
    await db.query(dispatch);

    expect(await steps(db)).toEqual([{ run: 1, name: "any", event: "2" }]);
  });

  test("matches by what it has become, or by what it was if it is gone", async ({ db }) => {
    await db.script(`${published}
      select notika.publish('drip:payment', 'public.payments', operations => '{update,delete}',
                            columns => '{user_id}', match => '{user_id}');
      insert into public.trials values (7), (8);
      insert into public.payments values (1), (8)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 });
    await wait(db, 2, "paid", { user_id: 8 });

    await db.script(
      "update public.payments set user_id = 7 where user_id = 1; delete from public.payments where user_id = 8",
    );
    await db.query(dispatch);

    expect(await steps(db)).toEqual([
      { run: 1, name: "paid", event: "3" },
      { run: 2, name: "paid", event: "4" },
    ]);
  });

  test("may hold null, long values, and what Postgres refuses to read", async ({ db }) => {
    await db.script(`
      create table public.trials (id int);
      create table public.letters (address text, body json);
      select notika.publish('drip', 'public.trials', columns => '{id}');
      select notika.publish('drip:letter', 'public.letters', columns => '{address,body}', match => '{address}');
      insert into public.trials values (7), (8)`);
    await db.query(dispatch);
    const letter = { name: "letter", table: "public.letters", match: ["address"] };
    const long = "x".repeat(10_000);
    await park(db, 1, [{ name: "letter", source: letter, match: { address: long } }]);
    await park(db, 2, [{ name: "letter", source: letter, match: { address: 'a "b" \\u00e4' } }]);

    await db.query(
      `insert into public.letters values (null, '{}'), ($1 || 'y', '{}'), ($1, '{"a": "\\u0000 \\ud800"}')`,
      [long],
    );
    await db.query(`insert into public.letters values ('a "b" \\u00e4', '["\\u0000"]')`);
    await db.query(dispatch);

    expect(await steps(db)).toEqual([
      { run: 1, name: "letter", event: "5" },
      { run: 2, name: "letter", event: "6" },
    ]);
  });
});

test("changes and runs are compared also when they are too big to travel", async ({ db }) => {
  await db.script(`
    update notika.setting set payload_bytes = 1024;
    create table public.trials (id int, "50%" int, letter text);
    create table public.payments (payment_id int primary key, "50%" int, letter text);
    select notika.publish('drip', 'public.trials', columns => '{id,50%,letter}');
    select notika.publish('drip:payment', 'public.payments', columns => '{50%,letter}', match => '{50%}');
    select notika.publish('drip:cancel', 'public.payments', operations => '{update}', columns => '{50%,letter}', match => '{50%}');
    insert into public.trials values (7, 70, repeat('x', 2000))`);
  await db.query(dispatch);
  await park(db, 1, [
    { name: "paid", source: { name: "payment", table: "public.payments", match: ["50%"] }, match: { "50%": "70" } },
  ]);
  await db.script("insert into public.payments values (1, 70, repeat('x', 2000))");
  await db.query(dispatch);
  expect(await db.query("select event_id::text as event, result -> 'new' as new from notika.step")).toEqual([
    { event: "2", new: { payment_id: 1, "50%": 70 } },
  ]);

  await db.script("update public.payments set letter = letter || 'y'");
  await db.query(dispatch);

  expect(await db.query(runs)).toMatchObject([{ state: "cancelled" }]);
});

describe("a timeout", () => {
  test("ends a wait with null, once, and a later change does not alter it", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 }, "0");

    await enter(db, 1);
    await db.script("insert into public.payments values (7, 1)");
    await db.query(dispatch);
    await enter(db, 1);

    expect(await steps(db)).toEqual([{ run: 1, name: "paid", event: null }]);
  });

  test("lets a change count that was made before it was noticed, even if the hand-over is behind", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 }, "0");

    await db.script("insert into public.payments values (8, 1), (7, 2), (7, 3)");
    await enter(db, 1);
    await db.query(dispatch);

    expect(await steps(db)).toEqual([{ run: 1, name: "paid", event: "3" }]);
    // The next wait gets the next one, though the first was handed over only now.
    await wait(db, 1, "again", { user_id: 7 });
    expect(await steps(db)).toEqual([
      { run: 1, name: "paid", event: "3" },
      { run: 1, name: "again", event: "4" },
    ]);
  });

  test("counts from the beginning of the wait, however often its run comes by", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 }, "1 hour");
    const before = await db.query("select wake_at from notika.wait");

    await wait(db, 1, "paid", { user_id: 7 }, "1 day");

    expect(await db.query("select wake_at from notika.wait")).toEqual(before);
    expect(await db.query("select wake_at from notika.runs")).toEqual(before);
  });
});

describe("the source cancel", () => {
  test("ends the runs that it matches, waiting or not yet begun, and says by what", async ({ db }) => {
    await db.script(`${published} ${cancelling}
      insert into public.users values (7), (8), (9);
      insert into public.trials values (7), (8), (9)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 });

    await db.script("update public.users set state = 'gone' where id < 9");
    await db.query(dispatch);

    expect(await db.query(runs)).toEqual([
      { run: 1, state: "cancelled", error: "cancelled by event 4 of drip:cancel" },
      { run: 2, state: "cancelled", error: "cancelled by event 5 of drip:cancel" },
      { run: 3, state: "ready", error: null },
    ]);
    expect(await db.query("select run_id::int as run from notika.listener")).toEqual([{ run: 3 }]);
    expect(await db.query("select * from notika.wait")).toEqual([]);
  });

  test("counts only after the run's own change, also in one window", async ({ db }) => {
    await db.script(`${published} ${cancelling} insert into public.users values (7), (8)`);
    await db.script("update public.users set state = 'old' where id = 7; delete from public.users where id = 8");
    await db.script("insert into public.trials values (7), (8)");
    await db.script("delete from public.users where id = 7");
    await db.query(dispatch);

    expect(await db.query(runs)).toEqual([
      { run: 3, state: "cancelled", error: "cancelled by event 5 of drip:cancel" },
      { run: 4, state: "ready", error: null },
    ]);
  });

  test("compares with the column of the run's own row that match names", async ({ db }) => {
    await db.script(`${published}
      select notika.publish('drip:cancel', 'public.payments', columns => '{user_id}', match => '{user_id = id}');
      insert into public.trials values (7), (8);
      insert into public.payments values (8, 1)`);
    await db.query(dispatch);

    expect(await db.query("select state from notika.runs order by run_id")).toEqual([
      { state: "ready" },
      { state: "cancelled" },
    ]);
    expect(await db.query("select match from notika.workflows where workflow = 'drip:cancel'")).toEqual([
      { match: ["user_id=id"] },
    ]);
  });

  test("is not what the run itself writes", async ({ db }) => {
    await db.script(`${published} ${cancelling}
      insert into public.users values (7);
      insert into public.trials values (7)`);
    await db.query(dispatch);
    await db.script(`
      begin; set local notika.run = '1/0'; update public.users set state = 'greeted'; commit`);
    await db.query(dispatch);

    expect(await db.query(runs)).toMatchObject([{ run: 1, state: "ready" }]);
  });

  test("ends runs that were there before it was published", async ({ db }) => {
    await db.script(`${published} insert into public.users values (7); insert into public.trials values (7)`);
    await db.query(dispatch);

    await db.script(`${cancelling} delete from public.users`);
    await db.query(dispatch);

    expect(await db.query(runs)).toMatchObject([{ state: "cancelled" }]);
  });
});

describe("retry", () => {
  test("of a cancelled run is not undone by what cancelled it, but by what comes later", async ({ db }) => {
    await db.script(`${published} ${cancelling}
      insert into public.users values (7);
      insert into public.trials values (7)`);
    await db.query(dispatch);
    await db.script("update public.users set state = 'gone'");
    await db.query(dispatch);

    await db.query("select notika.retry(1)");
    await db.query(dispatch);
    expect(await db.query(runs)).toMatchObject([{ state: "ready" }]);
    await db.script("delete from public.users");
    await db.query(dispatch);

    expect(await db.query(runs)).toMatchObject([{ error: "cancelled by event 3 of drip:cancel" }]);
  });

  test("of a failed run finds what came in the meantime, and what it had got, while the ring has it", async ({
    db,
  }) => {
    await db.script(`${published} insert into public.trials values (7)`);
    await db.script("insert into public.payments values (7, 1)");
    await db.query(dispatch);
    await wait(db, 1, "first", { user_id: 7 });
    await finish(db, 1, "failed");
    await db.script("insert into public.payments values (7, 2)");
    await db.query(dispatch);
    await forget(db);
    expect(await db.query("select * from notika.signal")).toEqual([]);

    await db.query("select notika.retry(1)");
    await wait(db, 1, "second", { user_id: 7 });
    expect(await steps(db)).toEqual([
      { run: 1, name: "first", event: "2" },
      { run: 1, name: "second", event: "3" },
    ]);
    await finish(db, 1, "failed");
    await db.query("select notika.retry(1, from_start => true)");
    await wait(db, 1, "first", { user_id: 7 });

    expect(await steps(db)).toEqual([{ run: 1, name: "first", event: "2" }]);
  });
});

describe("what no run waits for any more", () => {
  test("is forgotten when the runs that are older than it have ended", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7), (8)`);
    await db.script("insert into public.payments values (1, 1)");
    await db.script("insert into public.trials values (9)");
    await db.query(dispatch);
    await db.query(dispatch);

    await finish(db, 1, "done");
    await forget(db);
    expect(await db.query("select event_id::int as event from notika.signal")).toEqual([{ event: 3 }]);
    await finish(db, 2, "cancelled");
    await forget(db);

    expect(await db.query("select * from notika.signal")).toEqual([]);
    expect(await db.query("select run_id::int as run from notika.listener")).toEqual([{ run: 4 }]);
  });

  test("is forgotten when somebody has deleted the job of its run", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7)`);
    await db.script("insert into public.payments values (1, 1)");
    await db.query(dispatch);
    await db.query(dispatch);

    await db.query("delete from notika_worker._private_jobs");
    await forget(db);

    expect(
      await db.query(
        "select (select count(*) from notika.listener)::int, (select count(*)::int from notika.signal) as signals",
      ),
    ).toEqual([{ count: 0, signals: 0 }]);
  });

  test("stays while a run may come that was handed over when its source was not committed yet", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7)`);
    await db.query(dispatch);
    await db.query("delete from notika.listener");
    await db.query("select * from notika.maintain()");

    expect(await db.query("select run_id::int as run from notika.listener")).toEqual([{ run: 1 }]);
  });
});

describe("pause", () => {
  test("holds a run whose wait is over until resume", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 }, "3 days");
    await db.query("select notika.pause('drip')");

    await db.script("insert into public.payments values (7, 1)");
    await db.query(dispatch);
    expect(await db.query(runs)).toMatchObject([{ state: "held" }]);
    await db.query("select notika.resume('drip')");

    expect(await db.query(runs)).toMatchObject([{ state: "ready" }]);
    expect(await steps(db)).toEqual([{ run: 1, name: "paid", event: "2" }]);
  });

  test("refuses a source", async ({ db }) => {
    await db.script(published);

    await expect(db.query("select notika.pause('drip:payment')")).rejects.toMatchObject({
      code: "22023",
      message: 'source "drip:payment" has no runs to hold',
      hint: "Pause its workflow: select notika.pause('drip');",
    });
  });
});

describe("publishing a source", () => {
  test("shows it in notika.workflows, twice does nothing, and unpublishing its workflow takes it along", async ({
    db,
  }) => {
    await db.script(published);
    const again = (call: string) =>
      db.query(`select * from notika.${call}('drip:payment', 'public.payments', columns => '{user_id,amount}',
                                             match => '{user_id}')`);

    expect(await again("plan")).toEqual([]);
    expect(await again("publish")).toEqual([{ publish: "unchanged" }]);
    expect(await db.query("select notika.publish('drip', 'public.trials', columns => '{id}')")).toEqual([
      { publish: "unchanged" },
    ]);
    expect(await db.query("select workflow, table_name, match from notika.workflows order by 1")).toEqual([
      { workflow: "drip", table_name: "public.trials", match: null },
      { workflow: "drip:payment", table_name: "public.payments", match: ["user_id"] },
    ]);
    expect(await db.query("select distinct outcome from notika.install() where step ~ 'workflow'")).toEqual([
      { outcome: "ok" },
    ]);

    await db.query("select notika.unpublish('drip')");
    expect(await db.query("select * from notika.workflows")).toEqual([]);
    expect(await db.query("select tgname from pg_trigger where tgname ~ '^notika_'")).toEqual([]);
  });

  test("is undone with everything else that is published", async ({ db }) => {
    await db.script(published);

    await db.query("select notika.unpublish(workflow) from notika.workflows order by workflow");

    expect(await db.query("select * from notika.workflows")).toEqual([]);
    await expect(db.query("select notika.unpublish('drip:other')")).rejects.toMatchObject({ code: "42704" });
  });

  test("with other columns to compare lets its waits and signals follow", async ({ db }) => {
    await db.script(`${published} insert into public.trials values (7), (8)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 }, "1 day");
    await db.script("insert into public.payments values (9, 30)");
    await db.query(dispatch);

    await db.query(`
      select notika.publish('drip:payment', 'public.payments', columns => '{user_id,amount}', match => '{amount}')`);
    expect(await db.query(runs)).toMatchObject([{ state: "ready" }, { state: "ready" }]);
    const byAmount = { ...payment, match: ["amount"] };
    await park(db, 1, [{ name: "paid", source: byAmount, match: { amount: 40 } }]);
    await park(db, 2, [{ name: "paid", source: byAmount, match: { amount: 30 } }]);

    expect(await steps(db)).toEqual([{ run: 2, name: "paid", event: "3" }]);
    await db.script("insert into public.payments values (9, 40)");
    await db.query(dispatch);
    expect(await steps(db)).toHaveLength(2);
  });

  test("warns of runs whose waits only time ends when it is unpublished, and goes on when it is back", async ({
    db,
  }) => {
    await db.script(`${published} insert into public.trials values (7)`);
    await db.query(dispatch);
    await wait(db, 1, "paid", { user_id: 7 });

    await db.query("select notika.unpublish('drip:payment')");
    await expect(wait(db, 1, "paid", { user_id: 7 })).rejects.toMatchObject({
      code: "22023",
      message: 'step "paid" waits for "drip:payment", which is not published',
      hint: `Run: npx notika publish drip, or: select notika.publish('drip:payment', 'public.payments', match => '{user_id}');`,
    });
    await db.query(`
      select notika.publish('drip:payment', 'public.payments', columns => '{user_id,amount}', match => '{user_id}')`);
    await wait(db, 1, "paid", { user_id: 7 });
    await db.script("insert into public.payments values (7, 1)");
    await db.query(dispatch);

    expect(await steps(db)).toEqual([{ run: 1, name: "paid", event: "2" }]);
  });

  test.for([
    [
      "a match of no source",
      "'drip', 'public.trials', match => '{id}'",
      'match of workflow "drip" has no meaning',
      /^For example: select notika.publish\('drip:change', .* match => '\{id\}'\);$/,
    ],
    [
      "a source without its workflow",
      "'trip:payment', 'public.payments'",
      'cannot publish source "trip:payment": workflow "trip" is not published',
      /^Publish it first: select notika.publish\('trip', /,
    ],
    [
      "a match that the whole row has, which may be renamed",
      "'drip:payment', 'public.payments', match => '{user_id}'",
      'match of source "drip:payment" has "user_id", which is not among its columns',
      /columns => '\{user_id,amount\}', match => '\{user_id\}'/,
    ],
    [
      "a match that is not published",
      "'drip:payment', 'public.payments', columns => '{amount}', match => '{user_id}'",
      'match of source "drip:payment" has "user_id", which is not among its columns',
      /columns => '\{amount,user_id\}', match => '\{user_id\}'/,
    ],
    [
      "a match that the table does not have",
      "'drip:payment', 'public.payments', columns => '{amount}', match => '{user}'",
      'column "user" of table public.payments does not exist',
      /^Correct match/,
    ],
    [
      "a match with too many columns",
      "'drip:payment', 'public.payments', match => '{a,b,c,d,e,f,g,h,i}'",
      'match of source "drip:payment" has more than 8 columns',
      /^Compare the columns/,
    ],
    [
      "a wait that names a column of the run",
      "'drip:payment', 'public.payments', columns => '{user_id}', match => '{user_id=id}'",
      'match of source "drip:payment" has "user_id=id"',
      /match => '\{user_id\}'\);$/,
    ],
    [
      "a cancel by what the workflow does not publish",
      "'drip:cancel', 'public.payments', columns => '{user_id}', match => '{user_id=plan}'",
      'source "drip:cancel" compares with "plan", which workflow "drip" does not publish',
      /select notika.publish\('drip', .* columns => '\{id,plan\}'/,
    ],
    [
      "options of a source",
      `'drip:payment', 'public.payments', options => '{"concurrency": 1}'`,
      'options of source "drip:payment" have no meaning',
      /^Give them to its workflow: select notika.configure\('drip'/,
    ],
    [
      "a name with too many parts",
      "'drip:a:b', 'public.payments'",
      'workflow name "drip:a:b" is not valid',
      /^For example/,
    ],
  ] as const)("refuses %s", async ([, call, message, hint], { db }) => {
    await db.script(published);

    await expect(db.query(`select notika.publish(${call})`)).rejects.toMatchObject({
      message,
      hint: expect.stringMatching(hint),
    });
  });

  test("keeps its workflow from losing what it compares with", async ({ db }) => {
    await db.script(`${published}
      select notika.publish('drip:cancel', 'public.payments', columns => '{user_id}', match => '{user_id=id}')`);

    await expect(db.query("select notika.publish('drip', 'public.trials', columns => '{plan}')")).rejects.toMatchObject(
      {
        message: 'source "drip:cancel" compares with "id", which workflow "drip" does not publish',
        detail: "Of the source it is compared with user_id.",
      },
    );
    await db.script("select notika.publish('drip', 'public.trials')"); // the whole row has it
    await expect(
      db.query(
        "select notika.publish('drip:cancel', 'public.payments', columns => '{user_id}', match => '{user_id=no}')",
      ),
    ).rejects.toMatchObject({ hint: "Name a column of the table: match => '{user_id=id}'." });
  });
});

/** Lets a run wait for a payment, as a runner does when its task can go no further. */
function wait(db: TestDatabase, run: number, names: string | string[], match: object, timeout?: string) {
  return park(
    db,
    run,
    [names].flat().map((name) => ({ name, source: payment, match, ...(timeout && { for: timeout }) })),
  );
}

function park(db: TestDatabase, run: number, waits: object[]) {
  return db.query(
    `select notika._park(j.id, $2::text::json) from notika_worker._private_jobs as j where j.key = $1::text`,
    [String(run), JSON.stringify(waits)],
  );
}

function enter(db: TestDatabase, run: number) {
  return db.query(
    `select notika._enter(j.id, j.key::bigint) from notika_worker._private_jobs as j where j.key = $1::text`,
    [String(run)],
  );
}

async function finish(db: TestDatabase, run: number, state: string) {
  await db.query("select notika._finish($1::text::json)", [
    JSON.stringify([{ run_id: run, workflow: "drip", state, attempts: 1 }]),
  ]);
  await db.query("select notika_worker.remove_job($1)", [String(run)]);
}

/** What maintain does an hour after the last publication. */
async function forget(db: TestDatabase) {
  await db.query(dispatch); // finds nothing, and knows that nobody writes any more
  await db.query("update notika.workflow set published_at = published_at - interval '2 hours'");
  await db.query("select * from notika.maintain()");
}

function steps(db: TestDatabase) {
  return db.query("select run_id::int as run, name, event_id::text as event from notika.step order by step_id");
}
