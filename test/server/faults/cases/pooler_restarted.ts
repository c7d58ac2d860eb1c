import { setTimeout as sleep } from "node:timers/promises";
import type { Fault } from "../harness/fault.ts";

export default {
  title: "PgBouncer restarted, killed, paused, its connections renewed",
  way: "pooler",
  async strike({ pooler, random, isShort }) {
    const strikes = [
      () => pooler.restart(),
      () => pooler.kill("SIGKILL").then(pooler.restart),
      () =>
        pooler
          .command("pause")
          .then(() => sleep(2000))
          .then(() => pooler.command("resume")),
      () => pooler.command("reconnect"),
    ];
    const chosen = isShort ? strikes : strikes.slice(Math.floor(random() * strikes.length)).slice(0, 1);
    for (const strike of chosen) await strike();
  },
} satisfies Fault;
