import { hostileStrings, hostileTexts, type Random } from "../../support/fuzzing.ts";

/** A call of a public function, as a client makes it. */
export interface Call {
  text: string;
  values: unknown[];
}

/** The tables of the fuzzed database, by their quoted names. */
export const tables = ["app.item", 'app."It""s $capture$ %s"', "app.parted", "app.child", "app.bare"];

/** A name that bears what would end a string, a name or the body of a function. */
export const oddColumn = `a$capture$;drop table canary;--'"%s`;

const columns = ["id", "note", "n", "doc", "at", "mood", oddColumn];
const workflows = ["w", "v", "Ship_it-2", "_", "w:cancel", "w:paid", "v:cancel"];

const publish = (random: Random): [string, unknown][] => {
  const name = workflow(random);
  const published = some(random, columns);
  return [
    ["workflow", name],
    ["table_name", random.chance(0.95) ? random.pick(tables) : text(random)],
    ["operations", random.chance(0.95) ? array(["update", ...some(random, ["insert", "delete"])]) : list(random)],
    ["columns", random.chance(0.3) ? null : random.chance(0.95) ? array(["id", ...published]) : list(random)],
    ["watch", random.chance(0.8) ? null : random.chance(0.8) ? array(some(random, columns)) : list(random)],
    ["condition", random.chance(0.6) ? null : condition(random)],
    ["guard", random.chance(0.98) ? random.pick(["block", "warn", "off"]) : text(random)],
    ["on_rename", random.chance(0.98) ? random.pick(["follow", "block"]) : text(random)],
    ["options", random.chance(0.8) ? null : options(random)],
    // Only a source has one, of its columns.
    [
      "match",
      random.chance(name?.includes(":") ? 0.2 : 0.9) ? null : array(random.some(3, () => matchOf(random, published))),
    ],
  ];
};

const functions: Record<string, (random: Random) => [string, unknown][]> = {
  publish,
  plan: publish,
  unpublish: (random) => [["workflow", workflow(random)]],
  configure: (random) => [
    ["workflow", workflow(random)],
    ["options", options(random)],
  ],
  emit: (random) => [
    ["workflow", workflow(random)],
    ["payload", json(random, 3)],
  ],
  backfill: (random) => [
    ["workflow", workflow(random)],
    ["condition", random.chance(0.6) ? null : condition(random)],
  ],
  cancel_backfill: (random) => [["workflow", workflow(random)]],
  replay: (random) => [
    ["workflow", workflow(random)],
    ["since", time(random)],
  ],
  pause: (random) => [["workflow", workflow(random)]],
  resume: (random) => [["workflow", workflow(random)]],
  schedule: (random) => [
    ["workflow", workflow(random)],
    ["cron", random.chance(0.6) ? cron(random) : text(random)],
    [
      "time_zone",
      random.chance(0.7) ? random.pick(["UTC", "Europe/Berlin", "posix/UTC", "+25", "EST5EDT,M3"]) : text(random),
    ],
    ["missed", random.chance(0.8) ? random.pick(["skip", "run", "all"]) : text(random)],
  ],
  unschedule: (random) => [["workflow", workflow(random)]],
  retry: (random) =>
    random.chance(0.5)
      ? [
          ["run_id", number(random)],
          ["from_start", random.pick([true, false, null])],
        ]
      : [
          ["workflow", workflow(random)],
          ["since", time(random)],
        ],
  cancel: (random) => [["run_id", number(random)]],
  history: (random) => [
    ["workflow", random.chance(0.5) ? null : workflow(random)],
    ["state", random.chance(0.5) ? null : random.pick(["failed", "done", "ready", text(random)])],
    ["since", random.chance(0.5) ? null : time(random)],
    ["table_name", random.chance(0.5) ? null : random.chance(0.7) ? random.pick(tables) : text(random)],
    ["key", random.chance(0.5) ? null : json(random, 2)],
    ["max_runs", random.chance(0.5) ? 100 : Number(random.pick(["0", "-1", "2147483647"]))],
    ["only_ended", random.pick([true, false, null])],
  ],
  timeline: (random) => [["run_id", number(random)]],
  allow_breaking_change: (random) => [
    ["workflow", workflow(random)],
    ["reason", text(random)],
  ],
  release: (random) => [
    ["workflow", workflow(random)],
    ["reason", text(random)],
  ],
  begin_maintenance: (random) => [
    ["reason", text(random)],
    ["ttl", random.pick(["15 minutes", "-1 day", "0", "178000000 years", null])],
  ],
  end_maintenance: () => [],
  check: () => [],
  dispatch: (random) => [["max_events", random.pick([null, 0, -1, 1, 2147483647, 1000])]],
  check_ddl: (random) => [
    ["sql", `${random.pick(["alter table app.item ", "select ", "", "create "])}${text(random)}`],
  ],
};

