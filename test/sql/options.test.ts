import { describe, expect } from "vitest";
import { test } from "../support/database.ts";

const published = `
  create table public.orders (id bigint, customer_id int, note text);
  select notika.publish('ship', 'public.orders', columns => '{id,customer_id}');`;
const options = "select options from notika.workflows";
const example = (text: string) => `For example: select notika.configure('ship', '${text}');`;

const refused: [given: string, message: string, detail: string, hint: string][] = [
  ["[]", 'options of workflow "ship" are not an object', "They are [].", example('{"concurrency": 5}')],
  [
    '{"concurency": 5}',
    'workflow "ship" has no option "concurency"',
    "The options are key, concurrency, order, debounce, digest, schedule, truncate and priority.",
    example('{"concurrency": 5}'),
  ],
  ['{"key": 5}', 'key of workflow "ship" is not a column or a list of columns', "It is 5.", example('{"key": "id"}')],
  ['{"key": []}', 'key of workflow "ship" is not a column or a list of columns', "It is [].", example('{"key": "id"}')],
  [
    '{"order": ["id", "note"]}',
    'order of workflow "ship" names "note", which its events do not carry',
    "They carry id, customer_id.",
    example('{"order": "id"}'),
  ],
  [
    '{"concurrency": 0}',
    'concurrency of workflow "ship" is not a whole number from 1 to 10000',
    "It is 0.",
    example('{"concurrency": 5}'),
  ],
  [
    '{"concurrency": "many"}',
    'concurrency of workflow "ship" is not a whole number from 1 to 10000',
    'It is "many".',
    example('{"concurrency": 5}'),
  ],
  [
    '{"digest": "1 hour"}',
    'digest of workflow "ship" is not an object with by, window and max',
    'It is "1 hour".',
    example('{"digest": {"by": "id", "max": 100, "window": "5 minutes"}}'),
  ],
  [
    '{"digest": {"window": "1 hour", "maximum": 5}}',
    'digest of workflow "ship" has no setting "maximum"',
    "Its settings are by, window and max.",
    example('{"digest": {"by": "id", "max": 100, "window": "5 minutes"}}'),
  ],
  [
    '{"digest": {"by": "id"}}',
    'digest.window of workflow "ship" is not an interval of up to a year',
    "It is missing.",
    example('{"digest": {"by": "id", "max": 100, "window": "5 minutes"}}'),
  ],
  [
    '{"debounce": {"window": "soon"}}',
    'debounce.window of workflow "ship" is not an interval of up to a year',
    'It is "soon".',
    example('{"debounce": {"by": "id", "max": "1 hour", "window": "5 minutes"}}'),
  ],
  [
    '{"debounce": {"window": "2 years"}}',
    'debounce.window of workflow "ship" is not an interval of up to a year',
    'It is "2 years".',
    example('{"debounce": {"by": "id", "max": "1 hour", "window": "5 minutes"}}'),
  ],
  [
    '{"debounce": {"window": "1 hour", "max": "1 minute"}}',
    'debounce.max of workflow "ship" is shorter than its window',
    "After max the run starts, even while events still come.",
    example('{"debounce": {"by": "id", "max": "1 hour", "window": "5 minutes"}}'),
  ],
  [
    '{"digest": {"window": "1 hour", "max": 20000}}',
    'digest.max of workflow "ship" is not a whole number from 1 to 10000',
    "It is 20000.",
    example('{"digest": {"by": "id", "max": 100, "window": "5 minutes"}}'),
  ],
  [
    '{"digest": {"window": "1 hour"}, "debounce": {"window": "1 hour"}}',
    'debounce of workflow "ship" excludes its digest',
    "Both collect events into one run: debounce until no more come, digest for a fixed time.",
    example('{"digest": {"window": "1 hour"}}'),
  ],
  [
    '{"digest": {"by": "id", "window": "1 hour"}, "order": "customer_id"}',
    'order of workflow "ship" has columns that digest.by has not',
    "One run gets all events of its digest, which must be of one order.",
    example('{"order": ["customer_id"], "digest": {"by": ["customer_id"], "window": "1 hour"}}'),
  ],
];

