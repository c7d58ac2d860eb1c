import { readdir } from "node:fs/promises";
import { describe, expect } from "vitest";
import { codeFiles, readText, tableFiles } from "../../runner/install/migrations.ts";
import { catalog } from "../migrations/catalog.ts";
import { test } from "../support/database.ts";
import { noEventTriggers } from "./support.ts";

const read = (names: string[]) => Promise.all(names.map(async (name) => ({ name, text: await readText(name) })));
const code = await read(await codeFiles());
const files = [...(await read(await tableFiles())), ...code];

/** Something of each kind that publish makes. */
const published = `
  create schema app;
  create table app.users (id bigint primary key, email text);
  create table app.admins () inherits (app.users);
  select notika.publish('some', 'app.users', '{insert,update,delete}', '{id}', condition => 'true');
  select notika.publish('whole', 'app.users');`;

test("the SQL that is installed is ASCII, so that a server of any encoding takes it", async () => {
  const others = await read(
    (await readdir("migrations", { recursive: true }))
      .filter((name) => name.endsWith(".sql"))
      .map((name) => `migrations/${name}`),
  );
  const found = [...files, ...others].flatMap(({ name, text }) =>
    // biome-ignore lint/suspicious/noControlCharactersInRegex: all of ASCII is meant
    (text.match(/.*[^\x00-\x7f].*/g) ?? []).map((line) => `${name}: ${line}`),
  );

  expect(found).toEqual([]);
});

