import { test } from "../../support/database.ts";
import { expectTwins } from "./twins.ts";

const item = `
  create table item (id int primary key, note text, n numeric);
  insert into item values (1, 'one', 1), (2, 'two', 2.50), (3, null, 'NaN');`;

const trigger = (name: string, when: string, body: string) => `
  create function ${name}() returns trigger language plpgsql as $$ begin ${body} end $$;
  create trigger ${name} ${when} for each row execute function ${name}();`;

test("triggers of others change the row, suppress it, write again and fail", async ({ db }) => {
  await expectTwins(db, {
    given: `${item} create table log (id serial, note text);
      ${trigger("b_change", "before insert or update on item", "new.note = upper(new.note); return new;")}
      ${trigger("b_skip", "before insert or update or delete on item", "if coalesce(new.id, old.id) = 3 then return null; end if; return coalesce(new, old);")}
      ${trigger("a_again", "after insert on item", "if new.id = 7 then update item set n = 8 where id = 7; end if; return null;")}
      ${trigger("z_again", "after insert or update on item", "if new.n < 5 then update item set n = n + 1 where id = new.id; end if; return null;")}
      ${trigger("z_log", "after insert or update or delete on item", "insert into log (note) values (tg_op || ' ' || coalesce(new.id, old.id)); return null;")}
      ${trigger("z_fail", "after insert on item", "if new.id = 13 then raise exception 'no thirteen' using hint = 'Take 14.'; end if; return null;")}`,
    write: [
      "insert into item values (4, 'four', 3.5) returning *",
      "insert into item values (7, 'seven', 7) returning *",
      "insert into item values (3, 'not', 7) returning *",
      "update item set note = 'x' where id in (2, 3) returning *",
      "delete from item where id in (2, 3) returning *",
      ["insert into item values (13, 'thirteen', 7)", "P0001"],
      "select * from log",
    ],
    captured: { "insert item": 2, "update item": 7, "insert log": 10, "delete item": 1 },
    nested: true,
  });
});

test("a trigger that is deferred to the commit writes once more", async ({ db }) => {
  await expectTwins(db, {
    given: `${item}
      create function last() returns trigger language plpgsql as
        'begin update item set note = ''last'' where id = new.id and note <> ''last''; return null; end';
      create constraint trigger last after insert or update on item deferrable initially deferred
        for each row execute function last();`,
    write: [
      "begin",
      "insert into item values (4, 'four', 4)",
      "update item set note = 'x' where id = 1",
      "select * from item order by id",
      "commit",
      "select * from item order by id",
    ],
    captured: { "insert item": 1, "update item": 3 },
  });
});

test("triggers of others change the session", async ({ db }) => {
  await expectTwins(db, {
    given: `${item}
      create schema <schema>_evil;
      create function <schema>_evil.lower(text) returns text language plpgsql as 'begin raise exception ''hijacked''; end';
      create function <schema>_evil.to_json(anyelement) returns json language plpgsql as 'begin raise exception ''hijacked''; end';
      ${trigger("b_path", "before insert or update on item", "perform set_config('search_path', '<schema>_evil, pg_catalog', true); return new;")}
      ${trigger("a_odd", "after insert or update on item", "perform set_config('standard_conforming_strings', 'off', true), set_config('datestyle', 'German', true), set_config('row_security', 'off', true); return null;")}`,
    write: [
      "begin",
      "insert into item values (4, 'four', 4)",
      "update <schema>.item set note = 'x' where id = 1",
      "commit",
      "drop schema <schema>_evil cascade",
    ],
    captured: { "insert item": 1, "update item": 1 },
  });
});

test("a replica's triggers stay silent, and so do those that are left to it", async ({ db }) => {
  await expectTwins(db, {
    given: `${item} ${trigger("a_replica", "before insert on item", "perform set_config('session_replication_role', 'replica', true); return new;")}`,
    write: [
      "begin",
      "insert into item values (4, 'four', 4) returning *",
      "rollback",
      "insert into item values (5)",
      "delete from item where id = 5",
    ],
    captured: { "delete item": 1 },
    truncated: true,
  });
});

test("views and rules write for others", async ({ db }) => {
  await expectTwins(db, {
    given: `${item}
      create view simple as select id, note from item where id < 100 with check option;
      create view joined as select a.id, b.note from item as a join item as b using (id);
      create function instead() returns trigger language plpgsql as $$
        begin
          if tg_op = 'DELETE' then delete from item where id = old.id; return old; end if;
          insert into item (id, note) values (new.id, new.note) on conflict (id) do update set note = excluded.note;
          return new;
        end $$;
      create trigger instead instead of insert or update or delete on joined for each row execute function instead();
      create table inbox (id int, note text);
      create rule sort as on insert to inbox where new.id > 10 do instead insert into item (id, note) values (new.id, new.note);
      create rule twice as on delete to inbox do also delete from item where id = old.id;`,
    write: [
      "insert into simple values (4, 'four') returning *",
      ["insert into simple values (104, 'much')", "44000"],
      "update simple set note = 'x' where id = 1 returning *",
      "insert into joined values (5, 'five') returning *",
      "update joined set note = 'y' where id = 2 returning *",
      "delete from joined where id = 2 returning *",
      "insert into inbox values (11, 'sorted'), (1, 'kept')",
      "delete from inbox",
    ],
    captured: { "insert item": 3, "update item": 2, "delete item": 2, "insert inbox": 1, "delete inbox": 1 },
  });
});

