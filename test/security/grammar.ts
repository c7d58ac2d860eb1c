import type { Random } from "../support/fuzzing.ts";
import type { Step } from "./attack.ts";
import { casts, kit } from "./canary.ts";
import { literals, untyped } from "./literals.ts";

/** A story of an attacker, made at random: what is planted, published in good faith, and then done. */
export interface Story {
  attacker: string;
  plant: string;
  steps: Step[];
}

const publishers = ["pub", "appowner", "postgres", "owner"] as const;
const everybody = [...publishers, "runnerrole", "readerrole"] as const;

/** The `n`th story; its names are its own. */
export function randomStory(random: Random, n: number): Story {
  const attacker = random.pick(["pub", "runnerrole", "appowner", "appowner"]);
  const s = `s${n}`;
  const names: Names = { s, table: random.chance(0.2) ? `app."T'${n} "" %s"` : `app.t${n}`, workflow: `w${n}` };
  // Only the owner of a table has columns of what he makes.
  const own = attacker === "appowner";
  const columns = own
    ? random.some(6, () => `c${random.below(1e6)} ${random.pick(types).replaceAll("S", s)}`)
    : ["c1 text", "c2 int", "c3 json"];
  const key = own ? random.pick(["bigint", "text", `${s}.e`, `${s}.er`, `${s}.ce`, `${s}.de`]) : "bigint";
  const table = `create table ${names.table} (id ${key}, note text, tags text, ${["extra int", ...columns].join(", ")}, primary key (id));
    grant select, insert, update, delete on ${names.table} to appwriter;
    grant select, trigger on ${names.table} to pub;
    grant select on ${names.table} to runnerrole;`;

  return {
    attacker,
    plant: `
      create schema ${s} authorization ${attacker}; grant usage on schema ${s} to public;
      set session authorization ${attacker};
      ${kit(s)} ${random.chance(0.7) ? casts(s) : ""}
      set session authorization postgres;
      set session authorization appowner; ${table} set session authorization postgres;`,
    steps: [
      [random.pick(publishers), publish(random, names)],
      ...random.some(9, () => randomStep(random, names, own)),
      ["appwriter", insert(random, names)],
      ...random.some(9, () => randomStep(random, names, own)),
    ],
  };
}

interface Names {
  s: string;
  table: string;
  workflow: string;
}

const types = [
  "S.e",
  "S.e[]",
  "S.de",
  "S.ce",
  "S.ce[]",
  "S.er",
  "S.d",
  "S.d[]",
  "S.c",
  "S.cc",
  "S.r",
  "S.mr",
  "text",
  "jsonb",
  "int8",
];

/** One step: of the attacker's, or of somebody who knows nothing. */
function randomStep(random: Random, names: Names, own: boolean): Step {
  const kinds = [verb, verb, verb, write, change, own ? turn : change];
  return random.pick(kinds)(random, names);
}

function verb(random: Random, names: Names): Step {
  const { workflow, table } = names;
  const w = `'${workflow}'`;
  return [
    random.pick(everybody),
    random.pick([
      () => publish(random, names),
      () => publish(random, names).replace("select notika.publish", "select * from notika.plan"),
      () =>
        `select notika.backfill(${w}${random.chance(0.6) ? `, condition => ${quoted(condition(random, names))}` : ""})`,
      () => "select notika.dispatch(2)",
      () => "select notika.dispatch(2)",
      () => "select * from notika.check()",
      () => "select * from notika.health",
      () => "select notika.maintain()",
      () => "select * from notika.install()",
      () => `select notika.pause(${w})`,
      () => `select notika.resume(${w})`,
      () => `select notika.release(${w}, 'x')`,
      () => `select notika.configure(${w}, '{"concurrency": 2}')`,
      () => `select notika.replay(${w}, now() - interval '1 hour')`,
      () => `select notika.cancel_backfill(${w})`,
      () => "select notika.begin_maintenance('x')",
      () => "select notika.end_maintenance()",
      () => `select * from notika.check_ddl($ddl$alter table ${table} add column further int$ddl$)`,
      () => `select notika.unpublish(${w})`,
    ])(),
  ];
}

function write(random: Random, names: Names): Step {
  return [
    "appwriter",
    random.pick([
      () => insert(random, names),
      () => insert(random, names),
      () => `update ${names.table} set note = note || 'x'`,
      () => `update ${names.table} set extra = extra + 1`,
      () => `delete from ${names.table}`,
    ])(),
  ];
}

const insert = (random: Random, { table }: Names) =>
  `insert into ${table} (id, note, extra) values ('${random.pick(["1", "a", "b", "(a)", "(b)", "[a,b)", "[b,c)"])}', ${random.chance(0.2) ? "repeat('x', 1100000)" : "'x'"}, 1)`;

