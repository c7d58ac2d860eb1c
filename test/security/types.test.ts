import { describe, expect } from "vitest";
import { keepWatch, plant, type Step } from "./attack.ts";
import { casts } from "./canary.ts";
import { hasTime, type Scene, some, test } from "./scene.ts";

/** Types that a table's owner may give his columns, and three values of each. */
const disguises: Record<string, readonly [string, string, string]> = {
  "evil.e": ["a", "b", "c"],
  "evil.e[]": ["{a}", "{b}", "{c}"],
  "evil.de": ["a", "b", "c"],
  "evil.ce": ["(a)", "(b)", "(c)"],
  "evil.ce[]": ['{"(a)"}', '{"(b)"}', '{"(c)"}'],
  "evil.er": ["[a,b)", "[b,c)", "[a,c)"],
};

/** When the hostile part comes: before a table is published, or after. */
const moments = ["before", "type after", "casts after"] as const;

/** The ways to publish it, each of which makes code of its own. */
const forms = {
  "row, key not published": "operations => '{insert,update,delete}', columns => '{note}'",
  "row, all published": "operations => '{insert,update,delete}', columns => '{k,c,note}'",
  "row, condition": "operations => '{insert,update}', columns => '{note}', condition => 'new.note is not null'",
  watch: "operations => '{insert,update}', columns => '{note}', watch => '{c}'",
  statement: "operations => '{insert}', columns => '{note}'",
  "statement, all published": "operations => '{delete}', columns => '{k,c,note}'",
  whole: "operations => '{insert,update,delete}', columns => null",
  "whole, watch": "operations => '{update}', columns => null, watch => '{c}'",
  unguarded: "operations => '{insert,update,delete}', columns => '{note}', guard => 'off'",
  "unguarded, all published": "operations => '{insert,update,delete}', columns => '{k,c,note}', guard => 'off'",
};

const writes = ([a, b, c]: readonly [string, string, string]) => [
  `insert into app.t values ('${a}', '${a}', 'x'), ('${b}', '${b}', 'y')`,
  `insert into app.t values ('${c}', '${c}', repeat('x', 1100000))`,
  `update app.t set note = note || '!', c = '${a}'`,
  `delete from app.t where note like 'xxx%'`,
];

describe("S2, S3: no cast of a column's type runs with Notika's rights", () => {
  let nth = 0;
  for (const [type, values] of Object.entries(disguises)) {
    for (const moment of moments) {
      nth += 1;
      if (type !== "evil.e" && !(hasTime(nth) && hasTime(nth >> 1))) continue;
      for (const kind of some(nth)) {
        test(`${type}, ${moment} (by ${kind})`, async ({ open }) => {
          const scene = await open(kind);
          await plant(scene, "appowner");
          const watch = await keepWatch(scene, { attacker: "appowner" });
          if (moment !== "casts after") await scene.as("appowner", casts("evil"));

          for (const [form, options] of Object.entries(forms)) {
            for (const step of await steps(scene, { type, values, moment, options })) {
              await watch.attempt(step, `${form}, ${step.join(": ")}`);
            }
          }
          expect(watch.wrong).toEqual([]);
        });
      }
    }
  }
});

interface Trial {
  type: string;
  values: readonly [string, string, string];
  moment: (typeof moments)[number];
  options: string;
}

/** Publishes a table, makes it hostile, and gives what sets it off. */
async function steps(scene: Scene, { type, values, moment, options }: Trial): Promise<Step[]> {
  const first = moment === "type after" ? "text" : type;
  await scene.as("appowner", "drop table if exists app.t");
  await scene.as(
    "appowner",
    `create table app.t (k ${first} primary key, c ${first}, note text);
     grant insert, update, delete, select on app.t to appwriter`,
  );
  await scene.as("postgres", `select notika.publish('w', 'app.t', ${options})`);
  if (moment === "casts after") await scene.attempt("appowner", casts("evil"));
  if (moment === "type after") {
    await scene.attempt("appowner", `alter table app.t alter k type ${type} using null`);
    await scene.attempt("appowner", `alter table app.t alter c type ${type} using null`);
  }
  return [
    ...writes(values).map((write): Step => ["appwriter", write]),
    ["runnerrole", "select notika.backfill('w')"],
    ...[1, 2, 3, 4].map((): Step => ["runnerrole", "select notika.dispatch(1)"]),
    ["postgres", "select * from notika.check()"],
    ["postgres", "select notika.unpublish('w')"],
  ];
}
