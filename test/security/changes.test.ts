import { describe } from "vitest";
import { type Attack, resists, type Step } from "./attack.ts";
import { isThorough } from "./scene.ts";

// What was harmless when it was published, and the table's owner then makes hostile: whatever looks at it again must
// see that its names do not mean any more what they meant.

/** Columns of types of the table's owner, harmless as yet. */
const table = `
  create schema kept authorization appowner;
  grant usage on schema kept to public;
  set role appowner;
  create domain kept.tag as text;
  create type kept.mood as enum ('a', 'b');
  create type kept.pair as (x kept.tag);
  create type kept.span as range (subtype = kept.tag);
  create function kept.is_vip(varchar) returns boolean language sql immutable begin atomic select $1 = 'vip'; end;
  create function kept.same(text, text) returns boolean language sql immutable begin atomic select $1 = $2; end;
  create operator kept.=== (function = kept.same, leftarg = text, rightarg = text);
  create table app.cust (id bigint primary key, note text, other text, mood kept.mood, tags kept.tag[], pair kept.pair, span kept.span);
  insert into app.cust values (1, 'x', 'y', 'a', '{a}', '(a)', '[a,b]'), (2, 'y', 'y', 'b', '{a}', '(a)', '[a,b]');
  grant insert, update, delete, select on app.cust to appwriter;
  reset role;
  create schema evil2 authorization appowner;
  grant usage on schema evil2 to public;
  do $$ begin execute format('grant create on database %I to appowner', current_database()); end $$;`;

interface Turn {
  condition: string;
  /** Hostile or not, it has a literal of a type that somebody may harden. */
  isRefused?: true;
  /** What the table's owner then does to it. */
  turn: string;
}

const domain = (name: string) => `create domain kept.${name} as text check (evil.note(value));`;

const turns: Record<string, Turn> = {
  "a domain is hardened": {
    isRefused: true,
    condition: `new.tags = '{vip}'`,
    turn: "alter domain kept.tag add constraint c check (evil.note(value)) not valid",
  },
  "the domain in a composite is hardened": {
    isRefused: true,
    condition: `coalesce(new.pair, '(vip)') is not null`,
    turn: "alter domain kept.tag add constraint c check (evil.note(value)) not valid",
  },
  "the domain of a range is hardened": {
    isRefused: true,
    condition: `new.span && '[a,b]'`,
    turn: "alter domain kept.tag add constraint c check (evil.note(value)) not valid",
  },
  "a composite gets an attribute": {
    isRefused: true,
    condition: `'(1)'::kept.pair is not null`,
    turn: "alter type kept.pair add attribute y evil.d[] cascade; alter domain kept.tag add constraint c check (evil.note(value)) not valid",
  },
  "an enum becomes a domain": {
    condition: `new.note <> all (('{a}'::kept.mood[])::text[])`,
    turn: `alter type kept.mood rename to mood_was; ${domain("mood")}`,
  },
  "an enum becomes a domain, one literal": {
    condition: `new.note <> ('a'::kept.mood)::text`,
    turn: `alter type kept.mood rename to mood_was; ${domain("mood")}`,
  },
  "an enum becomes a composite": {
    condition: `'a'::kept.mood is not null and '{a}'::kept.mood[] is not null`,
    turn: "alter type kept.mood rename to mood_was; create type kept.mood as (x evil.d)",
  },
  "a schema is replaced": {
    condition: `new.note <> all (('{a}'::kept.mood[])::text[])`,
    turn: `alter schema kept rename to was; create schema kept; grant usage on schema kept to public; ${domain("mood")} ${domain("tag")}`,
  },
  "a function gets a better match": {
    condition: "kept.is_vip(new.note) is not true",
    turn: "create function kept.is_vip(text) returns boolean language plpgsql immutable as 'begin return evil.note($1); end'",
  },
  "a function gets a match for its literal": {
    condition: "kept.is_vip('{vip}') is not true",
    turn: "create function kept.is_vip(evil.d[]) returns boolean language plpgsql immutable as 'begin return true; end'; alter function kept.is_vip(varchar) rename to was",
  },
  "an operator is replaced": {
    condition: "new.note operator(kept.===) 'vip' is not true",
    turn: "alter operator kept.=== (text, text) set schema evil2; create operator kept.=== (function = evil.same, leftarg = text, rightarg = text)",
  },
  "a cast is planted": {
    condition: "new.mood::text = 'a' or ('a'::kept.mood)::text = 'a'",
    turn: `create function kept.f(kept.mood) returns text language plpgsql immutable as 'begin perform canary.note(); return ''a''; end';
      create cast (kept.mood as text) with function kept.f(kept.mood) as implicit`,
  },
};