describe("configure", () => {
  test("keeps options as they are understood, and says whether they changed", async ({ db }) => {
    await db.script(published);
    const configure = (given: object) =>
      db.query("select notika.configure('ship', $1::text::jsonb) as outcome", [JSON.stringify(given)]);

    const all = { key: "id", concurrency: 5, order: ["customer_id"], digest: { by: "customer_id", window: "1 h" } };
    expect(await configure(all)).toEqual([{ outcome: "changed" }]);
    expect(await configure({ ...all, order: "customer_id", debounce: null })).toEqual([{ outcome: "unchanged" }]);

    expect(await db.query(options)).toEqual([
      {
        options: {
          key: ["id"],
          concurrency: 5,
          order: ["customer_id"],
          digest: { by: ["customer_id"], window: "1 h" },
        },
      },
    ]);
    expect(await configure({})).toEqual([{ outcome: "changed" }]);
    expect(await db.query(options)).toEqual([{ options: {} }]);
  });

  test("refuses what makes no sense, and says what would", async ({ db }) => {
    await db.script(published);

    for (const [given, message, detail, hint] of refused) {
      await expect(db.query("select notika.configure('ship', $1::text::jsonb)", [given])).rejects.toMatchObject({
        message,
        detail,
        hint,
      });
      const [, call = ""] = /example: (.*)/.exec(hint) ?? [];
      expect(await db.query(call)).toHaveLength(1); // it is right itself
    }
  });

  test("refuses a workflow that is not published", async ({ db }) => {
    await expect(db.query(`select notika.configure('ship', '{}')`)).rejects.toMatchObject({
      code: "42704",
      message: 'workflow "ship" is not published',
    });
  });
});

describe("publish", () => {
  const publish = (columns: string, options?: string) =>
    `select notika.publish('ship', 'public.orders', columns => '${columns}'${options ? `, options => '${options}'` : ""})
       as outcome`;

  test("sets options, leaves them when it is given none, and changes nothing the second time", async ({ db }) => {
    await db.script("create table public.orders (id bigint, customer_id int)");

    expect(await db.query(publish("{id}", '{"concurrency": 2}'))).toEqual([{ outcome: "published" }]);
    expect(await db.query(publish("{id}", '{"concurrency": 2}'))).toEqual([{ outcome: "unchanged" }]);
    expect(await db.query(publish("{id}"))).toEqual([{ outcome: "unchanged" }]);
    expect(await db.query(options)).toEqual([{ options: { concurrency: 2 } }]);
    expect(await db.query(publish("{id}", '{"concurrency": 3}'))).toEqual([{ outcome: "changed" }]);
    expect(await db.query(options)).toEqual([{ options: { concurrency: 3 } }]);
  });

  test("changes columns and the options that name them together, and refuses one without the other", async ({ db }) => {
    await db.script(published);
    await db.query(publish("{id,customer_id}", '{"order": "customer_id"}'));

    await expect(db.query(publish("{id}"))).rejects.toMatchObject({
      code: "42703",
      message: 'order of workflow "ship" names "customer_id", which its events do not carry',
    });
    expect(await db.query(publish("{id}", '{"order": "id"}'))).toEqual([{ outcome: "changed" }]);
  });

  test("is announced by plan", async ({ db }) => {
    await db.script(published);
    const plan = (options: string) =>
      db.query(
        `select * from notika.plan('ship', 'public.orders', columns => '{id,customer_id}', options => $1::text::jsonb)`,
        [options],
      );

    expect(await plan('{"key": "id"}')).toEqual([
      { statement: `select notika.configure('ship', '{"key": ["id"]}');`, lock: null },
    ]);
    expect(await plan("{}")).toEqual([]);
  });
});
