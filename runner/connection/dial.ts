import { once } from "node:events";
import { connect, isIP, type Socket } from "node:net";
import { hostError } from "./errors.ts";
import { resolve } from "./resolve.ts";
import { type Place, type Settings, socketFile } from "./settings.ts";
import { encrypt } from "./tls.ts";

/** One address of a place: a Unix socket, or an address and a port. */
export interface Address {
  place: Place;
  /** The IP address of the host; undefined: a Unix socket. */
  ip: string | undefined;
}

/** The addresses of a place. */
export async function addresses(place: Place, { timeout }: Settings): Promise<Address[]> {
  if (socketFile(place) !== undefined) return [{ place, ip: undefined }];
  const host = place.address ?? place.host;
  const found = isIP(host) ? [host] : await resolve(host, timeout);
  return found.map((ip) => ({ place, ip }));
}

/**
 * Opens a connection, encrypted if `wants` asks for it: `if-offered` encrypts if the server supports TLS.  Throws a
 * HostError.
 */
export async function dial(
  { place, ip }: Address,
  { tls, timeout, isKeptAlive }: Settings,
  wants: "plain" | "if-offered" | "encrypted",
): Promise<Socket> {
  const socket = connect(ip === undefined ? { path: socketFile(place) as string } : { host: ip, port: place.port });
  socket.on("error", () => {}); // each pending operation reports it
  socket.setNoDelay(true);
  socket.setKeepAlive(isKeptAlive, 60_000);
  const clock = startClock(timeout, socket);
  try {
    await clock.race(once(socket, "connect"), "no answer", {
      hint: "A firewall may be in between, or the host is down. Is it reachable from this machine?",
    });
    if (ip === undefined || wants === "plain") return socket;
    if (!tls.isDirect && !(await clock.race(offersTls(socket), ...mute))) {
      if (wants === "if-offered") return socket;
      throw hostError("tls", `the server does not support TLS, but sslmode=${tls.mode} requires it`, {
        hint: "Turn it on there (ssl = on in postgresql.conf; client_tls_sslmode in PgBouncer), or connect without it: sslmode=prefer.",
      });
    }
    return await clock.race(encrypt(socket, tls, place.host), "no answer in the TLS handshake", {
      hint: "The server, or a proxy before it, may hang.",
    });
  } catch (error) {
    socket.destroy();
    throw withReason(error as NodeJS.ErrnoException);
  } finally {
    clock.stop();
  }
}

/** The message and hint for a port that accepts connections and does not answer. */
export const mute = [
  "it accepts connections, but does not answer",
  { hint: "Is that the port of Postgres? The server, or a proxy before it, may also hang." },
] as const;

/** Whether the server accepts a request for TLS. */
async function offersTls(socket: Socket): Promise<boolean> {
  socket.write(sslRequest);
  const [answer] = (await once(socket, "data")) as [Buffer];
  if (answer.length === 1 && answer[0] === 0x53) return true;
  if (answer.length === 1 && answer[0] === 0x4e) return false;
  throw stranger(answer);
}

const sslRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);

/** The error for an answer that does not follow the protocol of Postgres, or refuses in plain text. */
export function stranger(answer: Buffer): Error {
  const text = answer.toString("latin1");
  const said =
    /^E....S[A-Z]+\0(?:V[A-Z]+\0)?C\w{5}\0M([^\0]+)/s.exec(text)?.[1] ?? /^E([\x20-\x7e]+)\n?\0/.exec(text)?.[1];
  if (said !== undefined)
    return hostError("login", `the server refuses: ${said}`, { hint: "See the log of the server." });
  const what = /^HTTP\//.test(text) ? "HTTP" : /^SSH-/.test(text) ? "SSH" : /^.{4}\n/s.test(text) ? "MySQL" : undefined;
  return hostError("protocol", `it speaks ${what ?? "something else"}, not the protocol of Postgres`, {
    hint: "Is that the port of Postgres? It is usually 5432.",
  });
}

/** Limits the time until the connection is open to `timeout` milliseconds; 0: no limit. */
function startClock(timeout: number, socket: Socket) {
  const late = new AbortController();
  const timer = timeout > 0 ? setTimeout(() => late.abort(), timeout) : undefined;
  const ended = new AbortController();
  const onEnd = () => ended.abort();
  socket.once("end", onEnd).once("close", onEnd);
  return {
    async race<T>(work: Promise<T>, silent: string, options: { hint?: string } = {}): Promise<T> {
      work.catch(() => {});
      const after = timeout > 0 ? ` within ${timeout / 1000} s` : "";
      const isLate = aborted(late.signal, () => hostError("network", `${silent}${after}`, options));
      const hasEnded = aborted(ended.signal, () =>
        hostError("network", "the server closed the connection immediately", {
          hint: "Is that the port of Postgres? A server that is starting, or a proxy without a server, may also do that.",
        }),
      );
      return Promise.race([work, isLate, hasEnded]);
    },
    stop() {
      clearTimeout(timer);
      socket.off("end", onEnd).off("close", onEnd);
    },
  };
}

function aborted(signal: AbortSignal, reason: () => Error): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(reason());
    else signal.addEventListener("abort", () => reject(reason()), { once: true });
  });
}

/** Adds the reason and a hint to a system error of Node. */
function withReason(error: NodeJS.ErrnoException): Error {
  if (error.name === "HostError") return error;
  switch (error.code) {
    case "ECONNREFUSED":
      return hostError("network", "connection refused: nothing is listening there", {
        hint: "Is the server running, on this port, and does it listen on this address (listen_addresses in postgresql.conf)?",
        cause: error,
      });
    case "ENOENT":
      return hostError("network", "there is no such socket", {
        hint: "Is the server running on this machine, and is that the folder of its sockets (unix_socket_directories)? For a server on another machine, name its host.",
        cause: error,
      });
    case "EACCES":
      return hostError("network", "permission denied for this socket", {
        hint: "See unix_socket_permissions in postgresql.conf.",
        cause: error,
      });
    case "ENETUNREACH":
    case "EHOSTUNREACH":
    case "EADDRNOTAVAIL":
      return hostError("network", "this machine has no route to that address", {
        hint: "For an IPv6 address, this machine needs IPv6; hostaddr=… names another address.",
        cause: error,
      });
    default:
      return hostError("network", error.message, { hint: "Is the server running there?", cause: error });
  }
}
