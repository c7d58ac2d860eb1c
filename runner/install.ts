import { setTimeout as sleep } from "node:timers/promises";
import sql, { raw } from "sql-template-tag";
import {
  asOwnerOfEmptySchemas,
  examination,
  type Release,
  type State,
  settleOwner,
  steps,
  thisRelease,
} from "./bundle.ts";
import type { Database, Execute } from "./database.ts";
import { NotikaError } from "./errors.ts";

export interface InstallReport {
  /** The migrations that this call applied. */
  applied: string[];
  /** What `notika.install()` did, and what it could not do and why. */
  steps: { step: string; outcome: string; detail: string | null }[];
}

interface InstallOptions {
  /** Where an administrator installs: the role that is to own Notika. */
  owner?: string;
  /** What is installed; default: what this package brings. */
  release?: Release;
}

/**
 * Brings Notika's schemas in the database up to a release: all of it or, when something fails, nothing.  Then it brings each
 * published table's triggers up to it, in transactions of their own; what cannot be done now a runner does later.
 */
export async function install(database: Database, options: InstallOptions = {}): Promise<InstallReport> {
  const release = options.release ?? (await thisRelease());
  const report = await patiently(() =>
    database.transaction((execute) => installSchemas(execute, { owner: options.owner ?? "", release })),
  ).catch((error) => {
    throw asRefusal(error) ?? error;
  });
  await database.execute(raw("call notika.refresh()"));
  const workflows = await database.execute<InstallReport["steps"][number]>(sql`
    select 'workflow ' || c.name as step, case when d.name is null then 'ok' else 'outdated' end as outcome,
           case when d.name is null then null else 'call notika.refresh();' end as detail
      from notika._captured() as c
      left join notika._captured(true) as d on d.name = c.name
     order by c.name`);
  return { ...report, steps: [...report.steps, ...workflows] };
}

async function installSchemas(execute: Execute, { owner, release }: Required<InstallOptions>): Promise<InstallReport> {
  await execute(sql`select set_config('notika.owner', ${owner}, true)`);
  await execute(raw(await settleOwner()));
  const applied = (await isEmpty(execute)) ? await installFirst(execute, release) : await upgrade(execute, release);
  return {
    applied,
    steps: await execute<InstallReport["steps"][number]>(
      sql`select step, outcome, detail from notika._install_schema()`,
    ),
  };
}

/** Whether nobody but the role that installs can have put anything into the schemas, or can now. */
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

async function installFirst(execute: Execute, release: Release): Promise<string[]> {
  await execute(raw(await asOwnerOfEmptySchemas(release)));
  return release.migrations.map(({ name }) => name);
}

async function upgrade(execute: Execute, release: Release): Promise<string[]> {
  await execute(sql`set local lock_timeout = '250ms'`);
  await execute(raw(await examination(release)));
  const [row] = await execute<{ state: State; is_owner: boolean }>(sql`
    select current_setting('notika.state')::json as state, current_user = current_setting('notika.owner') as is_owner`);
  const { state, is_owner } = row as NonNullable<typeof row>;
  // What the owner may have made of the code is replaced before a role with more rights calls any of it.
  const script = steps(release, { ...state, code: is_owner ? state.code : null });
  await execute(sql`call notika._as_owner(${script})`);
  await execute(raw("drop procedure notika._as_owner(text)"));
  return release.migrations.map(({ name }) => name).filter((name) => !state.migrations.includes(name));
}

/** Tries again what met a lock, of which nothing is left: several at once may also meet in a deadlock. */
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
      "Nothing was changed. Try again. Which sessions hold a table of Notika: select l.pid, l.relation::regclass, a.usename, a.xact_start from pg_locks as l join pg_stat_activity as a using (pid) where l.granted and l.relation::regclass::text like 'notika%';";
  }
  return undefined;
}
