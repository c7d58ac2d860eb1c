import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

/** A way to a server that can be disturbed. */
export interface Relay {
  port: number;
  /** The address of a database of the server, through the relay. */
  through(url: string): string;
  /** How many connections were asked for so far. */
  attempts(): number;
  /** Lets nothing more through on the connections there are, and closes none of them; new ones are good. */
  forget(): void;
  /** Lets nothing through on any connection, new ones included, until it flows again. */
  hang(): void;
  flow(): void;
  /** Ends all connections there are: politely, or with a reset, as a firewall does. */
  cut(how?: "end" | "reset"): void;
  close(): void;
}

export async function openRelay(server: number): Promise<Relay> {
  const pairs = new Set<Pair>();
  let attempts = 0;
  let isHanging = false;
  const listener = createServer({ pauseOnConnect: true }, (client) => {
    attempts++;
    const pair = { client, server: connect(server, "127.0.0.1") };
    pairs.add(pair);
    for (const socket of [pair.client, pair.server]) {
      socket.setNoDelay(true);
      // When one side goes the other does; a relay that hangs has not noticed.
      socket
        .on("error", () => {})
        .on("close", () => {
          if (!pairs.has(pair) || isHanging) return;
          drop(pair);
        });
    }
    if (!isHanging) join(pair);
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  const forgotten = new Set<Pair>();

  function drop(pair: Pair, how: "destroy" | "resetAndDestroy" = "destroy") {
    pairs.delete(pair);
    pair.client[how]();
    pair.server[how]();
  }

  return {
    port,
    through: (url) => url.replace(`:${server}/`, `:${port}/`),
    attempts: () => attempts,
    forget() {
      for (const pair of pairs) {
        part(pair);
        pairs.delete(pair);
        forgotten.add(pair);
      }
    },
    hang() {
      isHanging = true;
      for (const pair of pairs) part(pair);
    },
    flow() {
      isHanging = false;
      for (const pair of pairs) {
        if (pair.client.destroyed || pair.server.destroyed) drop(pair);
        else join(pair);
      }
    },
    cut(how = "end") {
      for (const pair of pairs) drop(pair, how === "reset" ? "resetAndDestroy" : "destroy");
    },
    close() {
      listener.close();
      for (const pair of [...pairs, ...forgotten]) drop(pair);
    },
  };
}

interface Pair {
  client: Socket;
  server: Socket;
}

function join({ client, server }: Pair) {
  client.pipe(server);
  server.pipe(client);
}

function part({ client, server }: Pair) {
  client.unpipe(server).pause();
  server.unpipe(client).pause();
}
