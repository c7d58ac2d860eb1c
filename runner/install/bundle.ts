import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { migrations as workerMigrations } from "graphile-worker/dist/generated/sql.js";
import { NotikaError } from "../errors.ts";
import { committedMigrations, currentMigration, type Migration, readCode, readText } from "./migrations.ts";

/** The contents of a version of Notika. */
export interface Release {
  version: string;
  /** In the order in which they are applied. */
  migrations: Migration[];
  /** The SQL code that is replaced as a whole. */
  code: string;
}

/** The state of Notika in a database. */
export interface State {
  /** The revision of graphile-worker's schema. */
  worker: number;
  /** The names of its migrations. */
  migrations: string[];
  /** The SHA-256 of its code; null: replace it in any case. */
  code: string | null;
}

/** The release in this package. */
export async function thisRelease(): Promise<Release> {
  const current = await currentMigration();
  const migrations = await committedMigrations();
  // The next migration exists only during the development of Notika.  It is applied repeatedly, so it is in no ledger.
  const code = `${current ?? ""}\n${await readCode()}`;
  return { version: versionOf("notika"), migrations, code: code.trimStart() };
}

/** A first installation as one script of plain statements, for psql and migration tools. */
export async function installScript(release?: Release): Promise<string> {
  const { version, ...rest } = release ?? (await thisRelease());
  return `-- Notika ${version}, graphile-worker ${versionOf("graphile-worker")}
-- SHA-256 of the code: ${hashOf(rest.code)}
-- For a database without Notika.  Run it with: psql -v ON_ERROR_STOP=1 -f FILE
-- An administrator may name another owner of Notika: set notika.owner = '...';

begin isolation level read committed;

${await firstInstallation({ version, ...rest })}
select * from notika.install();

commit;
`;
}

/** An upgrade from a released version as one script for psql; throws NOTIKA_USAGE if there is no such version. */
export async function upgradeScript(from: string, release?: Release): Promise<string> {
  const to = release ?? (await thisRelease());
  const releases: Record<string, { migration: string; worker: number }> = JSON.parse(
    await readText("migrations/releases.json"),
  );
  const had = releases[from];
  if (!had) {
    throw new NotikaError("NOTIKA_USAGE", `there is no version ${from} of notika to upgrade from`, {
      hint: `Versions: ${Object.keys(releases).join(", ")}. The version in a database: select notika.version();`,
    });
  }
  const names = to.migrations.map(({ name }) => name);
  const state: State = {
    worker: had.worker,
    migrations: names.slice(0, names.indexOf(had.migration) + 1),
    code: null,
  };
  return `-- Notika ${to.version}, graphile-worker ${versionOf("graphile-worker")}: the upgrade from ${from}
-- SHA-256 of the code: ${hashOf(to.code)}
-- Run it with: psql -v ON_ERROR_STOP=1 -f FILE
-- If a lock is not available within 250 ms, it fails and changes nothing: run it again.

begin isolation level read committed;

${await beforeUpgrade(to)}
do $$
begin
  if current_setting('notika.state')::jsonb - 'code' <> '${JSON.stringify({ worker: state.worker, migrations: state.migrations })}' then
    raise exception 'the database does not have notika ${from}: %', current_setting('notika.state')
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Print the upgrade for what it has: npx notika sql --from <installed version>';
  end if;
end;
$$;

call notika._as_owner($notika_owner$
${upgradeSteps(to, state)}
$notika_owner$);

drop procedure notika._as_owner(text);

select * from notika._install_schema();

commit;

${await readText("migrations/refresh.sql")}`;
}

/** A hash of the first installation: a key for caches of it. */
export async function installVersion(): Promise<string> {
  return hashOf(await installScript());
}

/** SQL that determines the owner; like all scripts here it must run in a transaction. */
export function settleOwner(): Promise<string> {
  return readText("migrations/owner.sql");
}

/** SQL of a first installation, without its end, `notika.install()`. */
async function firstInstallation(release: Release): Promise<string> {
  return `${await settleOwner()}
${await asOwnerOfEmptySchemas(release)}`;
}

/** The same without the SQL that determines the owner. */
export async function asOwnerOfEmptySchemas(release: Release): Promise<string> {
  return `${await readText("migrations/fresh.sql")}
${upgradeSteps(release, { worker: 0, migrations: [], code: null })}
-- Return to the role that installs.
do $$
begin
  perform set_config('role', current_setting('notika.installer'), true);
end;
$$;
`;
}

/**
 * SQL that determines the owner, refuses a database that cannot be upgraded, and stores its state in the setting
 * `notika.state`.
 */
async function beforeUpgrade(release: Release): Promise<string> {
  return `${await settleOwner()}
${await examination(release)}`;
}

