import { describe, expect } from "vitest";
import {
  begin,
  commit,
  drain,
  jobs,
  openArena,
  openSession,
  startAnotherCluster,
  startCluster,
  stopCluster,
  test,
} from "./cluster.ts";
import { findDumpTools } from "./dump.ts";

const warning = "notika: this database was restored from another cluster; the cursor was rebased";

describe("a copy in another cluster", () => {
  test("hands over once what was not handed over, also what was written since", async ({ skip }) => {
    const tools = findDumpTools();
    if (typeof tools === "string") return skip(tools);
    const original = await startCluster({}, tools.major);
    const db = await openArena(original);
    // The older cluster, whose xids lie in the other's future.
    await db.database.script(
      "do $$ begin for i in 1..3000 loop perform pg_current_xact_id(); commit; end loop; end $$",
    );
    const straggler = await db.connect();
    await begin(straggler, "insert into item values (99)");
    await db.query("insert into item select generate_series(1, 8)");
    expect(await db.value("select notika.dispatch(5)")).toBe(5);

    const dump = tools.dump(db.url);
    const other = await startAnotherCluster(tools.major);
    try {
      const url = await other.createDatabase("copy");
      tools.psql(dump, url);
      const warnings: string[] = [];
      const copy = openSession(url, (message) => warnings.push(message));
      const writer = openSession(url);
      await begin(writer, "insert into item values (20)");
      await copy.query("insert into item values (21)");
      await copy.database.script("begin; savepoint a; insert into item values (22); release a; commit");
      await copy.query("select notika.maintain()");

      await copy.query("insert into item values (23)");
      await copy.query("select notika.dispatch()");
      await commit(writer);
      await drain(copy, 2);

      expect(warnings).toEqual([
        "notika: this is a restored copy; workflows were bound to its tables by name",
        warning,
      ]);
      expect((await jobs(copy)).toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 22, 23]);
      expect(await copy.value("select count(*)::int from notika.event_log where not dispatched")).toBe(0);
      expect(await copy.value("select events_waiting::int from notika.lag")).toBe(0);
      await Promise.all([copy.close(), writer.close()]);
    } finally {
      await stopCluster(other);
    }
    // The original goes on as if nothing had happened.
    await commit(straggler);
    await drain(db);
    expect((await jobs(db)).toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 99]);
    await db.close();
    await stopCluster(original);
  });

  // What a restore leaves behind, made by hand, so that no other program is needed.
  for (const [age, system, xid] of [
    ["a younger", "system_identifier + 1", 4_000_000],
    ["an older", "system_identifier + 1", 3],
    ["a", "system_identifier", 4_000_000],
  ] as const) {
    test(`is noticed in ${age} cluster${system === "system_identifier" ? " with the same identifier" : ""}`, async ({
      db,
    }) => {
      const warnings: string[] = [];
      const session = await db.connect((message) => warnings.push(message));
      await db.query("insert into item select generate_series(1, 6)");
      expect(await db.value("select notika.dispatch(4)")).toBe(4);
      await db.database.script(`
        update notika.event_log_0 set xid = '${xid}';
        insert into notika.position
          (system_identifier, snapshot, high, low, window_snapshot, window_low, window_high, window_at, horizon,
           flow_ids, flow_priorities, flow_places)
        select ${system}, '3:3:', 0, low, '${xid + 1}:${xid + 1}:', window_low, window_high, window_at, horizon,
               flow_ids, flow_priorities, flow_places
          from notika._position()`);
      await db.query("insert into item values (7)");

      expect(await session.value("select notika.dispatch()")).toBe(0);

      expect(warnings).toEqual([warning]);
      expect(await drain(session)).toEqual([3]);
      expect(await drain(session)).toEqual([]);
      expect(await jobs(db)).toEqual([1, 2, 3, 4, 5, 6, 7]);
      await db.query("insert into item values (8)");
      expect(await drain(session)).toEqual([1]);
      expect(warnings).toHaveLength(1);
    });
  }

  test("hands over what is written before anybody looks, where the cursor waited for nothing", async ({ db }) => {
    await db.query("insert into item select generate_series(1, 6)");
    await drain(db);
    await db.database.script(`
      update notika.event_log_0 set xid = '4000000';
      insert into notika.position
        (system_identifier, snapshot, high, low, horizon, flow_ids, flow_priorities, flow_places)
      select system_identifier + 1, '4000001:4000001:', high, low, horizon, flow_ids, flow_priorities, flow_places
        from notika._position()`);

    await db.query("insert into item values (7)"); // an xid that the old snapshot takes for a finished one

    expect(await db.value("select notika.dispatch()")).toBe(0);
    expect(await drain(db)).toEqual([1]);
    expect(await jobs(db)).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });
});

describe("a copy in the same cluster", () => {
  test("hands over what the original had not, and so does the original", async ({ db, cluster }) => {
    await db.query("insert into item select generate_series(1, 6)");
    expect(await db.value("select notika.dispatch(4)")).toBe(4);
    await db.close();

    const urls = [db.url, await cluster.createDatabase(undefined, db.url.split("/").at(-1))];

    for (const url of urls) {
      const session = openSession(url);
      await session.query("insert into item values (7)");
      expect(await drain(session)).toEqual([2, 1]);
      expect(await jobs(session)).toEqual([1, 2, 3, 4, 5, 6, 7]);
      await session.close();
    }
  });
});
