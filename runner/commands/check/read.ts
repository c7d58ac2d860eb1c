import { readFile } from "node:fs/promises";
import { buffer } from "node:stream/consumers";
import { gunzipSync } from "node:zlib";
import { UsageError } from "../../errors.ts";

/** The text of an SQL file, in any supported encoding and compressed or not; `-` is standard input.  Throws UsageError. */
export async function readSql(file: string): Promise<string> {
  const bytes = file === "-" ? await buffer(process.stdin) : await readFile(file).catch((error) => refuse(file, error));
  return decoded(file, unpacked(file, bytes));
}

function refuse(file: string, { code }: NodeJS.ErrnoException): never {
  if (code === "ENOENT") throw new UsageError(`there is no file ${file}`);
  if (code === "EISDIR") {
    throw new UsageError(`${file} is a folder, not an SQL file`, {
      hint: `If pg_dump --format=directory made it: pg_restore --schema-only --file=schema.sql ${file}`,
    });
  }
  throw new UsageError(`cannot read ${file}: ${code}`);
}

function unpacked(file: string, bytes: Buffer): Buffer {
  const starts = (...first: number[]) => first.every((byte, at) => bytes[at] === byte);
  const isTar = bytes.subarray(257, 262).toString("latin1") === "ustar";
  if (bytes.subarray(0, 5).toString("latin1") === "PGDMP" || isTar) {
    throw new UsageError(`${file} is an archive of pg_dump --format=${isTar ? "tar" : "custom"}, not SQL`, {
      hint: `Convert it to SQL: pg_restore --schema-only --file=schema.sql ${file}`,
    });
  }
  if (starts(0x1f, 0x8b)) return unpacked(file, gunzipSync(bytes));
  if (starts(0x28, 0xb5, 0x2f, 0xfd) || starts(0x04, 0x22, 0x4d, 0x18)) {
    const program = bytes[0] === 0x28 ? "zstd" : "lz4";
    throw new UsageError(`${file} is compressed with ${program}`, { hint: `Unpack it: ${program} -d ${file}` });
  }
  return bytes;
}

function decoded(file: string, bytes: Buffer): string {
  // The redirection of PowerShell writes UTF-16.
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return new TextDecoder("utf-16be").decode(bytes);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    const latin = bytes.toString("latin1");
    const name = /^set client_encoding (?:=|to) '?(\w+)/im.exec(latin)?.[1]?.toUpperCase() ?? "";
    const label =
      labels[name] ?? (/^(WIN|WINDOWS)(\d+)$/.test(name) ? `windows-${name.replace(/\D/g, "")}` : undefined);
    if (label === undefined) {
      throw new UsageError(`${file} is not in UTF-8`, { hint: "pg_dump writes UTF-8 with: --encoding=UTF8" });
    }
    text = new TextDecoder(label).decode(bytes);
  }
  if (text.includes("\0")) {
    throw new UsageError(`${file} is not text: it has zero bytes`, { hint: "Save it as UTF-8." });
  }
  return text;
}

/** Encodings of Postgres and their names in TextDecoder. */
const labels: Record<string, string> = {
  SQL_ASCII: "iso-8859-1",
  LATIN1: "iso-8859-1",
  LATIN2: "iso-8859-2",
  LATIN5: "iso-8859-9",
  LATIN9: "iso-8859-15",
  KOI8R: "koi8-r",
  KOI8U: "koi8-u",
  EUC_JP: "euc-jp",
  EUC_KR: "euc-kr",
  EUC_CN: "gbk",
  SJIS: "shift_jis",
  BIG5: "big5",
  GBK: "gbk",
  GB18030: "gb18030",
};
