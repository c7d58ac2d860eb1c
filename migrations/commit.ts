// npm run db:commit -- --message "what changes": makes migrations/current the next file of migrations/committed,
// after graphile-migrate has run all of them in a Postgres of its own.
import { spawnSync } from "node:child_process";
import { startPostgres } from "../test/support/postgres.ts";

const server = await startPostgres({ major: 15 });
try {
  const { status } = spawnSync("graphile-migrate", ["commit", ...process.argv.slice(2)], {
    stdio: "inherit",
    env: {
      ...process.env,
      DATABASE_URL: await server.createDatabase(),
      SHADOW_DATABASE_URL: await server.createDatabase(),
      ROOT_DATABASE_URL: server.url,
    },
  });
  process.exitCode = status ?? 1;
} finally {
  await server.stop();
}