const types: Record<string, string> = {
  operations: "text[]",
  columns: "text[]",
  watch: "text[]",
  match: "text[]",
  options: "jsonb",
  payload: "jsonb",
  key: "jsonb",
  since: "timestamptz",
  run_id: "bigint",
  from_start: "boolean",
  only_ended: "boolean",
  max_runs: "integer",
  max_events: "integer",
  ttl: "interval",
};

/** Publishing is what there is most of: the rest needs something published. */
export function randomCall(random: Random): Call {
  const name = random.chance(0.5) ? "publish" : random.pick(Object.keys(functions));
  const given = functions[name]?.(random) ?? [];
  const list = given.map(([argument], i) => `${argument} => $${i + 1}::${types[argument] ?? "text"}`);
  return { text: `select * from notika.${name}(${list})`, values: given.map(([, value]) => value) };
}

function workflow(random: Random) {
  return random.chance(0.9) ? random.pick(workflows) : random.chance(0.1) ? null : text(random);
}

/** Some text, mostly with something in it that does not belong there. */
function text(random: Random): string | null {
  if (random.chance(0.05)) return null;
  return [random.pick(["", "a", "app.item", "id"]), ...random.some(3, () => random.pick(hostileTexts))].join("");
}

/** Some of these, in any order, one perhaps twice. */
const some = <T>(random: Random, from: readonly T[]) => random.some(from.length, () => random.pick(from));

const list = (random: Random) =>
  random.chance(0.2)
    ? random.pick([
        "{}",
        "{NULL}",
        "{{id,note},{n,id}}",
        "[0:1]={insert,update}",
        "[-3:-2]={id,n}",
        "{{insert},{update}}",
      ])
    : array(random.some(4, () => text(random)));

