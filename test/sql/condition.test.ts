import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";
import { inTransaction, undone } from "./support.ts";

const table = `
  create schema app;
  create type app.mood as enum ('fine', 'it''s ok', 'x::y');
  create table app.users (
    id bigint primary key, email text, name varchar(20), at timestamptz, day date, n numeric(10,2), f float8, b bytea,
    tags text[], j jsonb, mood app.mood, moods app.mood[], "Odd ""Name""" int, new int
  );
  insert into app.users values
    (1, 'ada@example.com', 'Ada', '2026-03-04 05:06:07.89+00', '2026-03-04', 1.5, 0.1, '\\xff00', '{a,b}', '{"a": {"b": "c"}}', 'fine', '{fine}', 7, 1),
    (2, 'x', 'it''s', '1999-12-31 23:59:59+00', '1999-12-31', 12, 1e300, '', '{}', '{}', 'it''s ok', '{}', 0, 2),
    (3, null, null, null, null, null, null, null, null, null, null, null, null, null);`;

/** What people write, each true for some of the rows. */
const honest = [
  "new.at > timestamptz '2026-01-01' - interval '1 day'",
  "new.at at time zone 'Europe/Berlin' > timestamp '2026-01-01 10:00'",
  "date '2026-01-01' < new.at::date",
  "new.at > timestamp with time zone '2026-01-01' and new.at < timestamp(3) with time zone '2027-01-01'",
  "interval '90' day < timestamptz '2026-03-04' - new.at",
  "interval '1-2' year to month < interval '2 years' and new.id = 1",
  "new.tags @> '{a}' and new.j @> '{\"a\": {}}'",
  "new.j #>> '{a,b}' = 'c'",
  "new.email ilike '%@EXAMPLE.com' or new.email similar to 'x#%' escape '#' or new.email = 'x'",
  "substring(new.email from '@(.*)$') = 'example.com' and position('@' in new.email) > 1",
  "trim(both 'x' from new.email) <> '' and overlay(new.email placing 'A' from 1 for 1) like 'A%'",
  "extract(year from new.at) = 2026 and extract('month' from new.at) = 3",
  "new.email = any ('{ada@example.com,b}'::text[]) or new.name in ('Ada', 'b')",
  "case new.mood when 'fine' then true when 'x::y' then false else new.n > 50 end",
  "new.email between 'a' and 'b' and coalesce(new.name, 'none') <> 'none'",
  "numeric(10,2) '1.5' <= new.n and double precision '0.1' = new.f",
  "new.email is distinct from 'x'",
  "pg_catalog.date '2026-01-01' < new.at and \"date\" '2026-01-01' < new.at",
  "new.name = 'it''s'",
  "new.email = 'ada@'\n  'example.com'",
  "b'101' = b'101' and x'1F' = x'1F' and new.id > 1",
  "new.email collate \"C\" > 'b'",
  "new.n::text like '1.%' and (new.id, new.email) > (0, 'x')",
  "to_char(new.at, 'YYYY') = '2026'",
  "new.at between '2026-01-01' and 'infinity'",
  "new.b = '\\xff00' or new.f = 1e300",
  "new.mood = 'it''s ok' or 'fine' = any (new.moods)",
  'new."Odd ""Name""" = 7 or new.new = 2',
  "new.* is not null",
  "new.n in (1.5, 12) and new.id = 2",
  "old.email is null or new.email <> old.email",
];

const settings = [
  "set local datestyle = 'SQL, DMY'",
  "set local intervalstyle = 'sql_standard'",
  "set local timezone = 'Asia/Kathmandu'",
  "set local bytea_output = 'escape'",
  "set local extra_float_digits = -15",
];

describe("a condition", () => {
  test("means what it says, and the same in every session that parses it again", async ({ db }) => {
    await db.script(table);
    for (const condition of honest) {
      const quoted = `'${condition.replaceAll("'", "''")}'`;
      const expected = await db.query<{ id: string }>(
        `select new.id from app.users as new, (select (u).* from (select null::app.users as u) as o) as old
          where ${condition} order by 1`,
      );
      await inTransaction(
        db,
        "set local timezone = 'UTC'",
        `select notika.publish('w', 'app.users', '{update}', '{id}', condition => ${quoted})`,
      );
      const rows = await undone<{ id: string }>(
        db,
        ...settings,
        // Makes the trigger again.
        "update notika.workflow set definition = '{}' where name = 'w'",
        "select notika.install()",
        "create temp table kept as select * from app.users",
        "alter table app.users disable trigger all",
        'update app.users set email = null, name = null, at = null, day = null, n = null, f = null, b = null, tags = null, j = null, mood = null, moods = null, "Odd ""Name""" = null, new = null',
        "alter table app.users enable trigger all",
        'update app.users as u set email = k.email, name = k.name, at = k.at, day = k.day, n = k.n, f = k.f, b = k.b, tags = k.tags, j = k.j, mood = k.mood, moods = k.moods, "Odd ""Name""" = k."Odd ""Name""", new = k.new from kept as k where k.id = u.id',
        "select new ->> 'id' as id from notika.event_log where workflow = 'w' order by 1",
      );

      expect({ condition, ids: rows.map(({ id }) => id) }).toEqual({ condition, ids: expected.map(({ id }) => id) });
      expect(await db.query("select condition from notika.workflows")).toEqual([{ condition }]);
    }
  });

  test("is read with the rights of its author, who may not even have TEMP", async ({ db }) => {
    await db.script(`${table} create role pat; grant usage on schema app to pat; grant select, trigger on app.users to pat;
      select notika.grant_publisher('pat'); grant usage on schema app to notika; grant select, trigger on app.users to notika;
      do $$ begin execute format('revoke temporary on database %I from public', current_database()); end $$`);
    const publish = (db: TestDatabase) =>
      inTransaction(db, "set local role pat", "select notika.publish('w', 'app.users', condition => 'new.id > 1')");

    const refusal = await publish(db).catch((error) => error);

    expect(refusal).toMatchObject({
      code: "42501",
      message: expect.stringMatching(/^role "pat" may not create temporary objects in database/),
      hint: expect.stringMatching(/run: grant temporary on database \S+ to pat;$/),
    });
    await db.query(refusal.hint.replace(/^.*run: /, ""));
    await publish(db);
    expect(await db.query("select proname from pg_proc where pronamespace = pg_my_temp_schema()")).toEqual([]);
  });
});
