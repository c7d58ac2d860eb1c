import type { X509Certificate } from "node:crypto";
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import type { Client } from "pg";
import { type Address, addresses, dial } from "./dial.ts";
import { connectError, type Failure, type HostError, hostError } from "./errors.ts";
import { logIn } from "./login.ts";
import type { Place, Settings } from "./settings.ts";

/** A route to the database that was gone once, to the end: which server, and whether with TLS. */
export interface Route {
  address: Address;
  isEncrypted: boolean;
  /** The certificate that the server had. */
  certificate: X509Certificate | undefined;
}

/**
 * Finds the first server that lets us in and is what the settings ask for, in the order of libpq: host by host,
 * address by address, with TLS and without as `sslmode` says.  What is unreachable is passed over; a refusal is final.
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
      // A server that has no TLS was asked without: the second attempt would be the same.
      if (wants === "if-offered" && socket && !failure.isEncrypted) break;
    }
  }
  throw connectError(failures, settings);
}

/** What is tried at each address, in this order. */
const attempts = {
  disable: ["plain"],
  allow: ["plain", "encrypted"],
  prefer: ["if-offered", "plain"],
  require: ["encrypted"],
  "verify-ca": ["encrypted"],
  "verify-full": ["encrypted"],
} as const;

/** Whether the next address may do better: here is nobody, or nobody who is ready. */
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

/** Goes a route that is known to a connection that nobody has logged in on. */
export async function openRoute({ address, isEncrypted, certificate }: Route, settings: Settings): Promise<Socket> {
  const socket = await dial(address, settings, isEncrypted ? "encrypted" : "plain");
  // What binds the password to the channel is the certificate; pg binds it where it can, but does not insist.
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
  const what = standby ? "a standby" : readonly ? "read-only" : "a primary that takes writes";
  throw hostError("session", `the server is ${what}, and target_session_attrs=${session}`, {
    hint: "Name the host of another server too, or ask for less with target_session_attrs=any.",
  });
}

function ordered<Item>(items: readonly Item[], { isBalanced }: Settings): Item[] {
  if (!isBalanced) return [...items];
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}
