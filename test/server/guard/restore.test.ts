import { afterAll, beforeAll, describe, expect } from "vitest";
import type { Postgres } from "../../support/postgres.ts";
import { openArena, openSession, startAnotherCluster, startCluster, stopCluster, test } from "../cluster.ts";
import { type DumpTools, findDumpTools } from "../dump.ts";

const found = findDumpTools();
const copied = "notika: this is a restored copy; workflows were bound to its tables by name";

const tables = `
  create schema shop;
  create type shop.mood as enum ('good', 'bad');
  create table shop.kept (a int, id int, mood shop.mood, note text);
  alter table shop.kept drop column a; -- so that its columns have other numbers in a copy
  create table shop.lost (id int, mood shop.mood);
  create table shop.log (id int) partition by range (id);
  create table shop.log_1 partition of shop.log for values from (0) to (10);
  create table shop.log_2 partition of shop.log for values from (10) to (20);
  select notika.publish('kept', 'shop.kept', columns => '{id,mood,note}', condition => $$new.mood = 'good'$$);
  select notika.publish('lost', 'shop.lost', columns => '{id,mood}');
  select notika.publish('log', 'shop.log');
  insert into shop.kept values (1, 'good', 'x');`;

describe.skipIf(typeof found === "string")("a restored copy", () => {
  const tools = found as DumpTools;
  let original: Postgres;
  let other: Postgres;
  beforeAll(async () => {
    [original, other] = await Promise.all([startCluster({}, tools.major), startAnotherCluster(tools.major)]);
  });
  afterAll(() => Promise.all([stopCluster(original), stopCluster(other)]));

  /** A database with the tables above, dumped and restored into the other server. */
  async function copy({
    dump = [],
    restore = [],
    given = "",
  }: {
    dump?: string[];
    restore?: string[];
    given?: string;
  }) {
    const db = await openArena(original);
    await db.database.script(`${tables} ${given}`);
    const file = tools.dump(db.url, "--format=custom", ...dump);
    await db.close();
    const url = await other.createDatabase();
    try {
      tools.restore(file, url, ...restore);
    } catch (error) {
      // Like a DBA, who reads the errors and goes on.
      if (!restore.length && !dump.length) throw error;
    }
    const notices: string[] = [];
    return { url, file, notices, ...openSession(url, (message) => notices.push(message)) };
  }

  test("is bound by name, and guarded from its first migration on", async () => {
    const db = await copy({});

    await expect(db.query("alter table shop.kept drop column note")).rejects.toMatchObject({ code: "NK001" });
    await db.query("alter table shop.kept add column more int");
    expect(await db.query("select finding, workflow from notika.check() where finding <> 'copy'")).toEqual([]);
    await db.query("insert into shop.kept values (2, 'good', 'y'), (3, 'bad', 'z')");

    expect(new Set(db.notices)).toEqual(new Set([copied]));
    expect(await db.query("select new from notika.event_log where workflow = 'kept' order by event_id")).toEqual([
      { new: { id: 1, mood: "good", note: "x" } },
      { new: { id: 2, mood: "good", note: "y" } },
    ]);
    await db.query("alter table shop.kept drop column more");
    await expect(
      db.query("alter table shop.kept rename id to key; alter table shop.kept drop key"),
    ).rejects.toMatchObject({ code: "NK001" });
    expect(await db.query("select * from notika.guard_log")).toEqual([]);
    await db.close();
  });

  test("knows a table and a type that had been renamed", async () => {
    const db = await copy({
      given: `
        alter type shop.mood rename to humour;
        alter schema shop rename to store;
        -- As where there are no event triggers, and check has not run yet.
        alter event trigger notika_guard_end disable;
        alter table store.kept rename to held;
        alter event trigger notika_guard_end enable always;`,
    });

    expect(await db.query("select finding, workflow from notika.check() where finding <> 'copy'")).toEqual([]);

    expect(
      await db.query("select table_name from notika.workflows where workflow in ('kept', 'lost') order by 1"),
    ).toEqual([{ table_name: "store.held" }, { table_name: "store.lost" }]);
    await expect(db.query("alter table store.held drop column mood")).rejects.toMatchObject({ code: "NK001" });
    await db.close();
  });

  for (const [name, options] of Object.entries({
    "a dump without one published table": { dump: ["--exclude-table=shop.lost", "--exclude-table=shop.log_2"] },
    "a dump of some schemas": { dump: ["--schema=notika", "--schema=notika_worker", "--schema=public"] },
  })) {
    test(`lacks a table: ${name} restores the rest, and says which workflow is broken`, async () => {
      const db = await copy(options);
      const isLost = name.includes("schemas") ? ["kept", "log", "lost"] : ["lost"];

      expect(await db.query("select workflow, state from notika.workflows where table_name is not null")).toHaveLength(
        4,
      );
      const findings = await db.query(
        `select distinct finding, severity, workflow, detail, remedy from notika.check()
          where finding = 'table_dropped' order by workflow`,
      );
      expect(findings.map(({ workflow }) => workflow)).toEqual(isLost);
      expect(findings).toContainEqual({
        finding: "table_dropped",
        severity: "error",
        workflow: "lost",
        detail: "shop.lost: expected a table, found nothing",
        remedy: "select notika.publish('lost', 'shop.lost', operations => '{insert}', columns => '{id,mood}');",
      });
      expect(await db.query("select workflow, reason from notika.workflows where state = 'broken' order by 1")).toEqual(
        isLost.map((workflow) => ({ workflow, reason: `table dropped: shop.${workflow}` })),
      );
      await db.query("insert into public.item values (7, 8)");
      expect(await db.query("select new from notika.event_log where workflow = 'watch_item'")).toEqual([
        { new: { id: 7, n: 8 } },
      ]);

      await db.database.script(`
        create schema if not exists shop;
        create table shop.other (id int, mood text);
        select notika.publish('lost', 'shop.other', columns => '{id,mood}');
        insert into shop.other values (1, 'good')`);
      expect(await db.query("select state from notika.workflows where workflow = 'lost'")).toEqual([
        { state: "published" },
      ]);
      expect(await db.query("select new from notika.event_log where workflow = 'lost'")).toEqual([
        { new: { id: 1, mood: "good" } },
      ]);
      await db.close();
    });
  }

  for (const [name, prepare, mend] of [
    [
      "where the owner of Notika has rights on new tables, at once",
      "alter default privileges in schema shop grant trigger on tables to notika",
    ],
    [
      "where it has not, after the grant that the finding names",
      "",
      "grant trigger on table shop.lost to notika; select * from notika.install();",
    ],
  ] as const) {
    test(`is whole again when the table that it lacked comes: ${name}`, async () => {
      const db = await copy({ dump: ["--exclude-table=shop.lost"] });
      await db.query("select notika.check()");
      await db.database.script(prepare);

      await db.query("create table shop.lost (mood shop.mood, id int)");
      if (mend) {
        expect(await db.query("select state from notika.workflows where workflow = 'lost'")).toEqual([
          { state: "broken" },
        ]);
        expect(await db.query("select * from notika.check()")).toContainEqual(
          expect.objectContaining({
            finding: "right_missing",
            severity: "error",
            workflow: "lost",
            remedy: mend.replace("; ", "; then: "),
          }),
        );
        await db.database.script(mend);
        await db.query("select notika.check()"); // each minute by a runner: marks what is whole again
      }
      await db.query("insert into shop.lost values ('bad', 4)");

      expect(await db.query("select state from notika.workflows where workflow = 'lost'")).toEqual([
        { state: "published" },
      ]);
      expect(await db.query("select new from notika.event_log where workflow = 'lost'")).toEqual([
        { new: { id: 4, mood: "bad" } },
      ]);
      await db.close();
    });
  }

  test("takes a part of a dump over: what is published is guarded, the rest is replaced", async () => {
    const db = await copy({ given: "create table shop.free (id int); insert into shop.free values (1)" });
    const replace = (table: string) =>
      tools.restore(db.file, db.url, "--clean", "--schema=shop", `--table=${table}`, "--exit-on-error");

    expect(() => replace("kept")).toThrow(/because Notika's workflow "kept" uses it/);
    await db.query("insert into shop.free values (2)");
    replace("free");

    expect(await db.query("select id from shop.free")).toEqual([{ id: 1 }]);
    expect(await db.query("select workflow, state from notika.workflows where state <> 'published'")).toEqual([]);
    await db.close();
  });

  test("is bound again when the whole of it is replaced", async () => {
    const db = await copy({});
    await db.query("select notika.check()");

    tools.restore(db.file, db.url, "--clean", "--if-exists", "--exit-on-error");

    expect(await db.query("select finding, workflow from notika.check() where finding <> 'copy'")).toEqual([]);
    await expect(db.query("alter table shop.kept drop column note")).rejects.toMatchObject({ code: "NK001" });
    expect(await db.query("select * from notika.guard_log")).toEqual([]);
    await db.close();
  });
});
