import { raw } from "sql-template-tag";
import type { Fault } from "../harness/fault.ts";
import { installTurningRing, turned, turnRing, waits } from "../harness/ring.ts";

export default {
  title: "no runner for many turns of the ring, which grows instead",
  prepare: installTurningRing,
  async strike(stage) {
    for (const runner of [...stage.runners]) await stage.end(runner, "SIGTERM");
    const said = await turnRing(stage, stage.isShort ? 2000 : 20_000);
    if (!said[waits]) stage.object(`the ring was not held up: ${JSON.stringify(said)}`);
    if ((said[turned] ?? 0) > 2) stage.object("the ring turned over events that wait");
    const [lag] = await stage.database.execute<{ events: number }>(
      raw("select events_waiting::int as events from notika.lag"),
    );
    if (!lag?.events) stage.object("lag does not say what waits");
    await stage.startRunner();
  },
} satisfies Fault;
