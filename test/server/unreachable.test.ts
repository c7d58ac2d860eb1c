import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, connect, createServer, Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { inspect } from "node:util";
import { raw } from "sql-template-tag";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDatabase } from "../../runner/database/database.ts";
import { notikaCommand, start } from "../runner/process.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";
import { versions } from "./cluster.ts";

const password = "s3nt1nel-of-this-test";

describe.each(versions)("what cannot be connected to, PostgreSQL %i", (major) => {
  let folder: string;
  let server: Postgres;
  let strangers: Record<string, Server>;

  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "notika-unreachable-"));
    chmodSync(folder, 0o755);
    writeFileSync(path.join(folder, "hba.conf"), hba);
    server = await startPostgres({
      major,
      settings: { hba_file: path.join(folder, "hba.conf"), max_connections: "10" },
    });
    await server.createDatabase("closed");
    await server.createDatabase("locked");
    const database = openDatabase({ connect: server.url, connections: 1 });
    await database.script(`
      create role ada login password '${password}';
      create role group_only;
      create role full_up login connection limit 0;
      revoke connect on database locked from public;`);
    await database.close();
    strangers = Object.fromEntries(
      await Promise.all(Object.entries(answers).map(async ([name, answer]) => [name, await listen(answer)])),
    );
  });
  afterAll(async () => {
    for (const stranger of Object.values(strangers)) stranger.close();
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const at = (name: string) => `127.0.0.1:${portOf(strangers[name])}`;
  const place = () => `127.0.0.1:${server.port}`;

  test.each<[what: string, url: () => string, message: RegExp, hint: RegExp]>([
    [
      "a host nobody has",
      () => "ada:PW@no.such.host.invalid/app",
      /there is no host "no.such.host.invalid"|no name server/,
      /name of the host|network/,
    ],
    [
      "a port where nobody listens",
      () => "ada:PW@127.0.0.1:1/app",
      /127.0.0.1, port 1: connection refused: nothing is listening there/,
      /listen_addresses/,
    ],
    [
      "a socket that is not there",
      () => "ada:PW@/app?host=/nowhere",
      /\/nowhere\/.s.PGSQL.5432: there is no such socket/,
      /unix_socket_directories/,
    ],
    [
      "a wrong password",
      () => `ada:PW-@${place()}/postgres`,
      /password authentication failed for user "ada"/,
      /PGPASSWORD/,
    ],
    ["no password", () => `ada@${place()}/postgres`, /requires a password for "ada", but none is given/, /\.pgpass/],
    [
      "a database nobody has made",
      () => `postgres:PW@${place()}/nowhere`,
      /database "nowhere" does not exist/,
      /create database "nowhere"/,
    ],
    [
      "a role nobody has made",
      () => `nobody:PW@${place()}/postgres`,
      /role "nobody" does not exist/,
      /create role "nobody" login/,
    ],
    [
      "a role that may not log in",
      () => `group_only:PW@${place()}/postgres`,
      /role "group_only" is not permitted to log in/,
      /alter role "group_only" login/,
    ],
    [
      "a database the role may not enter",
      () => `ada:PW@${place()}/locked`,
      /permission denied for database "locked"/,
      /grant connect on database "locked" to "ada"/,
    ],
    [
      "a role that has all its connections",
      () => `full_up:PW@${place()}/postgres`,
      /too many connections for role "full_up"/,
      /max_connections/,
    ],
    [
      "a line in pg_hba.conf that rejects",
      () => `ada:PW@${place()}/closed`,
      /pg_hba.conf rejects connection/,
      /host "closed" "ada"/,
    ],
    [
      "no line in pg_hba.conf",
      () => `stranger:PW@${place()}/postgres`,
      /no pg_hba.conf entry/,
      /host "postgres" "stranger"/,
    ],
    [
      "a server without TLS",
      () => `ada:PW@${place()}/postgres?sslmode=require`,
      /the server does not support TLS, but sslmode=require requires it/,
      /ssl = on/,
    ],
    [
      "a root certificate that is not there",
      () => `ada:PW@${place()}/postgres?sslmode=verify-full&sslrootcert=/nowhere`,
      /does not support TLS/,
      /ssl = on/,
    ],
    [
      "the wrong kind of server",
      () => `ada:PW@${place()}/postgres?target_session_attrs=standby`,
      /a primary that accepts writes, but target_session_attrs=standby/,
      /target_session_attrs=any/,
    ],
    [
      "a password that is to be bound to TLS",
      () => `ada:PW@${place()}/postgres?channel_binding=require`,
      /does not bind the password to the TLS channel/,
      /channel_binding=prefer/,
    ],
    [
      "a port that is silent",
      () => `ada:PW@${at("silent")}/app`,
      /it accepts connections, but does not answer within 2 s/,
      /port of Postgres/,
    ],
    [
      "a port that is silent, without TLS",
      () => `ada:PW@${at("silent")}/app?sslmode=disable`,
      /it accepts connections, but does not answer within 2 s/,
      /port of Postgres/,
    ],
    [
      "a server that has no TLS and goes silent",
      () => `ada:PW@${at("silent after a while")}/app`,
      /it accepts connections, but does not answer within 2 s/,
      /port of Postgres/,
    ],
    [
      "a login that nobody completes",
      () => `ada:PW@${at("never ready")}/app?sslmode=disable`,
      /it did not complete the login within 2 s/,
      /pooler/,
    ],
    [
      "a handshake that nobody completes",
      () => `ada:PW@${at("promises TLS")}/app?sslmode=require`,
      /no answer in the TLS handshake within 2 s/,
      /./,
    ],
    ["a web server", () => `ada:PW@${at("web")}/app`, /it speaks HTTP, not the protocol of Postgres/, /usually 5432/],
    [
      "a web server, without TLS",
      () => `ada:PW@${at("web")}/app?sslmode=disable`,
      /it speaks HTTP, not the protocol of Postgres/,
      /usually 5432/,
    ],
    ["an SSH server", () => `ada:PW@${at("ssh")}/app`, /it speaks SSH, not the protocol of Postgres/, /usually 5432/],
    [
      "a MySQL server",
      () => `ada:PW@${at("mysql")}/app`,
      /it speaks MySQL, not the protocol of Postgres/,
      /usually 5432/,
    ],
    [
      "something else",
      () => `ada:PW@${at("noise")}/app`,
      /it speaks something else, not the protocol of Postgres/,
      /usually 5432/,
    ],
    [
      "a port that closes at once",
      () => `ada:PW@${at("closes")}/app`,
      /closed the connection immediately|closed the connection without an answer/,
      /port of Postgres/,
    ],
    [
      "a server that is starting",
      () => `ada:PW@${at("starting")}/app?sslmode=disable`,
      /the database system is starting up/,
      /Try again/,
    ],
    [
      "a server that cannot start a process",
      () => `ada:PW@${at("out of memory")}/app`,
      /the server refuses: could not fork new process/,
      /log of the server/,
    ],
    [
      "two hosts, each in its own way",
      () => `ada:PW@127.0.0.1:1,${at("web")}/app`,
      /port 1: connection refused: nothing is listening there; 127.0.0.1, port \d+: it speaks HTTP/,
      /usually 5432/,
    ],
  ])("is said in a sentence, with what to do about it: %s", async (_, url, message, hint) => {
    const text = `postgres://${url().replace("PW", password)}`;
    const database = openDatabase({
      connect: `${text}${text.includes("?") ? "&" : "?"}connect_timeout=2`,
      connections: 1,
    });

    const began = Date.now();
    const error = await database.execute(raw("select 1")).catch((error) => error);
    await database.close();

    expect(Date.now() - began).toBeLessThan(6000);
    expect(error).toMatchObject({
      code: "NOTIKA_CONNECT",
      message: expect.stringMatching(message),
      hint: expect.stringMatching(hint),
    });
    expect(inspect(error, { depth: 20, showHidden: true })).not.toContain(password);
  });
});

