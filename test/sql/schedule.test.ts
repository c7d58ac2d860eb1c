import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";
import { captured, events } from "./support.ts";

const next = (db: TestDatabase, cron: string, timeZone: string, after: string, times = 1) =>
  db
    .query<{ at: string }>(
      `with recursive due (at, nth) as (
         select notika._next_time($1, $2, $3::text::timestamptz), 1
         union all
         select notika._next_time($1, $2, at), nth + 1 from due where nth < $4::text::int
       )
       select to_char(at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as at from due order by nth`,
      [cron, timeZone, after, String(times)],
    )
    .then((rows) => rows.map(({ at }) => at));

describe("the next time of a schedule", () => {
  // Each instant was worked out by hand from a calendar and the rules of the time zone.
  test("is the one that a calendar and the rules of the time zone give", async ({ db }) => {
    const cases = [
      ["each minute", "* * * * *", "UTC", "2026-11-22 10:00:30Z", ["2026-11-22 10:01", "2026-11-22 10:02"]],
      ["is later, never the same", "0 10 * * *", "UTC", "2026-11-22 10:00Z", ["2026-11-23 10:00"]],
      ["steps", "*/20 9-17/4 * * *", "UTC", "2026-11-22 09:35Z", ["2026-11-22 09:40", "2026-11-22 13:00"]],
      [
        "lists and ranges",
        "5,50-51 8 * * *",
        "UTC",
        "2026-11-22 00:00Z",
        ["2026-11-22 08:05", "2026-11-22 08:50", "2026-11-22 08:51", "2026-11-23 08:05"],
      ],
      ["names", "0 0 1 feb-MAR *", "UTC", "2026-11-22Z", ["2027-02-01 00:00", "2027-03-01 00:00", "2028-02-01 00:00"]],
      ["weekdays", "0 9 * * mon-fri", "UTC", "2026-11-20 10:00Z", ["2026-11-23 09:00", "2026-11-24 09:00"]],
      ["7 is Sunday, too", "0 9 * * 7", "UTC", "2026-11-20Z", ["2026-11-22 09:00", "2026-11-29 09:00"]],
      [
        "a week may end on Sunday",
        "0 9 * * sat-sun",
        "UTC",
        "2026-11-20Z",
        ["2026-11-21 09:00", "2026-11-22 09:00", "2026-11-28 09:00"],
      ],
      [
        "day or weekday",
        "0 0 13 * fri",
        "UTC",
        "2026-11-10Z",
        [
          "2026-11-13 00:00",
          "2026-11-20 00:00",
          "2026-11-27 00:00",
          "2026-12-04 00:00",
          "2026-12-11 00:00",
          "2026-12-13 00:00",
        ],
      ],
      [
        "day and weekday after a star",
        "0 0 */2 * fri",
        "UTC",
        "2026-11-10Z",
        ["2026-11-13 00:00", "2026-11-27 00:00", "2026-12-11 00:00"],
      ],
      [
        "a short month is left out",
        "0 0 31 * *",
        "UTC",
        "2026-10-31 00:00Z",
        ["2026-12-31 00:00", "2027-01-31 00:00", "2027-03-31 00:00"],
      ],
      ["a leap day", "0 0 29 2 *", "UTC", "2026-11-22Z", ["2028-02-29 00:00", "2032-02-29 00:00"]],
      ["no leap day in 2100", "0 0 29 2 *", "UTC", "2096-03-01Z", ["2104-02-29 00:00"]],
      ["a leap day on a Sunday", "0 0 29 2 */7", "UTC", "2026-11-22Z", ["2032-02-29 00:00", "2060-02-29 00:00"]],
      ["@hourly", "@hourly", "UTC", "2026-11-22 10:00Z", ["2026-11-22 11:00"]],
      ["@daily on a clock", "@daily", "Asia/Tokyo", "2026-11-22 10:00Z", ["2026-11-22 15:00"]],
      ["@weekly", "@weekly", "UTC", "2026-11-22 10:00Z", ["2026-11-29 00:00"]],
      ["@monthly", "@monthly", "UTC", "2026-11-22 10:00Z", ["2026-12-01 00:00"]],
      ["@yearly", "@yearly", "UTC", "2026-11-22 10:00Z", ["2027-01-01 00:00"]],
      ["half hours", "0 9 * * *", "Asia/Kolkata", "2026-11-22Z", ["2026-11-22 03:30"]],

      [
        "keeps its wall clock in spring",
        "0 9 * * *",
        "Europe/Berlin",
        "2026-03-28 00:00Z",
        ["2026-03-28 08:00", "2026-03-29 07:00"],
      ],
      [
        "a time that there is not is as much later",
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-28 02:00Z",
        ["2026-03-29 01:30", "2026-03-30 00:30"],
      ],
      ["and once", "30 2,3 * * *", "Europe/Berlin", "2026-03-28 23:00Z", ["2026-03-29 01:30", "2026-03-30 00:30"]],
      ["later than one that comes after it", "30 2 29 3 *", "America/New_York", "2026-03-01Z", ["2026-03-29 06:30"]],
      ["in New York", "30 2 * * *", "America/New_York", "2026-03-07 12:00Z", ["2026-03-08 07:30", "2026-03-09 06:30"]],
      [
        "among later ones",
        "0,30 2,3 8 3 *",
        "America/New_York",
        "2026-03-08 06:59Z",
        ["2026-03-08 07:00", "2026-03-08 07:30", "2027-03-08 07:00"],
      ],
      [
        "a leap of half an hour",
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03 00:00Z",
        ["2026-10-03 15:45", "2026-10-04 15:15"],
      ],
      [
        "a leap at midnight",
        "30 0 * * *",
        "Africa/Cairo",
        "2026-04-23 12:00Z",
        ["2026-04-23 22:30", "2026-04-24 21:30"],
      ],

      [
        "keeps its wall clock in autumn",
        "0 9 * * *",
        "Europe/Berlin",
        "2026-10-24 00:00Z",
        ["2026-10-24 07:00", "2026-10-25 08:00"],
      ],
      [
        "a time that comes twice counts once, first",
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-24 12:00Z",
        ["2026-10-25 00:30", "2026-10-26 01:30"],
      ],
      ["also from between the two", "30 2 * * *", "Europe/Berlin", "2026-10-25 00:45Z", ["2026-10-26 01:30"]],
      [
        "back by half an hour",
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04 00:00Z",
        ["2026-04-04 14:45", "2026-04-05 15:15"],
      ],
      [
        "every hour keeps its rhythm",
        "30 * * * *",
        "Europe/Berlin",
        "2026-10-24 23:00Z",
        ["2026-10-24 23:30", "2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"],
      ],
      [
        "also in spring",
        "30 * * * *",
        "Europe/Berlin",
        "2026-03-29 00:00Z",
        ["2026-03-29 00:30", "2026-03-29 01:30", "2026-03-29 02:30"],
      ],
    ] as const;
    for (const [what, cron, timeZone, after, expected] of cases) {
      expect({ what, cron, at: await next(db, cron, timeZone, after, expected.length) }).toEqual({
        what,
        cron,
        at: expected,
      });
    }
  });

  test("is what looking at each minute finds, around the changes of many clocks", async ({ db }) => {
    // A minute is due when the clock shows a time of the schedule, unless it showed it before; and as much later as a
    // clock leaps over such a time.  Nothing is shared with what is tested but how fields and clocks are read.
    const zones = "Europe/Berlin America/New_York Australia/Lord_Howe Africa/Cairo America/Nuuk UTC";
    const random = generator(42);
    const oneOf = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
    const list = (low: number, high: number) => [oneOf(low, high), oneOf(low, high), oneOf(low, high)].join(",");
    let found = 0;
    for (const zone of zones.split(" ")) {
      for (const cron of [
        `${list(0, 59)} * * * *`,
        `${list(0, 59)} ${list(0, 4)} * * *`,
        `*/${oneOf(5, 30)} ${list(20, 23)},${list(0, 3)} * * *`,
      ]) {
        const rows = await db.query<{ around: string; found: string[]; expected: string[] }>(bruteForce, [cron, zone]);
        for (const row of rows) {
          expect({ cron, zone, ...row, found: row.expected }).toEqual({ cron, zone, ...row });
          found += row.found.length;
        }
        expect(rows.length).toBe(zone === "UTC" ? 1 : 2);
      }
    }
    expect(found).toBeGreaterThan(500);
  }, 120_000);
});

