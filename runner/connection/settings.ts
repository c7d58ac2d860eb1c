import { existsSync } from "node:fs";
import { userInfo } from "node:os";
import path from "node:path";
import { homeFile, passwordFromFile, readService } from "./files.ts";
import { type Given, readConnectionString, unreadable } from "./text.ts";

/** How to reach a database and as which user, read from a connection string and the environment as libpq does. */
export interface Settings {
  /** In the order they are tried. */
  places: Place[];
  database: string;
  user: string;
  tls: TlsSettings;
  /** The time limit of one place, in milliseconds; 0: no limit. */
  timeout: number;
  session: "any" | "read-write" | "read-only" | "primary" | "standby" | "prefer-standby";
  /** Whether the places are tried in random order. */
  isBalanced: boolean;
  needsChannelBinding: boolean;
  isKeptAlive: boolean;
  /** Parameters sent to the server at the start of a session. */
  startup: { application_name: string; options?: string };
}

/** A place where a server may be. */
export interface Place {
  /** A name or an address; or the folder of a Unix socket. */
  host: string;
  /** The IP address of `host`; undefined: look it up. */
  address?: string;
  port: number;
  /** A function, so that it is not printed by accident. */
  password: () => string | undefined;
}

export type TlsMode = (typeof tlsModes)[number];

export interface TlsSettings {
  mode: TlsMode;
  isDirect: boolean;
  /** A file, or `system`: the authorities that Node trusts. */
  rootCertificate: string;
  certificate: string;
  sendsCertificate: "allow" | "disable" | "require";
  key: string;
  passphrase: () => string | undefined;
  revoked: string;
  revokedFolder?: string;
  sendsName: boolean;
  oldest: string;
  newest?: string;
}

/** The values of sslmode, from no TLS to TLS with a verified server name. */
export const tlsModes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const;

/**
 * Reads the settings from a connection string, which may be empty, and from the files and variables of psql.  Throws
 * NOTIKA_URL.
 */
export function readSettings(text: string, environment: NodeJS.ProcessEnv = process.env): Settings {
  const given = withDefaults(readConnectionString(text), environment);
  const user = given.user || userName();
  const database = given.dbname || user;
  return {
    places: places(given, { database, user }),
    database,
    user,
    tls: tls(given),
    timeout: seconds("connect_timeout", given.connect_timeout ?? "5") * 1000,
    session: oneOf("target_session_attrs", given.target_session_attrs ?? "any", [
      "any",
      "read-write",
      "read-only",
      "primary",
      "standby",
      "prefer-standby",
    ]),
    isBalanced: oneOf("load_balance_hosts", given.load_balance_hosts ?? "disable", ["disable", "random"]) === "random",
    needsChannelBinding:
      oneOf("channel_binding", given.channel_binding ?? "prefer", ["disable", "prefer", "require"]) === "require",
    isKeptAlive: given.keepalives !== "0",
    startup: {
      application_name: given.application_name || given.fallback_application_name || "notika",
      ...(given.options && { options: given.options }),
    },
  };
}

/** The given connection string, or that of the environment; empty: psql's variables name a database; undefined: none does. */
export function namedDatabase(given: string | undefined, environment = process.env): string | undefined {
  const { DATABASE_URL, PGHOST, PGHOSTADDR, PGDATABASE, PGSERVICE } = environment;
  return given || DATABASE_URL || (PGHOST || PGHOSTADDR || PGDATABASE || PGSERVICE ? "" : undefined);
}

/** The settings as a URL without the password. */
export function shown({ places, user, database, tls, session }: Settings): string {
  const hosts = places.map(({ host, port }) => {
    const name = /^[\da-f:.]*:[\da-f:.]*$/i.test(host) ? `[${host}]` : encodeURIComponent(host);
    return `${name}:${port}`;
  });
  const mode = `?sslmode=${tls.mode}${session === "any" ? "" : `&target_session_attrs=${session}`}`;
  return `postgresql://${encodeURIComponent(user)}@${hosts.join(",")}/${encodeURIComponent(database)}${mode}`;
}

