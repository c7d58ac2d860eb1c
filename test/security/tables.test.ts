import { describe, expect } from "vitest";
import { type Attack, keepWatch, plant, resists, type Step } from "./attack.ts";
import { kinds, test } from "./scene.ts";

// A table runs code of its owner: Notika's owner reads it in a backfill, and must not be who runs that code.

const backfilled = (...between: string[]): Step[] => [
  ["runnerrole", "select notika.backfill('w')"],
  ...between.map((sql): Step => ["appowner", sql]),
  ...[1, 2, 3].map((): Step => ["runnerrole", "select notika.dispatch(1)"]),
];

const table = `
  create table app.rows (id bigint primary key, note text);
  insert into app.rows select n, 'x' from generate_series(1, 5) as n;
  grant insert, select on app.rows to appwriter;`;
const published: Step = ["postgres", "select notika.publish('w', 'app.rows', columns => '{id,note}')"];

const policy = "create policy p on app.rows using (evil.note(note))";
const secured = `alter table app.rows enable row level security; ${policy}`;

describe("S6: row security runs as nobody but who reads", () => {
  resists(
    [
      { name: "a policy before the backfill", plant: `${table} ${secured}`, trigger: backfilled() },
      { name: "a policy before the first page", plant: table, trigger: backfilled(secured) },
      {
        name: "a policy between pages",
        plant: table,
        trigger: [...backfilled().slice(0, 2), ["appowner", secured], ...backfilled().slice(2)] as Step[],
      },
      {
        name: "a policy for Notika's owner alone, forced",
        plant: table,
        trigger: backfilled(`${secured}; alter table app.rows force row level security`),
      },
      {
        name: "a policy of a partition",
        plant: `create table app.rows (id bigint primary key, note text) partition by range (id);
          create table app.rows_1 partition of app.rows default; insert into app.rows values (1, 'x'), (2, 'y')`,
        trigger: backfilled(
          "alter table app.rows_1 enable row level security; create policy p on app.rows_1 using (evil.note(note))",
          secured,
        ),
      },
      {
        name: "a policy of a child",
        plant: `${table} create table app.child (primary key (id)) inherits (app.rows); insert into app.child values (7, 'x')`,
        trigger: backfilled(
          "alter table app.child enable row level security; create policy p on app.child using (evil.note(note))",
        ),
      },
      {
        name: "a policy whose subquery reads a view",
        plant: `${table} create view evil.v as select evil.note('x') as x; grant select on evil.v to public`,
        trigger: backfilled(
          "alter table app.rows enable row level security; create policy p on app.rows using ((select x from evil.v))",
        ),
      },
    ].map((it): Attack => ({ ...it, attacker: "appowner", honest: [published] })),
  );
});

// Planning evaluates the constant parts of what belongs to a table, as who plans.
const constant = "evil.note('x')";
describe("S22: nothing that belongs to a table is evaluated by Notika's owner", () => {
  resists([
    ...Object.entries({
      "an index of an expression": `create index on app.rows ((${constant} or note = 'x'))`,
      "an index of some rows": `create index on app.rows (note) where ${constant} or note = 'x'`,
      "statistics of an expression": `create statistics app.s on (${constant} or note = 'x'), note from app.rows; analyze app.rows`,
      "a check": `alter table app.rows add check (${constant} or note = 'x')`,
      "a check of a child": `create table app.child (primary key (id), check (${constant} or note = 'x')) inherits (app.rows); insert into app.child values (7, 'x')`,
      "a default": `alter table app.rows alter note set default ${constant}::text`,
      "a generated column": `alter table app.rows add g boolean generated always as (${constant} or note = 'x') stored`,
      "a rule": `create rule r as on insert to app.rows where ${constant} do also select ${constant}`,
      "a domain": "alter table app.rows add d evil.d",
    }).flatMap(([name, sql]): Attack[] =>
      (["before", "after"] as const).map((moment) => ({
        name: `${name}, ${moment}`,
        attacker: "appowner",
        writers: ["appwriter"],
        plant: moment === "before" ? `${table} ${sql}` : table,
        honest: moment === "before" ? [] : [published],
        trigger: [
          ...(moment === "before" ? [] : ([["appowner", sql]] as Step[])),
          published,
          ...backfilled(),
          ["appwriter", "insert into app.rows values (8, 'z'), (9, repeat('z', 1100000))"],
          ["runnerrole", "select notika.backfill('w', condition => 'new.note = ''x''')"],
          ...backfilled().slice(1),
          ["owner", "select * from notika.check()"],
          ["owner", "select notika.unpublish('w')"],
        ],
      })),
    ),
    {
      name: "an expression in the key of partitions",
      attacker: "appowner",
      writers: ["appwriter"],
      plant: `create table app.rows (id bigint, note text) partition by list ((${constant}::text || note));
        create table app.rows_1 partition of app.rows default; grant insert on app.rows to appwriter`,
      trigger: [
        ["owner", "select notika.publish('w', 'app.rows', columns => '{id,note}')"],
        ["appwriter", "insert into app.rows values (1, 'x')"],
        ...backfilled(),
        ["owner", "select * from notika.check()"],
        ["owner", "select notika.unpublish('w')"],
      ],
    },
  ]);
});

