import type { PoolClient } from "pg";
import { expect } from "vitest";
import { type TestDatabase, test } from "../../support/database.ts";
import { fuzzing, type Random, randomOf } from "../../support/fuzzing.ts";
import { type Call, oddColumn, randomCall, tables } from "./calls.ts";

const { cases, seed } = fuzzing(200);

const quoted = `"${oddColumn.replaceAll('"', '""')}"`;
const columns = `id int, note text, n int, doc json, at timestamptz, mood app.mood, ${quoted} int`;

const scene = `
  create schema app;
  create type app.mood as enum ('a', 'b');
  create sequence app.counter;
  create function app.is_fine(int) returns boolean language sql stable as 'select $1 > 0';
  create table public.canary (id int);
  create table app.secret (secret text);
  create table ${tables[0]} (${columns}, primary key (id));
  create table ${tables[1]} (${columns}, primary key (id));
  create table ${tables[2]} (${columns}, primary key (id)) partition by range (id);
  create table app.part partition of ${tables[2]} default;
  create table ${tables[3]} (more text, primary key (id)) inherits (${tables[0]});
  create table ${tables[4]} ();
  create role eve;
  grant usage on schema app to eve;
  grant usage on schema app to notika;
  grant select, trigger on all tables in schema app to eve, notika;
  revoke all on app.secret from eve, notika;
  grant usage on sequence app.counter to eve;
  select notika.grant_publisher('eve'), notika.grant_runner('eve'), notika.grant_reader('eve');`;

test("whatever is called with, the answer is a result or an error that says what would be right", {
  timeout: cases * 1000,
}, async ({ db, skip }) => {
  if (db.engine === "pglite") skip("it takes two sessions");
  await db.script(scene);
  const random = randomOf(seed);
  const client = await db.database.pool.connect();
  const outcomes = { success: 0, refused: 0 };
  const problems = new Map<string, unknown>();
  try {
    await client.query("set session authorization eve; set statement_timeout = '10s'; set client_min_messages = error");
    for (let i = 0; i < cases; i++) {
      if (i % 10 === 0) await client.query(session(random));
      const call = randomCall(random);

      const error = await errorOf(client, call);
      outcomes[error ? "refused" : "success"]++;
      const wrong = [error && !isMeant(error) && error, await disorder(db), i % 5 === 0 && (await harmDone(db))];
      // One of a kind is enough to read.
      for (const it of wrong.flat())
        if (it) problems.set(`${it.code ?? it.message}${it.where?.split("\n")[0]}`, { i, seed, ...call, ...it });
    }
  } finally {
    await client.query("rollback; reset session authorization; reset all");
    client.release();
  }

  expect([...problems.values()]).toEqual([]);
  expect(outcomes.success).toBeGreaterThan(cases / 10);
});

/** What a session may have set. */
function session(random: Random) {
  const on = () => (random.chance(0.3) ? "on" : "off");
  return `
    set standard_conforming_strings = ${on()};
    set check_function_bodies = ${on()};
    set quote_all_identifiers = ${on()};
    set escape_string_warning = off;
    set search_path = ${random.pick(["app", "public", "pg_temp"])};`;
}

interface Problem {
  code?: string | undefined;
  message: string;
  hint?: string | undefined;
  where?: string | undefined;
}

async function errorOf(client: PoolClient, { text, values }: Call): Promise<Problem | undefined> {
  try {
    await client.query(text, values);
  } catch (error) {
    const { code, message, hint, where } = error as Problem;
    return { code, message, hint, where };
  }
}

/** Whether Notika raised it itself, with a hint, or Postgres before anything was called: a text has no zero byte. */
function isMeant({ code, message, hint, where }: Problem) {
  // That is what it says of its own statements that fail.
  if (/^cannot publish workflow .* on /.test(message)) return false;
  if (code === "22021" && !where?.includes("notika")) return true;
  return hint !== undefined && /^PL\/pgSQL function "?notika"?\."?\w+"?\(.*\) line \d+ at RAISE/.test(where ?? "");
}

/** What the catalog has that is not published, the other way round, or that should not have been touched. */
function disorder(db: TestDatabase) {
  return db.query<Problem>(`
    with published as (
      select w.*, f.relation as part
        from notika.workflow as w
       cross join notika._family(w.relation) as f (relation)
       where w.unpublished_at is null and w.relation is not null
    ), expected (name) as (
      select format('notika_%s_%s on %s', p.workflow_id, o, p.part) from published as p, unnest(p.operations) as o
      union
      select unnest(array[format('notika_%s_truncate on %s', p.workflow_id, p.part), format('_truncated_%s', p.workflow_id)])
        from published as p where 'delete' = any (p.operations)
      union
      select format('_capture_%s', p.workflow_id) from published as p
      union
      select format('payload_%s of %s', p.workflow_id, p.part) from published as p where p.columns is not null and p.is_pinned
      union
      select format('payload_%s of record', w.workflow_id) from notika.workflow as w
       where w.unpublished_at is null and notika._has_fallback(w)
      union
      select format('_passes_%s', p.workflow_id) from published as p where p.condition is not null and not p.is_pinned
    ), present (name) as (
      select format('%s on %s', t.tgname, t.tgrelid::regclass) from pg_trigger as t
       where t.tgname ~ '^notika_' and not t.tgisinternal and t.tgparentid = 0 and t.tgenabled <> 'D'
         and t.tgrelid::regclass::text !~ '^notika'
      union
      select case when p.proname ~ '^payload' then format('%s of %s', p.proname, p.proargtypes[0]::regtype) else p.proname end
        from pg_proc as p
       where p.pronamespace = 'notika'::regnamespace and p.proname ~ '^(payload|_capture|_passes|_condition|_truncated)_\\d'
    )
    select 'missing: ' || name as message from (table expected except table present) as m
    union all
    select 'left: ' || name from (table present except table expected) as l
    union all
    select 'the canary is gone' where to_regclass('public.canary') is null
    union all
    select 'eve is a superuser' from pg_roles where rolname = 'eve' and rolsuper`);
}

/** How a write to any of the tables fails, if it does. */
async function harmDone({ database }: TestDatabase): Promise<Problem | undefined> {
  const undo = new Error("undo");
  return database
    .transaction(async (execute) => {
      const run = (text: string) => execute({ text, values: [] } as never);
      for (const table of tables.slice(0, 4)) {
        await run(`insert into ${table} (id, note, n, doc, mood) values (1, '7', 2, '{"a": "\\u0000"}', 'a')`);
        await run(`update ${table} set n = n + 1, note = '8'`);
        await run(`delete from ${table}`);
      }
      throw undo;
    })
    .catch((error) => {
      // A condition may fail on a value: that is its own doing, as in any other trigger.
      const isOwn = /^(2201B|2200N|22032|22P02|22P05)$/.test(error.code ?? "") && !error.where?.includes("notika");
      return error === undo || isOwn ? undefined : { code: error.code, message: error.message, where: error.where };
    });
}
