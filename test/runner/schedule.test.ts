import { describe, expect, test } from "vitest";
import { createTestNotika } from "../../runner/testing/index.ts";
import { asWorkflow, workflow } from "../../runner/workflow.ts";

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

  test("says what is wrong with it", () => {
    const run = () => {};
    expect(() => asWorkflow({ schedule: "@daily", run })).toThrow(
      'schedule must be an object such as { cron: "30 2 * * *", timeZone: "Europe/Berlin" }',
    );
  });
});
