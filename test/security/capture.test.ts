import { describe, expect } from "vitest";
import { asRole, captured, inTransaction, noEventTriggers } from "../sql/support.ts";
import { type TestDatabase, test } from "../support/database.ts";

/**
 * mallory owns everything in schema app and has no part in Notika.  Whatever of hers is executed says as whom, in a note that
 * outlasts a rollback: a sequence for those who are not she.
 */
const scene = `
  create role mallory;
  create schema app authorization mallory;
  create schema canary;
  create sequence canary.sung;
  grant usage on schema canary to public;
  grant usage on sequence canary.sung to public;
  set role mallory;
  create function app.sing(what text) returns text language plpgsql as $$
  begin
    if current_user <> 'mallory' then
      perform nextval('canary.sung');
    end if;
    return what;
  end $$;`;

/** How often something of mallory's was executed by somebody else. */
async function songs({ query }: TestDatabase): Promise<number> {
  const [row] = await query<{ count: number }>(
    "select case when is_called then last_value else 0 end::int as count from canary.sung",
  );
  return row?.count ?? 0;
}

/** A type of mallory's, and casts between it and others that sing. */
const trap = (name: string, type: string, extra = "") => `
  create type app.${name} as ${type};
  create function app.${name}_text(app.${name}) returns text language plpgsql immutable
    as $$ begin return app.sing('1'); end $$;
  create function app.${name}_json(app.${name}) returns json language plpgsql immutable
    as $$ begin return to_json(app.sing('1')); end $$;
  create function app.${name}_int(app.${name}) returns int8 language plpgsql immutable
    as $$ begin return app.sing('1')::int8; end $$;
  create cast (app.${name} as text) with function app.${name}_text(app.${name}) as implicit;
  create cast (app.${name} as varchar) with function app.${name}_text(app.${name}) as implicit;
  create cast (app.${name} as json) with function app.${name}_json(app.${name}) as implicit;
  create cast (app.${name} as int8) with function app.${name}_int(app.${name}) as implicit;
  ${extra}`;

const enumTrap = trap("k", "enum ('1', '2', '3', '4')");
const traps: Record<string, { sql: string; type: string; value: string }> = {
  "an enum": { sql: enumTrap, type: "app.k", value: "'1'" },
  "a composite": { sql: trap("k", "(a int8, b text)"), type: "app.k", value: "row(1, 'x')::app.k" },
  "a range": { sql: trap("k", "range (subtype = int8)"), type: "app.k", value: "app.k(1, 2)" },
  "an array of enums": { sql: enumTrap, type: "app.k[]", value: "'{1,2}'" },
  "a domain over an enum": { sql: `${enumTrap} create domain app.d as app.k;`, type: "app.d", value: "'1'" },
  "an array of a domain over an enum": {
    sql: `${enumTrap} create domain app.d as app.k;`,
    type: "app.d[]",
    value: "'{1,2}'",
  },
  "a composite with an enum in it": {
    sql: `${enumTrap} create type app.c as (a app.k, b app.k[]);`,
    type: "app.c",
    value: "row('1', '{1,2}')::app.c",
  },
};

const big = "repeat('x', 1100000)";

test("the canary sings when somebody else executes what is mallory's", async ({ db }) => {
  await db.script(`${scene} ${enumTrap} reset role;`);

  await db.query("select '1'::app.k::text");
  await db.query("select to_json('1'::app.k)");
  await asRole(db, "mallory", "select '1'::app.k::text");

  expect(await songs(db)).toBe(2);
});

