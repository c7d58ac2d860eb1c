import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { judgeInProcess } from "../../runner/commands/check/in_process.ts";
import { readMigration } from "../../runner/commands/check/migration.ts";
import { readSql } from "../../runner/commands/check/read.ts";
import type { Tasks } from "../../runner/workflow/load.ts";
import { isThorough } from "../support/database.ts";

const schemas = path.join(import.meta.dirname, "schemas");

/** What is said of migrations, line by line, and on stderr. */
async function said(schema: string, on: Record<string, object>, ...migrations: string[]) {
  const tasks = Object.fromEntries(Object.entries(on).map(([name, source]) => [name, { on: source }])) as Tasks;
  const stderr: string[] = [];
  const spy = vi.spyOn(process.stderr, "write").mockImplementation((text) => stderr.push(String(text)) > 0);
  try {
    const verdicts = await judgeInProcess(
      schema,
      tasks,
      migrations.map((sql, index) => readMigration(`${index + 1}.sql`, sql)),
    );
    return {
      stdout: verdicts.map(
        ({ file, line, verdict, workflow, problem }) =>
          `${path.basename(file)}:${line}: ${verdict}${workflow ? ` ${workflow}` : ""}: ${problem}`,
      ),
      stderr: stderr.join("").replaceAll(`${schemas}/`, ""),
    };
  } finally {
    spy.mockRestore();
  }
}

const users = {
  table: "app.users",
  columns: ["id", "email", "mood", "home", "tags"],
  condition: "new.name is not null",
};

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "notika-schema-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function file(name: string, content: string | Buffer): Promise<string> {
  await writeFile(path.join(folder, name), content);
  return path.join(folder, name);
}

describe("a dump of pg_dump", () => {
  test("is read as it is: schemas, owners, extensions, rows and all else that an application has", async () => {
    const { stdout, stderr } = await said(
      path.join(schemas, "application.sql"),
      { users, events: { table: "billing.events", columns: ["id", "data"] } },
      // The search path is that of the database.
      "create extension if not exists pgcrypto; alter table users add column phone text default gen_random_uuid();",
      `create extension isn; alter table app.users owner to app_next;
       refresh materialized view billing.totals; drop index app.users_name_trgm;
       alter table billing.events_2024 add check (kind <> 'z');
       insert into "Mixed Case"."Weird ; Table" ("semi;colon") values (';');`,
      "alter table billing.events drop column data;",
    );

    expect(stdout).toEqual(["3.sql:1: breaks events: column dropped billing.events.data"]);
    expect(stderr).toBe(
      "application.sql: replaced by stand-ins, because the Postgres in this process does not have them: " +
        "extension postgres_fdw, foreign-data wrapper postgres_fdw\n",
    );
  });

  test("may need what the Postgres in this process does not have", async () => {
    const { stdout, stderr } = await said(
      path.join(schemas, "extensions.sql"),
      {
        places: { table: "public.places", columns: ["id", "embedding", "slug", "area"] },
        geometry: { table: "public.places", columns: ["id", "geom"], guard: "warn" },
        near: { table: "public.places", condition: "public.st_within(new.geom, 'x')" },
      },
      `create extension if not exists h3 with schema public version '4.1';
create table public.cells (id int, cell h3index, at public.geometry(Polygon, 4326));
create index on public.places using gist (geom);
create index on public.places using hnsw (embedding public.vector_l2_ops);
update public.places set slug = public.slugify(name);
alter extension postgis update to '3.5.0';
alter table public.places add column note text;
select cron.schedule('x', '* * * * *', 'select 1');`,
      "drop extension postgis cascade;",
      "alter table public.places alter column embedding type public.vector(768);",
    );

    expect(stdout).toEqual([
      expect.stringMatching(/^extensions\.sql:40: unknown near: cannot be published here: .*st_within/),
      expect.stringMatching(
        /^1\.sql:3: unknown: cannot be tried here: data type geometry has no default operator class/,
      ),
      '1.sql:4: unknown: cannot be tried here: access method "hnsw" does not exist',
      expect.stringMatching(
        /^1\.sql:5: unknown: cannot be tried here: function public\.slugify\(text\) does not exist/,
      ),
      expect.stringMatching(/^1\.sql:8: unknown: cannot be tried here: function cron\.schedule/),
      "2.sql:1: warns geometry: column dropped public.places.geom",
      "3.sql:1: breaks places: type changed public.places.embedding: public.vector(768) instead of public.vector(1536)",
    ]);
    expect(stderr).toContain(
      "replaced by stand-ins, because the Postgres in this process does not have them: access method columnar, " +
        "collation pg_catalog.de_DE.utf8, extension pg_cron, extension postgis, extension timescaledb, extension vector, " +
        "language plpython3u, schema _timescaledb_functions, tablespace slow, type public.geometry, type public.vector\n",
    );
    expect(stderr).toContain(
      "extensions.sql:25: left out: function public.st_area(public.geometry) does not exist (CREATE TABLE",
    );
  });
});

