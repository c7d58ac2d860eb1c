import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { raw } from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { openDatabase } from "../../runner/database/database.ts";
import { examine } from "../../runner/doctor/examine.ts";
import { asPsql, psql } from "../support/libpq.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";
import { versions } from "./cluster.ts";

const password = "p:a/s@s w?r%d'\\é";
const encoded = encodeURIComponent(password);
const question = "select concat_ws(' ', current_user, current_database(), current_setting('search_path'))";

if (!psql) test("connection strings are compared with psql's", ({ skip }) => skip("psql is not installed"));

describe.skipIf(!psql).each(versions)("a connection string leads where it leads psql, PostgreSQL %i", (major) => {
  let folder: string;
  let home: string;
  let server: Postgres;
  let port: number;

  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "notika-libpq-"));
    chmodSync(folder, 0o777);
    home = path.join(folder, "home");
    mkdirSync(home);
    writeFileSync(path.join(folder, "hba.conf"), hba);
    const settings = { hba_file: path.join(folder, "hba.conf"), unix_socket_directories: folder };
    server = await startPostgres({ major, settings });
    port = server.port;
    await server.createDatabase("my app");
    const database = openDatabase({ connect: server.url, connections: 1 });
    const literal = `'${password.replaceAll("'", "''")}'`;
    await database.script(`create role ada login password ${literal}; create role ben login password ${literal}`);
    await database.close();
  });
  afterAll(async () => {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  beforeEach(() => {
    vi.stubEnv("HOME", home);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    for (const file of [".pgpass", ".pg_service.conf"]) rmSync(path.join(home, file), { force: true });
  });

  test("as a URL", async () => {
    const answers = await asPsql(question, [
      `postgres://ada:${encoded}@127.0.0.1:${port}/my%20app`,
      `postgresql://ada:${encoded}@localhost:${port}/my%20app?sslmode=disable&connect_timeout=5`,
      `postgresql://ada@localhost:${port}/my%20app?password=${encoded}`,
      `postgresql://?host=127.0.0.1&port=${port}&user=ada&dbname=my%20app&password=${encoded}`,
      `postgres://ada:${encoded}@${encodeURIComponent(folder)}:${port}/my%20app`,
      `postgres://ada:${encoded}@/my%20app?host=${folder}&port=${port}`,
      `postgres://nowhere.invalid:${port}/postgres?hostaddr=127.0.0.1&user=postgres`,
      `postgres://postgres@127.0.0.1:${port}`,
      `postgres://postgres@127.0.0.1:${port}/postgres?options=-c%20search_path%3Dpg_catalog`,
      `postgres://postgres@127.0.0.1:${port}/?ssl=false`,
      `postgres://ada:wrong@127.0.0.1:${port}/my%20app`,
      `postgres://ada@127.0.0.1:${port}/my%20app`,
      `postgres://postgres@127.0.0.1:${port}/postgres?nonsense=1`,
      `postgres://postgres@127.0.0.1:${port}/postgres?sslmode=nonsense`,
      `postgres://postgres@127.0.0.1:${port}/postgres?sslmode`,
      `postgres://postgres@127.0.0.1:${port}/%zz`,
      `postgres://postgres@127.0.0.1:0/postgres`,
      `postgres://postgres@127.0.0.1:${port}/nowhere`,
      `postgres://nobody@127.0.0.1:${port}/postgres`,
    ]);

    const ada = 'ada my app "$user", public';
    const owner = 'postgres postgres "$user", public';
    const refused = "refused";
    expect(answers).toEqual([
      ...[ada, ada, ada, ada, ada, ada, owner, owner, "postgres postgres pg_catalog"],
      ...Array(10).fill(refused),
    ]);
  });

  test("as settings", async () => {
    const quoted = `'${password.replace(/['\\]/g, "\\$&")}'`;

    const answers = await asPsql(question, [
      `host=127.0.0.1 port=${port} user=ada dbname='my app' password=${quoted}`,
      `  host = '127.0.0.1'   port=${port} user= ada dbname=my\\ app password =${quoted} `,
      `host=${folder} port=${port} user=postgres dbname=postgres`,
      `host=127.0.0.1 port=${port} user=postgres dbname=postgres options='-c search_path=pg_catalog'`,
      `host=127.0.0.1 port=${port} user=postgres dbname=`,
      `host=127.0.0.1 port=${port} user=postgres dbname=postgres nonsense=1`,
      `host=127.0.0.1 port=${port} user=postgres dbname='postgres`,
      `host=127.0.0.1 port=${port} user`,
      `host=127.0.0.1 port=many user=postgres`,
    ]);

    const ada = 'ada my app "$user", public';
    const owner = 'postgres postgres "$user", public';
    expect(answers).toEqual([...[ada, ada, owner, "postgres postgres pg_catalog", owner], ...Array(4).fill("refused")]);
  });

  test("with several hosts", async () => {
    const address = (hosts: string, query = "") => `postgres://postgres@${hosts}/postgres?connect_timeout=5${query}`;

    await asPsql("select current_database()", [
      address(`127.0.0.1:1,127.0.0.1:${port}`),
      address(`nowhere.invalid:5,[::1]:1,127.0.0.1:${port}`),
      address(`127.0.0.1,localhost`, `&port=${port}`),
      address(`127.0.0.1:1,127.0.0.1:2`),
      address(`127.0.0.1:1,127.0.0.1:${port}`, "&hostaddr=127.0.0.1"),
      `host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,${port} user=postgres dbname=postgres`,
      ...["any", "read-write", "read-only", "primary", "standby", "prefer-standby"].map((kind) =>
        address(`127.0.0.1:1,127.0.0.1:${port}`, `&target_session_attrs=${kind}`),
      ),
      `postgres://ada:wrong@127.0.0.1:${port},127.0.0.1:${port}/postgres`,
    ]);
  });

  test("to a standby, or past it", async () => {
    const standby = await startPostgres({ major });
    onTestFinished(() => standby.stop());
    const session = openDatabase({ connect: standby.url, connections: 1 });
    const [found] = await session.execute<{ folder: string }>(
      raw("select current_setting('data_directory') as folder"),
    );
    await session.close();
    writeFileSync(path.join(found?.folder ?? "", "standby.signal"), "");
    await standby.restart();
    const both = `127.0.0.1:${standby.port},127.0.0.1:${port}`;
    const kinds = ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"];

    const answers = await asPsql("select left(pg_is_in_recovery()::text, 1)", [
      ...kinds.map((kind) => `postgres://postgres@${both}/postgres?target_session_attrs=${kind}`),
      ...kinds.map((kind) => `postgres://postgres@127.0.0.1:${standby.port}/postgres?target_session_attrs=${kind}`),
    ]);
    const examined = await examine(standby.url, undefined);

    expect(answers).toEqual([...["t", "f", "t", "f", "t", "t"], ...["t", "refused", "t", "refused", "t", "t"]]);
    expect(examined.findings).toContainEqual({
      finding: "standby",
      severity: "error",
      workflow: null,
      detail: "the server is a standby, which is read-only",
      remedy: expect.stringContaining("target_session_attrs=read-write"),
    });
  });

  test("with a host that takes connections and is silent, after a while", async () => {
    const silent = createServer(() => {}).listen(0, "127.0.0.1");
    await new Promise((go) => silent.once("listening", go));
    const { port: other } = silent.address() as { port: number };

    const answers = await asPsql("select current_database()", [
      `host=127.0.0.1,127.0.0.1 port=${other},${port} user=postgres dbname=postgres connect_timeout=2`,
      `host=127.0.0.1,127.0.0.1 port=${other},${port} user=postgres dbname=postgres connect_timeout=2 sslmode=disable`,
    ]);

    silent.close();
    expect(answers).toEqual(["postgres", "postgres"]);
  });

  test("with what the environment says", async () => {
    vi.stubEnv("PGHOST", "127.0.0.1");
    vi.stubEnv("PGPORT", String(port));
    vi.stubEnv("PGUSER", "ada");
    vi.stubEnv("PGPASSWORD", password);
    vi.stubEnv("PGDATABASE", "my app");
    vi.stubEnv("PGOPTIONS", "-c search_path=pg_temp");

    const answers = await asPsql(question, [
      "user=ada",
      "postgres://",
      "postgres:///postgres",
      "port=1",
      "user=postgres",
    ]);

    expect(answers).toEqual([
      "ada my app pg_temp",
      "ada my app pg_temp",
      "ada postgres pg_temp",
      "refused",
      "postgres my app pg_temp",
    ]);
  });

  test("with a password from a file that nobody else may read", async () => {
    const file = path.join(home, ".pgpass");
    const line = password.replace(/[:\\]/g, "\\$&");
    writeFileSync(file, `# the application\n127.0.0.1:${port}:other:ada:wrong\n*:${port}:my app:ada:${line}\n`);
    const texts = ["ada", "ben"].map((user) => `postgres://${user}@127.0.0.1:${port}/my%20app`);

    chmodSync(file, 0o600);
    expect(await asPsql("select current_user", texts)).toEqual(["ada", "refused"]);
    chmodSync(file, 0o644);
    expect(await asPsql("select current_user", texts)).toEqual(["refused", "refused"]);
  });

  test("by the name of a service", async () => {
    const line = `user=ada\npassword=${password}\n`;
    writeFileSync(
      path.join(home, ".pg_service.conf"),
      `# mine\n[one]\nhost=127.0.0.1\nport=${port}\ndbname=my app\n${line}\n[two]\nhost=127.0.0.1\nport=1\n`,
    );
    vi.stubEnv("PGUSER", "postgres");

    const query = "select current_user || ' ' || current_database()";
    expect(
      await asPsql(query, ["service=one", "postgres:///postgres?service=one", "service=two", "service=three"]),
    ).toEqual(["ada my app", "ada postgres", "refused", "refused"]);
  });

  test("with a password that is no ASCII, and one that SCRAM rewrites", async () => {
    const database = openDatabase({ connect: server.url, connections: 1 });
    await database.script("alter role ben password 'ﬁx\u00a0Ⅷ\u00ad'");
    await database.close();

    const texts = ["ﬁx\u00a0Ⅷ\u00ad", "fix VIII", "fix"].map(
      (text) => `postgres://ben:${encodeURIComponent(text)}@127.0.0.1:${port}/postgres`,
    );
    expect(await asPsql("select current_user", texts)).toEqual(["ben", "ben", "refused"]);
  });
});

const hba = `
host   all  postgres  127.0.0.1/32  trust
local  all  postgres                trust
host   all  all       127.0.0.1/32  scram-sha-256
local  all  all                     scram-sha-256
`;
