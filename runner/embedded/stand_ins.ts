import type { PGlite } from "@electric-sql/pglite";
import type { Database } from "../database/database.ts";
import { standInForExtension } from "./extensions.ts";

/** Stand-ins, with the same name, for objects that a schema needs and the Postgres in this process does not have. */
export interface StandIns {
  /** Creates a stand-in for the object that is missing according to an error; false: that is not possible. */
  supply(message: string, statement: string, options?: { isSchema?: boolean }): Promise<boolean>;
  /** The stand-ins, without roles, which belong to the server and are in no dump. */
  readonly names: string[];
}

/** The types of extensions with several types; any other type belongs to the extension of the same name. */
const typesOf: Record<string, string[]> = {
  postgis: ["geometry", "geography", "box2d", "box3d", "spheroid", "geometry_dump"],
  postgis_raster: ["raster"],
  postgis_topology: ["topogeometry"],
  vector: ["vector", "halfvec", "sparsevec"],
};

export function openStandIns(db: PGlite, database: Database): StandIns {
  const names = new Set<string>();
  const extensions = new Map<string, Set<string>>();
  const supplied = new Set<string>();

  async function supply(message: string, statement: string, isSchema: boolean): Promise<boolean> {
    const found = kinds.map(([kind, pattern]) => [kind, pattern.exec(message)?.[1]] as const).find(([, name]) => name);
    if (!found) return false;
    const [kind, whole = ""] = found;
    const name = kind === "type" ? whole.replace(/(\[\])+$/, "") : whole;
    if (kind === "extension") {
      if (!/^[\w-]+$/.test(name)) return false;
      const versions = extensions.get(name) ?? new Set<string>();
      for (const [, version = ""] of statement.matchAll(/\b(?:version|to)\s+['"]([\w.-]+)['"]/gi))
        versions.add(version);
      extensions.set(name, versions);
      standInForExtension(db, name, [...versions]);
    } else {
      if ((kind === "type" || kind === "schema") && !isSchema && extensions.size === 0) return false;
      if (kind === "access method" && !/^(create table|create foreign|alter table|set|select)\b/i.test(statement))
        return false;
      if (kind === "tablespace") await database.script("set allow_in_place_tablespaces = on");
      await database.script(kind === "type" ? typeSql(name, statement) : sqlOf[kind](name));
    }
    supplied.add(message);
    if (kind !== "role") names.add(`${kind} ${name}`);
    return true;
  }

  /** SQL of a type that stores the text of its values, as citext does, and may have modifiers: vector(3). */
  function typeSql(name: string, statement: string): string {
    const bare = name.slice(name.indexOf(".") + 1);
    const type = name.includes(".") ? quoted(name) : `public.${ident(bare)}`;
    const owner =
      extensions.size === 1
        ? [...extensions.keys()][0]
        : [...extensions.keys()].find((extension) => extension === bare || typesOf[extension]?.includes(bare));
    // vector(3) has a number; the words of geometry(Point, 4326) are hashed, which is enough to compare them.
    const hasWords = new RegExp(`\\b${bare.replace(/\W/g, "\\$&")}"?\\s*\\((?!\\s*\\d+\\s*\\))`, "i").test(statement);
    const modifiers = `stand_in.${hasWords ? "words" : "number"}`;
    const internal = "language internal immutable strict parallel safe as";
    return `
      create schema if not exists stand_in;
      create type ${type};
      create function stand_in.${ident(`${bare}_in`)}(cstring) returns ${type} ${internal} 'textin';
      create function stand_in.${ident(`${bare}_out`)}(${type}) returns cstring ${internal} 'textout';
      create or replace function ${modifiers}(cstring[]) returns integer ${internal} '${hasWords ? "hashvarlena" : "bittypmodin"}';
      create type ${type} (
        input = stand_in.${ident(`${bare}_in`)}, output = stand_in.${ident(`${bare}_out`)},
        typmod_in = ${modifiers}, like = pg_catalog.text, category = 'S', collatable = true);
      create cast (${type} as pg_catalog.text) without function as implicit;
      create cast (pg_catalog.text as ${type}) without function as assignment;
      ${owner === undefined ? "" : `alter extension ${ident(owner)} add type ${type};`}`;
  }

  return {
    supply: async (message, statement, { isSchema = false } = {}) => {
      if (supplied.has(message)) return false; // the stand-in did not help
      try {
        return await supply(message, statement, isSchema);
      } catch {
        return false; // the original error says more
      }
    },
    get names() {
      return [...names].sort();
    },
  };
}

const kinds = [
  ["extension", /^extension "([^"]+)" (?:is not available|has no update path)/],
  ["role", /^role "(.+)" does not exist$/],
  ["type", /^type "(.+)" does not exist$/],
  ["schema", /^schema "(.+)" does not exist$/],
  ["collation", /^collation "(.+)" for encoding "\w+" does not exist$/],
  ["language", /^language "(.+)" does not exist$/],
  ["tablespace", /^tablespace "(.+)" does not exist$/],
  ["access method", /^access method "(.+)" does not exist$/],
  ["foreign-data wrapper", /^foreign-data wrapper "(.+)" does not exist$/],
  ["text search configuration", /^text search configuration "(.+)" does not exist$/],
  ["text search dictionary", /^text search dictionary "(.+)" does not exist$/],
] as const;

const sqlOf = {
  role: (name: string) => `create role ${ident(name)}`,
  schema: (name: string) => `create schema ${ident(name)}`,
  collation: (name: string) =>
    `create collation ${name.includes(".") ? quoted(name) : `pg_catalog.${ident(name)}`} from pg_catalog."C"`,
  // Functions in this language can be created, but not called.
  language: (name: string) => `create trusted language ${ident(name)} handler pg_catalog.plpgsql_call_handler`,
  tablespace: (name: string) => `create tablespace ${ident(name)} location ''`,
  "access method": (name: string) =>
    `create access method ${ident(name)} type table handler pg_catalog.heap_tableam_handler`,
  "foreign-data wrapper": (name: string) => `create foreign data wrapper ${ident(name)}`,
  "text search configuration": (name: string) =>
    `create text search configuration ${quoted(name)} (copy = pg_catalog.simple)`,
  "text search dictionary": (name: string) =>
    `create text search dictionary ${quoted(name)} (template = pg_catalog.simple)`,
};

function ident(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Quotes a name from a message, which has its schema and no quotes. */
function quoted(name: string): string {
  const [, schema, own] = /^([^.]+)\.(.+)$/.exec(name) ?? [];
  return schema === undefined || own === undefined ? ident(name) : `${ident(schema)}.${ident(own)}`;
}
