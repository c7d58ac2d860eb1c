import { defineConfig } from "vitest/config";

const onAnyEngine = ["test/sql/**/*.test.ts", "test/support/database.test.ts"];

export default defineConfig({
  test: {
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: "pglite",
          include: [...onAnyEngine, "test/{runner,migrations}/**/*.test.ts"],
          pool: "threads",
          env: { NOTIKA_TEST_POSTGRES: "pglite" },
        },
      },
      ...["15", "18"].map((major) => ({
        extends: true as const,
        test: {
          name: `postgres-${major}`,
          include: onAnyEngine,
          env: { NOTIKA_TEST_POSTGRES: major },
        },
      })),
      {
        extends: true,
        test: {
          name: "server",
          include: ["test/server/**/*.test.ts", "test/support/postgres.test.ts"],
          pool: "forks",
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
