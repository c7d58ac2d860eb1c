import { NotikaError } from "../errors.ts";
import { type Place, type Settings, socketFile } from "./settings.ts";

/** What kind of error prevented a connection. */
export type HostErrorKind =
  | "name" // it has no address
  | "network" // nobody is there, or nobody answers
  | "protocol" // somebody else is there
  | "tls"
  | "login" // the server does not let us in
  | "session"; // it is not the kind of server that was asked for

/** Why one host could not be reached, or refused us. */
export interface HostError extends Error {
  kind: HostErrorKind;
  hint: string | undefined;
}

/** Makes one; the caller adds which host it was. */
export function hostError(
  kind: HostErrorKind,
  message: string,
  options: { hint?: string; cause?: unknown } = {},
): HostError {
  const { hint, ...rest } = options;
  return Object.assign(new Error(message, rest), { name: "HostError", kind, hint });
}

/** An attempt that led nowhere. */
export interface Failure {
  place: Place;
  ip?: string | undefined;
  isEncrypted?: boolean;
  error: HostError;
}

/** No connection to the database: what was tried, and what to do about it. */
export class ConnectError extends NotikaError {
  readonly kind: HostErrorKind;
  readonly failures: Failure[];

  constructor(message: string, failures: Failure[], options: { kind: HostErrorKind; hint?: string; cause?: unknown }) {
    super("NOTIKA_CONNECT", message, options);
    this.kind = options.kind;
    this.failures = failures;
  }
}

/** One error for all that was tried. */
export function connectError(failures: Failure[], settings: Settings): ConnectError {
  const reasons = [...new Set(failures.map((failure) => `${placeName(failure)}: ${failure.error.message}`))];
  // The last one is what stopped us; but where a second attempt was less safe than the first, the first one counts.
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

/** What to do about an error by which a server refuses a session, when there is something to do. */
export function serverHint(error: unknown, settings?: Settings): string | undefined {
  const { code, message = "" } = (error ?? {}) as { code?: string; message?: string };
  const user = settings ? `"${settings.user}"` : "the user";
  const database = settings ? `"${settings.database}"` : "the database";
  switch (code) {
    case "28P01":
      return "User and password come from the URL, PGPASSWORD or ~/.pgpass. Is the password written with % where it has to be?";
    case "28000":
      if (/role .* does not exist/.test(message)) return `create role ${user} login password '…';`;
      if (/not permitted to log in/.test(message)) return `alter role ${user} login;`;
      if (/certificate/.test(message)) {
        return "pg_hba.conf asks for a certificate of this client: sslcert=… and sslkey=… name its files; its common name is the user's.";
      }
      if (/no encryption/.test(message)) {
        return `pg_hba.conf has no line for this user, database and address without TLS: try sslmode=require, or add: host ${database} ${user} <address>/32 scram-sha-256`;
      }
      return `pg_hba.conf lets this user, database and address not in: add a line there, and reload: host ${database} ${user} <address>/32 scram-sha-256`;
    case "3D000":
      return `create database ${database}; or name another one at the end of the URL.`;
    case "42501":
      if (!/for database/.test(message)) return undefined;
      return `grant connect on database ${database} to ${user};`;
    case "53300":
      return "All connections of the server or of this role are taken: end some, raise max_connections, or put a pooler in between.";
    case "57P03":
      return "The server is starting, stopping or restoring. Try again.";
    case "08P01":
      if (/startup parameter/.test(message)) return "A pooler is in between, which refuses options=…: leave it away.";
      return "A pooler is in between: is this database, and this user, in its configuration?";
    default:
      return undefined;
  }
}

/** Where something was tried: `db.example.com (10.0.0.1), port 5432`. */
function placeName({ place, ip, isEncrypted }: Omit<Failure, "error">): string {
  const name =
    socketFile(place)?.replace("\0", "@") ??
    `${place.host}${ip && ip !== place.host ? ` (${ip})` : ""}, port ${place.port}`;
  return isEncrypted ? `${name}, with TLS` : name;
}
