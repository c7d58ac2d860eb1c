import { describe, expect } from "vitest";
import { keepWatch, plant } from "./attack.ts";
import { kit } from "./canary.ts";
import { literals, tagged, untyped } from "./literals.ts";
import { hasTime, isSince, type Scene, some, test } from "./scene.ts";

// Parsing a literal calls the input function of its type, and with it the checks of domains.
const calls = {
  publish: (condition: string) =>
    `select notika.publish('w', 'app.tagged', columns => '{id}', condition => ${quoted(condition)})`,
  plan: (condition: string) =>
    `select * from notika.plan('w', 'app.tagged', columns => '{id}', condition => ${quoted(condition)})`,
  backfill: (condition: string) => `select notika.backfill('honest', condition => ${quoted(condition)})`,
};

interface Case {
  name: string;
  attacker: string;
  /** Who asks for it: the attacker himself, or somebody who knows nothing. */
  caller: string;
  calls: (keyof typeof calls)[];
  conditions: readonly string[];
}

const all = [...literals("evil"), ...untyped];
const temporary = [...literals("pg_temp"), ...untyped];
const cases: Case[] = [
  { name: "S1", attacker: "pub", caller: "pub", calls: ["publish", "plan"], conditions: all },
  { name: "S1 pg_temp", attacker: "pub", caller: "pub", calls: ["publish", "plan"], conditions: temporary },
  { name: "S1", attacker: "runnerrole", caller: "runnerrole", calls: ["backfill"], conditions: all },
  { name: "S1 pg_temp", attacker: "runnerrole", caller: "runnerrole", calls: ["backfill"], conditions: temporary },
  ...["pub", "postgres", "owner", "dbowner"].map(
    (caller): Case => ({ name: "S19", attacker: "appowner", caller, calls: ["publish", "plan"], conditions: all }),
  ),
  ...["runnerrole", "postgres", "owner"].map(
    (caller): Case => ({ name: "S19", attacker: "appowner", caller, calls: ["backfill"], conditions: all }),
  ),
];

describe("a condition is parsed with the rights of nobody but its author", () => {
  for (const [i, it] of cases.entries()) {
    if (!hasTime(i)) continue;
    for (const kind of some(i)) {
      test(`${it.name}: of types of ${it.attacker}, ${it.calls} by ${it.caller} (by ${kind})`, async ({ open }) => {
        const scene = await open(kind);
        await prepare(scene, it);

        expect(await ran(scene, it)).toEqual([]);
      });
    }
  }
});

async function prepare(scene: Scene, { attacker, conditions }: Case) {
  const schema = conditions === temporary ? "pg_temp" : "evil";
  await plant(scene, attacker);
  if (schema === "pg_temp") await scene.as(attacker, kit(schema));
  // The columns are of the attacker's types, too.
  await scene.as("appowner", tagged("evil"));
  await scene.as("postgres", "select notika.grant_publisher('dbowner'); grant appowner to dbowner");
  await scene.as("postgres", "select notika.publish('honest', 'app.tagged', columns => '{id}')");
}

/** The conditions that have run the canary, with the role, and those that fail for another reason. */
async function ran(scene: Scene, it: Case) {
  const watch = await keepWatch(scene, it);
  for (const call of it.calls) {
    for (const condition of it.conditions) {
      const refusal = await watch.attempt([it.caller, calls[call](condition)], `${call} ${condition}`);
      if (!refusal) await scene.attempt("postgres", undo[call]);
    }
  }
  return watch.wrong;
}

const undo = {
  publish: "select notika.unpublish('w')",
  plan: "select",
  backfill: "select notika.cancel_backfill('honest')",
};

const quoted = (text: string) => `$condition$${text}$condition$`;

/** What runs a backfill's condition are the rights of Notika's owner, so it may call nothing of others. */
const expressions = [
  `json_populate_record(null::evil.c, new.raw) is not null`,
  `json_populate_record(null::evil.cc, '{"y": {"x": 1}}') is not null`,
  `jsonb_populate_record(null::evil.cr, '{"y": ["1"]}') is not null`,
  `jsonb_populate_record(null::app.acct, '{"mail": "x"}') is not null`,
  `json_populate_record(null::app.acct, new.raw) is not null`,
  `json_populate_record(null::app.nested, '{"accounts": [{"mail": "x"}]}') is not null`,
  `row(1, new.note)::app.acct is not null`,
  `array[row(1, new.note)::app.acct] is not null`,
  `new.note::evil.d is not null`,
  `array[new.note]::evil.d[] is not null`,
  `row(new.note)::evil.c is not null`,
  `new.note operator(evil.===) 'x'`,
  `evil.note(new.note)`,
  `table_to_xml('evil.v', true, true, '') is not null`,
  `table_to_xml(('evil.' || 'v')::regclass, true, true, '') is not null`,
  `query_to_xml('select evil.note(null)', true, true, '') is not null`,
  `schema_to_xml('evil', true, true, '') is not null`,
  `cursor_to_xml('c', 1, true, true, '') is not null`,
  `ts_rewrite('a'::tsquery, 'select ''a''::tsquery, ''b''::tsquery where evil.note(null)') is not null`,
  `set_config('search_path', 'evil', false) is not null`,
  `lo_import('/etc/hostname') > 0`,
  `pg_read_file('/etc/hostname') is not null`,
  ...(isSince(16) ? [`pg_input_is_valid('{1}', 'evil.d[]')`, `pg_input_is_valid(new.note, 'evil.' || 'd')`] : []),
  ...(isSince(17) ? [`json_value('"1"', '$' returning evil.d) is not null`] : []),
];

describe("S5: what belongs to others runs in no backfill", () => {
  for (const [i, caller] of ["runnerrole", "postgres"].entries()) {
    for (const kind of some(i)) {
      test(`however deep it is, asked for by ${caller} (by ${kind})`, async ({ open }) => {
        const scene = await open(kind);
        await plant(scene, "appowner");
        await scene.as("appowner", "create view evil.v as select evil.note('x'); grant select on evil.v to public");
        await scene.as(
          "postgres",
          `create table app.acct (id int, mail evil.d);
           create type app.nested as (accounts app.acct[]);
           grant usage on schema evil to public`,
        );
        await scene.as(
          "appowner",
          `create table app.raws (id bigint primary key, note text, raw json);
           insert into app.raws values (1, 'x', '{"x": "1", "mail": "x"}'), (2, 'y', '{}'); grant select on app.raws to public`,
        );
        await scene.as("postgres", "select notika.publish('honest', 'app.raws', columns => '{id}')");

        const watch = await keepWatch(scene, { attacker: "appowner" });
        for (const condition of expressions) {
          if (await watch.attempt([caller, calls.backfill(condition)], condition)) continue;
          for (let i = 0; i < 3; i++) await watch.attempt(["runnerrole", "select notika.dispatch()"], condition);
          await scene.attempt("postgres", undo.backfill);
        }
        expect(watch.wrong).toEqual([]);
      });
    }
  }
});
