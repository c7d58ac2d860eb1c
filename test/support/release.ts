import { runMigrations } from "graphile-worker";
import sql, { raw } from "sql-template-tag";
import type { Database } from "../../runner/database/database.ts";
import { type Migration, readCode, readText } from "../../runner/install/migrations.ts";

/** What installing these releases one after the other left in a database. */
export async function installRelease(database: Database, migrations: Migration[]): Promise<void> {
  await prepareRelease(database);
  await applyMigrations(database, migrations);
}

/** Makes the schemas and graphile-worker's tables, all of them the owner's. */
export async function prepareRelease(database: Database): Promise<void> {
  await runMigrations({ pgPool: database.pool, schema: "notika_worker" });
  await asOwner(database, "");
}

/** What an upgrade to these does, with the code of today. */
export async function applyMigrations(database: Database, migrations: Migration[]): Promise<void> {
  for (const { name, hash, text } of migrations) {
    await asOwner(database, `${text}\ninsert into notika.migration (name, hash) values ('${name}', '${hash}');`);
  }
  await asOwner(database, await readCode());
  await database.execute(sql`select * from notika.install()`);
}

/** Runs a script in a transaction as the owner of Notika, who is settled first. */
export async function asOwner(database: Database, script: string): Promise<void> {
  const settleOwner = raw(`${await readText("migrations/owner.sql")}\n${await readText("migrations/as_owner.sql")}`);
  await database.transaction(async (execute) => {
    await execute(settleOwner);
    await execute(sql`call notika._as_owner(${script})`);
    await execute(sql`drop procedure notika._as_owner(text)`);
  });
}
