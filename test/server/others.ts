import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { unpack } from "../support/packages.ts";

/** The migrations of an application, oldest first. */
export type Chain = Migration[];

export interface Migration {
  name: string;
  /** What its tool sends, query by query; `ask` answers what the migration wants to know of the database. */
  queries(ask: Ask): Promise<string[]>;
}

export type Ask = (query: string) => Promise<object[]>;

/** graphile-worker: an SQL file is one query. */
export async function graphileWorker(): Promise<Chain> {
  const folder = path.join(path.dirname(require.resolve("graphile-worker/package.json")), "sql");
  const schema = { name: "schema", queries: async () => ["create schema worker"] };
  return [
    schema,
    ...files(folder, ".sql").map(({ name, text }) => ({
      name,
      queries: async () => [text().replaceAll(":GRAPHILE_WORKER_SCHEMA", "worker")],
    })),
  ];
}

/** The Postgres World of Workflow SDK: SQL files for drizzle, which says itself where statements end. */
export async function workflowWorld(): Promise<Chain> {
  const folder = await unpack("@workflow/world-postgres", "4.3.7");
  return files(path.join(folder, "src/drizzle/migrations"), ".sql").map(({ name, text }) => ({
    name,
    queries: async () => text().split("--> statement-breakpoint"),
  }));
}

/** The products of Medusa: classes for MikroORM that add statements. */
export async function medusaProduct(): Promise<Chain> {
  const folder = await unpack("@medusajs/product", "2.21.2");
  return files(path.join(folder, "dist/migrations"), ".js").map(({ name, text }) => ({
    name,
    async queries(ask) {
      const queries: string[] = [];
      class Recorder {
        addSql(query: string) {
          queries.push(query);
        }
        execute(query: string) {
          return ask(query);
        }
      }
      const [Up] = Object.values(evaluate(text(), () => ({ Migration: Recorder })));
      await new (Up as new () => { up(): Promise<void> })().up();
      return queries;
    },
  }));
}

/** Unleash: programs for db-migrate that mostly run SQL. */
export async function unleash(): Promise<Chain> {
  const folder = path.join(await unpack("unleash-server", "7.5.1"), "dist/migrations");
  const needs = (name: string) => {
    if (name === "async") return { series: inOrder };
    return name.startsWith("./") ? JSON.parse(readFileSync(path.join(folder, name), "utf8")) : require(name);
  };
  const ledger =
    "create table migrations (id serial primary key, name varchar(255) not null, run_on timestamp not null)";
  return [
    { name: "migrations", queries: async () => [ledger] },
    ...files(folder, ".js").map(({ name, text }) => ({
      name,
      queries: (ask: Ask) =>
        new Promise<string[]>((resolve, reject) => {
          const queries: string[] = [];
          const { up } = evaluate(text(), needs) as { up(db: object, done: Callback): unknown };
          const end: Callback = (error) => (error ? reject(error) : resolve(queries));
          Promise.resolve(up(dbMigrate(queries, ask), end)).then(() => up.length < 2 && end(), reject);
        }),
    })),
  ];
}

const require = createRequire(import.meta.url);

function files(folder: string, extension: string) {
  return readdirSync(folder)
    .filter((file) => file.endsWith(extension))
    .sort()
    .map((file) => ({
      name: path.basename(file, extension),
      text: () => readFileSync(path.join(folder, file), "utf8"),
    }));
}

/** The exports of a CommonJS module. */
function evaluate(text: string, needs: (name: string) => unknown): object {
  const module = { exports: {} };
  new Function("exports", "require", "module", text)(module.exports, needs, module);
  return module.exports;
}

type Callback = (error?: unknown, result?: unknown) => void;
type Step = (done: Callback) => void;

function inOrder([first, ...others]: Step[], done: Callback = () => {}): void {
  if (first) first((error) => (error ? done(error) : inOrder(others, done)));
  else done();
}

/** What db-migrate hands to a migration, as far as these need it: it keeps the queries, and asks what they ask. */
function dbMigrate(queries: string[], ask: Ask) {
  const add = (query: string, done: Callback = () => {}) => {
    queries.push(query);
    done(undefined, { rows: [], rowCount: 0 });
  };
  return {
    runSql(query: string, ...rest: (string[] | Callback)[]) {
      const done = rest.find((it) => typeof it === "function");
      const values = rest.find((it) => typeof it !== "function");
      if (done && done.length > 1 && /^\s*select/i.test(query)) {
        ask(query).then((rows) => done(undefined, { rows, rowCount: rows.length }), done);
      } else {
        add(values ? values.reduce((text, value) => text.replace("?", () => literal(value)), query) : query, done);
      }
    },
    all(query: string, done: Callback) {
      ask(query).then((rows) => done(undefined, rows), done);
    },
    createTable(table: string, columns: Record<string, Column | string>, done: Callback) {
      const definitions = Object.entries(columns).map(([name, column]) => definition(name, column));
      add(`create table "${table}" (${definitions.join(", ")})`, done);
    },
    addColumn(table: string, name: string, column: Column, done: Callback) {
      add(`alter table "${table}" add column ${definition(name, column)}`, done);
    },
    removeColumn(table: string, name: string, done: Callback) {
      add(`alter table "${table}" drop column "${name}"`, done);
    },
    dropTable(table: string, done: Callback) {
      add(`drop table "${table}"`, done);
    },
  };
}

interface Column {
  type: string;
  length?: number;
  primaryKey?: boolean;
  notNull?: boolean;
  defaultValue?: unknown;
}

function definition(name: string, column: Column | string): string {
  const { type, length, primaryKey, notNull, defaultValue } = typeof column === "string" ? { type: column } : column;
  return [
    `"${name}" ${type === "string" ? "varchar" : type}${length ? `(${length})` : ""}`,
    primaryKey && "primary key",
    notNull && "not null",
    defaultValue !== undefined && `default ${defaultValue === "now()" ? defaultValue : literal(defaultValue)}`,
  ]
    .filter(Boolean)
    .join(" ");
}

function literal(value: unknown): string {
  return `'${String(value).replaceAll("'", "''")}'`;
}
