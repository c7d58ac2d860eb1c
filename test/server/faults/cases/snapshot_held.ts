import { raw } from "sql-template-tag";
import type { Fault } from "../harness/fault.ts";
import { installTurningRing, turned, turnRing, whileOpen } from "../harness/ring.ts";

export default {
  title: "a snapshot is held, and a transaction of another database is idle, while the ring turns",
  prepare: installTurningRing,
  async strike(stage) {
    const elsewhere = stage.url.replace(/[^/]+$/, "postgres");
    const said = await whileOpen(stage.url, "begin isolation level repeatable read; select count(*) from item", () =>
      whileOpen(elsewhere, "begin; select pg_current_xact_id()", () => turnRing(stage, stage.isShort ? 2000 : 20_000)),
    );
    if ((said[turned] ?? 0) < 3) stage.object(`the ring did not turn: ${JSON.stringify(said)}`);
    // What was undone is dead as well, and goes when the ring turns.
    const [ring] = await stage.database.execute<{ bytes: number; changed: number }>(
      raw(`
      select (select ring_bytes::int from notika.lag) as bytes, sum(n_tup_upd + n_tup_del)::int as changed
        from pg_stat_user_tables where relname like 'event_log_%'`),
    );
    if (ring?.changed !== 0) stage.object("rows of the ring were changed");
    if (!ring || ring.bytes > 2_000_000) stage.object(`the ring has ${ring?.bytes} bytes`);
  },
} satisfies Fault;
