import { raw } from "sql-template-tag";
import type { Execute } from "../../runner/database/statements.ts";
import type { TestDatabase } from "../support/database.ts";

type Db = Pick<TestDatabase, "query" | "database">;

/** The captured events of a workflow, oldest first. */
export async function events({ query }: Db, workflow = "w") {
  return query<{ operation: string; table_name: string; new: unknown; old: unknown }>(
    `select operation, table_name, new, old from notika.event_log where workflow = $1 order by event_id`,
    [workflow],
  );
}

/** The new rows of the captured events, oldest first. */
export async function captured(db: Db, workflow = "w") {
  return (await events(db, workflow)).map((event) => event.new);
}

/** Runs statements in one transaction and gives the rows of the last. */
export function inTransaction<Row extends object>({ database }: Db, ...statements: string[]): Promise<Row[]> {
  return database.transaction((execute) => inOrder(execute, statements));
}

/** Runs statements as `role`, in one transaction, and gives the rows of the last. */
export function asRole<Row extends object>(db: Db, role: string, ...statements: string[]): Promise<Row[]> {
  return inTransaction(db, `set local role "${role}"`, ...statements);
}

/** Runs statements in a transaction that is rolled back, and gives the rows of the last. */
export async function undone<Row extends object>({ database }: Db, ...statements: string[]): Promise<Row[]> {
  const undo = new Error("undo");
  let rows: Row[] = [];
  await database
    .transaction(async (execute) => {
      rows = await inOrder(execute, statements);
      throw undo;
    })
    .catch((error) => {
      if (error !== undo) throw error;
    });
  return rows;
}

async function inOrder<Row extends object>(execute: Execute, statements: string[]): Promise<Row[]> {
  let rows: Row[] = [];
  for (const statement of statements) rows = await execute<Row>(raw(statement));
  return rows;
}

/** What a session is told while it runs a statement. */
export async function told({ database }: Db, statement: string) {
  const client = await database.pool.connect();
  const notices: { message?: string | undefined; detail?: string | undefined; hint?: string | undefined }[] = [];
  const listen = ({ message, detail, hint }: (typeof notices)[number]) =>
    notices.push({ message, ...(detail && { detail }), ...(hint && { hint }) });
  try {
    client.on("notice", listen);
    await client.query(statement);
    return notices;
  } finally {
    client.off("notice", listen);
    client.release();
  }
}

/** Everything that publish makes in the catalog, as Postgres describes it. */
export function generated({ query }: Db) {
  return query<{ kind: string; name: string; definition: string }>(generated.statement);
}

generated.statement = `
  select 'trigger' as kind, tgname || ' on ' || tgrelid::regclass as name,
         pg_get_triggerdef(oid) || tgenabled::text as definition
    from pg_trigger
   where tgname ~ '^notika_\\d' and tgparentid = 0
  union all
  select 'function', oid::regprocedure::text, pg_get_functiondef(oid) || coalesce(proacl::text, '')
    from pg_proc
   where pronamespace = 'notika'::regnamespace and proname ~ '^(payload|_capture|_truncated)_\\d'
   order by 1 desc, 2`;

/** The names alone. */
export async function generatedNames(db: Db) {
  return (await generated(db)).map(({ name }) => name);
}

/** What an administrator does so that tables made later can be captured, too: Notika's owner has no right on them else. */
export const grantedLater = `
  alter default privileges grant usage on schemas to notika;
  alter default privileges grant select, trigger on tables to notika;`;

/** Leaves only the pins to protect what is published, as where event triggers cannot be created. */
export const noEventTriggers = `
  drop event trigger notika_guard_start;
  drop event trigger notika_guard_drop;
  drop event trigger notika_guard_end;`;
