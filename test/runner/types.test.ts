import { describe, expect, expectTypeOf, test } from "vitest";
import { type Context, type Event, type Row, workflow } from "../../runner/index.ts";

interface User {
  id: string;
  email: string | null;
}

describe("workflow({ … }) knows from its operations", () => {
  test("that an insert has a new row, which is the default", () => {
    workflow({
      run({ event }) {
        expectTypeOf(event.new).toEqualTypeOf<Row>();
        expectTypeOf(event.old).toEqualTypeOf<null>();
      },
    });
    workflow({
      on: { table: "app.users", operations: ["insert"] },
      run({ event }) {
        expectTypeOf(event.new).toEqualTypeOf<Row>();
        expectTypeOf(event.old).toEqualTypeOf<null>();
        expectTypeOf(event.operation).toEqualTypeOf<"insert" | "emit" | "schedule" | "backfill" | "replay">();
      },
    });
  });

  test("that a delete has an old row", () => {
    workflow({
      on: { table: "app.users", operations: ["delete"] },
      run({ event }) {
        expectTypeOf(event.new).toEqualTypeOf<null>();
        expectTypeOf(event.old).toEqualTypeOf<Row>();
      },
    });
  });

  test("that all events of a run are alike", () => {
    workflow({
      on: { table: "app.users", operations: ["delete"] },
      digest: { by: ["id"], window: "1 hour" },
      run({ event, events }) {
        expectTypeOf(events).toEqualTypeOf<(typeof event)[]>();
      },
    });
  });

  test("that an update has both", () => {
    workflow({
      on: { table: "app.users", operations: ["update"], watch: ["email"] },
      run({ event }) {
        expectTypeOf(event.new).toEqualTypeOf<Row>();
        expectTypeOf(event.old).toEqualTypeOf<Row>();
      },
    });
  });

  test("that of several operations one may lack a row", () => {
    workflow({
      on: { table: "app.users", operations: ["insert", "update"] },
      run({ event }) {
        expectTypeOf(event.new).toEqualTypeOf<Row>();
        expectTypeOf(event.old).toEqualTypeOf<Row | null>();
      },
    });
    workflow({
      on: { table: "app.users", operations: ["insert", "update", "delete"] },
      run({ event }) {
        expectTypeOf(event.new).toEqualTypeOf<Row | null>();
        expectTypeOf(event.old).toEqualTypeOf<Row | null>();
      },
    });
  });

  test("and refuses others", () => {
    workflow({
      // @ts-expect-error: truncate has no rows
      on: { table: "app.users", operations: ["truncate"] },
      run() {},
    });
  });

  test("and that a table is needed", () => {
    const withoutTable = () =>
      workflow({
        // @ts-expect-error: where?
        on: { operations: ["insert"] },
        run() {},
      });

    expect(withoutTable).toThrow("workflow({ on }) has no table");
  });
});

describe("Context<User> types the rows", () => {
  test("of a workflow", () => {
    workflow({
      on: { table: "app.users", operations: ["insert"] },
      run({ event }: Context<User, "insert">) {
        expectTypeOf(event.new).toEqualTypeOf<User>();
        expectTypeOf(event.old).toEqualTypeOf<null>();
      },
    });
    workflow<User>({
      on: { table: "app.users" },
      run({ event }) {
        expectTypeOf(event.new).toEqualTypeOf<User>();
      },
    });
    workflow<User, "update">({
      on: { table: "app.users", operations: ["update"] },
      run({ event }) {
        expectTypeOf(event.old.email).toEqualTypeOf<string | null>();
      },
    });
  });

  test("of a plain function, which may get any operation", () => {
    const task = async ({ event }: Context<User>) => {
      expectTypeOf(event.new).toEqualTypeOf<User | null>();
      expectTypeOf(event.old).toEqualTypeOf<User | null>();
    };

    expectTypeOf(task).returns.resolves.toBeVoid();
  });

  test("and of what it queries", () => {
    workflow({
      async run({ query, event }) {
        const rows = await query<User>({ text: "", values: [event.id] } as never);
        expectTypeOf(rows).toEqualTypeOf<User[]>();
      },
    });
  });
});

describe("step.waitFor gives an event or null, its rows typed", () => {
  const change = { table: "app.users" };

  test("by the operations that it names", () => {
    workflow({
      async run({ step }) {
        const deleted = await step.waitFor<User, "delete">("gone", { ...change, operations: ["delete"] });
        expectTypeOf(deleted).toEqualTypeOf<Event<User, "delete"> | null>();
        const any = await step.waitFor("any", change, { timeout: "3 days" });
        expectTypeOf(any?.new).toEqualTypeOf<Row | null | undefined>();
        const inserted = await step.waitFor("new", { ...change, operations: ["insert"], match: { id: 7 } });
        expectTypeOf(inserted?.new).toEqualTypeOf<Row | undefined>();
      },
    });
  });

  test("and refuses what it cannot compare", () => {
    workflow({
      async run({ step }) {
        // @ts-expect-error: an event has a string for it
        await step.waitFor("any", { ...change, match: { at: new Date() } });
        // @ts-expect-error: where?
        await step.waitFor("any", {});
      },
    });
  });
});