describe("a connection that gets lost", () => {
  let server: Postgres;
  let relays: Relay[];

  beforeAll(async () => {
    server = await startPostgres({ major: 18 });
    relays = [];
  });
  afterAll(async () => {
    for (const relay of relays) relay.close();
    await server.stop();
  });

  /** A way to the server on which something happens to each connection after the first, which finds the way. */
  async function through(happen: (client: Socket, upstream: Socket) => void): Promise<string> {
    const relay = await openRelay(server.port, happen);
    relays.push(relay);
    return `postgres://ada:${password}@127.0.0.1:${relay.port}/postgres?user=postgres&sslmode=disable&connect_timeout=2`;
  }

  test("is said by a command", async () => {
    const url = await through((client, upstream) =>
      upstream.once("data", () => setTimeout(() => client.destroy(), 200)),
    );

    const { code, stderr } = await start([...notikaCommand, "install", "--url", url], process.cwd()).ended;

    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: "error: the connection to the database was lost\nhint: Was the server restarted? Try again.\n",
    });
  });

  test("is not waited for when the server stops answering on a way that was good", async () => {
    const url = await through((client) => client.unpipe());
    const database = openDatabase({ connect: url, connections: 1 });

    const began = Date.now();
    const error = await database.execute(raw("select 1")).catch((error) => error);
    await database.close();

    expect(Date.now() - began).toBeLessThan(6000);
    expect(error).toMatchObject({
      code: "NOTIKA_CONNECT",
      message: "the database did not complete the login within 2 s",
      hint: expect.stringContaining("pooler"),
    });
  });

  test("is made anew, on another way when the first is gone", async () => {
    const relay = await openRelay(server.port, () => {});
    const database = openDatabase({
      connect: `postgres://postgres@127.0.0.1:${relay.port},127.0.0.1:${server.port}/postgres?connect_timeout=2`,
      connections: 1,
    });
    await database.execute(raw("select 1"));

    relay.close();
    const rows = await database.execute(raw("select 1 as one")).catch(() => database.execute(raw("select 1 as one")));
    await database.close();

    expect(rows).toEqual([{ one: 1 }]);
  });
});

