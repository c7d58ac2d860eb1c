import { expect, test } from "vitest";
import { complaint } from "../../runner/commands/support/output.ts";
import { readSettings, type Settings, shown } from "../../runner/connection/settings.ts";
import { NotikaError } from "../../runner/errors.ts";
import { milliseconds } from "../../runner/workflow/duration.ts";
import { fuzzing, hostileStrings, type Random, randomOf } from "../support/fuzzing.ts";

const { cases, seed } = fuzzing(2000);

const settings = `
  host hostaddr port dbname user password passfile service servicefile options application_name connect_timeout
  target_session_attrs load_balance_hosts channel_binding sslmode sslnegotiation sslrootcert sslcert sslkey
  sslcrl ssl_min_protocol_version keepalives require_auth gssencmode replication ssl schema constructor toString
  __proto__ hasOwnProperty`
  .trim()
  .split(/\s+/);
const values = [
  "",
  "1",
  "0",
  "-1",
  "99999",
  "5432",
  "localhost",
  "a,b",
  "::1",
  "/tmp",
  "@x",
  "require",
  "verify-full",
  "system",
  "any",
  "%41",
  "'",
];
const secret = "sEcr3t";

/** A connection string, mostly nearly one. */
function connectionString(random: Random): string {
  const value = () => (random.chance(0.6) ? random.pick(values) : random.pick(hostileStrings));
  const encoded = (text: string) => (random.chance(0.7) ? encodeURIComponent(text) : text);
  const pairs = () => random.some(4, () => [random.pick(settings), value()] as const);
  const text = random.chance(0.7)
    ? [
        random.pick(["postgres://", "postgresql://", "postgres:/", "Postgres://", "mysql://", ""]),
        random.chance(0.7) ? `${encoded(value())}:${secret}${encoded(value())}@` : "",
        random.some(2, () => `${encoded(value())}${random.pick(["", `:${value()}`])}`).join(","),
        random.chance(0.7) ? `/${encoded(value())}` : "",
        random.chance(0.5)
          ? `?${pairs()
              .map(([name, value]) => `${name}=${encoded(value)}`)
              .join(random.pick(["&", "&&", ";"]))}`
          : "",
      ].join("")
    : pairs()
        .map(
          ([name, value]) =>
            `${name}${random.pick(["=", " = ", ""])}${random.chance(0.7) ? `'${value.replace(/['\\]/g, "\\$&")}'` : value}`,
        )
        .join(random.pick([" ", "\n", ""]))
        .concat(` password=${secret}`);
  if (random.chance(0.8)) return text;
  const at = random.below(text.length + 1);
  return text.slice(0, at) + random.pick(hostileStrings) + text.slice(at + random.below(3));
}

/** What a settings' URL shows. */
const named = ({ places, user, database, tls, session }: Settings) => ({
  places: places.map(({ host, port }) => `${host}:${port}`),
  user,
  database,
  mode: tls.mode,
  session,
});

test("an address of a database is read, or refused with a hint and without its password", () => {
  const random = randomOf(seed);
  const refused: string[] = [];
  for (let i = 0; i < cases; i++) {
    const text = connectionString(random);
    const what = `case ${i} of seed ${seed}: ${JSON.stringify(text).slice(0, 500)}`;
    const started = performance.now();
    try {
      const read = readSettings(text, {});
      expect(read.places.length, what).toBeGreaterThan(0);
      expect(
        read.places.every(({ port }) => port >= 1 && port <= 65535),
        what,
      ).toBe(true);
      expect([typeof read.database, typeof read.user, Number.isFinite(read.timeout)], what).toEqual([
        "string",
        "string",
        true,
      ]);
      expect(named(readSettings(shown(read), {})), what).toEqual(named(read));
    } catch (error) {
      expect(error, what).toBeInstanceOf(NotikaError);
      expect(error, what).toMatchObject({ code: "NOTIKA_URL" });
      expect(complaint(error as Error), what).not.toContain(secret);
      refused.push(text);
    }
    expect(performance.now() - started, what).toBeLessThan(500);
  }
  expect(refused.length / cases).toBeGreaterThan(0.2);
  expect(refused.length / cases).toBeLessThan(0.9);
});

test("a length of time is a number, or none", () => {
  const random = randomOf(seed);
  for (let i = 0; i < cases; i++) {
    const text = [
      ...random.some(
        3,
        () =>
          `${random.pick(["1", "2.5", "0", "-1", "1e9", "9".repeat(400), ""])}${random.pick([" ", "", ", "])}${random.pick(["s", "hours", "constructor", "toString", "__proto__", "ms", random.pick(hostileStrings)])}`,
      ),
    ].join(" ");
    expect(milliseconds(text) ?? 0, `case ${i} of seed ${seed}: ${JSON.stringify(text)}`).toBeGreaterThanOrEqual(0);
  }
});
