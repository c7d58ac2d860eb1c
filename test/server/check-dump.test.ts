import sql, { raw } from "sql-template-tag";
import { describe, expect } from "vitest";
import { openEmbedded } from "../../runner/embedded/embedded.ts";
import { readScript } from "../../runner/embedded/psql_script.ts";
import { loadSchema } from "../../runner/embedded/schema.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { openArena, startCluster, stopCluster, test } from "./cluster.ts";
import { findDumpTools } from "./dump.ts";

/** Whatever somebody could have made of Notika. */
const notika = `
  select md5(string_agg(o.definition, ',' order by o.definition)) as notika
    from (select p::text as definition from pg_proc as p
           where p.pronamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
          union all
          select c.relname || c.relacl::text || c.relowner from pg_class as c
           where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
          union all
          select concat(n.nspacl, n.nspowner) from pg_namespace as n where n.nspname like 'notika%'
          union all
          select e::text from pg_event_trigger as e
          union all
          select s::text from notika.setting as s
          union all
          select w::text from notika.workflow as w
          union all
          select r.rolname || r.rolsuper || r.rolcanlogin from pg_roles as r where r.rolname like 'notika%') as o`;

describe("the dump of a database with Notika in it", () => {
  test("is a schema to check against, with its schemas and without", async ({ skip }) => {
    const tools = findDumpTools();
    if (typeof tools === "string") return skip(tools);
    const cluster = await startCluster({}, tools.major);
    try {
      const db = await openArena(cluster);
      await db.database.script(`
        create role app; create schema app authorization app;
        create table app.users (id int primary key, email text);
        create view app.open as select run_id from notika.runs;
        select notika.publish('old', 'app.users', operations => '{insert,update,delete}', columns => '{id,email}');
        select notika.grant_reader('app'); select notika.grant_runner('app'); select notika.grant_publisher('app');
        insert into app.users values (1, 'a'); insert into item values (1);`);
      const dumps = [tools.dump(db.url), tools.dump(db.url, "--schema-only", "-N", "notika", "-N", "notika_worker")];
      await db.close();
      expect(String(dumps[1])).toMatch(/CREATE TRIGGER notika_/);

      for (const dump of dumps) {
        const { database, close, ...rest } = await openEmbedded({ prepare: install, version: await installVersion() });
        const before = await database.execute(raw(notika));

        const { standIns, leftOut } = await loadSchema({ database, close, ...rest }, readScript(String(dump)));

        expect({ names: standIns.names, leftOut }).toEqual({ names: [], leftOut: [] });
        expect(await database.execute(raw(notika))).toEqual(before);
        await database.script("select notika.publish('welcome', 'app.users', columns => '{email}')");
        expect(
          await database.execute(
            sql`select workflow, verdict, problem from notika.check_ddl('alter table item drop n; alter table app.users drop email')`,
          ),
        ).toEqual([{ workflow: "welcome", verdict: "breaks", problem: "column dropped app.users.email" }]);
        await close();
      }
    } finally {
      await stopCluster(cluster);
    }
  });
});
