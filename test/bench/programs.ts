import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { pgbouncer } from "../support/pgbouncer.ts";
import { findProgram } from "../support/postgres.ts";

/** The pgbench beside the server's programs, or else that of this machine. */
export function pgbenchProgram(bin?: string): string {
  const beside = bin && path.join(bin, "pgbench");
  const program = beside && existsSync(beside) ? beside : findProgram("pgbench");
  if (!program) throw new Error("pgbench is missing: install PostgreSQL's programs, or name their folder with --bin");
  return program;
}

/** The versions of what takes part besides the server. */
export function describePrograms(bin?: string): Record<string, string> {
  const version = (program: string) =>
    /[\d.]+/.exec(execFileSync(program, ["--version"], { encoding: "utf8" }))?.[0] ?? "?";
  return { pgbench: version(pgbenchProgram(bin)), pgbouncer: pgbouncer ? version(pgbouncer) : "none" };
}
