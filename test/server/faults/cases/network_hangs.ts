import { away } from "../harness/away.ts";
import type { Fault } from "../harness/fault.ts";

export default {
  title: "the network hangs, then goes on where it was",
  way: "relay",
  async strike(stage) {
    stage.relay.hang();
    await away(stage, stage.isShort ? 3000 : 20_000 * stage.random(), { isKnown: false });
    stage.relay.flow();
  },
} satisfies Fault;
