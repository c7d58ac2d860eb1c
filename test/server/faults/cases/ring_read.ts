import type { Fault } from "../harness/fault.ts";
import { installTurningRing, inUse, turned, turnRing, whileOpen } from "../harness/ring.ts";

// As pg_dump does it: all tables are locked at once, and read one after the other.
const dump = `
  begin isolation level repeatable read;
  lock table notika.event_log_0, notika.event_log_1, notika.event_log_2, item in access share mode;
  select count(*) from notika.event_log_0`;

export default {
  title: "the ring is read from end to end, as by pg_dump, while it turns",
  prepare: installTurningRing,
  async strike(stage) {
    const during = await whileOpen(stage.url, dump, () => turnRing(stage, stage.isShort ? 1500 : 10_000));
    if (!during[inUse]) stage.object(`the ring was not in use: ${JSON.stringify(during)}`);
    if (during[turned]) stage.object("the ring turned under the eyes of a reader");
    const after = await turnRing(stage, 1500);
    if (!after[turned]) stage.object(`the ring does not turn any more: ${JSON.stringify(after)}`);
  },
  object: ({ writers }) => [...new Set(writers.failures)].map((failure) => `a writer was told: ${failure}`),
} satisfies Fault;
