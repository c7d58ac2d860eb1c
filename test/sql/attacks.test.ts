import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";
import { asRole, captured, inTransaction, noEventTriggers, undone } from "./support.ts";

/** A schema with a twin of nearly every function and operator of Postgres, and of types; each fails when it is used. */
const shadows = `
  create schema evil;
  do $evil$
  declare
    v_twin record;
  begin
    for v_twin in
      select p.proname, pg_get_function_identity_arguments(p.oid) as arguments, p.prorettype::regtype as result, p.proretset
        from pg_proc as p
       where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f'
         and p.provariadic = 0 and p.proargmodes is null
         and not exists (
           select from pg_type as t where t.oid = any (p.proargtypes::oid[] || p.prorettype) and t.typtype = 'p'
         )
    loop
      execute format(
        'create function evil.%I(%s) returns %s %s language plpgsql as %L',
        v_twin.proname, v_twin.arguments, case when v_twin.proretset then 'setof' end, v_twin.result, format('begin raise exception %L; end', 'hijacked by ' || v_twin.proname));
    end loop;
    -- Better matches than the variadic ones of Postgres.
    for v_twin in
      select f.name, c.count, a.type
        from unnest('{format,concat,json_build_object,jsonb_build_object,json_build_array,jsonb_build_array}'::text[]) as f (name)
       cross join generate_series(1, 4) as c (count)
       cross join unnest('{text,name,integer,oid}'::text[]) as a (type)
    loop
      execute format(
        'create function evil.%I(text%s) returns text language plpgsql as %L',
        v_twin.name, repeat(', ' || v_twin.type, v_twin.count), format('begin raise exception %L; end', 'hijacked by ' || v_twin.name));
    end loop;
    for v_twin in
      select o.oprname, p.proname, o.oprleft::regtype as l, o.oprright::regtype as r
        from pg_operator as o
        join pg_proc as p on p.oid = o.oprcode
       where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprleft <> 0
         and to_regprocedure(format('evil.%I(%s,%s)', p.proname, o.oprleft::regtype, o.oprright::regtype)) is not null
    loop
      execute format('create operator evil.%s (function = evil.%I, leftarg = %s, rightarg = %s)',
                     v_twin.oprname, v_twin.proname, v_twin.l, v_twin.r);
    end loop;
    create function evil.trap(text) returns boolean language plpgsql as 'begin raise exception ''hijacked by type %'', $1; end';
    for v_twin in
      select t.name from unnest('{text,json,jsonb,name,oid,regclass,int2,int4,int8,bool,numeric,timestamptz}'::text[]) as t (name)
    loop
      execute format('create domain evil.%1$I as pg_catalog.%1$I check (evil.trap(%1$L))', v_twin.name);
    end loop;
  end;
  $evil$;
  grant usage on schema evil to public;`;

const scene = `
  create schema app;
  create type app.mood as enum ('a');
  create table app.users (id int primary key, email text, at timestamptz default now(), mood app.mood);
  create role eve;
  grant usage on schema app to eve;`;

/** What a session says whose names mean something else. */
const hostile = "set local search_path = evil, pg_catalog";

describe("a search_path full of twins", () => {
  test("works: it fails whatever looks there", async ({ db }) => {
    await db.script(shadows);

    await expect(inTransaction(db, hostile, "select 'a'::pg_catalog.text = 'b'::pg_catalog.text")).rejects.toThrow(
      "hijacked by texteq",
    );
    await expect(inTransaction(db, hostile, "select format('%s', 1)")).rejects.toThrow("hijacked by format");
    await expect(inTransaction(db, hostile, "select 'a'::text")).rejects.toThrow("hijacked by type text");
  });

  test("hijacks nothing that Notika does", async ({ db }) => {
    await db.script(`${scene}
      select notika.publish('w', 'app.users', '{insert,update,delete}', '{id,email}', condition => 'true');
      insert into app.users values (1, 'ada@example.com');
      ${shadows}`);

    for (const statements of [
      [
        "select notika.publish('v', 'app.users', '{insert,update}', '{id,email,at,mood}', '{email}', 'new.email = ''x''')",
      ],
      ["select notika.publish('v', 'app.users', guard => 'warn', condition => 'new.id > 1')"],
      ["select * from notika.plan('v', 'app.users', '{update}', '{id,email}', condition => 'new.id = 1')"],
      ["select notika.unpublish('w')"],
      ["select notika.emit('w', '{}')"],
      ["select notika.pause('w')", "select notika.resume('w')"],
      ["select notika.dispatch()", "select notika.cancel(1)", "select notika.retry(1)"],
      ["select notika.maintain()"],
      ["select notika.check()"],
      [
        "select * from notika.check_ddl('alter table app.users drop column email; alter table app.users add column x int')",
      ],
      ["alter table app.users rename column email to mail"],
      ["alter table app.users add column email2 pg_catalog.text", "alter table app.users drop column email2"],
      ["select notika.allow_breaking_change('w', 'x')", "alter table app.users drop column email"],
      ["select notika.release('w', 'x')"],
      ["select notika.begin_maintenance('x')", "select notika.end_maintenance()"],
      ["insert into app.users values (2, 'x')", "update app.users set email = 'y'", "delete from app.users"],
      ["select * from notika.runs", "select * from notika.event_log", "select * from notika.workflows"],
      ["select * from notika.lag", "select * from notika.health"],
      [
        "select notika._beat('x', 'y', 1, '{w}')",
        "select notika._finish('[]')",
        "select notika._leave('x')",
        "select notika._doze()",
      ],
      ["select notika._enter(1, 1)", "select notika._remember('[]')", "select notika._park(1, '[]')"],
      ["select notika._begin_step(1, 1, 'x')", "select notika._next_due('{w}')"],
      [
        "select notika.grant_publisher('eve')",
        "select notika.grant_runner('eve')",
        "select notika.grant_reader('eve')",
      ],
      ["select notika.grant_publisher('eve')", "select notika.revoke_publisher('eve')"],
      ["select notika.install()"],
      ["select notika.uninstall()"],
    ]) {
      await undone(db, hostile, ...statements, "set constraints all immediate").catch((error) => {
        throw new Error(statements.join("; "), { cause: error });
      });
    }
  });
});

