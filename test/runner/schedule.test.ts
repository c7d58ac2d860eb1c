import { describe, expect, test } from "vitest";
import type { Execute } from "../../runner/database/statements.ts";
import { plan, publications, publish } from "../../runner/install/publish.ts";
import { createTestNotika } from "../../runner/testing/index.ts";
import { toTasks } from "../../runner/workflow/load.ts";
import { asWorkflow, workflow } from "../../runner/workflow/workflow.ts";

describe("a task with a schedule", () => {
  test("runs at each of its times, on its clock, without a table", async () => {
    const times: string[] = [];
    const report = workflow({
      schedule: { cron: "30 2 * * *", timeZone: "America/New_York" },
      async run({ event }) {
        times.push(event.new.planned_at);
      },
    });
    await using t = await createTestNotika({ tasks: { report } });

    await t.advance("3 days");

    expect(times).toHaveLength(3);
    expect(await t.runs()).toMatchObject(
      times.map((planned_at) => ({
        workflow: "report",
        state: "done",
        event: { operation: "schedule", table: null, new: { planned_at } },
      })),
    );
    const late = (await t.runs()).map(({ event }) => Date.parse(event.at) - Date.parse(event.new?.planned_at));
    for (const ms of late) expect(ms).toBeLessThan(1000);
  });

  test("stops when its code has none any more", async () => {
    let runs = 0;
    const run = async () => void runs++;
    const schema = "create table public.items (id int)";
    const on = { table: "public.items" };
    await using t = await createTestNotika({ schema, tasks: { work: { on, schedule: { cron: "@daily" }, run } } });
    await t.advance("2 days");
    expect(runs).toBe(2);

    await t.upgrade({ work: { on, run } });
    await t.advance("2 days");

    expect(runs).toBe(2);
    expect(await t.sql`select * from notika.schedules`).toEqual([]);
  });

  test("is planned and published like others, with its other options", async () => {
    await using t = await createTestNotika({ tasks: { other: async () => {} } });
    const execute: Execute = ({ strings, values }) => t.sql(strings as unknown as TemplateStringsArray, ...values);
    const [report] = publications(
      await toTasks({ report: { schedule: { cron: "@daily", timeZone: "Asia/Tokyo" }, concurrency: 2, run() {} } }),
    );
    if (!report) throw new Error("nothing is to be published");

    expect(await plan(execute, report)).toEqual([
      { statement: "select notika.schedule('report', '@daily', 'Asia/Tokyo', 'skip');", lock: null },
      {
        statement:
          "select notika.configure('report', " +
          `'{"schedule": {"cron": "@daily", "missed": "skip", "timeZone": "Asia/Tokyo"}, "concurrency": 2}');`,
        lock: null,
      },
    ]);
    expect([await publish(execute, report), await publish(execute, report)]).toEqual(["published", "unchanged"]);
    expect(await plan(execute, report)).toEqual([]);
    expect(await plan(execute, { ...report, options: { ...report.options, concurrency: 3 } })).toEqual([
      { statement: expect.stringMatching(/^select notika.configure\('report', .*"concurrency": 3\}'\);$/), lock: null },
    ]);
    expect(await t.sql`select workflow, table_name, options from notika.workflows`).toEqual([
      {
        workflow: "report",
        table_name: null,
        options: { concurrency: 2, schedule: { cron: "@daily", timeZone: "Asia/Tokyo", missed: "skip" } },
      },
    ]);
  });

  test("says what is wrong with it", () => {
    const run = () => {};
    expect(() => asWorkflow({ schedule: "@daily", run })).toThrow(
      'schedule must be an object such as { cron: "30 2 * * *", timeZone: "Europe/Berlin" }',
    );
  });
});
