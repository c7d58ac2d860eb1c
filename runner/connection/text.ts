import { NotikaError } from "../errors.ts";

/** Settings of a connection by their libpq names, such as `host`, `dbname`, `sslmode`. */
export type Given = Partial<Record<string, string>>;

/**
 * Reads a connection string in either form of libpq: `postgres://user@host/database?sslmode=require` or
 * `host=… dbname=…`.  Its errors quote only the names of settings, because any other text may be a password.
 */
export function readConnectionString(text: string): Given {
  if (/^postgres(ql)?:\/\//.test(text)) return readUri(text);
  if (/^[\s\w]*=|^\s*$/.test(text)) return readPairs(text);
  throw unreadable("it begins with neither postgres:// nor a setting such as host=");
}

/** The error of an invalid connection string. */
export function unreadable(why: string, hint: string = forms): NotikaError {
  return new NotikaError("NOTIKA_URL", `the URL of the database cannot be read: ${why}`, { hint });
}

const forms =
  "Its form is postgres://user:password@host:5432/database; in the password, @ : / # ? % are written %40 %3A %2F %23 %3F %25. The other form is: host=… port=… dbname=… user=… password=…";

function readUri(text: string): Given {
  const [, authority = "", path, query] =
    /^postgres(?:ql)?:\/\/((?:[^@/]*@)?[^/?]*)(?:\/([^?]*))?(?:\?(.*))?$/s.exec(text) ?? [];
  if (!authority.includes("@") && `${path ?? ""}${query ?? ""}`.includes("@")) {
    throw unreadable("there is a / or ? before the @");
  }
  const at = authority.indexOf("@");
  if (authority.includes("@", at + 1)) throw unreadable("it has more than one @");
  const given: Given = {};
  if (at >= 0) {
    const [, user = "", password] = /^([^:]*)(?::(.*))?$/s.exec(authority.slice(0, at)) ?? [];
    if (user !== "") given.user = decoded(user);
    if (password) given.password = decoded(password);
  }
  const places = authority
    .slice(at + 1)
    .split(",")
    .map(readPlace);
  if (places.some(({ host }) => host !== "")) given.host = places.map(({ host }) => host).join(",");
  if (places.some(({ port }) => port !== "")) given.port = places.map(({ port }) => port).join(",");
  if (path) given.dbname = decoded(path);
  for (const pair of query ? query.split("&") : []) {
    const [, name, value] = /^([^=]+)=([^=]*)$/s.exec(pair) ?? [];
    if (name === undefined || value === undefined) throw unreadable("after the ?, settings are written name=value");
    // The spelling of JDBC.
    if (name === "ssl" && value === "true") given.sslmode = "require";
    else given[decoded(name)] = decoded(value);
  }
  return given;
}

/** Reads `host:port`, each of which may be missing; an IPv6 address is in brackets. */
function readPlace(text: string): { host: string; port: string } {
  const [, v6, host = "", port = ""] = /^(?:\[([^\]]+)\]|([^:[\]]*))(?::([^:]*))?$/.exec(text) ?? [];
  if (v6 === undefined && host === "" && port === "" && text !== "") {
    throw unreadable("it needs host:port between @ and /; an IPv6 address is written in [ ]");
  }
  return { host: decoded(v6 ?? host), port: decoded(port) };
}

function decoded(text: string): string {
  if (/%(?![0-9a-f]{2})/i.test(text)) throw unreadable("a % is not followed by two hexadecimal digits");
  if (text.includes("%00")) throw unreadable("%00 is not a character");
  try {
    return decodeURIComponent(text);
  } catch {
    throw unreadable("the percent-encoded text is not UTF-8");
  }
}

/** Reads `name = value` pairs; a quoted value may contain spaces, and \ escapes the next character. */
function readPairs(text: string): Given {
  const given: Given = {};
  const pair = /\s*([^\s=]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*)?)(?=\s|$)\s*/sy;
  while (pair.lastIndex < text.trimEnd().length) {
    const [, name, quoted, bare = ""] = pair.exec(text) ?? [];
    if (name === undefined)
      throw unreadable("it is not a list of name=value; a value with spaces is written in single quotes");
    given[name] = (quoted ?? bare).replace(/\\(.)/gs, "$1");
  }
  return given;
}