/** The path of a Unix socket; undefined: the host is not a Unix socket. */
export function socketFile({ host, port }: Pick<Place, "host" | "port">): string | undefined {
  if (host.startsWith("@")) return `\0${host.slice(1)}/.s.PGSQL.${port}`;
  return host.startsWith("/") ? path.join(host, `.s.PGSQL.${port}`) : undefined;
}

const variables: Record<string, string> = {
  service: "PGSERVICE",
  host: "PGHOST",
  hostaddr: "PGHOSTADDR",
  port: "PGPORT",
  dbname: "PGDATABASE",
  user: "PGUSER",
  password: "PGPASSWORD",
  passfile: "PGPASSFILE",
  options: "PGOPTIONS",
  application_name: "PGAPPNAME",
  connect_timeout: "PGCONNECT_TIMEOUT",
  target_session_attrs: "PGTARGETSESSIONATTRS",
  load_balance_hosts: "PGLOADBALANCEHOSTS",
  channel_binding: "PGCHANNELBINDING",
  require_auth: "PGREQUIREAUTH",
  requirepeer: "PGREQUIREPEER",
  gssencmode: "PGGSSENCMODE",
  sslmode: "PGSSLMODE",
  sslnegotiation: "PGSSLNEGOTIATION",
  sslrootcert: "PGSSLROOTCERT",
  sslcert: "PGSSLCERT",
  sslcertmode: "PGSSLCERTMODE",
  sslkey: "PGSSLKEY",
  sslcrl: "PGSSLCRL",
  sslcrldir: "PGSSLCRLDIR",
  sslsni: "PGSSLSNI",
  ssl_min_protocol_version: "PGSSLMINPROTOCOLVERSION",
  ssl_max_protocol_version: "PGSSLMAXPROTOCOLVERSION",
};

/** Settings that have no variable of their own; those in the second line change nothing here. */
const others = [
  ...["servicefile", "fallback_application_name", "keepalives", "sslpassword", "replication"],
  ...["client_encoding", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"],
  ...["sslcompression", "krbsrvname", "gsslib", "gssdelegation", "min_protocol_version", "max_protocol_version"],
];

/** Settings that are refused, because ignoring them would make a connection less safe or different from what was requested. */
const refusals: Record<string, RegExp> = {
  require_auth: /./,
  requirepeer: /./,
  gssencmode: /^require$/,
  replication: /^(?!false$|off$|no$|0$)./,
};

function withDefaults(given: Given, environment: NodeJS.ProcessEnv): Given {
  const service = given.service ?? environment.PGSERVICE;
  const all: Given = {
    ...Object.fromEntries(
      Object.entries(variables).flatMap(([name, variable]) => {
        const value = environment[variable];
        return value === undefined ? [] : [[name, value]];
      }),
    ),
    ...(service ? readService(service, environment, given.servicefile) : {}),
    ...given,
  };
  for (const [name, value = ""] of Object.entries(all)) {
    if (!Object.hasOwn(variables, name) && !others.includes(name)) throw unknown(name);
    if (refusals[name]?.test(value)) {
      throw unreadable(`the setting ${name} is not supported with this value`, `Leave ${name} out.`);
    }
  }
  return all;
}

function unknown(name: string) {
  // Other text may be a piece of a password, so it is not shown.
  const which = /^[a-z_]{1,40}$/i.test(name) ? `there is no setting "${name}"` : "it has a setting that does not exist";
  const hint =
    "The settings are those of libpq, such as sslmode, connect_timeout, application_name. Remove those of other tools, such as schema, pgbouncer or connection_limit of Prisma.";
  return unreadable(which, hint);
}

function places(given: Given, { database, user }: { database: string; user: string }): Place[] {
  const hosts = given.host?.split(",") ?? [];
  const addresses = given.hostaddr?.split(",") ?? [];
  const count = Math.max(hosts.length, addresses.length, 1);
  if (hosts.length > 0 && addresses.length > 0 && hosts.length !== addresses.length) {
    throw unreadable(
      `it has ${hosts.length} host names and ${addresses.length} addresses`,
      "Give one hostaddr for each host.",
    );
  }
  const ports = (given.port || "5432").split(",");
  if (ports.length !== 1 && ports.length !== count) {
    throw unreadable(`it has ${count} hosts and ${ports.length} ports`, "Give one port for all, or one for each host.");
  }
  const file = given.passfile || homeFile(".pgpass");

  return Array.from({ length: count }, (_, index): Place => {
    const port = portNumber((ports.length === 1 ? ports[0] : ports[index]) || "5432");
    const address = addresses[index];
    const host = hosts[index] || address || socketFolder(port);
    return {
      host,
      port,
      ...(address && { address }),
      password: () =>
        given.password || passwordFromFile(file, [isUsual(host) ? "localhost" : host, String(port), database, user]),
    };
  });
}

const socketFolders = ["/var/run/postgresql", "/tmp"];

function isUsual(host: string): boolean {
  return socketFolders.includes(host);
}

/** The folder of the sockets of a server on this machine; it depends on how the server was built. */
function socketFolder(port: number): string {
  if (process.platform === "win32") return "localhost";
  return socketFolders.find((host) => existsSync(socketFile({ host, port }) ?? "")) ?? (socketFolders[0] as string);
}

function portNumber(text: string): number {
  const port = /^\s*\d{1,5}\s*$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65535) throw unreadable("the port is not a number from 1 to 65535");
  return port;
}

