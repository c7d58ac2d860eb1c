import { expect } from "vitest";
import { isThorough, testBeside as test } from "../../support/database.ts";

/** Types, with values that might look different when they are converted. */
const values: Record<string, string[]> = {
  "varchar(9)": ["a", "x y "],
  varchar: ["a", "longer than nine"],
  text: ["a", "longer than nine", "1"],
  "char(3)": ["a", "abc"],
  "char(5)": ["a", "abcde"],
  int2: ["1", "32767"],
  int4: ["1", "2147483647", "16777217"],
  int8: ["1", "9007199254740993"],
  "numeric(10,2)": ["1.25", "1.50", "-0.01"],
  "numeric(8,2)": ["1.25", "1.50"],
  "numeric(12,4)": ["1.2501"],
  "numeric(11,0)": ["12"],
  "numeric(5,-1)": ["120", "20"],
  numeric: ["1", "1.25", "1.5", "0.001", "12345678901234567890.10"],
  float4: ["0.1", "1e30", "16777216"],
  float8: ["0.1", "1e300", "16777217"],
  bool: ["true"],
  "bit(3)": ["101"],
  "varbit(3)": ["1", "101"],
  varbit: ["1", "10111"],
  uuid: ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
  "app.mood": ["fine", "it's"],
  json: ['{"b": 1, "a": [1,   2]}', '"x"'],
  jsonb: ['{"b": 1, "a": [1, 2]}', '"x"'],
  date: ["2026-01-31"],
  time: ["12:34:56.123456"],
  "time(3)": ["12:34:56.123"],
  timestamp: ["2026-01-31 12:34:56.123456"],
  "timestamp(3)": ["2026-01-31 12:34:56.123"],
  timestamptz: ["2026-01-31 12:34:56.123456+02"],
  "timestamptz(0)": ["2026-01-31 12:34:56+02"],
  interval: ["1 month 2 days 03:04:05.123456"],
  "interval(2)": ["1 month 2 days 03:04:05.12"],
  "interval day to second": ["2 days 03:04:05.123456"],
  inet: ["10.1.2.3"],
  cidr: ["10.1.2.3/32"],
  "text[]": ['{a,NULL,"b c"}'],
  "varchar(9)[]": ["{a,b}"],
  "int4[]": ["{1,2}"],
  "int8[]": ["{1,2}"],
  "numeric(10,2)[]": ["{1.25,1.50}"],
  "app.short": ["a"],
  "app.price": ["1.25", "1.50"],
};

/** What is refused although the values look the same: each would take a rule for it alone. */
const refusedAnyway = [
  "bit(3) to char(3)",
  "varbit(3) to bit(3)",
  "interval to interval day to second",
  "interval(2) to interval day to second",
];

// Where nobody waits for the result all of them, else those that there is something to say about.
const targets = isThorough
  ? Object.keys(values)
  : ["text", "varchar(9)", "int4", "int8", "numeric(10,2)", "numeric", "float8", "json", "timestamptz", "int8[]"];

test("a change of type passes if, and only if, the values look the same in an event", { timeout: 300_000 }, async ({
  db,
}) => {
  const types = Object.keys(values);
  await db.script(`
    create schema app;
    create type app.mood as enum ('fine', 'it''s');
    create domain app.short as varchar(9);
    create domain app.price as numeric(10,2);
    create table app.given (id serial, n int, ${types.map((type, n) => `c${n} ${type}`).join(", ")});
    select notika.publish('given', 'app.given', columns => '{id,n,${types.map((_, n) => `c${n}`).join(",")}}');
    ${looks}`);
  for (const [n, type] of types.entries()) {
    for (const value of values[type] ?? [])
      await db.query(`insert into app.given (n, c${n}) values ($1, $2::text::${type})`, [n, value]);
  }

  const wrong: string[] = [];
  for (const target of targets) {
    const others = [...types.entries()].filter(([, type]) => type !== target);
    const found = await db.query<{ problem: string }>("select problem from notika.check_ddl($1)", [
      `alter table app.given ${others.map(([n]) => `alter c${n} type ${target} using null`).join(", ")}`,
    ]);
    const kinds = new Map(found.map(({ problem }) => [Number(/c(\d+)/.exec(problem)?.[1]), problem.split(" app.")[0]]));
    await db.script(`
      drop table if exists app.target;
      create table app.target (v ${target});
      select notika.publish('target', 'app.target', columns => '{v}', guard => 'off');`);
    const same = new Map(
      (await db.query<{ n: number; same: boolean }>("select * from app.same_looks()")).map((row) => [row.n, row.same]),
    );
    for (const [n, source] of others) {
      const passes = kinds.get(n) !== "type changed";
      // Where the new type holds none of them, Postgres refuses it.
      if (passes !== (same.get(n) ?? passes) && !refusedAnyway.includes(`${source} to ${target}`))
        wrong.push(`${source} to ${target}: ${kinds.get(n)}, looks the same: ${same.get(n)}`);
    }
  }

  expect(wrong).toEqual([]);
});

/** Of each column whether all of its values that Postgres converts, as ALTER TABLE does, look in an event as they did. */
const looks = `
  create function app.same_looks() returns table (n int, same boolean) language plpgsql as $$
  declare
    v_row record;
  begin
    create temp table outcome (n int, same boolean) on commit drop;
    for v_row in
      select (e.new ->> 'id')::int as id, (e.new ->> 'n')::int as n, e.new as look
        from notika.event_log as e where e.workflow = 'given'
    loop
      begin
        execute format('insert into app.target select c%s from app.given where id = %s', v_row.n, v_row.id);
        insert into outcome
        select v_row.n, (e.new -> 'v')::text = (v_row.look -> ('c' || v_row.n))::text
          from notika.event_log as e where e.workflow = 'target' order by e.event_id desc limit 1;
      exception
        when datatype_mismatch then insert into outcome values (v_row.n, false); -- it takes a USING, and may be anything
        when others then null; -- it does not fit
      end;
    end loop;
    return query select o.n, bool_and(o.same) from outcome as o group by o.n;
  end $$;`;
