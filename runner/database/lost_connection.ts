const lost = new WeakSet<object>();

/** Errors of a connection: of the network, of the driver, or of a server or pooler that ends or refuses sessions. */
const isOfConnection = ({ code = "", message, severity }: Error & { code?: string; severity?: string }) =>
  severity === undefined
    ? /^(E[A-Z]+|NOTIKA_(CONNECT|NO_ANSWER))$/.test(code) ||
      /^(Connection terminated|Client (was closed|has encountered a connection error)|this connection has been closed)/.test(
        message,
      )
    : /^(08|57P0[123])/.test(code);

/** Marks an error of Notika's own connections if it means that the connection was lost. */
export function markLost<E extends Error>(error: E): E {
  if (isOfConnection(error)) lost.add(error);
  return error;
}

/** Marks an error in the same way and throws it. */
export function noteLost(error: Error): never {
  throw markLost(error);
}

/** Whether an error was caused by a lost connection to the database, and so not by the code that got it. */
export function isLost(error: unknown): boolean {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 8; cause = cause.cause, depth++) {
    if (lost.has(cause)) return true;
  }
  return false;
}