function tls(given: Given): TlsSettings {
  const rootCertificate = given.sslrootcert || homeFile(".postgresql", "root.crt");
  const isSystem = rootCertificate === "system";
  const mode = oneOf("sslmode", given.sslmode || (isSystem ? "verify-full" : "prefer"), tlsModes);
  if (isSystem && mode !== "verify-full") {
    throw unreadable(`weak sslmode "${mode}" may not be used with sslrootcert=system`, "Use sslmode=verify-full.");
  }
  const isDirect = oneOf("sslnegotiation", given.sslnegotiation || "postgres", ["postgres", "direct"]) === "direct";
  if (isDirect && tlsModes.indexOf(mode) < tlsModes.indexOf("require")) {
    throw unreadable(
      `sslnegotiation=direct cannot be combined with sslmode=${mode}`,
      "Use sslmode=require or a stronger one.",
    );
  }
  const versions = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"] as const;
  const newest = given.ssl_max_protocol_version;
  return {
    mode,
    isDirect,
    rootCertificate,
    certificate: given.sslcert || homeFile(".postgresql", "postgresql.crt"),
    sendsCertificate: oneOf("sslcertmode", given.sslcertmode || "allow", ["allow", "disable", "require"]),
    key: given.sslkey || homeFile(".postgresql", "postgresql.key"),
    passphrase: () => given.sslpassword,
    revoked: given.sslcrl || homeFile(".postgresql", "root.crl"),
    ...(given.sslcrldir && { revokedFolder: given.sslcrldir }),
    sendsName: given.sslsni !== "0",
    oldest: oneOf("ssl_min_protocol_version", given.ssl_min_protocol_version || "TLSv1.2", versions),
    ...(newest && { newest: oneOf("ssl_max_protocol_version", newest, versions) }),
  };
}

function seconds(name: string, text: string): number {
  if (!/^\s*-?\d{1,6}\s*$/.test(text))
    throw unreadable(`${name} is not a number of seconds`, `For example: ${name}=10`);
  return Math.max(Number(text), 0);
}

function oneOf<Value extends string>(name: string, value: string, values: readonly Value[]): Value {
  if ((values as readonly string[]).includes(value)) return value as Value;
  throw unreadable(`${name} has an invalid value`, `The values of ${name} are ${values.join(", ")}.`);
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    throw unreadable(
      "it names no user, and the system has no name for this one",
      "Give a user: postgres://user@host/database",
    );
  }
}
