import sql from "sql-template-tag";
import type { Database } from "../database/database.ts";

/** Adds the missing GRANT, if it can be derived, to the message of an error that a task got because a right is missing. */
export async function nameGrant(error: Error, { execute }: Pick<Database, "execute">): Promise<void> {
  const refusal = (error.cause instanceof Error ? error.cause : error) as Refusal;
  if (refusal.code !== "42501" || refusal.hint) return;
  // The message is in the language of the server; if that is not English, only this hint is lost.
  const [, kind, name] =
    /^permission denied for (schema|sequence|function|table|view) (.+)$/.exec(refusal.message) ?? [];
  if (kind === undefined || name === undefined) return;

  const [found] = await execute<{ role: string; object: string }>(candidates(kind, name)).catch(() => []);
  if (!found) return;
  const privilege = { schema: "usage", sequence: "usage", function: "execute" }[kind] ?? verbs(refusal.statement, name);
  const on = kind === "table" || kind === "view" ? "" : `${kind} `;
  error.message += `. Run: grant ${privilege} on ${on}${found.object} to ${found.role};`;
}

interface Refusal extends Error {
  code?: string;
  hint?: string;
  /** The refused statement; undefined: not known. */
  statement?: string;
}

/** The object that Postgres names without its schema; of several, one that the role may not use comes first. */
function candidates(kind: string, name: string) {
  return sql`
    select quote_ident(current_user) as role, o.object
      from (
        select format('%I.%I', n.nspname, c.relname) as object,
               has_table_privilege(c.oid, 'select, insert, update, delete') as is_usable
          from pg_class as c
          join pg_namespace as n on n.oid = c.relnamespace
         where c.relname = ${name}::text and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
           and (c.relkind = 'S') = (${kind}::text = 'sequence') and ${kind}::text in ('sequence', 'table', 'view')
        union all
        select p.oid::regprocedure::text, has_function_privilege(p.oid, 'execute')
          from pg_proc as p
         where p.proname = ${name}::text and ${kind}::text = 'function'
        union all
        select quote_ident(${name}::text), false where ${kind}::text = 'schema'
      ) as o
     order by o.is_usable, o.object
     limit 1`;
}

/** The privileges that a statement needs on a table. */
function verbs(statement = "", name: string): string {
  const table = `(?:(?:\\w+|"[^"]+")\\s*\\.\\s*)?(?:${quoted(name)}|${quoted(`"${name.replaceAll('"', '""')}"`)})(?![\\w$])`;
  const verb = Object.entries({ insert: "into", update: "update", delete: "delete\\s+from" }).find(([, before]) =>
    new RegExp(`\\b${before}\\s+(?:only\\s+)?${table}`, "i").test(statement),
  )?.[0];
  if (!verb) return "select";
  // WHERE, RETURNING and ON CONFLICT read the table, too.
  return /\b(where|returning|on\s+conflict)\b/i.test(statement) ? `select, ${verb}` : verb;
}

function quoted(text: string): string {
  return text.replace(/[$.*+?^()|[\]{}\\]/g, "\\$&");
}
