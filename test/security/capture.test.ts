import { describe, expect } from "vitest";
import { asRole, captured, inTransaction, noEventTriggers } from "../sql/support.ts";
import { type TestDatabase, test } from "../support/database.ts";

/**
 * mallory owns everything in schema app and has no part in Notika.  What is executed of hers tells the role, in a note that
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
        "select notika._suspend_guard(true)",
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

describe("the snapshot of a transaction that began before a column changed", () => {
  for (const [form, options] of Object.entries({
    "each row": "operations => '{insert,update,delete}', columns => '{note}'",
    "each statement": "operations => '{insert}', columns => '{note}'",
    "whole rows": "operations => '{insert,update,delete}'",
    "whole rows without event triggers": "operations => '{insert,update,delete}'",
    "a migration let through": "operations => '{insert,update,delete}', columns => '{note}'",
  })) {
    test(`misleads no capture of ${form}`, async ({ db, skip }) => {
      if (db.engine === "pglite") return skip("PGlite has one session");
      await db.script(`${scene} create table app.docs (id int8 primary key, note text); ${enumTrap} reset role;
        ${form.includes("without") ? noEventTriggers : ""}
        select notika.publish('w', 'app.docs', ${options});`);
      const old = await db.connect();
      await old.query("begin isolation level repeatable read");
      await old.query("set local role mallory");
      await old.query("select from pg_type");

      await asRole(db, "mallory", "alter table app.docs alter id type app.k using '1'");
      if (form.includes("let through")) await db.query("select notika._loosen(1)");
      await old.query(`insert into app.docs values ('1', 'a')`);
      await old.query(`insert into app.docs values ('2', ${big})`);
      await old.query("commit");

      expect(await songs(db)).toBe(0);
      expect(await captured(db)).toHaveLength(2);
    });
  }
});

describe("a backfill executes nothing of the table's owner", () => {
  const orders = (key: string, rows = "select '1'") => `${scene}
    create table app.orders (id ${key} primary key, note text);
    insert into app.orders (id) ${rows}; reset role;`;
  const failed = ({ query }: TestDatabase) =>
    query<{ state: string; error: string }>("select state, error from notika.backfills");

  test("nor compares keys for which somebody made a cast", async ({ db }) => {
    await db.script(`${scene} reset role`);
    for (const [name, { sql, type, value }] of Object.entries(traps)) {
      await db.script(
        `set role mallory; ${sql}
         create table app.orders (id ${type} primary key, note text);
         insert into app.orders values (${value}); reset role;
         select notika.publish('w', 'app.orders', columns => '{id,note}');`,
      );

      await expect(inTransaction(db, "select notika.backfill('w')"), name).rejects.toMatchObject({
        code: "0A000",
        message: expect.stringContaining('a backfill cannot use the key of table app.orders: column "id" is of type'),
      });
      await db.script(`select notika.unpublish('w'); drop table app.orders; set role mallory; drop type app.k cascade;
        drop type if exists app.c cascade; drop function if exists app.k_text, app.k_json, app.k_int; reset role`);
    }
    expect(await songs(db)).toBe(0);
  });

  test("and goes by enums and domains that nobody has made casts of", async ({ db }) => {
    await db.script(`${scene}
      create type app.size as enum ('small', 'big', 'huge');
      create domain app.code as char(4);
      create table app.orders (size app.size, code app.code, note text, primary key (size, code));
      insert into app.orders select s, 'c' || n from unnest(enum_range(null::app.size)) as s, generate_series(10, 599) as n;
      reset role;
      select notika.publish('w', 'app.orders', columns => '{size,code}');
      select notika.backfill('w');`);

    for (let page = 0; page < 10; page++) {
      await db.query("select notika.dispatch()");
      await db.query("update notika_worker._private_jobs set attempts = 1");
    }

    expect(await failed(db)).toEqual([{ state: "done", error: null }]);
    expect(await db.query("select count(distinct new::text)::int as rows from notika.event_log")).toEqual([
      { rows: 1770 },
    ]);
  });

  test("nor reads on with a key that has changed since", async ({ db }) => {
    await db.script(`${orders("int", "select generate_series(1, 3)")}
      select notika.publish('w', 'app.orders', columns => '{id,note}');
      select notika.backfill('w');`);
    await asRole(
      db,
      "mallory",
      "update app.orders set note = id",
      "alter table app.orders drop constraint orders_pkey, add primary key (note)",
    );

    await db.query("select notika.dispatch()");

    expect(await failed(db)).toMatchObject([
      {
        state: "failed",
        error: expect.stringContaining("the key of table app.orders has changed since the backfill started"),
      },
    ]);
  });

  const policies: Record<string, [policy: string, error: string]> = {
    "a policy": [
      "create policy p on app.orders using (app.sing(id::text) <> '')",
      "row security hides rows of table app.orders",
    ],
    "a policy beside one that shows all": [
      "create policy n on app.orders using (true); create policy p on app.orders using (app.folded() <> '')",
      "a policy of table app.orders calls a function of another role",
    ],
    "a policy that restricts": [
      "create policy n on app.orders using (true); create policy p on app.orders as restrictive using (app.folded() <> '')",
      "row security hides rows of table app.orders",
    ],
    "an index": [
      "create index on app.orders ((app.fold('x') || note))",
      "function app.fold(text) of index orders_expr_idx would be",
    ],
    "an index of some rows": [
      "create index i on app.orders (note) where app.fold('x') = note",
      "function app.fold(text) of index i would be",
    ],
    statistics: [
      "create statistics app.s on (app.fold('x') || note), id from app.orders",
      "function app.fold(text) of statistics s would be",
    ],
  };
  for (const [name, [statements, error]] of Object.entries(policies)) {
    test(`that ${name} calls, made after its start`, async ({ db }) => {
      await db.script(`${orders("int")}
        create role keeper; grant usage on schema app to keeper; grant select, trigger on app.orders to keeper;
        set role mallory;
        create function app.fold(text) returns text language plpgsql immutable as $$ begin return app.sing($1); end $$;
        create function app.folded() returns text language plpgsql immutable as $$ begin return app.sing('1'); end $$;
        alter table app.orders enable row level security;
        reset role;
        select notika.publish('w', 'app.orders', columns => '{id,note}');`);
      const pages = await asOwner(db, "keeper");
      await db.script(`alter table app.orders disable row level security; select notika.backfill('w');
        alter table app.orders enable row level security; ${name.includes("policy") ? "" : "create policy n on app.orders using (true);"}
        set role mallory; ${statements}; reset role;`);

      await pages("select notika._backfill_all()");

      expect(await failed(db)).toMatchObject([{ state: "failed", error: expect.stringContaining(error) }]);
      expect(await songs(db)).toBe(0);
    });
  }

  test("and where a policy shows all rows it reads them, whatever a check would compute", async ({ db }) => {
    await db.script(`${orders("int", "select generate_series(1, 3)")}
      create role keeper; grant usage on schema app to keeper; grant select, trigger on app.orders to keeper;
      alter table app.orders enable row level security;
      create policy tenant on app.orders using (note = current_setting('app.tenant'));
      create policy notika on app.orders for select to keeper, notika using (true);
      set role mallory;
      create function app.fold(text) returns text language plpgsql immutable as $$ begin return app.sing($1); end $$;
      alter table app.orders add check (app.fold('x') <> note);
      reset role;
      select notika.publish('w', 'app.orders', columns => '{id,note}');`);
    const pages = await asOwner(db, "keeper");

    await pages("set local constraint_exclusion = on", "select notika.backfill('w')", "select notika._backfill_all()");

    expect(await failed(db)).toEqual([{ state: "done", error: null }]);
    expect(await captured(db)).toHaveLength(3);
    expect(await songs(db)).toBe(0);
  });
});

/** Has a role without rights of its own do what Notika's owner does. */
async function asOwner(db: TestDatabase, role: string) {
  const [owner] = await db.query<{ name: string }>("select quote_ident(current_user) as name");
  await db.script(`
    grant all on schema notika, notika_worker to ${role};
    grant all on all tables in schema notika to ${role};
    grant all on all sequences in schema notika to ${role};
    grant all on all tables in schema notika_worker to ${role};
    grant execute on all functions in schema notika to ${role};
    alter function notika.backfill(text, text) security invoker;
    grant ${role} to ${owner?.name};`);
  return (...statements: string[]) => asRole(db, role, ...statements);
}

