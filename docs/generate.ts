// npm run docs: writes reference.md from the comments on what an installation has.
import { writeFile } from "node:fs/promises";
import { raw } from "sql-template-tag";
import { openEmbedded } from "../runner/embedded/embedded.ts";
import { installVersion } from "../runner/install/bundle.ts";
import { install } from "../runner/install/install.ts";

/** The functions, by what they are for; each public one has its place here. */
const topics: Record<string, string[]> = {
  Publish: ["publish", "plan", "configure", "unpublish", "pause", "resume"],
  "Start runs": ["emit", "schedule", "unschedule", "backfill", "cancel_backfill", "replay"],
  "Look at runs": ["history", "timeline", "event"],
  "Decide about runs": ["retry", "cancel"],
  "Change a schema": ["check", "check_ddl", "allow_breaking_change", "release", "begin_maintenance", "end_maintenance"],
  "Grant parts": [
    "grant_publisher",
    "grant_runner",
    "grant_reader",
    "grant_monitor",
    "revoke_publisher",
    "revoke_runner",
    "revoke_reader",
    "revoke_monitor",
  ],
  "Install and run": ["install", "refresh", "uninstall", "version", "dispatch", "maintain"],
};

interface Routine {
  name: string;
  arguments: string;
  returns: string | null;
  comment: string;
  parts: string[];
}

interface Relation {
  name: string;
  comment: string;
  parts: string[];
  columns: { name: string; type: string; default: string | null; comment: string }[];
}

const routines = `
  select p.proname as name,
         pg_get_function_arguments(p.oid) as arguments,
         case when p.prokind = 'f' then pg_get_function_result(p.oid) end as returns,
         obj_description(p.oid, 'pg_proc') as comment,
         coalesce(r.parts, '{}') as parts
    from pg_proc as p
    left join notika._rights() as r on r.kind = 'function' and r.name = p.proname
   where p.pronamespace = 'notika'::regnamespace and p.proname !~ '^_'
   order by p.proname, p.pronargs`;

const relations = `
  select c.relname as name, obj_description(c.oid, 'pg_class') as comment, coalesce(r.parts, '{}') as parts,
         json_agg(json_build_object(
           'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
           'default', pg_get_expr(d.adbin, d.adrelid), 'comment', col_description(c.oid, a.attnum)
         ) order by a.attnum) as columns
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
    left join notika._rights() as r on r.kind in ('view', 'table') and r.name = c.relname
   where c.relnamespace = 'notika'::regnamespace
     and (c.relkind = 'v' and c.relname !~ '^_' or c.relname in ('setting', 'guard_log', 'runner', 'grantee'))
   group by c.oid, c.relname, r.parts
   order by c.relname`;

export async function reference(): Promise<string> {
  const { database, close } = await openEmbedded({ prepare: install, version: await installVersion() });
  try {
    const functions = await database.execute<Routine>(raw(routines));
    const tables = await database.execute<Relation>(raw(relations));
    const unplaced = functions.filter(({ name }) => !Object.values(topics).flat().includes(name));
    if (unplaced.length > 0) throw new Error(`no topic has: ${unplaced.map(({ name }) => name).join(", ")}`);
    return `${[
      "# Reference",
      "Every public function, view and table of the schema `notika`, from the comments in the database: `\\df+ notika.*` and `\\d+` show\nthe same. `npm run docs` writes this page. [Security](security.md#the-parts) explains publishers, runners, readers and monitors.",
      ...Object.entries(topics).flatMap(([topic, names]) => [
        `## ${topic}`,
        ...names.flatMap((name) => routine(functions.filter((candidate) => candidate.name === name))),
      ]),
      "## Views and tables",
      ...tables.flatMap(relation),
    ].join("\n\n")}\n`;
  } finally {
    await close();
  }
}

function routine(variants: Routine[]): string[] {
  const [first] = variants;
  if (!first) return [];
  return [
    `### ${first.name}`,
    ...variants.flatMap(({ name, arguments: text, returns, comment }) => [
      `\`\`\`\n${signature(name, text)}${returns === null ? "" : ` returns ${shortened(returns)}`}\n\`\`\``,
      comment,
    ]),
    `May be called by ${holders(first.parts)}.`,
  ];
}

function signature(name: string, text: string): string {
  const all = text.replace(/::[a-z ]+(\[\])?(?=,|$)/g, "").replaceAll(" DEFAULT ", " default ");
  const line = `notika.${name}(${all})`;
  return line.length <= 110 ? line : `notika.${name}(\n  ${split(all).join(",\n  ")}\n)`;
}

function shortened(returns: string): string {
  const table = /^TABLE\((.*)\)$/s.exec(returns)?.[1];
  return table === undefined ? returns.toLowerCase() : `table (${table})`;
}

/** Arguments, by the commas that are not in a string or in braces. */
function split(text: string): string[] {
  return text.match(/(?:'[^']*'|[^,'])+/g)?.map((part) => part.trim()) ?? [];
}

function relation({ name, comment, parts, columns }: Relation): string[] {
  return [
    `### notika.${name}`,
    comment,
    columns
      .map(({ name, type, default: value, comment }) => {
        const otherwise = value === null ? "" : `, default \`${value.replace(/::[a-z ]+$/, "")}\``;
        return `- \`${name}\` ${type}${otherwise}: ${comment}`;
      })
      .join("\n"),
    `May be read by ${holders(parts)}.`,
  ];
}

function holders(parts: string[]): string {
  return ["members of the owner", ...parts.map((part) => `${part}s`)].join(", ");
}

if (import.meta.filename === process.argv[1]) {
  await writeFile(new URL("reference.md", import.meta.url), await reference());
}
