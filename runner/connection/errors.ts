import { NotikaError } from "../errors.ts";
import { type Place, type Settings, socketFile } from "./settings.ts";

/** The kind of error that prevented a connection. */
export type HostErrorKind =
  | "name" // the name of the host has no address
  | "network" // the connection is refused, or nothing answers
  | "protocol" // what answers is not Postgres
  | "tls"
  | "login" // the server rejects the login
  | "session"; // it is not the kind of server that was asked for

/** Why one host could not be reached, or refused us. */
export interface HostError extends Error {
  kind: HostErrorKind;
  hint: string | undefined;
}

/** Makes a HostError; the caller adds the host. */
export function hostError(
  kind: HostErrorKind,
  message: string,
  options: { hint?: string; cause?: unknown } = {},
): HostError {
  const { hint, ...rest } = options;
  return Object.assign(new Error(message, rest), { name: "HostError", kind, hint });
}

/** A failed attempt to connect. */
export interface Failure {
  place: Place;
  ip?: string | undefined;
  isEncrypted?: boolean;
  error: HostError;
}

/** Thrown when no connection to the database can be opened; its message lists what was tried. */
export class ConnectError extends NotikaError {
  readonly kind: HostErrorKind;
  readonly failures: Failure[];

  constructor(message: string, failures: Failure[], options: { kind: HostErrorKind; hint?: string; cause?: unknown }) {
    super("NOTIKA_CONNECT", message, options);
    this.kind = options.kind;
    this.failures = failures;
  }
}

/** One error for all failed attempts to connect. */
export function connectError(failures: Failure[], settings: Settings): ConnectError {
  const reasons = [...new Set(failures.map((failure) => `${placeName(failure)}: ${failure.error.message}`))];
  // The last failure counts; but if its place was retried less securely, the first one does.
  const last = failures.findLast(({ place }) => place === failures.at(-1)?.place) as Failure;
  const first = failures.find(({ place, ip }) => place === last.place && ip === last.ip) as Failure;
  const { error } = first.error.kind === "tls" || first.error.kind === "login" ? first : last;
  const hint = error.hint ?? serverHint(error.cause, settings);
  return new ConnectError(`cannot connect to the database: ${reasons.join("; ")}`, failures, {
    kind: error.kind,
    ...(hint && { hint }),
    cause: error.cause ?? error,
  });
}

/** A hint for an error by which a server refuses a session; undefined: there is none. */
export function serverHint(error: unknown, settings?: Settings): string | undefined {
  const { code, message = "" } = (error ?? {}) as { code?: string; message?: string };
  const user = settings ? `"${settings.user}"` : "the user";
  const database = settings ? `"${settings.database}"` : "the database";
  switch (code) {
    case "28P01":
      return "User and password come from the URL, PGPASSWORD or ~/.pgpass. Are special characters of the password percent-encoded?";
    case "28000":
      if (/role .* does not exist/.test(message)) return `create role ${user} login password '…';`;
      if (/not permitted to log in/.test(message)) return `alter role ${user} login;`;
      if (/certificate/.test(message)) {
        return "pg_hba.conf requires a client certificate: sslcert=… and sslkey=… name its files; its common name must be the name of the user.";
      }
      if (/no encryption/.test(message)) {
        return `pg_hba.conf has no line for this user, database and address without TLS: try sslmode=require, or add: host ${database} ${user} <address>/32 scram-sha-256`;
      }
      return `pg_hba.conf rejects this user, database and address: add a line there, and reload: host ${database} ${user} <address>/32 scram-sha-256`;
    case "3D000":
      return `create database ${database}; or name another one at the end of the URL.`;
    case "42501":
      if (!/for database/.test(message)) return undefined;
      return `grant connect on database ${database} to ${user};`;
    case "53300":
      return "All connections of the server or of this role are in use: end some, raise max_connections, or add a pooler.";
    case "57P03":
      return "The server is starting, stopping or restoring. Try again.";
    case "08P01":
      if (/startup parameter/.test(message))
        return "The connection goes through a pooler, which refuses options=…: leave it out.";
      return "The connection goes through a pooler: are this database and this user in its configuration?";
    default:
      return undefined;
  }
}

/** The name of a place that was tried: `db.example.com (10.0.0.1), port 5432`. */
function placeName({ place, ip, isEncrypted }: Omit<Failure, "error">): string {
  const name =
    socketFile(place)?.replace("\0", "@") ??
    `${place.host}${ip && ip !== place.host ? ` (${ip})` : ""}, port ${place.port}`;
  return isEncrypted ? `${name}, with TLS` : name;
}