describe("the owner of a published table gets nothing executed by capture", () => {
  const columns = ["id int8", "name varchar", "n int", "data jsonb", "tags text[]", "sums numeric[]"];

  for (const [name, { sql, type, value }] of Object.entries(traps)) {
    test(`who makes ${name} of columns that are not published`, async ({ db }) => {
      await db.script(`${scene}
        create table app.docs (${columns.join(", ")}, note text, primary key (id));
        ${sql}
        reset role;
        select notika.publish('w', 'app.docs', '{insert,update,delete}', '{note}'),
               notika.publish('statement', 'app.docs', '{insert}', '{note}'),
               notika.publish('condition', 'app.docs', '{insert,update,delete}', '{note}', condition => 'true'),
               notika.publish('whole', 'app.docs', '{insert,update,delete}');
        set role mallory;
        insert into app.docs (id, note) values (7, 'small');
        truncate app.docs;
        alter table app.docs drop constraint docs_pkey;
        alter table app.docs ${columns.map((column) => `alter ${column.split(" ")[0]} type ${type} using ${value}`)};
        alter table app.docs add primary key (id);
        reset role`);

      await asRole(
        db,
        "mallory",
        `insert into app.docs select ${columns.map(() => value)}, ${big}`,
        "update app.docs set note = 'small'",
        `update app.docs set note = ${big}`,
        "delete from app.docs",
      );

      expect(await songs(db)).toBe(0);
      expect(
        await db.query(
          "select workflow, count(*)::int, count(*) filter (where truncated)::int as cut from notika.event_log group by 1 order by 1",
        ),
      ).toEqual([
        { workflow: "condition", count: 5, cut: 4 },
        { workflow: "statement", count: 2, cut: 1 },
        { workflow: "w", count: 5, cut: 4 },
        { workflow: "whole", count: 5, cut: 4 },
      ]);
    });
  }

  test("who changes a type where no event trigger tells of it", async ({ db }) => {
    await db.script(`${scene}
      create table app.docs (id int8 primary key, n int, note text);
      ${enumTrap}
      reset role;
      select notika.publish('listed', 'app.docs', '{insert,update,delete}'),
             notika.publish('some', 'app.docs', '{insert,update,delete}', '{note}');
      ${noEventTriggers}
      select notika.publish('whole', 'app.docs', '{insert,update,delete}');
      set role mallory;
      insert into app.docs values (7, 8, 'small');
      truncate app.docs;
      alter table app.docs alter id type app.k using '1', alter n type app.k using '2';
      reset role`);

    await asRole(
      db,
      "mallory",
      "insert into app.docs values ('1', '2', 'a')",
      `update app.docs set note = ${big}`,
      "delete from app.docs",
    );

    expect(await songs(db)).toBe(0);
    expect(await captured(db, "listed")).toEqual(expect.arrayContaining([{ id: "1", n: "2", note: "a" }, { id: "1" }]));
  });

  test("who converts rows of a partition to those of its table", async ({ db }) => {
    await db.script(`${scene}
      create table app.parted (id int primary key, note text) partition by list (id);
      create table app.part (note text, id int not null);
      alter table app.parted attach partition app.part default;
      create table app.parent (id int8 primary key, note text);
      create table app.child () inherits (app.parent);
      create function app.convert(app.part) returns app.parted language plpgsql
        as $$ begin perform app.sing(''); return row(1, 'x')::app.parted; end $$;
      create function app.convert(app.child) returns app.parent language plpgsql
        as $$ begin perform app.sing(''); return row(1, 'x')::app.parent; end $$;
      create cast (app.part as app.parted) with function app.convert(app.part) as implicit;
      create cast (app.child as app.parent) with function app.convert(app.child) as implicit;
      reset role;
      select notika.publish('parted', 'app.parted', '{insert,update,delete}', '{id,note}'),
             notika.publish('parent', 'app.parent', '{insert,update,delete}', '{id,note}');`);

    for (const table of ["parted", "parent", "child"]) {
      await asRole(
        db,
        "mallory",
        `insert into app.${table} (id, note) values (7, 'a')`,
        `update app.${table} set note = ${big}`,
        `delete from app.${table}`,
      );
    }

    expect(await songs(db)).toBe(0);
    expect(await captured(db, "parted")).toEqual([{ id: 7, note: "a" }, { id: 7 }, null]);
  });

  test("who partitions by a function that Postgres computes beforehand", async ({ db }) => {
    await db.script(`${scene}
      create function app.fold(text) returns text language plpgsql immutable as $$ begin return app.sing($1); end $$;
      create table app.parted (id int, note text) partition by list ((app.fold('x') || note));
      reset role`);

    await expect(
      inTransaction(db, "select notika.publish('w', 'app.parted', columns => '{id}')"),
    ).rejects.toMatchObject({
      code: "42501",
      message: expect.stringContaining("function app.fold(text) of the partition key of app.parted would be executed"),
      hint: expect.stringMatching(/^If you trust it: alter function app.fold\(text\) owner to /),
    });

    expect(await songs(db)).toBe(0);
  });

  test("who changes a table that is just being published", async ({ db }) => {
    await db.script(`${scene} create table app.docs (id int primary key, k int); ${enumTrap} reset role;
      select notika.publish('w', 'app.docs', columns => '{id,k}');
      select notika._check_payload_code(1);`);
    const remade = (expression: string) =>
      inTransaction(
        db,
        "select notika._set_busy(true)",
        "drop function notika.payload_1(app.docs) cascade",
        "alter table app.docs alter k type app.k using '1'",
        `create function notika.payload_1(r app.docs) returns json language sql begin atomic select ${expression}; end`,
        "select notika._check_payload_code(1)",
      );

    for (const expression of [
      "json_build_object('k', (r).k)",
      "json_build_object('k', (r).k::text)",
      "json_build_object('k', textin(int8out((r).k)))",
      "to_json((r).k)",
      "json_object('{k}', array[(r).k])",
      "(select row_to_json(o) from (select (r).k as k) as o)",
      "json_build_object('k', case when true then (r).k end)",
      "json_build_object('k', array[(r).k])",
    ]) {
      await expect(remade(expression), expression).rejects.toMatchObject({
        code: "42501",
        message: expect.stringContaining("would execute"),
      });
    }
    await remade("json_build_object('k', format('%s', (r).k), 'id', (r).id)");
    expect(await songs(db)).toBe(0);
  });
});