describe("a schema that was written by hand", () => {
  test("may be what Rails, Prisma, Django and Drizzle write, for psql, and have Notika in it", async () => {
    const schema = await file(
      "schema.sql",
      `\\set ON_ERROR_STOP on
\\set app 'my app'
SET statement_timeout = 0; ALTER TABLE ONLY app.gone DROP CONSTRAINT x; DROP TABLE app.gone; DROP SCHEMA app;
-- Notika's, of a dump with its schemas and of one without
CREATE SCHEMA notika;
ALTER SCHEMA notika OWNER TO notika;
CREATE TABLE notika.workflow (name text);
ALTER TABLE ONLY notika.workflow ADD CONSTRAINT x CHECK (name <> '');
COPY notika.workflow (name) FROM stdin;
welcome_email
\\.
INSERT INTO notika.setting (payload_bytes) VALUES (1);
SELECT pg_catalog.setval('notika.event_log_seq', 100, true);
CREATE FUNCTION notika.status() RETURNS int LANGUAGE sql AS 'select 1';
REVOKE ALL ON FUNCTION notika.emit(workflow text, payload jsonb) FROM PUBLIC;
GRANT SELECT(event_id,workflow) ON TABLE notika.event_log TO reader;
GRANT USAGE ON SCHEMA notika TO reader;
ALTER DEFAULT PRIVILEGES FOR ROLE notika IN SCHEMA notika GRANT SELECT ON TABLES TO reader;
CREATE EVENT TRIGGER notika_guard_start ON ddl_command_start EXECUTE FUNCTION notika._guard_start();
ALTER EVENT TRIGGER notika_guard_start OWNER TO notika_guard;
-- Prisma
CREATE SCHEMA IF NOT EXISTS "public";
CREATE TYPE "Role" AS ENUM ('USER', 'ADMIN');
CREATE TABLE "User" ("id" SERIAL NOT NULL, "email" TEXT NOT NULL, "role" "Role" NOT NULL DEFAULT 'USER', CONSTRAINT "User_pkey" PRIMARY KEY ("id"));
CREATE UNIQUE INDEX "User_email_key" ON "User"("email");
CREATE TRIGGER notika_12_insert AFTER INSERT ON "User" FOR EACH ROW WHEN ((new.id > 0)) EXECUTE FUNCTION notika._capture_12();
COMMENT ON TRIGGER notika_12_insert ON "User" IS 'welcome_email';
ALTER TABLE "User" ENABLE ALWAYS TRIGGER notika_12_insert;
-- Django
BEGIN;
CREATE TABLE "blog_post" ("id" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "author_id" integer NOT NULL);
ALTER TABLE "blog_post" ADD CONSTRAINT "fk" FOREIGN KEY ("author_id") REFERENCES "User" ("id") DEFERRABLE INITIALLY DEFERRED;
COMMIT;
-- Drizzle
CREATE TABLE IF NOT EXISTS "sessions" ("id" text PRIMARY KEY NOT NULL);
--> statement-breakpoint
DO $$ BEGIN
 ALTER TABLE "sessions" ADD CONSTRAINT "c" CHECK ("id" <> '');
EXCEPTION WHEN duplicate_object THEN null;
END $$;
-- What an application has of Notika
CREATE VIEW dashboard AS SELECT * FROM notika.runs;
CREATE FUNCTION start() RETURNS bigint LANGUAGE sql AS $$ select notika.emit('w', '{}') $$;
CREATE SCHEMA :"app";
CREATE TABLE :"app".things (id int, kind text DEFAULT :'app');
\\i more.sql
CREATE TABLE twice (id int);
CREATE TABLE twice (id int);
-- Rails
SET search_path TO "my app", public;
INSERT INTO "schema_migrations" (version) VALUES ('20240101000000');
`,
    );

    const { stdout, stderr } = await said(
      schema,
      { users: { table: 'public."User"', columns: ["id", "role"] } },
      `alter table things add column note text; drop view dashboard; drop function start();`,
      `alter table public."User" alter column role drop default, alter column role type integer using 0;`,
    );

    expect(stdout).toEqual([
      "schema.sql:46: unknown: left out of the schema: it is a command of psql",
      'schema.sql:48: unknown: left out of the schema: relation "twice" already exists',
      '2.sql:1: breaks users: type changed public."User".role: integer instead of public."Role"',
    ]);
    expect(stderr).toBe("");
  });

  test("may be in any encoding, and compressed; what is no SQL is refused, with a way to make some", async () => {
    const text = "set client_encoding = 'LATIN1';\nselect 'é';\n";
    for (const content of [
      text,
      `\ufeff${text}`,
      Buffer.from(`\ufeff${text}`, "utf16le"),
      Buffer.from(`\ufeff${text}`, "utf16le").swap16(),
      Buffer.from(text, "latin1"),
      gzipSync(text),
    ]) {
      expect(await readSql(await file("x.sql", content))).toBe(text);
    }

    const tar = Buffer.alloc(1024);
    tar.write("toc.dat");
    tar.write("ustar", 257);
    for (const [content, message, hint] of [
      [
        "PGDMP\x01",
        /x\.sql is an archive of pg_dump --format=custom, not SQL/,
        /pg_restore --schema-only --file=schema\.sql .*x\.sql/,
      ],
      [tar, /--format=tar, not SQL/, /pg_restore/],
      [Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), /compressed with zstd/, /zstd -d/],
      [Buffer.from("select 'é'", "latin1"), /is not in UTF-8/, /--encoding=UTF8/],
      ["a\0b", /zero bytes/, /UTF-8/],
    ] as const) {
      await expect(readSql(await file("x.sql", content as string))).rejects.toMatchObject({
        message: expect.stringMatching(message),
        hint: expect.stringMatching(hint),
      });
    }
    await expect(readSql(folder)).rejects.toThrow("is a folder, not an SQL file");
  });
});

