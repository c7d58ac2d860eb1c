import { describe, expect } from "vitest";
import { openSession, type Session } from "../../server/cluster.ts";
import { findDumpTools } from "../../server/dump.ts";
import { plant } from "../attack.ts";
import { kit } from "../canary.ts";
import { kinds, type Scene, test } from "../scene.ts";

// What needs sessions of their own: each role in its own, at the same time.

const login = (scene: Scene, role: string): Session =>
  openSession((scene.url as string).replace("postgres@", `${role}@`));

const table = `create table app.rows (id bigint primary key, note text);
  insert into app.rows select n, 'x' from generate_series(1, 3) as n;
  grant select, trigger on app.rows to pub, runnerrole`;

describe.each(kinds)("sessions of their own, installed by %s", (kind) => {
  for (const role of ["pub", "runnerrole"]) {
    test(`S1: types of ${role}'s own session`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as("appowner", table);
      await scene.as("postgres", "select notika.publish('honest', 'app.rows', columns => '{id}')");
      const session = login(scene, role);
      await session.database.script(kit("pg_temp"));
      await scene.noted();

      for (const literal of ["'{1}'::pg_temp.d[]", "'(1)'::pg_temp.c", "'[a,b]'::pg_temp.r"]) {
        const call =
          role === "pub"
            ? `select notika.publish('w', 'app.rows', columns => '{id}', condition => $c$${literal} is not null$c$)`
            : `select notika.backfill('honest', condition => $c$${literal} is not null$c$)`;
        await session.query(call).catch(() => {});
        await session.query("select notika.dispatch()").catch(() => {});
      }
      await scene.install();
      await session.close();
      // Its types are gone now.
      await scene.install();
      await scene.attempt("postgres", "select * from notika.check()");

      expect((await scene.noted()).filter((it) => it !== role)).toEqual([]);
    });
  }

  test("S6: a policy that comes while a page waits for the table", async ({ open }) => {
    const scene = await open(kind);
    await plant(scene, "appowner");
    await scene.as("appowner", table);
    await scene.as("postgres", "select notika.publish('w', 'app.rows', columns => '{id}')");
    await scene.as("runnerrole", "select notika.backfill('w')");
    const [owner, runner] = [login(scene, "appowner"), login(scene, "runnerrole")];
    await owner.database.script("select canary.note()"); // it is in its own session
    await scene.noted();

    await owner.query("begin");
    await owner.query("alter table app.rows enable row level security");
    await owner.query("create policy p on app.rows using (evil.note(note))");
    const page = runner.query("select notika.dispatch()").catch(() => {});
    await waiting(scene);
    await owner.query("commit");
    await page;
    await runner.query("select notika.dispatch()").catch(() => {});

    expect((await scene.noted()).filter((it) => it !== "appowner")).toEqual([]);
    await Promise.all([owner.close(), runner.close()]);
  });

  for (const [name, turn] of Object.entries({
    "a domain is hardened": "alter domain app.tag add constraint c check (evil.note(value)) not valid",
    "an enum becomes a domain":
      "alter type app.mood rename to was; create domain app.mood as text check (evil.note(value))",
  })) {
    test(`S18: ${name} while somebody publishes`, async ({ open }) => {
      const scene = await open(kind);
      await plant(scene, "appowner");
      await scene.as(
        "appowner",
        `${table}; create domain app.tag as text; create type app.mood as enum ('a'); alter table app.rows add tags app.tag[]`,
      );
      const owner = login(scene, "appowner");
      const dba = openSession(scene.url as string);
      const condition = name.includes("enum") ? "new.note <> all (('{a}'::app.mood[])::text[])" : "new.tags = '{vip}'";
      const publish = (n: number) =>
        dba
          .query(`select notika.publish('w${n}', 'app.rows', columns => '{id}', condition => $c$${condition}$c$)`)
          .catch(() => {});
      await scene.noted();

      await owner.query("begin");
      for (const statement of turn.split("; ")) await owner.query(statement);
      await owner.query("lock table app.rows in access exclusive mode");
      const published = publish(1);
      await waiting(scene);
      await owner.query("commit");
      await published;
      await publish(2);
      await scene.install();

      expect((await scene.noted()).filter((it) => it !== "appowner")).toEqual([]);
      await Promise.all([owner.close(), dba.close()]);
    });
  }

  for (const [name, condition] of Object.entries({
    "that a condition names": "'(x)'::app.state = '(x)'::app.state",
    "of a column": "new.state in ('(x)', 'a')",
  })) {
    test(`S18: a type ${name} is another when Notika gets to make the trigger`, async ({ open }) => {
      const scene = await open(kind);
      await plant(scene, "pub");
      await scene.as("postgres", "grant create on schema app to pub");
      await scene.as(
        "pub",
        "create type app.state as enum ('a', '(x)'); create domain app.tag as text check (evil.note(value))",
      );
      await scene.as("appowner", `${table}; alter table app.rows add state app.state`);
      const [owner, pub, publisher] = [login(scene, "appowner"), login(scene, "pub"), login(scene, "pub")];
      await scene.noted();

      await owner.query("begin");
      await owner.query("lock table app.rows in row exclusive mode"); // lets it be read, and no trigger made
      const published = publisher
        .query(`select notika.publish('w', 'app.rows', columns => '{id}', condition => $c$${condition}$c$)`)
        .catch(() => {});
      await waiting(scene);
      await pub.query("begin");
      await pub.query("alter type app.state rename to was");
      await pub.query("create type app.state as (x app.tag)");
      await pub.query("commit");
      await owner.query("commit");
      await published;
      await scene.install();

      expect((await scene.noted()).filter((it) => it !== "pub")).toEqual([]);
      await Promise.all([owner.close(), pub.close(), publisher.close()]);
    });
  }

  test("S9: the owner of the database, in a session of his own, has nothing of Notika", async ({ open }) => {
    const scene = await open(kind);
    await scene.as(
      "postgres",
      "do $$ begin execute format('alter database %I owner to dbowner', current_database()); end $$",
    );
    const session = login(scene, "dbowner");

    for (const sql of [
      "drop schema notika cascade",
      "select * from notika.install()",
      "select notika.grant_reader('dbowner')",
    ]) {
      await expect(session.query(sql), sql).rejects.toMatchObject({ code: "42501" });
    }
    await session.close();
    await scene.as(
      "postgres",
      "do $$ begin execute format('alter database %I owner to postgres', current_database()); end $$",
    );
  });
});

