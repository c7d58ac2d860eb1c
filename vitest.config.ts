import { defineConfig } from "vitest/config";
import { majors } from "./test/support/binaries.ts";

const onAnyEngine = [
  "test/sql/*.test.ts",
  "test/sql/*/*.test.ts",
  "test/security/!(terminal).test.ts", // which starts what it needs
  "test/support/database.test.ts",
];

// `npm test` leaves out the versions in between, and what PGlite would only do as PostgreSQL 18 does it, at five times the
// price; `npm run test:all` runs every project.
export default defineConfig({
  test: {
    maxWorkers: 2,
    maxConcurrency: 3,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: "pglite",
          include: ["test/{runner,migrations,bench}/**/*.test.ts", "test/security/terminal.test.ts"],
          pool: "threads",
        },
      },
      {
        extends: true,
        test: {
          name: "pglite-sql",
          include: onAnyEngine,
          pool: "threads",
          env: { NOTIKA_TEST_POSTGRES: "pglite" },
        },
      },
      ...majors.map((major) => ({
        extends: true as const,
        test: {
          name: `postgres-${major}`,
          include: onAnyEngine,
          isolate: false,
          // There is time for every shape of a migration, and for every attack, where nobody waits for the result.
          env: {
            NOTIKA_TEST_POSTGRES: String(major),
            ...([16, 17].includes(major) && { NOTIKA_TEST_SHAPES: "all", NOTIKA_TEST_ATTACKS: "all" }),
          },
        },
      })),
      ...majors.map((major) => ({
        extends: true as const,
        test: {
          name: major === majors.at(-1) ? "server" : `server-${major}`,
          include: ["test/server/**/*.test.ts", "test/security/server/*.test.ts", "test/support/postgres.test.ts"],
          env: { NOTIKA_TEST_POSTGRES: String(major) },
          pool: "forks" as const,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      })),
    ],
  },
});
