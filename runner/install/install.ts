import { setTimeout as sleep } from "node:timers/promises";
import sql, { raw } from "sql-template-tag";
import type { Database } from "../database/database.ts";
import type { Execute } from "../database/statements.ts";
import { NotikaError } from "../errors.ts";
import {
  asOwnerOfEmptySchemas,
  examination,
  hashOf,
  type Release,
  type State,
  settleOwner,
  thisRelease,
  upgradeSteps,
} from "./bundle.ts";
import { readText } from "./migrations.ts";

export interface InstallReport {
  /** The migrations that this call applied. */
  applied: string[];
  /** The steps of `notika.install()`, with their outcome and, for a step that failed, the reason. */
  steps: { step: string; outcome: string; detail: string | null }[];
}

interface InstallOptions {
  /** The future owner of Notika, if an administrator installs it. */
  owner?: string;
  /** The release to install; default: that of this package. */
  release?: Release;
}

/**
 * Installs a release, or upgrades to it, in one transaction.  Then it replaces the triggers of each published table, in a
 * transaction of its own; a runner does later what cannot be done now.  Throws NOTIKA_NEWER_INSTALLED,
 * NOTIKA_MIGRATION_CHANGED.
 */
export async function install(database: Database, options: InstallOptions = {}): Promise<InstallReport> {
  const release = options.release ?? (await thisRelease());
  const { applied, steps } = await patiently(() =>
    database.transaction((execute) => installSchemas(execute, { owner: options.owner ?? "", release })),
  ).catch((error) => {
    throw asRefusal(error) ?? error;
  });
  const workflows = await refresh(database);
  return { applied, steps: [...steps, ...workflows] };
}

/**
 * Replaces the triggers of published tables by those of the installed version, and reports for which that failed.  The code
 * of the owner runs with the owner's rights: the owner may have replaced it since the upgrade was committed.
 */
async function refresh(database: Database): Promise<InstallReport["steps"]> {
  await database.execute(raw(await readText("migrations/refresh.sql")));
  return database.transaction(async (execute) => {
    await execute(raw("set local search_path = pg_catalog, pg_temp; set local client_min_messages = warning"));
    await execute(sql`
      select set_config('notika.owner', pg_get_userbyid(n.nspowner), true) from pg_namespace as n where n.nspname = 'notika'`);
    await execute(raw(await readText("migrations/as_owner.sql")));
    await execute(sql`call notika._as_owner(${workflowSteps})`);
    await execute(raw("drop procedure notika._as_owner(text)"));
    const [row] = await execute<{ steps: InstallReport["steps"] }>(
      sql`select current_setting('notika.result')::json as steps`,
    );
    return row?.steps ?? [];
  });
}

const workflowSteps = `
  select set_config('notika.result', coalesce(json_agg(json_build_object(
           'step', 'workflow ' || c.name,
           'outcome', case when d.name is null then 'ok' else 'outdated' end,
           'detail', case when d.name is not null then 'call notika.refresh();' end) order by c.name)::text, '[]'), true)
    from notika._captured() as c
    left join notika._captured(true) as d on d.name = c.name`;

/** The effect of an upgrade. */
export interface UpgradePlan {
  /** The version that the database has; null: none. */
  from: string | null;
  to: string;
  migrations: string[];
  code: "stays" | "is replaced";
  /** Locks on tables and views that others would wait for, held until the upgrade commits. */
  locks: { relation: string; mode: string }[];
  /** Published tables whose triggers are replaced afterwards. */
  refresh: { table: string; workflow: string }[];
}