describe("in schema notika", () => {
  test("everything has a comment", async ({ db }) => {
    expect(
      await db.query(`
        with object (name, comment) as (
          select 'schema ' || nspname, obj_description(oid, 'pg_namespace')
            from pg_namespace where nspname = 'notika'
          union all
          select 'relation ' || relname, obj_description(oid, 'pg_class')
            from pg_class where relnamespace = 'notika'::regnamespace and relkind in ('r', 'v', 'm', 'p')
          union all
          select 'sequence ' || relname, obj_description(c.oid, 'pg_class')
            from pg_class as c
           where relnamespace = 'notika'::regnamespace and relkind = 'S'
             and not exists (select from pg_depend where objid = c.oid and deptype = 'i') -- an identity column's
          union all
          select 'column ' || attrelid::regclass || '.' || attname, col_description(attrelid, attnum)
            from pg_attribute
            join pg_class on pg_class.oid = attrelid
           where relnamespace = 'notika'::regnamespace and relkind in ('r', 'v', 'm', 'p')
             and attnum > 0 and not attisdropped
          union all
          select 'function ' || oid::regprocedure, obj_description(oid, 'pg_proc')
            from pg_proc where pronamespace = 'notika'::regnamespace
        )
        select name, comment from object where coalesce(comment, '') = '' order by 1`),
    ).toEqual([]);
  });

  // On Debian's PostgreSQL 15, which has LLVM, publish and ALTER TABLE took half a second, and a twentieth without it.
  test("what runs in DDL, and what carries requests out, is not compiled", async ({ db }) => {
    const entries = ["_execute_request", "_guard_at_commit", "_note_commands", "_note_dropped", "_unpin_for_command"];
    const others = ["_do_refresh", "_health", "_plan", "check", "dispatch", "maintain"];

    expect(
      await db.query(
        `select proname from pg_proc
          where pronamespace = 'notika'::regnamespace and proname = any ($1) and 'jit=off' = any (proconfig)
          order by proname collate "C"`,
        [[...entries, ...others]],
      ),
    ).toEqual([...entries, ...others].sort().map((proname) => ({ proname })));
  });

  test("no function means something else where standard_conforming_strings is off", async ({ db }) => {
    const functions = await db.query<{ definition: string }>(`
      select pg_get_functiondef(oid) as definition from pg_proc
       where pronamespace = 'notika'::regnamespace and prokind = 'f' and prosqlbody is null`);
    const client = await db.database.pool.connect();
    const warnings: unknown[] = [];
    client.on("notice", (notice) => warnings.push(notice.message));
    try {
      // A language's function is looked through when it is made.
      await client.query("begin; set local standard_conforming_strings = off; set local client_min_messages = warning");
      for (const { definition } of functions) {
        await client.query(definition);
        if (warnings.length > 0) warnings.push(definition.slice(0, 80));
        expect(warnings).toEqual([]);
      }
    } finally {
      client.removeAllListeners("notice");
      await client.query("rollback");
      client.release();
    }
  });

  test("every function with a backslash in its body pins standard_conforming_strings", async ({ db }) => {
    expect(
      await db.query(`
        select oid::regprocedure::text as function from pg_proc
         where pronamespace = 'notika'::regnamespace and strpos(prosrc, E'\\\\') > 0
           and 'standard_conforming_strings=on' <> all (coalesce(proconfig, '{}'))
         order by 1`),
    ).toEqual([]);
  });

  test("every table has a key by which a publication lets it change, but for the segments, which do not", async ({
    db,
  }) => {
    expect(
      await db.query(`
        select relname from pg_class as c
         where relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace) and relkind = 'r'
           and relreplident <> 'f'
           and not exists (select from pg_index where indrelid = c.oid and indisprimary)
         order by relname`),
    ).toEqual([{ relname: "event_log_0" }, { relname: "event_log_1" }, { relname: "event_log_2" }]);
  });

  test("every function pins its search_path, but for those of triggers, in which every name is qualified", async ({
    db,
  }) => {
    await db.script(published);

    expect(
      await db.query(`
        select oid::regprocedure as function, proconfig from pg_proc
         where pronamespace = 'notika'::regnamespace
           and prosqlbody is null -- a begin atomic body is resolved when it is created
           -- One runs the caller's DDL, as the caller; the other passes the caller's path on, and does no more.
           and proname not in ('check_ddl', '_guard_start')
           and proname <> 'refresh' -- it commits, which a procedure with a setting cannot
           and proname <> '_exactly' -- Postgres puts its argument in its place, which a setting would forbid
           -- A setting would cost every row; attacks.test.ts shows that they need none.
           and proname !~ '^_capture_[0-9]'
           and 'search_path=pg_catalog, pg_temp' <> all (coalesce(proconfig, '{}'))`),
    ).toEqual([]);
  });

  test("nobody has a right that was not granted, also on what publish makes", async ({ db }) => {
    await db.script(published);
    await db.script(`select notika.publish('some', 'app.users', '{insert}', '{id,email}')`);

    expect(
      await db.query(`
        with object (name, acl) as (
          select 'function ' || oid::regprocedure, coalesce(proacl, acldefault('f', proowner))
            from pg_proc where pronamespace = 'notika'::regnamespace
          union all
          select 'relation ' || oid::regclass,
                 coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner))
            from pg_class where relnamespace = 'notika'::regnamespace and relkind in ('r', 'v', 'm', 'p', 'S')
          union all
          select 'column ' || attrelid::regclass || '.' || attname, attacl
            from pg_attribute join pg_class on pg_class.oid = attrelid
           where relnamespace = 'notika'::regnamespace and attacl is not null
          union all
          select 'schema ' || nspname, coalesce(nspacl, acldefault('n', nspowner))
            from pg_namespace where nspname in ('notika', 'notika_worker')
        )
        select name, privilege_type from object, aclexplode(acl) where grantee = 0 order by 1, 2`),
    ).toEqual([]);
  });

  test("only the conditions of workflows without pins may be evaluated by everybody, with his own rights", async ({
    db,
  }) => {
    await db.script(`${noEventTriggers}
      ${published}
      select notika.publish('warns', 'app.users', columns => '{id}', condition => 'new.id > 0', guard => 'warn')`);

    expect(
      await db.query(`
        select proname, prosecdef from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) as a
         where pronamespace = 'notika'::regnamespace and a.grantee = 0`),
    ).toEqual([{ proname: "_passes_3", prosecdef: false }]);
  });

  test("the verbs that decide by their caller run with his rights, and what they ask for with the owner's", async ({
    db,
  }) => {
    await db.script(published);

    expect(
      await db.query(
        `select oid::regprocedure as function, prosecdef from pg_proc
          where pronamespace = 'notika'::regnamespace
            and prosecdef <> case
              when oid in (select function from notika._verbs())
                or proname in ('_submit_request', 'plan', 'uninstall', '_administer', 'check_ddl') then false
              when prorettype = 'trigger'::regtype and proname ~ '^_capture_'
                or proname in ('_execute_request', 'emit', 'dispatch', 'maintain') then true
              else prosecdef
            end`,
      ),
    ).toEqual([]);
    expect(
      await db.query(`
        select n.name from unnest('{publish,plan,unpublish,pause,resume,emit,retry,cancel,configure,dispatch,maintain,
                                    install,_execute_request}'::text[]) as n (name)
         where not exists (
           select from pg_proc as p where p.pronamespace = 'notika'::regnamespace and p.proname = n.name
         ) or n.name not in (select verb from notika._verbs())
              and n.name not in ('plan', 'emit', 'dispatch', 'maintain', '_execute_request')`),
    ).toEqual([]);
  });

  test("each function that others may call is in the list of rights, with those who may", async ({ db }) => {
    expect(
      await db.query(`
        select distinct proname as "not in notika._rights()"
          from pg_proc
         where pronamespace = 'notika'::regnamespace
           and proname !~ '^(_capture|_passes|payload)_[0-9]+$'
           and prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
           -- Whoever runs with the owner's rights is meant to be called by somebody else.
           and (proname !~ '^_' or prosecdef)
           and proname not in (select name from notika._rights() where kind = 'function')
        union all
        select relname from pg_class
         where relnamespace = 'notika'::regnamespace and relkind = 'v' and relname !~ '^_'
           and relname not in (select name from notika._rights() where kind = 'view')`),
    ).toEqual([]);
  });

  test("the list of rights names only what there is, once", async ({ db }) => {
    expect(
      await db.query(`
        select kind, name, count(*)::int from notika._rights()
         where case kind
                 when 'function' then name not in (select proname from pg_proc where pronamespace = 'notika'::regnamespace)
                 when 'request' then name not in (
                   select relname from pg_trigger join pg_class as c on c.oid = tgrelid
                    where relnamespace = 'notika'::regnamespace and relkind = 'v'
                      and tgfoid = 'notika._execute_request()'::regprocedure
                 )
                 else (name, kind) not in (
                   select relname, case relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end
                     from pg_class where relnamespace = 'notika'::regnamespace
                 )
               end
         group by kind, name
        union all
        select kind, name, count(*)::int from notika._rights() group by kind, name having count(*) > 1
        union all
        select kind, name, 1 from notika._rights()
         where kind not in ('function', 'view', 'table', 'sequence', 'request')
            or not parts <@ '{publisher,runner,reader,monitor,guard}'`),
    ).toEqual([]);
  });

  test("the functions of a view may be called by those who may read it", async ({ db }) => {
    expect(
      await db.query(`
        select v.name as view, p.oid::regprocedure as function, v.parts
          from notika._rights() as v
          join pg_rewrite as r on r.ev_class = format('notika.%I', v.name)::regclass
          join pg_depend as d
            on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_proc'::regclass
          join pg_proc as p on p.oid = d.refobjid and p.pronamespace = 'notika'::regnamespace
         where v.kind = 'view' and not exists (
           select from notika._rights() as f
            where f.kind = 'function' and f.name = p.proname and f.parts @> v.parts
         )`),
    ).toEqual([]);
  });

  test("public functions have parameters with plain names, and all names are in lower case", async ({ db }) => {
    expect(
      await db.query(`
        select p.oid::regprocedure as function, a.name
          from pg_proc as p
          left join lateral unnest(p.proargnames) as a (name) on true
         where pronamespace = 'notika'::regnamespace
           and (a.name !~ '^[a-z][a-z_]*$' and proname !~ '^_'
                or p.pronargs > 0 and p.proargnames is null
                or p.proname !~ '^_?[a-z][a-z_]*$')`),
    ).toEqual([]);
  });

  test("loading everything again changes nothing", async ({ db }) => {
    const before = await catalog(db.database.execute);
    const rows = () =>
      db.query(`select (select json_agg(s) from notika.setting as s) as setting,
                       (select json_agg(p) from notika.position as p) as position,
                       pg_sequence_last_value('notika.event_id_seq') as event_id,
                       pg_sequence_last_value('notika.control_seq') as control`);
    await db.script(`update notika.setting set max_attempts = 5`);
    const beforeRows = await rows();

    for (const { text } of code) await db.script(text);
    await db.query(`select notika.install()`);

    expect(await catalog(db.database.execute)).toEqual(before);
    expect(await rows()).toEqual(beforeRows);
  });
});

