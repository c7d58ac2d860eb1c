import { chownSync, writeFileSync } from "node:fs";
import { type Major, serverUser } from "../../../support/binaries.ts";
import { type Postgres, startPostgres } from "../../../support/postgres.ts";

/** A server that keeps what it has committed, and finds nothing in an archive, for which it takes its time. */
export function startServer(major: Major): Promise<Postgres> {
  return startPostgres({
    major,
    settings: {
      fsync: "on",
      synchronous_commit: "on",
      full_page_writes: "on",
      max_connections: "100",
      restore_command: "sleep 0.5; false",
    },
  });
}

/** Writes an empty file into the server's own folder. */
export function giveToServer(file: string) {
  writeFileSync(file, "");
  const { uid, gid } = serverUser();
  if (uid !== undefined && gid !== undefined) chownSync(file, uid, gid);
}