/** Determines the effect of an upgrade: runs it, records the effect, and rolls it back.  Throws like `install`. */
export async function planUpgrade(database: Database): Promise<UpgradePlan> {
  const release = await thisRelease();
  let plan: UpgradePlan | undefined;
  const undo = new Error("undo");
  await patiently(() =>
    database.transaction(async (execute) => {
      const [before] = await execute<{ relations: string[]; version: string | null }>(sql`
        select (select json_agg(c.oid::text) from pg_class as c) as relations,
               -- Not by a call: the owner of Notika may have changed the function.
               (select substring(p.prosrc from '([0-9][^'']*)') from pg_proc as p
                 where p.pronamespace = to_regnamespace('notika') and p.proname = 'version') as version`);
      const { applied, state } = await installSchemas(execute, { owner: "", release });
      const locks = await execute<UpgradePlan["locks"][number]>(sql`
        select distinct l.relation::regclass::text as relation, l.mode
          from pg_locks as l
         where l.pid = pg_backend_pid() and l.granted
           and l.database = (select d.oid from pg_database as d where d.datname = current_database())
           and l.relation::text in (
             select json_array_elements_text(${JSON.stringify(before?.relations)}::text::json)
           )
           and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
         order by relation, l.mode`);
      const refresh = await execute<UpgradePlan["refresh"][number]>(sql`
        select w.table_name as table, w.name as workflow
          from notika._captured(true) as c
          join notika.workflow as w on w.name = c.name
         order by w.table_name, w.name`);
      plan = {
        from: before?.version ?? null,
        to: release.version,
        migrations: applied,
        code: state?.code === hashOf(release.code) ? "stays" : "is replaced",
        locks,
        refresh,
      };
      throw undo;
    }),
  ).catch((error) => {
    if (error !== undo) throw asRefusal(error) ?? error;
  });
  return plan as UpgradePlan;
}

async function installSchemas(execute: Execute, { owner, release }: Required<InstallOptions>) {
  await execute(sql`select set_config('notika.owner', ${owner}, true)`);
  await execute(raw(await settleOwner()));
  const state = (await isEmpty(execute)) ? await installFirst(execute, release) : await upgrade(execute, release);
  const steps = await execute<InstallReport["steps"][number]>(
    sql`select step, outcome, detail from notika._install_schema()`,
  );
  const names = release.migrations.map(({ name }) => name);
  return { applied: names.filter((name) => !state?.migrations.includes(name)), steps, state };
}

/** Whether the schemas are empty or missing, and no other role could have created anything in them. */
async function isEmpty(execute: Execute): Promise<boolean> {
  const [row] = await execute<{ is_empty: boolean }>(sql`
    select not exists (
      select from pg_namespace as n
       where n.nspname in ('notika', 'notika_worker')
         and (n.nspowner <> current_user::regrole and not has_database_privilege(current_database(), 'create')
              or exists (select from pg_class as c where c.relnamespace = n.oid)
              or exists (select from pg_proc as p where p.pronamespace = n.oid)
              or exists (select from pg_type as t where t.typnamespace = n.oid))
    ) as is_empty`);
  return row?.is_empty === true;
}

async function installFirst(execute: Execute, release: Release): Promise<null> {
  await execute(raw(await asOwnerOfEmptySchemas(release)));
  return null;
}

/** Upgrades the schemas; returns their state before. */
async function upgrade(execute: Execute, release: Release): Promise<State> {
  await execute(raw(await examination(release)));
  const [row] = await execute<{ state: State; is_owner: boolean }>(sql`
    select current_setting('notika.state')::json as state, current_user = current_setting('notika.owner') as is_owner`);
  const { state, is_owner } = row as NonNullable<typeof row>;
  // The owner may have changed the code, so it is replaced before a role with more rights calls it.
  const script = upgradeSteps(release, { ...state, code: is_owner ? state.code : null });
  await execute(sql`call notika._as_owner(${script})`);
  await execute(raw("drop procedure notika._as_owner(text)"));
  return state;
}

/** Retries, for 30 s, an attempt that failed on a lock or deadlock and was rolled back. */
async function patiently<T>(attempt: () => Promise<T>): Promise<T> {
  for (const end = Date.now() + 30_000; ; await sleep(100)) {
    try {
      return await attempt();
    } catch (error) {
      const { code } = error as { code?: string };
      if (!["40P01", "55P03"].includes(code ?? "") || Date.now() > end) throw error;
    }
  }
}

function asRefusal(cause: Error & { code?: string; hint?: string }): NotikaError | undefined {
  const code = { NK011: "NOTIKA_NEWER_INSTALLED", NK012: "NOTIKA_MIGRATION_CHANGED" }[cause.code ?? ""];
  if (code) return new NotikaError(code, cause.message, { ...(cause.hint && { hint: cause.hint }), cause });
  if (cause.code === "55P03") {
    cause.hint ??=
      "Nothing was changed. Try again. The sessions that lock a table of Notika: select l.pid, l.relation::regclass, a.usename, a.xact_start from pg_locks as l join pg_stat_activity as a using (pid) where l.granted and l.relation::regclass::text like 'notika%';";
  }
  return undefined;
}
