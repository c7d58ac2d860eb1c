import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import { Client } from "pg";
import { mute, stranger } from "./dial.ts";
import { hostError } from "./errors.ts";
import type { Place, Settings } from "./settings.ts";

/** Logs in on an open connection; the caller ends the client.  Rejects with a HostError. */
export async function logIn(socket: Socket, place: Place, settings: Settings): Promise<Client> {
  const { user, database, startup, timeout, needsChannelBinding } = settings;
  const password = place.password();
  const client = new Client({
    stream: () => asUnconnected(socket),
    ssl: false,
    sslnegotiation: "postgres",
    user,
    database,
    ...startup,
    password: async () => {
      if (password !== undefined) return password;
      throw hostError("login", `the server requires a password for "${user}", but none is given`, {
        hint: "Put it into the URL, PGPASSWORD or ~/.pgpass, which only its owner may read.",
      });
    },
    enableChannelBinding: needsChannelBinding && socket instanceof TLSSocket,
  } as never);
  client.on("error", () => {});
  const mechanisms = collectMechanisms(client);

  return new Promise((resolve, reject) => {
    let answer: Buffer | undefined;
    const fail = (error: Error) => {
      clearTimeout(timer);
      socket.destroy();
      reject(error);
    };
    const late = answerless(timeout);
    const timer = timeout > 0 ? setTimeout(() => fail(late(answer)), timeout) : undefined;
    socket.prependOnceListener("data", (chunk: Buffer) => {
      answer = chunk;
      // An error may come in the form of the oldest protocol; anything else begins with a request to authenticate.
      if (!/^[RENv]/.test(chunk.toString("latin1", 0, 1))) fail(stranger(chunk));
    });
    client.connect().then(
      () => {
        clearTimeout(timer);
        if (needsChannelBinding && !mechanisms.has("SCRAM-SHA-256-PLUS")) {
          return fail(
            hostError(
              "login",
              "channel_binding=require, but the server does not bind the password to the TLS channel",
              {
                hint: "It needs TLS and a password stored as scram-sha-256. To connect without it: channel_binding=prefer",
              },
            ),
          );
        }
        resolve(client);
      },
      (error: Error) => fail(refusal(error, answer)),
    );
  });
}

/** The password mechanisms that the server offers; pg uses PLUS, which binds the password to the TLS channel, if allowed. */
function collectMechanisms(client: Client): Set<string> {
  const offered = new Set<string>();
  const { connection } = client as unknown as { connection: NodeJS.EventEmitter };
  connection.on("authenticationSASL", ({ mechanisms }: { mechanisms: string[] }) => {
    for (const mechanism of mechanisms) offered.add(mechanism);
  });
  return offered;
}

/** Adapts an open socket for pg, which connects its socket itself. */
function asUnconnected(socket: Socket): Socket {
  return Object.assign(socket, {
    connect() {
      process.nextTick(() => socket.emit("connect"));
      return socket;
    },
  });
}

function answerless(timeout: number) {
  return (answer: Buffer | undefined): Error =>
    answer === undefined
      ? hostError("network", `${mute[0]} within ${timeout / 1000} s`, mute[1])
      : hostError("network", `it did not complete the login within ${timeout / 1000} s`, {
          hint: "The server may be overloaded, or a pooler cannot reach its server.",
        });
}

function refusal(error: Error & { code?: string }, answer: Buffer | undefined): Error {
  if (error.name === "HostError") return error;
  if (/^[0-9A-Z]{5}$/.test(error.code ?? "") && "severity" in error) {
    return hostError("login", error.message, { cause: error });
  }
  if (answer === undefined) {
    return hostError("network", "the server closed the connection without an answer", {
      hint: "Is that the port of Postgres? A proxy without a server may also do that.",
      cause: error,
    });
  }
  return hostError("login", error.message, { cause: error });
}
