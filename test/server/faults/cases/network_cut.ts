import { away } from "../harness/away.ts";
import type { Fault } from "../harness/fault.ts";

export default {
  title: "the network hangs, then every connection is reset",
  way: "relay",
  async strike(stage) {
    stage.relay.hang();
    await away(stage, stage.isShort ? 3000 : 20_000 * stage.random(), { isKnown: false });
    stage.relay.cut("reset");
    stage.relay.flow();
  },
} satisfies Fault;
