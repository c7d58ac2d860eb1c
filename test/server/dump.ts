import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type Major, majors } from "../support/binaries.ts";
import { findProgram } from "../support/postgres.ts";

/** The programs of this machine that dump and restore, and the newest server that they can read. */
export interface DumpTools {
  major: Major;
  /** Gives a dump of that database; the format is psql's unless `options` say otherwise. */
  dump(url: string, ...options: string[]): Buffer;
  restore(dump: Buffer, url: string, ...options: string[]): void;
  psql(script: Buffer, url: string): void;
}

/** Or why there are none. */
export function findDumpTools(): DumpTools | string {
  const [pg_dump, psql] = [findProgram("pg_dump"), findProgram("psql")];
  if (!pg_dump || !psql) return "this machine has no pg_dump or no psql";
  const version = Number(execFileSync(pg_dump, ["--version"], { encoding: "utf8" }).match(/\d+/)?.[0]);
  const major = majors.findLast((known) => known <= version);
  if (!major) return `pg_dump is of PostgreSQL ${version}, too old for any server of the tests`;

  const pg_restore = pg_dump.replace(/pg_dump$/, "pg_restore");
  return {
    major,
    dump: (url, ...options) => execFileSync(pg_dump, ["--dbname", url, ...options], { maxBuffer: 1e8 }),
    restore(dump, url, ...options) {
      const folder = mkdtempSync(path.join(tmpdir(), "notika-dump-"));
      const file = path.join(folder, "dump"); // several jobs cannot read one pipe
      try {
        writeFileSync(file, dump);
        execFileSync(pg_restore, ["--dbname", url, ...options, file], { stdio: "pipe" });
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
    psql: (input, url) =>
      void execFileSync(psql, ["--dbname", url, "--quiet", "--set", "ON_ERROR_STOP=1"], { input, stdio: "pipe" }),
  };
}
