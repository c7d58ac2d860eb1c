import { describe, expect } from "vitest";
import { test } from "../support/database.ts";

const published = `
  create table public.items (id int);
  select notika.publish('work', 'public.items');`;
const jobs = `
  select key::int as run, t.identifier as workflow
    from notika_worker._private_jobs as j
    join notika_worker._private_tasks as t on t.id = j.task_id
   order by j.priority, j.run_at`;

describe("hand-over", () => {
  test("puts the runs of each workflow, with options or without, into the order of their events", async ({ db }) => {
    await db.script(`
      ${published}
      select notika.publish('once', 'public.items');
      select notika.configure('once', '{"key": ["id"]}');
      insert into public.items values (1), (2), (2), (3)`);
    const events = await db.query(
      "select event_id::int as run, workflow from notika.event_log where event_id <> 6 order by event_id",
    );

    await db.query("select notika.dispatch()");

    expect(await db.query("select run_id::int as run, error from notika.runs where state = 'cancelled'")).toEqual([
      { run: 6, error: "run 4 has the same key" },
    ]);
    const of = (rows: object[], workflow: string) =>
      rows.filter((row) => "workflow" in row && row.workflow === workflow);
    const waiting = await db.query(jobs);
    for (const workflow of ["work", "once"]) expect(of(waiting, workflow)).toEqual(of(events, workflow));
  });

  test("leaves a job alone that has the id of a run, and makes those of the others", async ({ db }) => {
    await db.script(`${published} insert into public.items values (1), (2), (3)`);
    await db.query("select notika_worker.add_job('work', '{}', job_key => '2', run_at => '2001-01-01')");

    await db.query("select notika.dispatch()");

    expect(await db.query(jobs)).toEqual([2, 1, 3].map((run) => ({ run, workflow: "work" })));
  });

  test("makes one run of an id that was given twice", async ({ db }) => {
    await db.script(`${published} insert into public.items values (1), (2)`);
    await db.script("select setval('notika.event_id_seq', 1); insert into public.items values (3), (4)");

    await db.query("select notika.dispatch()");

    expect(await db.query(jobs)).toEqual([1, 2, 3].map((run) => ({ run, workflow: "work" })));
  });

  test("writes an event as json, whatever its table is called", async ({ db }) => {
    await db.script(`
      create table public."50% ""off"" \\" (id int, note json);
      select notika.publish('work', 'public."50% ""off"" \\"', columns => '{id,note}');
      insert into public."50% ""off"" \\" values (1, '{"a":  "%s\\u0000"}')`);

    await db.query("select notika.dispatch()");

    const [run] = await db.query(`
      select regexp_replace(event::text, '\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{6}Z', 'then') as event
        from notika.runs`);
    expect(run).toEqual({
      event:
        '{"id" : "1", "workflow" : "work", "operation" : "insert", "table" : "public.\\"50% \\"\\"off\\"\\" \\\\\\"", ' +
        '"at" : "then", "new" : {"id" : 1, "note" : {"a":  "%s\\u0000"}}, "old" : null, "truncated" : false, "depth" : 0}',
    });
  });
});
