import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { namedDatabase, readSettings, shown } from "../../runner/connection/settings.ts";

const secret = "s3nt1nel";

describe("a connection string", () => {
  test.each([
    ["postgres://ada:pw@db.example.com/app", "postgresql://ada@db.example.com:5432/app?sslmode=prefer"],
    ["postgres://ada@[::1]:6000,b/app", "postgresql://ada@[::1]:6000,b:5432/app?sslmode=prefer"],
    ["host=/tmp user=ada dbname='my app'", "postgresql://ada@%2Ftmp:5432/my%20app?sslmode=prefer"],
    ["host=b user=a:b sslmode=verify-full", "postgresql://a%3Ab@b:5432/a%3Ab?sslmode=verify-full"],
    [
      "host=a,b port=1 user=ada target_session_attrs=read-write sslrootcert=system",
      "postgresql://ada@a:1,b:1/ada?sslmode=verify-full&target_session_attrs=read-write",
    ],
  ])("is shown without the password: %s", (text, url) => {
    expect(shown(readSettings(text, {}))).toBe(url);
  });

  test("comes before the service, which comes before the environment", () => {
    const environment = { PGUSER: "a", PGDATABASE: "b", PGPORT: "1", PGAPPNAME: "c", PGCONNECT_TIMEOUT: "7" };

    expect(readSettings("user=x host=h", environment)).toMatchObject({
      user: "x",
      database: "b",
      places: [{ host: "h", port: 1 }],
      timeout: 7000,
      startup: { application_name: "c" },
    });
  });

  test("keeps the password where it is not printed", () => {
    const settings = readSettings(`postgres://ada:${secret}@h/app?sslpassword=${secret}`, { PGPASSWORD: secret });

    expect(settings.places[0]?.password()).toBe(secret);
    expect(inspect(settings, { depth: 9, showHidden: true }) + JSON.stringify(settings)).not.toContain(secret);
  });

  test.each([
    ["app", /begins with neither postgres:\/\/ nor a setting/],
    [`mysql://ada:${secret}@h/app`, /begins with neither/],
    [`mysql://ada:${secret}@h/app?a=b`, /begins with neither/],
    [`postgres://ada:${secret}/x@h/app`, /there is a \/ or \? before the @/],
    [`postgres://ada:${secret}@x@h/app`, /more than one @/],
    [`postgres://ada:${secret}%@h/app`, /a % is not followed by two hexadecimal digits/],
    [`postgres://ada:${secret}%00@h/app`, /%00 is not a character/],
    [`postgres://ada:${secret}%ff@h/app`, /is not UTF-8/],
    [`postgres://ada:${secret}@::1/app`, /an IPv6 address is written in \[ \]/],
    [`postgres://ada:${secret}@h:many/app`, /the port is not a number from 1 to 65535/],
    [`postgres://ada:${secret}@h:65536/app`, /the port is not a number from 1 to 65535/],
    [`postgres://ada:${secret}@h/app?sslmode`, /settings are written name=value/],
    [`postgres://ada:${secret}@h/app?schema=public`, /there is no setting "schema"/],
    [`postgres://ada@h/app?${secret}-=x`, /it has a setting that does not exist/],
    [`host=h password='${secret}`, /not a list of name=value/],
    [`host=h password=${secret} sslmode=maybe`, /sslmode has an invalid value/],
    [`host=a,b port=1,2,3 password=${secret}`, /2 hosts and 3 ports/],
    [`host=a,b hostaddr=1.2.3.4 password=${secret}`, /2 host names and 1 addresses/],
    [`host=h connect_timeout=soon password=${secret}`, /connect_timeout is not a number of seconds/],
    [
      `host=h sslrootcert=system sslmode=require password=${secret}`,
      /weak sslmode "require" may not be used with sslrootcert=system/,
    ],
    [`host=h sslnegotiation=direct password=${secret}`, /sslnegotiation=direct cannot be combined with sslmode=prefer/],
    [`host=h require_auth=scram-sha-256 password=${secret}`, /the setting require_auth is not supported/],
    [`host=h gssencmode=require password=${secret}`, /the setting gssencmode is not supported/],
    [`service=${"nowhere"} password=${secret}`, /there is no service "nowhere" in /],
  ])("is refused with a reason, and never repeated: %s", (text, reason) => {
    let error: unknown;
    try {
      readSettings(text, { HOME: "/nowhere" });
    } catch (caught) {
      error = caught;
    }

    expect(error).toMatchObject({
      code: "NOTIKA_URL",
      message: expect.stringMatching(reason),
      hint: expect.stringMatching(/./),
    });
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(secret);
  });

  test("names the database itself, or DATABASE_URL does, or what psql reads", () => {
    expect(namedDatabase("a", { DATABASE_URL: "b", PGHOST: "c" })).toBe("a");
    expect(namedDatabase(undefined, { DATABASE_URL: "b", PGHOST: "c" })).toBe("b");
    expect(namedDatabase(undefined, { PGHOST: "c" })).toBe("");
    expect(namedDatabase(undefined, { PGUSER: "d", PGPASSWORD: secret })).toBeUndefined();
  });
});