/** What makes Notika look at it, or make it, again. */
const repairs: Record<string, Step[]> = {
  "a column dropped and added": [
    [
      "appowner",
      "begin; alter table app.cust drop column tags, drop column other; alter table app.cust add column other text; alter table app.cust add column tags kept.tag[]; commit",
    ],
    ["appowner", "begin; alter table app.cust drop column note; alter table app.cust add column note text; commit"],
  ],
  "a column renamed": [
    ["appowner", "alter table app.cust rename column note to notes"],
    ["appowner", "alter table app.cust rename column mood to moods"],
    ["appowner", "alter table app.cust rename column tags to labels"],
  ],
  "a label renamed": [
    [
      "appowner",
      "do $$ begin alter type kept.mood_was rename value 'a' to 'z'; exception when others then null; end $$",
    ],
    ["appowner", "do $$ begin alter type kept.mood rename value 'a' to 'z'; exception when others then null; end $$"],
  ],
  "tables swapped": [
    [
      "appowner",
      "begin; alter table app.cust rename to was; create table app.cust (like app.was including all); grant insert, select on app.cust to appwriter; commit",
    ],
    [
      "appowner",
      "begin; create table app.next (like app.cust including all); drop table app.cust cascade; alter table app.next rename to cust; grant insert, select on app.cust to appwriter; commit",
    ],
  ],
  "a trigger disabled, or dropped": [
    ["appowner", "alter table app.cust disable trigger all; alter table app.cust enable trigger all"],
    [
      "appowner",
      "do $$ declare t text; begin for t in select tgname from pg_trigger where tgrelid = 'app.cust'::regclass and not tgisinternal loop execute format('drop trigger %I on app.cust', t); end loop; end $$",
    ],
  ],
  "the form changed": [
    [
      "appowner",
      "create function app.before() returns trigger language plpgsql as 'begin return new; end'; create trigger b before insert on app.cust for each row execute function app.before()",
    ],
    ["appowner", "drop trigger if exists b on app.cust; create table app.child () inherits (app.cust)"],
    [
      "appowner",
      "alter table app.cust rename to customers; alter table app.customers set schema kept; alter table kept.customers set schema app; alter table app.customers rename to cust",
    ],
  ],
  maintenance: [
    ["postgres", "select notika.begin_maintenance('x')"],
    [
      "appowner",
      "alter table app.cust drop column tags; alter table app.cust drop column other; alter table app.cust add column tags kept.tag[]; alter table app.cust add column other text",
    ],
    ["postgres", "select notika.end_maintenance()"],
  ],
  "released, published again": [
    ["postgres", "select notika.pause('w'); select notika.resume('w')"],
    ["postgres", "select notika.release('w', 'x')"],
    ["owner", "select * from notika.check()"],
    ["postgres", "select notika.configure('w', '{\"concurrency\": 5}')"],
  ],
};

/** Looked at after each of them. */
const looks: Step[] = [
  ["appwriter", "insert into app.cust (id) values (10 + (random() * 1e6)::int)"],
  ["runnerrole", "select * from notika.check()"],
  ["pub", "select * from notika.check()"],
  ["postgres", "select * from notika.check()"],
  ["postgres", "select * from notika.health"],
  ["runnerrole", "select notika.maintain()"],
  ["postgres", "select * from notika.check_ddl('alter table app.cust add column further int')"],
  ["owner", "select * from notika.install()"],
  ["postgres", "select * from notika.install()"],
];

const publish = (condition: string): Step => [
  "postgres",
  `select notika.publish('w', 'app.cust', columns => '{id,other}', condition => $c$${condition}$c$)`,
];

/** The owner of the table is its attacker; triggers run as who writes, and may run what is the table owner's. */
const attacks = Object.entries(turns).flatMap(([name, { condition, turn, isRefused }], n): Attack[] =>
  Object.entries(repairs)
    .filter((_, m) => isThorough || (n + m) % 4 === 0)
    .map(([repair, steps]) => ({
      name: `${name}; ${repair}`,
      attacker: "appowner",
      writers: ["appwriter"],
      honest: [["postgres", table], ...(isRefused ? [] : [publish(condition)])],
      trigger: [
        ...(isRefused ? [publish(condition)] : []),
        ["appowner", turn],
        ...steps,
        ...looks,
        publish(condition),
        ...looks,
      ],
    })),
);

describe("S4, S18: what a condition means is what it meant when it was published", () => {
  resists(attacks);
});

describe("S18: what a backfill's condition means is what it meant when it was asked for", () => {
  resists(
    Object.entries(turns).map(([name, { condition, turn }]) => ({
      name,
      attacker: "appowner",
      honest: [
        ["postgres", table],
        ["postgres", "select notika.publish('w', 'app.cust', columns => '{id,other}')"],
      ],
      trigger: [
        ["postgres", `select notika.backfill('w', condition => $c$${condition}$c$)`],
        ["appowner", turn],
        ...[1, 2, 3].map((): Step => ["runnerrole", "select notika.dispatch(1)"]),
        ["runnerrole", `select notika.backfill('w', condition => $c$${condition}$c$)`],
        ...[1, 2, 3].map((): Step => ["runnerrole", "select notika.dispatch(1)"]),
      ],
    })),
  );
});