test("several databases in one file are told apart, and refused", async () => {
  const all = "\\connect one\ncreate table a ();\n\\connect two\ncreate table b ();\n";
  await expect(said(await file("all.sql", all), {}, "select 1")).rejects.toMatchObject({
    message: "the schema has tables of several databases: one, two",
    hint: "Dump only one of them: pg_dump --schema-only two > schema.sql",
  });
});

// Takes its time, so it is not for every day: NOTIKA_TEST_ALL=1
test.runIf(isThorough)("a dump of 200 tables takes less than five seconds", async () => {
  const tables = Array.from({ length: 200 }, (_, n) => {
    const columns = Array.from(
      { length: 15 },
      (_, c) => `column_${c} ${["bigint", "text", "timestamptz", "jsonb"][c % 4]}`,
    );
    return `CREATE TABLE public.t${n} (id bigint NOT NULL, ref bigint, ${columns.join(", ")});
ALTER TABLE public.t${n} OWNER TO shop;
CREATE SEQUENCE public.t${n}_id_seq;
ALTER TABLE ONLY public.t${n} ALTER COLUMN id SET DEFAULT nextval('public.t${n}_id_seq'::regclass);
ALTER TABLE ONLY public.t${n} ADD CONSTRAINT t${n}_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.t${n} ADD CONSTRAINT fk${n} FOREIGN KEY (ref) REFERENCES public.t${Math.max(n - 1, 0)}(id);
${[0, 1, 2, 5].map((c) => `CREATE INDEX t${n}_${c} ON public.t${n} USING btree (column_${c}, id);`).join("\n")}
GRANT SELECT ON TABLE public.t${n} TO reader;`;
  });
  const schema = await file("large.sql", tables.join("\n"));
  const on = { w: { table: "public.t7", columns: ["id", "column_1"] } };
  await said(await file("empty.sql", "select 1"), {}, "select 1"); // the snapshot is there

  const start = process.cpuUsage(); // which does not depend on what else the machine does
  const { stdout } = await said(schema, on, "alter table public.t7 drop column column_1;");

  expect(stdout).toEqual(["1.sql:1: breaks w: column dropped public.t7.column_1"]);
  const { user, system } = process.cpuUsage(start);
  expect((user + system) / 1000).toBeLessThan(5000);
});
