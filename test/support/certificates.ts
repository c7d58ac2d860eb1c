import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";

export interface Certificate {
  certificate: string;
  key: string;
}

export interface Authority extends Certificate {
  /** Signs a certificate for `subject`, with these alternative names: `DNS:localhost,IP:127.0.0.1`. */
  issue(subject: string, options?: { names?: string; valid?: keyof typeof validities }): Certificate;
  /** Revokes a certificate, and gives the file that says so. */
  revoke(certificate: Certificate): string;
}

/** An authority that signs certificates with openssl, in a folder of its own. */
export function openAuthority(folder: string): Authority {
  mkdirSync(folder, { recursive: true });
  const file = (name: string) => path.join(folder, name);
  const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: folder, stdio: "pipe" });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  let issued = 0;

  writeFileSync(file("index.txt"), "");
  writeFileSync(file("serial"), "01");
  writeFileSync(file("ca.conf"), configuration);
  openssl("req", "-x509", ...newKey, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "30");

  return {
    certificate: file("ca.crt"),
    key: file("ca.key"),
    issue(subject, { names, valid = "now" } = {}) {
      const name = `${++issued}`;
      const extensions = ["-extfile", `${name}.ext`];
      writeFileSync(file(`${name}.ext`), names ? `subjectAltName=${names}\n` : "basicConstraints=CA:FALSE\n");
      openssl("req", "-new", ...newKey, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${subject}`);
      openssl("ca", ...ca, "-in", `${name}.csr`, "-out", `${name}.crt`, ...extensions, ...validities[valid]);
      return { certificate: file(`${name}.crt`), key: file(`${name}.key`) };
    },
    revoke({ certificate }) {
      openssl("ca", ...ca, "-revoke", certificate);
      openssl("ca", ...ca, "-gencrl", "-crldays", "30", "-out", "revoked.crl");
      return file("revoked.crl");
    },
  };
}

/** A certificate that nobody but itself vouches for. */
export function selfSigned(folder: string, subject: string, names: string): Certificate {
  mkdirSync(folder, { recursive: true });
  const [certificate, key] = [path.join(folder, "self.crt"), path.join(folder, "self.key")];
  const made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-keyout", key, "-out", certificate];
  execFileSync("openssl", ["req", ...made, "-subj", `/CN=${subject}`, "-addext", `subjectAltName=${names}`], {
    stdio: "pipe",
  });
  return { certificate, key };
}

const validities = {
  now: ["-days", "30"],
  "for a week": ["-days", "7"],
  "no longer": ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"],
  "not yet": ["-startdate", "20900101000000Z", "-enddate", "20900201000000Z"],
};

const ca = ["-batch", "-notext", "-config", "ca.conf"];

const configuration = `
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
certificate = ca.crt
private_key = ca.key
new_certs_dir = .
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
`;