/** The same without the SQL that determines the owner. */
export async function examination(release: Release): Promise<string> {
  return `${await readText("migrations/as_owner.sql")}
set local notika.known = '${JSON.stringify(knownMigrations(release))}';

call notika._as_owner($notika_owner$
${await readText("migrations/prepare.sql")}
$notika_owner$);
`;
}

/** SQL statements that bring a database to a release, to be run as the owner of Notika. */
export function upgradeSteps(release: Release, state: State): string {
  const isUpgrade = state.migrations.length > 0;
  const missing = release.migrations.filter(({ name }) => !state.migrations.includes(name));
  const hash = hashOf(release.code);
  return [
    state.worker === 0 ? workerLedger : "",
    ...workerSteps.filter(({ id }) => id > state.worker).map((step) => workerStep(step, state.worker > 0)),
    isUpgrade ? guardLooksAway : "",
    isUpgrade ? lockTables(missing) : "",
    ...missing.map(migrationStep),
    state.code === hash
      ? ""
      : `${release.code}
insert into notika.migration as m (name, hash) values ('code', '${hash}')
  on conflict on constraint migration_pkey do update set hash = excluded.hash, applied_at = now()
  where m.hash <> excluded.hash;
`,
    isUpgrade ? "delete from notika.guard_busy where pid = pg_backend_pid();\n" : "",
  ]
    .filter((step) => step !== "")
    .join("\n");
}

const guardLooksAway = `-- The guard ignores changes of Notika's own tables.
insert into notika.guard_busy (pid) values (pg_backend_pid());
`;

/**
 * SQL that takes the locks of migrations before anything else, those that writers wait for last.  It takes all or none, so
 * that no session waits for one lock while this one waits for another.
 */
function lockTables(migrations: Migration[]): string {
  const altered = migrations.flatMap(({ text }) =>
    [...text.matchAll(/^\s*alter table (?:only )?(notika\.\w+)/gim)].map(([, table = ""]) => table),
  );
  const isWritten = (table: string) => Number(table.startsWith("notika.event_log_"));
  const tables = [...new Set(altered)].sort((a, b) => isWritten(a) - isWritten(b) || (a < b ? -1 : 1));
  const names = tables.map((table) => `'${table}'`).join(", ");
  return `-- No session waits longer than 250 ms for an upgrade that waits for others.
do $$
declare
  v_tables text;
begin
  select string_agg(t.name, ', ' order by t.place) into v_tables
    from unnest(array[${names}]::text[]) with ordinality as t (name, place)
   where to_regclass(t.name) is not null; -- a migration before may create one
  for v_try in 1 .. 20 loop
    perform set_config('lock_timeout', least(50 * v_try, 250) || 'ms', true);
    begin
      if v_tables is not null then
        execute format('lock table %s in access exclusive mode', v_tables);
      end if;
      exit;
    exception when lock_not_available or deadlock_detected then
      if v_try = 20 then
        raise exception 'cannot upgrade notika: % are in use', v_tables
          using errcode = 'lock_not_available';
      end if;
    end;
    perform pg_sleep(0.05 + random() / 10);
  end loop;
  perform set_config('lock_timeout', '250ms', true);
  -- Tests have checked the function bodies; a check here would hold the locks longer.
  perform set_config('check_function_bodies', 'off', true);
end;
$$;
`;
}

/** The revision of graphile-worker's schema, and the migrations with their hashes: a database may have no others. */
export function knownMigrations({ migrations }: Release) {
  return {
    worker: Math.max(...workerSteps.map(({ id }) => id)),
    migrations: Object.fromEntries(migrations.map(({ name, hash }) => [name, hash])),
  };
}

const workerSteps = Object.entries(workerMigrations).map(([file, text]) => ({
  id: Number.parseInt(file, 10),
  breaking: text.startsWith("--! breaking"),
  text: text.replaceAll(/:GRAPHILE_WORKER_SCHEMA\b/g, '"notika_worker"'),
}));

// As graphile-worker creates it.
const workerLedger = `create table if not exists notika_worker.migrations (
  id int primary key,
  ts timestamptz not null default now(),
  breaking boolean not null default false
);
`;

// graphile-worker's own migrate() differs in two things: it commits after each step, and it also notifies at the first
// installation, which stops every graphile-worker in the database, whatever its schema.
function workerStep({ id, breaking, text }: (typeof workerSteps)[number], isUpgrade: boolean): string {
  const message = JSON.stringify({ migrationNumber: id, breaking });
  return `-- graphile-worker's migration ${id}
insert into notika_worker.migrations (id, breaking) values (${id}, ${breaking});
${text.trim()}
${isUpgrade ? `select pg_notify('worker:migrate', '${message}');\n` : ""}`;
}

function migrationStep({ name, hash, text }: Migration): string {
  return `-- Migration ${name}
${text.trim()}
insert into notika.migration (name, hash) values ('${name}', '${hash}');
`;
}

export function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

function versionOf(name: string): string {
  return createRequire(import.meta.url)(`${name}/package.json`).version;
}
