import { setTimeout as sleep } from "node:timers/promises";
import type { Fault } from "../harness/fault.ts";

export default {
  title: "connections hang without closing; new ones are good",
  way: "relay",
  async strike({ relay, random, isShort }) {
    relay.forget();
    if (!isShort) await sleep(5000 * random());
  },
  recovery: 30_000,
} satisfies Fault;