test("no generated function casts a column", async ({ db }) => {
  await db.script(`${scene} ${enumTrap}
    create domain app.big as int8; create domain app.word as varchar; create domain app.bigs as int8[];
    create type app.pair as (a int8, b app.k, c app.bigs);
    create table app.all_types (id int8, n numeric, t text, v varchar, c char(3), u uuid, i int, j json, jb jsonb, b bytea,
      at timestamptz, r int8range, k app.k, d app.big, w app.word, p app.pair,
      n_ numeric[], t_ text[], i_ int[], k_ app.k[], d_ app.big[], w_ app.word[], p_ app.pair[], ds app.bigs, ds_ app.bigs[],
      primary key (id, n, k, d));
    create table app.parted (like app.all_types) partition by list (i);
    reset role;
    select notika.publish('w' || n, t, o, c, condition => w, watch => case when o = '{update}' then c end)
      from unnest('{app.all_types,app.parted}'::text[]) as t,
           (values ('{insert}'::text[]), ('{update}'), ('{insert,update,delete}')) as o (o),
           (values (null::text[]), ('{t,v}'), ('{id,n,t,v,c,u,i,j,jb,b,at,r,k,d,w,p,n_,t_,i_,k_,d_,w_,p_,ds,ds_}')) as c (c),
           (values (null), ('new.i > 0')) as w (w),
           lateral (select md5(concat(t, o, c, w)) as n) as n
     where w is null or o <> '{insert,update,delete}';`);

  const statements = await db.query<{ statement: string }>(`
    select d as statement from notika.workflow, unnest(definition) as d where d ~ '^create or replace function'`);
  expect(statements.length).toBeGreaterThan(40);
  for (const { statement } of statements) {
    expect(statement).not.toMatch(/(\b(new|old|r|elements(\[\w+\])?)\)?(\."?\w+"?\)?)*::)|cast\s*\(/i);
  }
});

describe("the key of a published table", () => {
  test("is followed, whatever becomes of it", async ({ db }) => {
    for (const forms of ["", noEventTriggers]) {
      await db.script(`${forms ? "select notika.unpublish('w'); drop table app.docs;" : "create schema app;"} ${forms}
        create table app.docs (id int8 primary key, code text not null, at timestamptz not null default '2026-01-01 12:00+01',
          note text);
        select notika.publish('w', 'app.docs', '{insert}', '{note}', condition => 'true');`);
      const key = () =>
        db.query(`select column_name, type::regtype::text as type from notika.contract_key order by place`);
      const written = async () => {
        await db.query(`insert into app.docs values (1, '2', default, ${big})`);
        return (await captured(db)).at(-1);
      };
      expect(await key()).toEqual([{ column_name: "id", type: "bigint" }]);
      expect(await written()).toEqual({ id: "1" });

      await db.script(`truncate app.docs; alter table app.docs alter id type int, alter id set default 1;
        select notika.check();`);
      expect(await key()).toEqual([{ column_name: "id", type: "integer" }]);
      expect(await written()).toEqual({ id: 1 });

      await db.script(`truncate app.docs; alter table app.docs rename id to ident; select notika.check()`);
      expect(await key()).toEqual([{ column_name: "ident", type: "integer" }]);
      expect(await written()).toEqual({ ident: 1 });

      await db.script(`truncate app.docs;
        alter table app.docs drop constraint docs_pkey, add primary key (code, at); select notika.check()`);
      expect(await key()).toEqual([
        { column_name: "code", type: "text" },
        { column_name: "at", type: "timestamp with time zone" },
      ]);
      expect(await written()).toEqual({ code: "2", at: "2026-01-01T11:00:00+00:00" });
      expect(
        await db.query("select from pg_proc where proname ~ '^_capture' and prosrc like '%new.code%'"),
      ).toHaveLength(1);
      expect(await db.query("select finding from notika.health where workflow is not null")).toEqual([]);
    }
  });
});
