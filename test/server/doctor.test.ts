import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { examine } from "../../runner/doctor/examine.ts";
import type { Finding } from "../../runner/doctor/finding.ts";
import { grant } from "../../runner/install/grant.ts";
import { install } from "../../runner/install/install.ts";
import { notikaCommand, start } from "../runner/process.ts";
import { listObjects } from "../support/dump.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";
import { openSession, type Session, versions } from "./cluster.ts";

describe.each(versions)("doctor, on PostgreSQL %i", (major) => {
  let folder: string;
  let server: Postgres;
  let owner: Session;
  let url: string;

  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "notika-doctor-"));
    chmodSync(folder, 0o755);
    writeFileSync(path.join(folder, "hba.conf"), "host all all all trust\n");
    server = await startPostgres({
      major,
      settings: {
        listen_addresses: "*",
        hba_file: path.join(folder, "hba.conf"),
        max_connections: "30",
        max_prepared_transactions: "3",
      },
    });
    const root = openSession(server.url);
    await root.database.script("create role ada login; create role ben login");
    await root.close();
  });
  afterAll(async () => {
    await server.stop();
    rmSync(folder, { recursive: true });
  });
  beforeEach(async () => {
    url = await server.createDatabase();
    owner = openSession(url);
  });
  afterEach(() => owner.close());

  const as = (role: string) => url.replace("postgres@", `${role}@`);
  const findings = async (text = url, direct?: string) => (await examine(text, direct)).findings;
  const finding = async (name: string, text = url): Promise<Finding | undefined> =>
    (await findings(text)).find(({ finding }) => finding === name);

  test("finds a bare database fit, and leaves it as it was", async () => {
    const before = await listObjects(url);

    const { url: shown, findings } = await examine(url, undefined);

    expect(shown).toBe(`${url.replace("postgres:", "postgresql:")}?sslmode=prefer`);
    expect(findings.map(({ finding, severity }) => `${severity} ${finding}`)).toEqual([
      "ok address",
      "ok login",
      "ok tls",
      "ok sslmode",
      "ok pooler",
      "ok version",
      "ok clock",
      "ok connections",
      "ok prepared transactions",
      "ok role",
      "ok install",
      "ok tables",
      "ok event triggers",
      "warning notika",
    ]);
    expect(findings.at(-1)).toMatchObject({ remedy: "npx notika install" });
    expect(await listObjects(url)).toEqual(before);
  });

  test("says for people and for scripts what it found, and fails when something is wrong", async () => {
    const notika = (...args: string[]) => start([...notikaCommand, "doctor", ...args], process.cwd()).ended;
    const wrong = url.replace(/\/\w+$/, "/nowhere");

    const [text, json, failed, two] = await Promise.all([
      notika(url),
      notika("--url", url, "--json"),
      notika(wrong, "--json"),
      notika(url, url),
    ]);

    expect(text).toMatchObject({ code: 0, stderr: "" });
    expect(text.stdout).toMatch(
      /^postgresql:.*\n\nok +address +127.0.0.1:\d+ \(IPv4\) accepts connections\nok +login /,
    );
    expect(text.stdout).toMatch(/\nwarning +notika +it is not installed in this database\n +→ npx notika install\n$/);
    expect({ ...json, stdout: "" }).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(JSON.parse(json.stdout)).toEqual({ url: expect.any(String), findings: expect.any(Array) });
    expect(failed.code).toBe(1);
    expect(JSON.parse(failed.stdout).findings.at(-1)).toMatchObject({
      finding: "login",
      severity: "error",
      detail: expect.stringContaining('database "nowhere" does not exist'),
      remedy: expect.stringContaining('create database "nowhere"'),
    });
    expect(two).toMatchObject({ code: 2, stderr: expect.stringContaining("doctor examines one database") });
  });

  test("looks up IPv4 and IPv6 each on its own, and tries each address and each host", async () => {
    const both = await findings(url.replace("127.0.0.1", "localhost"));
    const none = await findings("postgres://ada@no.such.host.invalid/app");
    const several = await findings(url.replace(/127.0.0.1:\d+/, `127.0.0.1:1,localhost:${server.port}`));

    expect(both[0]).toMatchObject({ finding: "name", severity: "ok" });
    expect(both[0]?.detail).toMatch(/^localhost: IPv4 (127\.0\.0\.1|none), IPv6 (::1|none)/);
    expect(none).toEqual([
      {
        finding: "name",
        severity: "error",
        workflow: null,
        detail: expect.stringMatching(/^no.such.host.invalid: IPv4 .*, IPv6 /),
        remedy: expect.stringContaining("name of the host"),
      },
    ]);
    expect(several).toContainEqual({
      finding: "address",
      severity: "warning",
      workflow: null,
      detail: "127.0.0.1:1 (IPv4): connection refused: nothing is listening there",
      remedy: expect.stringContaining("listen_addresses"),
    });
    expect(several.filter(({ severity }) => severity === "error")).toEqual([]);
  });

  test("warns of a connection that can be read on the way", async ({ skip }) => {
    const [ip] = Object.values(networkInterfaces()).flatMap((all) =>
      (all ?? []).filter(({ internal, family }) => !internal && family === "IPv4").map(({ address }) => address),
    );
    if (!ip) skip("this machine has no address but its own");

    expect(await finding("tls", url.replace("127.0.0.1", `${ip}`))).toMatchObject({
      severity: "warning",
      detail: "none: others on the network can read and change what is sent and received",
      remedy: expect.stringContaining("sslmode=require"),
    });
  });

  test("says what a role without rights cannot do; its remedies mend it", async () => {
    await owner.database.script(`
      create schema shop; create table shop.orders (id int primary key); revoke create on database "${url.split("/").at(-1)}" from ada`);

    const before = await findings(as("ada"));
    const remedies = Object.fromEntries(before.map(({ finding, remedy }) => [finding, remedy]));
    await owner.database.script(remedies.install ?? "");
    expect(remedies.tables).toBe("npx notika grant ada --schema shop");
    await grant(owner.database, { role: "ada", schemas: ["shop"], apply: true });
    const after = await findings(as("ada"));

    expect(
      before.filter(({ severity }) => severity !== "ok").map(({ finding, severity }) => `${severity} ${finding}`),
    ).toEqual(["error install", "warning tables", "warning event triggers", "warning notika"]);
    expect(after.find(({ finding }) => finding === "install")).toMatchObject({ severity: "ok", remedy: null });
    expect(after.find(({ finding }) => finding === "tables")).toMatchObject({
      severity: "ok",
      detail: "the role may publish 1 of 1 and read 1",
    });
    expect(after.filter(({ severity }) => severity === "error")).toEqual([]);
  });

  test("finds a role with the least rights fit to own Notika", async () => {
    await owner.database.script("create schema shop; create table shop.orders (id int primary key)");
    await grant(owner.database, { role: "ada", schemas: ["shop"], apply: true });
    const ada = openSession(as("ada"));
    await install(ada.database);
    await ada.query("select notika.publish('watch_order', 'shop.orders', columns => '{id}')");
    await ada.close();

    const found = await findings(as("ada"));

    expect(
      found.filter(({ severity }) => severity !== "ok").map(({ finding, severity }) => `${severity} ${finding}`),
    ).toEqual(["warning event triggers", "warning guard"]);
    expect(found).toContainEqual(expect.objectContaining({ finding: "role", detail: "ada, not a superuser" }));
    expect(found).toContainEqual(
      expect.objectContaining({ finding: "install", detail: "the role may install and upgrade" }),
    );
  });

  test("finds schemas of that name that are another role's", async () => {
    await owner.database.script("create schema notika; create schema notika_worker");

    const { detail, remedy, severity } = (await finding("install", as("ada"))) as Finding;
    await owner.database.script(remedy ?? "");

    expect({ severity, detail }).toEqual({
      severity: "error",
      detail: "another role owns the schemas notika and notika_worker, so Notika cannot be installed",
    });
    expect(await finding("install", as("ada"))).toMatchObject({ severity: "ok" });
  });

  describe("where Notika is installed", () => {
    beforeEach(async () => {
      await install(owner.database);
      await owner.database.script(`
        create table item (id int primary key);
        select notika.publish('watch_item', 'public.item', columns => '{id}')`);
    });

    test("shows its version, its worker's, the guard and the ring", async () => {
      const found = await findings();

      expect(found.slice(-4).map(({ finding, severity }) => `${severity} ${finding}`)).toEqual([
        "ok notika",
        "ok worker",
        "ok guard",
        "ok ring",
      ]);
    });

    test("finds a trigger that is disabled, and one that is gone; its remedies mend it", async () => {
      const [row] = await owner.query<{ name: string }>(
        "select tgname as name from pg_trigger where tgrelid = 'item'::regclass and tgname ~ 'notika'",
      );
      await owner.query(`alter table item disable trigger ${row?.name}`);

      const disabled = (await finding("trigger_disabled")) as Finding;
      await owner.database.script(disabled.remedy ?? "");
      expect(disabled).toMatchObject({ workflow: "watch_item", severity: expect.not.stringMatching("ok") });
      expect(await finding("trigger_disabled")).toBeUndefined();

      await owner.database.script(`select notika.begin_maintenance('test'); drop trigger ${row?.name} on item`);
      const gone = (await finding("trigger_dropped")) as Finding;
      await owner.database.script(`select * from notika.end_maintenance(); ${gone.remedy}`);
      expect(gone).toMatchObject({ workflow: "watch_item", severity: "error" });
      expect(await finding("trigger_dropped")).toBeUndefined();
    });

    test("finds another version of Notika, or of its worker", async () => {
      await owner.database.script(`
        create or replace function notika.version() returns text language sql as $$ select '0.0.1' $$;
        delete from notika_worker.migrations where id = (select max(id) from notika_worker.migrations)`);
      const older = await findings();
      await owner.database.script("insert into notika_worker.migrations (id) values (900)");
      const newer = await finding("worker");
      await owner.database.script("insert into notika_worker.migrations (id, breaking) values (901, true)");

      expect(older.find(({ finding }) => finding === "notika")).toMatchObject({
        severity: "error",
        detail: expect.stringContaining("the database has notika 0.0.1, this is notika "),
        remedy: "npx notika upgrade",
      });
      expect(older.find(({ finding }) => finding === "worker")).toMatchObject({
        severity: "error",
        detail: expect.stringMatching(/its schema has revision \d+, this version needs \d+/),
        remedy: "npx notika upgrade",
      });
      expect(newer).toMatchObject({ severity: "warning", detail: expect.stringContaining("revision 900") });
      expect(await finding("worker")).toMatchObject({
        severity: "error",
        detail: expect.stringContaining("revision 901"),
      });
    });

    test("says to a role of another what it may do; its remedies mend it", async () => {
      const stranger = (await finding("parts", as("ada"))) as Finding;
      await owner.query("select notika.grant_runner('ben')");
      const runner = await findings(as("ben"));
      await owner.database.script(stranger.remedy ?? "");

      expect(stranger).toMatchObject({ severity: "error", detail: "the role may do nothing with Notika" });
      expect(runner.find(({ finding }) => finding === "parts")).toMatchObject({
        severity: "ok",
        detail: expect.stringMatching(/^the role may run workflows.*; it may not publish workflows/),
      });
      expect(runner.filter(({ severity }) => severity === "error")).toEqual([]);
      expect(await finding("parts", as("ada"))).toMatchObject({
        severity: "ok",
        detail: "the role may publish workflows, run workflows, read events and runs, read the health of Notika",
        remedy: null,
      });
    });
  });

  test("finds what would silence or stop a role's sessions; its remedies mend it", async () => {
    await owner.database.script(`
      create function public.pg_is_in_recovery() returns boolean language plpgsql as $$ begin raise 'hijacked'; end $$;
      alter role ada set search_path = public, pg_catalog;
      alter role ada set default_transaction_read_only = on;
      alter role ada set session_replication_role = replica;
      ${major >= 17 ? "alter role ada set event_triggers = off;" : ""}
      alter role ada connection limit 9`);

    const found = (await findings(as("ada"))).filter(({ severity }) => severity !== "ok");
    for (const { remedy } of found.filter(({ finding }) =>
      /^(session_|event_triggers|connections|read-only)/.test(finding),
    )) {
      await owner.database.script(remedy?.replace("current_user", "ada").replace("<role>", "ada").split(";")[0] ?? "");
    }

    expect(found.map(({ finding, severity }) => `${severity} ${finding}`)).toEqual(
      expect.arrayContaining([
        "error read-only",
        "warning session_replication_role",
        "warning connections",
        ...(major >= 17 ? ["warning event_triggers"] : []),
      ]),
    );
    const after = (await findings(as("ada"))).filter(({ severity }) => severity !== "ok");
    expect(after.map(({ finding }) => finding)).not.toEqual(expect.arrayContaining(["read-only"]));
    expect(after.map(({ finding }) => finding)).toEqual(["install", "event triggers", "notika"]);
  });

  test("counts the connections that are left", async () => {
    const sessions = Array.from({ length: 20 }, () => openSession(url));
    await Promise.all(sessions.map((session) => session.query("select 1")));

    const found = await finding("connections");

    await Promise.all(sessions.map((session) => session.close()));
    expect(found).toMatchObject({
      severity: "warning",
      detail: expect.stringMatching(/^[1-9] of 30 are free; 3 are reserved; a runner uses up to 14$/),
      remedy: expect.stringContaining("--concurrency"),
    });
  });

  test("finds transactions that somebody prepared and forgot", async () => {
    await owner.database.script(
      "create table note (id int); begin; insert into note values (1); prepare transaction 'lost'",
    );
    expect(await finding("prepared transactions")).toMatchObject({ severity: "ok" });
    await sleep(10_500);

    const found = await finding("prepared transactions");
    await owner.query("rollback prepared 'lost'");

    expect(found).toMatchObject({ severity: "warning", detail: expect.stringContaining("'lost', by postgres since ") });
  });

  test("notices that the clocks differ", async () => {
    const late = "data:text/javascript,const now = Date.now; Date.now = () => now() - 90_000";
    const [node = "", ...others] = notikaCommand;

    const { stdout } = await start([node, "--import", late, ...others, "doctor", url, "--json"], process.cwd()).ended;

    expect(JSON.parse(stdout).findings).toContainEqual({
      finding: "clock",
      severity: "warning",
      workflow: null,
      detail: expect.stringMatching(/^the server's clock is (89|90)\.\d s ahead of this one, so times .* differ/),
      remedy: "Synchronize the clocks of both machines: timedatectl set-ntp true",
    });
  });
});
