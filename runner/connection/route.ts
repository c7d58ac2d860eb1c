import type { X509Certificate } from "node:crypto";
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import type { Client } from "pg";
import { type Address, addresses, dial } from "./dial.ts";
import { connectError, type Failure, type HostError, hostError } from "./errors.ts";
import { logIn } from "./login.ts";
import type { Place, Settings } from "./settings.ts";

/** A route to the database on which a login has succeeded: the server, and whether with TLS. */
export interface Route {
  address: Address;
  isEncrypted: boolean;
  /** The certificate of the server; undefined: without TLS. */
  certificate: X509Certificate | undefined;
}

/**
 * Finds the first server that accepts the login and fits `target_session_attrs`, in the order of libpq: host by host, address
 * by address, with and without TLS as `sslmode` requires.  It skips unreachable servers; a refusal is final.  Throws a
 * ConnectError.
 */
export async function findRoute(settings: Settings): Promise<{ route: Route; socket: Socket; client: Client }> {
  const failures: Failure[] = [];
  const passes = settings.session === "prefer-standby" ? (["standby", "any"] as const) : [settings.session];
  for (const session of passes) {
    const found = await tryPlaces({ ...settings, session }, failures);
    if (found) return found;
  }
  throw connectError(failures, settings);
}

async function tryPlaces(settings: Settings, failures: Failure[]) {
  for (const place of ordered(settings.places, settings)) {
    for (const address of ordered(await addressesOf(place, settings, failures), settings)) {
      const found = await tryAddress(address, settings, failures);
      if (found) return found;
    }
  }
  return undefined;
}

async function addressesOf(place: Place, settings: Settings, failures: Failure[]): Promise<Address[]> {
  return addresses(place, settings).catch((error: HostError) => {
    failures.push({ place, error });
    return [];
  });
}

async function tryAddress(address: Address, settings: Settings, failures: Failure[]) {
  const { place, ip } = address;
  for (const wants of ip === undefined ? (["plain"] as const) : attempts[settings.tls.mode]) {
    let socket: Socket | undefined;
    try {
      socket = await dial(address, settings, wants);
      const client = await logIn(socket, place, settings);
      await checkSession(client, settings).catch((error) => client.end().then(() => Promise.reject(error)));
      return { route: { address, ...security(socket) }, socket, client };
    } catch (error) {
      const failure = { place, ip, isEncrypted: socket instanceof TLSSocket, error: error as HostError };
      failures.push(failure);
      if (mayGoOn(failure)) return undefined;
      // Without TLS on the server, the first attempt was unencrypted: the second would be the same.
      if (wants === "if-offered" && socket && !failure.isEncrypted) break;
    }
  }
  throw connectError(failures, settings);
}

/** The attempts at each address, in this order. */
const attempts = {
  disable: ["plain"],
  allow: ["plain", "encrypted"],
  prefer: ["if-offered", "plain"],
  require: ["encrypted"],
  "verify-ca": ["encrypted"],
  "verify-full": ["encrypted"],
} as const;

/** Whether to try the next address: this server cannot be reached, does not fit, or is not ready. */
function mayGoOn({ error }: Failure): boolean {
  const { code } = (error.cause ?? {}) as { code?: string };
  return ["name", "network", "session"].includes(error.kind) || code === "57P03";
}

function security(socket: Socket) {
  return { isEncrypted: socket instanceof TLSSocket, certificate: certificateOf(socket) };
}

function certificateOf(socket: Socket): X509Certificate | undefined {
  return socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined;
}

/** Opens a connection on a known route, without logging in.  Throws a HostError. */
export async function openRoute({ address, isEncrypted, certificate }: Route, settings: Settings): Promise<Socket> {
  const socket = await dial(address, settings, isEncrypted ? "encrypted" : "plain");
  // The certificate binds the password to the channel; pg binds it if it can, but does not require it.
  if (settings.needsChannelBinding && !(certificate && certificateOf(socket)?.raw.equals(certificate.raw))) {
    socket.destroy();
    throw hostError("tls", "the server has another certificate than the one that its password was bound to");
  }
  return socket;
}

async function checkSession(client: Client, { session }: Settings): Promise<void> {
  if (session === "any") return;
  const { rows } = await client.query<{ standby: boolean; readonly: boolean }>(
    "select pg_is_in_recovery() as standby, current_setting('transaction_read_only')::boolean as readonly",
  );
  const { standby, readonly } = rows[0] as (typeof rows)[number];
  const fits = {
    "read-write": !readonly,
    "read-only": readonly,
    primary: !standby,
    standby,
    "prefer-standby": true,
  }[session];
  if (fits) return;
  const what = standby ? "a standby" : readonly ? "read-only" : "a primary that accepts writes";
  throw hostError("session", `the server is ${what}, but target_session_attrs=${session}`, {
    hint: "Name the host of another server too, or accept any server: target_session_attrs=any",
  });
}

function ordered<Item>(items: readonly Item[], { isBalanced }: Settings): Item[] {
  if (!isBalanced) return [...items];
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}
