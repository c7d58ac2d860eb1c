import { runMigrations } from "graphile-worker";
import sql, { raw } from "sql-template-tag";
import type { Database } from "../../runner/database.ts";
import { type Migration, readText } from "../../runner/migrations.ts";

/** What installing these releases one after the other left in a database. */
export async function installRelease(database: Database, migrations: Migration[]): Promise<void> {
  await runMigrations({ pgPool: database.pool, schema: "notika_worker" });
  await database.script(await readText("migrations/prepare.sql"));
  await applyMigrations(database, migrations);
}

/** What an upgrade to these does. */
export async function applyMigrations(database: Database, migrations: Migration[]): Promise<void> {
  for (const { name, hash, text } of migrations) {
    await database.transaction((execute) => execute(raw(text)));
    await database.execute(sql`insert into notika.migration (name, hash) values (${name}, ${hash})`);
  }
  await database.execute(sql`select * from notika.install()`);
}