describe("S17: the owner of a partitioned table makes partitions", () => {
  for (const kind of kinds) {
    test(`without a part in Notika (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as(
        "appowner",
        `create table app.pt (id int primary key, note text) partition by range (id);
         create table app.pt_1 partition of app.pt for values from (0) to (10);
         create table app.pt_2 (id int primary key, note text);
         create table app.pt_3 (id int primary key, note text) partition by range (id);
         grant insert on app.pt to appwriter`,
      );
      await scene.as(
        "postgres",
        "select notika.publish('w', 'app.pt', operations => '{insert,update,delete}', columns => '{id,note}')",
      );

      await scene.as(
        "appowner",
        `create table app.pt_4 partition of app.pt for values from (10) to (20);
         alter table app.pt attach partition app.pt_2 for values from (20) to (30);
         alter table app.pt attach partition app.pt_3 for values from (30) to (40);
         create table app.pt_5 partition of app.pt_3 for values from (30) to (35)`,
      );
      await scene.as("appwriter", "insert into app.pt values (1, 'a'), (11, 'b'), (21, 'c'), (31, 'd')");

      const captured = await scene.as(
        "readerrole",
        "select new ->> 'note' as note from notika.event_log order by event_id",
      );
      expect(captured.map(({ note }) => note)).toEqual(["a", "b", "c", "d"]);
    });

    test(`and so does its next owner, and the last one no more (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as(
        "appowner",
        "create table app.pt (id int primary key, note text) partition by range (id); grant insert on app.pt to appwriter",
      );
      await scene.as("postgres", "select notika.publish('w', 'app.pt', columns => '{id,note}')");
      await scene.as(
        "postgres",
        "alter table app.pt owner to hr; grant create on schema app to hr; select * from notika.check()",
      );
      if (kind === "owner") await scene.as(await scene.owner(), "select * from notika.install()");

      await scene.as("hr", "create table app.pt_1 partition of app.pt for values from (0) to (10)");
      await scene.as("appwriter", "insert into app.pt values (1, 'a')");

      expect(await scene.as("readerrole", "select new from notika.event_log")).toEqual([{ new: { id: 1, note: "a" } }]);
      expect(await mayForge(scene, "appowner")).toBe(false);
    });
  }

  test("and forges no event of another's table", async ({ open }) => {
    const scene = await open("administrator");
    await scene.as("postgres", "select notika.publish('w', 'hr.salaries', columns => '{id}')");

    for (const role of ["appowner", "pub", "runnerrole", "readerrole", "appwriter"]) {
      expect(await mayForge(scene, role), role).toBe(false);
    }
  });

  const mayForge = async (scene: { attempt(role: string, sql: string): Promise<unknown> }, role: string) =>
    !(await scene.attempt(
      role,
      `create temp table forged (id bigint, note text);
       create trigger t after insert on forged for each row execute function notika._capture_1()`,
    ));
});

describe("what else a table's owner has made", () => {
  for (const kind of kinds) {
    test(`its triggers run as who writes, not as Notika (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await plant(scene, "appowner");
      await scene.as(
        "appowner",
        `${table} create function evil.t() returns trigger language plpgsql as 'begin perform canary.note(); return new; end';
         create trigger a before insert on app.rows for each row execute function evil.t();
         create trigger z after insert on app.rows for each row execute function evil.t()`,
      );
      await scene.as("postgres", "select notika.publish('w', 'app.rows', columns => '{id,note}')");

      const watch = await keepWatch(scene, { attacker: "appowner", writers: ["appwriter"] });
      await watch.attempt(["appwriter", "insert into app.rows values (8, 'z')"]);
      for (const step of backfilled()) await watch.attempt(step);

      expect(watch.wrong).toEqual([]);
    });
  }
});