async function waiting(scene: Scene) {
  for (let i = 0; i < 40; i++) {
    const rows = await scene.as(
      "postgres",
      "select from pg_locks as l join pg_database as d on d.oid = l.database where not granted and d.datname = current_database()",
    );
    if (rows.length) return;
    await new Promise((go) => setTimeout(go, 50));
  }
}

describe("S18: a copy", () => {
  for (const options of [[], ["--no-owner"], ["--no-privileges"]]) {
    test(`of what has become hostile is repaired without running it (${options.join() || "all of it"})`, async ({
      open,
      bare,
      skip,
    }) => {
      const tools = findDumpTools();
      if (typeof tools === "string") return skip(tools);
      if (tools.major < Number(process.env.NOTIKA_TEST_POSTGRES)) return skip("pg_dump is too old");
      const scene = await open("administrator");
      await plant(scene, "appowner");
      await scene.as(
        "appowner",
        `${table}; create type app.mood as enum ('a'); create table app.more (id app.mood primary key, note text)`,
      );
      await scene.as(
        "postgres",
        `select notika.publish('w', 'app.rows', columns => '{id}', condition => $c$new.note <> all (('{a}'::app.mood[])::text[])$c$);
         select notika.publish('v', 'app.more', operations => '{insert,update}', columns => '{note}')`,
      );
      await scene.as(
        "appowner",
        "alter type app.mood rename to was; create domain app.mood as text check (evil.note(value))",
      );
      const dump = tools.dump(
        scene.url as string,
        "--format=custom",
        "--schema=notika",
        "--schema=notika_worker",
        "--schema=app",
        "--schema=evil",
        ...options,
      );

      const copy = await bare();
      await copy.as("postgres", "create schema if not exists other");
      try {
        tools.restore(dump, copy.url as string, ...options);
      } catch {} // some of it may fail: what a restore runs is Postgres' own rule
      await copy.noted();
      await copy.install().catch(() => {});
      for (const sql of [
        "select * from notika.check()",
        "select * from notika.install()",
        "select * from notika.health",
      ]) {
        await copy.attempt("postgres", sql);
      }

      expect((await copy.noted()).filter((it) => it !== "appowner")).toEqual([]);
    });
  }

  test("without its owners is refused until it is installed again", async ({ open, bare, skip }) => {
    const tools = findDumpTools();
    if (typeof tools === "string") return skip(tools);
    if (tools.major < Number(process.env.NOTIKA_TEST_POSTGRES)) return skip("pg_dump is too old");
    const scene = await open("administrator");
    const dump = tools.dump(
      scene.url as string,
      "--format=custom",
      "--schema=notika",
      "--schema=notika_worker",
      "--schema=app",
    );
    const copy = await bare();
    try {
      tools.restore(dump, copy.url as string, "--no-owner", "--no-privileges");
    } catch {} // event triggers are not in a dump of schemas
    const publish = "select notika.publish('w', 'app.users', columns => '{id}')";

    expect(await copy.attempt("postgres", publish)).toBeDefined();
    const health = await copy.as<{ severity: string }>(
      "postgres",
      "select severity from notika.health where severity = 'error'",
    );
    expect(health.length).toBeGreaterThan(0);

    await copy.install();
    expect(await copy.owner()).toBe("notika");
    expect(await copy.attempt("postgres", publish)).toBeUndefined();
  });
});
