import { engine, isThorough, type TestDatabase } from "../../support/database.ts";

const guards = ["block", "warn", "off"] as const;
const shapes = ["one text", "a transaction", "repeatable read"] as const;
export type Guard = (typeof guards)[number];
export type Shape = (typeof shapes)[number];

/** A migration; `$s` is the schema that it has for itself, `$o` the owner of Notika. */
export interface Migration {
  ddl: string[];
  /** What there is besides the usual tables, made before publishing. */
  given?: string;
  /** The arguments of publish after the table. */
  publish?: string;
  table?: string;
  /** A write that comes after it. */
  write?: string;
  /** What becomes of it where the guard judges at commit. */
  judged: Outcomes;
  /** And where there are only pins; later: after `notika.check()`. */
  pinned: Outcomes;
}

/** For each guard; others: for those that are not named. */
export type Outcomes = Outcome | { block: Outcome; warn?: Outcome; off?: Outcome; others?: Outcome };

/**
 * Whether it was refused and why, the state of the workflow, the keys of the last event of a write that came after it
 * (and how many events there are, if more than one), and what guard_log says.
 */
export type Outcome = string;

/** All migrations, or those whose name NOTIKA_TEST_MIGRATION matches. */
export const chosen = (migrations: Record<string, Migration>) =>
  Object.entries(migrations).filter(([name]) => name.match(process.env.NOTIKA_TEST_MIGRATION ?? ""));

/**
 * The guards that a migration meets where there is time: all of them.  Else one on PostgreSQL 18, by turns: block where the
 * guard judges or where there are only pins, one of the others where it is not block; and a third of them on 15.
 */
export const guardsFor = (place: number, kind: "judged" | "pinned"): readonly Guard[] => {
  if (isThorough) return guards;
  if (engine === "15" && place % 3 > 0) return [];
  const isBlock = (place + (kind === "judged" ? 0 : 1) + (engine === "15" ? 1 : 0)) % 2 === 0;
  return [isBlock ? "block" : place % 4 < 2 ? "warn" : "off"];
};

/** How a migration is applied: in the shapes by turns, differently for each guard and version, or where there is time in all. */
export const shapesFor = (guard: Guard, place: number): readonly Shape[] => {
  if (isThorough) return shapes;
  const turn = place + guards.indexOf(guard) + (engine === "15" ? 0 : 1);
  return shapes.filter((_, other) => other === turn % shapes.length);
};

export const outcomeFor = (outcomes: Outcomes, guard: Guard) =>
  typeof outcomes === "string" ? outcomes : (outcomes[guard] ?? outcomes.others);

const tables = `
  create schema $s;
  create type $s.status as enum ('new', 'old');
  create domain $s.age as int;
  create type $s.address as (street text, town text);
  create table $s.users (
    id bigint, email varchar(50), status $s.status default 'new', age $s.age, address $s.address, junk int,
    note varchar(50)
  );
  create table $s.other (id int, users_id int);`;

/** Applies a migration to tables of its own, on which a workflow was published by `publisher`. */
export async function migrate(
  db: TestDatabase,
  { ddl, given, publish, table, write }: Migration,
  { guard, shape, publisher }: { guard: Guard; shape: Shape; publisher?: string },
): Promise<Outcome> {
  const schema = `s${++schemas}`;
  const fill = (text: string) => text.replaceAll("$s", schema);

  await db.script(fill(`${tables}${given ?? ""}`));
  if (publisher) {
    await db.script(
      fill(`
      grant usage on schema $s to ${publisher};
      grant select, trigger on all tables in schema $s to ${publisher};`),
    );
  }
  await inTransaction(db, [
    ...(publisher ? [`set local role ${publisher}`] : []),
    fill(`select notika.publish('$s', '${table ?? "$s.users"}',
      ${publish ?? "operations => '{insert,update,delete}', columns => '{id,email,status}'"}, guard => '${guard}')`),
  ]);

  const [{ id } = { id: 0 }] = await db.query<{ id: number }>(
    "select workflow_id as id from notika.workflow where name = $1",
    [schema],
  );
  const owner = publisher ?? "notika";
  const statements = ddl.map((text) => fill(text).replaceAll("$n", String(id)).replaceAll("$o", owner));

  let outcome: Outcome;
  try {
    if (shape === "one text") await db.script(statements.join(";\n"));
    else {
      await inTransaction(db, statements, shape === "repeatable read" ? shape : "read committed");
    }
    outcome = "";
  } catch (error) {
    const { code, message } = error as { code: string; message: string };
    outcome = `refused ${code}: ${message.replaceAll(schema, "s").replaceAll(/(notika|payload)_\d+/g, "$1_n")}, still `;
  }
  try {
    await db.script(fill(write ?? "insert into $s.users (id) values (1)"));
  } catch (error) {
    outcome += `(${(error as Error).message.replaceAll(schema, "s")}) `;
  }
  // Without event triggers that is when it is found out.
  const soon = publisher ? await after(db, schema) : "";
  if (publisher) await db.query("select notika.check()");
  const later = await after(db, schema);
  if (!later.startsWith("unpublished")) await db.query("select notika.unpublish($1)", [schema]);
  return outcome + (soon && soon !== later ? `${soon}, later ${later}` : later);
}
let schemas = 0;

async function after(db: TestDatabase, workflow: string): Promise<string> {
  const [row] = await db.query<{ outcome: string }>(
    `select concat(
              coalesce((select state from notika.workflows where workflow = $1), 'unpublished'), ' ',
              coalesce((select '{' || string_agg(k, ',') || '}' from (
                select json_object_keys(coalesce(new, old)) as k from notika.event_log as e
                 where e.event_id = (select max(event_id) from notika.event_log where workflow = $1)) as k), '-'),
              case when (select count(*) from notika.event_log where workflow = $1) > 1
                   then ' x' || (select count(*) from notika.event_log where workflow = $1) end,
              (select ': ' || string_agg(
                        concat_ws(' ', l.verdict, l.kind, case when l.statement is null and l.reason is null then '(no statement)' end),
                        ', ' order by l.guard_log_id)
                 from notika.guard_log as l where l.workflow = $1)) as outcome`,
    [workflow],
  );
  return row?.outcome ?? "";
}

async function inTransaction({ database }: TestDatabase, statements: string[], isolation = "read committed") {
  const session = await database.acquire(60_000);
  try {
    for (const statement of [`begin isolation level ${isolation}`, ...statements, "commit"]) {
      await session.query(statement);
    }
  } catch (error) {
    await session.query("rollback");
    throw error;
  } finally {
    session.release();
  }
}

/** Leaves only the pins: Notika belongs to a role without superuser, which cannot create event triggers. */
export async function giveToKeeper(db: TestDatabase): Promise<void> {
  await db.script(`
    create role keeper;
    drop event trigger notika_guard_start;
    drop event trigger notika_guard_drop;
    drop event trigger notika_guard_end;
    do $$
    declare
      statement text;
    begin
      for statement in
        select format('alter schema %I owner to keeper', nspname) from pg_namespace where nspname ~ '^notika'
        union all
        select format('alter %s %s owner to keeper', case relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end,
                      oid::regclass)
          from pg_class as c
         where relnamespace::regnamespace::text ~ '^notika' and relkind in ('r', 'v', 'S')
           and not exists (select from pg_depend where objid = c.oid and deptype in ('a', 'i') and refobjsubid > 0)
        union all
        select format('alter routine %s owner to keeper', oid::regprocedure)
          from pg_proc where pronamespace::regnamespace::text ~ '^notika'
      loop
        execute statement;
      end loop;
    end $$;`);
}
