import { UsageError } from "../errors.ts";
import { withoutClause } from "./create_table.ts";
import type { Embedded } from "./embedded.ts";
import type { Script, Statement } from "./psql_script.ts";
import { isOfNotika, isOfNoUse, isOnlyRows } from "./schema_kinds.ts";
import { openStandIns, type StandIns } from "./stand_ins.ts";

interface LeftOut {
  line: number;
  statement: string;
  reason: string;
  /** Whether only a default or a check was left out, and the object exists. */
  isPart: boolean;
  /** Whether a stand-in, or a statement that was left out before, may be the cause. */
  isExplained: boolean;
}

export interface LoadedSchema {
  standIns: StandIns;
  leftOut: LeftOut[];
}

/**
 * Loads a schema, written by hand or by pg_dump, into the Postgres in this process.  Leaves out rows and Notika's own
 * objects.  Objects that this Postgres does not have are replaced by stand-ins or left out.  Throws UsageError for several
 * databases.
 */
export async function loadSchema({ db, database }: Embedded, script: Script): Promise<LoadedSchema> {
  const standIns = openStandIns(db, database);
  const leftOut: LeftOut[] = [];
  const statements = script.statements.filter((statement) => !isOfNoUse(statement) && !isOfNotika(statement));
  expectOneDatabase(statements);

  async function run(statement: Statement) {
    let { text } = statement;
    for (let tries = 0; ; tries++) {
      try {
        return await database.script(text);
      } catch (caught) {
        const error = caught as Error & { code?: string; position?: string };
        if (isGoneAlready(error, statement)) return;
        if (tries < 100 && (await standIns.supply(error.message, text, { isSchema: true }))) continue;
        if (isThereAlready(error, statement)) return;
        const plainer = plainerText(text, error);
        note(statement, error.message, plainer !== undefined);
        if (plainer === undefined) return;
        text = plainer;
      }
    }
  }

  function note({ line, bare }: Statement, reason: string, isPart: boolean) {
    if (!isPart && isOnlyRows(bare)) return;
    const isExplained = standIns.names.length > 0 || leftOut.some((earlier) => !earlier.isPart);
    leftOut.push({ line, statement: bare, reason, isPart, isExplained });
  }

  // No event trigger may judge these statements or act on them.
  await database.script("set event_triggers = off; set check_function_bodies = off; set client_min_messages = error");
  for (let at = 0; at < statements.length; at += chunk) {
    const some = statements.slice(at, at + chunk);
    try {
      await database.script(some.map(({ text }) => `${text}\n;`).join("\n"));
    } catch {
      for (const statement of some) await run(statement);
    }
  }
  for (const { line, text } of script.commands) {
    leftOut.push({
      line,
      statement: text,
      reason: "it is a command of psql",
      isPart: !/^\\i/.test(text),
      isExplained: false,
    });
  }

  await endLoading(database, script);
  return { standIns, leftOut: leftOut.sort((a, b) => a.line - b.line) };
}

/** The number of statements that are sent at once: a round trip for each would take most of the time. */
const chunk = 100;

/** Ends loading with the settings that a new session would have. */
async function endLoading(database: Embedded["database"], script: Script) {
  const [row] = (await database.pool.query("select pg_catalog.current_setting('search_path') as path")).rows;
  const paths = script.statements.flatMap(({ text, bare }) => {
    const set = /^alter database .* (set search_path\b.*)$/i.test(bare);
    return set ? [text.replace(/^[\s\S]*?\b(set\s+search_path\b)/i, "$1")] : [];
  });
  await database.script("reset all");
  // pg_dump sets search_path to '' for its own statements.
  if (/^(""|)$/.test(row.path)) await database.script(paths.at(-1) ?? "reset search_path").catch(() => {});
  else await database.pool.query("select pg_catalog.set_config('search_path', $1, false)", [row.path]);
}

/** Refuses tables of several databases: pg_dumpall writes all databases one after the other, but only one can be loaded. */
function expectOneDatabase(statements: Statement[]) {
  const names = new Set(
    statements.filter(({ bare }) => /^create table\b/i.test(bare)).map(({ database = "" }) => database),
  );
  if (names.size > 1) {
    const list = [...names].filter((name) => name !== "").join(", ");
    throw new UsageError(`the schema has tables of several databases: ${list}`, {
      hint: `Dump only one of them: pg_dump --schema-only ${[...names].at(-1)} > schema.sql`,
    });
  }
}

/** Whether the object exists in every database, or a stand-in was made for it. */
function isThereAlready({ code }: { code?: string }, { bare }: Statement): boolean {
  return (
    (code === "42P06" || code === "42710") && /^create (schema|role|user|group|extension|type|language)\b/i.test(bare)
  );
}

/** Whether a DROP of pg_dump --clean failed, because there is no such object. */
function isGoneAlready({ code = "" }: { code?: string }, { bare }: Statement): boolean {
  return /^(42P01|42704|42883|42703|3F000)$/.test(code) && /^(drop|alter .* drop)\b/i.test(bare);
}

/** The statement without the clause that fails; undefined: the rest would be useless. */
function plainerText(text: string, error: Error & { position?: string }): string | undefined {
  if (/^extension .* has no installation script/.test(error.message)) {
    return text.replace(/\bversion\s+('[^']*'|"[^"]*"|\S+)/i, "");
  }
  if (/^\s*create\s+collation\b/i.test(text) && !/\bfrom\b/i.test(text)) {
    return text.replace(/\([\s\S]*\)/, 'from pg_catalog."C"');
  }
  return error.position === undefined ? undefined : withoutClause(text, Number(error.position) - 1);
}