/** What an owner does to his table without any thought of Notika. */
function change(random: Random, { table }: Names): Step {
  const column = random.pick(["note", "extra", "tags"]);
  return [
    "appowner",
    random.pick([
      `begin; alter table ${table} drop column ${column}; alter table ${table} add column ${column} text; commit`,
      `alter table ${table} rename column ${column} to ${column}_2; alter table ${table} rename column ${column}_2 to ${column}`,
      `alter table ${table} rename column ${column} to ${column}_3`,
      `alter table ${table} disable trigger all; alter table ${table} enable trigger all`,
      `begin; create table app.other (like ${table} including all); alter table ${table} rename to gone; alter table app.other rename to back; alter table app.gone rename to other; drop table app.other cascade; rollback`,
      `alter table ${table} alter column ${column} type varchar`,
      `create table if not exists app.child () inherits (${table})`,
      `alter table ${table} add column if not exists more int`,
    ]),
  ];
}

/** What he does who has planted. */
function turn(random: Random, { s, table }: Names): Step {
  const type = random.pick(["e", "d", "c", "r", "ce"]);
  return [
    "appowner",
    random.pick([
      `alter domain ${s}.d add constraint more check (${s}.note(value)) not valid`,
      `alter type ${s}.${type} rename to ${type}_was; create domain ${s}.${type} as text check (${s}.note(value))`,
      `alter type ${s}.${type} rename to ${type}_was; create type ${s}.${type} as (x ${s}.dd)`,
      `alter type ${s}.e rename value 'c' to 'z'`,
      `alter type ${s}.c add attribute more ${s}.dd[] cascade`,
      `create function ${s}.takes(text) returns boolean language plpgsql immutable as 'begin return ${s}.note($1); end'`,
      `create function ${s}.note(varchar) returns boolean language plpgsql immutable as 'begin return canary.note(); end'`,
      `drop operator ${s}.=== (text, text); create operator ${s}.=== (function = ${s}.same, leftarg = text, rightarg = text)`,
      `alter table ${table} alter column id type ${s}.e using 'a'`,
      `alter table ${table} alter column extra type ${s}.e using 'a'`,
      `alter table ${table} alter column tags type ${s}.e[] using null`,
      `alter table ${table} alter column note type ${s}.d`,
      `alter table ${table} enable row level security; create policy p on ${table} using (${s}.note(note))`,
      `alter table ${table} enable row level security; alter table ${table} force row level security; create policy q on ${table} using (${s}.note(note))`,
      casts(s),
    ]),
  ];
}

function publish(random: Random, names: Names): string {
  const operations = random.pick(["{insert}", "{delete}", "{update}", "{insert,update}", "{insert,update,delete}"]);
  const options = [
    `columns => ${random.chance(0.3) ? "null" : random.pick(["'{note}'", "'{id,note}'", "'{extra}'", "'{id,tags,extra}'"])}`,
    random.chance(0.7) && !/delete/.test(operations) ? `condition => ${quoted(condition(random, names))}` : "",
    random.chance(0.3) && /update/.test(operations) ? `watch => '${random.pick(["{note}", "{extra,tags}"])}'` : "",
    `guard => '${random.pick(["block", "block", "warn", "off"])}'`,
    `on_rename => '${random.pick(["follow", "block"])}'`,
  ];
  return `select notika.publish('${names.workflow}', ${quoted(names.table)}, operations => '${operations}', ${options.filter(Boolean).join(", ")})`;
}

/** A condition: harmless as a rule in its form, hostile in its parts. */
function condition(random: Random, names: Names, depth = 3): string {
  const part = () => condition(random, names, depth - 1);
  if (depth === 0 || random.chance(0.4)) return atom(random, names);
  return random.pick([
    () => `(${part()} and ${part()})`,
    () => `(${part()} or ${part()})`,
    () => `not (${part()})`,
    () => `case when ${part()} then ${part()} else ${part()} end`,
    () => `coalesce(${part()}, ${part()})`,
    () => `(array[${part()}, ${part()}])[1]`,
  ])();
}

function atom(random: Random, { s }: Names): string {
  const column = random.pick(["note", "tags", "extra", "id"]);
  return random.pick([
    () => random.pick(literals(s)),
    () => random.pick(literals(s)),
    () => random.pick(literals("pg_temp")),
    () => random.pick(untyped),
    () => `new.${column} = '${random.pick(["a", "{a}", "(a)", "[a,b)", "1"])}'`,
    () => `new.${column}::text <> ''`,
    () => `new.${column}::text::${s}.e is not null`,
    () => `'a'::text::${s}.e is distinct from 'b'`,
    () => `('a'::${s}.e)::text = 'a'`,
    () => `new.note <> all (('{a}'::${s}.e[])::text[])`,
    () => `'a'::${s}.e operator(${s}.=) 'b'`,
    () => `to_json('a'::${s}.e) is not null`,
    () => `row_to_json(new) is not null`,
    () => `new is not null`,
    () => `(new.*)::text <> ''`,
    () => `${s}.note(new.note)`,
    () => `new.note operator(${s}.===) 'x'`,
    () => `current_user = 'it''s'`,
    () => `(select true)`,
  ])();
}

const quoted = (text: string) => `$q$${text}$q$`;
