import type { Fault } from "../harness/fault.ts";

export default {
  title: "kill -9 of the runner, a new one started",
  async strike(stage) {
    const [runner] = stage.runners;
    if (runner) await stage.end(runner, "SIGKILL");
    await stage.startRunner();
  },
} satisfies Fault;
