import type { PoolClient } from "pg";
import { test as base } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import { openEmbedded } from "../../runner/embedded/embedded.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import type { Major } from "../support/binaries.ts";
import { engine, isThorough as hasTimeForAll } from "../support/database.ts";
import { startPostgres } from "../support/postgres.ts";
import { canary } from "./canary.ts";

/** Who installed Notika: a superuser, or the role that owns it and has no other rights. */
export type Kind = "administrator" | "owner";
export const kinds = ["administrator", "owner"] as const;

/** Everything, or what there is time for in each run of the tests. */
export const isThorough = hasTimeForAll || process.env.NOTIKA_FUZZ_CASES !== undefined;

/** The kinds that a test of a long list is done in: all of them, or by turns, each on another version. */
export const some = (nth: number) => (isThorough ? kinds : [kinds[(nth + (isSince(18) ? 1 : 0)) % 2] as Kind]);

/** Whether there is time for the `nth` of a long list: for a quarter of it on each of two versions. */
export const hasTime = (nth: number) => isThorough || ((nth >> 1) + (isSince(18) ? 1 : 0)) % 4 === 0;

/** A PostgreSQL of that version or a later one. */
export const isSince = (major: Major) => (engine === "pglite" ? 18 : Number(engine)) >= major;

/** A database, and all who come to it. */
export interface Scene {
  /** Runs statements as a role that has logged in, in one implicit transaction, and gives the rows of the last. */
  as<Row extends object = Record<string, unknown>>(role: string, statements: string): Promise<Row[]>;
  /** The same, and the error, if there is one. */
  attempt(role: string, statements: string): Promise<Refusal | undefined>;
  /** Installs Notika, or upgrades it, as who installed it. */
  install(): Promise<void>;
  /** The roles that the canary has run as since it was asked last. */
  noted(): Promise<string[]>;
  /** The role that owns Notika. */
  owner(): Promise<string>;
  /** What the server has said since it was asked last. */
  heard(): string[];
  /** The address of the database; a server's alone. */
  url: string | undefined;
}

export interface Refusal {
  code: string;
  message: string;
  detail?: string;
  hint?: string;
}

/** A test that is given `open`, for a database with Notika and an application, and `bare`, for one with nothing. */
export const test = base
  .extend("cluster", { scope: "worker" }, async ({}, { onCleanup }) => {
    const cluster = await (engine === "pglite" ? embeddedCluster() : serverCluster(Number(engine) as Major));
    onCleanup(cluster.stop);
    return cluster;
  })
  .extend("open", async ({ cluster }, { onCleanup }) => {
    const opened: Opened[] = [];
    onCleanup(async () => {
      // A role that an earlier one has since made may own things in a later one.
      for (const { close } of opened.toReversed()) await close();
    });
    return async (kind: Kind): Promise<Scene> => {
      const it = await cluster.open(kind);
      opened.push(it);
      return it.scene;
    };
  })
  // A cluster of its own: roles belong to all databases, and here those of Notika are planted.
  .extend("bareCluster", { scope: "worker" }, async ({}, { onCleanup }) => {
    const cluster = await (engine === "pglite" ? embeddedCluster() : serverCluster(Number(engine) as Major));
    onCleanup(cluster.stop);
    return cluster;
  })
  .extend("bare", async ({ bareCluster }, { onCleanup }): Promise<(kind?: Kind) => Promise<Scene>> => {
    const opened: Opened[] = [];
    onCleanup(async () => {
      // A role that an earlier one has since made may own things in a later one.
      for (const { close } of opened.toReversed()) await close();
    });
    return async (kind = "administrator") => {
      const it = await bareCluster.openBare(kind);
      opened.push(it);
      return it.scene;
    };
  });

interface Opened {
  scene: Scene;
  close(): Promise<void>;
}

interface Cluster {
  open(kind: Kind): Promise<Opened>;
  openBare(kind: Kind): Promise<Opened>;
  stop(): Promise<void>;
}

/** The roles of the application, and the plain owner of Notika. */
export const roles = [
  "notika_own",
  "pub",
  "runnerrole",
  "readerrole",
  "appowner",
  "appwriter",
  "hr",
  "dbowner",
] as const;

const people = roles.map((role) => `create role ${role} login;`).join("\n");

const house = "create schema notika authorization notika_own; create schema notika_worker authorization notika_own;";

/** The application, whose tables Notika's owner may capture. */
const application = `
  create schema app authorization appowner;
  create schema hr authorization hr;
  set session authorization appowner;
  create table app.users (id bigint primary key, email text, ssn text, raw json);
  create table app.parent (id bigint primary key);
  insert into app.users values (1, 'ada@example.com', '078-05-1120', '{"mail": "x"}');
  insert into app.parent values (1), (2);
  grant usage on schema app to public;
  grant select, trigger on app.users to pub;
  grant references on app.parent to pub;
  grant insert, update, delete, select on app.users to appwriter;
  set session authorization hr;
  create table hr.salaries (id bigint primary key, who text, amount int);
  insert into hr.salaries values (1, 'ceo', 1000000);
  grant usage on schema hr to pub;
  set session authorization postgres;
  do $$
  declare
    v_owner text := (select nspowner::regrole from pg_namespace where nspname = 'notika');
  begin
    execute format('grant usage on schema app, hr to %s', v_owner);
    execute format('grant select, trigger on all tables in schema app, hr to %s', v_owner);
    execute format('alter default privileges for role appowner grant select, trigger on tables to %s', v_owner);
    execute format('alter default privileges for role pub grant select, trigger on tables to %s', v_owner);
    execute 'set session authorization ' || v_owner;
  end $$;
  select notika.grant_publisher('pub'), notika.grant_runner('runnerrole'), notika.grant_reader('readerrole');
  set session authorization postgres;`;

