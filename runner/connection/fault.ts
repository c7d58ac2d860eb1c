/** What kind of thing went wrong on the way to a database. */
export type FaultKind =
  | "name" // it has no address
  | "network" // nobody is there, or nobody answers
  | "protocol" // somebody else is there
  | "tls"
  | "login" // the server does not let us in
  | "session"; // it is not the kind of server that was asked for

/** Why one attempt to connect failed. */
export interface Fault extends Error {
  kind: FaultKind;
  hint: string | undefined;
}

/** Makes a fault; where it happened is added by whoever knows. */
export function fault(kind: FaultKind, message: string, options: { hint?: string; cause?: unknown } = {}): Fault {
  const { hint, ...rest } = options;
  return Object.assign(new Error(message, rest), { name: "Fault", kind, hint });
}
