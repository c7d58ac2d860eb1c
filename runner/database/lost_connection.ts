const lost = new WeakSet<object>();

/** Errors of a connection: of the network, of the driver, or of a server or pooler that ends or refuses sessions. */
const isOfConnection = ({ code = "", message, severity }: Error & { code?: string; severity?: string }) =>
  severity === undefined
    ? /^(E[A-Z]+|NOTIKA_(CONNECT|NO_ANSWER))$/.test(code) ||
      /^(Connection terminated|Client (was closed|has encountered a connection error)|this connection has been closed)/.test(
        message,
      )
    : /^(08|57P0[123])/.test(code);

/** Remembers of an error of Notika's own connections whether it means that the connection was lost. */
export function markLost<E extends Error>(error: E): E {
  if (isOfConnection(error)) lost.add(error);
  return error;
}

/** The same, and passes it on. */
export function noteLost(error: Error): never {
  throw markLost(error);
}

/** Whether this is because the connection to the database was lost: then who met it is not to blame. */
export function isLost(error: unknown): boolean {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 8; cause = cause.cause, depth++) {
    if (lost.has(cause)) return true;
  }
  return false;
}
