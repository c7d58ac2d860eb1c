import { runMigrations } from "graphile-worker";
import sql, { raw } from "sql-template-tag";
import type { Database } from "../../runner/database/database.ts";
import { type Migration, readText } from "../../runner/install/migrations.ts";

/** What installing these releases one after the other left in a database. */
export async function installRelease(database: Database, migrations: Migration[]): Promise<void> {
  await prepareRelease(database);
  await applyMigrations(database, migrations);
}

/** Makes the schemas, graphile-worker's tables and the two ledgers, all of them the owner's. */
export async function prepareRelease(database: Database): Promise<void> {
  await runMigrations({ pgPool: database.pool, schema: "notika_worker" });
  await asOwner(database, await readText("migrations/prepare.sql"));
}

/** What an upgrade to these does. */
export async function applyMigrations(database: Database, migrations: Migration[]): Promise<void> {
  for (const { name, hash, text } of migrations) {
    await asOwner(database, `${text}\ninsert into notika.migration (name, hash) values ('${name}', '${hash}');`);
  }
  await database.execute(sql`select * from notika.install()`);
}

/** Runs a script in a transaction as the owner of Notika, who is settled first. */
export async function asOwner(database: Database, script: string): Promise<void> {
  const settleOwner = raw(await readText("migrations/owner.sql"));
  await database.transaction(async (execute) => {
    await execute(settleOwner);
    await execute(raw(`call notika._as_owner($notika_owner$${script}$notika_owner$)`));
    await execute(sql`drop procedure notika._as_owner(text)`);
  });
}
