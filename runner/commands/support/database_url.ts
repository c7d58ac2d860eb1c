import { UsageError } from "../../errors.ts";

/** The URL of the database, from --url or the environment.  Errors do not repeat it: it may hold a password. */
export function databaseUrl(given: unknown): string {
  const url = typeof given === "string" ? given : process.env.DATABASE_URL;
  if (!url) {
    throw new UsageError("no database was named", {
      hint: "Set DATABASE_URL, or give --url postgres://user@host/database. Without a server: notika dev",
    });
  }
  if (!isReadable(url)) {
    throw new UsageError("the URL of the database cannot be read", {
      hint: "Its form is postgres://user:password@host:5432/database; in the password, @ : / # ? % are written %40 %3A %2F %23 %3F %25.",
    });
  }
  return url;
}

function isReadable(text: string): boolean {
  try {
    const url = new URL(text);
    decodeURIComponent(url.username + url.password + url.pathname);
    return /^postgres(ql)?:$/.test(url.protocol) && url.hash === "";
  } catch {
    return false;
  }
}