test("many that want a connection to a silent server are told at once, not one after the other", async () => {
  const silent = await listen(answers.silent);
  const url = `postgres://ada@127.0.0.1:${portOf(silent)}/app?connect_timeout=2`;
  const database = openDatabase({ connect: url, connections: 8 });

  const began = Date.now();
  const outcomes = await Promise.allSettled(Array.from({ length: 8 }, () => database.execute(raw("select 1"))));
  await database.close();
  silent.close();

  expect(outcomes.map(({ status }) => status)).toEqual(Array(8).fill("rejected"));
  expect(Date.now() - began).toBeLessThan(4000);
});

describe("a command that cannot connect", () => {
  let servers: Record<string, Server>;

  beforeAll(async () => {
    servers = { silent: await listen(answers.silent), web: await listen(answers.web) };
  });
  afterAll(() => {
    for (const server of Object.values(servers)) server.close();
  });

  test.each(["silent", "web"])("says the same whichever it is, and never the password: %s", async (name) => {
    const url = `postgres://ada:${password}@127.0.0.1:${portOf(servers[name])}/app?connect_timeout=2&sslpassword=${password}`;
    const cwd = mkdtempSync(path.join(tmpdir(), "notika-unreachable-"));
    mkdirSync(path.join(cwd, "tasks"));
    writeFileSync(path.join(cwd, "tasks/a.js"), "module.exports = async () => {}");
    const commands =
      "status|runs|install|upgrade|retry 1|cancel 1|check|publish a --table b|plan a --table b|unpublish a|run|grant ada|uninstall";

    const said = await Promise.all(
      commands.split("|").map(async (command) => {
        const { code, stdout, stderr } = await start([...notikaCommand, ...command.split(" "), "--url", url], cwd)
          .ended;
        expect({ command, code, stdout }).toEqual({ command, code: 1, stdout: "" });
        expect(stderr).not.toContain(password);
        return stderr;
      }),
    );
    const doctor = await start([...notikaCommand, "doctor", url, "--json"], cwd).ended;

    expect(new Set(said).size).toBe(1);
    const [, message, hint] = /^error: (.*)\nhint: (.*)\n$/.exec(said[0] ?? "") ?? [];
    expect(doctor.stdout + doctor.stderr).not.toContain(password);
    expect(JSON.parse(doctor.stdout).findings).toContainEqual({
      finding: "login",
      severity: "error",
      workflow: null,
      detail: message,
      remedy: hint,
    });
    rmSync(cwd, { recursive: true });
  });
});

const hba = `
host  closed  all         all  reject
host  all     ada         all  scram-sha-256
host  all     postgres    all  trust
host  all     nobody      all  trust
host  all     group_only  all  trust
host  all     full_up     all  trust
`;

/** Whatever may listen where Postgres was expected. */
const answers = {
  silent: () => {},
  "silent after a while": (socket: Socket) => socket.once("data", () => socket.write("N")),
  "never ready": (socket: Socket) =>
    socket.once("data", () => socket.write(Buffer.from("R\0\0\0\x08\0\0\0\0", "latin1"))),
  "promises TLS": (socket: Socket) => socket.once("data", () => socket.write("S")),
  web: createHttpServer(),
  ssh: (socket: Socket) => socket.write("SSH-2.0-OpenSSH_9.2\r\n"),
  mysql: (socket: Socket) => socket.write(Buffer.from("J\0\0\0\n8.0.36\0", "latin1")),
  noise: (socket: Socket) => socket.write("220 mail.example.com ESMTP\r\n"),
  closes: (socket: Socket) => socket.end(),
  starting: (socket: Socket) =>
    socket.once("data", () => socket.end(refusal("57P03", "the database system is starting up"))),
  "out of memory": (socket: Socket) => socket.once("data", () => socket.end("Ecould not fork new process\n\0")),
};

interface Relay {
  port: number;
  close(): void;
}

async function openRelay(port: number, happen: (client: Socket, upstream: Socket) => void): Promise<Relay> {
  const sockets = new Set<Socket>();
  let count = 0;
  const server = await listen((client) => {
    const upstream = connect(port, "127.0.0.1").on("error", () => {});
    client.pipe(upstream).pipe(client);
    for (const socket of [client, upstream]) sockets.add(socket.on("close", () => upstream.destroy()));
    if (count++ > 0) happen(client, upstream);
  });
  return {
    port: portOf(server),
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

function portOf(server: Server | undefined): number {
  return (server?.address() as AddressInfo | null)?.port ?? 0;
}

function refusal(code: string, message: string): Buffer {
  const fields = Buffer.from(`SFATAL\0VFATAL\0C${code}\0M${message}\0\0`);
  const head = Buffer.from("E\0\0\0\0");
  head.writeInt32BE(fields.length + 4, 1);
  return Buffer.concat([head, fields]);
}

async function listen(answer: Server | ((socket: Socket) => unknown)): Promise<Server> {
  const server =
    answer instanceof Server ? answer : createServer((socket) => void answer(socket.on("error", () => {})));
  if (server.listening) return server;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}
