import { styleText } from "node:util";
import sql from "sql-template-tag";
import { type Command, output } from "./context.ts";
import { table } from "./table.ts";

interface Status {
  workflows: { workflow: string; table: string; operations: string; state: string; task: string }[];
  waiting: { events: string; oldest: string | null; ring: string; blocked_by: string[] | null };
  runners: { host: string; pid: number; tasks: number; seen: string }[];
  runs: { state: string; runs: string }[];
  failures: { run: string; workflow: string; attempts: number; finished: string; error: string }[];
}

const status = sql`
  select (
    select coalesce(json_agg(json_build_object(
             'workflow', w.workflow, 'table', w.table_name,
             'operations', array_to_string(w.operations, ' '), 'state', w.state,
             'task', case when exists (select from notika.runner as r where w.workflow = any (r.tasks))
                          then 'yes' else 'missing' end
           ) order by w.workflow), '[]')
      from notika.workflows as w
  ) as workflows, (
    select json_build_object(
             'events', l.events_waiting::text, 'oldest', date_trunc('second', now() - l.oldest_waiting)::text,
             'ring', pg_size_pretty(l.ring_bytes), 'blocked_by', l.blocked_by)
      from notika.lag as l
  ) as waiting, (
    select coalesce(json_agg(json_build_object(
             'host', r.host, 'pid', r.pid, 'tasks', cardinality(r.tasks),
             'seen', date_trunc('second', now() - r.seen_at)::text || ' ago'
           ) order by r.started_at), '[]')
      from notika.runner as r
  ) as runners, (
    select coalesce(json_agg(json_build_object('state', s.state, 'runs', s.runs::text) order by s.state), '[]')
      from (
        select r.state, count(*) as runs
          from notika.runs as r
         where r.finished_at is null or r.finished_at > now() - interval '1 hour'
         group by r.state
      ) as s
  ) as runs, (
    select coalesce(json_agg(json_build_object(
             'run', f.run_id::text, 'workflow', f.workflow, 'attempts', f.attempts,
             'finished', f.finished_at, 'error', f.error) order by f.finished_at desc), '[]')
      from (
        select * from notika.runs as r
         where r.state = 'failed' and r.finished_at > now() - interval '1 hour'
         order by r.finished_at desc
         limit 5
      ) as f
  ) as failures`;

export const command: Command = {
  async run(context) {
    const [found] = await context.database.execute<Status>(status);
    if (!found) throw new Error("status gave no row");
    output(context, found, () => screen(found));
    return 0;
  },
};

function screen({ workflows, waiting, runners, runs, failures }: Status): string {
  const section = (title: string, text: string) => `${styleText("bold", title)}\n${text}\n`;
  const rows = (items: Record<string, unknown>[], none: string) => (items.length > 0 ? table(items) : `${none}\n`);
  const lag =
    `${waiting.events} events wait${waiting.oldest ? `, the oldest for ${waiting.oldest}` : ""}; the ring has ${waiting.ring}\n` +
    (waiting.blocked_by ?? []).map((session) => `held up by ${session}\n`).join("");

  return [
    section("Workflows", rows(workflows, "none is published: notika publish, or select notika.publish(…)")),
    section("Hand-over", lag),
    section("Runners", rows(runners, "none is alive: notika run")),
    section("Runs of the last hour", rows(runs, "none")),
    ...(failures.length > 0 ? [section("Failures", table(failures))] : []),
  ].join("\n");
}
