import { defineConfig } from "vitest/config";

const serverTimeout = 120_000;

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
          include: ["test/{sql,runner,migrations}/**/*.test.ts"],
          pool: "threads",
          env: { NOTIKA_TEST_POSTGRES: "pglite" },
        },
      },
      ...["15", "18"].map((major) => ({
        extends: true as const,
        test: {
          name: `postgres-${major}`,
          include: ["test/sql/**/*.test.ts"],
          env: { NOTIKA_TEST_POSTGRES: major },
        },
      })),
      {
        extends: true,
        test: {
          name: "server",
          include: ["test/server/**/*.test.ts"],
          pool: "forks",
          fileParallelism: false,
          testTimeout: serverTimeout,
          hookTimeout: serverTimeout,
        },
      },
    ],
  },
});
