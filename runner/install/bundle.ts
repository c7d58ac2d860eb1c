import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { migrations as workerMigrations } from "graphile-worker/dist/generated/sql.js";
import { committedMigrations, currentMigration, type Migration, readCode, readText } from "./migrations.ts";

/** All of `install` as one SQL script, for psql and other people's migration tools; it may be run twice. */
export async function installScript(): Promise<string> {
  return `-- Notika ${versionOf("notika")}, graphile-worker ${versionOf("graphile-worker")}
-- Run it with: psql -v ON_ERROR_STOP=1 -f FILE
-- An administrator may name the role that is to own Notika: set notika.owner = '...';

begin isolation level read committed;

${await migrateScript()}
select * from notika.install();

commit;
`;
}

/** Changes whenever a fresh install would: the key of whatever caches one. */
export async function installVersion(): Promise<string> {
  return createHash("sha256")
    .update(await installScript())
    .digest("hex");
}

/**
 * Settles who owns Notika, and applies the migrations that the database does not have, as that role; wants a transaction
 * around it.
 */
export async function migrateScript(): Promise<string> {
  const committed = await committedMigrations();
  const current = await currentMigration();
  const steps = [
    ...workerSteps.map(workerStep),
    ...committed.map(step),
    // Whatever somebody has made of it is replaced before anything of it is called.
    `if v_is_upgrade then\n${execute(await readCode())}end if;\n`,
    current === undefined ? "" : execute(current),
  ];

  return `${await readText("migrations/owner.sql")}
set local notika.known = '${JSON.stringify(await knownMigrations())}';

call notika._as_owner($notika_owner$
${await readText("migrations/prepare.sql")}
do $notika_install$
declare
  v_worker_upgrade constant boolean := exists (select from notika_worker.migrations);
  v_is_upgrade constant boolean := exists (select from notika.migration);
begin
-- The guard does not look at what is Notika's own.
if to_regclass('notika.guard_busy') is not null then
  insert into notika.guard_busy (pid) values (pg_backend_pid());
end if;
${steps.join("\n")}
delete from notika.guard_busy where pid = pg_backend_pid();
end;
$notika_install$;
$notika_owner$);

drop procedure notika._as_owner(text);
`;
}

/** What this package brings a database up to: the revision of graphile-worker's schema, and migrations with their hashes. */
export async function knownMigrations() {
  return {
    worker: Math.max(...workerSteps.map(({ id }) => id)),
    migrations: Object.fromEntries((await committedMigrations()).map(({ name, hash }) => [name, hash])),
  };
}

const workerSteps = Object.entries(workerMigrations).map(([file, text]) => ({
  id: Number.parseInt(file, 10),
  breaking: text.startsWith("--! breaking"),
  text: text.replaceAll(/:GRAPHILE_WORKER_SCHEMA\b/g, '"notika_worker"'),
}));

// graphile-worker's own migrate() does the same but for two things: it commits after each step, and it notifies at the
// first install too, which stops every graphile-worker in the database, whatever its schema.
function workerStep({ id, breaking, text }: (typeof workerSteps)[number]): string {
  return `if not exists (select from notika_worker.migrations where id = ${id}) then
  insert into notika_worker.migrations (id, breaking) values (${id}, ${breaking});
${execute(text)}  if v_worker_upgrade then
    perform pg_notify('worker:migrate', '${JSON.stringify({ migrationNumber: id, breaking })}');
  end if;
end if;
`;
}

function step({ name, hash, text }: Migration): string {
  return `if not exists (select from notika.migration where name = '${name}') then
  insert into notika.migration (name, hash) values ('${name}', '${hash}');
${execute(text)}end if;
`;
}

function execute(text: string): string {
  return `execute $notika_step$
${text.trim()}
$notika_step$;
`;
}

function versionOf(name: string): string {
  return createRequire(import.meta.url)(`${name}/package.json`).version;
}