/** Installs Notika as who owns it, or as a superuser. */
async function installAs(kind: Kind, database: Database, url: string | undefined) {
  if (kind === "administrator") return void (await install(database));
  if (url) {
    const own = openDatabase({ connect: url.replace("postgres@", "notika_own@"), connections: 1 });
    return void (await install(own).finally(own.close));
  }
  // PGlite has one session, which all connections share, and does not reset whose it is.
  await database.script("set session authorization notika_own");
  await install(database).finally(() => database.script("set session authorization postgres"));
}

async function prepare(kind: Kind, database: Database, url?: string) {
  if (kind === "owner") await database.script(house);
  await installAs(kind, database, url);
  await database.script(canary);
  await database.script(application);
}

async function openScene(kind: Kind, database: Database, notices: string[], url?: string): Promise<Opened> {
  const client: PoolClient = await database.pool.connect();
  const query = async (text: string) => {
    const results = [await client.query(text)].flat();
    return results.at(-1)?.rows ?? [];
  };
  const scene: Scene = {
    url,
    async as(role, statements) {
      if (role !== "postgres") await query(`set session authorization "${role}"`);
      try {
        return (await query(statements)) as never;
      } catch (error) {
        await query("rollback");
        throw error;
      } finally {
        await query("set session authorization postgres; reset role");
      }
    },
    attempt: (role, statements) =>
      scene.as(role, statements).then(
        () => undefined,
        (error) => error as Refusal,
      ),
    install: () => installAs(kind, database, url),
    async noted() {
      const rows = await query(`
        select sequencename::text as role from pg_sequences where schemaname = 'canary' and last_value is not null`);
      await query(
        "select setval(c.oid, 1, false) from pg_class as c where c.relnamespace = 'canary'::regnamespace and relkind = 'S'",
      );
      return rows.map(({ role }) => role).toSorted();
    },
    owner: async () =>
      (await query("select nspowner::regrole::text as owner from pg_namespace where nspname = 'notika'"))[0].owner,
    heard: () => notices.splice(0),
  };
  return {
    scene,
    async close() {
      client.release();
      await database.close();
    },
  };
}

/** Each database a PGlite of its own, from a snapshot. */
async function embeddedCluster(): Promise<Cluster> {
  const open = async (kind: Kind, what: string, fill: (database: Database) => Promise<unknown>): Promise<Opened> => {
    const embedded = await openEmbedded({
      version: `${await installVersion()}${what}${[people, house, application, canary].join("")}`.replaceAll(/\W/g, ""),
      prepare: fill,
    });
    const notices: string[] = [];
    const database = openDatabase({ connect: () => embedded.wire.connect(), onNotice: (it) => notices.push(it) });
    const { scene, close } = await openScene(kind, database, notices);
    return { scene, close: () => close().then(embedded.close) };
  };
  return {
    open: (kind) =>
      open(kind, kind, async (database) => {
        await database.script(people);
        await prepare(kind, database);
      }),
    openBare: (kind) => open(kind, "bare", (database) => database.script(`${people} ${canary}`)),
    async stop() {},
  };
}

/** One server, with a database to copy for each kind. */
async function serverCluster(major: Major): Promise<Cluster> {
  const postgres = await startPostgres({ major });
  const admin = openDatabase({ connect: postgres.url, connections: 1 });
  await admin.script(people);
  const templates = new Map<string, Promise<string>>();
  const template = (name: string, fill: (database: Database, url: string) => Promise<unknown>) => {
    const made = async () => {
      const url = await postgres.createDatabase(name);
      const database = openDatabase({ connect: url, connections: 1 });
      await fill(database, url).finally(database.close);
      return name;
    };
    if (!templates.has(name)) templates.set(name, made());
    return templates.get(name) as Promise<string>;
  };
  const open = async (kind: Kind, name: string): Promise<Opened> => {
    const before = new Set(await roleNames(admin));
    const url = await postgres.createDatabase(undefined, name);
    const notices: string[] = [];
    const database = openDatabase({ connect: url, connections: 2, onNotice: (it) => notices.push(it) });
    const { scene, close } = await openScene(kind, database, notices, url);
    return {
      scene,
      async close() {
        await close();
        await admin.script(`drop database "${url.split("/").at(-1)}" with (force)`);
        for (const role of await roleNames(admin)) {
          if (!before.has(role)) await admin.script(`drop owned by "${role}" cascade; drop role "${role}"`);
        }
      },
    };
  };
  return {
    open: async (kind) => open(kind, await template(kind, (database, url) => prepare(kind, database, url))),
    openBare: async (kind) => open(kind, await template("bare", (database) => database.script(canary))),
    async stop() {
      await admin.close();
      await postgres.stop();
    },
  };
}

async function roleNames(admin: Database): Promise<string[]> {
  const rows = await admin.pool.query("select rolname::text as name from pg_roles");
  return rows.rows.map(({ name }) => name);
}
