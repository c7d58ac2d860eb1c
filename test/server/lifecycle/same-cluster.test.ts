import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { install } from "../../../runner/install/install.ts";
import type { Postgres } from "../../support/postgres.ts";
import { drain, major, openSession, type Session, startCluster, stopCluster } from "../cluster.ts";
import { type DumpTools, findDumpTools } from "../dump.ts";

const found = findDumpTools();

describe("a copy within the cluster", () => {
  let cluster: Postgres;
  let url: string;
  let original: Session;
  const open: Session[] = [];

  beforeAll(async () => {
    cluster = await startCluster();
    url = await cluster.createDatabase("shop");
    original = session(url);
    await install(original.database);
    await original.database.script(`
      create schema saas;
      create type saas.plan as enum ('free', 'pro');
      create domain saas.email as text;
      create table saas.users (id int primary key, email saas.email, plan saas.plan);
      select notika.publish('greet', 'saas.users', '{insert,update}', '{id,email,plan}', condition => 'new.plan = ''pro''');
      insert into saas.users values (1, 'ada@example.com', 'pro')`);
  });
  afterAll(async () => {
    await Promise.all(open.map((session) => session.close()));
    await stopCluster(cluster);
  });

  function session(url: string) {
    const opened = openSession(url, () => {});
    open.push(opened);
    return opened;
  }

  const byTemplate = async () => {
    await original.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'shop' and pid <> pg_backend_pid()",
    );
    await original.close();
    const copy = await cluster.createDatabase(undefined, "shop");
    original = session(url);
    return copy;
  };
  const byDump = async () => {
    const { dump, psql } = found as DumpTools;
    const copy = await cluster.createDatabase();
    psql(dump(url), copy);
    return copy;
  };
  const cannotDump = typeof found === "string" || found.major < major;

  for (const [name, make, isSkipped] of [
    ["by CREATE DATABASE", byTemplate, false],
    ["by pg_dump and psql", byDump, cannotDump],
  ] as const) {
    describe.skipIf(isSkipped)(name, () => {
      test("has a name of its own, from before its first run on, and the original keeps its own", async () => {
        const before = await original.value<string>("select notika._installation()");
        const copy = session(await make());

        const first = await copy.value<string>("select notika._installation()");

        expect(first).toMatch(/^[0-9a-f-]{36}$/);
        expect(first).not.toBe(before);
        expect(await copy.value("select notika._installation()")).toBe(first);
        expect(await original.value("select notika._installation()")).toBe(before);
      });

      test("finds its own tables and types: dispatch is enough for that", async () => {
        const copy = session(await make());

        await drain(copy);
        await copy.query("insert into saas.users values (8, 'bob@example.com', 'pro')");
        await drain(copy);

        expect(await copy.query("select workflow, finding, detail from notika.health where severity <> 'ok'")).toEqual(
          [],
        );
        expect(await copy.value("select state from notika.workflows where workflow = 'greet'")).toBe("published");
        expect(
          await copy.query("select payload -> 'new' ->> 'id' as id from notika_worker._private_jobs order by 1"),
        ).toContainEqual({ id: "8" });
        await expect(copy.query("alter table saas.users drop email")).rejects.toMatchObject({ code: "NK001" });
      });
    });
  }
});