/** An array as Postgres reads it. */
function array(values: (string | null)[]) {
  const element = (value: string | null) =>
    value === null ? "NULL" : `"${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
  return `{${values.map(element)}}`;
}

const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

function matchOf(random: Random, published: string[]) {
  const column = random.pick(random.chance(0.8) && published.length > 0 ? published : [...columns, "nothing"]);
  return random.chance(0.8) ? column : `${column}${random.pick(["=", " = ", "=="])}${random.pick(columns)}`;
}

/** An expression, mostly one that Postgres takes. */
function condition(random: Random): string {
  const whole = expression(random, 3);
  if (random.chance(0.6)) return whole;
  const at = random.below(whole.length + 1);
  return whole.slice(0, at) + random.pick(hostileTexts) + whole.slice(random.chance(0.5) ? at : at + random.below(4));
}

function expression(random: Random, depth: number): string {
  const row = random.pick(["new", "new", "new", "old"]);
  const column = `${row}.${quoted(random.pick(columns))}`;
  if (depth === 0 || random.chance(0.4)) {
    return random.pick([
      `${column} is not null`,
      `${row}.note = ${literal(random)}`,
      `${row}.n > 1`,
      `lower(${row}.note) like ${literal(random)}`,
      `${row} is distinct from old`,
      `${row}.note ~ '['`,
      `${row}.note::int > 1`,
      `${row}.mood = 'a'`,
      `app.is_fine(${row}.n)`,
      `(select true)`,
      `count(*) > 1`,
      `row_number() over () = 1`,
      `generate_series(1, 2) = 1`,
      `exists (select from app.secret where secret like 'a%')`,
      `$1 = 1`,
      `${row}.doc ->> 'a' = ${literal(random)}`,
      `jsonb_path_exists(to_jsonb(${row}), '$.a[*] ? (@ > 1)')`,
      `${row}.id in (1, 2, null)`,
      `${row}.nothing = 1`,
      `1`,
      `null`,
      `current_user = 'eve'`,
      `nextval('app.counter') > 0`,
      `pg_sleep(0) is null`,
      `xmlserialize(content xmlparse(content ${literal(random)}) as text) = ''`,
      `array[${row}.n] && array[1, 2]`,
      `(${row}.*) is not null`,
      `${row}.note collate "C" < 'x'`,
      `${row}.at at time zone 'UTC' > '2020-01-01'`,
    ]);
  }
  return random.pick([
    `(${expression(random, depth - 1)}) and (${expression(random, depth - 1)})`,
    `${expression(random, depth - 1)} or ${expression(random, depth - 1)}`,
    `not (${expression(random, depth - 1)})`,
    `case when ${expression(random, depth - 1)} then true else ${expression(random, depth - 1)} end`,
    `coalesce(${expression(random, depth - 1)}, false)`,
  ]);
}

const literal = (random: Random) =>
  `${random.pick(["", "", "", "E", "U&", "N", "B"])}'${random.pick(hostileStrings).replaceAll("'", "''")}'`;

function options(random: Random): string {
  if (random.chance(0.2)) return json(random, 2) ?? "null";
  const by = () =>
    random.pick<unknown>(["id", ["id"], ["id", "note"], [], {}, null, 1, oddColumn, random.pick(hostileStrings)]);
  const span = () =>
    random.pick<unknown>([
      "1 minute",
      "1 hour",
      "-1 day",
      "infinity",
      "1e9 years",
      "",
      "1",
      5,
      null,
      { a: 1 },
      "P1D",
      "P99999999Y",
    ]);
  const count = () => random.pick<unknown>([1, 5, 0, -1, 1.5, 1e30, "5", null, 10000, 10001, true]);
  const gather = () => ({
    ...(random.chance(0.7) && { by: by() }),
    ...(random.chance(0.8) && { window: span() }),
    ...(random.chance(0.5) && { max: random.chance(0.5) ? count() : span() }),
    ...(random.chance(0.1) && { other: 1 }),
  });
  return JSON.stringify({
    ...(random.chance(0.4) && { key: by() }),
    ...(random.chance(0.4) && { order: by() }),
    ...(random.chance(0.4) && { concurrency: count() }),
    ...(random.chance(0.2) && { priority: count() }),
    ...(random.chance(0.3) && { debounce: random.chance(0.9) ? gather() : count() }),
    ...(random.chance(0.3) && { digest: random.chance(0.9) ? gather() : span() }),
    ...(random.chance(0.2) && {
      schedule: { cron: cron(random), ...(random.chance(0.3) && { timeZone: by(), missed: span() }) },
    }),
    ...(random.chance(0.05) && { [random.pick(hostileStrings)]: 1 }),
  });
}

function cron(random: Random) {
  const field = () =>
    random.pick(["*", "*/5", "1-5", "0", "59", "60", "-1", "1,2", "JAN", "mon-fri", "L", "?", "1/0", "*/0", "5-1", ""]);
  return random.chance(0.8)
    ? [field(), field(), field(), field(), field()].join(" ")
    : random.pick(["@daily", "@every 1s", "* * * *", "* * * * * *"]);
}

function json(random: Random, depth: number): string | null {
  if (random.chance(0.05)) return null;
  return JSON.stringify(value(random, depth));
}

function value(random: Random, depth: number): unknown {
  if (depth === 0 || random.chance(0.4)) {
    return random.pick<unknown>([null, true, 0, -1.5, 1e300, "id", random.pick(hostileStrings)]);
  }
  return random.chance(0.5)
    ? random.some(3, () => value(random, depth - 1))
    : Object.fromEntries(random.some(3, () => [random.pick([...columns, ""]), value(random, depth - 1)]));
}

const time = (random: Random) =>
  random.pick([null, "infinity", "-infinity", "4713-01-01 BC", "294276-12-31", "2026-01-01", "2000-01-01 00:00+14"]);

const number = (random: Random) =>
  random.pick([null, "0", "1", "-1", "9223372036854775807", "-9223372036854775808", "7"]);