const bruteForce = `
  with around (day) as (
    select '2026-06-01 00:00Z'::timestamptz where $2 = 'UTC'
    union all
    select d from generate_series('2026-01-02 00:00Z'::timestamptz, '2026-12-30', '1 day') as d
     where (d + interval '1 day') at time zone $2 - d at time zone $2 <> '1 day'
  ), minute as materialized (
    select a.day, m.at, m.at at time zone $2 as local, (m.at - interval '1 minute') at time zone $2 as before
      from around as a
     cross join generate_series(a.day - interval '4 hours', a.day + interval '30 hours', '1 minute') as m (at)
  ), shown as (
    select day, min(at) as at, nullif(max(at), min(at)) as again, local from minute group by day, local
    union all
    select m.day, m.at + (t.local - m.before - interval '1 minute'), null, t.local
      from minute as m
     cross join generate_series(m.before + interval '1 minute', m.local - interval '1 minute', '1 minute') as t (local)
  ), due as (
    select distinct s.day, i.at
      from shown as s
     cross join notika._cron($1) as c
     cross join unnest(array[s.at, case when cardinality(c.hours) = 24 then s.again end]) as i (at)
     where i.at > s.day and i.at <= s.day + interval '30 hours'
       and extract(minute from s.local) = any (c.minutes) and extract(hour from s.local) = any (c.hours)
  )
  select a.day::text as around,
         array(
           with recursive walk (at) as (
             select notika._next_time($1, $2, a.day)
             union all
             select notika._next_time($1, $2, w.at) from walk as w where w.at <= a.day + interval '30 hours'
           )
           select w.at::text from walk as w where w.at <= a.day + interval '30 hours' order by w.at
         ) as found,
         array(select d.at::text from due as d where d.day = a.day order by d.at) as expected
    from around as a`;

