import { readdirSync } from "node:fs";
import path from "node:path";
import { raw } from "sql-template-tag";
import { describe, expect } from "vitest";
import { type TestDatabase, test } from "../support/database.ts";
import { addPeers, peerFiles, peerSql } from "./arena.ts";
import { captors } from "./captors.ts";
import { fill, ways } from "./parts/dispatch.ts";
import { openTarget } from "./targets.ts";

const none = ["none", "empty", "emptyWhen", "noMatch"];

async function kept({ query }: TestDatabase, logs: string[]): Promise<number> {
  let rows = 0;
  for (const log of logs) rows += (await query<{ n: number }>(`select count(*)::int as n from ${log}`))[0]?.n ?? 0;
  return rows;
}

describe("a peer", () => {
  test("says what it is and what was left out, and is one of those that are shown", () => {
    const files = readdirSync(path.join(import.meta.dirname, "peers")).map((file) => path.parse(file).name);

    expect(files.toSorted()).toEqual([...peerFiles].toSorted());
    for (const name of files) expect(peerSql(name), name).toMatch(/^-- .+\n(-- .+\n)*-- Left out: /);
  });
});

describe("who captures changes", () => {
  test("keeps each that was made, of one row or of many, and none of what a reset puts there", async ({ db }) => {
    await addPeers(db);

    for (const [key, captor] of Object.entries(captors)) {
      const target = await openTarget(db.database, captor);
      const counts = [];
      await target.reset(0);
      await target.statements("insert", 3);
      counts.push(await kept(db, captor.logs));
      await target.statements("update", 3);
      await target.statements("delete", 3);
      counts.push(await kept(db, captor.logs));
      await target.reset(5);
      counts.push(await kept(db, captor.logs));
      await target.bulk("update", 5);
      counts.push(await kept(db, captor.logs));

      const expected = none.includes(key) ? [0, 0, 0, 0] : [3, 9, 0, 5];
      expect(counts, captor.name).toEqual(expected);
    }
  });

  test("carries the same four columns, or all of them, whoever it is", async ({ db }) => {
    await addPeers(db);
    const keys: Record<string, string[]> = {};
    for (const [name, image] of Object.entries({
      projected: "e.new from notika._event as e",
      hasuraColumns: "e.payload::json #> '{data,new}' from hasura.event_log as e",
      wholeRow: "e.new from notika._event as e",
      hasura: "e.payload::json #> '{data,new}' from hasura.event_log as e",
      pgmq: "e.message::json -> 'new' from pgmq.q_orders as e",
      pgq: "e.ev_data::json from pgq.event_1_0 as e",
      audit: "e.record::json from audit.record_version as e",
      addJob: "e.payload::json -> 'new' from notika_worker._private_jobs as e",
    })) {
      const target = await openTarget(db.database, captors[name as keyof typeof captors]);
      await target.reset(0);
      await target.statements("insert", 1);
      const rows = await db.query<{ key: string }>(`select json_object_keys(i.image) as key
                                                      from (select ${image}) as i (image) order by 1`);
      keys[name] = rows.map(({ key }) => key);
    }

    const four = ["amount", "customer_id", "id", "status"];
    const all = [...four, "address", "created_at", "currency", "email", "note", "updated_at"].toSorted();
    expect(keys).toEqual({
      projected: four,
      hasuraColumns: four,
      wholeRow: all,
      hasura: all,
      pgmq: all,
      pgq: all,
      audit: all,
      addJob: all,
    });
  });
});

describe("who takes events out of a backlog", () => {
  test("takes each once, a batch at a time", async ({ db }) => {
    await addPeers(db);

    const taken: Record<string, number[]> = {};
    for (const way of ways) {
      await fill(db, way, 1000);
      taken[way.name] = [];
      for (let batch = 0; batch < 4; batch++) taken[way.name]?.push(await way.take(db.database, 400));
    }

    const { "constant jobs, no events": endless, ...others } = taken;
    expect(endless).toEqual([400, 400, 400, 400]);
    for (const [name, batches] of Object.entries(others)) expect(batches, name).toEqual([400, 400, 200, 0]);
    const jobs = "select count(*)::int as jobs, count(distinct key)::int as events from notika_worker._private_jobs";
    expect(await db.database.execute(raw(jobs))).toEqual([{ jobs: 1000, events: 1000 }]);
  });
});