describe("a search_path full of twins, at a write,", () => {
  const forms = `
    create schema app;
    create type app.mood as enum ('a');
    create table app.users (id int primary key, email text, at timestamptz default now(), mood app.mood);
    create table app.members (primary key (id)) inherits (app.users);
    create table app.items (id int primary key, note text);
    create table app.days (id int primary key, note text, at timestamptz default now()) partition by range (id);
    create table app.day partition of app.days default;
    select notika.publish('row', 'app.users', '{insert,update,delete}', '{id,email,at,mood}', '{email}', 'true'),
           notika.publish('alone', 'app.items', '{insert,update,delete}', '{id,note}'),
           notika.publish('whole', 'app.items', '{insert,update,delete}'),
           notika.publish('parts', 'app.days', '{insert,update,delete}', '{id,note,at}'),
           notika.publish('inserts', 'app.items', '{insert}', '{id,note}'),
           notika.publish('deletes', 'app.items', '{delete}', '{note}');`;
  const big = "x".repeat(1_048_577);
  const writes = [
    hostile,
    ...["users", "members", "items", "days"].flatMap((table) => {
      const column = table === "users" || table === "members" ? "email" : "note";
      return [
        `insert into app.${table} (id, ${column}) values (1, 'a'), (2, '${big}')`,
        `update app.${table} set ${column} = 'b'`,
        `delete from app.${table}`,
      ];
    }),
    `select workflow_id, pg_catalog.count(*)::pg_catalog.int4 as events, pg_catalog.count(cause_id)::pg_catalog.int4 as caused
       from notika._event group by workflow_id order by workflow_id`,
  ];

  const all = [12, 6, 6, 6, 2, 2].map((events, n) => ({ workflow_id: n + 1, events, caused: 0 }));

  test("hijacks no trigger", async ({ db }) => {
    await db.script(`${forms} ${shadows}`);

    expect(await undone(db, ...writes)).toEqual(all);
    expect(await undone(db, "set local notika.run = '7/1'", ...writes)).toEqual(
      all.map((row) => ({ ...row, caused: row.events })),
    );
    expect(await undone(db, "set local notika.mute = on", ...writes)).toEqual([]);
  });

  test("hijacks no trigger whose payload function was dropped unseen", async ({ db }) => {
    await db.script(`${forms} ${noEventTriggers}
      drop function notika.payload_1(app.users), notika.payload_1(app.members),
        notika.payload_2(app.items), notika.payload_4(app.days);
      ${shadows}`);

    expect(await undone(db, ...writes)).toEqual(all);
  });
});

describe("temporary tables", () => {
  test("stand for nothing that Notika reads or writes", async ({ db }) => {
    await db.script(`${scene}
      select notika.publish('w', 'app.users', columns => '{id}', condition => 'new.id > 0');`);
    const names = await db.query<{ name: string }>(`
      select relname as name from pg_class
       where relnamespace = 'notika'::regnamespace and relkind in ('r', 'v')
      union select relname from pg_class where relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v')`);

    const did = await inTransaction(
      db,
      ...names.map(({ name }) => `create temp table "${name}" (oid oid, relname name, only_row text, setting text)`),
      "create temp table users (id int)",
      "set local search_path = pg_temp, pg_catalog",
      "insert into app.users values (1)",
      "select notika.publish('v', 'app.users', columns => '{id,email}', condition => 'new.id > 0')",
      "select notika.dispatch()",
      "insert into app.users values (2)",
      "select notika.check()",
      "select * from notika.check_ddl('alter table app.users drop column email')",
      "alter table app.users rename column email to mail",
      "select array(select workflow || ' ' || array_to_string(columns, ',') from notika.workflows order by 1) as did",
    );

    expect(did).toEqual([{ did: ["v id,email", "w id"] }]);
    expect(await captured(db)).toEqual([{ id: 1 }, { id: 2 }]);
  });
});

