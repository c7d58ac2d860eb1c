import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { install } from "../../../runner/install/install.ts";
import type { Postgres } from "../../support/postgres.ts";
import { drain, major, openSession, type Session, startCluster, stopCluster, until } from "../cluster.ts";

// The databases of startCluster have a table item and the workflow watch_item, published on it.
let servers: [publisher: Postgres, subscriber: Postgres];
let number = 0;
const open: Session[] = [];

beforeAll(async () => {
  const settings = { wal_level: "logical", max_worker_processes: "20" };
  servers = await Promise.all([startCluster(settings, major), startCluster(settings, major, {}, true)]);
});
afterAll(async () => {
  await Promise.all(open.map((session) => session.close()));
  await Promise.all(servers.map(stopCluster));
});

interface Side extends Session {
  url: string;
}

async function pair(): Promise<{ publisher: Side; subscriber: Side; subscribe(publication: string): Promise<void> }> {
  const name = `shop_${++number}`;
  const sides = await Promise.all(
    servers.map(async (server) => {
      const url = await server.createDatabase(name, "model");
      const session = openSession(url);
      open.push(session);
      return { url, ...session };
    }),
  );
  const [publisher, subscriber] = sides as [Side, Side];
  return {
    publisher,
    subscriber,
    async subscribe(publication) {
      await subscriber.query(
        `create subscription ${name} connection 'host=127.0.0.1 port=${servers[0].port} user=postgres dbname=${name}'
           publication ${publication}`,
      );
      await until(
        subscriber,
        `exists (select from pg_subscription_rel) and not exists (select from pg_subscription_rel where srsubstate <> 'r')`,
      );
    },
  };
}

/** Ends when the subscriber has all that was committed so far at the publisher. */
async function caughtUp(publisher: Session) {
  const lsn = await publisher.value<string>("select pg_current_wal_insert_lsn()::text");
  await until(publisher, `bool_and(coalesce(replay_lsn, '0/0') >= '${lsn}') from pg_stat_replication`);
}

