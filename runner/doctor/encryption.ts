import type { X509Certificate } from "node:crypto";
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import { ConnectError } from "../connection/errors.ts";
import { findRoute, type Route } from "../connection/route.ts";
import { type Settings, type TlsMode, tlsModes } from "../connection/settings.ts";
import { isVerified } from "../connection/tls.ts";
import { type Finding, ok, warning } from "./finding.ts";

/** Reports the negotiated encryption, what was verified, and the result of each sslmode. */
export async function encryption(route: Route, socket: Socket, settings: Settings): Promise<Finding[]> {
  const { place, ip } = route.address;
  if (ip === undefined) return [ok("tls", "none: a Unix socket does not leave this machine")];
  const isLocal = /^127\.|^::1$|^::ffff:127\./.test(ip);
  const modes = await sslmodes(route, settings);
  return [
    negotiated(socket, settings, isLocal),
    ok("sslmode", modes.join("\n")),
    ...expiry(route.certificate, place.host),
  ];
}

function negotiated(socket: Socket, settings: Settings, isLocal: boolean): Finding {
  if (!(socket instanceof TLSSocket)) {
    if (isLocal) return ok("tls", "none; the connection does not leave this machine");
    return warning(
      "tls",
      "none: others on the network can read and change what is sent and received",
      "sslmode=require encrypts; sslmode=verify-full also verifies that it is the right server.",
    );
  }
  const what = `${socket.getProtocol()}, ${socket.getCipher().standardName}`;
  const { mode } = settings.tls;
  if (mode === "verify-full") return ok("tls", `${what}; the certificate and the host name in it were verified`);
  if (isVerified(settings.tls)) {
    const detail = `${what}; the certificate was verified, but not the host name in it`;
    return isLocal ? ok("tls", detail) : warning("tls", detail, "sslmode=verify-full");
  }
  const detail = `${what}; the certificate was not verified`;
  if (isLocal) return ok("tls", detail);
  return warning(
    "tls",
    `${detail}: others on the network can impersonate the server`,
    "sslmode=verify-full, with sslrootcert=<file of the authority> or sslrootcert=system",
  );
}

function expiry(certificate: X509Certificate | undefined, host: string): Finding[] {
  if (!certificate) return [];
  const { validTo: until } = certificate;
  const days = Math.floor((Date.parse(until) - Date.now()) / 86_400_000);
  if (days >= 14) return [];
  const when = days < 0 ? "has expired" : `expires in ${days} days`;
  return [
    warning("certificate", `the certificate of ${host} ${when}: ${until}`, "Install a new certificate on the server."),
  ];
}

/** The result of each sslmode at this address. */
async function sslmodes({ address }: Route, settings: Settings): Promise<string[]> {
  const place = { ...address.place, address: address.ip as string };
  return Promise.all(
    tlsModes.map(async (mode) => {
      const outcome = await tryMode({ ...settings, places: [place], session: "any" }, mode);
      return `${mode}${mode === settings.tls.mode ? " (in use)" : ""}: ${outcome}`;
    }),
  );
}

async function tryMode(settings: Settings, mode: TlsMode): Promise<string> {
  const tls = { ...settings.tls, mode };
  if (tls.isDirect && ["disable", "allow", "prefer"].includes(mode))
    return "cannot be combined with sslnegotiation=direct";
  try {
    const { route, client } = await findRoute({ ...settings, tls });
    await client.end();
    if (!route.isEncrypted) return "connects without TLS";
    if (mode === "verify-full") return "connects with TLS, certificate and name verified";
    return `connects with TLS, certificate ${isVerified(tls) ? "verified" : "not verified"}`;
  } catch (cause) {
    if (!(cause instanceof ConnectError)) throw cause;
    return `fails: ${cause.failures[0]?.error.message}`;
  }
}
