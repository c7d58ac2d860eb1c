import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { isIP, type Socket } from "node:net";
import path from "node:path";
import { type ConnectionOptions, connect, type PeerCertificate, type TLSSocket } from "node:tls";
import { hostError } from "./errors.ts";
import type { TlsSettings } from "./settings.ts";

/** Encrypts a connection, and verifies the server as far as the settings require.  Rejects with a HostError. */
export async function encrypt(socket: Socket, settings: TlsSettings, host: string): Promise<TLSSocket> {
  const options = { ...identity(settings), ...trust(settings, host) };
  return new Promise((resolve, reject) => {
    const encrypted = connect({
      ...options,
      socket,
      minVersion: settings.oldest as NonNullable<ConnectionOptions["minVersion"]>,
      ...(settings.newest && { maxVersion: settings.newest as NonNullable<ConnectionOptions["maxVersion"]> }),
      ...(settings.sendsName && isIP(host) === 0 && { servername: host }),
      ...(settings.isDirect && { ALPNProtocols: ["postgresql"] }),
    });
    encrypted
      .once("error", (error) => reject(refusal(error, settings, host)))
      .once("close", () => reject(hostError("tls", "the server closed the connection during the TLS handshake")))
      .once("secureConnect", () => resolve(encrypted));
  });
}

/** Whether these settings verify the certificate of the server. */
export function isVerified(settings: TlsSettings): boolean {
  return settings.mode.startsWith("verify") || existsSync(settings.rootCertificate);
}

/** The options that verify the server. */
function trust(settings: TlsSettings, host: string): ConnectionOptions {
  const { mode, rootCertificate: file } = settings;
  const checkServerIdentity = (_: string, certificate: PeerCertificate) =>
    mode === "verify-full" ? nameProblem(host, certificate) : undefined;
  if (file === "system") return { rejectUnauthorized: true, checkServerIdentity };

  // A root certificate that exists is used in the weaker modes too, as in libpq.
  if (!isVerified(settings)) return { rejectUnauthorized: false };
  if (!existsSync(file)) {
    throw hostError("tls", `sslmode=${mode} needs the certificate of an authority, but there is no file ${file}`, {
      hint: "Name its file with sslrootcert=…, use sslrootcert=system for the authorities that this machine trusts, or sslmode=require to encrypt without verifying the server.",
    });
  }
  return { rejectUnauthorized: true, checkServerIdentity, ca: read(file), ...revocations(settings) };
}

function revocations({ revoked, revokedFolder }: TlsSettings): ConnectionOptions {
  const files = revokedFolder ? readdirSync(revokedFolder).map((name) => path.join(revokedFolder, name)) : [];
  const crl = [revoked, ...files].filter((file) => existsSync(file)).map(read);
  return crl.length > 0 ? { crl } : {};
}

/** The certificate and key of this client. */
function identity({ certificate, sendsCertificate, key, passphrase }: TlsSettings): ConnectionOptions {
  if (sendsCertificate === "disable") return {};
  if (!existsSync(certificate)) {
    if (sendsCertificate !== "require") return {};
    throw hostError("tls", `sslcertmode=require, but there is no file ${certificate}`, {
      hint: "Name it with sslcert=…",
    });
  }
  const state = statSync(key, { throwIfNoEntry: false });
  if (!state) {
    throw hostError("tls", `there is the certificate ${certificate}, but not its key ${key}`, {
      hint: "Name the file of the key with sslkey=…",
    });
  }
  // The group may read a key that root owns.
  if (process.platform !== "win32" && state.mode & (state.uid === 0 ? 0o037 : 0o077)) {
    throw hostError("tls", `others than its owner may read the key ${key}`, { hint: `chmod 600 ${key}` });
  }
  const secret = passphrase();
  return { cert: read(certificate), key: read(key), ...(secret !== undefined && { passphrase: secret }) };
}

function read(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw hostError("tls", `cannot read ${file}: ${(error as NodeJS.ErrnoException).code}`, { cause: error });
  }
}

/**
 * The error of a certificate that is not for this host, by the rules of libpq, which differ from a browser's; undefined: it
 * is.
 */
function nameProblem(host: string, { subject, subjectaltname = "" }: PeerCertificate): Error | undefined {
  const names = [...subjectaltname.matchAll(/(?:^|, )(DNS|IP Address):("(?:[^"\\]|\\.)*"|[^,]*)/g)].map(
    ([, kind, name = ""]) => ({ kind, name: name.startsWith('"') ? (JSON.parse(name) as string) : name }),
  );
  const ownKind = isIP(host) ? "IP Address" : "DNS";
  const common = names.some(({ kind }) => kind === ownKind) ? [] : [subject?.CN ?? []].flat();
  const matches = [
    ...names.map(({ kind, name }) => (kind === "DNS" ? isNamed(host, name) : sameAddress(host, name))),
    ...common.map((name) => isNamed(host, name)),
  ];
  if (matches.includes(true)) return undefined;
  const all = [...names.map(({ name }) => name), ...common].join(", ") || "no host";
  return hostError("tls", `the server's certificate is for ${all}, not for ${host}`, {
    hint: "Connect by a name that is in the certificate (hostaddr=… gives its address), install a certificate with this name on the server, or do not verify the name: sslmode=verify-ca.",
  });
}

/** Whether a name fits a host; an asterisk matches exactly the first label. */
function isNamed(host: string, pattern: string): boolean {
  const [name, wanted] = [host.toLowerCase(), pattern.toLowerCase()];
  if (name === wanted) return true;
  return (
    wanted.length > 2 &&
    wanted.startsWith("*.") &&
    name.indexOf(".") > 0 &&
    name.slice(name.indexOf(".")) === wanted.slice(1)
  );
}

function sameAddress(host: string, address: string): boolean {
  const canonical = (text: string) => (isIP(text) === 6 ? new URL(`http://[${text}]`).hostname : text);
  return isIP(host) > 0 && canonical(host) === canonical(address);
}

function refusal(error: NodeJS.ErrnoException, settings: TlsSettings, host: string): Error {
  if (error.name === "HostError") return error;
  const root = settings.rootCertificate;
  const known: Record<string, [string, string]> = {
    CERT_HAS_EXPIRED: ["its certificate has expired", "Install a new certificate on the server."],
    CERT_NOT_YET_VALID: ["its certificate is not valid yet", "Is the clock of this machine right?"],
    CERT_REVOKED: ["its certificate was revoked", "Install a new certificate on the server."],
    DEPTH_ZERO_SELF_SIGNED_CERT: [
      "its certificate is self-signed",
      `If it is the right one, put it into ${root}; or verify nothing: sslmode=require without a root certificate.`,
    ],
  };
  const untrusted: [string, string] = [
    `its certificate is not from an authority in ${root}`,
    "sslrootcert=… names the file with the certificate of the authority that signed the server's.",
  ];
  for (const code of [
    "SELF_SIGNED_CERT_IN_CHAIN",
    "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    "UNABLE_TO_GET_ISSUER_CERT",
    "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    "CERT_SIGNATURE_FAILURE",
  ]) {
    known[code] = untrusted;
  }
  const [why, hint] = known[error.code ?? ""] ?? [
    `the TLS handshake failed: ${error.message}`,
    "The server and this client may have no TLS version or cipher in common, or one of their certificates cannot be used.",
  ];
  return hostError("tls", why.startsWith("its") ? `the server ${host} is not trusted: ${why}` : why, {
    hint,
    cause: error,
  });
}
