import { styleText } from "node:util";
import sql from "sql-template-tag";
import { printable } from "../printable.ts";
import { type Command, defineCommand, jsonOption, urlOption } from "./support/command.ts";
import { output, table } from "./support/output.ts";

export const command: Command = defineCommand({
  options: { ...urlOption, ...jsonOption },
  role: "reader",
  async run({ values, database }) {
    const [found] = await database.execute<Status>(status);
    output(values.json, found as Status, screen);
    return 0;
  },
});

interface Status {
  workflows: {
    workflow: string;
    table: string;
    operations: string[];
    state: string;
    reason: string | null;
    task: "found" | "missing";
  }[];
  waiting: { events: number; seconds: number | null; ring_bytes: number; blocked_by: string[] };
  runners: { host: string; pid: number; tasks: string[]; silent_seconds: number }[];
  runs: Record<string, number>;
  health: { severity: string; finding: string; workflow: string | null; detail: string; remedy: string | null }[];
  failures: { run: string; workflow: string; attempts: number; seconds_ago: number; error: string }[];
}

// A runner without a heartbeat for a minute has lost its jobs to others, and does not count.
const status = sql`
  select (
    select coalesce(json_agg(json_build_object(
             'workflow', w.workflow, 'table', w.table_name, 'operations', w.operations,
             'state', w.state, 'reason', w.reason,
             'task', case when exists (
                       select from notika.runner as r
                        where split_part(w.workflow, ':', 1) = any (r.tasks) and r.seen_at > clock_timestamp() - interval '1 minute'
                     ) then 'found' else 'missing' end
           ) order by w.workflow), '[]')
      from notika.workflows as w
  ) as workflows, (
    select json_build_object(
             'events', l.events_waiting,
             'seconds', extract(epoch from clock_timestamp() - l.oldest_waiting)::integer,
             'ring_bytes', l.ring_bytes, 'blocked_by', coalesce(l.blocked_by, '{}'))
      from notika.lag as l
  ) as waiting, (
    select coalesce(json_agg(json_build_object(
             'host', r.host, 'pid', r.pid, 'tasks', r.tasks,
             'silent_seconds', extract(epoch from clock_timestamp() - r.seen_at)::integer
           ) order by r.started_at), '[]')
      from notika.runner as r
  ) as runners, (
    select coalesce(json_object_agg(s.state, s.runs order by s.state), '{}')
      from (
        select r.state, count(*) as runs
          from notika.runs as r
         where r.finished_at is null or r.finished_at > now() - interval '1 hour'
         group by r.state
      ) as s
  ) as runs, (
    select coalesce(json_agg(json_build_object(
             'severity', h.severity, 'finding', h.finding, 'workflow', h.workflow, 'detail', h.detail,
             'remedy', h.remedy
           )), '[]')
      from notika.health as h
     where h.severity <> 'ok' or h.finding = 'guard'
  ) as health, (
    select coalesce(json_agg(json_build_object(
             'run', f.run_id::text, 'workflow', f.workflow, 'attempts', f.attempts,
             'seconds_ago', extract(epoch from clock_timestamp() - f.finished_at)::integer, 'error', f.error
           ) order by f.finished_at desc), '[]')
      from (
        select * from notika.runs as r
         where r.state = 'failed' and r.finished_at > now() - interval '1 hour'
         order by r.finished_at desc
         limit 5
      ) as f
  ) as failures`;

function screen({ workflows, waiting, runners, runs, health, failures }: Status): string {
  const handOver = {
    waiting: waiting.events,
    oldest: waiting.seconds === null ? "" : age(waiting.seconds),
    ring: `${Math.ceil(waiting.ring_bytes / 1024)} kB`,
  };
  return [
    section(
      "Workflows",
      workflows.map((row) => ({ ...row, operations: row.operations.join(" ") })),
      "none: notika publish",
    ),
    section("Events", [handOver]) + waiting.blocked_by.map((session) => `held up by ${printable(session)}\n`).join(""),
    section(
      "Runners",
      runners.map(({ host, pid, tasks, silent_seconds }) => ({
        host,
        pid,
        tasks: tasks.length,
        heard: silent_seconds > 60 ? `nothing for ${age(silent_seconds)}` : `${age(silent_seconds)} ago`,
      })),
      "none is alive: notika run",
    ),
    section("Runs that have not ended, or ended in the last hour", Object.keys(runs).length > 0 ? [runs] : [], "none"),
    section("Health", health),
    section(
      "Failures of the last hour",
      failures.map(({ seconds_ago, error, ...row }) => ({ ...row, ended: `${age(seconds_ago)} ago`, error })),
      "none",
    ),
  ].join("\n");
}

function section(title: string, rows: object[], none = ""): string {
  return `${styleText("bold", title)}\n${rows.length > 0 ? table(rows) : `${none}\n`}`;
}

function age(seconds: number): string {
  if (seconds < 100) return `${seconds} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return seconds < 360_000 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}
