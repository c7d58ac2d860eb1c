import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Postgres } from "../../support/postgres.ts";
import { type Arena, drain, jobs, openArena, startCluster, stopCluster } from "../cluster.ts";

const library = findLibrary();

describe.skipIf(!library)("a server whose clock is set", () => {
  let folder: string;
  let server: Postgres;
  let db: Arena;
  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "notika-clock-"));
    chmodSync(folder, 0o755); // the server's user is another
    setClock("+0");
    server = await startCluster({}, undefined, {
      LD_PRELOAD: library as string,
      FAKETIME_TIMESTAMP_FILE: path.join(folder, "clock"),
      FAKETIME_NO_CACHE: "1",
      FAKETIME_DONT_FAKE_MONOTONIC: "1",
    });
    db = await openArena(server);
  });
  afterAll(async () => {
    await db?.close();
    if (server) await stopCluster(server);
    rmSync(folder, { recursive: true });
  });

  const setClock = (shift: string) => writeFileSync(path.join(folder, "clock"), `${shift}\n`);

  test("hands over every change once and in order, forwards and backwards, and turns the ring", async () => {
    let id = 0;
    for (const shift of [0, 5, -7, 3, -1]) {
      setClock(`${shift < 0 ? "" : "+"}${shift * 3600}`);
      const ahead = await db.value<number>("select extract(epoch from now())::float8");
      expect((ahead - Date.now() / 1000) / 3600).toBeCloseTo(shift, 1);
      await db.query(`insert into item values (${++id}), (${++id})`);
      await db.query("select notika.maintain()");
      expect(await drain(db, 1)).toEqual([1, 1]);
    }

    expect(
      (
        await db.query<{ id: number }>(
          "select (payload -> 'new' ->> 'id')::int as id from notika_worker._private_jobs order by key::bigint",
        )
      ).map(({ id }) => id),
    ).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(await jobs(db)).toHaveLength(10);
    setClock("+50000");
    await db.query("insert into item values (11)");
    await drain(db);
    expect(await db.query("select * from notika.maintain()")).toEqual([
      { maintain: "the ring turned to notika.event_log_1" },
    ]);
  });

  test("starts what is new at once, and what waited when the clock was set back as much later", async () => {
    const due = "select count(*)::int from notika_worker._private_jobs where run_at <= now()";
    setClock("+200000");
    await db.query("delete from notika_worker._private_jobs"); // behind a backlog it has a place of then
    await db.query("insert into item values (21)");
    await drain(db);
    const before = await db.value<number>(due);
    setClock("+196400");
    await db.query("insert into item values (22)");
    await drain(db);

    expect(await db.value(due)).toBe(before); // 22 instead of 21
    setClock("+200001");
    expect(await db.value(due)).toBe(before + 1);
  });

  test("gives up no runner that is alive, for it is heard before the second look", async () => {
    setClock("+0");
    await db.query("select notika._beat('alive', 'here', 1, '{}'), notika._beat('dead', 'here', 2, '{}')");
    setClock("+90000");
    expect(await db.query("select said from notika.maintain() as said")).toEqual([]);

    await db.query("select notika._beat('alive', 'here', 1, '{}')");
    setClock("+90016");

    expect(await db.query("select said from notika.maintain() as said")).toEqual([
      { said: "1 silent runners were given up, their jobs freed" },
    ]);
    expect(await db.query("select runner_id from notika.runner")).toEqual([{ runner_id: "alive" }]);
  });
});

/** libfaketime, of the Debian package of that name. */
function findLibrary(): string | undefined {
  const [folder = ""] = ["x86_64", "aarch64"].map((cpu) => `/usr/lib/${cpu}-linux-gnu/faketime`).filter(existsSync);
  const file = folder && readdirSync(folder).find((name) => /^libfaketime\.so/.test(name));
  return file ? path.join(folder, file) : undefined;
}
