import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";
import { captured, events, inTransaction, noEventTriggers, undone } from "./support.ts";

const items = `
  create table public.item (id int primary key, n int);
  insert into public.item select i, i % 10 from generate_series(1, 2500) as i;`;
const published = `${items}
  select notika.publish('work', 'public.item', columns => '{id,n}', condition => 'new.n <> 3');`;

/** Dispatches, and begins whatever is handed over, until nothing is left to do. */
async function finish({ query }: TestDatabase): Promise<number> {
  for (let calls = 1; ; calls++) {
    const [row] = await query<{ events: number }>("select notika.dispatch() as events");
    await query("update notika_worker._private_jobs set attempts = 1");
    if (row?.events === 0) return calls;
  }
}

const progress = async ({ query }: TestDatabase) =>
  query("select workflow, condition, state, rows_seen::int, events::int, error from notika.backfills");
const refusal = ({ query }: TestDatabase, call = "notika.backfill('work')") =>
  query(`select ${call}`).catch((error) => error);

describe("backfill", () => {
  test("makes a run for each row that meets both conditions, in pages, and shows its progress", async ({ db }) => {
    await db.script(published);

    expect(await db.query("select notika.backfill('work', 'new.id > 100') as did")).toEqual([{ did: "started" }]);
    const calls = await finish(db);

    expect(calls).toBeGreaterThan(3);
    expect(await progress(db)).toEqual([
      { workflow: "work", condition: "new.id > 100", state: "done", rows_seen: 2500, events: 2160, error: null },
    ]);
    const rows = await events(db, "work");
    expect(rows[0]).toEqual({ operation: "backfill", table_name: "public.item", new: { id: 101, n: 1 }, old: null });
    expect(new Set(rows.map((row) => (row.new as { id: number }).id)).size).toBe(2160);
    expect(rows.map((row) => (row.new as { id: number }).id)).toEqual(
      [...Array(2500).keys()].map((i) => i + 1).filter((id) => id > 100 && id % 10 !== 3),
    );
    expect(await db.query("select * from notika.backfill_key")).toEqual([]);
  });

  test("lets what changes now go first, and waits until half of a page has begun", async ({ db }) => {
    await db.script(published);
    await db.query("select notika.backfill('work')");
    const [first] = await db.query("select notika.dispatch() as events");
    await db.query("insert into public.item values (9001, 1)");
    await db.query("select notika.dispatch()");

    const calls = [];
    for (let i = 0; i < 3; i++) calls.push((await db.query("select notika.dispatch() as events"))[0]?.events);

    expect([first?.events, ...calls]).toEqual([900, 0, 0, 0]);
    const next =
      "select payload -> 'new' ->> 'id' as id from notika_worker._private_jobs order by priority, run_at limit 1";
    expect(await db.query(next)).toEqual([{ id: "9001" }]);
    await db.query(`update notika_worker._private_jobs set attempts = 1 where id in (
                      select id from notika_worker._private_jobs order by priority, run_at limit 451)`);
    expect(await db.query("select notika.dispatch() as events")).toEqual([{ events: 900 }]);
  });

  test("leaves a row to the run that it has had since the start, and takes one that had none", async ({ db }) => {
    await db.script(`
      create table public.item (id int primary key, n int);
      select notika.publish('work', 'public.item', columns => '{id,n}');
      insert into public.item select i, 0 from generate_series(1, 4) as i`);
    await db.query("select notika.backfill('work')");
    await db.script(`
      delete from public.item where id = 2;
      insert into public.item values (2, 2); -- a new row in an old place: handed over before the page is taken
      update public.item set n = 3 where id = 3; -- wakes nobody
      insert into public.item values (5, 0);`);
    await finish(db);

    const runs = (await events(db, "work")).map((event) => [(event.new as { id: number }).id, event.operation]);
    expect(runs.slice(4)).toEqual([
      [2, "insert"],
      [5, "insert"],
      [1, "backfill"],
      [3, "backfill"],
      [4, "backfill"],
    ]);
  });

  test("in one transaction with publish gives every row one run", async ({ db }) => {
    await db.script(items);
    await inTransaction(
      db,
      "insert into public.item values (3001, 0)",
      "select notika.publish('work', 'public.item', columns => '{id}')",
      "insert into public.item values (3002, 0)",
      "select notika.backfill('work')",
      "insert into public.item values (3003, 0)",
    );
    await finish(db);

    expect(
      await db.query(`select count(*)::int as events, count(distinct new ->> 'id')::int as rows,
                             count(*) filter (where operation = 'insert')::int as live from notika.event_log`),
    ).toEqual([{ events: 2503, rows: 2503, live: 2 }]);
  });

  test("takes composite keys of awkward types, whole rows, partitions and children", async ({ db }) => {
    await db.script(`
      create table public.odd (at timestamptz, name text, kind char(3), size float8, note text,
                               primary key (at, name, kind, size)) partition by range (at);
      create table public.odd_old partition of public.odd for values from (minvalue) to ('2026-01-01');
      create table public.odd_new partition of public.odd for values from ('2026-01-01') to (maxvalue);
      insert into public.odd
        select '2025-12-31 23:50:00.123456Z'::timestamptz + i * interval '1 second', 'n''"\\' || i % 7, 'k', i / 3.0, 'x'
          from generate_series(1, 1100) as i;
      create table public.base (id bigint primary key, doc json);
      create table public.child (extra int, primary key (id)) inherits (public.base);
      insert into public.base values (1, '{"a": "\\u0000"}'), (2, null);
      insert into public.child values (1, '{}', 5), (3, '{}', 5);
      select notika.publish('odds', 'public.odd'), notika.publish('bases', 'public.base'),
             notika.backfill('odds'), notika.backfill('bases');`);
    await finish(db);

    expect(
      await db.query(`select workflow, count(*)::int as runs, count(distinct new::text)::int as rows
                        from notika.event_log group by 1 order by 1`),
    ).toEqual([
      { workflow: "bases", runs: 4, rows: 4 },
      { workflow: "odds", runs: 1100, rows: 1100 },
    ]);
    expect(await captured(db, "bases")).toContainEqual({ id: "3", doc: {}, extra: 5 });
  });

  test("sends the key alone of a row that is too big", async ({ db }) => {
    await db.script(`
      create table public.item (id int primary key, body text);
      insert into public.item select 1, string_agg(md5(i::text), '') from generate_series(1, 40000) as i;
      select notika.publish('work', 'public.item', columns => '{id,body}'), notika.backfill('work');`);
    await finish(db);

    expect(await db.query("select new, truncated from notika.event_log")).toEqual([
      { new: { id: 1 }, truncated: true },
    ]);
  });

  test("stops at an error, which holds up nothing else, says what mends it, and goes on from there", async ({ db }) => {
    await db.script(`${items}
      select notika.publish('work', 'public.item', columns => '{id}'), notika.backfill('work', '100 / (new.id - 1500) is not null')`);
    await finish(db);
    expect(await progress(db)).toMatchObject([
      {
        state: "failed",
        rows_seen: 1000,
        events: 1000,
        error:
          "division by zero\nThen it continues with: select notika.backfill('work', '100 / (new.id - 1500) is not null');",
      },
    ]);
    expect(await db.query("select finding, severity, detail, remedy from notika.check()")).toEqual([
      {
        finding: "backfill",
        severity: "error",
        detail: "its backfill has stopped: SQLSTATE 22012; a reader finds the error in notika.backfills",
        remedy:
          "select notika.backfill('work', '100 / (new.id - 1500) is not null'); or: select notika.cancel_backfill('work');",
      },
    ]);
    await db.query("insert into public.item values (3000, 0)");
    expect(await db.query("select notika.dispatch() as events")).toEqual([{ events: 1 }]);

    await db.query("delete from public.item where id = 1500");
    expect(await db.query("select notika.backfill('work', '100 / (new.id - 1500) is not null') as did")).toEqual([
      { did: "continued" },
    ]);
    await finish(db);
    expect(await progress(db)).toMatchObject([{ state: "done", rows_seen: 2499, error: null }]);
    expect(await db.query("select count(*)::int as n from notika.event_log where operation = 'backfill'")).toEqual([
      { n: 2499 },
    ]);
  });

  test("stops where the payload function was dropped unseen, and goes on once that is mended", async ({ db }) => {
    const publish =
      "select notika.publish('work', 'public.item', operations => '{insert,update}', columns => '{id,n}', condition => 'new.n <> 3');";
    const dropped = {
      message: 'workflow "work" cannot make events of the rows of table public.item',
      detail:
        "There is no function notika.payload_1(public.item): it was dropped, or the table was added, where the guard did not see it.",
      hint: `Publish it again: ${publish}`,
    };
    await db.script(`${items} ${publish} select notika.backfill('work'), notika.dispatch()`);
    await db.script(`${noEventTriggers} drop function notika.payload_1(public.item)`);

    await finish(db);
    expect(await progress(db)).toMatchObject([
      {
        state: "failed",
        rows_seen: 1000,
        events: 900,
        error: [...Object.values(dropped), "Then it continues with: select notika.backfill('work');"].join("\n"),
      },
    ]);
    expect(await refusal(db)).toMatchObject({ code: "42883", ...dropped });

    await db.query(publish);
    expect(await db.query("select notika.backfill('work') as did")).toEqual([{ did: "continued" }]);
    await finish(db);
    expect(await progress(db)).toMatchObject([{ state: "done", rows_seen: 2500, events: 2250 }]);
    expect(
      await db.query(`select count(distinct new ->> 'id')::int as rows, count(new ->> 'n')::int as whole,
                             count(*) filter (where truncated)::int as truncated
                        from notika.event_log`),
    ).toEqual([{ rows: 2250, whole: 2250, truncated: 0 }]);
  });

  test("names the child whose payload function was dropped unseen", async ({ db }) => {
    await db.script(`
      create table public.item (id int primary key, n int);
      create table public.part (primary key (id)) inherits (public.item);
      insert into public.item values (1, 1);
      insert into public.part values (2, 2);
      select notika.publish('work', 'public.item', columns => '{id,n}');
      ${noEventTriggers}
      drop function notika.payload_1(public.part) cascade`);

    expect(await refusal(db)).toMatchObject({
      message: 'workflow "work" cannot make events of the rows of table public.part',
      hint: expect.stringMatching(/^Publish it again: select notika\.publish\('work', 'public\.item'/),
    });
  });

  test("names the child that was made unseen, and takes its rows once that is mended", async ({ db }) => {
    const publish = "select notika.publish('work', 'public.item', operations => '{insert}', columns => '{id,n}');";
    await db.script(`
      create table public.item (id int primary key, n int);
      insert into public.item values (1, 1);
      ${publish}
      ${noEventTriggers}
      create table public.part (primary key (id)) inherits (public.item);
      insert into public.part values (2, 2)`);

    expect(await refusal(db)).toMatchObject({
      message: 'workflow "work" cannot make events of the rows of table public.part',
      detail: expect.stringContaining(
        "There is no function notika.payload_1(public.part): it was dropped, or the table was added, where the guard did not see it.",
      ),
      hint: `Publish it again: ${publish}`,
    });

    await db.query(publish);
    await db.query("select notika.backfill('work')");
    await finish(db);
    expect(await captured(db, "work")).toEqual([
      { id: 1, n: 1 },
      { id: 2, n: 2 },
    ]);
  });

  test("waits while its workflow is paused, ends with it, and when it is cancelled", async ({ db }) => {
    await db.script(`${published} select notika.backfill('work'), notika.pause('work')`);
    await finish(db);
    expect(await progress(db)).toMatchObject([{ state: "running", rows_seen: 0 }]);

    await db.query("select notika.resume('work')");
    await db.query("select notika.dispatch()");
    expect(await db.query("select notika.cancel_backfill('work') as was")).toEqual([{ was: true }]);
    expect(await db.query("select notika.cancel_backfill('work') as was")).toEqual([{ was: null }]);
    await finish(db);
    expect(await progress(db)).toMatchObject([{ state: "cancelled", rows_seen: 1000 }]);

    await db.script("select notika.backfill('work'); select notika.unpublish('work')");
    expect((await progress(db)).map(({ state }) => state).sort()).toEqual(["cancelled", "cancelled"]);
  });

  test("of an empty table is done at once", async ({ db }) => {
    await db.script(`create table public.item (id int primary key);
                     select notika.publish('work', 'public.item'), notika.backfill('work')`);
    await finish(db);

    expect(await progress(db)).toMatchObject([{ state: "done", rows_seen: 0, events: 0 }]);
  });

  test("refuses what it could not do, and says what would be right", async ({ db }) => {
    await db.script(`
      create table public.loose (id int);
      create table public.item (id int primary key, n int);
      select notika.publish('work', 'public.loose'), notika.schedule('report', '@daily'),
             notika.publish('gone', 'public.item', '{delete}'), notika.publish('keyless', 'public.item', columns => '{n}'),
             notika.publish('twice', 'public.item'), notika.backfill('twice', 'new.n > 0')`);

    expect(await refusal(db)).toMatchObject({
      code: "55000",
      message: "table public.loose has no primary key",
      hint: "Give it one: alter table public.loose add primary key (...);",
    });
    expect(await refusal(db, "notika.backfill('report')")).toMatchObject({
      code: "55000",
      message: 'workflow "report" is not published on a table',
      hint: "Start a run by hand: select notika.emit('report', '{...}');",
    });
    expect(await refusal(db, "notika.backfill('gone')")).toMatchObject({
      code: "55000",
      message: 'workflow "gone" is published for deletes, of which a table has no rows',
      hint: "For recent deletes: select notika.replay('gone', '<since>');",
    });
    expect(await refusal(db, "notika.backfill('keyless')")).toMatchObject({
      code: "55000",
      message: 'the events of workflow "keyless" do not carry the key of table public.item',
      hint: expect.stringMatching(/^Publish it with id: select notika\.publish\('keyless', .*columns => '{id,n}'/),
    });
    expect(await refusal(db, "notika.backfill('twice')")).toMatchObject({
      code: "55006",
      message: 'a backfill of workflow "twice" is running already: it is running',
      detail: "Its condition is new.n > 0; it has seen 0 rows.",
      hint: "See notika.backfills, or end it: select notika.cancel_backfill('twice');",
    });
    expect(await refusal(db, "notika.backfill('missing')")).toMatchObject({ code: "42704" });
    await db.query("select notika.publish('twice:item', 'public.item', columns => '{id}', match => '{id}')");
    expect(await refusal(db, "notika.backfill('twice:item')")).toMatchObject({
      code: "42809",
      message: '"twice:item" is a source, which starts no runs',
      hint: "Backfill its workflow: select notika.backfill('twice');",
    });
    expect(await refusal(db, "notika.backfill('gone', 'new.x = 1')")).toMatchObject({
      code: "55000",
      message: 'workflow "gone" is published for deletes, of which a table has no rows',
    });
    await db.query("select notika.cancel_backfill('twice')");
    expect(await refusal(db, "notika.backfill('twice', 'new.x = 1')")).toMatchObject({
      code: "42703",
      message: expect.stringContaining('condition of workflow "twice" is not valid'),
    });
    expect(await refusal(db, "notika.backfill('twice', 'true); drop table item; --')")).toMatchObject({
      code: "42601",
    });
  });

  test("executes no function of others, nor a volatile one, with the owner's rights", async ({ db }) => {
    await db.script(`
      create role visitor;
      create table public.item (id int primary key, n int);
      create function public.trick(int) returns boolean language plpgsql stable as 'begin return true; end';
      alter function public.trick owner to visitor;
      select notika.publish('work', 'public.item')`);

    expect(await refusal(db, "notika.backfill('work', 'public.trick(new.id)')")).toMatchObject({
      code: "42501",
      message:
        'condition of workflow "work" is not valid: it executes function public.trick(integer), which is owned by "visitor"',
      hint: "If you trust it: alter function public.trick(integer) owner to postgres;",
    });
    // Whoever writes may be thought to trust the table's owner, Notika's owner does not.
    await db.script("alter table public.item owner to visitor");
    expect(await refusal(db, "notika.backfill('work', 'public.trick(new.id)')")).toMatchObject({
      code: "42501",
      message: 'a backfill of workflow "work" would execute function public.trick(integer) with the rights of "notika"',
      hint: "If you trust it: alter function public.trick(integer) owner to notika;",
    });
    expect(await refusal(db, `notika.backfill('work', 'set_config(''a.b'', ''1'', true) = ''1''')`)).toMatchObject({
      code: "42501",
      message: expect.stringContaining("set_config(text,text,boolean)"),
      hint: "Write the condition without it: it is volatile.",
    });
    expect(
      await refusal(db, `notika.backfill('work', 'table_to_xml(''public.item'', true, true, '''') is null')`),
    ).toMatchObject({ code: "0A000", hint: "Compare columns and constants, or check that in the task." });
  });

  test("executes no check of a domain and no cast of a type of others with the owner's rights", async ({ db }) => {
    await db.script(`
      create role visitor;
      grant create on schema public to visitor;
      create table public.item (id int primary key, n int);
      select notika.publish('work', 'public.item');
      set role visitor;
      create type public.trap as enum ('shut');
      create function public.spring(public.trap) returns json language plpgsql stable as
        $$ begin raise exception 'called as %', current_user; end $$;
      create cast (public.trap as json) with function public.spring(public.trap) as implicit;
      create function public.check_it(int) returns boolean language plpgsql stable as
        $$ begin raise exception 'called as %', current_user; end $$;
      create domain public.checked as int check (public.check_it(value));
      create domain public.all_checked as public.checked[];
      create type public.letter as (n public.checked);
      reset role;`);
    const ours = "select notika.backfill('work', 'to_jsonb(new) <> to_jsonb(old) is not true')";

    const cast = "function public.spring(public.trap)";
    const conditions = [
      ["to_json(''shut''::public.trap) is not null", cast],
      ["jsonb_build_array(array[''shut''::public.trap]) is not null", cast],
      ["new.n::public.checked > 0", "type public.checked"],
      ["array[new.n]::public.all_checked is not null", "type public.all_checked"],
      ["(json_populate_record(row(new.n)::public.letter, json_build_object())).n is null", "type public.checked"],
    ] as const;

    for (const [condition, culprit] of conditions) {
      expect(await refusal(db, `notika.backfill('work', '${condition}')`), condition).toMatchObject({
        code: "42501",
        message: `condition of workflow "work" is not valid: it executes ${culprit.replace(/^type/, "the checks of type")}, which is owned by "visitor"`,
        hint: `If you trust it: alter ${culprit} owner to postgres;`,
      });
    }
    // Whoever writes may be thought to trust the table's owner, Notika's owner does not.
    await db.script("alter table public.item owner to visitor");
    for (const [condition, culprit] of conditions) {
      expect(await refusal(db, `notika.backfill('work', '${condition}')`), condition).toMatchObject({
        code: "42501",
        message: `a backfill of workflow "work" would execute ${culprit.replace(/^type/, "what belongs to type")} with the rights of "notika"`,
        detail: expect.stringContaining(
          culprit === cast
            ? "The dispatcher evaluates the condition as the owner of Notika."
            : "The checks of a domain and the casts of a type are functions of its owner.",
        ),
        hint: `If you trust it: alter ${culprit} owner to notika;`,
      });
    }
    expect(
      await refusal(db, "notika.backfill('work', '(json_populate_record(null::public.letter, ''{}'')).n is null')"),
    ).toMatchObject({
      code: "0A000",
      message: expect.stringContaining("with type public.checked, which would execute code of"),
    });
    await undone(db, ours);
    await db.script("alter table public.item add column kind public.trap");
    await expect(db.query(ours)).rejects.toMatchObject({ code: "42501" });
  });

  test("stops when a function of the workflow's condition becomes one of others while it goes on", async ({ db }) => {
    await db.script(`
      create role visitor;
      create table public.item (id int primary key, n int);
      create function public.trick(int) returns boolean language plpgsql as
        $$ begin raise exception 'called as %', current_user; end $$;
      insert into public.item values (1);
      select notika.publish('work', 'public.item');
      select notika.backfill('work');
      select notika.publish('work', 'public.item', condition => 'public.trick(new.id)');
      alter function public.trick owner to visitor;
      select notika.dispatch()`);

    expect(await db.query("select state, error from notika.backfills")).toEqual([
      {
        state: "failed",
        error: expect.stringContaining("would execute function public.trick(integer) with the rights of"),
      },
    ]);
  });

  test("asks for the rights that the owner has not", async ({ db }) => {
    await db.script(`
      create table public.item (id int primary key, n int);
      alter table public.item enable row level security, force row level security;
      select notika.publish('work', 'public.item', columns => '{id}');
      revoke select on public.item from notika;`);

    expect(await refusal(db)).toMatchObject({
      code: "42501",
      message: 'role "notika" may not read table public.item',
      hint: "Run: grant select on public.item to notika;",
    });
    await db.query("grant select on public.item to notika");
    const hidden = {
      code: "42501",
      message: 'row security hides rows of table public.item from role "notika"',
      hint:
        "Run: create policy notika on public.item for select to notika using (true); or, where other policies " +
        "restrict it: alter role notika bypassrls;",
    };
    expect(await refusal(db)).toMatchObject(hidden);
    await db.script(`
      create policy notika on public.item for select to notika using (true);
      create policy narrow on public.item as restrictive using (n > 0)`);
    expect(await refusal(db)).toMatchObject(hidden);
    await db.query("drop policy narrow on public.item");
    expect(await db.query("select notika.backfill('work') as said")).toEqual([{ said: "started" }]);
  });
});

describe("replay", () => {
  test("lets captured events run again, once, as far as they were handed over", async ({ db }) => {
    await db.script(`${published.replace("2500", "3")}
      select notika.publish('other', 'public.item', '{update}');
      insert into public.item values (11, 1);`);
    await db.query("select notika.dispatch()");
    const [later] = await db.query<{ at: string }>("select clock_timestamp()::text as at");
    await db.script("insert into public.item values (12, 2); update public.item set n = 5 where id = 11");
    await db.query("select notika.dispatch()");
    await db.query("insert into public.item values (13, 1)");

    expect(await db.query("select notika.replay('work', $1::text::timestamptz) as n", [later?.at])).toEqual([
      { n: "1" },
    ]);
    expect(await db.query("select notika.replay('work', now() - interval '1 hour') as n")).toEqual([{ n: "2" }]);
    expect(await events(db, "work")).toMatchObject([
      { operation: "insert", new: { id: 11 } },
      { operation: "insert", new: { id: 12 } },
      { operation: "insert", new: { id: 13 } },
      { operation: "replay", new: { id: 12 } },
      { operation: "replay", new: { id: 11 } },
      { operation: "replay", new: { id: 12 } },
    ]);
    await db.query("select notika.dispatch()");
    expect(await db.query("select count(*)::int as n from notika.runs where workflow = 'work'")).toEqual([{ n: 6 }]);
  });

  test("says when the ring does not reach back that far, and how far it does", async ({ db }) => {
    await db.script(`${published.replace("2500", "3")} update notika.setting set segment_age = '1 microsecond'`);
    for (let turn = 1; turn <= 4; turn++) {
      await db.query("insert into public.item values ($1::text::int, 1)", [String(turn * 100)]);
      await db.query("select notika.dispatch()");
      await db.query("select notika.maintain()");
    }

    const error = await refusal(db, "notika.replay('work', now() - interval '1 day')");
    expect(error).toMatchObject({
      code: "P0002",
      message: expect.stringMatching(/^the ring reaches back to \d{4}-.* only$/),
      hint: expect.stringMatching(
        /^Events that it has: select notika\.replay\('work', '[^']+'\); rows that exist: select notika\.backfill\('work'\);$/,
      ),
    });
    const [call] = error.hint.match(/notika\.replay\([^)]*\)/);
    expect(await db.query(`select ${call} as n`)).toEqual([{ n: "2" }]);
  });

  test("refuses a time to come", async ({ db }) => {
    await db.script(published.replace("2500", "3"));
    expect(await refusal(db, "notika.replay('work', now() + interval '1 hour')")).toMatchObject({
      code: "22023",
      message: expect.stringContaining("since is not a time that has passed: "),
      hint: "For example: select notika.replay('work', now() - interval '2 hours');",
    });
  });
});