describe("the owner of a published partitioned table", () => {
  const parted = `
    create role app_owner; create role team; grant team to app_owner;
    create schema app; grant all on schema app to app_owner, team;
    set role team;
    create table app.parted (id int, note text) partition by range (id);
    create table app.rest partition of app.parted default;
    create table app.plain (id int, note text);
    reset role;
    select notika.publish('w', 'app.parted', '{insert,update,delete}', '{id,note}'),
           notika.publish('plain', 'app.plain', '{insert,update}', '{id,note}');`;
  const rights = ({ query }: TestDatabase) =>
    query(`select proname, a.grantee::regrole::text as role from pg_proc, aclexplode(proacl) as a
            where proname ~ '^(_capture|payload)_[0-9]' and a.grantee <> proowner order by 1, 2`);

  test("makes, attaches and detaches partitions, and they are captured", async ({ db }) => {
    await db.script(parted);

    await asRole(
      db,
      "team",
      "create table app.ten partition of app.parted for values from (10) to (20)",
      "create table app.twenty (note text, id int)",
      "alter table app.parted attach partition app.twenty for values from (20) to (30)",
      "insert into app.parted values (11, 'a'), (21, 'b')",
      "alter table app.parted detach partition app.ten",
    );

    expect(await captured(db)).toEqual([
      { id: 11, note: "a" },
      { id: 21, note: "b" },
    ]);
    expect(await rights(db)).toEqual([{ proname: "_capture_1", role: "team" }]);
    // What the next publish or migration takes: Postgres asks for it on each partition.
    expect(
      await db.query(
        "select finding, remedy from notika.health where severity <> 'ok' and finding <> 'partition_detached'",
      ),
    ).toEqual([{ finding: "trigger_missing", remedy: "grant trigger on app.twenty to notika;" }]);
  });

  test("has the right for as long as it is the owner", async ({ db }) => {
    await db.script(`${parted} create role late; grant all on schema app to late;
      alter table app.parted owner to app_owner;`);
    expect(await rights(db)).toEqual([{ proname: "_capture_1", role: "app_owner" }]);

    await db.script("reassign owned by app_owner to late; select notika.check()");
    expect(await rights(db)).toEqual([{ proname: "_capture_1", role: "late" }]);
    await asRole(db, "late", "create table app.ten partition of app.parted for values from (10) to (20)");

    await db.script(`select notika.grant_runner('late'); revoke execute on function notika._capture_1() from late;
      grant execute on function notika._capture_2() to team; select notika.install();`);
    expect(await rights(db)).toEqual([{ proname: "_capture_1", role: "late" }]);
    expect(await db.query("select outcome from notika.install() where step = 'rights'")).toEqual([{ outcome: "ok" }]);
    await db.script("select notika.unpublish('w'); drop owned by late cascade; select notika.check()");
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