describe("a schedule that cannot be", () => {
  test("is refused, and the field is named", async ({ db }) => {
    const cases = [
      ["", "number of fields", "is 0 instead of five", "For example"],
      ["* * * *", "number of fields", "is 4 instead of five", "For example"],
      ["0 * * * * *", "number of fields", "is 6 instead of five", "There are no seconds: leave the first field out."],
      ["60 * * * *", "minute", "has 60, which is not between 0 and 59", "Write a number from 0 to 59."],
      ["* 24 * * *", "hour", "has 24, which is not between 0 and 23", "Write a number from 0 to 23."],
      ["* * 0 * *", "day", "has 0, which is not between 1 and 31", "Write a number from 1 to 31."],
      ["* * * 13 *", "month", "has 13, which is not between 1 and 12", "Write a number from 1 to 12."],
      ["* * * * 8", "weekday", "has 8, which is not between 0 and 7", "Write a number from 0 to 7."],
      ["* * * 99999999999 *", "month", "has 99999999999, which is not between 1 and 12", "Write"],
      ["* * * juli *", "month", 'has "juli", which is no number or name', "The names are jan, feb, mar"],
      ["* noon * * *", "hour", 'has "noon", which is no number or name', "Write a number from 0 to 23."],
      ["1,,2 * * * *", "minute", 'has "", which is no number, range or step', "For example: *, 0, 0-59"],
      ["*-5 * * * *", "minute", 'has "*-5", which is no number, range or step', "For example"],
      ["* * L * *", "day", 'has "l", which is no number or name', "Write a number from 1 to 31."],
      ["* * ? * *", "day", 'has "?", which is no number, range or step', "For example"],
      ["* * * * fri#2", "weekday", 'has "fri#2", which is no number, range or step', "For example"],
      ["* 22-2 * * *", "hour", 'has "22-2", a range that runs backwards', "Write 22-23,0-2."],
      ["* * * * fri-mon", "weekday", 'has "fri-mon", a range that runs backwards', "Write fri-6,0-mon."],
      ["5/15 * * * *", "minute", 'has "5/15", a step without a range', "Write 5-59/15."],
      ["*/0 * * * *", "minute", 'has "*/0", a step that is not between 1 and 59', "For example: */2."],
      ["0 0 30 2 *", "day", "is never due: no month of 2 has it", "For the end of a month: 28 is in all of them."],
      ["0 0 31 feb,apr *", "day", "is never due: no month of feb,apr has it", "For the end"],
      ["@reboot", "name", "is not known", "The names are @hourly"],
    ] as const;
    for (const [cron, field, problem, hint] of cases) {
      await expect(db.query("select notika.schedule('report', $1)", [cron])).rejects.toMatchObject({
        code: "22023",
        message: `${field} of cron "${cron}" ${problem}`,
        detail: expect.stringContaining("A schedule has five fields: minute (0-59)"),
        hint: expect.stringContaining(hint),
      });
    }
  });

  test("is refused with what would be right: time zone, missed, name", async ({ db }) => {
    const refusal = (call: string) => db.query(`select ${call}`).catch((error) => error);

    expect(await refusal("notika.schedule('report', '@daily', 'Europe/Belrin')")).toMatchObject({
      code: "22023",
      message: 'there is no time zone "Europe/Belrin"',
      hint: "Did you mean Europe/Berlin?",
    });
    expect(await refusal("notika.schedule('report', '@daily', 'America/New York')")).toMatchObject({
      message: 'there is no time zone "America/New York"',
      hint: "Did you mean America/New_York?",
    });
    expect(await refusal("notika.schedule('report', '@daily', missed => 'run')")).toMatchObject({
      code: "22023",
      message: 'schedule.missed of workflow "report" is not skip or catch up',
      detail: "It says what happens to times that passed without a run.",
      hint: expect.stringContaining(`select notika.configure('report', '{"schedule": {"cron": "30 2 * * *"`),
    });
    expect(await refusal("notika.schedule('nightly report', '@daily')")).toMatchObject({
      code: "42602",
      message: 'workflow name "nightly report" is not valid',
      hint: "For example: select notika.schedule('nightly_report', '30 2 * * *');",
    });
    expect(await refusal("notika.unschedule('report')")).toMatchObject({
      code: "42704",
      message: 'workflow "report" is not published',
    });
    expect(await refusal("notika.schedule('report', '0 0 29 2 */7', '')")).toMatchObject({ code: "22023" });
    expect(await db.query("select * from notika.workflow")).toEqual([]);
  });

  test("is refused as an option, too", async ({ db }) => {
    await db.script("create table public.items (id int); select notika.publish('work', 'public.items')");
    const refusal = (schedule: string) =>
      db.query("select notika.configure('work', $1::text::jsonb)", [`{"schedule": ${schedule}}`]).catch((e) => e);

    expect(await refusal('"@daily"')).toMatchObject({
      message: 'schedule of workflow "work" is not an object with cron, timeZone and missed',
      detail: 'It is "@daily".',
    });
    expect(await refusal('{"cron": "@daily", "zone": "UTC"}')).toMatchObject({
      message: 'schedule of workflow "work" has no setting "zone"',
      detail: "Its settings are cron, timeZone and missed.",
    });
    expect(await refusal("{}")).toMatchObject({ message: 'number of fields of cron "null" is 0 instead of five' });
  });
});

