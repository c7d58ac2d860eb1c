import { setTimeout as sleep } from "node:timers/promises";
import type { Fault } from "../harness/fault.ts";

let started = 0;

export default {
  title: "PgBouncer restarted, killed, paused, and the server behind it restarted and killed",
  ofServer: true,
  way: "pooler",
  runners: 2,
  // Every second one listens past the pooler.
  runner: ({ url }) => (started++ % 2 ? { env: { NOTIKA_DIRECT_URL: url } } : {}),
  async strike({ pooler, server, random, isShort }) {
    const strikes = [
      () => pooler.restart(),
      () => pooler.kill("SIGKILL").then(pooler.restart),
      () =>
        pooler
          .command("pause")
          .then(() => sleep(1000))
          .then(() => pooler.command("resume")),
      () => pooler.command("reconnect"),
      () => server.restart(),
      () => server.kill("SIGKILL").then(server.restart),
    ];
    const chosen = isShort ? strikes : strikes.slice(Math.floor(random() * strikes.length)).slice(0, 1);
    for (const strike of chosen) {
      await strike();
      await sleep(300);
    }
  },
} satisfies Fault;