describe("the files in sql/", () => {
  test("name every constraint", () => {
    const unnamed = lines(({ text }) => /^\s+(check|primary key|unique)\b/.test(text));
    expect(unnamed).toEqual([]);
    expect(
      lines(
        ({ text }) =>
          /^\s+\w+ [a-z0-9_[\]]+ .*\b(check \(|primary key|unique)\b/.test(text) && !/constraint/.test(text),
      ),
    ).toEqual([]);
  });

  test("have no tabs, no trailing blanks, one newline at the end", () => {
    expect(lines(({ text }) => /\t|\s$/.test(text))).toEqual([]);
    expect(files.filter(({ text }) => !/[^\n]\n$/.test(text)).map(({ name }) => name)).toEqual([]);
  });

  test("are written in lower case", () => {
    expect(
      lines(({ text }) =>
        /^\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|FROM|WHERE|AND|OR|BEGIN|END)\b/.test(text),
      ),
    ).toEqual([]);
  });

  test("open with what they hold", () => {
    expect(files.filter(({ text }) => !text.startsWith("-- ")).map(({ name }) => name)).toEqual([]);
  });
});

function lines(isWrong: (line: { text: string }) => boolean) {
  return files.flatMap(({ name, text }) =>
    text
      .split("\n")
      .map((line, i) => ({ name, line: i + 1, text: line }))
      .filter(isWrong),
  );
}