describe("a publisher", () => {
  test("gets nothing to run with the rights of the owner", async ({ db }) => {
    await db.script(`${scene}
      select notika.grant_publisher('eve');
      grant create on schema app to eve;
      grant select, trigger, insert on app.users to eve;
      create table app.ran_as (name text);
      grant insert on app.ran_as to public;
      set role eve;
      create function app.spy(boolean) returns boolean language plpgsql as
        'begin insert into app.ran_as values (current_user); return true; end';
      create function app.spy_json(app.mood) returns json language plpgsql as
        'begin insert into app.ran_as values (current_user); return ''1''; end';
      reset role;
      grant usage on schema app to notika;
      grant select, trigger on app.users to notika;`);
    const owned = await owner(db);

    await asRole(
      db,
      "eve",
      "select notika.publish('spy', 'app.users', columns => '{id,mood}', condition => 'app.spy(new.id > 0)')",
      "select * from notika.plan('other', 'app.users', columns => '{id}', condition => 'app.spy(new.id > 0)')",
      "select * from notika.check_ddl('select app.spy(true)')",
      "insert into app.users (id, mood) values (1, 'a')",
    );
    await db.query("select notika.check(), notika.install()");

    expect(await db.query("select distinct name from app.ran_as")).toEqual([{ name: "eve" }]);
    expect(owned).not.toBe("eve");
  });

  test("ends no body of a function with a name or a string", async ({ db, skip }) => {
    if (db.engine === "pglite") skip("it keeps a session authorization beyond the transaction");
    const column = "$capture$; alter role eve superuser; select $x$";
    const bomb = "$passes$; alter role eve superuser; select $x$";
    await db.script(`${scene} ${noEventTriggers}
      select notika.grant_publisher('eve');
      alter table app.users add column "${column}" int;
      grant select, trigger, insert on app.users to eve;
      grant usage on schema app to notika;
      grant select, trigger on app.users to notika;`);

    await inTransaction(
      db,
      "set local session authorization eve",
      "set local check_function_bodies = off",
      `select notika.publish('w', 'app.users', guard => 'warn', condition => 'new.email is distinct from ''${bomb}''')`,
      `select notika.publish('w:x', 'app.users', columns => '{id,"${column}"}', match => '{"${column}"}')`,
      `insert into app.users (id, email) values (1, '${bomb}'), (2, 'x')`,
    );

    expect(await captured(db)).toMatchObject([{ id: 2 }]);
    expect(await db.query("select rolsuper from pg_roles where rolname = 'eve'")).toEqual([{ rolsuper: false }]);
  });

  test("cannot make a trigger of a function of Notika, nor a partition or child of a published table", async ({
    db,
  }) => {
    await db.script(`${scene}
      create table app.parted (id int) partition by list (id);
      select notika.grant_publisher('eve'), notika.grant_runner('eve'), notika.grant_reader('eve');
      grant create on schema app to eve;
      grant select, trigger, insert on app.users, app.parted to eve;
      select notika.publish('w', 'app.users', columns => '{id}');
      select notika.publish('p', 'app.parted')`);
    const functions = await db.query<{ name: string }>(`
      select oid::regproc::text as name from pg_proc
       where pronamespace = 'notika'::regnamespace and prorettype in ('trigger'::regtype, 'event_trigger'::regtype)`);
    const forge = (...statements: string[]) => asRole(db, "eve", ...statements);

    expect(functions.length).toBeGreaterThan(4);
    for (const { name } of functions) {
      for (const make of [
        `create trigger t after insert on app.mine for each row execute function ${name}()`,
        `create constraint trigger t after insert on app.mine for each row execute function ${name}()`,
        `create event trigger t on sql_drop execute function ${name}()`,
      ]) {
        await expect(forge("create table app.mine (id int)", make), make).rejects.toMatchObject({
          code: expect.stringMatching(/^42501$|^42P17$/),
        });
      }
    }
    for (const make of [
      "create table app.mine partition of app.parted for values in (1)",
      "create table app.mine () inherits (app.users)",
    ]) {
      await expect(forge(make), make).rejects.toMatchObject({ code: "42501" });
    }
    await forge("create table app.mine (like app.users including all)", "insert into app.mine values (1)");
    expect(await db.query("select from notika.event_log")).toEqual([]);
  });

  test("borrows no rights of a superuser who looks after his table", async ({ db }) => {
    await db.script(`${scene}
      create table app.secrets (id int, secret text);
      select notika.publish('w', 'app.users');
      select notika.grant_publisher('eve');
      grant create on schema app to eve;
      set role eve;
      create table app.bait (id int);
      insert into app.bait values (1);
      create function app.f(int) returns int language plpgsql immutable as 'begin return $1; end';
      create index on app.bait (app.f(id));
      reset role`);

    for (const [call, message] of [
      ["notika.publish('leak', 'app.secrets')", 'role "eve" may not create triggers on table app.secrets'],
      ["notika.plan('leak', 'app.secrets')", 'role "eve" may not create triggers on table app.secrets'],
      ["notika.allow_breaking_change('w', 'x')", 'role "eve" may not decide about workflow "w"'],
      ["notika.release('w', 'x')", 'role "eve" may not decide about workflow "w"'],
      ["notika.begin_maintenance('x')", 'role "eve" may not begin maintenance'],
      ["notika.end_maintenance()", 'role "eve" may not end maintenance'],
    ] as const) {
      await db.script(`
        set role eve;
        create or replace function app.g() returns void language plpgsql as
          'begin perform ${call.replaceAll("'", "''")}; raise exception ''it worked''; end';
        create or replace function app.f(int) returns int language plpgsql immutable as
          'begin perform app.g(); return $1; end';
        reset role`);

      await expect(db.query("reindex table app.bait"), call).rejects.toMatchObject({ code: "42501", message });
    }
    expect(await db.query("select workflow from notika.workflows")).toEqual([{ workflow: "w" }]);
    expect(await db.query("select * from notika.guard_log")).toEqual([]);
  });

  test("cannot let a condition look at what he may not read", async ({ db }) => {
    await db.script(`${scene}
      select notika.grant_publisher('eve');
      grant trigger, select (id, at) on app.users to eve;
      grant usage on schema app to notika;
      grant select, trigger on app.users to notika`);

    for (const condition of [
      "new.email > ''a''",
      "new::text > ''a''",
      "format(''%s'', new) > ''a''",
      "new is distinct from old",
      "(new.*) is not null",
      "row(new.*) = row(old.*)",
      "(new).email > ''a''",
      "(new.email)::int > 0",
      "to_jsonb(new) ->> ''email'' > ''a''",
      "case when new.id > 0 then true else new.email > ''a'' end",
      "(array[new])[1].email > ''a''",
      "new.email is null and false",
      "pg_column_size(new.email) > 3",
      "pg_column_size(new) > 3",
    ]) {
      for (const call of ["publish", "plan"]) {
        const text = `select * from notika.${call}('w', 'app.users', '{update}', '{id}', condition => '${condition}')`;
        await expect(asRole(db, "eve", text), text).rejects.toMatchObject({
          code: "42501",
          message: expect.stringContaining('role "eve" may not read'),
        });
      }
    }
    await asRole(db, "eve", "select notika.publish('w', 'app.users', columns => '{id}', condition => 'new.id > 0')");
    await expect(asRole(db, "eve", `select notika.configure('w', '{"key": "email"}')`)).rejects.toMatchObject({
      code: "42703",
    });
  });

  test("sees nothing of rows in what is said to him", async ({ db }) => {
    await db.script(`${scene}
      select notika.grant_publisher('eve');
      grant trigger, select (id) on app.users to eve;
      insert into app.users values (7, 'top secret')`);

    for (const call of [
      "select notika.publish('w', 'app.users')",
      "select notika.publish('w', 'app.users', columns => '{id,email}')",
      "select notika.publish('w', 'app.users', '{update}', '{id}', watch => '{email}')",
      "select notika.publish('w', 'app.users', columns => '{id}', condition => 'new.email > ''a''')",
      "select notika.publish('w', 'app.users', columns => '{id}', condition => 'new is not null')",
      "select notika.publish('w', 'app.users', columns => '{id}', condition => 'pg_catalog.row_to_json(new)::text > ''a''')",
      "select * from notika.plan('w', 'app.users', columns => '{email}')",
      "select * from notika.check_ddl('alter table app.users add check (email is null)')",
      "select * from notika.check_ddl('do $$ begin raise exception ''%'', (select email from app.users); end $$')",
    ]) {
      const said = await asRole(db, "eve", call).then(JSON.stringify, ({ message, detail, hint, code }) => {
        expect(code, call).toBe("42501");
        return [message, detail, hint].join();
      });
      expect(said, call).not.toContain("top secret");
    }
  });
});

async function owner({ query }: TestDatabase) {
  const [row] = await query<{ owner: string }>(
    "select nspowner::regrole::text as owner from pg_namespace where nspname = 'notika'",
  );
  return row?.owner;
}