describe("a publication FOR ALL TABLES", () => {
  test("refuses no write, no migration and nothing that Notika does to its own tables", async () => {
    const { publisher: db } = await pair();
    await db.query("create publication everything for all tables");
    await db.query("insert into item select generate_series(1, 3)");
    await drain(db);
    const end = (run: number, state: string) =>
      db.query(
        `select notika._finish('[{"run_id": ${run}, "workflow": "watch_item", "state": "${state}", "attempts": 1}]')`,
      );
    await db.query("select notika_worker.complete_jobs(array(select id from notika_worker._private_jobs))");
    for (const [run, state] of [
      [1, "done"],
      [2, "failed"],
      [3, "failed"],
    ] as const)
      await end(run, state);

    await db.query("update item set n = 1 where id = 1");
    await db.query("delete from item where id = 2");
    await drain(db);
    await db.query("select notika.retry(2)");
    await db.database.script(`
      alter table item add column note text;
      select notika.publish('watch_item', 'public.item', '{insert,update}', '{id,n,note}');
      alter table item rename note to remark;
      update notika.setting set segment_age = '1 microsecond', runs_kept = '0'`);
    for (let turn = 0; turn < 4; turn++) {
      await db.query(`insert into item values (${10 + turn})`);
      await drain(db);
      expect(await db.query("select said from notika.maintain() as said")).toContainEqual({
        said: expect.stringContaining("the ring turned"),
      });
    }
    await db.query("select * from notika.install()");

    expect(await db.query("select run_id::int from notika.run_log where retried_at is null")).toEqual([]);
    expect(await db.query("select detail, remedy from notika.health where finding = 'publication'")).toEqual([
      {
        detail:
          "publication everything publishes Notika's own tables: a runner at a subscriber would run what runs here",
        remedy:
          "create publication everything_without_notika for tables in schema public; and name that in the subscription",
      },
    ]);
    // Without a replica identity it would.
    await db.query("alter table notika.run_log replica identity default");
    await end(9, "done");
    await expect(db.query("delete from notika.run_log")).rejects.toMatchObject({ code: "55000" });
  });

  test("makes a copy that can take over: what waits there runs once, and so does what is new", async () => {
    const { publisher, subscriber, subscribe } = await pair();
    await subscriber.database.script(`
      drop publication if exists everything;
      do $$
      declare v_tables text := (
        select string_agg(c.oid::regclass::text, ', ') from pg_class as c
         where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace) and c.relkind = 'r');
      begin
        execute 'truncate ' || v_tables; -- as a dump without data would have left them
      end $$`);
    await publisher.query("create publication everything for all tables");
    await publisher.query("insert into item select generate_series(1, 5)");
    expect(await publisher.value("select notika.dispatch(2)")).toBe(2);
    await subscribe("everything");
    await publisher.query("insert into item select generate_series(6, 8)");
    expect(await publisher.value("select notika.dispatch(2)")).toBe(2);
    await publisher.query("update notika.setting set segment_age = '1 microsecond'");
    await publisher.query("select notika.maintain()");
    await publisher.query("insert into item values (9)");
    await caughtUp(publisher);

    expect(
      await subscriber.query("select finding, severity from notika.check() where finding in ('copy', 'subscription')"),
    ).toEqual([
      { finding: "copy", severity: "warning" },
      { finding: "subscription", severity: "warning" },
    ]);
    await subscriber.query(`drop subscription shop_${number}`);
    expect(await subscriber.query("select distinct finding from notika.check() where severity = 'error'")).toEqual([
      { finding: "sequence_behind" },
    ]);
    await subscriber.query("select * from notika.install()");
    expect(await subscriber.query("select finding from notika.check() where finding <> 'ring'")).toEqual([]);
    await subscriber.query("insert into item values (10)");
    await drain(subscriber);

    expect(await ids(subscriber)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });

  test("has no second hand-over where nobody has advanced the sequences", async () => {
    const { publisher: db } = await pair();
    await db.query("insert into item select generate_series(1, 3)");
    for (let i = 0; i < 3; i++) await db.query("select notika.dispatch(1)");
    await db.query("select setval('notika.position_position_id_seq', 1, false)");

    await db.query("insert into item values (4)");
    await drain(db);
    await db.query("insert into item values (5)");

    expect(await drain(db)).toEqual([1]);
    expect(await ids(db)).toEqual([1, 2, 3, 4, 5]);
  });
});

describe("changes that a subscription brings", () => {
  test("wake a workflow where they were made, and at the subscriber when its triggers are enabled for them", async () => {
    const { publisher, subscriber, subscribe } = await pair();
    await publisher.query("insert into item values (1)");
    await publisher.query("create publication items for table item");
    await subscribe("items");
    await publisher.query("insert into item values (2)");
    await caughtUp(publisher);
    await drain(subscriber);

    expect(await ids(subscriber)).toEqual([]);
    const advice = await subscriber.query<{ detail: string; remedy: string }>(
      "select severity, workflow, detail, remedy from notika.health where finding = 'subscription' order by remedy",
    );
    expect(advice[0]).toEqual({
      severity: "ok",
      workflow: "watch_item",
      detail: `changes of public.item that subscription shop_${number} brings wake no workflow here: they did where they were made`,
      remedy: "If they are to wake it here too: alter table public.item enable always trigger notika_1_delete;",
    });
    for (const { remedy } of advice) await subscriber.query(remedy.replace(/^.*too: /, ""));
    await publisher.query("insert into item values (3)");
    await publisher.query("update item set n = 1 where id = 2");
    await caughtUp(publisher);
    await subscriber.query("insert into item values (4)");
    // A trigger that an ordinary owner has replaced has to be enabled again, which health says.
    await subscriber.query("select notika.publish('watch_item', 'public.item', '{insert,update,delete}', '{id}')");
    const again = await subscriber.query<{ remedy: string }>(
      "select remedy from notika.health where finding = 'subscription' order by remedy",
    );
    expect(again.map(({ remedy }) => remedy)).toEqual(advice.map(({ remedy }) => remedy));
    for (const { remedy } of again) await subscriber.query(remedy.replace(/^.*too: /, ""));
    await publisher.query("delete from item where id = 1");
    await caughtUp(publisher);
    await drain(subscriber);

    expect(await ids(subscriber)).toEqual([1, 2, 3, 4]);
    expect(await subscriber.query("select finding from notika.health where finding = 'subscription'")).toEqual([]);
    await drain(publisher);
    expect(await ids(publisher)).toEqual([1, 1, 2, 2, 3]);
  });

  test("are told of when a trigger is replaced by a role that may not enable it for them", async () => {
    const url = await servers[0].createDatabase("limited");
    const admin = openSession(url);
    await admin.database.script(`
      create role keeper login;
      create schema notika authorization keeper;
      create schema notika_worker authorization keeper;
      create table public.item (id int primary key, n int);
      grant select, trigger on item to keeper`);
    const warnings: string[] = [];
    const keeper = openSession(url.replace("postgres@", "keeper@"), (message) => warnings.push(message));
    open.push(admin, keeper);
    await install(keeper.database);
    await keeper.query("select notika.publish('watch_item', 'public.item', columns => '{id}')");
    await admin.query("alter table item enable always trigger notika_1_insert");

    await keeper.query("select notika.publish('watch_item', 'public.item', columns => '{id,n}')");

    expect(warnings).toEqual(["replicated changes no longer start a workflow: its trigger was replaced"]);
    expect(await admin.value("select tgenabled::text from pg_trigger where tgname = 'notika_1_insert'")).toBe("O");
  });

  test("include the rows of the first copy, when the triggers are enabled for them before it", async () => {
    const { publisher, subscriber, subscribe } = await pair();
    await publisher.query("insert into item values (1), (2)");
    await publisher.query("create publication items for table item");
    await subscriber.query("select notika.publish('watch_item', 'public.item', columns => '{id}')");
    await subscriber.query("alter table item enable always trigger notika_1_insert");
    // The guard has replaced it by one for each row, which Notika's owner may not enable.
    await subscriber.query("alter table item enable always trigger notika_1_insert");
    expect(await subscriber.query("select capture from notika.workflows where table_name is not null")).toEqual([
      { capture: "row" },
    ]);

    await subscribe("items");
    await drain(subscriber);

    expect(await ids(subscriber)).toEqual([1, 2]);
  });
});

/** The rows that runs are about. */
async function ids(db: Session): Promise<number[]> {
  const rows = await db.query<{ id: number }>(`
    select coalesce(payload -> 'new' ->> 'id', payload -> 'old' ->> 'id')::int as id
      from notika_worker._private_jobs
     order by id`);
  return rows.map(({ id }) => id);
}
