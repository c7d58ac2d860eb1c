import { existsSync, statfsSync } from "node:fs";
import { defineConfig } from "vitest/config";
import { majors } from "./test/support/binaries.ts";
import { quickWasm } from "./test/support/node.ts";

const onAnyEngine = [
  "test/sql/*.test.ts",
  "test/sql/*/*.test.ts",
  "test/security/!(terminal).test.ts", // which starts what it needs
  "test/support/database.test.ts",
  "test/docs/sql.test.ts",
];

/** A folder in memory, where there is enough of it: a database is 300 files, which a disk takes up to half a second to make. */
function inMemory(): string {
  const memory = "/dev/shm";
  if (!existsSync(memory)) return "";
  const { bavail, bsize } = statfsSync(memory);
  return bavail * bsize > 4 * 2 ** 30 ? memory : "";
}

/**
 * What `npm test` tries on the oldest version too: what depends on the catalog, on DDL, event triggers, rights and how a
 * trigger is called, which are what versions of Postgres differ in.
 */
const onTheOldest = [
  "test/sql/{conventions,form,truncate,types,wrong-rights}.test.ts",
  "test/sql/guard/{judged,no-table,pinned,replaced,type-changes}.test.ts",
  "test/sql/fuzz/ddl.test.ts",
  "test/sql/writers/others.test.ts",
  "test/security/{grammar,invariants,rights,tables}.test.ts",
];

// `npm test` leaves out the versions in between, and what PGlite would only do as PostgreSQL 18 does it, at five times the
// price. `npm run test:all` tries everything on every version, with NOTIKA_TEST_ALL=1: all cases of what has many.
export default defineConfig({
  test: {
    maxWorkers: 3, // on two cores: many tests wait
    maxConcurrency: 3,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    env: { NOTIKA_TEST_DATA: inMemory() },
    globalSetup: "test/support/build.ts",
    projects: [
      {
        extends: true,
        test: {
          name: "pglite",
          include: [
            "test/{runner,migrations,bench}/**/*.test.ts",
            "test/docs/!(sql).test.ts",
            "test/security/terminal.test.ts",
          ],
          execArgv: quickWasm,
        },
      },
      {
        extends: true,
        test: {
          name: "pglite-sql",
          include: onAnyEngine,
          execArgv: quickWasm,
          env: { NOTIKA_TEST_POSTGRES: "pglite", NOTIKA_TEST_ALL: "" },
        },
      },
      ...majors.map((major) => ({
        extends: true as const,
        test: {
          name: `postgres-${major}`,
          include: onAnyEngine,
          isolate: false,
          env: { NOTIKA_TEST_POSTGRES: String(major) },
        },
      })),
      {
        extends: true,
        test: {
          name: "oldest",
          include: onTheOldest,
          isolate: false,
          env: { NOTIKA_TEST_POSTGRES: String(majors[0]) },
        },
      },
      ...majors.map((major) => ({
        extends: true as const,
        test: {
          name: major === majors.at(-1) ? "server" : `server-${major}`,
          include: ["test/server/**/*.test.ts", "test/security/server/*.test.ts", "test/support/postgres.test.ts"],
          env: { NOTIKA_TEST_POSTGRES: String(major) },
          isolate: false,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      })),
    ],
  },
});
