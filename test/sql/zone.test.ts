import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";

const refusal = (db: TestDatabase, zone: string | null) =>
  db
    .query("select notika._check_time_zone($1)", [zone])
    .then(() => undefined)
    .catch((error: { code: string; message: string; hint: string }) => error);

describe("a time zone", () => {
  test("is a name, however it is written, that Postgres reads as that zone", async ({ db }) => {
    for (const zone of ["UTC", "utc", "Europe/Berlin", "america/new_york", "Etc/GMT+5", "GMT", "EST5EDT"]) {
      expect({ zone, refused: await refusal(db, zone) }).toEqual({ zone, refused: undefined });
    }
    // Where a zone is asked for an abbreviation of the same name goes first.  In the setting only names count.
    await db.script(`
      create function read_otherwise() returns setof text language plpgsql as $$
      declare v_name text;
      begin
        for v_name in select n.name from pg_timezone_names as n where n.name !~ '/' and notika._is_time_zone(n.name) loop
          perform set_config('timezone', v_name, true);
          if exists (
            select from generate_series('2026-01-01Z'::timestamptz, '2026-12-31Z', '30 days') as t (at)
             where t.at at time zone v_name <> t.at::timestamp
          ) then
            return next v_name;
          end if;
        end loop;
      end $$`);
    expect(await db.query("select read_otherwise() as name")).toEqual([]);
  });

  test("by an offset, an abbreviation or a POSIX string is refused, with the name that is meant", async ({ db }) => {
    const cases = {
      "UTC+2":
        "Did you mean Etc/GMT-2? In that name the sign is reversed: it is 2 hours ahead of UTC all year. A place, such as Europe/Berlin, has daylight-saving time.",
      "gmt-05:00": "Did you mean Etc/GMT+5? In that name the sign is reversed: it is 5 hours behind UTC all year.",
      "+05:45": "These have that offset now: Asia/Kathmandu, Asia/Katmandu.",
      "GMT+5:30": "Asia/Kolkata",
      "+0530": "Asia/Kolkata",
      Foo3: "List the time zones: select name from pg_timezone_names;",
      "<+03>-3": "List the time zones: select name from pg_timezone_names;",
      "Europe/Berlin3": "Did you mean Europe/Berlin?",
      "EST5EDT,M3.2.0,M11.1.0": "",
      IST: "Did you mean Asia/Kolkata, Asia/Jerusalem or Europe/Dublin?",
      CET: "Did you mean Europe/Berlin?",
      met: "Did you mean Europe/Berlin?",
      PDT: "Did you mean America/Los_Angeles?",
      Z: "Did you mean UTC?",
      berlin: "Did you mean Europe/Berlin?",
      "America/New York": "Did you mean America/New_York?",
      "Asia/Calcuta": "Did you mean Asia/Calcutta?",
      "Mars/Olympus": "",
      "right/Europe/Berlin": "",
      "": "List the time zones: select name from pg_timezone_names;",
    };
    for (const [zone, hint] of Object.entries(cases)) {
      expect({ zone, error: await refusal(db, zone) }).toMatchObject({
        zone,
        error: { code: "22023", message: `there is no time zone "${zone}"`, hint: expect.stringContaining(hint) },
      });
    }
    expect(await refusal(db, null)).toMatchObject({ message: 'there is no time zone "null"' });
    expect(await refusal(db, "x".repeat(100_000))).toMatchObject({
      hint: "List the time zones: select name from pg_timezone_names;",
    });
  });
});