describe("a workflow that is scheduled", () => {
  const plan = (db: TestDatabase, at: string) =>
    db.query(`update notika.schedule set next_at = clock_timestamp() + $1::text::interval`, [at]);
  const dispatch = async ({ query }: TestDatabase) => (await query("select notika.dispatch() as events"))[0]?.events;

  test("needs no table, and is shown with its next time", async ({ db }) => {
    const [made] = await db.query(
      `select notika.schedule('report', '30 2 * * *', 'Europe/Berlin') > clock_timestamp() as later`,
    );

    expect(made).toEqual({ later: true });
    expect(
      await db.query(`select s.*, (s.next_at at time zone 'Europe/Berlin')::time::text as time,
                             s.next_at < clock_timestamp() + interval '25 hours' as soon from notika.schedules as s`),
    ).toMatchObject([
      {
        workflow: "report",
        cron: "30 2 * * *",
        time_zone: "Europe/Berlin",
        missed: "skip",
        time: "02:30:00",
        soon: true,
        last_at: null,
        error: null,
      },
    ]);
    expect(await db.query("select workflow, table_name, operations, state from notika.workflows")).toEqual([
      { workflow: "report", table_name: null, operations: [], state: "published" },
    ]);
    expect(await db.query("select * from notika.check()")).toEqual([]);
    expect(await db.query("select * from notika.install() where step like 'workflow%'")).toEqual([]);
  });

  test("starts one run when it is due, with the planned time, and knows the next", async ({ db }) => {
    await db.query("select notika.schedule('report', '* * * * *')");
    expect(await dispatch(db)).toBe(0);
    await plan(db, "-1 second");
    const [due] = await db.query(
      `select to_char(next_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as at from notika.schedules`,
    );

    const calls = [await dispatch(db), await dispatch(db), await dispatch(db)];

    expect(calls).toEqual([1, 1, 0]); // made an event, handed it over, nothing
    expect(await events(db, "report")).toEqual([
      { operation: "schedule", table_name: null, new: { planned_at: due?.at }, old: null },
    ]);
    expect(await db.query("select workflow, state, event ->> 'table' as on from notika.runs")).toEqual([
      { workflow: "report", state: "ready", on: null },
    ]);
    expect(
      await db.query(
        `select next_at > clock_timestamp() and next_at <= clock_timestamp() + interval '1 minute' as soon,
                to_char(last_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as last from notika.schedules`,
      ),
    ).toEqual([{ soon: true, last: due?.at }]);
  });

  test("may be published on a table as well, and go back to either", async ({ db }) => {
    await db.script("create table public.items (id int); select notika.publish('work', 'public.items')");
    await db.query("select notika.schedule('work', '@daily')");
    await plan(db, "-1 second");
    await dispatch(db);
    await db.query("insert into public.items values (1)");
    expect((await events(db, "work")).map(({ operation, table_name }) => [operation, table_name])).toEqual([
      ["schedule", "public.items"],
      ["insert", "public.items"],
    ]);

    await db.query("select notika.unschedule('work')");
    expect(await db.query("select workflow, table_name from notika.workflows")).toEqual([
      { workflow: "work", table_name: "public.items" },
    ]);
    expect(await db.query("select * from notika.schedules")).toEqual([]);

    await db.query("select notika.schedule('work', '@daily')");
    await db.query("select notika.unpublish('work')");
    expect(await db.query("select * from notika.workflows")).toEqual([]);
    expect(await db.query("select * from notika.schedules")).toEqual([]);

    await db.query("select notika.schedule('work', '@daily')");
    expect(await db.query("select workflow, table_name from notika.workflows")).toEqual([
      { workflow: "work", table_name: null },
    ]);
    expect(await db.query("select notika.publish('work', 'public.items') as did")).toEqual([{ did: "changed" }]);
    expect(await db.query("select finding from notika.check()")).toEqual([]);
  });

  test("is not published any more without its schedule, when it has no table", async ({ db }) => {
    await db.query("select notika.schedule('report', '@daily')");
    await db.query("select notika.emit('report', '{}')");

    await db.query("select notika.unschedule('report')");

    expect(await db.query("select * from notika.workflows")).toEqual([]);
    await expect(db.query("select notika.emit('report', '{}')")).rejects.toMatchObject({
      message: 'workflow "report" is not published',
    });
  });

  test("skips what was missed, but for a last time that is hardly late", async ({ db }) => {
    await db.query("select notika.schedule('report', '* * * * *')");
    await plan(db, "-1 day");
    expect(await dispatch(db)).toBe(1);
    expect(
      await db.query(
        `select count(*)::int as events, bool_and((new ->> 'planned_at')::timestamptz > clock_timestamp() - interval '61 seconds') as late
           from notika.event_log`,
      ),
    ).toEqual([{ events: 1, late: true }]);

    await db.query("select notika.schedule('nightly', '0 0 1 1 *')");
    await db.query("update notika.schedule set next_at = '2020-01-01Z' where cron <> '* * * * *'");
    expect(await dispatch(db)).toBe(1); // hands over the one before
    expect(await captured(db, "nightly")).toEqual([]);
    expect(
      await db.query(
        "select next_at > clock_timestamp() as later, last_at from notika.schedules where workflow = 'nightly'",
      ),
    ).toEqual([{ later: true, last_at: null }]);
  });

  test("keeps a time that is no later than the setting says", async ({ db }) => {
    await db.script(`
      select notika.schedule('yearly', '0 0 1 1 *');
      update notika.setting set missed_after = '100 years';
      update notika.schedule set next_at = '2020-01-01Z'`);

    expect(await dispatch(db)).toBe(1);

    const [{ year }] = (await db.query("select extract(year from clock_timestamp())::int as year")) as [
      { year: number },
    ];
    expect(await captured(db, "yearly")).toEqual([{ planned_at: `${year}-01-01T00:00:00Z` }]);
  });

  test("catches up with every time that was missed, in their order, some in each call", async ({ db }) => {
    await db.script(`
      select notika.schedule('report', '0 * * * *', missed => 'catch up');
      update notika.schedule set next_at = date_trunc('hour', clock_timestamp()) - interval '249 hours'`);

    const calls = [await dispatch(db), await dispatch(db), await dispatch(db), await dispatch(db), await dispatch(db)];

    expect(calls).toEqual([100, 200, 150, 50, 0]);
    expect(
      await db.query(
        `select count(distinct new ->> 'planned_at')::int as times, min(new ->> 'planned_at')::timestamptz
                  = date_trunc('hour', clock_timestamp()) - interval '249 hours' as first,
                bool_and(late) as ordered
           from (select new, coalesce((new ->> 'planned_at') > lag(new ->> 'planned_at') over (order by event_id), true) as late
                   from notika.event_log) as e`,
      ),
    ).toEqual([{ times: 250, first: true, ordered: true }]);
  });

  test("misses its times while it is paused", async ({ db }) => {
    await db.script(`
      select notika.schedule('report', '@hourly', missed => 'catch up'), notika.pause('report');
      update notika.schedule set next_at = date_trunc('hour', clock_timestamp()) - interval '1 hour'`);
    expect(await dispatch(db)).toBe(0);

    await db.query("select notika.resume('report')");

    expect(await dispatch(db)).toBe(2);
  });

  test("that is scheduled again as it was keeps what it has missed; otherwise it starts anew", async ({ db }) => {
    await db.query("select notika.schedule('report', '@hourly', missed => 'catch up')");
    await plan(db, "-3 hours");
    const isLate = async () =>
      (await db.query("select next_at < clock_timestamp() as late from notika.schedules"))[0]?.late;

    await db.query("select notika.schedule('report', '@hourly', missed => 'catch up')");
    expect(await isLate()).toBe(true);
    await db.query("select notika.schedule('report', '@daily', missed => 'catch up')");
    expect(await isLate()).toBe(false);
  });

  test("never holds up the hand-over of others, says what is wrong, and stays due", async ({ db }) => {
    await db.script(`
      create table public.items (id int); select notika.publish('work', 'public.items');
      select notika.schedule('report', '@daily', 'Europe/Berlin');
      update notika.schedule set time_zone = 'Atlantis/Capital', next_at = '2026-01-01';
      insert into public.items values (1)`);

    expect(await dispatch(db)).toBe(1);

    expect(await db.query("select next_at::text, error from notika.schedules")).toEqual([
      { next_at: "2026-01-01 00:00:00+00", error: 'time zone "Atlantis/Capital" not recognized' },
    ]);
    expect(await db.query("select finding, severity, workflow, detail, remedy from notika.check()")).toEqual([
      {
        finding: "schedule",
        severity: "error",
        workflow: "report",
        detail:
          'could not be kept at 2026-01-01 00:00:00+00 and is tried again: time zone "Atlantis/Capital" not recognized',
        remedy: "select notika.schedule('report', '@daily', 'Atlantis/Capital', 'skip');",
      },
    ]);
    // Each try costs something, so that it is not part of every hand-over.
    const tried = "select tried_at::text as at from notika.schedule";
    const [first] = await db.query(tried);
    await dispatch(db);
    expect(await db.query(tried)).toEqual([first]);
    expect(
      await db.query("select notika._next_due('{report}') > clock_timestamp() - interval '1 second' as later"),
    ).toEqual([{ later: true }]);
    await db.query("select notika.schedule('report', '@daily', 'Europe/Berlin')");
    expect(await db.query("select next_at < 'infinity' as planned, error from notika.schedules")).toEqual([
      { planned: true, error: null },
    ]);
  });

  for (const missed of ["skip", "catch up"]) {
    test(`loses no time to an error that passes: ${missed}`, async ({ db }) => {
      await db.script(`
        select notika.schedule('report', '0 * * * *', missed => '${missed}');
        update notika.schedule set next_at = date_trunc('hour', clock_timestamp()) - interval '5 hours';
        update notika.setting set missed_after = '7 hours';
        create function public.no_space() returns trigger language plpgsql as
          $$ begin raise exception 'no space left on device' using errcode = '53100'; end $$;
        create trigger full_disk before insert on notika.event_log_0 for each row execute function public.no_space()`);
      for (let turn = 0; turn < 2; turn++) {
        expect(await dispatch(db)).toBe(0);
        await db.query("update notika.schedule set tried_at = tried_at - interval '2 seconds'");
      }
      expect(await db.query("select error, last_at from notika.schedules")).toEqual([
        { error: "no space left on device", last_at: null },
      ]);

      // Long after it would have been skipped, had nobody been there.
      await db.script("drop trigger full_disk on notika.event_log_0; update notika.setting set missed_after = '0'");
      await dispatch(db);

      const hours = await db.query(
        `select (extract(epoch from date_trunc('hour', clock_timestamp()) - (new ->> 'planned_at')::timestamptz) / 3600)::int as ago
           from notika.event_log order by event_id`,
      );
      expect(hours).toEqual((missed === "skip" ? [0] : [5, 4, 3, 2, 1, 0]).map((ago) => ({ ago })));
      expect(await db.query("select error, next_at > clock_timestamp() as planned from notika.schedules")).toEqual([
        { error: null, planned: true },
      ]);
    });
  }

  test("keeps its other options, and an option says the same", async ({ db }) => {
    await db.script(`create table public.items (id int);
      select notika.publish('work', 'public.items', options => '{"concurrency": 3}')`);

    await db.query("select notika.schedule('work', '@daily', 'Europe/Berlin')");
    const [row] = await db.query<{ options: { schedule: object } }>("select options from notika.workflow");
    expect(row?.options).toEqual({
      concurrency: 3,
      schedule: { cron: "@daily", timeZone: "Europe/Berlin", missed: "skip" },
    });
    expect(
      await db.query("select notika.configure('work', $1::text::jsonb) as did", [JSON.stringify(row?.options)]),
    ).toEqual([{ did: "unchanged" }]);

    await db.query(`select notika.configure('work', '{"schedule": {"cron": "@hourly"}}')`);
    expect(await db.query("select cron, time_zone, missed from notika.schedules")).toEqual([
      { cron: "@hourly", time_zone: "UTC", missed: "skip" },
    ]);
    await db.query(`select notika.publish('work', 'public.items', options => '{}')`);
    expect(await db.query("select * from notika.schedules")).toEqual([]);
  });

  test("is planned as it is published: by the statements that lead there, and with the same refusals", async ({
    db,
  }) => {
    const plan = (workflow: string, options: object) =>
      db.query<{ statement: string }>("select statement from notika._plan_by_time($1, $2::text::jsonb)", [
        workflow,
        JSON.stringify(options),
      ]);
    const optionsOf = (workflow: string) =>
      db.query("select options from notika.workflows where workflow = $1 and table_name is null", [workflow]);
    const daily = { schedule: { cron: "@daily" } };

    for (const options of [daily, { ...daily, concurrency: 2 }, { schedule: { cron: "@hourly" } }, {}]) {
      await db.query("select notika._publish_by_time('published', $1::text::jsonb)", [JSON.stringify(options)]);
      for (const { statement } of await plan("planned", options)) await db.query(statement);

      expect(await optionsOf("planned")).toEqual(await optionsOf("published"));
      expect(await plan("published", options)).toEqual([]);
    }

    await expect(plan("report", { schedule: { cron: "@dayly" } })).rejects.toMatchObject({ code: "22023" });
    await expect(plan("nightly report", daily)).rejects.toMatchObject({ code: "42602" });
  });

  test("is due next when its time comes, or before that one of its runs", async ({ db }) => {
    const due = async () =>
      (
        await db.query(
          "select round(extract(epoch from notika._next_due('{report}') - clock_timestamp()) / 60)::int as minutes",
        )
      )[0]?.minutes;
    await db.query("select notika.schedule('report', '@daily'), notika.schedule('other', '* * * * *')");
    await db.query("update notika.schedule set next_at = clock_timestamp() + interval '2 hours' where cron = '@daily'");
    expect(await due()).toBe(120);

    await db.query("select notika.emit('report')");
    await db.query("select notika.dispatch()");
    await db.query("update notika_worker._private_jobs set run_at = clock_timestamp() + interval '1 hour'");
    expect(await due()).toBe(60);
    await db.query("select notika.pause('report')");
    expect(await due()).toBe(60);
    await db.query("update notika_worker._private_jobs set run_at = 'infinity'");
    expect(await due()).toBe(null);
  });
});

/** Numbers from 0 to 1, the same for the same seed. */
function generator(seed: number) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