test("whoever writes may have few rights, and need none to Notika", async ({ db }) => {
  await db.script("create role writer; create role fellow; grant fellow to writer");
  await expectTwins(db, {
    given: `
      grant usage on schema <schema> to writer;
      create table secured (id int primary key, owner text, note text);
      alter table secured enable row level security;
      alter table secured force row level security;
      create policy own on secured using (owner = current_user);
      create policy put on secured for insert with check (true);
      create table partial (id int primary key, open text, hidden text default 'h');
      create table closed (id int primary key);
      insert into secured values (1, 'writer', 'mine'), (2, 'somebody', 'theirs');
      insert into partial values (1, 'open', 'hidden');
      grant insert, select, update, delete on secured to writer;
      grant insert (id, open), select (id), update (open) on partial to writer;
      create function enter(int) returns int language sql security definer set search_path = <schema> as
        'insert into closed values ($1) returning id';
      create function leave() returns trigger language plpgsql security definer as
        'begin delete from <schema>.closed where id = old.id; return null; end';
      create trigger leave after delete on secured for each row execute function leave();
      grant execute on function enter to writer;
      grant insert on closed to fellow;
      grant usage on schema <schema> to fellow;`,
    write: [
      "set role writer",
      "insert into secured values (3, 'somebody else', 'given')",
      ["insert into secured values (4, 'somebody', 'x') returning *", "42501"],
      "update secured set note = 'x' returning *",
      ["update secured set owner = 'somebody'", "42501"],
      "insert into partial (id, open) values (2, 'o') returning id",
      ["insert into partial (id, hidden) values (3, 'o')", "42501"],
      ["insert into partial (id) values (3) returning *", "42501"],
      "update partial set open = 'x' where id = 1",
      ["delete from partial", "42501"],
      ["select * from closed", "42501"],
      "select enter(1)",
      "set role fellow",
      "insert into closed values (2)",
      "set role writer",
      "delete from secured returning *",
      "select current_user, session_user = current_user as same",
    ],
    captured: {
      "insert secured": 1,
      "update secured": 1,
      "insert partial": 1,
      "update partial": 1,
      "insert closed": 2,
      "delete secured": 1,
      "delete closed": 1,
    },
  });
});

test("the settings of the writer are odd, and stay as they are", async ({ db }) => {
  const odd: Record<string, string> = {
    search_path: "pg_temp, <schema>",
    standard_conforming_strings: "off",
    escape_string_warning: "off",
    backslash_quote: "off",
    datestyle: "German",
    intervalstyle: "sql_standard",
    timezone: "Asia/Kathmandu",
    bytea_output: "escape",
    extra_float_digits: "-15",
    lc_monetary: "C.UTF-8",
    xmlbinary: "hex",
    xmloption: "document",
    array_nulls: "off",
    transform_null_equals: "on",
    quote_all_identifiers: "on",
    check_function_bodies: "off",
    row_security: "off",
    plan_cache_mode: "force_generic_plan",
    work_mem: "64kB",
    statement_timeout: "30s",
    default_transaction_read_only: "on",
    default_transaction_isolation: "serializable",
    default_transaction_deferrable: "on",
    "plpgsql.variable_conflict": "use_column",
    "plpgsql.extra_errors": "all",
    "plpgsql.check_asserts": "off",
    constraint_exclusion: "off",
    debug_parallel_query: "on",
    "notika.run": "1/1",
  };
  const show = `select ${Object.keys(odd)
    .filter((name) => name !== "debug_parallel_query")
    .map((name) => `current_setting('${name}') as "${name}"`)}`;
  await expectTwins(db, {
    given: `
      create table item (id serial primary key, at timestamptz, lasts interval, raw bytea, f float8, m numeric, a int[], j json, t text);
      grant usage on schema <schema> to public;`,
    write: [
      ...Object.entries(odd)
        .filter(([name]) => name !== "debug_parallel_query" || !["15"].includes(db.engine))
        .map(([name, value]) => `set ${name} = ${name === "search_path" ? value : `'${value}'`}`),
      ["insert into item (t) values ('read only')", "25006"],
      "set default_transaction_read_only = off",
      `insert into item (at, lasts, raw, f, m, a, j, t) values
         ('22.11.2026 12:00', '1 2:03:04', decode('00ff5c', 'hex'), 0.30000000000000004, 1.50, array[1, null], '{"a": 1.10}', 'x\\\\y') returning *`,
      "update item set f = 1.1, at = '1.2.2026 13:00 BC' returning *",
      "begin isolation level repeatable read",
      "update item set t = null returning t",
      "commit",
      show,
      "delete from item",
    ],
    captured: { "insert item": 1, "update item": 2, "delete item": 1 },
  });
});
