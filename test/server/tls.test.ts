import { chmodSync, chownSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { openDatabase } from "../../runner/database/database.ts";
import { examine } from "../../runner/doctor/examine.ts";
import { serverUser } from "../support/binaries.ts";
import { type Authority, type Certificate, openAuthority, selfSigned } from "../support/certificates.ts";
import { asPsql, byUs, psql } from "../support/libpq.ts";
import { findProgram, type Postgres, startPostgres } from "../support/postgres.ts";
import { versions } from "./cluster.ts";

const missing = [!psql && "psql", !findProgram("openssl") && "openssl"].filter(Boolean).join(" and ");
if (missing) test("TLS is tried", ({ skip }) => skip(`${missing} is not installed`));

const modes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

describe.skipIf(missing).each(versions)("a connection to PostgreSQL %i", (major) => {
  let folder: string;
  let server: Postgres;
  let authority: Authority;
  let other: Authority;
  let home: string;
  let certificates: Record<string, Certificate>;
  let sslcrl: string;

  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "notika-tls-"));
    chmodSync(folder, 0o755);
    home = path.join(folder, "home");
    mkdirSync(home);
    vi.stubEnv("HOME", home);
    authority = openAuthority(path.join(folder, "authority"));
    other = openAuthority(path.join(folder, "other"));
    const names = "DNS:localhost,IP:127.0.0.1";
    certificates = {
      "its own": authority.issue("server", { names }),
      "its own, by the common name": authority.issue("localhost"),
      "its own, by name but not by address": authority.issue("127.0.0.1", { names: "DNS:localhost" }),
      "its own, by address but not by name": authority.issue("localhost", { names: "IP:127.0.0.1" }),
      "another's": authority.issue("localhost", { names: "DNS:db.example.com" }),
      "a wildcard": authority.issue("server", { names: "DNS:*.localhost,DNS:*" }),
      expired: authority.issue("localhost", { names, valid: "no longer" }),
      "not valid yet": authority.issue("localhost", { names, valid: "not yet" }),
      "valid for a week": authority.issue("server", { names, valid: "for a week" }),
      revoked: authority.issue("localhost", { names }),
      "self-signed": selfSigned(path.join(folder, "self"), "localhost", names),
      "from an authority nobody knows": other.issue("localhost", { names }),
    };
    sslcrl = authority.revoke(certificates.revoked as Certificate);
    writeFileSync(path.join(folder, "hba.conf"), hba);
    const own = path.join(folder, "server");
    mkdirSync(own);
    present(certificates["its own"] as Certificate);
    server = await startPostgres({
      major,
      settings: {
        ssl: "on",
        ssl_cert_file: path.join(own, "server.crt"),
        ssl_key_file: path.join(own, "server.key"),
        ssl_ca_file: authority.certificate,
        hba_file: path.join(folder, "hba.conf"),
      },
    });
    await server.createDatabase("encrypted");
    await server.createDatabase("plain");
    await server.createDatabase("closed");
    await run(`create role ada login password '${adasPassword}'; create role bob login`);
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  /** Puts a certificate where the server looks for it. */
  function present({ certificate, key }: Certificate) {
    const [crt, secret] = [path.join(folder, "server/server.crt"), path.join(folder, "server/server.key")];
    copyFileSync(certificate, crt);
    copyFileSync(key, secret);
    chmodSync(secret, 0o600);
    const { uid, gid } = serverUser();
    if (uid !== undefined && gid !== undefined) chownSync(secret, uid, gid);
  }

  async function serve(certificate: Certificate) {
    present(certificate);
    await run("select pg_reload_conf()");
    await sleep(200); // the postmaster reads it after the answer
  }

  async function run(text: string) {
    const database = openDatabase({ connect: server.url, connections: 1 });
    await database.script(text).finally(database.close);
  }

  const address = (
    query: Record<string, string>,
    { host = "localhost", user = "postgres", database = "postgres" } = {},
  ) =>
    `postgres://${user}@${host}:${server.port}/${database}?${Object.entries({ connect_timeout: "5", ...query })
      .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
      .join("&")}`;

  test.each([
    "its own",
    "its own, by the common name",
    "its own, by name but not by address",
    "its own, by address but not by name",
    "another's",
    "a wildcard",
    "expired",
    "not valid yet",
    "self-signed",
    "from an authority nobody knows",
  ])("does what psql does when the server's certificate is %s", async (name) => {
    await serve(certificates[name] as Certificate);

    const sslrootcert = authority.certificate;
    const byName = { sslmode: "verify-full", sslrootcert, hostaddr: "127.0.0.1" };
    const outcomes = await asPsql(question, [
      ...modes.flatMap((sslmode) => [address({ sslmode }), address({ sslmode, sslrootcert })]),
      address({ sslmode: "verify-full", sslrootcert }, { host: "127.0.0.1" }),
      ...["a.localhost", "a.b.localhost", "A.LOCALHOST"].map((host) => address(byName, { host })),
    ]);

    // Both being refused everywhere would be equal, too.
    expect(new Set(outcomes).size).toBeGreaterThan(1);
  });

  test("says why a server is not trusted, and what to do", async () => {
    const sslrootcert = authority.certificate;
    const stolen = path.join(folder, "open.key");
    const bob = authority.issue("bob");
    copyFileSync(bob.key, stolen);
    chmodSync(stolen, 0o644);
    const nowhere = path.join(folder, "nowhere");
    const cases: [served: string, query: Record<string, string>, message: RegExp, hint: RegExp][] = [
      ["not valid yet", { sslmode: "verify-ca", sslrootcert }, /is not valid yet/, /clock of this machine/],
      ["revoked", { sslmode: "verify-ca", sslrootcert, sslcrl }, /was revoked/, /new certificate/],
      [
        "expired",
        { sslmode: "verify-ca", sslrootcert },
        /the server localhost is not trusted: its certificate has expired/,
        /new certificate/,
      ],
      ["self-signed", { sslmode: "verify-ca", sslrootcert }, /is self-signed/, /sslmode=require/],
      [
        "from an authority nobody knows",
        { sslmode: "verify-ca", sslrootcert },
        /is not from an authority in .*ca.crt/,
        /sslrootcert=/,
      ],
      ["another's", { sslmode: "verify-full", sslrootcert }, /is for db.example.com, not for localhost/, /verify-ca/],
      ["its own", { sslmode: "verify-ca", sslrootcert: nowhere }, /there is no file .*nowhere/, /sslrootcert=system/],
      [
        "its own",
        {
          sslmode: "verify-ca",
          sslrootcert,
          ssl_max_protocol_version: "TLSv1",
        },
        /TLS handshake failed/,
        /in common/,
      ],
      [
        "its own",
        { sslmode: "require", sslcert: bob.certificate, sslkey: stolen },
        /others than its owner may read the key/,
        /chmod 600/,
      ],
      [
        "its own",
        { sslmode: "require", sslcert: bob.certificate, sslkey: nowhere },
        /but not its key .*nowhere/,
        /sslkey=/,
      ],
      [
        "its own",
        { sslmode: "require", sslcert: nowhere, sslcertmode: "require" },
        /sslcertmode=require, but there is no file/,
        /sslcert=/,
      ],
    ];
    for (const [served, query, message, hint] of cases) {
      await serve(certificates[served] as Certificate);
      const database = openDatabase({ connect: address(query), connections: 1 });
      const error = await database.execute(raw(question)).catch((error) => error);
      await database.close();
      expect(error).toMatchObject({
        kind: "tls",
        message: expect.stringMatching(message),
        hint: expect.stringMatching(hint),
      });
    }
  });

  test("is described by doctor: what was negotiated, what it proves, and what each sslmode would do", async () => {
    await serve(certificates["valid for a week"] as Certificate);
    const sslrootcert = authority.certificate;
    const about = async (query: Record<string, string>, name: string) =>
      (await examine(address(query, { database: "encrypted" }), undefined)).findings.find(
        ({ finding }) => finding === name,
      );

    expect(await about({ sslmode: "verify-full", sslrootcert }, "tls")).toMatchObject({
      severity: "ok",
      detail: expect.stringMatching(/^TLSv1\.3, TLS_\w+; the certificate and the host name in it were verified$/),
    });
    expect(await about({ sslmode: "require", sslrootcert }, "tls")).toMatchObject({
      detail: expect.stringMatching(/; the certificate was verified, but not the host name in it$/),
    });
    expect(await about({ sslmode: "require" }, "tls")).toMatchObject({
      detail: expect.stringMatching(/; the certificate was not verified$/),
    });
    expect((await about({ sslmode: "require", sslrootcert }, "sslmode"))?.detail.split("\n")).toEqual([
      expect.stringMatching(/^disable: fails: pg_hba.conf rejects connection for host/),
      "allow: connects with TLS, certificate verified",
      "prefer: connects with TLS, certificate verified",
      "require (in use): connects with TLS, certificate verified",
      "verify-ca: connects with TLS, certificate verified",
      "verify-full: connects with TLS, certificate and name verified",
    ]);
    expect((await about({ sslmode: "prefer" }, "sslmode"))?.detail.split("\n").slice(3)).toEqual([
      "require: connects with TLS, certificate not verified",
      expect.stringMatching(/^verify-ca: fails: sslmode=verify-ca needs the certificate of an authority/),
      expect.stringMatching(/^verify-full: fails: sslmode=verify-full needs the certificate of an authority/),
    ]);
    expect(await about({}, "certificate")).toMatchObject({
      severity: "warning",
      detail: expect.stringMatching(/^the certificate of localhost expires in 6 days: /),
    });
    expect((await about({ sslmode: "require", sslnegotiation: "direct" }, "sslmode"))?.detail ?? "").toMatch(
      major >= 17 ? /^disable: cannot be combined with sslnegotiation=direct\n/ : /^$/,
    );
  });

  test("does what psql does where pg_hba.conf wants TLS, or none, or nobody", async () => {
    await serve(certificates["its own"] as Certificate);

    const outcomes = await asPsql(
      question,
      ["encrypted", "plain", "closed"].flatMap((database) =>
        modes.map((sslmode) => address({ sslmode, sslrootcert: authority.certificate }, { database })),
      ),
    );

    const [encrypted, plain, refused] = ["encrypted", "plain", "refused"];
    expect(outcomes).toEqual([
      ...[refused, encrypted, encrypted, encrypted, encrypted, encrypted],
      ...[plain, plain, plain, refused, refused, refused],
      ...[refused, refused, refused, refused, refused, refused],
    ]);
  });

  test("does what psql does when the server asks for a certificate of the client", async () => {
    await serve(certificates["its own"] as Certificate);
    const bob = authority.issue("bob");
    const stolen = path.join(folder, "stolen.key");
    copyFileSync(bob.key, stolen);
    chmodSync(stolen, 0o644);
    const shown: Record<string, string>[] = [
      {},
      { sslcert: bob.certificate, sslkey: bob.key },
      { sslcert: bob.certificate, sslkey: stolen },
      { sslcert: bob.certificate, sslkey: path.join(folder, "nowhere.key") },
      { sslcert: path.join(folder, "nowhere.crt"), sslkey: bob.key },
      identity(authority.issue("alice")),
      identity(other.issue("bob")),
      identity(authority.issue("bob", { valid: "no longer" })),
    ];

    const outcomes = await asPsql(
      question,
      shown.flatMap((files) => ["prefer", "require"].map((sslmode) => address({ sslmode, ...files }, { user: "bob" }))),
    );

    // Without a certificate of its own or for its own name, `prefer` comes in where pg_hba.conf does without TLS.
    expect(outcomes).toEqual(
      [
        "plain",
        "refused",
        "encrypted",
        "encrypted",
        ...Array(4).fill(["plain", "refused"]),
        ...Array(4).fill("refused"),
      ].flat(),
    );
  });

  test("does what psql does when the server's certificate was revoked", async () => {
    const sslrootcert = authority.certificate;
    await serve(certificates.revoked as Certificate);

    const outcomes = await asPsql(question, [
      ...modes.map((sslmode) => address({ sslmode, sslrootcert, sslcrl })),
      ...modes.map((sslmode) => address({ sslmode, sslrootcert })),
      ...modes.map((sslmode) => address({ sslmode, sslcrl })),
    ]);

    expect(outcomes.slice(0, 6)).toEqual(["plain", "plain", "plain", "refused", "refused", "refused"]);
    await serve(certificates["its own"] as Certificate);
    expect(await asPsql(question, [address({ sslmode: "verify-full", sslrootcert, sslcrl })])).toEqual(["encrypted"]);
  });

  test("finds the files that psql finds without being told", async () => {
    const own = path.join(home, ".postgresql");
    onTestFinished(() => rmSync(own, { recursive: true }));
    mkdirSync(own);
    const bob = authority.issue("bob");
    copyFileSync(bob.certificate, path.join(own, "postgresql.crt"));
    copyFileSync(bob.key, path.join(own, "postgresql.key"));
    copyFileSync(authority.certificate, path.join(own, "root.crt"));
    const urls = modes.map((sslmode) => address({ sslmode }, { user: "bob" }));

    await serve(certificates["its own"] as Certificate);
    expect(await asPsql(question, urls)).toEqual(["plain", "plain", ...Array(4).fill("encrypted")]);
    await serve(certificates["from an authority nobody knows"] as Certificate);
    expect(await asPsql(question, urls)).toEqual(["plain", "plain", "plain", ...Array(3).fill("refused")]);
  });

  test("knows the TLS versions that psql knows", async () => {
    await serve(certificates["its own"] as Certificate);

    await asPsql(question, [
      address({ sslmode: "require", ssl_min_protocol_version: "TLSv1.3" }),
      address({ sslmode: "require", ssl_max_protocol_version: "TLSv1.2" }),
      address({ sslmode: "require", ssl_min_protocol_version: "TLSv1.3", ssl_max_protocol_version: "TLSv1.2" }),
    ]);
  });

  test("binds the password to the channel when it has to", async () => {
    await serve(certificates["its own"] as Certificate);
    const [password, channel_binding] = [adasPassword, "require"];

    const outcomes = await asPsql(question, [
      address({ password, channel_binding, sslmode: "require" }, { user: "ada" }),
      address({ password, channel_binding, sslmode: "disable" }, { user: "ada" }),
      address({ channel_binding, sslmode: "require" }),
      address({ password: "wrong", channel_binding, sslmode: "require" }, { user: "ada" }),
    ]);

    expect(outcomes).toEqual(["encrypted", "refused", "refused", "refused"]);
  });

  test("begins with TLS at once when it is told to", async () => {
    await serve(certificates["its own"] as Certificate);

    const outcome = await byUs(question, address({ sslmode: "require", sslnegotiation: "direct" }));

    // From 17 on; psql, too, has to be that new.
    const expected = major >= 17 ? "encrypted" : "refused";
    expect(outcome).toBe(expected);
  });

  test("trusts whom this machine trusts when sslrootcert is system", async () => {
    await serve(certificates["its own"] as Certificate);

    const database = openDatabase({ connect: address({ sslrootcert: "system" }), connections: 1 });
    onTestFinished(() => database.close());

    await expect(database.execute(raw(question))).rejects.toMatchObject({ code: "NOTIKA_CONNECT", kind: "tls" });
  });
});

const adasPassword = "pass:w@rd/ ﬁ é";

const identity = ({ certificate, key }: Certificate) => ({ sslcert: certificate, sslkey: key });

const hba = `
host     closed     all  all           reject
hostssl  encrypted  all  all           trust
hostnossl plain     all  all           trust
host     encrypted,plain all all       reject
hostssl  all        bob  all           trust clientcert=verify-full
host     all        ada  all           scram-sha-256
host     all        all  127.0.0.1/32  trust
`;

const question = "select case when ssl then 'encrypted' else 'plain' end from pg_stat_ssl where pid = pg_backend_pid()";
