import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { examine } from "../../runner/doctor/examine.ts";
import { type PgBouncer, type PgBouncerOptions, pgbouncer, startPgBouncer } from "../support/pgbouncer.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";
import { openSession, versions } from "./cluster.ts";

if (!pgbouncer) test("doctor is tried through a pooler", ({ skip }) => skip("pgbouncer is not installed"));

describe.skipIf(!pgbouncer).each(versions)("doctor, behind PgBouncer, PostgreSQL %i", (major) => {
  let server: Postgres;
  let pooler: PgBouncer | undefined;

  beforeAll(async () => {
    server = await startPostgres({ major });
    await server.createDatabase("app");
    await server.createDatabase("other");
  });
  afterAll(() => server.stop());
  afterEach(async () => {
    await pooler?.stop();
    pooler = undefined;
  });

  const at = (port: number, database = "app") => `postgres://postgres@127.0.0.1:${port}/${database}`;
  const start = async (options: Partial<PgBouncerOptions>) => {
    pooler = await startPgBouncer({ server: server.port, ...options });
    return at(pooler.port);
  };
  const findings = async (name: RegExp, url: string, direct?: string) =>
    (await examine(url, direct)).findings.filter(({ finding }) => name.test(finding));

  test.each([1, 3])(
    "knows transaction mode by what it does, with %i connections to the server",
    async (connections) => {
      const url = await start({ mode: "transaction", connections });

      const { findings } = await examine(url, undefined);

      expect(findings.find(({ finding }) => finding === "pooler")).toEqual({
        finding: "pooler",
        severity: "warning",
        workflow: null,
        detail: expect.stringContaining(
          "in transaction mode: a client keeps a server process for one transaction: new events are found by polling",
        ),
        remedy: expect.stringContaining("NOTIKA_DIRECT_URL"),
      });
      expect(findings.filter(({ severity }) => severity === "error")).toEqual([]);
      expect(findings.map(({ finding }) => finding)).toEqual(
        expect.arrayContaining(["version", "event triggers", "notika"]),
      );
    },
  );

  test.each([1, 3])("knows session mode, with %i connections to the server", async (connections) => {
    const url = await start({ mode: "session", connections });

    expect(await findings(/pooler/, url)).toMatchObject([
      { severity: "ok", detail: expect.stringContaining("in session mode"), remedy: null },
    ]);
  });

  test("refuses statement mode, in which there are no transactions", async () => {
    const url = await start({ mode: "statement" });

    const { findings } = await examine(url, undefined);

    expect(findings.at(-1)).toMatchObject({
      finding: "pooler",
      severity: "error",
      detail: expect.stringContaining("but Notika needs transactions"),
      remedy: expect.stringContaining("pool_mode = transaction"),
    });
  });

  test("looks at the address past the pooler, too", async () => {
    const url = await start({ mode: "transaction" });

    const [good, another, pooled, dead] = [
      await findings(/pooler|direct/, url, at(server.port)),
      await findings(/direct/, url, at(server.port, "other")),
      await findings(/direct/, url, url),
      await findings(/direct/, url, at(1)),
    ];

    expect(good).toMatchObject([
      { finding: "pooler", severity: "ok", detail: expect.stringContaining("NOTIKA_DIRECT_URL bypasses it") },
      {
        finding: "direct",
        severity: "ok",
        detail: expect.stringMatching(/\/app\?sslmode=prefer is the same database, and LISTEN works there$/),
      },
    ]);
    expect(another).toMatchObject([
      { severity: "error", detail: expect.stringContaining("/other?sslmode=prefer is another database") },
    ]);
    expect(pooled).toMatchObject([
      { severity: "error", detail: expect.stringContaining("goes through a pooler, too") },
    ]);
    expect(dead).toMatchObject([
      {
        severity: "error",
        detail: expect.stringContaining("connection refused: nothing is listening there"),
        remedy: expect.any(String),
      },
    ]);
  });

  test("leaves nothing on the pooler's connections", async () => {
    const url = await start({ mode: "transaction", connections: 2 });
    await examine(url, undefined);

    const through = [openSession(url), openSession(url)];
    const left = await Promise.all(
      through.map((session) =>
        session.value(`
          select (select count(*) from pg_prepared_statements) + (select count(*) from pg_listening_channels())
               + (select count(*) from pg_class where relpersistence = 't')
               + (select count(*) from pg_settings where source = 'session' and name not in ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings'))`),
      ),
    );
    await Promise.all(through.map((session) => session.close()));

    expect(left).toEqual(["0", "0"]);
  });

  test("explains what a pooler refuses", async () => {
    const url = await start({ mode: "transaction" });

    const parameter = await findings(/login/, `${url}?options=-c%20statement_timeout%3D5s`);
    const user = await findings(/login/, url.replace("postgres@", "stranger@"));

    expect(parameter).toMatchObject([
      {
        severity: "error",
        detail: expect.stringContaining("unsupported startup parameter"),
        remedy: expect.stringContaining("options"),
      },
    ]);
    expect(user).toMatchObject([{ severity: "error", remedy: expect.any(String) }]);
  });

  test("says when the pooler cannot reach its server", async () => {
    pooler = await startPgBouncer({ server: 1 });

    const [found] = await findings(/login/, `${at(pooler.port)}?connect_timeout=2`);

    expect(found).toMatchObject({ severity: "error", remedy: expect.any(String) });
  });
});
