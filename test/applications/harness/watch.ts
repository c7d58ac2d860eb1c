import { readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql, { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../runner/database/database.ts";
import type { Context } from "../../../runner/index.ts";
import { install } from "../../../runner/install/install.ts";
import { silentLog } from "../../../runner/log.ts";
import { createRunner } from "../../../runner/worker/index.ts";
import type { Workflow } from "./application.ts";

/** Notika beside an application, and the shadow that it is compared with. */
export interface Watch {
  publish(workflows: Workflow[], as: string): Promise<void>;
  unpublish(workflow: string): Promise<void>;
  /** What Notika captured, compared with what the shadow saw. */
  compare(): Promise<Comparison>;
  /** Waits until every event has run, and compares what the tasks were given with the events. */
  settle(): Promise<{ runs: number; objections: string[] }>;
  query: Database["execute"];
  close(): Promise<void>;
}

export interface Comparison {
  changes: number;
  /** Events of each workflow. */
  events: Record<string, number>;
  objections: string[];
}

type Published = Workflow & { from: string; until: string | undefined };

/** Installs Notika and the shadow as an administrator, and runs the tasks as an ordinary role. */
export async function openWatch(url: string, names: string[], user: string, publishes: boolean): Promise<Watch> {
  const database = openDatabase({ connect: url });
  const published: Published[] = [];
  await install(database);
  await database.script(readFileSync(path.join(import.meta.dirname, "shadow.sql"), "utf8"));
  await database.script(`
    create role notika_runner_here login;
    select notika.grant_runner('notika_runner_here');
    grant usage on schema shadow to notika_runner_here;
    grant insert on shadow.run to notika_runner_here;
    ${publishes ? `select notika.grant_publisher('${user}');` : ""}`);

  const record = async ({ event, query }: Context) => {
    await query(sql`
      insert into shadow.run (event_id, workflow, operation, old, new)
      values (${event.id}::bigint, ${event.workflow}, ${event.operation}, ${JSON.stringify(event.old)}, ${JSON.stringify(event.new)})`);
  };
  const runner = await createRunner({
    url: url.replace("//postgres@", "//notika_runner_here@"),
    tasks: Object.fromEntries(names.map((name) => [name, record])),
    log: silentLog,
  });

  return {
    query: database.execute,
    async publish(workflows, as) {
      for (const workflow of workflows) {
        // In one transaction, so that both see the same changes.
        const [row] = await database.transaction(async (execute) => {
          await execute(raw(`lock table ${workflow.table} in share row exclusive mode`));
          const [seen] = await execute<{ seen: boolean }>(sql`
            select exists (select from pg_trigger where tgrelid = ${workflow.table}::regclass and tgname = 'shadow') as seen`);
          if (!seen?.seen) {
            await execute(
              raw(`create trigger shadow after insert or update or delete on ${workflow.table}
                   for each row execute function shadow.record()`),
            );
          }
          await execute(sql`select set_config('role', ${as}, true)`);
          await execute(sql`
            select notika.publish(${workflow.name}, ${workflow.table}, operations => ${workflow.operations}::text[],
                                  columns => ${workflow.columns}::text[], watch => ${workflow.watch ?? null}::text[],
                                  condition => ${workflow.condition ?? null})`);
          await execute(sql`select set_config('role', 'none', true)`);
          return execute<{ last: string }>(sql`select coalesce(max(change_id), 0) as last from shadow.change`);
        });
        published.push({ ...workflow, from: row?.last ?? "0", until: undefined });
      }
    },
    async unpublish(name) {
      const workflow = published.find((it) => it.name === name && !it.until);
      if (!workflow) throw new Error(`${name} is not published`);
      const [row] = await database.transaction(async (execute) => {
        await execute(sql`select notika.unpublish(${name})`);
        return execute<{ last: string }>(sql`select coalesce(max(change_id), 0) as last from shadow.change`);
      });
      workflow.until = row?.last;
    },
    async compare() {
      const [count] = await database.execute<{ changes: number }>(
        sql`select count(*)::int as changes from shadow.change`,
      );
      const events: Comparison["events"] = {};
      const objections: string[] = [];
      for (const workflow of published) {
        const found = await compareOne(database, workflow);
        events[workflow.name] = found.events;
        objections.push(...found.objections);
      }
      const findings = await database.execute<{ finding: string }>(sql`
        select concat_ws(' ', workflow, finding, detail) as finding from notika.check() where workflow is not null or severity = 'error'`);
      objections.push(...findings.map(({ finding }) => `check: ${finding}`));
      return { changes: count?.changes ?? 0, events, objections };
    },
    async settle() {
      for (let tries = 0; tries < 600; tries++) {
        const [left] = await database.execute<{ left: boolean }>(sql`
          select exists (select from notika.lag where events_waiting > 0)
                 or exists (select from notika_worker._private_jobs) as left`);
        if (!left?.left) break;
        await sleep(100);
      }
      return compareRuns(database);
    },
    async close() {
      await runner.stop();
      await database.close();
    },
  };
}

/** The changes that a workflow is to hear of beside its events, row by row of the table, in order. */
async function compareOne(database: Database, workflow: Published) {
  const columns = workflow.columns ? sql`${workflow.columns}::text[]` : sql`null::text[]`;
  const watch = (workflow.watch ?? [])
    .map((column) => `c.old -> '${column}' is distinct from c.new -> '${column}'`)
    .join(" or ");
  const filter = [
    watch && `(c.operation <> 'update' or ${watch})`,
    workflow.expected &&
      `(${workflow.expected.replaceAll(/\bn\b(?= ->)/g, "c.new").replaceAll(/\bo\b(?= ->)/g, "c.old")})`,
  ].filter(Boolean);
  const rowKey = (row: string) =>
    `concat_ws('/', ${(workflow.key ?? ["id"]).map((column) => `${row} ->> '${column}'`).join(", ")})`;

  const pairs = await database.execute<{
    key: string;
    place: number;
    expected: string | null;
    captured: string | null;
  }>(sql`
    with expected as (
      select k.key, row_number() over (partition by k.key order by c.change_id) as place,
             concat_ws(' ', c.operation, coalesce(shadow.carried(c.old, c.types, ${columns})::text, 'null'),
                       coalesce(shadow.carried(c.new, c.types, ${columns})::text, 'null')) as what
        from shadow.change as c
       cross join lateral (select ${raw(rowKey("coalesce(c.new, c.old)"))}) as k (key)
       where c.table_name = ${workflow.table} and c.operation = any (${workflow.operations})
         and c.change_id > ${workflow.from}::bigint and c.change_id <= coalesce(${workflow.until ?? null}::bigint, c.change_id)
         and ${raw(filter.join(" and ") || "true")}
    ), captured as (
      select k.key, row_number() over (partition by k.key order by e.event_id) as place,
             concat_ws(' ', e.operation, coalesce(e.old::jsonb::text, 'null'), coalesce(e.new::jsonb::text, 'null')) as what
        from notika.event_log as e
       cross join lateral (select ${raw(rowKey("coalesce(e.new, e.old)::jsonb"))}) as k (key)
       where e.workflow = ${workflow.name}
    )
    select coalesce(e.key, c.key) as key, coalesce(e.place, c.place)::int as place, e.what as expected, c.what as captured
      from expected as e
      full join captured as c on c.key = e.key and c.place = e.place`);
  return {
    events: pairs.filter(({ captured }) => captured !== null).length,
    objections: pairs
      .filter(({ expected, captured }) => expected !== captured)
      .map(
        ({ key, place, expected, captured }) =>
          `${workflow.name}, row ${key}, change ${place}:\n  shadow ${expected}\n  event  ${captured}`,
      ),
  };
}

async function compareRuns(database: Database) {
  const rows = await database.execute<{ objection: string | null }>(sql`
    select case when e.event_id is null then format('run %s has no event', r.event_id)
                when r.event_id is null then format('event %s of %s did not run', e.event_id, e.workflow)
                when (r.workflow, r.operation) is distinct from (e.workflow, e.operation)
                  or r.new::jsonb is distinct from coalesce(e.new::jsonb, 'null')
                  or r.old::jsonb is distinct from coalesce(e.old::jsonb, 'null') then format('run %s was given another event', e.event_id)
                when count(*) over (partition by r.event_id) > 1 then format('event %s ran more than once', e.event_id)
           end as objection
      from shadow.run as r
      full join notika.event_log as e on e.event_id = r.event_id`);
  return { runs: rows.length, objections: rows.flatMap(({ objection }) => objection ?? []) };
}
