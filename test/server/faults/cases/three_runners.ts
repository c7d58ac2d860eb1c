import { setTimeout as sleep } from "node:timers/promises";
import type { Fault } from "../harness/fault.ts";

export default {
  title: "three runners, one stopped and one started again and again",
  runners: 3,
  async strike(stage) {
    const [oldest] = stage.runners;
    const started = stage.startRunner();
    if (oldest && (await stage.end(oldest, "SIGTERM")) !== 0)
      stage.object("a runner that was asked to stop did not exit with 0");
    await started;
    if (!stage.isShort) await sleep(3000 * stage.random());
  },
} satisfies Fault;
