import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import type { PgliteWire } from "./wire.ts";

/** Serves the Postgres in this process on a TCP port, so that psql and other programs can connect; port 0: a free one. */
export async function listenTcp(wire: PgliteWire, port: number, host: string) {
  const sockets = new Set<Socket>();
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    const session = wire.connect();
    socket.pipe(session).pipe(socket);
    socket
      .on("error", () => {})
      .on("close", () => {
        sockets.delete(socket);
        session.destroy();
      });
    session.on("error", () => {}).on("close", () => socket.destroySoon());
  });
  server.listen(port, host);
  await once(server, "listening");

  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, "close");
    },
  };
}
